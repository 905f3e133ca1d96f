//! Stores with flaws that the simulation must find.

use std::collections::HashMap;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use qomplement_webhooks::dedup::{Claim, ClaimToken};
use qomplement_webhooks::event::Envelope;
use qomplement_webhooks::inbox::{
    InboxAdmin, InboxState, Lease, Leased, Outcome, Overdue, Pruned, Receipt, Retention,
};
use qomplement_webhooks::store::{Fenced, StoreError};
use qomplement_webhooks::{DedupStore, InboxStore, JobId, MemoryDedupStore, MemoryInbox};

use self::Flaw::*;
use crate::plan::Mode;

/// A mistake of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// Acknowledges an event now and then that it does not store.
    StoresNotAll,
    /// Leases a row to a second caller.
    LeasesTwice,
    RenewsNothing,
    SettlesWithoutFence,
    /// Records a failure as a success.
    SettlesRetryAsDone,
    HidesThatALeaseExpired,
    CountsNoAttempts,
    ReportsAllVerified,
    VerifiesNothing,
    ForgetsExpectedJobs,
    ForgetsPauses,
    NeverEndsALease,
    /// Takes a final event for a duplicate of a dead one without a final status.
    KeepsTheDeadEvent,
    /// Grants a claim to a second token now and then.
    ClaimsTwice,
    RenewsNoClaim,
    CompletesNothing,
    ReleasesClaimsOfOthers,
    NeverEndsAClaim,
}

pub const FLAWS: [Flaw; 18] = [
    StoresNotAll,
    LeasesTwice,
    RenewsNothing,
    SettlesWithoutFence,
    SettlesRetryAsDone,
    HidesThatALeaseExpired,
    CountsNoAttempts,
    ReportsAllVerified,
    VerifiesNothing,
    ForgetsExpectedJobs,
    ForgetsPauses,
    NeverEndsALease,
    KeepsTheDeadEvent,
    ClaimsTwice,
    RenewsNoClaim,
    CompletesNothing,
    ReleasesClaimsOfOthers,
    NeverEndsAClaim,
];

impl Flaw {
    /// Whether runs in this mode can show the flaw.
    pub fn shows_in(self, mode: Mode) -> bool {
        let of_claims = matches!(
            self,
            ClaimsTwice | RenewsNoClaim | CompletesNothing | ReleasesClaimsOfOthers | NeverEndsAClaim
        );
        of_claims == (mode == Mode::Inline)
    }
}

const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// An inbox with a flaw.
#[derive(Debug)]
pub struct FlawedInbox {
    flaw: Flaw,
    inner: MemoryInbox,
    calls: AtomicU64,
    leases: Mutex<HashMap<JobId, Leased>>,
}

impl FlawedInbox {
    pub fn new(flaw: Flaw, inner: MemoryInbox) -> Self {
        Self { flaw, inner, calls: AtomicU64::new(0), leases: Mutex::default() }
    }

    fn every(&self, number: u64) -> bool {
        (self.calls.fetch_add(1, Ordering::SeqCst) + 1).is_multiple_of(number)
    }

    /// The last lease of a job.
    fn last(&self, lease: &Lease) -> Lease {
        self.leases
            .lock()
            .unwrap()
            .get(lease.job())
            .map_or_else(|| lease.clone(), |leased| leased.lease.clone())
    }
}

#[async_trait]
impl InboxStore for FlawedInbox {
    async fn receive(&self, event: &Envelope) -> Result<Receipt, StoreError> {
        if self.flaw == StoresNotAll && self.every(3) {
            return Ok(Receipt::Stored);
        }
        if self.flaw == KeepsTheDeadEvent
            && event.status().is_final()
            && self.inner.get(event.job()).await?.is_some_and(|(row, _)| {
                row.state == InboxState::Dead && row.status.as_deref() == Some("processing")
            })
        {
            return Ok(Receipt::Duplicate);
        }
        self.inner.receive(event).await
    }

    async fn lease(&self, most: usize, length: Duration) -> Result<Vec<Leased>, StoreError> {
        let length = if self.flaw == NeverEndsALease { YEAR } else { length };
        let mut leased = self.inner.lease(most, length).await?;
        for leased in &mut leased {
            match self.flaw {
                HidesThatALeaseExpired => leased.expired = false,
                CountsNoAttempts => leased.attempt = 1,
                ReportsAllVerified => leased.verified = true,
                _ => {}
            }
        }
        let mut leases = self.leases.lock().unwrap();
        if self.flaw == LeasesTwice && leased.is_empty() && self.every(2) {
            // The last lease of a job, once more.
            let job = leases.keys().min().cloned();
            leased.extend(job.and_then(|job| leases.remove(&job)));
        } else {
            leases.extend(leased.iter().map(|leased| (leased.lease.job().clone(), leased.clone())));
        }
        Ok(leased)
    }

    async fn begin(&self, lease: &Lease) -> Result<Fenced, StoreError> {
        self.inner.begin(lease).await
    }

    async fn renew(&self, lease: &Lease, length: Duration) -> Result<Fenced, StoreError> {
        if self.flaw == RenewsNothing {
            return Ok(Fenced::Applied);
        }
        self.inner.renew(lease, length).await
    }

    async fn verify(&self, lease: &Lease, event: &Envelope) -> Result<Fenced, StoreError> {
        if self.flaw == VerifiesNothing {
            return Ok(Fenced::Applied);
        }
        self.inner.verify(lease, event).await
    }

    async fn settle(&self, lease: &Lease, outcome: &Outcome) -> Result<Fenced, StoreError> {
        match (self.flaw, outcome) {
            (SettlesWithoutFence, _) => self.inner.settle(&self.last(lease), outcome).await,
            (SettlesRetryAsDone, Outcome::Retry { .. }) => self.inner.settle(lease, &Outcome::Done).await,
            (ForgetsPauses, Outcome::FetchAgain { answer, .. }) => {
                let at_once = Outcome::FetchAgain { after: Duration::ZERO, answer: answer.clone() };
                self.inner.settle(lease, &at_once).await
            }
            _ => self.inner.settle(lease, outcome).await,
        }
    }

    async fn expect(&self, job: &JobId, deadline: Duration) -> Result<(), StoreError> {
        if self.flaw == ForgetsExpectedJobs {
            return Ok(());
        }
        self.inner.expect(job, deadline).await
    }

    async fn overdue(&self, most: usize, length: Duration) -> Result<Vec<Overdue>, StoreError> {
        self.inner.overdue(most, length).await
    }

    async fn contains(&self, job: &JobId) -> Result<bool, StoreError> {
        self.inner.contains(job).await
    }

    async fn prune(&self, retention: &Retention) -> Result<Pruned, StoreError> {
        self.inner.prune(retention).await
    }

    async fn wait(&self) {
        self.inner.wait().await;
    }
}

/// A dedup store with a flaw.
pub struct FlawedClaims {
    flaw: Flaw,
    inner: MemoryDedupStore,
    calls: AtomicU64,
    owners: Mutex<HashMap<JobId, ClaimToken>>,
}

impl FlawedClaims {
    pub fn new(flaw: Flaw, inner: MemoryDedupStore) -> Self {
        Self { flaw, inner, calls: AtomicU64::new(0), owners: Mutex::default() }
    }
}

#[async_trait]
impl DedupStore for FlawedClaims {
    async fn claim(&self, claim: &ClaimToken, lease: Duration) -> Result<Claim, StoreError> {
        let lease = if self.flaw == NeverEndsAClaim { YEAR } else { lease };
        let claimed = self.inner.claim(claim, lease).await?;
        let twice = self.flaw == ClaimsTwice && matches!(claimed, Claim::InProgress { .. });
        if twice && (self.calls.fetch_add(1, Ordering::SeqCst) + 1).is_multiple_of(3) {
            return Ok(Claim::Acquired);
        }
        if claimed == Claim::Acquired {
            self.owners.lock().unwrap().insert(claim.job().clone(), claim.clone());
        }
        Ok(claimed)
    }

    async fn renew(&self, claim: &ClaimToken, lease: Duration) -> Result<Fenced, StoreError> {
        if self.flaw == RenewsNoClaim {
            return Ok(Fenced::Applied);
        }
        self.inner.renew(claim, lease).await
    }

    async fn complete(&self, claim: &ClaimToken, retention: Duration) -> Result<Fenced, StoreError> {
        if self.flaw == CompletesNothing {
            let _ = self.inner.release(claim).await?;
            return Ok(Fenced::Applied);
        }
        self.inner.complete(claim, retention).await
    }

    async fn release(&self, claim: &ClaimToken) -> Result<Fenced, StoreError> {
        let owner = self.owners.lock().unwrap().get(claim.job()).cloned();
        match owner.filter(|_| self.flaw == ReleasesClaimsOfOthers) {
            Some(owner) => self.inner.release(&owner).await,
            None => self.inner.release(claim).await,
        }
    }
}

impl fmt::Debug for FlawedClaims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlawedClaims").field("flaw", &self.flaw).finish_non_exhaustive()
    }
}
