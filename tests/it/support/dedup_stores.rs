//! Dedup stores that fail or stall.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use qomplement_webhooks::dedup::{Claim, ClaimToken};
use qomplement_webhooks::store::{Fenced, StoreError};
use qomplement_webhooks::{DedupStore, JobId, MemoryDedupStore, async_trait};
use tokio::time::Instant;

use super::{Call, Fault, Faults};

/// A memory store that injects faults and records every call.
#[derive(Debug, Clone)]
pub struct FaultyStore {
    inner: Arc<MemoryDedupStore>,
    faults: Arc<Faults>,
    renewed: Arc<Mutex<Option<ClaimToken>>>,
}

impl FaultyStore {
    pub fn new() -> Self {
        Self { inner: Arc::new(MemoryDedupStore::new()), faults: Arc::default(), renewed: Arc::default() }
    }

    /// Lets the next calls of a kind fail.
    pub fn fail(self, call: Call, faults: impl IntoIterator<Item = Option<Fault>>) -> Self {
        self.faults.fail(call, faults);
        self
    }

    pub fn calls(&self, call: Call) -> usize {
        self.faults.calls(call)
    }

    /// The longest lease or retention that it was given.
    pub fn longest(&self) -> Duration {
        self.faults.longest()
    }

    /// Ends the claim that was renewed last, as if the store's clock were set forward.
    pub async fn end_renewed_claim(&self) {
        let renewed = self.renewed.lock().unwrap().clone().expect("no claim was renewed");
        assert_eq!(self.inner.release(&renewed).await.unwrap(), Fenced::Applied);
    }

    /// Whether the job is remembered as done.
    pub async fn is_done(&self, job: &JobId) -> bool {
        self.state(job).await == Claim::Done
    }

    /// The result of a claim.
    pub async fn state(&self, job: &JobId) -> Claim {
        let token = ClaimToken::new(job);
        let state = self.inner.claim(&token, Duration::from_nanos(1)).await.unwrap();
        let _ = self.inner.release(&token).await.unwrap();
        state
    }

    pub async fn until(&self, call: Call, times: usize) {
        self.faults.until(call, times).await;
    }
}

#[async_trait]
impl DedupStore for FaultyStore {
    async fn claim(&self, claim: &ClaimToken, lease: Duration) -> Result<Claim, StoreError> {
        self.faults.given(lease);
        self.faults.call(Call::Claim, self.inner.claim(claim, lease)).await
    }

    async fn renew(&self, claim: &ClaimToken, lease: Duration) -> Result<Fenced, StoreError> {
        self.faults.given(lease);
        *self.renewed.lock().unwrap() = Some(claim.clone());
        self.faults.call(Call::Renew, self.inner.renew(claim, lease)).await
    }

    async fn complete(&self, claim: &ClaimToken, retention: Duration) -> Result<Fenced, StoreError> {
        self.faults.given(retention);
        self.faults.call(Call::Complete, self.inner.complete(claim, retention)).await
    }

    async fn release(&self, claim: &ClaimToken) -> Result<Fenced, StoreError> {
        self.faults.call(Call::Release, self.inner.release(claim)).await
    }
}

/// A memory store that stalls for a while, and then carries out every call of that time, even if its caller has left:
/// claims and renewals 400 ms after the rest, as over a slower connection.
#[derive(Debug, Clone)]
pub struct StandingStore {
    pub inner: Arc<MemoryDedupStore>,
    still: std::ops::Range<Instant>,
    only_for_renewals: bool,
}

impl StandingStore {
    /// Makes a store that stalls between two times, counted from now.
    pub fn new(still: std::ops::Range<Duration>) -> Self {
        let now = Instant::now();
        let still = now + still.start..now + still.end;
        Self { inner: Arc::default(), still, only_for_renewals: false }
    }

    /// Lets no other call wait.
    pub fn only_for_renewals(self) -> Self {
        Self { only_for_renewals: true, ..self }
    }

    async fn send<T: Send + 'static>(
        &self,
        call: Call,
        write: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let late = if matches!(call, Call::Claim | Call::Renew) { 400 } else { 0 };
        let stands = self.still.contains(&Instant::now()) && (call == Call::Renew || !self.only_for_renewals);
        let carried_out = stands.then_some(self.still.end + Duration::from_millis(late));
        let sent = tokio::spawn(async move {
            if let Some(time) = carried_out {
                tokio::time::sleep_until(time).await;
            }
            write.await
        });
        sent.await.unwrap()
    }
}

#[async_trait]
impl DedupStore for StandingStore {
    async fn claim(&self, claim: &ClaimToken, lease: Duration) -> Result<Claim, StoreError> {
        let (inner, claim) = (self.inner.clone(), claim.clone());
        self.send(Call::Claim, async move { inner.claim(&claim, lease).await }).await
    }

    async fn renew(&self, claim: &ClaimToken, lease: Duration) -> Result<Fenced, StoreError> {
        let (inner, claim) = (self.inner.clone(), claim.clone());
        self.send(Call::Renew, async move { inner.renew(&claim, lease).await }).await
    }

    async fn complete(&self, claim: &ClaimToken, retention: Duration) -> Result<Fenced, StoreError> {
        let (inner, claim) = (self.inner.clone(), claim.clone());
        self.send(Call::Complete, async move { inner.complete(&claim, retention).await }).await
    }

    async fn release(&self, claim: &ClaimToken) -> Result<Fenced, StoreError> {
        let (inner, claim) = (self.inner.clone(), claim.clone());
        self.send(Call::Release, async move { inner.release(&claim).await }).await
    }
}
