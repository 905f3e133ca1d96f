//! Leases due events, and starts an attempt for each.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};
use tracing::{Instrument, error};

use super::InboxWorker;
use super::attempts::Attempts;
use crate::error::chain;
use crate::execution::backoff::{Backoff, jittered};
use crate::execution::drain::{Drain, UnderWay};
use crate::execution::isolation::{CallError, call, isolate, made, until};
use crate::fetch::fetcher::Fetcher;
#[cfg(feature = "metrics")]
use crate::inbox::InboxStore;
use crate::inbox::{Leased, is_enough};
use crate::telemetry;

/// The pause after the store failed to lease.
const STORE_PAUSE: Backoff = Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(5) };
/// The pause after a hint that led to no event: a store that hints all the time must not be called all the time.
const HINT_PAUSE: Duration = Duration::from_millis(10);
/// The most events that wait for the API at once, whatever the concurrency. Events whose fetch is far off stay in the
/// inbox, where any worker sees them.
const MOST_VERIFYING: usize = 16;

/// The loop that leases events while the worker has free slots.
pub(super) struct Leasing {
    settings: Arc<InboxWorker>,
    attempts: Attempts,
    /// One permit per event that may be handled.
    handling: Arc<Semaphore>,
    /// One permit per event that may be leased and not yet settled: outcomes are recorded while the next events are leased.
    unsettled: Arc<Semaphore>,
    /// One permit per event that may be leased and not yet verified; `None` under `Verification::Trust`.
    verifying: Option<Arc<Semaphore>>,
    /// One clone per event that has a slot. The permits do not tell: a lease holds all that are free.
    #[cfg(feature = "metrics")]
    attempting: Arc<()>,
    drain: Arc<Drain>,
}

/// The right to lease one event and to handle it.
pub(super) struct Slot {
    /// Held until the handler has ended.
    pub(super) handling: Handling,
    /// Held until the event is settled.
    pub(super) unsettled: OwnedSemaphorePermit,
    /// Held until the event is verified.
    pub(super) verifying: Option<OwnedSemaphorePermit>,
}

/// The right to handle one event.
pub(super) struct Handling {
    _permit: OwnedSemaphorePermit,
    /// `None` until there is an event.
    #[cfg(feature = "metrics")]
    attempting: Option<Arc<()>>,
}

impl From<OwnedSemaphorePermit> for Handling {
    fn from(permit: OwnedSemaphorePermit) -> Self {
        Self {
            _permit: permit,
            #[cfg(feature = "metrics")]
            attempting: None,
        }
    }
}

/// The next step after a lease.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Every slot got an event, or as many bytes were leased as one call leases: there may be more events.
    Lease,
    /// Some slots got an event.
    Wait,
    /// No slot got an event.
    WaitForFirst,
}

impl Leasing {
    pub(super) fn new(settings: InboxWorker, fetcher: Option<Arc<Fetcher>>, drain: Arc<Drain>) -> Arc<Self> {
        let settings = Arc::new(settings);
        let verifying = fetcher.as_ref().map(|_| Arc::new(Semaphore::new(MOST_VERIFYING)));
        Arc::new(Self {
            attempts: Attempts::new(settings.clone(), fetcher, drain.clone()),
            handling: Arc::new(Semaphore::new(settings.concurrency)),
            unsettled: Arc::new(Semaphore::new(settings.concurrency * 2)),
            verifying,
            #[cfg(feature = "metrics")]
            attempting: Arc::default(),
            drain,
            settings,
        })
    }

    #[cfg(feature = "metrics")]
    pub(super) fn inbox(&self) -> &dyn InboxStore {
        &*self.settings.inbox
    }

    /// The number of slots, and of those without an event.
    #[cfg(feature = "metrics")]
    pub(super) fn room(&self) -> (usize, usize) {
        let slots = self.settings.concurrency;
        (slots, slots.saturating_sub(Arc::strong_count(&self.attempting) - 1))
    }

    /// The number of handlers that run.
    #[cfg(feature = "metrics")]
    pub(super) fn running(&self) -> usize {
        self.attempts.running()
    }

    /// Leases events for the free slots, until the shutdown.
    pub(super) async fn run(self: Arc<Self>) {
        telemetry::leased();
        let (mut failures, mut hinted) = (0u32, false);
        while let Some(slots) = self.slots().await {
            let next = match self.clone().lease(slots).await {
                Ok(next) => next,
                Err(error) => {
                    failures = failures.saturating_add(1);
                    let pause = jittered(STORE_PAUSE.bound(failures));
                    error!(error = %chain(&error), retry_in = ?pause, "no event could be leased; retrying");
                    tokio::select! {
                        biased;
                        () = self.drain.closed() => return,
                        () = sleep(pause) => continue,
                    }
                }
            };
            failures = 0;
            if next == Next::Lease {
                continue;
            }
            let in_vain = hinted && next == Next::WaitForFirst;
            let hint = pin!(self.hint(if in_vain { HINT_PAUSE } else { Duration::ZERO }));
            let unhinted = || async {
                tokio::select! {
                    biased;
                    () = self.drain.closed() => {}
                    () = sleep(jittered(self.settings.poll)) => {}
                }
            };
            hinted = until(hint, unhinted).await.is_ok();
        }
    }

    /// Waits for the store's hint that there may be an event. A store whose hint panics gives no hint.
    async fn hint(&self, pause: Duration) {
        if pause > Duration::ZERO {
            sleep(pause).await;
        }
        if isolate(pin!(made(|| self.settings.inbox.wait()))).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits for a free slot, and returns it with all others that are free; `None` at the shutdown.
    async fn slots(&self) -> Option<Vec<Slot>> {
        // The attempts that were just started may end at once, and then their slots are free, too.
        yield_now().await;
        let first = async {
            let handling = self.handling.clone().acquire_owned().await.ok()?;
            let unsettled = self.unsettled.clone().acquire_owned().await.ok()?;
            let verifying = match &self.verifying {
                Some(verifying) => Some(verifying.clone().acquire_owned().await.ok()?),
                None => None,
            };
            Some(Slot { handling: handling.into(), unsettled, verifying })
        };
        let first = tokio::select! {
            biased;
            () = self.drain.closed() => return None,
            slot = first => slot?,
        };
        let others = std::iter::from_fn(|| {
            let handling = self.handling.clone().try_acquire_owned().ok()?;
            let unsettled = self.unsettled.clone().try_acquire_owned().ok()?;
            let verifying = match &self.verifying {
                Some(verifying) => Some(verifying.clone().try_acquire_owned().ok()?),
                None => None,
            };
            Some(Slot { handling: handling.into(), unsettled, verifying })
        });
        Some(std::iter::once(first).chain(others).collect())
    }

    /// Leases at most one event per slot, and starts the attempts.
    async fn lease(self: Arc<Self>, slots: Vec<Slot>) -> Result<Next, CallError> {
        // The call itself is work under way: a shutdown waits until the leased events are released.
        let Some(under_way) = self.drain.enter() else { return Ok(Next::Wait) };
        let (most, since) = (slots.len(), Instant::now());
        let lease = || self.settings.inbox.lease(most, self.settings.lease);
        let leased = call(|| since + self.settings.lease / 3, lease)
            .await
            .inspect_err(|_| telemetry::store_error(telemetry::call::LEASE))?;
        telemetry::leased();
        let bytes: usize = leased.iter().map(|leased| leased.body.len()).sum();
        let next = match leased.len() {
            0 => Next::WaitForFirst,
            some if some < most && !is_enough(bytes) => Next::Wait,
            _ => Next::Lease,
        };
        for (leased, slot) in leased.into_iter().zip(slots) {
            self.clone().spawn(leased, since, slot, under_way.more());
        }
        Ok(next)
    }

    #[cfg_attr(not(feature = "metrics"), expect(unused_mut, reason = "only the gauges count attempts"))]
    fn spawn(self: Arc<Self>, leased: Leased, since: Instant, mut slot: Slot, under_way: UnderWay) {
        let (job, traceparent) = (leased.lease.job(), leased.traceparent.as_ref());
        let span = telemetry::attempt_span(job, leased.attempt, traceparent);
        #[cfg(feature = "metrics")]
        slot.handling.attempting.replace(self.attempting.clone());
        let attempt = async move {
            self.attempts.run(leased, since, slot).await;
            drop(under_way);
        };
        tokio::spawn(attempt.instrument(span));
    }
}
