//! Claims, and the release of those whose end is not known.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{Instrument, Span, debug, warn};

use crate::dedup::{Claim, ClaimToken, DedupStore};
use crate::error::chain;
use crate::event::JobId;
use crate::execution::drain::Drain;
use crate::execution::isolation::call;
use crate::store::{Fenced, StoreError};

/// How long a release is repeated. The sender's third attempt begins within 25 s of the first, and is answered
/// within 5 s: a claim that arrives later meets no delivery of its job.
const RELEASE_FOR: Duration = Duration::from_secs(30);
/// The pause before a release is repeated.
const RELEASE_AGAIN: Duration = Duration::from_secs(1);
/// How long one release may take.
const CALL_TIME: Duration = Duration::from_secs(2);
/// The most claims that wait for their release; the end of its lease frees any other one.
const MOST_RELEASES: usize = 1024;
/// The most releases that are called at once: a store that was away has other things to do.
const CALLS: usize = 4;

/// Makes claims in a store, and releases those that were abandoned.
pub(super) struct Claims {
    store: Arc<dyn DedupStore>,
    drain: Arc<Drain>,
    /// One permit per claim that may wait for its release.
    waiting: Arc<Semaphore>,
    /// One permit per release that may be called.
    calls: Semaphore,
}

/// One claim, from before its call on. If it may be in the store when this is dropped, it is released in the
/// background: the call failed, or nobody waited for its answer, or the work under the claim broke off.
pub(super) struct ClaimHandle {
    token: ClaimToken,
    claims: Arc<Claims>,
    /// Whether the store granted the claim, and it was neither completed nor released.
    held: AtomicBool,
    /// Whether there is a claim or a renewal without an answer: the write may come at any time.
    unanswered: AtomicBool,
}

impl Claims {
    pub(super) fn new(store: Arc<dyn DedupStore>, drain: Arc<Drain>) -> Arc<Self> {
        let (waiting, calls) = (Arc::new(Semaphore::new(MOST_RELEASES)), Semaphore::new(CALLS));
        Arc::new(Self { store, drain, waiting, calls })
    }

    /// Prepares a claim, which [`ClaimHandle::claim`] makes.
    pub(super) fn prepare(self: &Arc<Self>, job: &JobId) -> ClaimHandle {
        ClaimHandle {
            token: ClaimToken::new(job),
            claims: self.clone(),
            held: AtomicBool::new(false),
            unanswered: AtomicBool::new(false),
        }
    }

    /// Releases an abandoned claim, again and again: a store may carry out the release before the claim, which
    /// came by another connection. A release that applied is enough unless a renewal `may_return`. At shutdown, one
    /// answer is enough.
    async fn release(&self, token: &ClaimToken, may_return: bool) {
        let until = Instant::now() + RELEASE_FOR;
        let mut is_last = false;
        loop {
            let released = {
                let Ok(Ok(_permit)) = timeout_at(until, self.calls.acquire()).await else { return };
                call(|| Instant::now() + CALL_TIME, (*self.store).release(token)).await
            };
            is_last |= Instant::now() >= until;
            match released {
                Ok(Fenced::Applied) if !may_return => return debug!("an abandoned claim was released"),
                Ok(_) if is_last || self.drain.is_closed() => return,
                Ok(_) => {}
                Err(error) if is_last => {
                    return warn!(error = %chain(&error), "an abandoned claim was not released: its lease ends it");
                }
                Err(error) => {
                    debug!(error = %chain(&error), "an abandoned claim is not yet released; trying again");
                }
            }
            tokio::select! {
                () = sleep(RELEASE_AGAIN) => {}
                () = self.drain.closed(), if !self.drain.is_closed() => {}
                () = self.drain.aborted() => is_last = true,
            }
        }
    }
}

impl ClaimHandle {
    /// Claims the job for the length of a lease.
    pub(super) async fn claim(&self, lease: Duration) -> Result<Claim, StoreError> {
        self.unanswered.store(true, Ordering::SeqCst);
        let claim = self.claims.store.claim(&self.token, lease).await;
        self.held.store(matches!(claim, Ok(Claim::Acquired)), Ordering::SeqCst);
        // A full store wrote nothing.
        self.unanswered.store(matches!(claim, Err(StoreError::Unavailable(_))), Ordering::SeqCst);
        claim
    }

    /// Makes the claim last for another lease.
    pub(super) async fn renew(&self, lease: Duration) -> Result<Fenced, StoreError> {
        let unanswered = self.unanswered.swap(true, Ordering::SeqCst);
        let renewed = self.claims.store.renew(&self.token, lease).await;
        if let Ok(renewed) = &renewed {
            // Another owns the job, or nobody; an earlier renewal may still come.
            self.held.store(*renewed == Fenced::Applied, Ordering::SeqCst);
            self.unanswered.store(unanswered, Ordering::SeqCst);
        }
        renewed
    }

    /// Records the job as done, which ends the claim: no renewal brings it back.
    pub(super) async fn complete(&self, retention: Duration) -> Result<Fenced, StoreError> {
        let completed = self.claims.store.complete(&self.token, retention).await?;
        self.held.store(false, Ordering::SeqCst);
        self.unanswered.store(false, Ordering::SeqCst);
        Ok(completed)
    }

    /// Leaves the claim to the end of its lease.
    pub(super) fn leave(&self) {
        self.held.store(false, Ordering::SeqCst);
    }

    /// Frees the job.
    pub(super) async fn release(&self) -> Result<Fenced, StoreError> {
        let released = self.claims.store.release(&self.token).await?;
        self.held.store(false, Ordering::SeqCst);
        Ok(released)
    }
}

impl Drop for ClaimHandle {
    fn drop(&mut self) {
        let (held, unanswered) = (*self.held.get_mut(), *self.unanswered.get_mut());
        if !held && !unanswered {
            return;
        }
        let waiting = self.claims.waiting.clone().try_acquire_owned();
        let (Ok(waiting), Ok(runtime)) = (waiting, Handle::try_current()) else {
            return warn!("an abandoned claim is not released: its lease ends it");
        };
        let (claims, token, under_way) = (self.claims.clone(), self.token.clone(), self.claims.drain.more());
        let release = async move {
            claims.release(&token, held && unanswered).await;
            drop((waiting, under_way));
        };
        runtime.spawn(release.instrument(Span::current()));
    }
}

impl fmt::Debug for Claims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claims").field("store", &self.store).finish_non_exhaustive()
    }
}

impl fmt::Debug for ClaimHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.token.fmt(f)
    }
}
