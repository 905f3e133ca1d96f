//! The expected jobs of an inbox.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, sleep};
use tracing::{debug, error, info, warn};

use super::{Backlog, LEASE};
use crate::ask::Verdict;
use crate::guard::{call, chain};
use crate::inbox::{InboxStore, Overdue};
use crate::store::Fenced;

/// How often it is tried to record what came of a job, and how long one try may take. When all fail, the job is
/// overdue again when its lease ends.
const TRIES: u32 = 3;
const TRY_TIME: Duration = Duration::from_secs(10);
/// The pause between two tries.
const TRY_AGAIN: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct InboxBacklog(pub(super) Arc<dyn InboxStore>);

#[async_trait]
impl Backlog for InboxBacklog {
    async fn overdue(&self, most: usize) -> Result<Vec<Overdue>, Box<dyn Error + Send + Sync>> {
        Ok(self.0.overdue(most, LEASE).await?)
    }

    async fn record(&self, overdue: &Overdue, verdict: Verdict, _: Duration) {
        let lease = &overdue.lease;
        for tried in 1..=TRIES {
            let recorded = match &verdict {
                Verdict::Ended(event) => self.0.verify(lease, event),
                Verdict::Settle(outcome) => self.0.settle(lease, outcome),
            };
            match call(|| Instant::now() + TRY_TIME, recorded).await {
                Ok(Fenced::Applied) => {
                    return match &verdict {
                        Verdict::Ended(_) => {
                            info!("the job's webhook never came, but the job has ended: received");
                        }
                        Verdict::Settle(outcome) => debug!(?outcome, "recorded"),
                    };
                }
                Ok(Fenced::Stale) => return debug!("the job's webhook came while the job was asked for"),
                Err(error) => warn!(error = %chain(&error), "what became of the job was not recorded"),
            }
            if tried < TRIES {
                sleep(TRY_AGAIN).await;
            }
        }
        error!("what became of the job could not be recorded: it is asked for again");
    }
}
