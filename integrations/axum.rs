//! The receiver as an axum handler: `any(receiver)`.

use std::pin::Pin;

use ::axum::body::Body;
use ::axum::extract::Request;
use ::axum::handler::Handler;
use ::axum::response::Response;

use crate::WebhookReceiver;

/// The type parameter that keeps this implementation apart from axum's own for functions.
#[derive(Debug)]
pub enum Receiver {}

impl<S> Handler<Receiver, S> for WebhookReceiver {
    type Future = Pin<Box<dyn Future<Output = Response> + Send>>;

    fn call(self, request: Request, _: S) -> Self::Future {
        Box::pin(self.received(request, |response| response.map(Body::new)))
    }
}
