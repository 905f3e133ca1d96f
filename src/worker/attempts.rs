//! One attempt: verifies a leased event, runs the handler, and settles the event.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tracing::{Span, debug, error, warn};

use super::InboxWorker;
use super::heartbeats::Heartbeats;
use super::leasing::Slot;
use super::verify::{Verified, Verifier};
use crate::error::chain;
use crate::event::Event;
use crate::execution::drain::Drain;
use crate::execution::isolation::{CallError, until};
use crate::execution::lease::{HeldLease, Leases};
use crate::execution::retry::{Retry, Written};
use crate::execution::run::{RunEnd, Runs};
use crate::fetch::fetcher::Fetcher;
use crate::handler::dispatch;
use crate::inbox::{Lease, Leased, Outcome};
use crate::telemetry::{self, call, settled};

/// The pause before the first retry of a write.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// Makes the attempts of a worker.
pub(super) struct Attempts {
    settings: Arc<InboxWorker>,
    leases: Arc<Leases<Heartbeats>>,
    /// `None` under `Verification::Trust`.
    verifier: Option<Verifier>,
    runs: Runs,
    retry: Retry,
    drain: Arc<Drain>,
}

impl Attempts {
    pub(super) fn new(settings: Arc<InboxWorker>, fetcher: Option<Arc<Fetcher>>, drain: Arc<Drain>) -> Self {
        let (inbox, lease) = (settings.inbox.clone(), settings.lease);
        let retry = Retry::under(lease, lease / 3, FIRST_PAUSE);
        Self {
            leases: Heartbeats::leases(inbox.clone(), lease),
            verifier: fetcher.map(|fetcher| Verifier { fetcher, inbox, retry, drain: drain.clone() }),
            runs: Runs::new(drain.clone(), settings.max_handler_time),
            retry,
            drain,
            settings,
        }
    }

    /// Handles an event whose lease began at `since`, and settles the event. Each part of the slot is dropped as soon as
    /// the next event may have it.
    pub(super) async fn run(&self, mut leased: Leased, since: Instant, slot: Slot) {
        let Slot { handling, unsettled, verifying } = slot;
        let mut held = self.leases.hold((leased.lease.clone(), Span::current()), since);
        let outcome = self.handle(&mut leased, since, &held, verifying).await;
        drop(handling);
        let lease_ends = held.stop().await;
        let Leased { lease, expected_again, earlier_attempts, age, .. } = leased;
        if let Some(outcome) = outcome {
            telemetry::attempt(label(&outcome));
            let is_settled = self.settle(&lease, &outcome, lease_ends).await;
            if is_settled && earlier_attempts == 0 && matches!(outcome, Outcome::Done) {
                telemetry::handled(age, since);
            }
            if is_settled && !(expected_again && matches!(outcome, Outcome::Dead { .. })) {
                self.settings.on_dead_letter.tell(lease.job(), &outcome, &self.drain).await;
            }
        }
        drop(unsettled);
    }

    /// The number of handlers that run.
    #[cfg(feature = "metrics")]
    pub(super) fn running(&self) -> usize {
        self.runs.running()
    }

    /// Handles an event, and returns its outcome; `None` when the lease was lost.
    async fn handle(
        &self,
        leased: &mut Leased,
        since: Instant,
        held: &HeldLease<Heartbeats>,
        verifying: Option<OwnedSemaphorePermit>,
    ) -> Option<Outcome> {
        if self.runs.is_running(leased.lease.job()) {
            return Some(self.still_running());
        }
        if leased.expired {
            return Some(self.after_expiry(leased));
        }
        // After the judgement of an expired attempt: only this lease knows of it.
        if self.drain.is_closed() {
            return Some(Outcome::Release { after: Duration::ZERO });
        }
        if let Some(verifier) = &self.verifier
            && !leased.verified
        {
            match verifier.verify(leased, held).await {
                // A fetched event has a final status.
                Verified::Event(event) => {
                    (leased.body, leased.expected_again) = (event.body().clone(), false);
                }
                Verified::Settle(outcome) => return Some(outcome),
                Verified::LeaseLost => return None,
            }
        }
        drop(verifying);
        let body = std::mem::take(&mut leased.body);
        let (lease, attempt) = (&leased.lease, leased.attempt);
        let attempts = attempt.saturating_add(leased.earlier_attempts);
        let Event { mut job, content } = match Event::try_from(body) {
            Ok(event) => event.leased(attempts, lease.fence()),
            Err(error) => {
                error!(error = %chain(&error), "this version cannot read the event; it is a dead letter now");
                return Some(Outcome::Dead { error: chain(&error) });
            }
        };
        job.traceparent = leased.traceparent.take();
        Span::current().record(telemetry::EVENT, content.name());

        // A shutdown may have begun during the verification.
        if self.drain.is_closed() {
            return Some(Outcome::Release { after: Duration::ZERO });
        }
        if attempt >= self.settings.max_attempts
            && let Err(outcome) = self.begin(lease, held).await
        {
            return outcome;
        }
        if attempts == 1 {
            telemetry::waited(leased.age, since);
        }
        let call = || dispatch(&*self.settings.handler, &job, content);
        let end = self.runs.run(lease.job(), held, call).await;
        self.outcome(end, attempt)
    }

    /// The outcome of an event whose earlier lease expired.
    fn after_expiry(&self, leased: &Leased) -> Outcome {
        let InboxWorker { max_attempts, backoff, .. } = *self.settings;
        let last = leased.attempt.saturating_sub(1);
        // Only a last attempt is begun in the store. An event dies after a begun attempt, not because leases were lost on
        // the way to their workers, and not because the limit was lowered.
        if leased.begun && leased.attempt > max_attempts {
            error!("the last attempt's lease expired while its handler ran; the event is a dead letter now");
            let error = if last == max_attempts {
                format!("attempt {last} of {max_attempts} did not end")
            } else {
                // After lost leases, or under a lowered limit.
                format!("attempt {last} did not end, and the limit is {max_attempts}")
            };
            return Outcome::Dead { error };
        }
        let after = backoff.after(last);
        warn!(retry_in = ?after, "the earlier attempt did not end, as when its process dies; retrying later");
        Outcome::Release { after }
    }

    /// The outcome of a run of the handler; `None` when the lease was lost.
    fn outcome(&self, end: RunEnd, attempt: u32) -> Option<Outcome> {
        let InboxWorker { max_attempts, backoff, max_handler_time, .. } = *self.settings;
        let (failure, delay) = match end {
            RunEnd::Returned(Ok(())) => return Some(Outcome::Done),
            RunEnd::Returned(Err(failure)) if failure.is_permanent() => {
                let error = chain(failure.source());
                error!(%error, "the handler failed permanently; the event is a dead letter now");
                return Some(Outcome::Dead { error });
            }
            RunEnd::LeaseLost => return None,
            RunEnd::StillRunning => return Some(self.still_running()),
            RunEnd::Aborted => {
                warn!(
                    "the handler was dropped, or not called: the grace of the shutdown ended; releasing the event"
                );
                return Some(Outcome::Release { after: Duration::ZERO });
            }
            RunEnd::Returned(Err(failure)) => (chain(failure.source()), failure.retry_delay()),
            RunEnd::Panicked(panicked) => (panicked.to_string(), None),
            RunEnd::TimedOut => (format!("did not end within {max_handler_time:?}"), None),
        };
        if attempt >= max_attempts {
            error!(error = %failure, attempt, "the handler failed in its last attempt; the event is a dead letter now");
            return Some(Outcome::Dead { error: failure });
        }
        let after = delay.unwrap_or_else(|| backoff.after(attempt));
        warn!(error = %failure, attempt, retry_in = ?after, "the handler failed; retrying later");
        Some(Outcome::Retry { after, error: failure })
    }

    /// Releases an event whose handler still runs here, under a lease that expired by the store's clock. After another
    /// lease's time, that handler has ended, or its lease has expired by the clock here.
    fn still_running(&self) -> Outcome {
        let after = self.settings.lease;
        error!(
            retry_in = ?after,
            "the event was leased again while its handler runs here; the handler is not called a second time"
        );
        Outcome::Release { after }
    }

    /// Records that the handler begins, with retries while the lease is held. An error is the outcome instead of a run.
    async fn begin(&self, lease: &Lease, held: &HeldLease<Heartbeats>) -> Result<(), Option<Outcome>> {
        let failed = |error: CallError, pause: Duration| {
            telemetry::store_error(call::BEGIN);
            let error = chain(&error);
            warn!(%error, retry_in = ?pause, "the beginning of the last attempt was not recorded; retrying");
        };
        let begun = pin!(self.retry.write(None, || self.settings.inbox.begin(lease), failed));
        let ended = || async {
            tokio::select! {
                biased;
                () = held.lost() => None,
                () = self.drain.aborted() => Some(Outcome::Release { after: Duration::ZERO }),
            }
        };
        match until(begun, ended).await {
            Ok(Written::Applied) => Ok(()),
            Ok(Written::Stale | Written::LeaseEnds(_)) => {
                error!(
                    "the event was leased again, or replaced, before its handler was called; leaving it alone"
                );
                Err(None)
            }
            Err(outcome) => Err(outcome),
        }
    }

    /// Records an outcome, with retries until the lease ends. Returns whether the store has confirmed it.
    async fn settle(&self, lease: &Lease, outcome: &Outcome, lease_ends: Instant) -> bool {
        let failed = |error: CallError, pause: Duration| {
            telemetry::store_error(call::SETTLE);
            warn!(error = %chain(&error), retry_in = ?pause, "the outcome was not recorded; retrying");
        };
        let settle = || self.settings.inbox.settle(lease, outcome);
        let written = self.retry.write(Some(lease_ends), settle, failed).await;
        match &written {
            Written::Applied => debug!(?outcome, "outcome recorded"),
            Written::Stale => {
                warn!(
                    "the event was leased again, or replaced, before its outcome was recorded; leaving it alone"
                );
            }
            Written::LeaseEnds(error) => {
                telemetry::store_error(call::SETTLE);
                error!(
                    error = %chain(error),
                    "the outcome was not recorded before the lease ends; the event will be handled again"
                );
            }
        }
        matches!(written, Written::Applied)
    }
}

/// The label of an outcome in metrics.
fn label(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Done => settled::DONE,
        Outcome::Retry { .. } => settled::RETRY,
        Outcome::Dead { .. } => settled::DEAD,
        Outcome::Release { .. } => settled::RELEASED,
        Outcome::FetchAgain { .. } => settled::FETCH_AGAIN,
        Outcome::Rejected { .. } => settled::REJECTED,
    }
}
