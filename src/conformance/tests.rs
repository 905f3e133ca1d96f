//! The suite finds every planted flaw: a store for each, and the check that must fail.

use std::collections::{HashMap, HashSet};
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
enum DedupFlaw {
    Nothing,
    ForgetsOwners,
    ChecksThenSets,
    SetsTheLeaseLater,
    UsesTheRetentionAsLease,
    UsesTheLeaseAsRetention,
    CountsSecondsIn31Bits,
    CountsMillisecondsIn32Bits,
    CountsMicrosecondsIn32Bits,
    NeverEndsAClaim,
    EndsClaimsEarly,
    ReportsNoTimeLeft,
    RefusesRepetitions,
    KeepsTheFirstLease,
    RefusesForEver,
    SetsTheOwnerLater,
    WritesNoOwner,
    KeepsTheLowHalfOfOwners,
    KeepsTheHighHalfOfOwners,
    RenewsWithoutOwner,
    RenewsFromTheOldEnd,
    RenewsOnlyBeforeTheEnd,
    RenewsDoneJobs,
    CompletesWithoutOwner,
    CompletesOnlyInTime,
    CompletesOnce,
    ReleasesWithoutOwner,
    ReleasesDoneJobs,
    ReleasesNothing,
    IgnoresCase,
    CutsIds,
    ForgetsTheFirstOfMany,
}

use DedupFlaw::*;

/// A job as the store remembers it.
#[derive(Debug, Clone, Copy)]
struct ClaimRow {
    owner: u128,
    done: bool,
    until: Instant,
}

#[derive(Debug)]
struct FlawedStore {
    flaw: DedupFlaw,
    rows: Mutex<HashMap<String, ClaimRow>>,
    refused: Mutex<HashSet<u128>>,
}

impl FlawedStore {
    fn key(&self, job: &JobId) -> String {
        let text = job.to_string();
        match self.flaw {
            IgnoresCase => text.to_lowercase(),
            CutsIds => text.chars().take(254).collect(),
            _ => text,
        }
    }

    fn owner(&self, claim: &ClaimToken) -> u128 {
        match self.flaw {
            KeepsTheLowHalfOfOwners => claim.owner() & u128::from(u64::MAX),
            KeepsTheHighHalfOfOwners => claim.owner() >> 64,
            _ => claim.owner(),
        }
    }

    fn retention(&self, retention: Duration) -> Duration {
        match self.flaw {
            CountsSecondsIn31Bits => Duration::from_secs((retention.as_secs() as i32).max(0) as u64),
            CountsMillisecondsIn32Bits => Duration::from_millis(u64::from(retention.as_millis() as u32)),
            CountsMicrosecondsIn32Bits => Duration::from_micros(u64::from(retention.as_micros() as u32)),
            _ => retention,
        }
    }

    fn get(&self, job: &JobId) -> Option<ClaimRow> {
        self.rows.lock().unwrap().get(&self.key(job)).copied()
    }

    fn set(&self, job: &JobId, row: ClaimRow) {
        let mut rows = self.rows.lock().unwrap();
        if self.flaw == ForgetsTheFirstOfMany && rows.len() > 900 {
            let first = rows.iter().min_by_key(|(_, row)| row.until).map(|(key, _)| key.clone());
            rows.remove(&first.unwrap());
        }
        rows.insert(self.key(job), row);
    }

    /// The row that a token may write: its own, or a new one of a free job whose owner the store forgot.
    fn owns(&self, claim: &ClaimToken, careless: DedupFlaw) -> Option<ClaimRow> {
        match self.get(claim.job()) {
            Some(row) if row.owner == self.owner(claim) || self.flaw == careless => Some(row),
            Some(row) if self.flaw == ForgetsOwners && row.until <= Instant::now() => Some(row),
            None if self.flaw == ForgetsOwners => {
                Some(ClaimRow { owner: self.owner(claim), done: false, until: Instant::now() })
            }
            _ => None,
        }
    }
}

#[async_trait]
impl DedupStore for FlawedStore {
    async fn claim(&self, claim: &ClaimToken, lease: Duration) -> Result<Claim, StoreError> {
        let (job, now) = (claim.job(), Instant::now());
        let held = self.get(job).filter(|row| match self.flaw {
            NeverEndsAClaim if !row.done => true,
            EndsClaimsEarly if !row.done => row.until > now + Duration::from_millis(200),
            _ => row.until > now,
        });
        match held {
            Some(row) if row.done => return Ok(Claim::Done),
            Some(_) if self.flaw == ReportsNoTimeLeft => {
                return Ok(Claim::InProgress { retry_after: Duration::ZERO });
            }
            Some(row) if row.owner == self.owner(claim) && self.flaw == KeepsTheFirstLease => {
                return Ok(Claim::Acquired);
            }
            Some(row) if row.owner != self.owner(claim) || self.flaw == RefusesRepetitions => {
                self.refused.lock().unwrap().insert(self.owner(claim));
                return Ok(Claim::InProgress { retry_after: row.until.duration_since(now) });
            }
            None if self.flaw == RefusesForEver
                && self.refused.lock().unwrap().contains(&self.owner(claim)) =>
            {
                return Ok(Claim::InProgress { retry_after: lease });
            }
            _ => {}
        }
        if self.flaw == ChecksThenSets {
            yield_now().await;
        }
        let owner = if self.flaw == WritesNoOwner { 0 } else { self.owner(claim) };
        let row = |lease| ClaimRow { owner, done: false, until: now + lease };
        match self.flaw {
            SetsTheLeaseLater => {
                self.set(job, row(Duration::from_secs(1_000_000)));
                yield_now().await;
                self.set(job, row(lease));
            }
            SetsTheOwnerLater => {
                self.set(job, ClaimRow { owner: 0, ..row(lease) });
                yield_now().await;
                self.set(job, row(lease));
            }
            UsesTheRetentionAsLease => self.set(job, row(Duration::from_secs(604_800))),
            _ => self.set(job, row(lease)),
        }
        yield_now().await;
        Ok(Claim::Acquired)
    }

    async fn renew(&self, claim: &ClaimToken, lease: Duration) -> Result<Fenced, StoreError> {
        let now = Instant::now();
        match self.owns(claim, RenewsWithoutOwner) {
            Some(row) if row.done && row.until > now && self.flaw != RenewsDoneJobs => Ok(Fenced::Stale),
            Some(row) if row.until <= now && self.flaw == RenewsOnlyBeforeTheEnd => Ok(Fenced::Stale),
            Some(row) => {
                let until = if self.flaw == RenewsFromTheOldEnd { row.until } else { now + lease };
                self.set(claim.job(), ClaimRow { owner: self.owner(claim), done: false, until });
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
                let until = if self.flaw == UsesTheLeaseAsRetention {
                    row.until
                } else {
                    now + self.retention(retention)
                };
                self.set(claim.job(), ClaimRow { owner: self.owner(claim), done: true, until });
                Ok(Fenced::Applied)
            }
            None => Ok(Fenced::Stale),
        }
    }

    async fn release(&self, claim: &ClaimToken) -> Result<Fenced, StoreError> {
        match self.get(claim.job()) {
            Some(row) if row.owner != self.owner(claim) && self.flaw != ReleasesWithoutOwner => {
                Ok(Fenced::Stale)
            }
            Some(row) if row.done && self.flaw != ReleasesDoneJobs => Ok(Fenced::Stale),
            None => Ok(Fenced::Stale),
            Some(_) if self.flaw == ReleasesNothing => Ok(Fenced::Applied),
            Some(_) => {
                self.rows.lock().unwrap().remove(&self.key(claim.job()));
                Ok(Fenced::Applied)
            }
        }
    }
}

/// The suite's report on a store with a flaw.
async fn verdict(flaw: DedupFlaw, differences: &[DedupDifference]) -> Result<(), String> {
    let store = FlawedStore { flaw, rows: Mutex::default(), refused: Mutex::default() };
    let run = std::pin::pin!(dedup_all(&store, &store, differences));
    isolate(run).await.map_err(|panicked| panicked.to_string())
}

#[tokio::test(start_paused = true)]
async fn a_store_without_a_flaw_passes() {
    verdict(Nothing, &[]).await.unwrap();
    verdict(ForgetsOwners, &[DedupDifference::ForgetsOwnersOfFreeJobs]).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn every_flaw_fails_the_check_for_it() {
    for (flaw, check) in [
        (ForgetsOwners, "complete::a_superseded_owner_stays_stale"),
        (ChecksThenSets, "claim::one_of_many_claims_is_granted"),
        (SetsTheLeaseLater, "cancel::a_cancelled_claim_ends_with_its_lease"),
        (UsesTheRetentionAsLease, "claim::a_claim_ends_with_its_lease"),
        (UsesTheLeaseAsRetention, "complete::a_completed_job_is_done"),
        (CountsSecondsIn31Bits, "complete::a_long_retention_does_not_overflow"),
        (CountsMillisecondsIn32Bits, "complete::a_long_retention_does_not_overflow"),
        (CountsMicrosecondsIn32Bits, "complete::a_long_retention_does_not_overflow"),
        (NeverEndsAClaim, "claim::a_claim_ends_with_its_lease"),
        (EndsClaimsEarly, "claim::a_claim_lasts_as_long_as_its_lease"),
        (ReportsNoTimeLeft, "claim::a_claim_lasts_as_long_as_its_lease"),
        (RefusesRepetitions, "claim::a_repeated_claim_is_granted_again"),
        (KeepsTheFirstLease, "claim::a_repeated_claim_is_granted_again"),
        (RefusesForEver, "claim::a_refused_token_may_claim_again"),
        (SetsTheOwnerLater, "cancel::a_cancelled_claim_is_released_by_its_token"),
        (WritesNoOwner, "complete::a_completed_job_is_done"),
        (KeepsTheLowHalfOfOwners, "claim::owners_are_compared_in_every_bit"),
        (KeepsTheHighHalfOfOwners, "claim::owners_are_compared_in_every_bit"),
        (RenewsWithoutOwner, "complete::only_the_owner_writes"),
        (RenewsFromTheOldEnd, "claim::a_renewal_counts_from_its_own_time"),
        (RenewsOnlyBeforeTheEnd, "claim::an_expired_lease_can_be_renewed"),
        (RenewsDoneJobs, "complete::a_completed_job_is_neither_renewed_nor_released"),
        (CompletesWithoutOwner, "complete::only_the_owner_writes"),
        (CompletesOnlyInTime, "complete::a_job_is_completed_after_its_lease_ended"),
        (CompletesOnce, "complete::completing_twice_is_completing_once"),
        (ReleasesWithoutOwner, "complete::only_the_owner_writes"),
        (ReleasesDoneJobs, "complete::a_completed_job_is_neither_renewed_nor_released"),
        (ReleasesNothing, "complete::a_release_frees_the_job_at_once"),
        (IgnoresCase, "kept::ids_are_compared_exactly"),
        (CutsIds, "kept::ids_are_compared_exactly"),
        (ForgetsTheFirstOfMany, "kept::many_jobs_are_kept_apart"),
    ] {
        let said = verdict(flaw, &[]).await.expect_err(&format!("{flaw:?} was not noticed"));
        let line = format!("\n  {check}: ");
        assert!(said.contains(&line), "{flaw:?} was not named by {check}: {said}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_report_names_the_failed_checks_and_says_what_the_store_did() {
    let said = verdict(ReleasesNothing, &[]).await.unwrap_err();
    assert!(
        said.starts_with("panicked: the store breaks the contract of DedupStore. Failed checks (6)"),
        "{said}"
    );
    let line =
        "\n  complete::a_release_frees_the_job_at_once: a claim of a free job: expected Ok(Acquired), got";
    assert!(said.contains(line), "{said}");
}
