//! Completion and release, and the tokens that may write.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::super::harness::{LONG, SHORT, applied, at_once, job, stale};
use super::steps::*;
use crate::dedup::{ClaimToken, DedupStore};

/// A completed job is done for every token, for its retention instead of its lease.
pub(super) async fn a_completed_job_is_done(store: &dyn DedupStore) {
    let job = job();
    let token = acquire(store, &job, SHORT).await;
    applied(store.complete(&token, LONG).await, "a completion by the owner");
    for claim in at_once((0..64).map(|_| claim(store, &job, SHORT))).await {
        done(claim, "a claim of a completed job");
    }
    sleep(SHORT * 2).await;
    done(claim(store, &job, SHORT).await, "a claim of a completed job after the end of its former lease");
}

/// A completed job can be claimed after its retention, at most two seconds later, however long its lease was.
pub(super) async fn a_completed_job_is_forgotten_after_its_retention(store: &dyn DedupStore) {
    let job = job();
    let token = acquire(store, &job, LONG).await;
    let completed = Instant::now();
    applied(store.complete(&token, SHORT).await, "a completion by the owner");
    acquire_when_free(store, &job, completed, SHORT).await;
}

/// A completed job is done under every retention that a receiver may have, up to a century.
pub(super) async fn a_long_retention_does_not_overflow(store: &dyn DedupStore) {
    // A receiver's default and longest retention, and two that are zero in 32 bits of microseconds or milliseconds.
    let (week, century) = (Duration::from_secs(7 * 24 * 3600), Duration::from_secs(100 * 365 * 24 * 3600));
    for retention in [week, century, Duration::from_micros(1 << 32), Duration::from_millis(1 << 32)] {
        let job = job();
        let token = acquire(store, &job, LONG).await;
        let what = format!("a completion with a retention of {retention:?}");
        applied(store.complete(&token, retention).await, &what);
        done(claim(store, &job, LONG).await, &format!("a claim right after {what}"));
    }
}

/// A repeated completion, as after a lost reply, applies again.
pub(super) async fn completing_twice_is_completing_once(store: &dyn DedupStore) {
    let job = job();
    let token = acquire(store, &job, LONG).await;
    applied(store.complete(&token, LONG).await, "a completion by the owner");
    applied(store.complete(&token, LONG).await, "a second completion by the same owner");
    done(claim(store, &job, LONG).await, "a claim after two completions");
}

/// The last owner completes the job after its lease ended, if no other token has claimed the job.
pub(super) async fn a_job_is_completed_after_its_lease_ended(store: &dyn DedupStore) {
    let job = job();
    let token = acquire(store, &job, SHORT).await;
    sleep(SHORT * 2).await;
    applied(
        store.complete(&token, LONG).await,
        "a completion by the last owner after the lease ended, no other token having claimed the job",
    );
    done(claim(store, &job, LONG).await, "a claim after that completion");
}

/// The token that completed a job neither renews nor releases it.
pub(super) async fn a_completed_job_is_neither_renewed_nor_released(store: &dyn DedupStore) {
    let job = job();
    let token = acquire(store, &job, LONG).await;
    applied(store.complete(&token, LONG).await, "a completion by the owner");
    stale(store.renew(&token, LONG).await, "a renewal after the completion");
    stale(store.release(&token).await, "a release after the completion");
    done(claim(store, &job, LONG).await, "a claim after a renewal and a release of the completed job");
}

/// A released job is free for the next claim at once, and its former owner cannot release that claim.
pub(super) async fn a_release_frees_the_job_at_once(store: &dyn DedupStore) {
    let job = job();
    let first = acquire(store, &job, LONG).await;
    applied(store.release(&first).await, "a release by the owner");
    let second = acquire(store, &job, LONG).await;
    stale(store.release(&first).await, "a second release by the first owner");
    in_progress(claim(store, &job, LONG).await, LONG, "a claim after a release by the former owner");
    applied(store.complete(&second, LONG).await, "a completion by the second owner");
}

/// A token that never owned the job changes nothing.
pub(super) async fn only_the_owner_writes(store: &dyn DedupStore) {
    let job = job();
    let owner = acquire(store, &job, LONG).await;
    strangers_are_stale(store, &ClaimToken::new(&job)).await;
    in_progress(
        claim(store, &job, LONG).await,
        LONG,
        "a claim after writes by a token that never owned the job",
    );
    applied(store.complete(&owner, LONG).await, "a completion by the owner");
    strangers_are_stale(store, &ClaimToken::new(&job)).await;
    done(
        claim(store, &job, LONG).await,
        "a claim after writes to the completed job by a token that never owned it",
    );
}

/// An owner whose lease ended changes nothing once another token has claimed the job.
pub(super) async fn a_late_owner_is_stale(store: &dyn DedupStore) {
    let (job, began) = (job(), Instant::now());
    let late = acquire(store, &job, SHORT).await;
    let owner = acquire_when_free(store, &job, began, SHORT).await;
    strangers_are_stale(store, &late).await;
    in_progress(claim(store, &job, LONG).await, LONG, "a claim after writes by the late owner");
    applied(store.complete(&owner, LONG).await, "a completion by the owner");
}

/// An owner whose lease ended changes nothing once another token has completed the job.
pub(super) async fn a_late_owner_is_stale_after_another_completion(store: &dyn DedupStore) {
    let (job, began) = (job(), Instant::now());
    let late = acquire(store, &job, SHORT).await;
    let owner = acquire_when_free(store, &job, began, SHORT).await;
    applied(store.complete(&owner, LONG).await, "a completion by the owner");
    strangers_are_stale(store, &late).await;
    done(claim(store, &job, LONG).await, "a claim after writes by the late owner");
}

/// An owner whose lease ended changes nothing after another token has claimed and released the job.
///
/// Left out for a store with [`DedupDifference::ForgetsOwnersOfFreeJobs`](super::DedupDifference).
pub(super) async fn a_superseded_owner_stays_stale(store: &dyn DedupStore) {
    let (job, began) = (job(), Instant::now());
    let late = acquire(store, &job, SHORT).await;
    let owner = acquire_when_free(store, &job, began, SHORT).await;
    applied(store.release(&owner).await, "a release by the owner");
    strangers_are_stale(store, &late).await;
    acquire(store, &job, LONG).await;
}
