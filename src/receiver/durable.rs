//! Durable mode: the answer says that the event is committed.

use std::fmt;
use std::pin::pin;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{error, warn};

use super::Reply;
use super::detach::Answer;
use crate::error::chain;
use crate::event::Envelope;
use crate::execution::isolation::call;
use crate::inbox::{InboxStore, Receipt};

/// How long a commit may go on after its answer was due.
const COMMIT_TIME: Duration = Duration::from_secs(30);

/// Stores the event.
pub(super) struct Durable {
    pub(super) inbox: Box<dyn InboxStore>,
}

impl Durable {
    pub(super) async fn store(&self, event: &Envelope, answer: &Answer) -> Reply {
        let stored = pin!(call(|| Instant::now() + COMMIT_TIME, self.inbox.receive(event)));
        match answer.or_at_deadline(Reply::Unavailable, stored).await {
            Ok(Receipt::Stored) => Reply::Stored,
            Ok(Receipt::Duplicate) => Reply::Duplicate,
            Ok(Receipt::Conflict) => {
                warn!("another event of this job is stored, with other bytes, and is kept");
                Reply::Conflict
            }
            Err(error) => {
                error!(error = %chain(&error), "the event cannot be stored");
                Reply::Unavailable
            }
        }
    }
}

impl fmt::Debug for Durable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Durable").field("inbox", &self.inbox).finish()
    }
}
