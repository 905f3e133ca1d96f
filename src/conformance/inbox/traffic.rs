//! Counts by minute.

use std::time::Duration;

use tokio::time::Instant;

use super::super::harness::{LONG, applied, at_once, job, stale};
use super::steps::*;
use crate::event::JobId;
use crate::inbox::{InboxAdmin, InboxTraffic, Lease, Outcome, Receipt};

/// The minutes that are compared: those that a store forgets meanwhile are not.
const COMPARED: u32 = 24 * 60 - 60;

/// Each event that is stored counts as received in its minute: not a duplicate, nor a registration, nor a replay.
pub(super) async fn stored_events_are_counted_by_minute(store: &dyn InboxAdmin) {
    let counting = Counting::begin(store, |minute| minute.received).await;
    let twice = job();
    store_event(store, &processing(&twice)).await;
    receipt(store.receive(&processing(&twice)).await, Receipt::Duplicate, "a duplicate");
    store_event(store, &completed(&twice)).await;
    let other = event(&twice, "extract", "completed", "other");
    receipt(store.receive(&other).await, Receipt::Conflict, "another final event");
    counting.check(store, 2, "received after two events of one job, a duplicate and a conflict").await;

    let expected = job();
    expect(store, &expected, LONG).await;
    counting.check(store, 2, "received after a registration").await;
    store_event(store, &completed(&expected)).await;
    counting.check(store, 3, "received after the event of a registered job").await;

    let overdue = overdue_lease(store, &job()).await.lease;
    let fetched = completed(overdue.job());
    for _ in 0..2 {
        applied(store.verify(&overdue, &fetched).await, "storing the fetched event of an overdue job");
    }
    counting.check(store, 4, "received after the fetched event of an overdue job, stored twice").await;
    let leased = lease(store, overdue.job(), LONG).await.lease;
    applied(store.verify(&leased, &fetched).await, "storing a fetched event of a running row");
    settle(store, &leased, &error("never")).await;
    assert!(replay(store, overdue.job()).await, "a dead letter was not replayed");
    counting.check(store, 4, "received after a fetched event of a running row, and a replay").await;

    let many: Vec<_> = (0..70).map(|_| completed(&job())).collect();
    for stored in at_once(many.iter().map(|event| store.receive(event))).await {
        receipt(stored, Receipt::Stored, "one of many events at once");
    }
    counting.check(store, 74, "received after 70 events at once").await;
}

/// Each row that becomes done counts as handled in its minute, once.
pub(super) async fn handled_events_are_counted_by_minute(store: &dyn InboxAdmin) {
    let job = received(store).await;
    let counting = Counting::begin(store, |minute| minute.handled).await;
    settle(store, &lease_alone(store, &job).await, &retry(Duration::ZERO)).await;
    settle(store, &lease_alone(store, &job).await, &release(Duration::ZERO)).await;
    let third = lease_alone(store, &job).await;
    settle(store, &third, &error("never")).await;
    assert!(replay(store, &job).await, "a dead letter was not replayed");
    counting.check(store, 0, "handled after a retry, a release, a dead letter and its replay").await;
    let fourth = lease_alone(store, &job).await;
    for _ in 0..3 {
        settle(store, &fourth, &Outcome::Done).await;
    }
    stale(store.settle(&third, &Outcome::Done).await, "an outcome of an earlier lease");
    counting.check(store, 1, "handled after an outcome that was repeated twice").await;
    assert!(replay(store, &job).await, "a done row was not replayed");
    let fifth = lease_alone(store, &job).await;
    for settled in at_once((0..4).map(|_| store.settle(&fifth, &Outcome::Done))).await {
        applied(settled, "one of four equal outcomes at once");
    }
    counting.check(store, 2, "handled after a replay, and four equal outcomes at once").await;

    let again = super::super::harness::job();
    expect(store, &again, LONG).await;
    store_event(store, &processing(&again)).await;
    settle(store, &lease_alone(store, &again).await, &Outcome::Done).await;
    counting
        .check(store, 2, "handled after an event without a final status, whose job is expected again")
        .await;
}

/// Leases the row of a job, which must be due, and settles no other.
async fn lease_alone(store: &dyn InboxAdmin, job: &JobId) -> Lease {
    loop {
        let leased = store.lease(64, LONG).await.unwrap_or_else(|error| panic!("a lease failed: {error:?}"));
        assert!(!leased.is_empty(), "a due row was not leased");
        let lease = leased.into_iter().map(|leased| leased.lease).find(|lease| lease.job() == job);
        if let Some(lease) = lease {
            return lease;
        }
    }
}

/// The counts at the beginning of a check.
struct Counting {
    began: Instant,
    before: Vec<InboxTraffic>,
    count: fn(&InboxTraffic) -> u64,
}

impl Counting {
    async fn begin(store: &dyn InboxAdmin, count: fn(&InboxTraffic) -> u64) -> Self {
        Self { began: Instant::now(), before: traffic(store).await, count }
    }

    /// Checks how many more were counted since the beginning.
    async fn check(&self, store: &dyn InboxAdmin, more: u64, what: &str) {
        let after = traffic(store).await;
        let in_order = after.is_sorted_by(|later, earlier| later.minutes_ago < earlier.minutes_ago);
        assert!(in_order, "the minutes are not in order: {after:?}");
        // The earlier minutes are further back now.
        let most = u32::try_from(self.began.elapsed().as_secs() / 60).unwrap_or(u32::MAX) + 1;
        let found: Vec<_> = (0..=most).map(|passed| self.more(&after, passed)).collect();
        assert!(
            found.contains(&Some(more)),
            "{what}: {more} more in the last {} minutes, and none elsewhere; got {after:?} after {:?}",
            most + 1,
            self.before
        );
    }

    /// The count of the current minute and those that have passed, less what it was; `None` if an earlier minute has
    /// changed.
    fn more(&self, after: &[InboxTraffic], passed: u32) -> Option<u64> {
        let of = |minutes: &[InboxTraffic], minutes_ago: u32| {
            minutes.iter().filter(|minute| minute.minutes_ago == minutes_ago).map(self.count).sum::<u64>()
        };
        let others = (1..COMPARED).all(|ago| of(after, ago + passed) == of(&self.before, ago));
        let new: u64 = (0..=passed).map(|ago| of(after, ago)).sum();
        others.then(|| new.checked_sub(of(&self.before, 0))).flatten()
    }
}

async fn traffic(store: &dyn InboxAdmin) -> Vec<InboxTraffic> {
    store.traffic().await.unwrap_or_else(|error| panic!("`traffic` failed: {error:?}"))
}
