//! Prunes finished rows from time to time.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use crate::error::chain;
use crate::execution::backoff::jittered;
use crate::execution::drain::Drain;
use crate::execution::isolation::call;
use crate::inbox::{InboxStore, Pruned, Retention};
use crate::telemetry;

/// The pause between two rounds, and the time limit of one call.
const PRUNE_EVERY: Duration = Duration::from_secs(60);

/// Prunes until the shutdown. A round repeats the call until nothing is left to prune.
pub(super) async fn prune(inbox: Arc<dyn InboxStore>, retention: Retention, drain: Arc<Drain>) {
    loop {
        tokio::select! {
            biased;
            () = drain.closed() => return,
            () = sleep(jittered(PRUNE_EVERY)) => {}
        }
        loop {
            let pruned = call(|| Instant::now() + PRUNE_EVERY, || inbox.prune(&retention)).await;
            if let Ok(pruned) = &pruned {
                telemetry::pruned(pruned);
            }
            match pruned {
                Ok(pruned) if pruned.total() == 0 => break,
                Ok(_) if drain.is_closed() => return,
                Ok(Pruned { payloads, rows, dead }) => info!(payloads, rows, dead, "pruned finished events"),
                Err(error) => {
                    telemetry::store_error(telemetry::call::PRUNE);
                    warn!(error = %chain(&error), retry_in = ?PRUNE_EVERY, "finished events were not pruned; retrying");
                    break;
                }
            }
        }
    }
}
