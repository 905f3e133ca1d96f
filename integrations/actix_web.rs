//! The receiver and the inbox page as actix-web handlers: `web::to(receiver.clone())`.
//!
//! actix-web 4 uses version 0.2 of the `http` crate, so methods, headers and targets are converted as bytes.

use std::future::ready;
use std::pin::Pin;

use ::actix_web::http::header::EXPECT;
use ::actix_web::http::{StatusCode, Uri, Version};
use ::actix_web::web::Payload;
use ::actix_web::{Handler, HttpRequest, HttpResponse};
use bytes::Bytes;
use http::header::{CONNECTION, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response};
use http_body_util::Full;

use super::body::{StreamBody, bytes};
use super::mountable::{Mountable, for_each_mountable};

macro_rules! mount {
    ($mounted:ty) => {
        impl Handler<(HttpRequest, Payload)> for $mounted {
            type Output = HttpResponse;
            /// Not `Send`, because the payload is not.
            type Future = Pin<Box<dyn Future<Output = HttpResponse>>>;

            fn call(&self, (request, payload): (HttpRequest, Payload)) -> Self::Future {
                let Some(request) = translated(&request, payload) else {
                    // As hyper answers requests with more headers than it takes.
                    return Box::pin(ready(HttpResponse::RequestHeaderFieldsTooLarge().finish()));
                };
                let reply = self.answered(request, |reply| reply);
                Box::pin(async move { response(reply.await).await })
            }
        }
    };
}

for_each_mountable!(mount);

/// Translates a request; `None` if it has more headers than a [`HeaderMap`] holds, as actix-web allows over HTTP/2.
fn translated(request: &HttpRequest, payload: Payload) -> Option<Request<StreamBody<Payload>>> {
    let mut headers = HeaderMap::try_with_capacity(request.headers().len()).ok()?;
    // Over other versions, actix-web leaves the header to the handler.
    let has_told_to_continue = request.version() == Version::HTTP_11;
    for (name, value) in request.headers() {
        if has_told_to_continue && name == EXPECT {
            // The body is on its way.
            continue;
        }
        let name = HeaderName::from_bytes(name.as_str().as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value.as_bytes())) {
            // Appended, because repeated headers must stay repeated.
            headers.try_append(name, value).ok()?;
        }
    }
    let body = StreamBody::new(&headers, payload);
    let mut translated = Request::new(body);
    *translated.headers_mut() = headers;
    *translated.uri_mut() = target(request.uri());
    // An unreadable method is certainly not POST, so any other method leads to the same answer.
    *translated.method_mut() =
        Method::from_bytes(request.method().as_str().as_bytes()).unwrap_or(Method::GET);
    Some(translated)
}

fn target(uri: &Uri) -> http::Uri {
    let target = match uri.path_and_query() {
        Some(path) if uri.authority().is_none() => path.as_str().parse(),
        _ => uri.to_string().parse(),
    };
    // Cannot fail: the target is valid.
    target.unwrap_or_default()
}

async fn response(reply: Response<Full<Bytes>>) -> HttpResponse {
    let (head, body) = reply.into_parts();
    let status = StatusCode::from_u16(head.status.as_u16()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = HttpResponse::build(status);
    for (name, value) in &head.headers {
        response.append_header((name.as_str(), value.as_bytes()));
    }
    if head.headers.contains_key(CONNECTION) {
        // actix-web writes this header itself.
        response.force_close();
    }
    response.body(bytes(body).await)
}
