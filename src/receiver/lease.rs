//! Keeps the claims of running handlers.
//!
//! One task renews the claims of all handlers of a receiver, so that a handler that blocks its thread
//! does not stop its own renewal, and a request costs an entry in a list instead of a task. It starts
//! when there is something to renew and ends when there is nothing.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use slab::Slab;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tracing::{Instrument, Span, error, warn};

use crate::dedup::{ClaimToken, DedupStore};
use crate::guard::{at_once_or, call, chain};
use crate::store::Fenced;

/// How long a claim lasts that is not renewed. Together with the ack deadline it ends before the
/// sender's third try, so that the job of a process that died in the middle is free by then.
pub(super) const LEASE: Duration = Duration::from_secs(5);
/// A claim is renewed before it is this old.
const RENEW_EVERY: Duration = Duration::from_millis(1500);
/// How long a claim or a renewal may take: what is left of the lease then is enough to try again.
pub(super) const CALL_TIME: Duration = Duration::from_secs(2);
/// How often the task looks.
const TICK: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(super) struct Leases {
    store: Arc<dyn DedupStore>,
    active: Mutex<Active>,
}

#[derive(Debug, Default)]
struct Active {
    leases: Slab<Lease>,
    /// Whether the task runs.
    renewing: bool,
}

#[derive(Debug)]
struct Lease {
    token: ClaimToken,
    /// When the last write began that made the lease last.
    since: Instant,
    /// Whether a call is under way.
    renewing: bool,
    /// Whom to tell when something changes, if somebody waits for that.
    waiting: Option<Arc<Notify>>,
    span: Span,
}

/// A claim that is renewed until this is dropped.
#[derive(Debug)]
pub(super) struct HeldLease {
    leases: Arc<Leases>,
    key: Key,
}

/// Where a lease lies in the slab, and whose it is: places are used again.
#[derive(Debug, Clone, Copy)]
struct Key {
    place: usize,
    owner: u128,
}

impl Leases {
    pub(super) fn new(store: Arc<dyn DedupStore>) -> Arc<Self> {
        Arc::new(Self { store, active: Mutex::default() })
    }

    /// Keeps a claim whose write began at `since`. Needs a runtime.
    pub(super) fn hold(self: &Arc<Self>, token: &ClaimToken, since: Instant) -> HeldLease {
        let lease =
            Lease { token: token.clone(), since, renewing: false, waiting: None, span: Span::current() };
        let mut active = self.active();
        let key = Key { place: active.leases.insert(lease), owner: token.owner() };
        let start = !std::mem::replace(&mut active.renewing, true);
        drop(active);
        if start {
            tokio::spawn(Renewing { leases: self.clone(), ended: false }.run());
            // The newest task of a worker thread waits where no other thread can take it, and would wait
            // there for a handler that blocks the thread. Another one takes its place.
            tokio::spawn(async {});
        }
        HeldLease { leases: self.clone(), key }
    }

    fn active(&self) -> MutexGuard<'_, Active> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Renews one claim and notes how it went.
    async fn renew(self: Arc<Self>, token: ClaimToken, key: Key) {
        let began = Instant::now();
        let renewed = call(|| began + CALL_TIME, (*self.store).renew(&token, LEASE)).await;
        let mut active = self.active();
        let Some(lease) = active.get_mut(key) else { return };
        lease.renewing = false;
        lease.tell();
        match renewed {
            Ok(Fenced::Applied) => lease.since = began,
            Ok(Fenced::Stale) => {
                error!("the claim has passed to another: the handler is dropped");
                active.remove(key);
            }
            Err(error) => warn!(error = %chain(&error), "the claim was not renewed; trying again"),
        }
    }
}

/// The task. Its end is noted also when its runtime is shut down under it, so that a receiver that
/// lives on in another runtime starts the next one.
struct Renewing {
    leases: Arc<Leases>,
    /// Whether the task noted its own end.
    ended: bool,
}

impl Renewing {
    async fn run(mut self) {
        loop {
            sleep(TICK).await;
            let now = Instant::now();
            let mut active = self.leases.active();
            if active.leases.is_empty() {
                active.renewing = false;
                self.ended = true;
                return;
            }
            active.leases.retain(|_, lease| {
                // A tick early: what is dropped at the next look would overlap with the next owner.
                let lives = now + TICK < lease.since + LEASE;
                if !lives {
                    let _in_span = lease.span.enter();
                    error!("the claim ran out and could not be renewed: the handler is dropped");
                    lease.tell();
                }
                lives
            });
            for (place, lease) in &mut active.leases {
                if !lease.renewing && now + TICK > lease.since + RENEW_EVERY {
                    lease.renewing = true;
                    let renewal = self
                        .leases
                        .clone()
                        .renew(lease.token.clone(), Key { place, owner: lease.token.owner() });
                    tokio::spawn(renewal.instrument(lease.span.clone()));
                }
            }
        }
    }
}

impl Drop for Renewing {
    fn drop(&mut self) {
        if !self.ended {
            self.leases.active().renewing = false;
        }
    }
}

impl Active {
    fn get_mut(&mut self, key: Key) -> Option<&mut Lease> {
        self.leases.get_mut(key.place).filter(|lease| lease.token.owner() == key.owner)
    }

    fn remove(&mut self, key: Key) -> Option<Lease> {
        self.get_mut(key)?;
        self.leases.try_remove(key.place)
    }
}

impl Lease {
    /// Tells the handler's side to look again.
    fn tell(&self) {
        if let Some(waiting) = &self.waiting {
            waiting.notify_one();
        }
    }
}

impl HeldLease {
    /// Waits until the claim is lost.
    pub(super) async fn lost(&self) {
        self.until(|lease| lease.is_none()).await;
    }

    /// Stops renewing and returns when the lease ends; now, if it is lost.
    ///
    /// Waits for a renewal that is under way: after a release, it would claim the job again.
    pub(super) async fn stop(&self) -> Instant {
        let renewed = self.until(|lease| lease.is_none_or(|lease| !lease.renewing));
        let in_time = |renewed| async { timeout(CALL_TIME, renewed).await.unwrap_or(()) };
        at_once_or(pin!(renewed), in_time).await;
        let lease = self.leases.active().remove(self.key);
        lease.map_or_else(Instant::now, |lease| lease.since + LEASE)
    }

    /// Waits for a fact about the lease; it is gone when it is lost.
    async fn until(&self, fact: impl Fn(Option<&Lease>) -> bool) {
        loop {
            let changed = match self.leases.active().get_mut(self.key) {
                lease if fact(lease.as_deref()) => return,
                Some(lease) => lease.waiting.get_or_insert_default().clone(),
                None => return,
            };
            changed.notified().await;
        }
    }
}

impl Drop for HeldLease {
    fn drop(&mut self) {
        self.leases.active().remove(self.key);
    }
}
