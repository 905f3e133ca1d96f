//! The receiver and the inbox page as tower services.

use std::convert::Infallible;
use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{Request, Response, StatusCode};
use http_body::Body;
use http_body_util::Full;
use tower_service::Service;

use super::mountable::{Mountable, for_each_mountable};

macro_rules! mount {
    ($mounted:ty) => {
        impl<B> Service<Request<B>> for $mounted
        where
            B: Body + Send + 'static,
            B::Error: Into<Box<dyn Error + Send + Sync>>,
        {
            type Response = Response<Full<Bytes>>;
            type Error = Infallible;
            type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

            /// Always ready: requests beyond a limit are answered 503.
            fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
                Poll::Ready(Ok(()))
            }

            fn call(&mut self, request: Request<B>) -> Self::Future {
                Box::pin(self.answered(request, |reply| Ok(with_length(reply))))
            }
        }
    };
}

for_each_mountable!(mount);

/// Adds the length of the body to a reply. A framework may wrap the body in one that does not know its length, as poem and
/// salvo do, and would send it in chunks. The length in a 304 would be that of the content, which is not sent.
fn with_length(mut reply: Response<Full<Bytes>>) -> Response<Full<Bytes>> {
    let has_content = reply.status() != StatusCode::NOT_MODIFIED;
    if let Some(length) = reply.body().size_hint().exact().filter(|_| has_content) {
        reply.headers_mut().insert(CONTENT_LENGTH, length.into());
    }
    reply
}
