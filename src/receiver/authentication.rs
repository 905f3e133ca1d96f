//! The receiver's setting for authentication.

use std::fmt;

use http::request::Parts;
use tokio::time::Instant;

use crate::auth::{Access, Authenticator, SharedToken};
use crate::execution::isolation::{CallError, call};

/// The rule that decides which requests may deliver webhooks.
pub(super) enum Authentication {
    Token(SharedToken),
    Custom(Box<dyn Authenticator>),
    Anyone,
}

impl Authentication {
    pub(super) async fn check(&self, request: &Parts, deadline: Instant) -> Result<Access, CallError> {
        match self {
            Self::Anyone => Ok(Access::Granted),
            Self::Token(token) => Ok(token.check(request)),
            Self::Custom(authenticator) => call(|| deadline, || authenticator.authenticate(request)).await,
        }
    }
}

impl fmt::Debug for Authentication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Token(_) => "token",
            Self::Custom(_) => "authenticator",
            Self::Anyone => "unauthenticated",
        })
    }
}
