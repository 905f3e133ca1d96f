//! What a `DedupStore` must do.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::harness::{
    Call, LAG, LONG, MOST_POLLS, ROUNDING, SHORT, applied, at_once, cancelled_after, job, leases, odd_jobs,
    run_all, stale,
};
use crate::dedup::{Claim, ClaimToken, DedupStore};
use crate::event::JobId;
use crate::store::StoreError;

/// What a store may do differently from others; see [`dedup_all`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DedupDifference {
    /// When a job is free, the store does not know any more who had claimed it, and takes an earlier
    /// token for the owner's. [`dedup_a_superseded_owner_stays_stale`] is left out.
    ForgetsOwnersOfFreeJobs,
}

/// Runs every check, and panics with the names of those that failed and with what is wrong.
///
/// `other` is a second handle of the same store, such as another connection to the same server; when
/// there can be none, give the same one twice. `differences` are what is known of the store, and within
/// the contract.
///
/// # Panics
///
/// When the store does not keep the contract.
pub async fn dedup_all(store: &dyn DedupStore, other: &dyn DedupStore, differences: &[DedupDifference]) {
    let mut failures = String::new();
    run_all! { failures, None::<&str>;
        dedup_one_of_many_claims_is_granted(store);
        dedup_claims_of_different_jobs_are_independent(store);
        dedup_a_repeated_claim_is_its_own(store);
        dedup_a_claim_lasts_as_long_as_its_lease(store);
        dedup_a_claim_ends_with_its_lease(store);
        dedup_a_renewal_counts_from_its_own_time(store);
        dedup_a_renewal_mends_a_lease_that_ended(store);
        dedup_a_finished_job_is_done(store);
        dedup_a_finished_job_is_forgotten_after_its_retention(store);
        dedup_completing_twice_is_completing_once(store);
        dedup_a_job_is_completed_after_its_lease_ended(store);
        dedup_a_finished_job_is_not_claimed_again(store);
        dedup_a_release_frees_the_job_at_once(store);
        dedup_only_the_owner_writes(store);
        dedup_a_late_owner_is_stale(store);
        dedup_a_late_owner_is_stale_when_another_completed(store);
        dedup_ids_are_compared_exactly(store);
        dedup_many_jobs_are_kept_apart(store);
        dedup_a_cancelled_claim_ends_with_its_lease(store);
        dedup_a_cancelled_claim_is_released_by_its_token(store);
        dedup_a_cancelled_write_can_be_repeated(store);
        dedup_two_handles_are_one_store(store, other);
    }
    if !differences.contains(&DedupDifference::ForgetsOwnersOfFreeJobs) {
        run_all! { failures, None::<&str>; dedup_a_superseded_owner_stays_stale(store); }
    }
    assert!(failures.is_empty(), "the store does not keep the contract of DedupStore:{failures}");
}

/// Of 64 claims of one job at once, one is granted, and the others are told that it is in progress.
///
/// # Panics
///
/// When none is granted, or more than one.
pub async fn dedup_one_of_many_claims_is_granted(store: &dyn DedupStore) {
    for _ in 0..10 {
        one_is_granted(&[store]).await;
    }
}

/// A claim of one job says nothing about another.
///
/// # Panics
///
/// Panics if a job that nobody had claimed is not granted.
pub async fn dedup_claims_of_different_jobs_are_independent(store: &dyn DedupStore) {
    let tokens: Vec<_> = (0..64).map(|_| ClaimToken::new(&job())).collect();
    for claim in at_once(tokens.iter().map(|token| store.claim(token, LONG))).await {
        granted(claim, "a job that nobody has claimed");
    }
}

/// A claim whose reply was lost is repeated with its token, and is granted again; a job that the token completed
/// is done for it, too.
///
/// # Panics
///
/// Panics if the repetition is told that the job is in progress, or that a finished job is free.
pub async fn dedup_a_repeated_claim_is_its_own(store: &dyn DedupStore) {
    let job = job();
    let token = acquire(store, &job, LONG).await;
    granted(store.claim(&token, LONG).await, "a claim that is repeated with its token");
    in_progress(claim(store, &job, LONG).await, LONG, "after a claim that was repeated");
    applied(store.complete(&token, LONG).await, "the owner completes");
    done(store.claim(&token, LONG).await, "a claim that is repeated after its job was completed");
}

/// As long as a lease lasts, the job is in progress for everybody else, and they are told for how long.
///
/// # Panics
///
/// When the claim is gone early, or the time that is said to be left is not what is left.
pub async fn dedup_a_claim_lasts_as_long_as_its_lease(store: &dyn DedupStore) {
    for lease in leases() {
        let (job, began) = (job(), Instant::now());
        let _token = acquire(store, &job, lease).await;
        sleep(lease / 2).await;
        let claim = claim(store, &job, LONG).await;
        if began.elapsed() < lease {
            in_progress(claim, lease, "half a lease after a claim");
            break;
        }
    }
    let job = job();
    let _token = acquire(store, &job, LONG).await;
    let left = in_progress(claim(store, &job, SHORT).await, LONG, "under a lease of two minutes");
    assert!(left > LONG / 2, "two minutes have just begun, and {left:?} are said to be left of them");
}

/// A claim that is neither renewed nor completed is free when its lease ends: its process has died.
///
/// # Panics
///
/// When the job is free early, or not within two seconds.
pub async fn dedup_a_claim_ends_with_its_lease(store: &dyn DedupStore) {
    let (job, began) = (job(), Instant::now());
    let _token = acquire(store, &job, SHORT).await;
    acquire_when_free(store, &job, began, SHORT).await;
}

/// A renewal lasts for its own lease from its own time, whatever was left of the claim's.
///
/// # Panics
///
/// When the claim is gone before the renewed lease ends, or stays.
pub async fn dedup_a_renewal_counts_from_its_own_time(store: &dyn DedupStore) {
    for lease in leases() {
        let job = job();
        let token = acquire(store, &job, lease).await;
        sleep(lease / 2).await;
        let renewed = Instant::now();
        applied(store.renew(&token, lease * 2).await, "the owner renews");
        sleep(lease).await;
        let claim = claim(store, &job, LONG).await;
        if renewed.elapsed() < lease * 2 {
            in_progress(claim, lease * 2, "after the first lease, and before the renewed one's end");
            acquire_when_free(store, &job, renewed, lease * 2).await;
            return;
        }
    }
}

/// A lease that ended unnoticed is mended by its renewal, as long as nobody else claimed the job.
///
/// # Panics
///
/// When the renewal is stale, or the job is free after it.
pub async fn dedup_a_renewal_mends_a_lease_that_ended(store: &dyn DedupStore) {
    let job = job();
    let token = acquire(store, &job, SHORT).await;
    sleep(SHORT * 2).await;
    applied(
        store.renew(&token, LONG).await,
        "the last owner renews a lease that ended, and nobody else came",
    );
    in_progress(claim(store, &job, LONG).await, LONG, "after that renewal");
    applied(store.complete(&token, LONG).await, "the owner completes");
}

/// A job that was completed is done, for everybody, and for its retention instead of its lease.
///
/// # Panics
///
/// When it is claimed again.
pub async fn dedup_a_finished_job_is_done(store: &dyn DedupStore) {
    let job = job();
    let token = acquire(store, &job, SHORT).await;
    applied(store.complete(&token, LONG).await, "the owner completes");
    for claim in at_once((0..64).map(|_| claim(store, &job, SHORT))).await {
        done(claim, "after the job was completed");
    }
    sleep(SHORT * 2).await;
    done(claim(store, &job, SHORT).await, "when the lease of a completed job would have ended");
}

/// A finished job may be run again after its retention, however long its lease was.
///
/// # Panics
///
/// When it is free early, or not within two seconds.
pub async fn dedup_a_finished_job_is_forgotten_after_its_retention(store: &dyn DedupStore) {
    let job = job();
    let token = acquire(store, &job, LONG).await;
    let completed = Instant::now();
    applied(store.complete(&token, SHORT).await, "the owner completes");
    acquire_when_free(store, &job, completed, SHORT).await;
}

/// A completion whose reply was lost is repeated, and applies again.
///
/// # Panics
///
/// When the repetition is stale.
pub async fn dedup_completing_twice_is_completing_once(store: &dyn DedupStore) {
    let job = job();
    let token = acquire(store, &job, LONG).await;
    applied(store.complete(&token, LONG).await, "the owner completes");
    applied(store.complete(&token, LONG).await, "the same owner completes again");
    done(claim(store, &job, LONG).await, "after both completions");
}

/// Work that took longer than its lease was done, and counts, as long as nobody else claimed the job.
///
/// # Panics
///
/// When the completion is stale, or the job is not done after it.
pub async fn dedup_a_job_is_completed_after_its_lease_ended(store: &dyn DedupStore) {
    let job = job();
    let token = acquire(store, &job, SHORT).await;
    sleep(SHORT * 2).await;
    applied(
        store.complete(&token, LONG).await,
        "the last owner completes after its lease, and nobody else came",
    );
    done(claim(store, &job, LONG).await, "after that completion");
}

/// A finished job is neither renewed nor released by the token that completed it.
///
/// # Panics
///
/// When one of them applies, or the job is not done after them.
pub async fn dedup_a_finished_job_is_not_claimed_again(store: &dyn DedupStore) {
    let job = job();
    let token = acquire(store, &job, LONG).await;
    applied(store.complete(&token, LONG).await, "the owner completes");
    stale(store.renew(&token, LONG).await, "a renewal after the completion");
    stale(store.release(&token).await, "a release after the completion");
    done(claim(store, &job, LONG).await, "after a renewal and a release that came too late");
}

/// After a release the next claim is granted at once, and the released token is nobody's.
///
/// # Panics
///
/// When the job is not free, or its former owner can still release it.
pub async fn dedup_a_release_frees_the_job_at_once(store: &dyn DedupStore) {
    let job = job();
    let first = acquire(store, &job, LONG).await;
    applied(store.release(&first).await, "the owner releases");
    let second = acquire(store, &job, LONG).await;
    stale(store.release(&first).await, "a second release by the first owner");
    in_progress(claim(store, &job, LONG).await, LONG, "after a release by somebody else");
    applied(store.complete(&second, LONG).await, "the second owner completes");
}

/// A token that never owned the job changes nothing.
///
/// # Panics
///
/// When one of its writes applies, or takes effect.
pub async fn dedup_only_the_owner_writes(store: &dyn DedupStore) {
    let job = job();
    let owner = acquire(store, &job, LONG).await;
    strangers_are_stale(store, &ClaimToken::new(&job)).await;
    in_progress(claim(store, &job, LONG).await, LONG, "after writes by a stranger");
    applied(store.complete(&owner, LONG).await, "the owner completes");
    strangers_are_stale(store, &ClaimToken::new(&job)).await;
    done(claim(store, &job, LONG).await, "after writes by a stranger to a finished job");
}

/// An owner that comes back after its lease, when another has claimed the job, changes nothing.
///
/// # Panics
///
/// When one of its writes applies, or takes effect.
pub async fn dedup_a_late_owner_is_stale(store: &dyn DedupStore) {
    let (job, began) = (job(), Instant::now());
    let late = acquire(store, &job, SHORT).await;
    let owner = acquire_when_free(store, &job, began, SHORT).await;
    strangers_are_stale(store, &late).await;
    in_progress(claim(store, &job, LONG).await, LONG, "after writes by a late owner");
    applied(store.complete(&owner, LONG).await, "the owner completes");
}

/// An owner that comes back after its lease, when another has completed the job, changes nothing.
///
/// # Panics
///
/// When one of its writes applies, or takes effect.
pub async fn dedup_a_late_owner_is_stale_when_another_completed(store: &dyn DedupStore) {
    let (job, began) = (job(), Instant::now());
    let late = acquire(store, &job, SHORT).await;
    let owner = acquire_when_free(store, &job, began, SHORT).await;
    applied(store.complete(&owner, LONG).await, "the owner completes");
    strangers_are_stale(store, &late).await;
    done(claim(store, &job, LONG).await, "after writes by a late owner");
}

/// An owner that another one followed stays stale also when that one has released the job.
///
/// A store need not remember that: [`DedupDifference::ForgetsOwnersOfFreeJobs`].
///
/// # Panics
///
/// When one of its writes applies, or takes effect.
pub async fn dedup_a_superseded_owner_stays_stale(store: &dyn DedupStore) {
    let (job, began) = (job(), Instant::now());
    let late = acquire(store, &job, SHORT).await;
    let owner = acquire_when_free(store, &job, began, SHORT).await;
    applied(store.release(&owner).await, "the owner releases");
    strangers_are_stale(store, &late).await;
    acquire(store, &job, LONG).await;
}

/// Ids are opaque: of up to 255 visible ASCII characters, compared exactly, and nothing in them has a meaning.
///
/// # Panics
///
/// When two ids are taken for one, or one is refused.
pub async fn dedup_ids_are_compared_exactly(store: &dyn DedupStore) {
    let tokens: Vec<_> = odd_jobs().iter().map(ClaimToken::new).collect();
    for token in &tokens {
        let job = token.job();
        granted(store.claim(token, LONG).await, &format!("the id {job} was taken for another one, and"));
    }
    for token in &tokens {
        let job = token.job();
        in_progress(claim(store, job, LONG).await, LONG, &format!("the claimed id {job}"));
        applied(store.complete(token, LONG).await, "the owner completes");
        done(claim(store, job, LONG).await, &format!("the completed id {job}"));
    }
}

/// A thousand jobs, claimed and completed 64 at a time, are all done, and no other job is.
///
/// # Panics
///
/// When one is lost, or run again.
pub async fn dedup_many_jobs_are_kept_apart(store: &dyn DedupStore) {
    let jobs: Vec<_> = (0..1000).map(|_| job()).collect();
    for jobs in jobs.chunks(64) {
        let tokens: Vec<_> = jobs.iter().map(ClaimToken::new).collect();
        for claim in at_once(tokens.iter().map(|token| store.claim(token, LONG))).await {
            granted(claim, "one job among many");
        }
        for completed in at_once(tokens.iter().map(|token| store.complete(token, LONG))).await {
            applied(completed, "one owner among many completes");
        }
    }
    for jobs in jobs.chunks(64) {
        for claim in at_once(jobs.iter().map(|job| claim(store, job, LONG))).await {
            done(claim, "one completed job among many");
        }
    }
    acquire(store, &job(), LONG).await;
}

/// A claim that is dropped in the middle, at any of its waits, leaves behind nothing, or a claim that ends
/// with its lease: so the lease is part of the claim's own write.
///
/// # Panics
///
/// When the job stays claimed, or the store does not work any more.
pub async fn dedup_a_cancelled_claim_ends_with_its_lease(store: &dyn DedupStore) {
    for polls in 0..MOST_POLLS {
        let (job, began) = (job(), Instant::now());
        let finished = cancelled_after(polls, claim(store, &job, SHORT)).await;
        let waited = async {
            while !matches!(claim(store, &job, LONG).await, Ok(Claim::Acquired)) {
                assert!(
                    began.elapsed() < (SHORT + LAG) * 2,
                    "a claim that was dropped after {polls} polls is still there long after its lease: the lease \
                     must be part of the write that claims"
                );
                sleep(SHORT / 10).await;
            }
        };
        waited.await;
        if finished {
            return;
        }
    }
}

/// A claim that is dropped in the middle, at any of its waits, is released by its token, also when its write
/// arrives after the drop: so the owner is part of the claim's own write.
///
/// # Panics
///
/// Panics if the job stays claimed although its token is released again and again, or a released claim takes
/// the job from its next owner.
pub async fn dedup_a_cancelled_claim_is_released_by_its_token(store: &dyn DedupStore) {
    for polls in 0..MOST_POLLS {
        let (job, began) = (job(), Instant::now());
        let (dropped, next) = (ClaimToken::new(&job), ClaimToken::new(&job));
        let finished = cancelled_after(polls, store.claim(&dropped, LONG)).await;
        loop {
            if let Err(error) = store.release(&dropped).await {
                panic!("a release after a claim that was dropped failed: {error:?}");
            }
            match store.claim(&next, LONG).await {
                Ok(Claim::Acquired) => break,
                // The write of the dropped claim came after the release.
                Ok(Claim::InProgress { .. }) => {}
                other => panic!("a claim after one that was dropped: {other:?}"),
            }
            assert!(
                began.elapsed() < LONG / 4,
                "a claim that was dropped after {polls} polls is not freed by a release of its token: the token's \
                 owner must be part of the write that claims"
            );
            sleep(SHORT / 10).await;
        }
        let _ = store.release(&dropped).await;
        in_progress(claim(store, &job, LONG).await, LONG, "after a release of the dropped claim");
        applied(store.complete(&next, LONG).await, "the next owner completes");
        if finished {
            return;
        }
    }
}

/// A write that is dropped in the middle, at any of its waits, can be repeated.
///
/// # Panics
///
/// When the repetition does not have its effect, or the store does not work any more.
pub async fn dedup_a_cancelled_write_can_be_repeated(store: &dyn DedupStore) {
    for polls in 0..MOST_POLLS {
        let completed = job();
        let token = acquire(store, &completed, LONG).await;
        let mut finished = cancelled_after(polls, store.renew(&token, LONG)).await;
        finished &= cancelled_after(polls, store.complete(&token, LONG)).await;
        applied(store.complete(&token, LONG).await, "a completion after one that was dropped");
        done(claim(store, &completed, LONG).await, "after a completion that was dropped and repeated");

        let released = job();
        let token = acquire(store, &released, LONG).await;
        finished &= cancelled_after(polls, store.release(&token)).await;
        if let Err(error) = store.release(&token).await {
            panic!("a release after one that was dropped failed: {error:?}");
        }
        let next = acquire(store, &released, LONG).await;
        applied(store.complete(&next, LONG).await, "the next owner completes");
        done(claim(store, &completed, LONG).await, "when a dropped renewal may have arrived late");
        if finished {
            return;
        }
    }
}

/// Two handles of one store, such as two connections or processes, see the same jobs.
///
/// # Panics
///
/// When something that one handle did is not so for the other.
pub async fn dedup_two_handles_are_one_store(store: &dyn DedupStore, other: &dyn DedupStore) {
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
    done(claim(store, &job, LONG).await, "after a completion through another handle");
}

async fn one_is_granted(handles: &[&dyn DedupStore]) {
    let job = job();
    let tokens: Vec<_> = (0..64).map(|_| ClaimToken::new(&job)).collect();
    let calls = tokens.iter().zip(handles.iter().cycle());
    let claims = at_once(calls.map(|(token, handle)| handle.claim(token, LONG))).await;
    let mut owners = Vec::new();
    for (token, claim) in tokens.iter().zip(claims) {
        match claim {
            Ok(Claim::Acquired) => owners.push(token),
            claim => drop(in_progress(claim, LONG, "of 64 claims at once, one that was not granted")),
        }
    }
    let granted = owners.len();
    assert_eq!(
        granted, 1,
        "{granted} of 64 claims of one job were granted: to look and to write must be one step"
    );
    applied(handles[0].complete(owners[0], LONG).await, "the one owner completes");
}

async fn strangers_are_stale(store: &dyn DedupStore, token: &ClaimToken) {
    stale(store.renew(token, LONG).await, "a renewal by a token that does not own the job");
    stale(store.complete(token, LONG).await, "a completion by a token that does not own the job");
    stale(store.release(token).await, "a release by a token that does not own the job");
}

async fn acquire(store: &dyn DedupStore, job: &JobId, lease: Duration) -> ClaimToken {
    let token = ClaimToken::new(job);
    granted(store.claim(&token, lease).await, "a job that is free");
    token
}

/// A claim by a new token.
fn claim<'a>(store: &'a dyn DedupStore, job: &JobId, lease: Duration) -> Call<'a, Claim> {
    let token = ClaimToken::new(job);
    Box::pin(async move { store.claim(&token, lease).await })
}

/// Claims a job as soon as its lease or retention has ended, and checks that this is when it should be.
async fn acquire_when_free(
    store: &dyn DedupStore,
    job: &JobId,
    began: Instant,
    length: Duration,
) -> ClaimToken {
    loop {
        let (asked, token) = (began.elapsed(), ClaimToken::new(job));
        match store.claim(&token, LONG).await {
            Ok(Claim::Acquired) => {
                let elapsed = began.elapsed();
                assert!(
                    elapsed + ROUNDING >= length,
                    "what should last {length:?} was gone after {elapsed:?}"
                );
                return token;
            }
            Ok(_) => assert!(
                asked < length + LAG,
                "what should last {length:?} was still there after {asked:?}: was it written with another duration?"
            ),
            Err(error) => panic!("a claim failed: {error:?}"),
        }
        sleep(SHORT / 10).await;
    }
}

fn granted(claim: Result<Claim, StoreError>, what: &str) {
    assert!(matches!(claim, Ok(Claim::Acquired)), "{what} was not granted: {claim:?}");
}

fn in_progress(claim: Result<Claim, StoreError>, lease: Duration, when: &str) -> Duration {
    match claim {
        Ok(Claim::InProgress { retry_after }) if retry_after <= lease + LAG => retry_after,
        Ok(Claim::InProgress { retry_after }) => {
            panic!("{when}: of a lease of {lease:?}, {retry_after:?} are said to be left")
        }
        other => panic!("{when}: should be in progress, but is {other:?}"),
    }
}

fn done(claim: Result<Claim, StoreError>, when: &str) {
    assert!(matches!(claim, Ok(Claim::Done)), "{when}: should be done, but is {claim:?}");
}
