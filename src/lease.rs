//! Keeps the leases of running handlers.
//!
//! One task renews the leases of all handlers of a receiver or a worker, so that a handler that blocks its
//! thread does not stop its own renewal, and a request costs an entry in a list instead of a task. It starts
//! when there is something to renew and ends when there is nothing.

use std::fmt;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use slab::Slab;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tracing::{Instrument, Span, error, warn};

use crate::guard::{at_once_or, call, chain};
use crate::store::{Fenced, StoreError};

/// Where leases are renewed.
#[async_trait]
pub(crate) trait Renew: fmt::Debug + Send + Sync + 'static {
    /// Whose lease it is.
    type Token: Clone + fmt::Debug + Send + Sync;

    /// Makes a lease last for another [`Times::lease`].
    async fn renew(&self, token: &Self::Token) -> Result<Fenced, StoreError>;
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    /// How long a lease lasts that is not renewed.
    pub(crate) lease: Duration,
    /// A lease is renewed before it is this old.
    pub(crate) renew_every: Duration,
    /// How long a renewal may take: what is left of the lease then is enough to try again.
    pub(crate) call: Duration,
    /// How often the task looks.
    pub(crate) tick: Duration,
}

#[derive(Debug)]
pub(crate) struct Leases<R: Renew> {
    store: R,
    times: Times,
    active: Mutex<Active<R::Token>>,
}

#[derive(Debug)]
struct Active<T> {
    leases: Slab<Lease<T>>,
    /// How many leases there have been.
    number: u64,
    /// Whether the task runs.
    renewing: bool,
}

#[derive(Debug)]
struct Lease<T> {
    number: u64,
    token: T,
    /// When the last write began that made the lease last.
    since: Instant,
    /// Whether a call is under way.
    renewing: bool,
    /// Whom to tell when something changes, if somebody waits for that.
    waiting: Option<Arc<Notify>>,
    span: Span,
}

/// A lease that is renewed until this is dropped.
#[derive(Debug)]
pub(crate) struct HeldLease<R: Renew> {
    leases: Arc<Leases<R>>,
    key: Key,
}

/// Where a lease lies in the slab, and which it is: places are used again.
#[derive(Debug, Clone, Copy)]
struct Key {
    place: usize,
    number: u64,
}

impl<R: Renew> Leases<R> {
    pub(crate) fn new(store: R, times: Times) -> Arc<Self> {
        let active = Active { leases: Slab::new(), number: 0, renewing: false };
        Arc::new(Self { store, times, active: Mutex::new(active) })
    }

    /// Keeps a lease whose write began at `since`. Needs a runtime.
    pub(crate) fn hold(self: &Arc<Self>, token: &R::Token, since: Instant) -> HeldLease<R> {
        let mut active = self.active();
        active.number += 1;
        let number = active.number;
        let (token, span) = (token.clone(), Span::current());
        let lease = Lease { number, token, since, renewing: false, waiting: None, span };
        let key = Key { place: active.leases.insert(lease), number };
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

    fn active(&self) -> MutexGuard<'_, Active<R::Token>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Renews one lease and notes how it went.
    async fn renew(self: Arc<Self>, token: R::Token, key: Key) {
        let began = Instant::now();
        let renewed = call(|| began + self.times.call, self.store.renew(&token)).await;
        let mut active = self.active();
        let Some(lease) = active.get_mut(key) else { return };
        lease.renewing = false;
        lease.tell();
        match renewed {
            Ok(Fenced::Applied) => lease.since = began,
            Ok(Fenced::Stale) => {
                error!("the lease has passed to another: the handler is dropped");
                active.remove(key);
            }
            Err(error) => warn!(error = %chain(&error), "the lease was not renewed; trying again"),
        }
    }
}

/// The task. Its end is noted also when its runtime is shut down under it, so that a receiver that
/// lives on in another runtime starts the next one.
struct Renewing<R: Renew> {
    leases: Arc<Leases<R>>,
    /// Whether the task noted its own end.
    ended: bool,
}

impl<R: Renew> Renewing<R> {
    async fn run(mut self) {
        let times = self.leases.times;
        loop {
            sleep(times.tick).await;
            let now = Instant::now();
            let mut active = self.leases.active();
            if active.leases.is_empty() {
                active.renewing = false;
                self.ended = true;
                return;
            }
            active.leases.retain(|_, lease| {
                // A tick early: what is dropped at the next look would overlap with the next owner.
                let lives = now + times.tick < lease.since + times.lease;
                if !lives {
                    let _in_span = lease.span.enter();
                    error!("the lease ran out and could not be renewed: the handler is dropped");
                    lease.tell();
                }
                lives
            });
            for (place, lease) in &mut active.leases {
                if !lease.renewing && now + times.tick > lease.since + times.renew_every {
                    lease.renewing = true;
                    let key = Key { place, number: lease.number };
                    let renewal = self.leases.clone().renew(lease.token.clone(), key);
                    tokio::spawn(renewal.instrument(lease.span.clone()));
                }
            }
        }
    }
}

impl<R: Renew> Drop for Renewing<R> {
    fn drop(&mut self) {
        if !self.ended {
            self.leases.active().renewing = false;
        }
    }
}

impl<T> Active<T> {
    fn get_mut(&mut self, key: Key) -> Option<&mut Lease<T>> {
        self.leases.get_mut(key.place).filter(|lease| lease.number == key.number)
    }

    fn remove(&mut self, key: Key) -> Option<Lease<T>> {
        self.get_mut(key)?;
        self.leases.try_remove(key.place)
    }
}

impl<T> Lease<T> {
    /// Tells the handler's side to look again.
    fn tell(&self) {
        if let Some(waiting) = &self.waiting {
            waiting.notify_one();
        }
    }
}

impl<R: Renew> HeldLease<R> {
    /// Waits until the lease is lost.
    pub(crate) async fn lost(&self) {
        self.until(|lease| lease.is_none()).await;
    }

    /// Stops renewing and returns when the lease ends; now, if it is lost.
    ///
    /// Waits for a renewal that is under way: after a release, it would claim the job again.
    pub(crate) async fn stop(&self) -> Instant {
        let Times { lease: length, call, .. } = self.leases.times;
        let renewed = self.until(|lease| lease.is_none_or(|lease| !lease.renewing));
        let in_time = |renewed| async { timeout(call, renewed).await.unwrap_or(()) };
        at_once_or(pin!(renewed), in_time).await;
        let lease = self.leases.active().remove(self.key);
        lease.map_or_else(Instant::now, |lease| lease.since + length)
    }

    /// Waits for a fact about the lease; it is gone when it is lost.
    async fn until(&self, fact: impl Fn(Option<&Lease<R::Token>>) -> bool) {
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

impl<R: Renew> Drop for HeldLease<R> {
    fn drop(&mut self) {
        self.leases.active().remove(self.key);
    }
}
