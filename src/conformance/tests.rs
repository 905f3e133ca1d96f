//! The suite finds what is wrong: a store for each mistake, and the check that must name it.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use tokio::task::yield_now;
use tokio::time::Instant;

use super::{DedupDifference, dedup_all};
use crate::dedup::{Claim, ClaimToken, DedupStore};
use crate::event::JobId;
use crate::execution::isolation::isolate;
use crate::store::{Fenced, StoreError};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Flaw {
    Nothing,
    ForgetsOwners,
    ChecksThenSets,
    SetsTheLeaseLater,
    GivesTheRetentionToTheLease,
    GivesTheLeaseToTheRetention,
    NeverEndsAClaim,
    EndsClaimsEarly,
    SaysNothingIsLeft,
    RefusesRepetitions,
    SetsTheOwnerLater,
    WritesNoOwner,
    RenewsWithoutOwner,
    RenewsFromTheOldEnd,
    RenewsOnlyWhatIsLeft,
    RenewsWhatIsDone,
    CompletesWithoutOwner,
    CompletesOnlyInTime,
    CompletesOnce,
    ReleasesWithoutOwner,
    ReleasesWhatIsDone,
    ReleasesNothing,
    IgnoresCase,
    CutsIds,
    ForgetsTheFirstOfMany,
}

use Flaw::*;

/// What the store remembers of a job.
#[derive(Debug, Clone, Copy)]
struct Row {
    owner: u128,
    done: bool,
    until: Instant,
}

#[derive(Debug)]
struct Flawed {
    flaw: Flaw,
    rows: Mutex<HashMap<String, Row>>,
}

impl Flawed {
    fn key(&self, job: &JobId) -> String {
        let text = job.to_string();
        match self.flaw {
            IgnoresCase => text.to_lowercase(),
            CutsIds => text.chars().take(254).collect(),
            _ => text,
        }
    }

    fn get(&self, job: &JobId) -> Option<Row> {
        self.rows.lock().unwrap().get(&self.key(job)).copied()
    }

    fn set(&self, job: &JobId, row: Row) {
        let mut rows = self.rows.lock().unwrap();
        if self.flaw == ForgetsTheFirstOfMany && rows.len() > 900 {
            let first = rows.iter().min_by_key(|(_, row)| row.until).map(|(key, _)| key.clone());
            rows.remove(&first.unwrap());
        }
        rows.insert(self.key(job), row);
    }

    /// Whether a token may write: it owns the job, or the job is free and remembers nobody.
    fn owns(&self, claim: &ClaimToken, careless: Flaw) -> Option<Row> {
        match self.get(claim.job()) {
            Some(row) if row.owner == claim.owner() || self.flaw == careless => Some(row),
            Some(row) if self.flaw == ForgetsOwners && row.until <= Instant::now() => Some(row),
            None if self.flaw == ForgetsOwners => {
                Some(Row { owner: claim.owner(), done: false, until: Instant::now() })
            }
            _ => None,
        }
    }
}

#[async_trait]
impl DedupStore for Flawed {
    async fn claim(&self, claim: &ClaimToken, lease: Duration) -> Result<Claim, StoreError> {
        let (job, now) = (claim.job(), Instant::now());
        let held = self.get(job).filter(|row| match self.flaw {
            NeverEndsAClaim if !row.done => true,
            EndsClaimsEarly if !row.done => row.until > now + Duration::from_millis(200),
            _ => row.until > now,
        });
        match held {
            Some(row) if row.done => return Ok(Claim::Done),
            Some(_) if self.flaw == SaysNothingIsLeft => {
                return Ok(Claim::InProgress { retry_after: Duration::ZERO });
            }
            Some(row) if row.owner != claim.owner() || self.flaw == RefusesRepetitions => {
                return Ok(Claim::InProgress { retry_after: row.until.duration_since(now) });
            }
            _ => {}
        }
        if self.flaw == ChecksThenSets {
            yield_now().await;
        }
        let owner = if self.flaw == WritesNoOwner { 0 } else { claim.owner() };
        let row = |lease| Row { owner, done: false, until: now + lease };
        match self.flaw {
            SetsTheLeaseLater => {
                self.set(job, row(Duration::from_secs(1_000_000)));
                yield_now().await;
                self.set(job, row(lease));
            }
            SetsTheOwnerLater => {
                self.set(job, Row { owner: 0, ..row(lease) });
                yield_now().await;
                self.set(job, row(lease));
            }
            GivesTheRetentionToTheLease => self.set(job, row(Duration::from_secs(604_800))),
            _ => self.set(job, row(lease)),
        }
        yield_now().await;
        Ok(Claim::Acquired)
    }

    async fn renew(&self, claim: &ClaimToken, lease: Duration) -> Result<Fenced, StoreError> {
        let now = Instant::now();
        match self.owns(claim, RenewsWithoutOwner) {
            Some(row) if row.done && row.until > now && self.flaw != RenewsWhatIsDone => Ok(Fenced::Stale),
            Some(row) if row.until <= now && self.flaw == RenewsOnlyWhatIsLeft => Ok(Fenced::Stale),
            Some(row) => {
                let until = if self.flaw == RenewsFromTheOldEnd { row.until } else { now + lease };
                self.set(claim.job(), Row { owner: claim.owner(), done: false, until });
                Ok(Fenced::Applied)
            }
            None => Ok(Fenced::Stale),
        }
    }

    async fn complete(&self, claim: &ClaimToken, retention: Duration) -> Result<Fenced, StoreError> {
        let now = Instant::now();
        match self.owns(claim, CompletesWithoutOwner) {
            Some(row) if row.until <= now && self.flaw == CompletesOnlyInTime => Ok(Fenced::Stale),
            Some(row) if row.done && self.flaw == CompletesOnce => Ok(Fenced::Stale),
            Some(row) => {
                let until =
                    if self.flaw == GivesTheLeaseToTheRetention { row.until } else { now + retention };
                self.set(claim.job(), Row { owner: claim.owner(), done: true, until });
                Ok(Fenced::Applied)
            }
            None => Ok(Fenced::Stale),
        }
    }

    async fn release(&self, claim: &ClaimToken) -> Result<Fenced, StoreError> {
        match self.get(claim.job()) {
            Some(row) if row.owner != claim.owner() && self.flaw != ReleasesWithoutOwner => Ok(Fenced::Stale),
            Some(row) if row.done && self.flaw != ReleasesWhatIsDone => Ok(Fenced::Stale),
            None => Ok(Fenced::Stale),
            Some(_) if self.flaw == ReleasesNothing => Ok(Fenced::Applied),
            Some(_) => {
                self.rows.lock().unwrap().remove(&self.key(claim.job()));
                Ok(Fenced::Applied)
            }
        }
    }
}

/// What the suite says of a store with a flaw.
async fn verdict(flaw: Flaw, differences: &[DedupDifference]) -> Result<(), String> {
    let store = Flawed { flaw, rows: Mutex::default() };
    let run = std::pin::pin!(dedup_all(&store, &store, differences));
    isolate(run).await.map_err(|panicked| panicked.to_string())
}

#[tokio::test(start_paused = true)]
async fn a_store_without_a_flaw_passes() {
    verdict(Nothing, &[]).await.unwrap();
    verdict(ForgetsOwners, &[DedupDifference::ForgetsOwnersOfFreeJobs]).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn every_flaw_is_named_by_the_check_that_is_for_it() {
    for (flaw, check) in [
        (ForgetsOwners, "dedup_a_superseded_owner_stays_stale"),
        (ChecksThenSets, "dedup_one_of_many_claims_is_granted"),
        (SetsTheLeaseLater, "dedup_a_cancelled_claim_ends_with_its_lease"),
        (GivesTheRetentionToTheLease, "dedup_a_claim_ends_with_its_lease"),
        (GivesTheLeaseToTheRetention, "dedup_a_finished_job_is_done"),
        (NeverEndsAClaim, "dedup_a_claim_ends_with_its_lease"),
        (EndsClaimsEarly, "dedup_a_claim_lasts_as_long_as_its_lease"),
        (SaysNothingIsLeft, "dedup_a_claim_lasts_as_long_as_its_lease"),
        (RefusesRepetitions, "dedup_a_repeated_claim_is_its_own"),
        (SetsTheOwnerLater, "dedup_a_cancelled_claim_is_released_by_its_token"),
        (WritesNoOwner, "dedup_a_finished_job_is_done"),
        (RenewsWithoutOwner, "dedup_only_the_owner_writes"),
        (RenewsFromTheOldEnd, "dedup_a_renewal_counts_from_its_own_time"),
        (RenewsOnlyWhatIsLeft, "dedup_a_renewal_mends_a_lease_that_ended"),
        (RenewsWhatIsDone, "dedup_a_finished_job_is_not_claimed_again"),
        (CompletesWithoutOwner, "dedup_only_the_owner_writes"),
        (CompletesOnlyInTime, "dedup_a_job_is_completed_after_its_lease_ended"),
        (CompletesOnce, "dedup_completing_twice_is_completing_once"),
        (ReleasesWithoutOwner, "dedup_only_the_owner_writes"),
        (ReleasesWhatIsDone, "dedup_a_finished_job_is_not_claimed_again"),
        (ReleasesNothing, "dedup_a_release_frees_the_job_at_once"),
        (IgnoresCase, "dedup_ids_are_compared_exactly"),
        (CutsIds, "dedup_ids_are_compared_exactly"),
        (ForgetsTheFirstOfMany, "dedup_many_jobs_are_kept_apart"),
    ] {
        let said = verdict(flaw, &[]).await.expect_err(&format!("{flaw:?} was not noticed"));
        assert!(said.contains(check), "{flaw:?} was not named by {check}: {said}");
        let first = "panicked: the store does not keep the contract of DedupStore:\n  dedup_";
        assert!(said.starts_with(first), "the reason does not come first: {said}");
    }
}
