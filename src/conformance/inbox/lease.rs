//! Who may handle a row, and for how long.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::super::harness::{LONG, SHORT, applied, at_once, job, leases, stale};
use super::steps::*;
use crate::event::JobId;
use crate::inbox::{InboxAdmin, InboxState, InboxStore, Lease, Leased, Outcome};

/// Of 64 tasks that lease at once, each gets rows of its own, and no row is got twice.
///
/// # Panics
///
/// When a row is leased to two, or to nobody.
pub async fn inbox_a_row_is_leased_to_one(store: &dyn InboxStore) {
    leased_once(&[store]).await;
}

pub(super) async fn leased_once(handles: &[&dyn InboxStore]) {
    clear(handles[0]).await;
    for round in 0..5 {
        let mut jobs = HashSet::new();
        for _ in 0..40 {
            jobs.insert(received(handles[0]).await);
        }
        let mut leased = HashSet::new();
        // Who comes second at a row may leave without one, and ask again.
        for _ in 0..40 {
            let calls = (0..64).map(|call| handles[call % handles.len()].lease(1 + call % 3, LONG));
            for batch in at_once(calls).await {
                let batch =
                    batch.unwrap_or_else(|error| panic!("one of 64 leases at once failed: {error:?}"));
                for Leased { lease, .. } in batch.into_iter().filter(|row| jobs.contains(row.lease.job())) {
                    let first = leased.insert(lease.job().clone());
                    assert!(first, "round {round}: one row was leased to two callers at once");
                }
            }
            if leased.len() == jobs.len() {
                break;
            }
        }
        assert_eq!(leased.len(), jobs.len(), "round {round}: so many of the rows that were due were leased");
    }
}

/// A call leases no more rows than it asks for, and what it leaves is there for the next.
///
/// # Panics
///
/// When it leases more, or less than there is.
pub async fn inbox_no_more_is_leased_than_asked_for(store: &dyn InboxStore) {
    clear(store).await;
    let mut jobs = HashSet::new();
    for _ in 0..7 {
        jobs.insert(received(store).await);
    }
    for most in [0, 1, 3, 3] {
        match store.lease(most, LONG).await {
            Ok(leased) => {
                assert_eq!(leased.len(), most, "of seven rows that are due, {most} were asked for");
                jobs.retain(|job| leased.iter().all(|leased| leased.lease.job() != job));
            }
            Err(error) => panic!("a lease failed: {error:?}"),
        }
    }
    let left: Vec<_> = jobs.into_iter().collect();
    assert_eq!(find_all(store, &left, LONG).await.len(), left.len(), "what was not asked for is not there");
}

/// Those rows come first that have been due for longest: when they were received, when their delay was over,
/// or when their lease ended.
///
/// # Panics
///
/// When another order is kept.
pub async fn inbox_those_due_for_longest_come_first(store: &dyn InboxStore) {
    clear(store).await;
    let apart = Duration::from_millis(10);
    for delay in leases() {
        let mut jobs = Vec::new();
        for _ in 0..5 {
            jobs.push(received(store).await);
            sleep(apart).await;
        }
        let mut leased = Vec::new();
        for (place, job) in jobs.iter().enumerate() {
            let next = next_of(store, &jobs, if place == 4 { apart } else { LONG }).await;
            assert_eq!(next.job(), job, "not the event that was received first");
            leased.push(next);
        }
        // The lease of the last ends first, and the others are due in turn, one of them after a delay.
        sleep(apart * 2).await;
        settle(store, &leased[2], &release(Duration::ZERO)).await;
        let settled = Instant::now();
        settle(store, &leased[3], &retry(delay)).await;
        sleep(apart).await;
        settle(store, &leased[1], &retry(Duration::ZERO)).await;
        if settled.elapsed() >= delay {
            continue;
        }
        sleep(delay + apart).await;
        settle(store, &leased[0], &release(Duration::ZERO)).await;
        for (place, index) in [4, 2, 1, 3, 0].into_iter().enumerate() {
            let next = next_of(store, &jobs, LONG).await;
            assert_eq!(
                next.job(),
                &jobs[index],
                "another row came as number {place}: not the one due for longest"
            );
        }
        return;
    }
}

/// The next row of these jobs, one at a time.
async fn next_of(store: &dyn InboxStore, jobs: &[JobId], length: Duration) -> Lease {
    loop {
        match store.lease(1, length).await.as_deref() {
            Ok([leased]) if jobs.contains(leased.lease.job()) => return leased.lease.clone(),
            Ok([others]) => drop(store.settle(&others.lease, &Outcome::Done).await),
            other => panic!("of several rows that are due, one was asked for, and came {other:?}"),
        }
    }
}

/// An attempt is counted when its lease is taken, so that one which kills its process counts.
///
/// # Panics
///
/// When it is not counted, or a lease that ran out is not reported.
pub async fn inbox_an_attempt_is_counted_at_its_lease(store: &dyn InboxAdmin) {
    let job = received(store).await;
    for attempt in 1..=3 {
        let began = Instant::now();
        let leased = match attempt {
            1 => lease(store, &job, SHORT).await,
            _ => lease_again(store, &job).await,
        };
        assert_eq!(leased.attempt, attempt, "an attempt whose lease ran out was not counted");
        assert_eq!(leased.expired, attempt > 1, "attempt {attempt}: whether the lease before it ran out");
        let row = row(store, &job).await;
        assert_eq!(row.state, InboxState::Running, "the state of a leased row");
        assert_eq!(
            row.attempts, attempt,
            "an attempt is counted when its lease is taken, and not when it ends"
        );
        assert!(
            row.due_in.is_some_and(|left| left <= SHORT),
            "the end of its lease is said to be {:?}",
            row.due_in
        );
        sleep((began + SHORT * 2).duration_since(Instant::now())).await;
    }
}

/// Whether the handler had begun under a lease that ran out is known to the next lease, and to no later one.
///
/// # Panics
///
/// When it is forgotten or made up, or a stranger notes it.
pub async fn inbox_a_lease_says_whether_the_one_before_it_began(store: &dyn InboxStore) {
    let job = received(store).await;
    let mut last = lease(store, &job, SHORT).await.lease;
    for begins in [false, true, true, false] {
        if begins {
            for _ in 0..2 {
                applied(store.begin(&last).await, "the holder of a lease begins");
            }
        }
        sleep(SHORT * 2).await;
        let next = lease_again(store, &job).await;
        assert_eq!((next.expired, next.begun), (true, begins), "whether the lease that ran out was begun");
        stale(store.begin(&last).await, "to begin under a lease that was followed by another");
        last = next.lease;
    }
    applied(store.begin(&last).await, "the holder of a lease begins");
    settle(store, &last, &retry(Duration::ZERO)).await;
    stale(store.begin(&last).await, "to begin under a lease that was settled");
    let next = lease(store, &job, LONG).await;
    assert_eq!(
        (next.expired, next.begun),
        (false, false),
        "the lease before was settled: it did not run out"
    );
    settle(store, &next.lease, &Outcome::Done).await;
}

/// Leases a row whose lease has ended, for a short time.
async fn lease_again(store: &dyn InboxStore, job: &JobId) -> Leased {
    match find(store, job, SHORT).await {
        Some(leased) => leased,
        None => panic!("a row whose lease has ended was not leased again"),
    }
}

/// The fencing token of a row grows with every lease, however the one before ended, so that the handler can
/// fence its own writes with it.
///
/// # Panics
///
/// When it falls, or stands.
pub async fn inbox_the_fencing_token_grows_with_every_lease(store: &dyn InboxAdmin) {
    let job = job();
    store_event(store, &processing(&job)).await;
    let mut last = None;
    let mut next = |lease: &Lease, how: &str| {
        let grown = last.replace(lease.fence()).is_none_or(|last| last < lease.fence());
        assert!(grown, "the fencing token fell, or stood, after {how}");
    };
    let first = lease(store, &job, LONG).await.lease;
    next(&first, "nothing");
    settle(store, &first, &retry(Duration::ZERO)).await;
    let second = lease(store, &job, LONG).await.lease;
    next(&second, "a retry");
    settle(store, &second, &release(Duration::ZERO)).await;
    let third = lease(store, &job, SHORT).await.lease;
    next(&third, "an attempt was given back");
    sleep(SHORT * 2).await;
    let fourth = lease(store, &job, LONG).await.lease;
    next(&fourth, "a lease that ran out");
    settle(store, &fourth, &error("never")).await;
    assert!(replay(store, &job).await, "a dead row was not replayed");
    let fifth = lease(store, &job, LONG).await.lease;
    next(&fifth, "a replay");
    settle(store, &fifth, &Outcome::Done).await;
    store_event(store, &completed(&job)).await;
    let sixth = lease(store, &job, LONG).await.lease;
    next(&sixth, "the event of a row that was done was replaced");
    settle(store, &sixth, &Outcome::Done).await;
}

/// As long as a lease lasts, nobody else gets the row.
///
/// # Panics
///
/// When somebody does.
pub async fn inbox_a_lease_lasts_as_long_as_it_says(store: &dyn InboxStore) {
    clear(store).await;
    for length in leases() {
        let job = received(store).await;
        let began = Instant::now();
        lease(store, &job, length).await;
        sleep(length / 2).await;
        let early = find(store, &job, LONG).await;
        if began.elapsed() < length {
            assert!(early.is_none(), "leased again when half of its lease was over");
            return;
        }
    }
}

/// A row whose lease was neither renewed nor settled is leased again when the lease ends: its process died.
///
/// # Panics
///
/// When that is early, or not within two seconds.
pub async fn inbox_a_lease_ends(store: &dyn InboxStore) {
    let job = received(store).await;
    let began = Instant::now();
    lease(store, &job, SHORT).await;
    let again = lease_when_due(store, &job, began, SHORT).await;
    assert!(again.expired, "the lease before ran out, and nothing says so");
}

/// A renewal lasts for its own length from its own time, more or less than what was left.
///
/// # Panics
///
/// When the lease ends at another time.
pub async fn inbox_a_renewed_lease_counts_from_its_renewal(store: &dyn InboxStore) {
    clear(store).await;
    for length in leases() {
        let job = received(store).await;
        let leased = lease(store, &job, length).await.lease;
        sleep(length / 2).await;
        let renewed = Instant::now();
        applied(store.renew(&leased, length * 2).await, "the holder of a lease renews it");
        sleep(length).await;
        let early = find(store, &job, LONG).await;
        if renewed.elapsed() < length * 2 {
            assert!(early.is_none(), "leased again between the first lease's end and the renewed one's");
            lease_when_due(store, &job, renewed, length * 2).await;
            break;
        }
    }
    let job = received(store).await;
    let leased = lease(store, &job, LONG).await.lease;
    let renewed = Instant::now();
    applied(store.renew(&leased, SHORT).await, "the holder of a lease renews it for less than is left");
    lease_when_due(store, &job, renewed, SHORT).await;
}

/// A lease that ended unnoticed is renewed, and settled, as long as nobody else got the row: the work was done.
///
/// # Panics
///
/// When the late write is stale, or has no effect.
pub async fn inbox_a_lease_that_ended_is_still_the_last(store: &dyn InboxAdmin) {
    clear(store).await;
    let jobs = [received(store).await, received(store).await];
    let leased = find_all(store, &jobs, SHORT).await;
    let [renewed, settled] = leased.as_slice() else { panic!("of two rows, {} were leased", leased.len()) };
    sleep(SHORT * 2).await;
    let late = "after its lease ended, and nobody else came,";
    applied(store.renew(&renewed.lease, LONG).await, &format!("{late} its holder renews it"));
    applied(store.settle(&settled.lease, &Outcome::Done).await, &format!("{late} its holder settles it"));
    not_due(store, renewed.lease.job(), "renewed after its lease ended").await;
    not_due(store, settled.lease.job(), "done after its lease ended").await;
    assert_eq!(row(store, settled.lease.job()).await.state, InboxState::Done, "done after its lease ended");
}

/// When a row has been leased again, the holder before changes nothing, and neither does a number that was
/// never given out.
///
/// # Panics
///
/// When one of its writes applies, or takes effect.
pub async fn inbox_only_the_last_lease_writes(store: &dyn InboxAdmin) {
    strangers_are_stale(store, &Lease::new(job(), 1), "a lease of an unknown job").await;
    let job = received(store).await;
    let late = lease(store, &job, Duration::from_millis(1)).await.lease;
    sleep(Duration::from_millis(20)).await;
    let last = lease(store, &job, LONG).await.lease;
    let before = snapshot(store, &job).await;
    strangers_are_stale(store, &late, "a holder whose row was leased again").await;
    strangers_are_stale(store, &Lease::new(job.clone(), last.fence() + 1), "a number from the future").await;
    assert_eq!(snapshot(store, &job).await, before, "a stale write changed the row");
    not_due(store, &job, "after stale writes, the last lease").await;

    settle(store, &last, &retry(LONG)).await;
    let before = snapshot(store, &job).await;
    strangers_are_stale(store, &late, "a holder from before, of a row that waits").await;
    assert_eq!(snapshot(store, &job).await, before, "a stale write changed the row");
}

async fn strangers_are_stale(store: &dyn InboxStore, lease: &Lease, who: &str) {
    stale(store.begin(lease).await, &format!("to begin: {who}"));
    stale(store.renew(lease, LONG).await, &format!("a renewal: {who}"));
    for outcome in outcomes() {
        stale(store.settle(lease, &outcome).await, &format!("{outcome:?}: {who}"));
    }
}
