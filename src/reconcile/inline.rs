//! The expected jobs of a receiver without an inbox.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;
use tracing::{error, info};

use super::{Backlog, LEASE};
use crate::ask::Verdict;
use crate::event::JobId;
use crate::guard::{call, chain};
use crate::inbox::{Asked, Lease, Outcome, Overdue};
use crate::jobs::{ExpectedJobs, JobEnd, OverdueJob};
use crate::receiver::{Standing, WebhookReceiver};

/// How long the registry may take to note something.
const CALL_TIME: Duration = Duration::from_secs(10);
/// When an event is handed to the receiver again that was not handled.
const HANDLE_AGAIN: Duration = Duration::from_secs(60);

pub(super) struct InlineBacklog {
    jobs: Box<dyn ExpectedJobs>,
    receiver: WebhookReceiver,
}

impl InlineBacklog {
    pub(super) fn new(jobs: impl ExpectedJobs, receiver: WebhookReceiver) -> Self {
        Self { jobs: Box::new(jobs), receiver }
    }

    /// Whether the event of an overdue job was lost, so that the API must be asked.
    async fn is_lost(&self, overdue: &OverdueJob) -> bool {
        match self.receiver.standing(&overdue.job).await {
            Some(Standing::Free) => return true,
            Some(Standing::Handled) => self.end(&overdue.job, JobEnd::Handled).await,
            Some(Standing::Running) | None => {
                let asked = Asked { again_in: HANDLE_AGAIN, ..overdue.asked };
                self.ask_again(&overdue.job, asked).await;
            }
        }
        false
    }

    async fn end(&self, job: &JobId, end: JobEnd) {
        self.note(self.jobs.end(job, &end)).await;
    }

    async fn ask_again(&self, job: &JobId, asked: Asked) {
        self.note(self.jobs.ask_again(job, &asked)).await;
    }

    async fn note(&self, noted: impl Future<Output = Result<(), Box<dyn Error + Send + Sync>>> + Unpin) {
        if let Err(error) = call(|| Instant::now() + CALL_TIME, noted).await {
            error!(error = %chain(&error), "what became of the job was not noted: it is overdue again in a while");
        }
    }
}

#[async_trait]
impl Backlog for InlineBacklog {
    async fn overdue(&self, most: usize) -> Result<Vec<Overdue>, Box<dyn Error + Send + Sync>> {
        loop {
            let overdue = self.jobs.overdue(most, LEASE).await?;
            if overdue.is_empty() {
                return Ok(Vec::new());
            }
            let mut lost = Vec::new();
            for overdue in overdue {
                if self.is_lost(&overdue).await {
                    let OverdueJob { job, late, asked } = overdue;
                    // Nobody fences with the number: the claim in the dedup store does that.
                    lost.push(Overdue { lease: Lease::new(job, 0), late, asked });
                }
            }
            if !lost.is_empty() {
                return Ok(lost);
            }
        }
    }

    async fn record(&self, overdue: &Overdue, verdict: Verdict, horizon: Duration) {
        let (job, asked) = (overdue.lease.job(), overdue.asked);
        match verdict {
            Verdict::Ended(event) => {
                if self.receiver.deliver(event.body().clone()).await {
                    info!("the job's webhook never came, but the job has ended: handled");
                    self.end(job, JobEnd::Handled).await;
                } else if overdue.late < horizon {
                    self.ask_again(job, Asked { again_in: HANDLE_AGAIN, ..asked }).await;
                } else {
                    error!("the event of the job could not be handled for too long: the job is given up");
                    let error = "the job has ended, and its event could not be handled".to_owned();
                    self.end(job, JobEnd::GivenUp { error }).await;
                }
            }
            Verdict::Settle(Outcome::AskAgain { after, answer }) => {
                self.ask_again(job, asked.and(&answer, after)).await;
            }
            Verdict::Settle(Outcome::Dead { error } | Outcome::Disowned { error }) => {
                self.end(job, JobEnd::GivenUp { error }).await;
            }
            Verdict::Settle(Outcome::GiveBack { .. } | Outcome::Done | Outcome::Retry { .. }) => {
                self.ask_again(job, Asked { again_in: Duration::ZERO, ..asked }).await;
            }
        }
    }
}

impl fmt::Debug for InlineBacklog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InlineBacklog").field("receiver", &self.receiver).finish_non_exhaustive()
    }
}
