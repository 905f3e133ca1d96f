//! The check that a webhook is about a known job.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tracing::error;

use super::reply::WebhookReply;
use crate::error::chain;
use crate::event::JobId;
use crate::execution::isolation::call;
use crate::registry::JobRegistry;

/// The time for which an unknown job is looked up again: its webhook can be faster than its registration.
const GRACE: Duration = Duration::from_secs(2);
/// The pause between two lookups.
const LOOKUP_INTERVAL: Duration = Duration::from_millis(200);
/// The longest time for one lookup.
const CALL_TIME: Duration = Duration::from_secs(1);

/// Looks the job up until the registry knows it, the grace period ends, or the ack deadline passes.
pub(super) async fn check(
    registry: &dyn JobRegistry,
    job: &JobId,
    deadline: Instant,
) -> Result<(), WebhookReply> {
    let give_up = Instant::now() + GRACE;
    loop {
        let now = Instant::now();
        match call(|| deadline.min(now + CALL_TIME), || registry.is_known(job)).await {
            Ok(true) => return Ok(()),
            Ok(false) if Instant::now() >= give_up => return Err(WebhookReply::UnknownJob),
            Ok(false) if Instant::now() >= deadline => return Err(WebhookReply::Unavailable),
            Ok(false) => sleep_until(deadline.min(give_up).min(Instant::now() + LOOKUP_INTERVAL)).await,
            Err(error) => {
                error!(error = %chain(&error), "the job registry failed; answering 503");
                return Err(WebhookReply::Unavailable);
            }
        }
    }
}
