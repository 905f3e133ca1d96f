//! Durable mode: an acknowledgement means that the event is committed.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{error, warn};

use super::delivery::Delivery;
use super::reply::WebhookReply;
use crate::error::chain;
use crate::event::Envelope;
use crate::execution::isolation::call;
use crate::inbox::{InboxStore, Receipt};
use crate::telemetry;

/// The longest time for a commit, which may continue after the ack deadline.
const COMMIT_TIME: Duration = Duration::from_secs(30);

/// Stores events in an inbox.
pub(super) struct Durable {
    pub(super) inbox: Box<dyn InboxStore>,
}

impl Durable {
    pub(super) async fn store(&self, event: &Envelope, delivery: &Delivery) -> WebhookReply {
        delivery.reply_at_deadline(WebhookReply::Unavailable);
        match call(|| Instant::now() + COMMIT_TIME, || self.inbox.receive(event)).await {
            Ok(Receipt::Stored) => WebhookReply::Stored,
            Ok(Receipt::Duplicate) => WebhookReply::Duplicate,
            Ok(Receipt::Conflict) => {
                warn!("another event of this job is stored, with other bytes; keeping the stored one");
                WebhookReply::Conflict
            }
            Err(error) => {
                telemetry::store_error(telemetry::call::RECEIVE);
                error!(error = %chain(&error), "the event was not stored; answering 503");
                WebhookReply::Unavailable
            }
        }
    }
}

impl fmt::Debug for Durable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Durable").field("inbox", &self.inbox).finish()
    }
}
