//! Inline mode: the answer says how the handler ended.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tracing::{debug, error, warn};

use super::Reply;
use super::claims::{ClaimHandle, Claims};
use super::detach::Answer;
use crate::dedup::Claim;
use crate::error::chain;
use crate::event::{JobId, WebhookEvent};
use crate::execution::drain::Drain;
use crate::execution::isolation::{CallError, call};
use crate::execution::lease::{Leases, Renew, Times};
use crate::execution::run::{Run, Runs};
use crate::handler::{WebhookHandler, dispatch};
use crate::store::{Fenced, StoreError};

/// How long a claim lasts that is not renewed. Together with the ack deadline it ends before the
/// sender's third try, so that the job of a process that died in the middle is free by then.
pub(super) const LEASE: Duration = Duration::from_secs(5);
/// How long a claim or a renewal may take: what is left of the lease then is enough to try again.
const CALL_TIME: Duration = Duration::from_secs(2);
const TIMES: Times = Times {
    lease: LEASE,
    renew_every: Duration::from_millis(1500),
    call: CALL_TIME,
    tick: Duration::from_millis(500),
};
/// How often a duplicate asks whether the delivery that is being handled has ended.
const CLAIM_AGAIN: Duration = Duration::from_millis(200);
/// How often a delivery that waits for room asks whether its job is done.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How long one try to record an outcome may take.
const RECORD_TIME: Duration = Duration::from_secs(1);
/// The pause before recording an outcome again; it doubles.
const RECORD_AGAIN: Duration = Duration::from_millis(100);

/// Claims the job, runs the handler, and records what came of it.
pub(super) struct Inline {
    pub(super) handler: Box<dyn WebhookHandler>,
    pub(super) claims: Arc<Claims>,
    pub(super) leases: Arc<Leases<Renewals>>,
    /// One permit per handler that may run.
    pub(super) handlers: Arc<Semaphore>,
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
    type Token = Arc<ClaimHandle>;

    async fn renew(&self, claim: &Arc<ClaimHandle>) -> Result<Fenced, StoreError> {
        claim.renew(LEASE).await
    }
}

/// The right to run the handler for a job, and the room to do it.
struct Claimed {
    claim: Arc<ClaimHandle>,
    /// When the claim's call began: the lease lasts at least from here.
    since: Instant,
    _room: OwnedSemaphorePermit,
}

impl Inline {
    pub(super) async fn handle(&self, event: Box<WebhookEvent>, answer: &Answer) -> Reply {
        let claimed = {
            let claim = pin!(self.claim(event.job().id(), answer.deadline()));
            self.drain.unless_aborted(claim).await
        };
        match claimed {
            Some(Ok(claimed)) => self.run(claimed, event, answer).await,
            Some(Err(reply)) => reply,
            None => Reply::Unavailable,
        }
    }

    /// Claims the job; while another delivery has it, asks again until the deadline.
    async fn claim(&self, job: &JobId, deadline: Instant) -> Result<Claimed, Reply> {
        let mut in_progress = false;
        loop {
            // Before the claim: a claim must not run out while it waits for room. And not kept while
            // waiting for another delivery, or waiting duplicates could fill the room.
            let room = match self.handlers.clone().try_acquire_owned() {
                Ok(room) => room,
                Err(_) => Box::pin(self.room(job, deadline)).await?,
            };
            let (since, claim) = (Instant::now(), Arc::new(self.claims.prepare(job)));
            match self.ask(&claim, deadline, in_progress).await? {
                Claim::Acquired => return Ok(Claimed { claim, since, _room: room }),
                Claim::Done => return Err(Reply::Duplicate),
                Claim::InProgress { .. } => in_progress = true,
            }
            drop(room);
            Box::pin(sleep_until(deadline.min(Instant::now() + CLAIM_AGAIN))).await;
            if Instant::now() >= deadline {
                return Err(Reply::InProgress);
            }
        }
    }

    /// Calls the store for a claim.
    async fn ask(&self, claim: &ClaimHandle, deadline: Instant, in_progress: bool) -> Result<Claim, Reply> {
        let since = Instant::now();
        match call(|| deadline.min(since + CALL_TIME), pin!(claim.claim(LEASE))).await {
            Ok(claim) => Ok(claim),
            // The store did not fail: it was asked too late.
            Err(CallError::Late) if in_progress && Instant::now() >= deadline => Err(Reply::InProgress),
            Err(error) => {
                error!(error = %chain(&error), "the job cannot be claimed");
                Err(Reply::Unavailable)
            }
        }
    }

    /// Waits until another handler may run, or until the job needs none.
    async fn room(&self, job: &JobId, deadline: Instant) -> Result<OwnedSemaphorePermit, Reply> {
        tokio::select! {
            biased;
            room = self.handlers.clone().acquire_owned() => room.map_err(|_| Reply::Unavailable),
            reply = self.look(job, deadline) => Err(reply),
        }
    }

    /// Asks the store again and again, without keeping a claim, until the job is done or the deadline passes.
    async fn look(&self, job: &JobId, deadline: Instant) -> Reply {
        let mut in_progress = false;
        loop {
            let claim = self.claims.prepare(job);
            let again = match self.ask(&claim, deadline, in_progress).await {
                Ok(Claim::Done) => return Reply::Duplicate,
                Ok(claim) => {
                    in_progress = matches!(claim, Claim::InProgress { .. });
                    if in_progress { CLAIM_AGAIN } else { LOOK_AGAIN }
                }
                Err(reply) => return reply,
            };
            if !in_progress {
                let _ = timeout_at(deadline, self.release(&claim)).await;
            }
            sleep_until(deadline.min(Instant::now() + again)).await;
            if Instant::now() >= deadline {
                if in_progress {
                    return Reply::InProgress;
                }
                warn!("the running handlers have reached their limit");
                return Reply::Unavailable;
            }
        }
    }

    /// Runs the handler for a claimed job.
    async fn run(&self, claimed: Claimed, event: Box<WebhookEvent>, answer: &Answer) -> Reply {
        let lease = self.leases.hold(&claimed.claim, claimed.since);
        // Only a known status ends a job: after an unknown one, a later `completed` is no duplicate.
        let last_word = event.job().status().is_final();
        let job = event.job().id().clone();
        let run = pin!(self.runs.run(&job, &lease, dispatch(&*self.handler, event)));
        let run = answer.or_at_deadline(Reply::HandlerTimeout, run).await;

        let reply = match &run {
            Run::Returned(Ok(())) => Reply::Handled,
            Run::Returned(Err(failure)) if failure.is_permanent() => {
                error!(error = %chain(failure.source()), "the handler failed for good: the job counts as done");
                Reply::HandlerFailedForGood
            }
            Run::Returned(Err(failure)) => {
                warn!(error = %chain(failure.source()), "the handler failed");
                Reply::HandlerFailed
            }
            Run::Panicked(panicked) => {
                error!(error = %panicked, "the handler panicked");
                Reply::HandlerPanicked
            }
            Run::TimedOut => {
                error!(after = ?self.max_handler_time, "the handler ran too long and was dropped");
                Reply::HandlerTimeout
            }
            Run::LeaseLost => return Reply::Unavailable,
            // Not released: until the claim ends, the other run has noticed that it lost its own.
            Run::StillRunning => {
                error!(
                    "the job was claimed again while its handler runs here: it is not started a second time"
                );
                claimed.claim.leave();
                return Reply::InProgress;
            }
            Run::Aborted => {
                warn!("the handler was dropped, or not begun: the shutdown ran out of grace");
                Reply::Unavailable
            }
        };
        let done = matches!(reply, Reply::Handled | Reply::HandlerFailedForGood);
        let lease_ends = answer.or_at_deadline(reply, pin!(lease.stop())).await;
        if done && last_word {
            self.complete(&claimed.claim, lease_ends, reply, answer).await;
        } else {
            answer.or_at_deadline(reply, pin!(self.release(&claimed.claim))).await;
        }
        reply
    }

    /// Records the job as done. The work is done whatever the store says, so the answer is, too; when
    /// the first try fails it is given, and the others follow for as long as the lease keeps copies out.
    async fn complete(&self, claim: &ClaimHandle, lease_ends: Instant, reply: Reply, answer: &Answer) {
        let mut pause = RECORD_AGAIN;
        loop {
            let completion = pin!(claim.complete(self.retention));
            let completion = pin!(call(|| Instant::now() + RECORD_TIME, completion));
            match answer.or_at_deadline(reply, completion).await {
                Ok(Fenced::Applied) => return,
                Ok(Fenced::Stale) => {
                    error!(
                        "the job was handled, but its claim had passed to another: it may be handled again"
                    );
                    return;
                }
                Err(error) => {
                    warn!(error = %chain(&error), "the job was handled, but not recorded as done; trying again");
                }
            }
            answer.give(reply);
            if Instant::now() + pause >= lease_ends {
                error!(
                    "the job was handled, but could not be recorded as done: its next copy will be handled again"
                );
                return;
            }
            Box::pin(sleep(pause)).await;
            pause *= 2;
        }
    }

    /// Frees the job for its next delivery. If the store fails, the release is repeated in the background.
    async fn release(&self, claim: &ClaimHandle) {
        match call(|| Instant::now() + RECORD_TIME, pin!(claim.release())).await {
            Ok(Fenced::Applied) => {}
            Ok(Fenced::Stale) => debug!("the claim had passed to another before it was released"),
            Err(error) => {
                warn!(error = %chain(&error), "the job was not released; trying again");
            }
        }
    }
}

impl fmt::Debug for Inline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inline").field("claims", &self.claims).finish_non_exhaustive()
    }
}
