//! The decision whether a request may deliver a webhook.

use std::sync::Arc;

use async_trait::async_trait;
use http::request::Parts;

use crate::error::BoxError;

/// Decides from a request's head whether the request may deliver a webhook.
///
/// Use [`SharedToken`](super::SharedToken) unless something in front of your server authenticates the
/// sender in another way, such as a client certificate or a proxy's signature.
#[async_trait]
pub trait Authenticator: Send + Sync + 'static {
    /// Decides from the method, the target and the headers. Called before any of the body is read.
    ///
    /// Only the method, the target's path and query, and the headers are the same in all adapters. The target's scheme and
    /// host, the version and the extensions depend on the framework: warp passes none of them, and actix-web neither version nor
    /// extensions. Over HTTP/2 the `Host` header is usually missing, because the host is part of the target.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no decision, for example because a service was not reached. The
    /// answer is then 503, and the sender delivers again. The answer is the same if this method panics
    /// or exceeds the ack deadline.
    async fn authenticate(&self, request: &Parts) -> Result<Access, BoxError>;
}

/// The decision of an [`Authenticator`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// The request may deliver a webhook.
    Granted,
    /// The request may not. It is answered 401, and its body is neither parsed nor kept.
    Denied,
}

#[async_trait]
impl<A: Authenticator + ?Sized> Authenticator for Arc<A> {
    async fn authenticate(&self, request: &Parts) -> Result<Access, BoxError> {
        (**self).authenticate(request).await
    }
}
