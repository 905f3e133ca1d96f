//! Leases: which rows, for how long, and which lease may write.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::super::harness::{LAG, LONG, SHORT, applied, at_once, job, leases, stale};
use super::steps::*;
use crate::event::JobId;
use crate::inbox::{InboxAdmin, InboxState, InboxStore, Lease, Leased, Outcome};

/// Of 64 calls that lease at once, no two get the same row, and every due row is leased.
pub(super) async fn a_row_is_leased_to_one_caller(store: &dyn InboxStore) {
    leased_once(&[store]).await;
}

/// Leases many rows at once, through these handles in turn: no row twice, and every row.
pub(super) async fn leased_once(handles: &[&dyn InboxStore]) {
    clear(handles[0]).await;
    for round in 0..5 {
        let mut jobs = HashSet::new();
        for _ in 0..40 {
            jobs.insert(received(handles[0]).await);
        }
        let mut leased = HashSet::new();
        // A call that loses the race for a row may return without one.
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
        assert_eq!(leased.len(), jobs.len(), "round {round}: the number of leased rows of those due");
    }
}

/// A call leases as many due rows as its limit, and leaves the others to the next call.
pub(super) async fn no_more_rows_are_leased_than_the_limit(store: &dyn InboxStore) {
    clear(store).await;
    let mut jobs = HashSet::new();
    for _ in 0..7 {
        jobs.insert(received(store).await);
    }
    for most in [0, 1, 3, 3] {
        match store.lease(most, LONG).await {
            Ok(leased) => {
                assert_eq!(
                    leased.len(),
                    most,
                    "the number of leased rows with a limit of {most}, of more due rows"
                );
                jobs.retain(|job| leased.iter().all(|leased| leased.lease.job() != job));
            }
            Err(error) => panic!("a lease failed: {error:?}"),
        }
    }
    let left: Vec<_> = jobs.into_iter().collect();
    assert_eq!(
        find_all(store, &left, LONG).await.len(),
        left.len(),
        "the number of leased rows of those left by earlier calls"
    );
}

/// Rows are leased in the order in which they became due: at their receipt, after their delay, or at the end of their
/// lease.
pub(super) async fn rows_due_for_longest_come_first(store: &dyn InboxStore) {
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
            assert_eq!(next.job(), job, "leased before a row that was received earlier");
            leased.push(next);
        }
        // The lease of the last row ends first. The others become due in turn, one of them after a delay.
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
                "the row leased as number {place} is not the one due for longest"
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
            other => panic!("leasing one of several due rows: expected one row, got {other:?}"),
        }
    }
}

/// An attempt is counted when its lease begins, so that one which kills its process counts too.
pub(super) async fn an_attempt_is_counted_at_its_lease(store: &dyn InboxAdmin) {
    let job = received(store).await;
    for attempt in 1..=3 {
        let began = Instant::now();
        let leased = match attempt {
            1 => lease(store, &job, SHORT).await,
            _ => lease_again(store, &job).await,
        };
        assert_eq!(leased.attempt, attempt, "the attempt after {} expired leases", attempt - 1);
        assert_eq!(leased.expired, attempt > 1, "whether the lease before attempt {attempt} expired");
        let row = row(store, &job).await;
        assert_eq!(row.state, InboxState::Running, "the state of a leased row");
        assert_eq!(
            row.attempts, attempt,
            "attempts of a leased row; count an attempt when its lease begins, not when it ends"
        );
        assert!(
            row.due_in.is_some_and(|left| left <= SHORT + LAG),
            "`due_in` of a leased row is {:?}, and its lease at most 250 ms",
            row.due_in
        );
        sleep((began + SHORT * 2).duration_since(Instant::now())).await;
    }
}

/// A lease tells whether the handler began under the lease before it, if that one expired; later leases do not.
pub(super) async fn a_lease_tells_whether_the_handler_began_before(store: &dyn InboxStore) {
    let job = received(store).await;
    let mut last = lease(store, &job, SHORT).await.lease;
    let mut has_begun = false;
    for begins in [false, true, true, false] {
        has_begun |= begins;
        if begins {
            for _ in 0..2 {
                applied(store.begin(&last).await, "a begin under the last lease");
            }
        }
        sleep(SHORT * 2).await;
        let next = lease_again(store, &job).await;
        assert_eq!(
            (next.expired, next.begun),
            (true, has_begun),
            "whether the lease before expired, and the handler began under an expired one"
        );
        stale(store.begin(&last).await, "a begin under a lease that another one followed");
        last = next.lease;
    }
    applied(store.begin(&last).await, "a begin under the last lease");
    settle(store, &last, &retry(Duration::ZERO)).await;
    stale(store.begin(&last).await, "a begin under a settled lease");
    let next = lease(store, &job, LONG).await;
    assert_eq!(
        (next.expired, next.begun),
        (false, false),
        "whether a settled lease expired, and the handler began under it"
    );
    settle(store, &next.lease, &Outcome::Done).await;
}

/// Leases a row after its lease ended, for a short time.
async fn lease_again(store: &dyn InboxStore, job: &JobId) -> Leased {
    let began = Instant::now();
    loop {
        if let Some(leased) = find(store, job, SHORT).await {
            return leased;
        }
        assert!(began.elapsed() < LAG, "a row was not leased again after its lease ended");
        sleep(SHORT / 10).await;
    }
}

/// The fencing token of a row grows with every lease, however the lease before it ended.
pub(super) async fn the_fencing_token_grows_with_every_lease(store: &dyn InboxAdmin) {
    let job = job();
    store_event(store, &processing(&job)).await;
    let mut last = None;
    let mut next = |lease: &Lease, how: &str| {
        let grown = last.replace(lease.fence()).is_none_or(|last| last < lease.fence());
        assert!(grown, "the fencing token did not grow after {how}");
    };
    let first = lease(store, &job, LONG).await.lease;
    next(&first, "nothing");
    settle(store, &first, &retry(Duration::ZERO)).await;
    let second = lease(store, &job, LONG).await.lease;
    next(&second, "a retry");
    settle(store, &second, &release(Duration::ZERO)).await;
    let third = lease(store, &job, SHORT).await.lease;
    next(&third, "a released attempt");
    sleep(SHORT * 2).await;
    let fourth = lease(store, &job, LONG).await.lease;
    next(&fourth, "an expired lease");
    settle(store, &fourth, &error("never")).await;
    assert!(replay(store, &job).await, "a dead letter was not replayed");
    let fifth = lease(store, &job, LONG).await.lease;
    next(&fifth, "a replay");
    settle(store, &fifth, &Outcome::Done).await;
    store_event(store, &completed(&job)).await;
    let sixth = lease(store, &job, LONG).await.lease;
    next(&sixth, "a final event for a done row");
    settle(store, &sixth, &Outcome::Done).await;
}

/// A row is not leased again before its lease ends.
pub(super) async fn a_lease_lasts_for_its_length(store: &dyn InboxStore) {
    clear(store).await;
    for length in leases() {
        let job = received(store).await;
        let began = Instant::now();
        lease(store, &job, length).await;
        sleep(length / 2).await;
        let early = find(store, &job, LONG).await;
        if began.elapsed() < length {
            assert!(early.is_none(), "leased again half way through its lease");
            return;
        }
    }
}

/// The row of a crashed process is leased again when its lease ends, at most two seconds later.
pub(super) async fn a_lease_ends(store: &dyn InboxStore) {
    let job = received(store).await;
    let began = Instant::now();
    lease(store, &job, SHORT).await;
    let again = lease_when_due(store, &job, began, SHORT).await;
    assert!(again.expired, "the lease does not report that the one before expired");
}

/// A renewed lease lasts for its own length from the renewal, more or less than the time that was left.
pub(super) async fn a_renewed_lease_counts_from_its_renewal(store: &dyn InboxStore) {
    clear(store).await;
    for length in leases() {
        let job = received(store).await;
        let leased = lease(store, &job, length).await.lease;
        sleep(length / 2).await;
        let renewed = Instant::now();
        applied(store.renew(&leased, length * 2).await, "a renewal of the last lease");
        sleep(length).await;
        let early = find(store, &job, LONG).await;
        if renewed.elapsed() < length * 2 {
            assert!(early.is_none(), "leased again after the first lease ended, before the renewed one ends");
            lease_when_due(store, &job, renewed, length * 2).await;
            break;
        }
    }
    let job = received(store).await;
    let leased = lease(store, &job, LONG).await.lease;
    let renewed = Instant::now();
    applied(store.renew(&leased, SHORT).await, "a renewal for less than the time left");
    lease_when_due(store, &job, renewed, SHORT).await;
}

/// An expired lease is renewed and settled as long as the row has not been leased again.
pub(super) async fn an_expired_lease_still_writes(store: &dyn InboxAdmin) {
    clear(store).await;
    let jobs = [received(store).await, received(store).await];
    let leased = find_all(store, &jobs, SHORT).await;
    let [renewed, settled] = leased.as_slice() else { panic!("of two rows, {} were leased", leased.len()) };
    sleep(SHORT * 2).await;
    let late = "the last lease after its end";
    applied(store.renew(&renewed.lease, LONG).await, &format!("renewing {late}"));
    applied(store.settle(&settled.lease, &Outcome::Done).await, &format!("settling {late}"));
    not_due(store, renewed.lease.job(), "a row renewed after its lease ended").await;
    not_due(store, settled.lease.job(), "a row settled as done after its lease ended").await;
    assert_eq!(
        row(store, settled.lease.job()).await.state,
        InboxState::Done,
        "a row settled as done after its lease ended"
    );
}

/// An earlier lease of a row changes nothing, and neither does a fencing token that no lease has had.
pub(super) async fn only_the_last_lease_writes(store: &dyn InboxAdmin) {
    strangers_are_stale(store, &Lease::new(job(), 1), "a lease of an unknown job").await;
    let job = received(store).await;
    let late = lease(store, &job, Duration::from_millis(1)).await.lease;
    sleep(Duration::from_millis(20)).await;
    let last = lease(store, &job, LONG).await.lease;
    let before = snapshot(store, &job).await;
    strangers_are_stale(store, &late, "a lease that another one followed").await;
    strangers_are_stale(
        store,
        &Lease::new(job.clone(), last.fence() + 1),
        "a fencing token that no lease has had",
    )
    .await;
    assert_eq!(snapshot(store, &job).await, before, "a stale write changed the row");
    not_due(store, &job, "a leased row after stale writes").await;

    settle(store, &last, &retry(LONG)).await;
    let before = snapshot(store, &job).await;
    strangers_are_stale(store, &late, "an earlier lease of a row between two attempts").await;
    assert_eq!(snapshot(store, &job).await, before, "a stale write changed the row");
}

/// Checks that no write under this lease, which is not the last of its row, applies.
pub(super) async fn strangers_are_stale(store: &dyn InboxStore, lease: &Lease, which: &str) {
    stale(store.begin(lease).await, &format!("a begin under {which}"));
    stale(store.renew(lease, LONG).await, &format!("a renewal of {which}"));
    for outcome in outcomes() {
        stale(store.settle(lease, &outcome).await, &format!("{outcome:?} under {which}"));
    }
}
