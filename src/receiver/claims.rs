//! Claims, and the release of abandoned ones.

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
use crate::telemetry;

/// The time for which a release is repeated. The sender's third delivery begins within 25 s of the first and is
/// answered within 5 s, so a claim that reaches the store later delays no delivery.
const RELEASE_FOR: Duration = Duration::from_secs(30);
/// The pause before a release is repeated.
const RELEASE_INTERVAL: Duration = Duration::from_secs(1);
/// The longest time for one call of release.
const CALL_TIME: Duration = Duration::from_secs(2);
/// The most claims that wait for their release. Further claims end with their leases.
const MOST_RELEASES: usize = 1024;
/// The most calls of release at a time, so that a store that has just recovered is not flooded.
const CALLS: usize = 4;

/// Makes claims in a store, and releases abandoned ones.
pub(super) struct Claims {
    store: Arc<dyn DedupStore>,
    drain: Arc<Drain>,
    /// One permit per claim that may wait for its release.
    waiting: Arc<Semaphore>,
    /// One permit per release that may be called.
    calls: Semaphore,
}

/// One claim, from before its call to its end.
///
/// A drop releases the claim in the background if the store may hold it: the call failed, its future was dropped,
/// or the work under the claim broke off.
pub(super) struct ClaimHandle {
    token: ClaimToken,
    claims: Arc<Claims>,
    // Relaxed: the drop reads them, after everything else.
    /// Whether the store granted the claim, and it was neither completed nor released.
    held: AtomicBool,
    /// Whether a claim or a renewal has no answer, so that its write may take place at any time.
    unanswered: AtomicBool,
}

impl Claims {
    pub(super) fn new(store: Arc<dyn DedupStore>, drain: Arc<Drain>) -> Arc<Self> {
        let (waiting, calls) = (Arc::new(Semaphore::new(MOST_RELEASES)), Semaphore::new(CALLS));
        Arc::new(Self { store, drain, waiting, calls })
    }

    /// Prepares a claim; [`ClaimHandle::claim`] makes it.
    pub(super) fn prepare(self: &Arc<Self>, job: &JobId) -> ClaimHandle {
        ClaimHandle {
            token: ClaimToken::new(job),
            claims: self.clone(),
            held: AtomicBool::new(false),
            unanswered: AtomicBool::new(false),
        }
    }

    /// Not the `Arc`, which is a store itself and boxes another future for each call.
    fn store(&self) -> &dyn DedupStore {
        &*self.store
    }

    /// Releases an abandoned claim, repeatedly: the claim may come by a slower connection and reach the store after
    /// the release. Ends after a release that applied, unless a renewal `may_return`. During a shutdown, ends after
    /// any answer of the store.
    async fn release(&self, token: &ClaimToken, may_return: bool) {
        let until = Instant::now() + RELEASE_FOR;
        let mut is_last = false;
        loop {
            let released = {
                let Ok(Ok(_permit)) = timeout_at(until, self.calls.acquire()).await else {
                    return warn!("an abandoned claim was not released in time; it ends with its lease");
                };
                call(|| Instant::now() + CALL_TIME, || self.store().release(token)).await
            };
            is_last |= Instant::now() >= until;
            if released.is_err() {
                telemetry::store_error(telemetry::call::RELEASE);
            }
            match released {
                Ok(Fenced::Applied) if !may_return => return debug!("an abandoned claim was released"),
                Ok(_) if is_last || self.drain.is_closed() => return,
                Ok(_) => {}
                Err(error) if is_last => {
                    return warn!(error = %chain(&error), "an abandoned claim was not released; it ends with its lease");
                }
                Err(error) => {
                    debug!(error = %chain(&error), "releasing an abandoned claim failed; retrying in 1 s");
                }
            }
            tokio::select! {
                biased;
                () = self.drain.aborted() => is_last = true,
                () = self.drain.closed(), if !self.drain.is_closed() => {}
                () = sleep(RELEASE_INTERVAL) => {}
            }
        }
    }
}

impl ClaimHandle {
    /// Claims the job for the length of a lease.
    pub(super) async fn claim(&self, lease: Duration) -> Result<Claim, StoreError> {
        self.unanswered.store(true, Ordering::Relaxed);
        let claim = self.claims.store().claim(&self.token, lease).await;
        self.held.store(matches!(claim, Ok(Claim::Acquired)), Ordering::Relaxed);
        // A full store wrote nothing.
        self.unanswered.store(matches!(claim, Err(StoreError::Unavailable(_))), Ordering::Relaxed);
        claim
    }

    /// Extends the claim by a lease from now on.
    pub(super) async fn renew(&self, lease: Duration) -> Result<Fenced, StoreError> {
        let unanswered = self.unanswered.swap(true, Ordering::Relaxed);
        let renewed = self.claims.store().renew(&self.token, lease).await;
        if let Ok(renewed) = &renewed {
            // Stale: the job has another owner or none, but an earlier renewal may still take place.
            self.held.store(*renewed == Fenced::Applied, Ordering::Relaxed);
            self.unanswered.store(unanswered, Ordering::Relaxed);
        }
        renewed
    }

    /// Records the job as done. This ends the claim: a later renewal is stale.
    pub(super) async fn complete(&self, retention: Duration) -> Result<Fenced, StoreError> {
        let completed = self.claims.store().complete(&self.token, retention).await?;
        self.held.store(false, Ordering::Relaxed);
        self.unanswered.store(false, Ordering::Relaxed);
        Ok(completed)
    }

    /// Keeps the claim in the store until its lease ends.
    pub(super) fn leave(&self) {
        self.held.store(false, Ordering::Relaxed);
    }

    /// Releases the claim.
    pub(super) async fn release(&self) -> Result<Fenced, StoreError> {
        let released = self.claims.store().release(&self.token).await?;
        self.held.store(false, Ordering::Relaxed);
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
            return warn!("an abandoned claim is not released; it ends with its lease");
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
