//! The receiver and the inbox page as axum handlers: `any(receiver)`.

use std::pin::Pin;

use ::axum::body::Body;
use ::axum::extract::Request;
use ::axum::handler::Handler;
use ::axum::response::Response;

use super::mountable::{Mountable, for_each_mountable};

/// The type parameter that keeps these implementations apart from axum's own for functions.
#[derive(Debug)]
pub enum Mounted {}

macro_rules! mount {
    ($mounted:ty) => {
        impl<S> Handler<Mounted, S> for $mounted {
            type Future = Pin<Box<dyn Future<Output = Response> + Send>>;

            fn call(self, request: Request, _: S) -> Self::Future {
                Box::pin(self.answered(request, |reply| reply.map(Body::new)))
            }
        }
    };
}

for_each_mountable!(mount);
