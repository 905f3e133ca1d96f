//! The one trait that adapters know: a request in, an answer out.

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;

use crate::WebhookReceiver;
use crate::error::BoxError;

/// A part of this crate that adapters mount.
pub(super) trait Mountable: Clone {
    /// Answers a request, and makes the framework's answer. The future owns all that it needs. An adapter boxes it, so
    /// it holds nothing twice.
    fn answered<B, T>(
        &self,
        request: Request<B>,
        answer: fn(Response<Full<Bytes>>) -> T,
    ) -> impl Future<Output = T> + use<Self, B, T>
    where
        B: Body,
        B::Error: Into<BoxError>;
}

impl Mountable for WebhookReceiver {
    fn answered<B, T>(
        &self,
        request: Request<B>,
        answer: fn(Response<Full<Bytes>>) -> T,
    ) -> impl Future<Output = T> + use<B, T>
    where
        B: Body,
        B::Error: Into<BoxError>,
    {
        self.received(request, answer)
    }
}

#[cfg(feature = "page")]
impl Mountable for crate::page::InboxPage {
    fn answered<B, T>(
        &self,
        request: Request<B>,
        answer: fn(Response<Full<Bytes>>) -> T,
    ) -> impl Future<Output = T> + use<B, T>
    where
        B: Body,
        B::Error: Into<BoxError>,
    {
        // The method of the page itself.
        Self::answered(self, request, answer)
    }
}

/// Calls the macro of an adapter with everything that it mounts.
#[cfg(any(feature = "actix-web", feature = "axum", feature = "hyper", feature = "tower"))]
macro_rules! for_each_mountable {
    ($mount:ident) => {
        $mount!(crate::WebhookReceiver);
        #[cfg(feature = "page")]
        $mount!(crate::page::InboxPage);
    };
}
#[cfg(any(feature = "actix-web", feature = "axum", feature = "hyper", feature = "tower"))]
pub(super) use for_each_mountable;
