//! Claims and their leases.

use tokio::time::{Instant, sleep};

use super::super::harness::{LONG, SHORT, applied, at_once, job, leases};
use super::steps::*;
use crate::dedup::{ClaimToken, DedupStore};

/// Of 64 claims of one job at once, one is granted; the others are told that the job is in progress.
pub(super) async fn one_of_many_claims_is_granted(store: &dyn DedupStore) {
    for _ in 0..10 {
        one_is_granted(&[store]).await;
    }
}

/// Claims of different jobs at once are all granted.
pub(super) async fn claims_of_different_jobs_are_independent(store: &dyn DedupStore) {
    let tokens: Vec<_> = (0..64).map(|_| ClaimToken::new(&job())).collect();
    for claim in at_once(tokens.iter().map(|token| store.claim(token, LONG))).await {
        granted(claim, "a claim of a job that no token has claimed");
    }
}

/// A token repeats its claim, as after a lost reply: granted again, for a whole lease, while the job is free to run; done
/// once it is completed.
pub(super) async fn a_repeated_claim_is_granted_again(store: &dyn DedupStore) {
    let job = job();
    let token = acquire(store, &job, LONG / 4).await;
    granted(store.claim(&token, LONG).await, "a claim repeated with its token");
    let left =
        in_progress(claim(store, &job, LONG).await, LONG, "a claim by another token after a repeated claim");
    assert!(left > LONG / 2, "`retry_after` is {left:?} just after a claim for two minutes was repeated");
    applied(store.complete(&token, LONG).await, "a completion by the owner");
    done(store.claim(&token, LONG).await, "a claim repeated after its token completed the job");
}

/// A token that another token was before claims again: in progress until the job is free, then granted.
pub(super) async fn a_refused_token_may_claim_again(store: &dyn DedupStore) {
    let job = job();
    let first = acquire(store, &job, LONG).await;
    let second = ClaimToken::new(&job);
    for _ in 0..2 {
        in_progress(store.claim(&second, LONG).await, LONG, "a claim by another token");
    }
    strangers_are_stale(store, &second).await;
    applied(store.release(&first).await, "a release by the owner");
    granted(
        store.claim(&second, LONG).await,
        "a claim by a token that another one was before, after the release",
    );
    in_progress(claim(store, &job, LONG).await, LONG, "a claim by a third token");
    applied(store.complete(&second, LONG).await, "a completion by the new owner");
}

/// A token is another one if a single bit of its owner differs. The bits of the tokens of one process mostly differ in a few
/// places, so a store that keeps a part of them would confuse tokens of several processes alone.
pub(super) async fn owners_are_compared_in_every_bit(store: &dyn DedupStore) {
    let job = job();
    let owner = acquire(store, &job, LONG).await;
    let others: Vec<_> = (0..128).map(|bit| owner.with_flipped(1 << bit)).collect();
    let mut claims = at_once(others[..64].iter().map(|other| store.claim(other, LONG))).await;
    claims.extend(at_once(others[64..].iter().map(|other| store.claim(other, LONG))).await);
    for (bit, claim) in claims.into_iter().enumerate() {
        in_progress(
            claim,
            LONG,
            &format!("a claim by a token that differs from the owner's in bit {bit} of 128 alone"),
        );
    }
    strangers_are_stale(store, &others[0]).await;
    strangers_are_stale(store, &others[127]).await;
    applied(store.complete(&owner, LONG).await, "a completion by the owner");
}

/// Until the lease ends, the job is in progress for every other token, and `retry_after` is the time left.
pub(super) async fn a_claim_lasts_as_long_as_its_lease(store: &dyn DedupStore) {
    for lease in leases() {
        let (job, began) = (job(), Instant::now());
        let _token = acquire(store, &job, lease).await;
        sleep(lease / 2).await;
        let claim = claim(store, &job, LONG).await;
        if began.elapsed() < lease {
            in_progress(claim, lease, "a second claim, half a lease after the first");
            break;
        }
    }
    let job = job();
    let _token = acquire(store, &job, LONG).await;
    let left =
        in_progress(claim(store, &job, SHORT).await, LONG, "a second claim under a lease of two minutes");
    assert!(left > LONG / 2, "`retry_after` is {left:?} just after a lease of two minutes began");
}

/// The job of a crashed process is free when the lease ends, at most two seconds later.
pub(super) async fn a_claim_ends_with_its_lease(store: &dyn DedupStore) {
    let (job, began) = (job(), Instant::now());
    let _token = acquire(store, &job, SHORT).await;
    acquire_when_free(store, &job, began, SHORT).await;
}

/// A renewed lease lasts for its own length, counted from the renewal.
pub(super) async fn a_renewal_counts_from_its_own_time(store: &dyn DedupStore) {
    for lease in leases() {
        let job = job();
        let token = acquire(store, &job, lease).await;
        sleep(lease / 2).await;
        let renewed = Instant::now();
        applied(store.renew(&token, lease * 2).await, "a renewal by the owner");
        sleep(lease).await;
        let claim = claim(store, &job, LONG).await;
        if renewed.elapsed() < lease * 2 {
            in_progress(
                claim,
                lease * 2,
                "a claim after the first lease ended and before the renewed one ends",
            );
            acquire_when_free(store, &job, renewed, lease * 2).await;
            return;
        }
    }
}

/// The last owner renews an expired lease if no other token has claimed the job.
pub(super) async fn an_expired_lease_can_be_renewed(store: &dyn DedupStore) {
    let job = job();
    let token = acquire(store, &job, SHORT).await;
    sleep(SHORT * 2).await;
    applied(
        store.renew(&token, LONG).await,
        "a renewal by the last owner after the lease ended, no other token having claimed the job",
    );
    in_progress(claim(store, &job, LONG).await, LONG, "a claim after that renewal");
    applied(store.complete(&token, LONG).await, "a completion by the owner");
}
