//! A custom dedup store, in about thirty lines.
//!
//! Yours will use a database; this one is a map behind a lock, and prunes nothing.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use qomplement_webhooks::dedup::{Claim, ClaimToken};
use qomplement_webhooks::store::{Fenced, StoreError};
use qomplement_webhooks::{DedupStore, JobId, async_trait};

#[derive(Debug, Default)]
struct MapStore(Mutex<HashMap<JobId, Row>>);

/// The last claim on a job, and whether it was completed. After `until`, the job is free.
#[derive(Debug)]
struct Row {
    owner: u128,
    done: bool,
    until: Instant,
}

impl MapStore {
    fn rows(&self) -> Result<MutexGuard<'_, HashMap<JobId, Row>>, StoreError> {
        self.0.lock().map_err(|_| StoreError::unavailable("a thread panicked while it held the lock"))
    }
}

#[async_trait]
impl DedupStore for MapStore {
    async fn claim(&self, claim: &ClaimToken, lease: Duration) -> Result<Claim, StoreError> {
        let mut rows = self.rows()?; // held from the question to the write: claims are atomic
        let now = Instant::now();
        match rows.get(claim.job()).filter(|row| row.until > now) {
            Some(row) if row.done => return Ok(Claim::Done),
            Some(row) if row.owner != claim.owner() => {
                return Ok(Claim::InProgress { retry_after: row.until - now });
            }
            _ => {}
        }
        rows.insert(claim.job().clone(), Row { owner: claim.owner(), done: false, until: now + lease });
        Ok(Claim::Acquired)
    }

    async fn renew(&self, claim: &ClaimToken, lease: Duration) -> Result<Fenced, StoreError> {
        match self.rows()?.get_mut(claim.job()) {
            Some(row) if row.owner == claim.owner() && !row.done => row.until = Instant::now() + lease,
            _ => return Ok(Fenced::Stale),
        }
        Ok(Fenced::Applied)
    }

    async fn complete(&self, claim: &ClaimToken, retention: Duration) -> Result<Fenced, StoreError> {
        match self.rows()?.get_mut(claim.job()) {
            Some(row) if row.owner == claim.owner() => {
                *row = Row { done: true, until: Instant::now() + retention, ..*row };
            }
            _ => return Ok(Fenced::Stale),
        }
        Ok(Fenced::Applied)
    }

    async fn release(&self, claim: &ClaimToken) -> Result<Fenced, StoreError> {
        let mut rows = self.rows()?;
        match rows.get(claim.job()) {
            Some(row) if row.owner == claim.owner() && !row.done => rows.remove(claim.job()),
            _ => return Ok(Fenced::Stale),
        };
        Ok(Fenced::Applied)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (store, job) = (MapStore::default(), "job-7".parse::<JobId>()?);
    let lease = Duration::from_secs(5);
    let [first, second, third] = [0; 3].map(|_| ClaimToken::new(&job));
    println!("the first delivery:          {:?}", store.claim(&first, lease).await?);
    println!("a duplicate meanwhile:       {:?}", store.claim(&second, lease).await?);

    println!("the handler fails:           {:?}", store.release(&first).await?);
    println!("the duplicate claims again:  {:?}", store.claim(&second, lease).await?);
    println!("the first owner, too late:   {:?}", store.complete(&first, lease).await?);
    println!("the second attempt succeeds: {:?}", store.complete(&second, lease).await?);
    println!("every later duplicate:       {:?}", store.claim(&third, lease).await?);
    Ok(())
}

#[cfg(all(test, feature = "conformance"))]
#[tokio::test(flavor = "multi_thread")]
async fn it_keeps_the_contract() {
    let store = MapStore::default();
    qomplement_webhooks::conformance::dedup_all(&store, &store, &[]).await;
}
