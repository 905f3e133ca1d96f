//! Pruning.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::super::harness::{LONG, job, leases};
use super::steps::*;
use crate::inbox::{InboxAdmin, InboxState, InboxStore, Outcome, Pruned, Receipt, Retention};

/// Pruning deletes first the bodies and then the rows of done rows, each after its retention, and nothing else. A row
/// without a body still recognises a duplicate; once the row is pruned, the job is new.
pub(super) async fn only_done_rows_are_pruned(store: &dyn InboxAdmin) {
    let done = completed(&job());
    bring(store, &done, Stage::Done).await;
    let mut kept = Vec::new();
    for stage in [Stage::Expected, Stage::Running, Stage::Waiting, Stage::Dead, Stage::Received] {
        let job = job();
        bring(store, &completed(&job), stage).await;
        let before = snapshot(store, &job).await;
        kept.push((stage, job, before));
    }
    let untouched = async |when: &str| {
        for (stage, job, before) in &kept {
            let after = store.get(job).await;
            assert!(matches!(after, Ok(Some(_))), "a row that is {stage:?} was pruned {when}");
            assert_eq!(&snapshot(store, job).await, before, "pruning {when} changed a row that is {stage:?}");
        }
    };

    prune(store, LONG, LONG).await;
    assert_eq!(
        get(store, done.job()).await.1.as_ref(),
        Some(done.body()),
        "the body before its retention ended"
    );
    untouched("before any retention ended").await;

    let pruned = prune(store, Duration::ZERO, LONG).await;
    assert!(pruned.payloads > 0, "no pruned body is reported after the retention of bodies");
    let (row, body) = get(store, done.job()).await;
    assert_eq!(
        (row.state, body),
        (InboxState::Done, None),
        "state and body of a done row after the retention of bodies"
    );
    untouched("with the retention of bodies over").await;
    receipt(store.receive(&done).await, Receipt::Duplicate, "a duplicate for a row without a body");
    assert!(!replay(store, done.job()).await, "`replay` is true for a row without a body");

    let pruned = prune(store, Duration::ZERO, Duration::ZERO).await;
    assert!(pruned.rows > 0, "no pruned row is reported after the retention of rows");
    assert!(!contains(store, done.job()).await, "a done row is still there after the retention of rows");
    untouched("with the retention of rows over").await;
    store_event(store, &done).await;
    assert_eq!(
        &lease(store, done.job(), LONG).await.body,
        done.body(),
        "the body of a job that is new after it was pruned"
    );
}

/// Dead letters are pruned after their own retention, which counts from their death. Without one, they stay.
pub(super) async fn dead_letters_are_pruned_only_after_their_retention(store: &dyn InboxAdmin) {
    let all = Retention::default().payload(Duration::ZERO).row(Duration::ZERO);
    for retention in leases() {
        let jobs = [received(store).await, received(store).await];
        let leased = find_all(store, &jobs, LONG).await;
        let mut kept = Vec::new();
        for stage in [Stage::Expected, Stage::Running, Stage::Waiting, Stage::Received] {
            let job = job();
            bring(store, &completed(&job), stage).await;
            kept.push((stage, snapshot(store, &job).await, job));
        }
        sleep(retention * 2).await;
        let died = Instant::now();
        settle(store, &leased[0].lease, &error("never")).await;
        settle(store, &leased[1].lease, &rejected()).await;
        prune_all(store, &all).await;
        prune_all(store, &all.dead(LONG)).await;
        for job in &jobs {
            assert!(contains(store, job).await, "a dead letter was pruned before its retention ended");
        }
        prune_all(store, &all.dead(retention)).await;
        let left = [contains(store, &jobs[0]).await, contains(store, &jobs[1]).await];
        if died.elapsed() >= retention {
            continue;
        }
        assert_eq!(left, [true; 2], "a dead letter was pruned as if it had died at its receipt");
        sleep(retention).await;
        let pruned = prune_all(store, &all.dead(retention)).await;
        assert!(pruned.dead >= 2, "of two pruned dead letters, {} are reported", pruned.dead);
        for job in &jobs {
            assert!(!contains(store, job).await, "a dead letter is still there after its retention");
        }
        for (stage, before, job) in &kept {
            assert_eq!(
                &snapshot(store, job).await,
                before,
                "pruning dead letters changed a row that is {stage:?}"
            );
        }
        return;
    }
}

/// Retention counts from the completion of a row, not from its receipt.
pub(super) async fn retention_counts_from_completion(store: &dyn InboxAdmin) {
    for retention in leases() {
        let job = received(store).await;
        let leased = lease(store, &job, LONG).await.lease;
        sleep(retention * 2).await;
        let done = Instant::now();
        settle(store, &leased, &Outcome::Done).await;
        prune(store, retention, retention).await;
        let kept = store.get(&job).await;
        if done.elapsed() < retention {
            assert!(matches!(kept, Ok(Some((_, Some(_))))), "pruned as if it had been done at its receipt");
            sleep(retention).await;
            prune(store, retention, retention).await;
            assert!(!contains(store, &job).await, "not pruned after its retention");
            return;
        }
    }
}

async fn prune(store: &dyn InboxStore, payload: Duration, row: Duration) -> Pruned {
    prune_all(store, &Retention::default().payload(payload).row(row)).await
}
