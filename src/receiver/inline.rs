//! Inline mode: an acknowledgement means that the handler finished.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::{Span, debug, error, warn};

use super::claims::{ClaimHandle, Claims};
use super::delivery::Delivery;
use super::reply::WebhookReply;
use crate::dedup::Claim;
use crate::error::chain;
use crate::event::{Event, JobId};
use crate::execution::drain::Drain;
use crate::execution::isolation::{CallError, call};
use crate::execution::lease::{Leases, Renew, Times};
use crate::execution::retry::{Retry, Written};
use crate::execution::run::{RunEnd, Runs};
use crate::handler::{WebhookHandler, dispatch};
use crate::store::{Fenced, StoreError};
use crate::telemetry;

/// The lease of a claim. Added to the ack deadline, it ends before the sender's third delivery, so that the
/// delivery can claim the job of a process that crashed during an earlier one.
pub(super) const LEASE: Duration = Duration::from_secs(5);
/// The longest time for a call of claim or renew. The rest of the lease suffices for another call.
const CALL_TIME: Duration = Duration::from_secs(2);
const TIMES: Times = Times {
    lease: LEASE,
    renew_every: Duration::from_millis(1500),
    call: CALL_TIME,
    tick: Duration::from_millis(500),
};
/// The pause before a duplicate claims again, while another delivery's handler runs.
const CLAIM_INTERVAL: Duration = Duration::from_millis(200);
/// The pause before a delivery that waits for a permit checks again whether its job is done.
const DONE_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// The longest time for one call that records an outcome.
const RECORD_TIME: Duration = Duration::from_secs(1);
/// The retries of recording a job as done.
const COMPLETE: Retry = Retry::under(LEASE, RECORD_TIME, Duration::from_millis(100));

/// Claims a job, runs the handler, and records the outcome.
pub(super) struct Inline {
    pub(super) handler: Box<dyn WebhookHandler>,
    pub(super) claims: Arc<Claims>,
    pub(super) leases: Arc<Leases<Renewals>>,
    /// One permit for each handler that may run.
    pub(super) handlers: Semaphore,
    pub(super) retention: Duration,
    pub(super) runs: Runs,
    pub(super) max_handler_time: Duration,
    pub(super) drain: Arc<Drain>,
}

/// Renews the claims of running handlers.
#[derive(Debug)]
pub(super) struct Renewals;

impl Renewals {
    pub(super) fn leases() -> Arc<Leases<Self>> {
        Leases::new(Self, TIMES)
    }
}

#[async_trait]
impl Renew for Renewals {
    type Token = Arc<Delivery>;

    async fn renew(&self, delivery: &Arc<Delivery>) -> Result<Fenced, StoreError> {
        match &delivery.claim {
            Some(claim) => claim.renew(LEASE).await,
            None => Ok(Fenced::Stale),
        }
    }

    fn span(delivery: &Arc<Delivery>) -> Span {
        delivery.span.clone()
    }
}

/// The permit to run a handler whose job is claimed.
struct Claimed<'a> {
    /// The beginning of the claim's call, at which the lease may begin.
    since: Instant,
    _permit: SemaphorePermit<'a>,
}

impl Inline {
    pub(super) async fn handle(&self, event: &mut Event, delivery: &Arc<Delivery>) -> WebhookReply {
        // Always there in inline mode.
        let Some(claim) = &delivery.claim else { return WebhookReply::Unavailable };
        let claimed = {
            let claimed = pin!(self.claim(claim, event.job.id(), delivery.deadline));
            self.drain.unless_aborted(claimed).await
        };
        match &claimed {
            Some(Ok(claimed)) => self.run(claimed.since, claim, event, delivery).await,
            Some(Err(reply)) => *reply,
            None => WebhookReply::Unavailable,
        }
    }

    /// Claims the job; while another delivery has the claim, claims again until the deadline.
    async fn claim(
        &self,
        claim: &ClaimHandle,
        job: &JobId,
        deadline: Instant,
    ) -> Result<Claimed<'_>, WebhookReply> {
        let mut in_progress = false;
        loop {
            // The permit comes before the claim, because a claim could end while it waits for a permit. The
            // permit is dropped before the pause, because waiting duplicates could hold all permits.
            let permit = match self.handlers.try_acquire() {
                Ok(permit) => permit,
                Err(_) => Box::pin(self.wait_for_permit(job, deadline)).await?,
            };
            let since = Instant::now();
            match self.call_claim(claim, since, deadline).await? {
                Some(Claim::Acquired) => return Ok(Claimed { since, _permit: permit }),
                Some(Claim::Done) => return Err(WebhookReply::Duplicate),
                Some(Claim::InProgress { .. }) => in_progress = true,
                None if in_progress => return Err(WebhookReply::InProgress),
                None => {
                    warn!(
                        had = ?deadline.saturating_duration_since(since),
                        "the ack deadline passed during the claim, which had less than its full time; answering 503"
                    );
                    return Err(WebhookReply::Unavailable);
                }
            }
            drop(permit);
            Box::pin(sleep_until(deadline.min(Instant::now() + CLAIM_INTERVAL))).await;
            if Instant::now() >= deadline {
                return Err(WebhookReply::InProgress);
            }
        }
    }

    /// Makes one claim, from `since` on, within its time; `None` if the deadline cut that time short and has passed.
    async fn call_claim(
        &self,
        claim: &ClaimHandle,
        since: Instant,
        deadline: Instant,
    ) -> Result<Option<Claim>, WebhookReply> {
        let call_ends = since + CALL_TIME;
        match call(|| deadline.min(call_ends), || claim.claim(LEASE)).await {
            Ok(claim) => Ok(Some(claim)),
            // Not known to be the store's failure: the call began too close to the deadline.
            Err(CallError::Late) if deadline < call_ends => Ok(None),
            Err(error) => {
                telemetry::store_error(telemetry::call::CLAIM);
                error!(error = %chain(&error), "the dedup store failed to claim the job; answering 503");
                Err(WebhookReply::Unavailable)
            }
        }
    }

    /// Waits until another handler may run. Checks repeatedly meanwhile, without keeping a claim, whether the job is done.
    ///
    /// A permit that comes during a check waits for the check's end: the delivery's own claim would meet that of the check.
    /// The checks cannot use the delivery's own claim, because a released token is not used again: the release of one of
    /// them could arrive late, and end the claim of the running handler.
    async fn wait_for_permit(
        &self,
        job: &JobId,
        deadline: Instant,
    ) -> Result<SemaphorePermit<'_>, WebhookReply> {
        let mut permit = pin!(self.handlers.acquire());
        let (mut in_progress, mut next_check) = (false, None);
        loop {
            let pause = async {
                if let Some(next_check) = next_check {
                    sleep_until(next_check).await;
                }
            };
            tokio::select! {
                biased;
                permit = &mut permit => return permit.map_err(|_| WebhookReply::Unavailable),
                () = pause => {}
            }
            if Instant::now() >= deadline {
                if in_progress {
                    return Err(WebhookReply::InProgress);
                }
                warn!("the running handlers have reached `max_handlers_in_flight`; answering 503");
                return Err(WebhookReply::Unavailable);
            }
            let check = self.claims.prepare(job);
            let interval = match self.call_claim(&check, Instant::now(), deadline).await? {
                Some(Claim::Acquired) => {
                    in_progress = false;
                    let _ = timeout_at(deadline, self.release(&check)).await;
                    DONE_CHECK_INTERVAL
                }
                Some(Claim::Done) => return Err(WebhookReply::Duplicate),
                Some(Claim::InProgress { .. }) => {
                    in_progress = true;
                    CLAIM_INTERVAL
                }
                // The deadline has passed.
                None => Duration::ZERO,
            };
            next_check = Some(deadline.min(Instant::now() + interval));
        }
    }

    /// Runs the handler for a job whose claim's lease began at `since`.
    async fn run(
        &self,
        since: Instant,
        claim: &ClaimHandle,
        event: &mut Event,
        delivery: &Arc<Delivery>,
    ) -> WebhookReply {
        delivery.reply_at_deadline(WebhookReply::HandlerTimeout);
        let mut lease = self.leases.hold(delivery.clone(), since);
        let Event { job, content } = event;
        // Only a final status completes the job: the `completed` after an unknown status is not a duplicate.
        let is_final = job.status().is_final();
        let call = || dispatch(&*self.handler, job, std::mem::take(content));
        let run = self.runs.run(job.id(), &lease, call).await;

        let reply = match &run {
            RunEnd::Returned(Ok(())) => WebhookReply::Handled,
            RunEnd::Returned(Err(failure)) if failure.is_permanent() => {
                error!(error = %chain(failure.source()), "the handler failed permanently; the job counts as done");
                WebhookReply::HandlerFailedPermanently
            }
            RunEnd::Returned(Err(failure)) => {
                let error = chain(failure.source());
                match failure.retry_delay() {
                    None => warn!(%error, "the handler failed; releasing the claim for the next delivery"),
                    Some(asked) => warn!(
                        %error,
                        retry_after = ?asked,
                        "the handler failed; releasing the claim for the next delivery, which follows the sender's \
                        schedule and not the delay that the handler asks for"
                    ),
                }
                WebhookReply::HandlerFailed
            }
            RunEnd::Panicked(panicked) => {
                error!(error = %panicked, "the handler panicked; releasing the claim for the next delivery");
                WebhookReply::HandlerPanicked
            }
            RunEnd::TimedOut => {
                error!(
                    after = ?self.max_handler_time,
                    "the handler exceeded its time and was dropped; releasing the claim for the next delivery"
                );
                WebhookReply::HandlerTimeout
            }
            RunEnd::LeaseLost => return WebhookReply::Unavailable,
            // The claim is not released, so that it outlasts the other run, which has lost its own claim.
            RunEnd::StillRunning => {
                error!(
                    "the job was claimed again while its handler still runs here; not starting another run"
                );
                // A renewal under way would take the claim up again.
                lease.stop().await;
                claim.leave();
                return WebhookReply::InProgress;
            }
            RunEnd::Aborted => {
                warn!(
                    "the shutdown ran out of grace: the handler was dropped or not started; releasing the claim"
                );
                WebhookReply::Unavailable
            }
        };
        let done = matches!(reply, WebhookReply::Handled | WebhookReply::HandlerFailedPermanently);
        delivery.reply_at_deadline(reply);
        let lease_ends = lease.stop().await;
        if done && is_final {
            self.complete(claim, lease_ends, delivery).await;
        } else {
            self.release(claim).await;
        }
        reply
    }

    /// Records the job as done, with retries until the lease ends. The handler has finished even if the store fails, so
    /// the reply is sent after the first failed call.
    async fn complete(&self, claim: &ClaimHandle, lease_ends: Instant, delivery: &Delivery) {
        let failed = |error: CallError, pause: Duration| {
            telemetry::store_error(telemetry::call::COMPLETE);
            warn!(error = %chain(&error), retry_in = ?pause, "the job was handled, but not recorded as done; retrying");
            delivery.reply_now();
        };
        match COMPLETE.write(Some(lease_ends), || claim.complete(self.retention), failed).await {
            Written::Applied => {}
            Written::Stale => error!(
                "the job was handled, but its claim had passed to another delivery: it may be handled again"
            ),
            Written::LeaseEnds(error) => {
                telemetry::store_error(telemetry::call::COMPLETE);
                error!(
                    error = %chain(&error),
                    "the job was handled, but not recorded as done: the next duplicate will be handled again"
                );
            }
        }
    }

    /// Releases the claim. If the store fails, the drop of the claim repeats the release in the background.
    async fn release(&self, claim: &ClaimHandle) {
        match call(|| Instant::now() + RECORD_TIME, || claim.release()).await {
            Ok(Fenced::Applied) => {}
            Ok(Fenced::Stale) => debug!("the claim had passed to another delivery before its release"),
            Err(error) => {
                telemetry::store_error(telemetry::call::RELEASE);
                warn!(error = %chain(&error), "releasing the claim failed; retrying in the background");
            }
        }
    }
}

impl fmt::Debug for Inline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inline").field("claims", &self.claims).finish_non_exhaustive()
    }
}
