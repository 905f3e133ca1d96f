//! Whether a webhook is about a job that was started here.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tracing::error;

use super::Reply;
use crate::error::chain;
use crate::event::JobId;
use crate::execution::isolation::call;
use crate::registry::JobRegistry;

/// How long an unknown job is looked for again: its webhook can be faster than its registration.
const GRACE: Duration = Duration::from_secs(2);
/// The pause between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// How long one look may take.
const CALL_TIME: Duration = Duration::from_secs(1);

pub(super) async fn check(registry: &dyn JobRegistry, job: &JobId, deadline: Instant) -> Result<(), Reply> {
    let give_up = Instant::now() + GRACE;
    loop {
        let now = Instant::now();
        match call(|| deadline.min(now + CALL_TIME), registry.is_known(job)).await {
            Ok(true) => return Ok(()),
            Ok(false) if Instant::now() >= give_up => return Err(Reply::UnknownJob),
            Ok(false) if Instant::now() >= deadline => return Err(Reply::Unavailable),
            Ok(false) => sleep_until(deadline.min(give_up).min(Instant::now() + LOOK_AGAIN)).await,
            Err(error) => {
                error!(error = %chain(&error), "it cannot be found out whether the job is known");
                return Err(Reply::Unavailable);
            }
        }
    }
}
