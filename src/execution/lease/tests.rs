//! Renewal, and the ends of leases, by a paused clock.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::runtime::{Builder, Runtime};
use tracing::Span;

use super::renewal::Renewal;
use super::*;
use crate::store::{Fenced, StoreError};

const SECOND: Duration = Duration::from_secs(1);
const TIMES: Times = Times { lease: Duration::from_secs(6), renew_every: SECOND, call: SECOND, tick: SECOND };

/// A store that renews leases at once, or hangs, or says that they have passed on.
#[derive(Debug, Default)]
struct Store {
    hangs: AtomicBool,
    is_stale: AtomicBool,
    renewals: AtomicUsize,
}

#[async_trait]
impl Renew for Arc<Store> {
    type Token = ();

    fn span((): &()) -> Span {
        Span::none()
    }

    async fn renew(&self, (): &()) -> Result<Fenced, StoreError> {
        self.renewals.fetch_add(1, Ordering::SeqCst);
        if self.hangs.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        Ok(if self.is_stale.load(Ordering::SeqCst) { Fenced::Stale } else { Fenced::Applied })
    }
}

fn leases() -> (Arc<Leases<Arc<Store>>>, Arc<Store>) {
    let store = Arc::new(Store::default());
    (Leases::new(store.clone(), TIMES), store)
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

/// Whether a lease is lost within a minute.
async fn is_lost_within_a_minute(held: &HeldLease<Arc<Store>>) -> bool {
    until(pin!(held.lost()), || sleep(SECOND * 60)).await.is_ok()
}

#[tokio::test(start_paused = true)]
async fn leases_are_renewed_again_after_a_time_without_any() {
    let (leases, store) = leases();
    for _ in 0..2 {
        store.renewals.store(0, Ordering::SeqCst);
        let held = leases.hold((), Instant::now());
        assert!(!is_lost_within_a_minute(&held).await);
        assert!(store.renewals.load(Ordering::SeqCst) > 20, "the lease was not renewed");
        drop(held);
        sleep(SECOND * 10).await;
        assert!(leases.table().runtimes.is_empty(), "the task's end was not noted");
    }
}

#[test]
fn a_runtime_that_stands_still_or_ends_takes_no_lease_of_another_with_it() {
    let (leases, _) = leases();
    let (first, second) = (runtime(), runtime());
    // It begins to renew, and is not driven any further.
    let stands = first.block_on(async { leases.hold((), Instant::now()) });
    second.block_on(async {
        let held = leases.hold((), Instant::now());
        assert!(!is_lost_within_a_minute(&held).await, "while another runtime stands still");
    });
    let second = second.block_on(async {
        let held = leases.hold((), Instant::now());
        sleep(SECOND * 3).await;
        std::thread::spawn(move || drop(first)).join().unwrap();
        assert!(!stands.is_held(Instant::now()), "held in a runtime that ended");
        assert!(!is_lost_within_a_minute(&held).await, "after another runtime ended");
        held
    });
    drop(second);
}

#[test]
fn the_holder_notices_the_end_of_its_lease_without_any_task() {
    let (leases, _) = leases();
    let (holds, notices) = (runtime(), runtime());
    let held = holds.block_on(async { leases.hold((), Instant::now()) });
    notices.block_on(async {
        // The clock of another runtime: only what passes by it counts.
        leases.table().get_mut(held.key).unwrap().since = Instant::now();
        let began = Instant::now();
        assert!(is_lost_within_a_minute(&held).await, "the end was not noticed");
        assert_eq!(began.elapsed(), TIMES.lease - TIMES.tick);
    });
    assert!(!held.is_held(Instant::now()));
}

#[tokio::test(start_paused = true)]
async fn a_lease_ends_a_tick_early_and_counts_from_the_call_that_renewed_it() {
    let (leases, store) = leases();
    store.hangs.store(true, Ordering::SeqCst);
    let began = Instant::now();
    let held = leases.hold((), began);
    assert!(is_lost_within_a_minute(&held).await);
    assert_eq!(began.elapsed(), TIMES.lease - TIMES.tick);
    let began = Instant::now();
    tokio::time::advance(SECOND * 4).await;
    let held = leases.hold((), began);
    assert!(held.is_held(Instant::now()));
    assert!(is_lost_within_a_minute(&held).await);
    assert_eq!(began.elapsed(), TIMES.lease - TIMES.tick, "counted from the reply");
}

#[tokio::test(start_paused = true)]
async fn the_holder_of_a_lease_that_has_passed_on_notices_at_the_next_renewal() {
    let (leases, store) = leases();
    let (held, began) = (leases.hold((), Instant::now()), Instant::now());
    store.is_stale.store(true, Ordering::SeqCst);
    assert!(is_lost_within_a_minute(&held).await);
    assert!(began.elapsed() <= TIMES.renew_every, "noticed after {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_lost_stays_lost_when_another_takes_its_place() {
    let (leases, store) = leases();
    store.hangs.store(true, Ordering::SeqCst);
    let lost = leases.hold((), Instant::now());
    sleep(TIMES.lease - TIMES.tick / 2).await;
    let held = leases.hold((), Instant::now());
    assert_eq!(held.key.place, lost.key.place);
    assert!(!lost.is_held(Instant::now()), "held by the entry of another lease");
    drop(lost);
    assert!(held.is_held(Instant::now()), "lost with another lease");
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_is_dropped_is_followed_by_another() {
    let (leases, store) = leases();
    let held = leases.hold((), Instant::now());
    leases.table().get_mut(held.key).unwrap().renewing = true;
    drop(Renewal { leases: leases.clone(), key: held.key }.run(()));
    assert!(!is_lost_within_a_minute(&held).await, "nothing renews it any more");
    assert!(store.renewals.load(Ordering::SeqCst) > 20);
}

#[test]
fn outside_of_a_runtime_nothing_is_held() {
    let (leases, _) = leases();
    assert!(catch_unwind(AssertUnwindSafe(|| leases.hold((), Instant::now()))).is_err());
    assert!(leases.table().runtimes.is_empty(), "a lease without a holder is kept");
    runtime().block_on(async {
        let held = leases.hold((), Instant::now());
        assert!(!is_lost_within_a_minute(&held).await, "nothing renews it");
    });
    // A runtime that is shutting down does not hold a lease either, and the holder notices.
    let ended = {
        let runtime = runtime();
        runtime.handle().clone()
    };
    let _in_ended = ended.enter();
    let held = leases.hold((), Instant::now());
    assert!(!held.is_held(Instant::now()));
}
