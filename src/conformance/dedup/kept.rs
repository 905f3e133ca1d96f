//! The jobs a store must keep apart: any id, many of them, through several handles.

use super::super::harness::{LONG, applied, at_once, job, odd_jobs};
use super::steps::*;
use crate::dedup::{ClaimToken, DedupStore};

/// Ids are opaque: up to 255 visible ASCII characters, compared exactly, without any special meaning.
pub(super) async fn ids_are_compared_exactly(store: &dyn DedupStore) {
    let tokens: Vec<_> = odd_jobs().iter().map(ClaimToken::new).collect();
    for token in &tokens {
        let job = token.job();
        granted(store.claim(token, LONG).await, &format!("the first claim of the id {job}"));
    }
    for token in &tokens {
        let job = token.job();
        in_progress(claim(store, job, LONG).await, LONG, &format!("a second claim of the id {job}"));
        applied(store.complete(token, LONG).await, "a completion by the owner");
        done(claim(store, job, LONG).await, &format!("a claim of the completed id {job}"));
    }
}

/// A thousand jobs, claimed and completed 64 at a time, are all done, and no other job is.
pub(super) async fn many_jobs_are_kept_apart(store: &dyn DedupStore) {
    let jobs: Vec<_> = (0..1000).map(|_| job()).collect();
    for jobs in jobs.chunks(64) {
        let tokens: Vec<_> = jobs.iter().map(ClaimToken::new).collect();
        for claim in at_once(tokens.iter().map(|token| store.claim(token, LONG))).await {
            granted(claim, "a claim of one job among many");
        }
        for completed in at_once(tokens.iter().map(|token| store.complete(token, LONG))).await {
            applied(completed, "a completion of one job among many");
        }
    }
    for jobs in jobs.chunks(64) {
        for claim in at_once(jobs.iter().map(|job| claim(store, job, LONG))).await {
            done(claim, "a claim of one completed job among many");
        }
    }
    acquire(store, &job(), LONG).await;
}

/// Two handles of one store, such as two connections or processes, see the same jobs.
pub(super) async fn two_handles_are_one_store(store: &dyn DedupStore, other: &dyn DedupStore) {
    for _ in 0..10 {
        one_is_granted(&[store, other]).await;
    }
    let job = job();
    let token = acquire(store, &job, LONG).await;
    in_progress(claim(other, &job, LONG).await, LONG, "a claim through another handle");
    applied(other.renew(&token, LONG).await, "a renewal through another handle");
    applied(other.release(&token).await, "a release through another handle");
    let token = acquire(store, &job, LONG).await;
    applied(other.complete(&token, LONG).await, "a completion through another handle");
    done(claim(store, &job, LONG).await, "a claim after a completion through another handle");
}
