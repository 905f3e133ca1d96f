//! The receiver and the inbox page as hyper services: `serve_connection(io, receiver.clone())`.

use std::convert::Infallible;
use std::error::Error;
use std::pin::Pin;

use ::hyper::service::Service;
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;

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

            fn call(&self, request: Request<B>) -> Self::Future {
                Box::pin(self.answered(request, Ok))
            }
        }
    };
}

for_each_mountable!(mount);
