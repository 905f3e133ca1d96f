//! Filters for warp 0.4: [`webhook`], and `page` for the inbox page.

use std::convert::Infallible;
use std::pin::Pin;

use ::warp::Filter;
use ::warp::filters::path::FullPath;
use ::warp::reject::Rejection;
use ::warp::reply::{Reply, Response};
use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body::Body;
use http_body_util::Full;

use super::body::{StreamBody, bytes};
use super::mountable::Mountable;
use crate::WebhookReceiver;

/// Makes a filter that answers every request, for the end of a path.
///
/// Requests of all methods get a reply. The filter never rejects a request, because another filter could
/// turn a rejection into a 404.
///
/// # Examples
///
/// ```
/// use warp::Filter;
/// # fn routes(receiver: qomplement_webhooks::WebhookReceiver) -> impl Filter<Extract = impl warp::Reply> + Clone {
/// warp::path!("api" / "webhooks" / "qomplement").and(qomplement_webhooks::warp::webhook(receiver))
/// # }
/// ```
pub fn webhook(
    receiver: WebhookReceiver,
) -> impl Filter<Extract = (impl Reply + use<>,), Error = Rejection> + Clone {
    requests().then(move |request| response(receiver.answered(request, |reply| reply)))
}

/// Makes a filter that answers every request with the inbox page, for the end of a path.
///
/// # Examples
///
/// ```
/// use warp::Filter;
/// # fn routes(page: qomplement_webhooks::page::InboxPage) -> impl Filter<Extract = impl warp::Reply> + Clone {
/// warp::path!("admin" / "inbox").and(qomplement_webhooks::warp::page(page))
/// # }
/// ```
#[cfg(feature = "page")]
pub fn page(
    page: crate::page::InboxPage,
) -> impl Filter<Extract = (impl Reply + use<>,), Error = Rejection> + Clone {
    requests().then(move |request| response(page.answered(request, |reply| reply)))
}

/// Extracts every request, whatever its method.
fn requests()
-> impl Filter<Extract = (Request<impl Body<Error = ::warp::Error> + Send>,), Error = Rejection> + Clone {
    // `raw` rejects a request without a query.
    let query = ::warp::query::raw().or_else(async |_| Ok::<_, Infallible>((String::new(),)));
    ::warp::any()
        .and(::warp::method())
        .and(::warp::path::full())
        .and(query)
        .and(::warp::header::headers_cloned())
        .and(::warp::body::stream())
        .map(translated)
}

fn translated<S>(
    method: Method,
    path: FullPath,
    query: String,
    headers: HeaderMap,
    body: S,
) -> Request<StreamBody<Pin<Box<S>>>> {
    let target =
        if query.is_empty() { path.as_str().to_owned() } else { format!("{}?{query}", path.as_str()) };
    let body = StreamBody::new(&headers, Box::pin(body));
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.headers_mut() = headers;
    // Cannot fail: the parts come from a valid target.
    *request.uri_mut() = target.try_into().unwrap_or_default();
    request
}

async fn response(reply: impl Future<Output = http::Response<Full<Bytes>>>) -> Response {
    let (head, body) = reply.await.into_parts();
    http::Response::from_parts(head, bytes(body).await).into_response()
}
