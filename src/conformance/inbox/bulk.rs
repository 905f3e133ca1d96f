//! Dead letters that are discarded, and changes of many rows.

use std::time::Duration;

use super::super::harness::{LONG, at_once, job};
use super::lease::strangers_are_stale;
use super::steps::*;
use crate::event::JobId;
use crate::inbox::{Bulk, Changed, InboxAdmin, InboxFilter, InboxState, Outcome, Retention};
use crate::store::StoreError;

/// Only dead letters are discarded. Then the job is unknown, and its next event is new.
pub(super) async fn only_dead_letters_are_discarded(store: &dyn InboxAdmin) {
    for stage in [Stage::Expected, Stage::Received, Stage::Running, Stage::Waiting, Stage::Done] {
        let job = job();
        bring(store, &completed(&job), stage).await;
        let before = snapshot(store, &job).await;
        assert!(!discard(store, &job).await, "`discard` is true for a row that is {stage:?}");
        assert_eq!(snapshot(store, &job).await, before, "a discard changed a row that is {stage:?}");
    }
    assert!(!discard(store, &job()).await, "`discard` is true for an unknown job");

    let without_event = job();
    let overdue = overdue_lease(store, &without_event).await;
    settle(store, &overdue.lease, &rejected()).await;
    let with_event = job();
    bring(store, &completed(&with_event), Stage::Dead).await;
    let other = job();
    bring(store, &completed(&other), Stage::Dead).await;
    for job in [&without_event, &with_event] {
        assert!(discard(store, job).await, "a dead letter was not discarded");
        assert!(!contains(store, job).await, "`contains` is true for a discarded job");
        let kept = store.get(job).await;
        assert!(matches!(kept, Ok(None)), "a discarded row: expected Ok(None), got {kept:?}");
        assert!(!discard(store, job).await, "`discard` is true for a discarded job");
        assert!(!replay(store, job).await, "`replay` is true for a discarded job");
        not_due(store, job, "a discarded row").await;
        let again = event(job, "fill_pdf", "failed", "again");
        store_event(store, &again).await;
        let leased = lease(store, job, LONG).await;
        assert_eq!(&leased.body, again.body(), "the body of an event after its job was discarded");
        assert_eq!(
            (leased.attempt, leased.earlier_attempts),
            (1, 0),
            "attempt and earlier attempts after a job was discarded"
        );
        settle(store, &leased.lease, &Outcome::Done).await;
    }
    assert!(contains(store, &other).await, "another dead letter was discarded");
}

/// A lease of a row that was discarded or pruned is stale for the job's next row, whose fencing tokens are greater.
pub(super) async fn a_lease_of_a_deleted_row_writes_nothing(store: &dyn InboxAdmin) {
    for is_pruned in [false, true] {
        let job = received(store).await;
        let mut old = Vec::new();
        for _ in 0..3 {
            let leased = lease(store, &job, LONG).await.lease;
            settle(store, &leased, &retry(Duration::ZERO)).await;
            old.push(leased);
        }
        let last = lease(store, &job, LONG).await.lease;
        if is_pruned {
            settle(store, &last, &Outcome::Done).await;
            prune_all(store, &Retention::default().payload(Duration::ZERO).row(Duration::ZERO)).await;
        } else {
            settle(store, &last, &error("never")).await;
            assert!(discard(store, &job).await, "a dead letter was not discarded");
        }
        old.push(last);
        let how = if is_pruned { "pruned" } else { "discarded" };
        let which = format!("a lease of a row that was {how}");
        for lease in &old {
            strangers_are_stale(store, lease, &which).await;
        }
        store_event(store, &completed(&job)).await;
        let before = snapshot(store, &job).await;
        for lease in &old {
            strangers_are_stale(store, lease, &which).await;
        }
        assert_eq!(snapshot(store, &job).await, before, "{which} changed the next row of its job");
        for _ in 0..old.len() {
            let leased = lease(store, &job, LONG).await.lease;
            for old in &old {
                assert!(leased.fence() > old.fence(), "the fencing tokens begin anew after a row was {how}");
                strangers_are_stale(store, old, &which).await;
            }
            settle(store, &leased, &retry(Duration::ZERO)).await;
        }
        let last = lease(store, &job, LONG).await.lease;
        settle(store, &last, &Outcome::Done).await;
    }
}

/// Rows of one type that no other check has, in the order of arrival: four that can be replayed, of which three are dead
/// letters, among others that cannot.
struct Rows {
    jobs: Vec<JobId>,
    filter: InboxFilter,
}

/// The places of the rows that can be replayed, and of the dead letters.
const REPLAYABLE: [usize; 4] = [0, 2, 4, 6];
const DEAD: [usize; 3] = [0, 4, 6];

impl Rows {
    async fn new(store: &dyn InboxAdmin) -> Self {
        let (job_type, mut jobs) = (job().to_string(), Vec::new());
        for stage in [
            Stage::Dead,
            Stage::Waiting,
            Stage::Done,
            Stage::Running,
            Stage::Dead,
            Stage::Waiting,
            Stage::Dead,
            // The last one, as it is due.
            Stage::Received,
        ] {
            let job = job();
            bring(store, &event(&job, &job_type, "completed", ""), stage).await;
            jobs.push(job);
        }
        Self { jobs, filter: InboxFilter::default().job_type(job_type) }
    }

    async fn states(&self, store: &dyn InboxAdmin) -> Vec<Option<InboxState>> {
        let mut states = Vec::new();
        for job in &self.jobs {
            match store.get(job).await {
                Ok(row) => states.push(row.map(|(row, _)| row.state)),
                Err(error) => panic!("getting a row failed: {error:?}"),
            }
        }
        states
    }
}

/// Replays by a filter concern the rows that match and have ended, the oldest first, and no more than the limit.
pub(super) async fn rows_are_replayed_by_a_filter(store: &dyn InboxAdmin) {
    let stranger = job();
    bring(store, &completed(&stranger), Stage::Dead).await;
    let rows = Rows::new(store).await;
    let mut expected = rows.states(store).await;
    for (most, count, more) in [(0, 0, true), (2, 2, true), (4, 4, false), (u64::MAX, 4, false)] {
        let dry = changed(store.replay_all(&rows.filter, most, Bulk::DryRun).await);
        assert_eq!((dry.rows, dry.more), (count, more), "a dry run of replays of up to {most} of 4 rows");
        assert_eq!(rows.states(store).await, expected, "a dry run changed rows");
    }
    for (filter, matching) in [
        (rows.filter.clone().state(InboxState::Done), 1),
        (rows.filter.clone().state(InboxState::Dead), 3),
        (rows.filter.clone().state(InboxState::Running), 0),
        (rows.filter.clone().status("failed"), 0),
        (rows.filter.clone().error("never"), 3),
        (rows.filter.clone().job_prefix(rows.jobs[4].to_string()), 1),
        (rows.filter.clone().job_prefix(rows.jobs[7].to_string()), 0),
    ] {
        let dry = changed(store.replay_all(&filter, u64::MAX, Bulk::DryRun).await);
        assert_eq!(dry, Changed::new(matching, false), "a dry run of replays for {filter:?}");
    }
    let none = changed(store.replay_all(&rows.filter, 0, Bulk::Apply).await);
    assert_eq!(none, Changed::new(0, true), "replays of up to 0 of 4 rows");
    let first = changed(store.replay_all(&rows.filter, 3, Bulk::Apply).await);
    assert_eq!(first, Changed::new(3, true), "replays of up to 3 of 4 rows");
    for place in &REPLAYABLE[..3] {
        expected[*place] = Some(InboxState::Received);
    }
    assert_eq!(rows.states(store).await, expected, "the states after the first three rows were replayed");
    let row = row(store, &rows.jobs[0]).await;
    assert_eq!((row.attempts, row.earlier_attempts), (0, 1), "attempts and earlier attempts after a replay");
    let last = changed(store.replay_all(&rows.filter, u64::MAX, Bulk::Apply).await);
    assert_eq!(last, Changed::new(1, false), "replays of all rows, of which one is left");
    expected[REPLAYABLE[3]] = Some(InboxState::Received);
    assert_eq!(rows.states(store).await, expected, "the states after all rows were replayed");
    assert_eq!(self::row(store, &stranger).await.state, InboxState::Dead, "a row that does not match");
    let jobs: Vec<_> = REPLAYABLE.iter().map(|place| rows.jobs[*place].clone()).collect();
    assert_eq!(find_all(store, &jobs, LONG).await.len(), 4, "the number of leased rows of 4 replayed ones");
    clear(store).await;
}

/// Dead letters without an event are replayed by a filter, too.
pub(super) async fn rows_without_an_event_are_replayed_by_a_filter(store: &dyn InboxAdmin) {
    let job = job();
    let overdue = overdue_lease(store, &job).await;
    settle(store, &overdue.lease, &rejected()).await;
    let filter = InboxFilter::default().job_prefix(job.to_string());
    let replayed = changed(store.replay_all(&filter, u64::MAX, Bulk::Apply).await);
    assert_eq!(replayed, Changed::new(1, false), "replays of a dead row without an event");
    assert_eq!(
        row(store, &job).await.state,
        InboxState::Expected,
        "the state of a replayed row without an event"
    );
    lease_overdue(store, &job).await;
}

/// Discards by a filter concern the dead letters that match, the oldest first, and no more than the limit.
pub(super) async fn dead_letters_are_discarded_by_a_filter(store: &dyn InboxAdmin) {
    let stranger = job();
    bring(store, &completed(&stranger), Stage::Dead).await;
    let rows = Rows::new(store).await;
    let mut expected = rows.states(store).await;
    for (most, count, more) in [(0, 0, true), (2, 2, true), (3, 3, false), (u64::MAX, 3, false)] {
        let dry = changed(store.discard_all(&rows.filter, most, Bulk::DryRun).await);
        assert_eq!((dry.rows, dry.more), (count, more), "a dry run of discards of up to {most} of 3 rows");
        assert_eq!(rows.states(store).await, expected, "a dry run changed rows");
    }
    for state in [InboxState::Done, InboxState::Received, InboxState::Running] {
        let filter = rows.filter.clone().state(state);
        let none = changed(store.discard_all(&filter, u64::MAX, Bulk::Apply).await);
        assert_eq!(none, Changed::new(0, false), "discards of rows that are {state}");
    }
    let first = changed(store.discard_all(&rows.filter, 2, Bulk::Apply).await);
    assert_eq!(first, Changed::new(2, true), "discards of up to 2 of 3 rows");
    (expected[DEAD[0]], expected[DEAD[1]]) = (None, None);
    assert_eq!(rows.states(store).await, expected, "the states after the first two rows were discarded");
    let last = changed(store.discard_all(&rows.filter, u64::MAX, Bulk::Apply).await);
    assert_eq!(last, Changed::new(1, false), "discards of all rows, of which one is left");
    expected[DEAD[2]] = None;
    assert_eq!(rows.states(store).await, expected, "the states after all rows were discarded");
    assert!(contains(store, &stranger).await, "a row that does not match was discarded");
    clear(store).await;
}

/// A row is changed by one of several calls at once, and each call counts its own rows only.
pub(super) async fn rows_are_changed_by_one_of_many_calls(store: &dyn InboxAdmin) {
    const JOBS: usize = 40;
    for change in [Change::Replay, Change::Discard, Change::Both] {
        let (job_type, mut jobs) = (job().to_string(), Vec::new());
        for _ in 0..JOBS {
            let job = job();
            bring(store, &event(&job, &job_type, "completed", ""), Stage::Dead).await;
            jobs.push(job);
        }
        let filter = InboxFilter::default().job_type(&job_type);
        let results = at_once((0..4).map(|call| match change {
            Change::Discard => store.discard_all(&filter, u64::MAX, Bulk::Apply),
            Change::Both if call % 2 == 0 => store.discard_all(&filter, u64::MAX, Bulk::Apply),
            Change::Replay | Change::Both => store.replay_all(&filter, u64::MAX, Bulk::Apply),
        }))
        .await;
        let counted: Vec<u64> = results.into_iter().map(|result| changed(result).rows).collect();
        assert_eq!(
            counted.iter().sum::<u64>(),
            JOBS as u64,
            "rows changed by four calls at once: {counted:?}"
        );
        let mut left = 0;
        for job in &jobs {
            left += usize::from(contains(store, job).await);
        }
        let leased = find_all(store, &jobs, LONG).await;
        assert_eq!(leased.len(), left, "the number of leased rows of those that were not discarded");
        for leased in leased {
            assert_eq!(leased.earlier_attempts, 1, "a row was replayed twice");
            settle(store, &leased.lease, &Outcome::Done).await;
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Change {
    Replay,
    Discard,
    Both,
}

fn changed(result: Result<Changed, StoreError>) -> Changed {
    result.unwrap_or_else(|error| panic!("a change of many rows failed: {error:?}"))
}
