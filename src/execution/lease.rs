//! Keeps the leases of running handlers.
//!
//! In each runtime, one task renews the leases of all handlers of a receiver or a worker, so that a handler that blocks
//! its thread does not stop its own renewal, and a request costs an entry in a list instead of a task. It starts when
//! there is something to renew and ends when there is nothing. The holder of a lease notices its end by a timer of
//! its own.

use std::collections::HashMap;
use std::fmt;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use slab::Slab;
use tokio::runtime::{self, Handle};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{Instrument, Span, error, warn};

use crate::error::chain;
use crate::execution::isolation::{call, until};
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
    /// How often the task looks, and how much earlier than in the store a lease ends here: a handler is dropped before
    /// the next owner begins.
    pub(crate) tick: Duration,
}

impl Times {
    /// When a lease ends here.
    fn end(&self, since: Instant) -> Instant {
        since + self.lease.saturating_sub(self.tick)
    }
}

#[derive(Debug)]
pub(crate) struct Leases<R: Renew> {
    store: R,
    times: Times,
    active: Mutex<Active<R::Token>>,
}

#[derive(Debug)]
struct Active<T> {
    /// The leases that are held in each runtime whose task runs. Each task renews those of its own runtime: one that
    /// stands still, or ends, takes nobody else's with it.
    runtimes: HashMap<runtime::Id, Slab<Lease<T>>>,
    /// How many leases there have been.
    number: u64,
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

/// Where a lease lies, and which it is: places are used again.
#[derive(Debug, Clone, Copy)]
struct Key {
    runtime: runtime::Id,
    place: usize,
    number: u64,
}

impl<R: Renew> Leases<R> {
    pub(crate) fn new(store: R, times: Times) -> Arc<Self> {
        let active = Active { runtimes: HashMap::new(), number: 0 };
        Arc::new(Self { store, times, active: Mutex::new(active) })
    }

    /// Keeps a lease whose write began at `since`.
    ///
    /// # Panics
    ///
    /// When it is not called in a runtime; nothing is kept then.
    pub(crate) fn hold(self: &Arc<Self>, token: &R::Token, since: Instant) -> HeldLease<R> {
        let current = Handle::current();
        let runtime = current.id();
        let (token, span) = (token.clone(), Span::current());
        let mut active = self.active();
        active.number += 1;
        let number = active.number;
        let start = !active.runtimes.contains_key(&runtime);
        let leases = active.runtimes.entry(runtime).or_default();
        let place = leases.insert(Lease { number, token, since, renewing: false, waiting: None, span });
        drop(active);
        let held = HeldLease { leases: self.clone(), key: Key { runtime, place, number } };
        if start {
            current.spawn(Renewing { leases: self.clone(), runtime, ended: false }.run());
            // The newest task of a worker thread waits where no other thread can take it, and would wait
            // there for a handler that blocks the thread. Another one takes its place.
            current.spawn(async {});
        }
        held
    }

    fn active(&self) -> MutexGuard<'_, Active<R::Token>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task of a runtime. Its end is noted also when its runtime is shut down under it, so that the holders of its
/// leases hear of it.
struct Renewing<R: Renew> {
    leases: Arc<Leases<R>>,
    runtime: runtime::Id,
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
            let Some(leases) = active.runtimes.get_mut(&self.runtime) else { return };
            if leases.is_empty() {
                active.runtimes.remove(&self.runtime);
                self.ended = true;
                return;
            }
            leases.retain(|_, lease| {
                let lives = now < times.end(lease.since);
                if !lives {
                    lease.run_out();
                }
                lives
            });
            for (place, lease) in leases {
                if !lease.renewing && now + times.tick > lease.since + times.renew_every {
                    lease.renewing = true;
                    let key = Key { runtime: self.runtime, place, number: lease.number };
                    let renewal = Renewal { leases: self.leases.clone(), key };
                    tokio::spawn(renewal.run(lease.token.clone()).instrument(lease.span.clone()));
                }
            }
        }
    }
}

impl<R: Renew> Drop for Renewing<R> {
    fn drop(&mut self) {
        if !self.ended {
            let leases = self.leases.active().runtimes.remove(&self.runtime);
            for (_, lease) in leases.iter().flatten() {
                lease.tell();
            }
        }
    }
}

/// A call that renews a lease. Its end is noted also when it is dropped.
struct Renewal<R: Renew> {
    leases: Arc<Leases<R>>,
    key: Key,
}

impl<R: Renew> Renewal<R> {
    /// Renews the lease and notes how it went.
    async fn run(self, token: R::Token) {
        let Leases { store, times, .. } = &*self.leases;
        let began = Instant::now();
        let renewed = call(|| began + times.call, store.renew(&token)).await;
        let mut active = self.leases.active();
        let Some(lease) = active.get_mut(self.key) else { return };
        match renewed {
            Ok(Fenced::Applied) => lease.since = began,
            Ok(Fenced::Stale) => {
                error!("the lease has passed to another: the handler is dropped");
                lease.tell();
                active.remove(self.key);
            }
            Err(error) => warn!(error = %chain(&error), "the lease was not renewed; trying again"),
        }
    }
}

impl<R: Renew> Drop for Renewal<R> {
    fn drop(&mut self) {
        if let Some(lease) = self.leases.active().get_mut(self.key) {
            lease.renewing = false;
            lease.tell();
        }
    }
}

impl<T> Active<T> {
    fn get_mut(&mut self, key: Key) -> Option<&mut Lease<T>> {
        let leases = self.runtimes.get_mut(&key.runtime)?;
        leases.get_mut(key.place).filter(|lease| lease.number == key.number)
    }

    fn remove(&mut self, key: Key) -> Option<Lease<T>> {
        self.get_mut(key)?;
        self.runtimes.get_mut(&key.runtime)?.try_remove(key.place)
    }
}

impl<T> Lease<T> {
    /// Says that it ended.
    fn run_out(&self) {
        let _in_span = self.span.enter();
        error!("the lease ran out and could not be renewed: the handler is dropped");
        self.tell();
    }

    /// Tells the handler's side to look again.
    fn tell(&self) {
        if let Some(waiting) = &self.waiting {
            waiting.notify_one();
        }
    }
}

impl<R: Renew> HeldLease<R> {
    /// Whether the lease is held, by the clock of this process: a process that stood still holds it no longer.
    pub(crate) fn is_held(&self) -> bool {
        let mut active = self.leases.active();
        active.get_mut(self.key).is_some_and(|lease| Instant::now() < self.leases.times.end(lease.since))
    }

    /// Waits until the lease is lost, also when no task renews it.
    pub(crate) async fn lost(&self) {
        loop {
            let (end, changed) = {
                let mut active = self.leases.active();
                let Some(lease) = active.get_mut(self.key) else { return };
                let end = self.leases.times.end(lease.since);
                if Instant::now() >= end {
                    lease.run_out();
                    active.remove(self.key);
                    return;
                }
                (end, lease.waiting.get_or_insert_default().clone())
            };
            tokio::select! {
                () = changed.notified() => {}
                () = sleep_until(end) => {}
            }
        }
    }

    /// Stops renewing and returns when the lease ends; now, if it is lost.
    ///
    /// Waits for a renewal that is under way: after a release, it would claim the job again.
    pub(crate) async fn stop(&self) -> Instant {
        let Times { lease: length, call, .. } = self.leases.times;
        let renewed = self.until(|lease| lease.is_none_or(|lease| !lease.renewing));
        let _ = until(pin!(renewed), || sleep(call)).await;
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use tokio::runtime::{Builder, Runtime};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const TIMES: Times =
        Times { lease: Duration::from_secs(6), renew_every: SECOND, call: SECOND, tick: SECOND };

    /// Renews leases, at once or never.
    #[derive(Debug, Default)]
    struct Store {
        hangs: AtomicBool,
        renewals: AtomicUsize,
    }

    #[async_trait]
    impl Renew for Arc<Store> {
        type Token = ();

        async fn renew(&self, (): &()) -> Result<Fenced, StoreError> {
            self.renewals.fetch_add(1, Ordering::SeqCst);
            if self.hangs.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            Ok(Fenced::Applied)
        }
    }

    fn leases() -> (Arc<Leases<Arc<Store>>>, Arc<Store>) {
        let store = Arc::new(Store::default());
        (Leases::new(store.clone(), TIMES), store)
    }

    fn runtime() -> Runtime {
        Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
    }

    /// Holds a lease for a minute, and whether it was lost.
    async fn is_lost_within_a_minute(held: &HeldLease<Arc<Store>>) -> bool {
        until(pin!(held.lost()), || sleep(SECOND * 60)).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn leases_are_renewed_again_after_a_time_without_any() {
        let (leases, store) = leases();
        for _ in 0..2 {
            store.renewals.store(0, Ordering::SeqCst);
            let held = leases.hold(&(), Instant::now());
            assert!(!is_lost_within_a_minute(&held).await);
            assert!(store.renewals.load(Ordering::SeqCst) > 20, "the lease was not renewed");
            drop(held);
            sleep(SECOND * 10).await;
            assert!(leases.active().runtimes.is_empty(), "the task's end was not noted");
        }
    }

    #[test]
    fn a_runtime_that_stands_still_or_ends_takes_no_lease_of_another_with_it() {
        let (leases, _) = leases();
        let (first, second) = (runtime(), runtime());
        // It begins to renew, and is not driven any further.
        let stands = first.block_on(async { leases.hold(&(), Instant::now()) });
        second.block_on(async {
            let held = leases.hold(&(), Instant::now());
            assert!(!is_lost_within_a_minute(&held).await, "while another runtime stands still");
        });
        let second = second.block_on(async {
            let held = leases.hold(&(), Instant::now());
            sleep(SECOND * 3).await;
            std::thread::spawn(move || drop(first)).join().unwrap();
            assert!(!stands.is_held(), "held in a runtime that ended");
            assert!(!is_lost_within_a_minute(&held).await, "after another runtime ended");
            held
        });
        drop(second);
    }

    #[test]
    fn the_holder_notices_the_end_of_its_lease_without_any_task() {
        let (leases, _) = leases();
        let (holds, notices) = (runtime(), runtime());
        let held = holds.block_on(async { leases.hold(&(), Instant::now()) });
        notices.block_on(async {
            // The clock of another runtime: only what passes by it counts.
            leases.active().get_mut(held.key).unwrap().since = Instant::now();
            let began = Instant::now();
            assert!(is_lost_within_a_minute(&held).await, "the end was not noticed");
            assert_eq!(began.elapsed(), TIMES.lease - TIMES.tick);
        });
        assert!(!held.is_held());
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_ends_a_tick_early_and_counts_from_the_call_that_renewed_it() {
        let (leases, store) = leases();
        store.hangs.store(true, Ordering::SeqCst);
        let began = Instant::now();
        let held = leases.hold(&(), began);
        assert!(is_lost_within_a_minute(&held).await);
        assert_eq!(began.elapsed(), TIMES.lease - TIMES.tick);
        let began = Instant::now();
        tokio::time::advance(SECOND * 4).await;
        let held = leases.hold(&(), began);
        assert!(held.is_held());
        assert!(is_lost_within_a_minute(&held).await);
        assert_eq!(began.elapsed(), TIMES.lease - TIMES.tick, "counted from the reply");
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_that_is_dropped_is_followed_by_another() {
        let (leases, store) = leases();
        let held = leases.hold(&(), Instant::now());
        leases.active().get_mut(held.key).unwrap().renewing = true;
        drop(Renewal { leases: leases.clone(), key: held.key }.run(()));
        assert!(!is_lost_within_a_minute(&held).await, "nothing renews it any more");
        assert!(store.renewals.load(Ordering::SeqCst) > 20);
    }

    #[test]
    fn outside_of_a_runtime_nothing_is_held() {
        let (leases, _) = leases();
        assert!(catch_unwind(AssertUnwindSafe(|| leases.hold(&(), Instant::now()))).is_err());
        assert!(leases.active().runtimes.is_empty(), "a lease is kept that nobody holds");
        runtime().block_on(async {
            let held = leases.hold(&(), Instant::now());
            assert!(!is_lost_within_a_minute(&held).await, "nothing renews it");
        });
        // Nor in one that is shutting down: its holder hears of it.
        let ended = {
            let runtime = runtime();
            runtime.handle().clone()
        };
        let _in_ended = ended.enter();
        let held = leases.hold(&(), Instant::now());
        assert!(!held.is_held());
    }
}
