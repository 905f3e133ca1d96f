//! Calls of a dedup store that many checks make, each with the result they require.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::super::harness::{LAG, LONG, PendingCall, ROUNDING, SHORT, applied, at_once, job, stale};
use crate::dedup::{Claim, ClaimToken, DedupStore};
use crate::event::JobId;
use crate::store::StoreError;

/// Claims one job 64 times at once, through these handles in turn: one claim is granted.
pub(super) async fn one_is_granted(handles: &[&dyn DedupStore]) {
    let job = job();
    let tokens: Vec<_> = (0..64).map(|_| ClaimToken::new(&job)).collect();
    let calls = tokens.iter().zip(handles.iter().cycle());
    let claims = at_once(calls.map(|(token, handle)| handle.claim(token, LONG))).await;
    let mut owners = Vec::new();
    for (token, claim) in tokens.iter().zip(claims) {
        match claim {
            Ok(Claim::Acquired) => owners.push(token),
            claim => drop(in_progress(claim, LONG, "one of 64 claims of one job at once")),
        }
    }
    let granted = owners.len();
    assert_eq!(
        granted, 1,
        "{granted} of 64 claims of one job at once were granted, instead of 1; read and write in one atomic step"
    );
    applied(handles[0].complete(owners[0], LONG).await, "a completion by the one owner");
}

/// Checks that no write of this token, which does not own the job, applies.
pub(super) async fn strangers_are_stale(store: &dyn DedupStore, token: &ClaimToken) {
    stale(store.renew(token, LONG).await, "a renewal by a token that does not own the job");
    stale(store.complete(token, LONG).await, "a completion by a token that does not own the job");
    stale(store.release(token).await, "a release by a token that does not own the job");
}

/// Claims a free job with a new token.
pub(super) async fn acquire(store: &dyn DedupStore, job: &JobId, lease: Duration) -> ClaimToken {
    let token = ClaimToken::new(job);
    granted(store.claim(&token, lease).await, "a claim of a free job");
    token
}

/// Claims the job with a new token.
pub(super) fn claim<'a>(store: &'a dyn DedupStore, job: &JobId, lease: Duration) -> PendingCall<'a, Claim> {
    let token = ClaimToken::new(job);
    Box::pin(async move { store.claim(&token, lease).await })
}

/// Claims a job as soon as its lease or retention has ended, and checks that it lasted for `length` from `began` on.
pub(super) async fn acquire_when_free(
    store: &dyn DedupStore,
    job: &JobId,
    began: Instant,
    length: Duration,
) -> ClaimToken {
    loop {
        let (waited, token) = (began.elapsed(), ClaimToken::new(job));
        match store.claim(&token, LONG).await {
            Ok(Claim::Acquired) => {
                let elapsed = began.elapsed();
                assert!(
                    elapsed + ROUNDING >= length,
                    "a claim or retention of {length:?} ended after {elapsed:?}"
                );
                return token;
            }
            Ok(_) => assert!(
                waited < length + LAG,
                "a claim or retention of {length:?} still held after {waited:?}; was it written with another duration?"
            ),
            Err(error) => panic!("a claim failed: {error:?}"),
        }
        sleep(SHORT / 10).await;
    }
}

pub(super) fn granted(claim: Result<Claim, StoreError>, what: &str) {
    assert!(matches!(claim, Ok(Claim::Acquired)), "{what}: expected Ok(Acquired), got {claim:?}");
}

pub(super) fn in_progress(claim: Result<Claim, StoreError>, lease: Duration, what: &str) -> Duration {
    match claim {
        Ok(Claim::InProgress { retry_after }) if retry_after <= lease + LAG => retry_after,
        Ok(Claim::InProgress { retry_after }) => {
            panic!("{what}: `retry_after` is {retry_after:?} under a lease of {lease:?}")
        }
        other => panic!("{what}: expected InProgress, got {other:?}"),
    }
}

pub(super) fn done(claim: Result<Claim, StoreError>, what: &str) {
    assert!(matches!(claim, Ok(Claim::Done)), "{what}: expected Ok(Done), got {claim:?}");
}
