//! The contract of a [`DedupStore`] as checks.

mod cancel;
mod claim;
mod complete;
mod kept;
mod steps;

use super::harness::{Failures, run_all};
use crate::dedup::DedupStore;

/// A difference between stores that the contract allows; see [`dedup_all`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DedupDifference {
    /// The store does not remember the last owner of a free job, and takes an earlier token for the owner's. The check
    /// `complete::a_superseded_owner_stays_stale` is left out.
    ForgetsOwnersOfFreeJobs,
}

/// Runs every check of the contract of [`DedupStore`], also after one has failed.
///
/// `other` is a second handle of the same store, such as another connection to the same server; pass the same handle
/// twice if there is only one. `differences` lists the store's allowed differences from the full contract.
///
/// # Panics
///
/// Panics if a check fails. The message has a line for each failed check: its name, which states the rule, and what the
/// store did instead.
pub async fn dedup_all(store: &dyn DedupStore, other: &dyn DedupStore, differences: &[DedupDifference]) {
    let mut failures = Failures::of("DedupStore");
    run_all! { failures, None::<&str>;
        claim::one_of_many_claims_is_granted(store);
        claim::claims_of_different_jobs_are_independent(store);
        claim::a_repeated_claim_is_granted_again(store);
        claim::a_refused_token_may_claim_again(store);
        claim::owners_are_compared_in_every_bit(store);
        claim::a_claim_lasts_as_long_as_its_lease(store);
        claim::a_claim_ends_with_its_lease(store);
        claim::a_renewal_counts_from_its_own_time(store);
        claim::an_expired_lease_can_be_renewed(store);
        complete::a_completed_job_is_done(store);
        complete::a_completed_job_is_forgotten_after_its_retention(store);
        complete::a_long_retention_does_not_overflow(store);
        complete::completing_twice_is_completing_once(store);
        complete::a_job_is_completed_after_its_lease_ended(store);
        complete::a_completed_job_is_neither_renewed_nor_released(store);
        complete::a_release_frees_the_job_at_once(store);
        complete::only_the_owner_writes(store);
        complete::a_late_owner_is_stale(store);
        complete::a_late_owner_is_stale_after_another_completion(store);
        kept::ids_are_compared_exactly(store);
        kept::many_jobs_are_kept_apart(store);
        cancel::a_cancelled_claim_ends_with_its_lease(store);
        cancel::a_cancelled_claim_is_released_by_its_token(store);
        cancel::a_cancelled_write_can_be_repeated(store);
        kept::two_handles_are_one_store(store, other);
    }
    if !differences.contains(&DedupDifference::ForgetsOwnersOfFreeJobs) {
        run_all! { failures, None::<&str>; complete::a_superseded_owner_stays_stale(store); }
    }
    failures.report();
}
