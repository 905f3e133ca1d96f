//! Dedup stores that fail, or stand still.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use qomplement_webhooks::dedup::{Claim, ClaimToken};
use qomplement_webhooks::store::{Fenced, StoreError};
use qomplement_webhooks::{DedupStore, JobId, MemoryDedupStore, async_trait};
use tokio::time::Instant;

use super::{Call, Fault, Faults};

/// A memory store whose calls fail as they are told to, and that notes every call.
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

    /// Ends the claim that was renewed last, as if the store's clock were set forward.
    pub async fn end_renewed_claim(&self) {
        let renewed = self.renewed.lock().unwrap().clone().expect("no claim was renewed");
        assert_eq!(self.inner.release(&renewed).await.unwrap(), Fenced::Applied);
    }

    /// Whether the job is remembered as done.
    pub async fn is_done(&self, job: &JobId) -> bool {
        self.state(job).await == Claim::Done
    }

    /// The answer that a claim would get.
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
        self.faults.call(Call::Claim, self.inner.claim(claim, lease)).await
    }

    async fn renew(&self, claim: &ClaimToken, lease: Duration) -> Result<Fenced, StoreError> {
        *self.renewed.lock().unwrap() = Some(claim.clone());
        self.faults.call(Call::Renew, self.inner.renew(claim, lease)).await
    }

    async fn complete(&self, claim: &ClaimToken, retention: Duration) -> Result<Fenced, StoreError> {
        self.faults.call(Call::Complete, self.inner.complete(claim, retention)).await
    }

    async fn release(&self, claim: &ClaimToken) -> Result<Fenced, StoreError> {
        self.faults.call(Call::Release, self.inner.release(claim)).await
    }
}

/// A memory store that stands still for a while, and then carries out what was sent to it meanwhile, whether or not
/// somebody still waits for the answer: claims and renewals 400 ms after the rest, as by a slower connection.
#[derive(Debug, Clone)]
pub struct StandingStore {
    pub inner: Arc<MemoryDedupStore>,
    still: std::ops::Range<Instant>,
}

impl StandingStore {
    /// Stands still from and until these times from now.
    pub fn new(still: std::ops::Range<Duration>) -> Self {
        let now = Instant::now();
        Self { inner: Arc::default(), still: now + still.start..now + still.end }
    }

    async fn send<T: Send + 'static>(
        &self,
        late: Duration,
        write: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let carried_out = self.still.contains(&Instant::now()).then_some(self.still.end + late);
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
        self.send(Duration::from_millis(400), async move { inner.claim(&claim, lease).await }).await
    }

    async fn renew(&self, claim: &ClaimToken, lease: Duration) -> Result<Fenced, StoreError> {
        let (inner, claim) = (self.inner.clone(), claim.clone());
        self.send(Duration::from_millis(400), async move { inner.renew(&claim, lease).await }).await
    }

    async fn complete(&self, claim: &ClaimToken, retention: Duration) -> Result<Fenced, StoreError> {
        let (inner, claim) = (self.inner.clone(), claim.clone());
        self.send(Duration::ZERO, async move { inner.complete(&claim, retention).await }).await
    }

    async fn release(&self, claim: &ClaimToken) -> Result<Fenced, StoreError> {
        let (inner, claim) = (self.inner.clone(), claim.clone());
        self.send(Duration::ZERO, async move { inner.release(&claim).await }).await
    }
}
