//! Samples the gauges of a worker and of its inbox.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::warn;

use super::leasing::Leasing;
use crate::error::chain;
use crate::execution::drain::Drain;
use crate::execution::isolation::call;
use crate::inbox::InboxStore;
use crate::telemetry;

/// The pause between two samples.
const EVERY: Duration = Duration::from_secs(15);
/// The pause is this many times the duration of a sample at least, so that sampling costs a twentieth at most.
const SHARE: u32 = 20;
/// The longest time of one sample.
const CALL_TIME: Duration = Duration::from_secs(10);

/// Samples until the shutdown.
pub(super) async fn sample(leasing: Arc<Leasing>, drain: Arc<Drain>) {
    let mut has_stats = false;
    let samples = async {
        loop {
            let began = Instant::now();
            let (slots, free) = leasing.room();
            if telemetry::sampled_worker(slots, free, leasing.running()) {
                telemetry::describe();
                has_stats |= sample_inbox(leasing.inbox()).await;
            }
            sleep(EVERY.max(began.elapsed().saturating_mul(SHARE))).await;
        }
    };
    tokio::select! {
        () = samples => {}
        () = drain.closed() => {}
    }
    telemetry::sampled_worker(0, 0, 0);
    if has_stats {
        telemetry::sampled_inbox(None);
    }
}

/// Samples the inbox, and returns whether it told its state. After a failure, the gauges keep the last sample.
async fn sample_inbox(inbox: &dyn InboxStore) -> bool {
    let stats = || async {
        match inbox.admin() {
            Some(admin) => admin.stats().await.map(Some),
            None => Ok(None),
        }
    };
    match call(|| Instant::now() + CALL_TIME, stats).await {
        Ok(stats) => {
            if stats.is_some() {
                telemetry::sampled_inbox(stats);
            }
            stats.is_some()
        }
        Err(error) => {
            telemetry::store_error(telemetry::call::STATS);
            warn!(error = %chain(&error), retry_in = ?EVERY, "the inbox's gauges were not sampled; retrying");
            false
        }
    }
}
