//! The access closure: who may see the page, and who may act.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use tokio::time::Instant;

use crate::error::BoxError;
use crate::execution::isolation::{CallError, call};

/// The answer of an [`InboxPage`](super::InboxPage)'s access closure.
///
/// A name is who acts: it stands on the page, and in the log line of each action.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PageAccess {
    /// The request is answered 403, whatever it is for, and learns nothing.
    Forbidden,
    /// The request may see rows and bodies. Every action is refused.
    ReadOnly {
        /// The reader.
        name: String,
    },
    /// The request may also replay, discard and fetch.
    Full {
        /// The actor.
        name: String,
    },
}

impl PageAccess {
    /// Makes [`ReadOnly`](Self::ReadOnly) with this name.
    pub fn read_only(name: impl Into<String>) -> Self {
        Self::ReadOnly { name: name.into() }
    }

    /// Makes [`Full`](Self::Full) with this name.
    pub fn full(name: impl Into<String>) -> Self {
        Self::Full { name: name.into() }
    }
}

/// The time limit of one call of the closure.
const TIME: Duration = Duration::from_secs(10);

type Answer = Pin<Box<dyn Future<Output = Result<PageAccess, BoxError>> + Send>>;

/// The closure.
#[derive(Clone)]
pub(super) struct AccessCheck(Arc<dyn Fn(Parts) -> Answer + Send + Sync>);

impl AccessCheck {
    pub(super) fn new<F, Fut>(closure: F) -> Self
    where
        F: Fn(Parts) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = PageAccess> + Send + 'static,
    {
        Self(Arc::new(move |head| {
            let answer = closure(head);
            Box::pin(async { Ok(answer.await) })
        }))
    }

    /// Asks the closure. A panic, or no answer in time, is an error.
    pub(super) async fn of(&self, head: &Parts) -> Result<PageAccess, CallError> {
        call(|| Instant::now() + TIME, || (self.0)(head.clone())).await
    }
}

impl fmt::Debug for AccessCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("_")
    }
}
