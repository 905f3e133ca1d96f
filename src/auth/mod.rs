//! Authentication: which requests may deliver webhooks.

mod authenticator;
mod token;
mod url;

#[cfg(test)]
mod tests;

pub use self::authenticator::{Access, Authenticator};
pub use self::token::{SharedToken, TokenError};
#[cfg(feature = "client")]
pub(crate) use self::url::is_loopback;
pub use self::url::{WebhookUrl, WebhookUrlError};
