//! Which requests may deliver webhooks.

mod token;
mod url;

use std::sync::Arc;

use async_trait::async_trait;
use http::request::Parts;

pub use self::token::{SharedToken, TokenError};
pub(crate) use self::url::is_loopback;
pub use self::url::{WebhookUrl, WebhookUrlError};
use crate::error::BoxError;

/// Decides whether a request may deliver a webhook, before anything but its head is read.
///
/// Use [`SharedToken`] unless something in front of your server authenticates the sender in another
/// way, such as a client certificate or a proxy's signature.
#[async_trait]
pub trait Authenticator: Send + Sync + 'static {
    /// Decides from the method, the target and the headers.
    ///
    /// # Errors
    ///
    /// When it could not be decided, because something that it takes was not reached. The answer is
    /// 503, as it is when this hangs or panics, and the sender tries again.
    async fn authenticate(&self, request: &Parts) -> Result<Access, BoxError>;
}

/// What an [`Authenticator`] decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// The request may deliver a webhook.
    Granted,
    /// The answer is 401, and nothing further is looked at or kept.
    Denied,
}

#[async_trait]
impl<A: Authenticator + ?Sized> Authenticator for Arc<A> {
    async fn authenticate(&self, request: &Parts) -> Result<Access, BoxError> {
        (**self).authenticate(request).await
    }
}

#[cfg(test)]
mod tests;
