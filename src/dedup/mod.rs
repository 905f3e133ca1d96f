//! Which jobs are being handled, and which have been.

mod finished;
mod memory;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "redis")]
mod redis;
#[cfg(test)]
mod tests;

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;

pub use self::memory::MemoryDedupStore;
#[cfg(feature = "postgres")]
pub use self::postgres::PostgresDedupStore;
#[cfg(feature = "redis")]
pub use self::redis::{RedisDedupStore, RedisStoreError};
use crate::event::JobId;
use crate::store::{Fenced, StoreError};

/// Where receivers agree on who handles a job.
///
/// # Contract
///
/// A job is *free*, *claimed* by one [`ClaimToken`] until its lease ends, or *done* until its
/// retention ends.
///
/// - [`claim`](Self::claim) is atomic: of any number of calls for one free job, over all handles and
///   processes that share the store, one gets [`Claim::Acquired`]. A check followed by a write is not
///   atomic.
/// - A claim whose lease has ended is free: the next `claim` acquires it. An error may leave a claim
///   behind; its lease frees it. The lease is part of the claim's own write, never a second one.
/// - [`renew`](Self::renew), [`complete`](Self::complete) and [`release`](Self::release) act for the
///   token that owns the job: the last one that acquired it, also when its lease has ended since. While
///   the job is claimed by another token, or done by another, they change nothing and return
///   [`Fenced::Stale`]. When the job is free, a store need not remember who had it: it may take any
///   earlier token for the owner.
/// - An id is opaque: it is compared exactly and may hold any visible ASCII character.
/// - What a store returned `Ok` for is kept until its lease or retention ends; what it cannot keep,
///   it refuses with [`StoreError::Full`].
///
/// # Durations
///
/// They count from the moment when the store writes. A lease is some seconds, a retention some
/// days; neither is zero.
///
/// # Cancel safety
///
/// The receiver drops a call that takes too long. The write may or may not have happened then; the
/// store must stay usable and must not lose another job's write.
///
/// # Examples
///
/// A whole store of one's own, for one process:
///
/// ```
#[doc = include_str!("../../examples/custom_dedup_store.rs")]
/// ```
#[async_trait]
pub trait DedupStore: fmt::Debug + Send + Sync + 'static {
    /// Claims a job for the length of a lease, atomically.
    ///
    /// # Errors
    ///
    /// When it is not known whether the job is free.
    async fn claim(&self, job: &JobId, lease: Duration) -> Result<Claim, StoreError>;

    /// Makes a claim last for another lease, counted from now.
    ///
    /// It applies also when the lease has ended, as long as nobody else has acquired the job since. A
    /// job that is done is not claimed again by it.
    ///
    /// # Errors
    ///
    /// When it is not known whether the claim was renewed.
    async fn renew(&self, claim: &ClaimToken, lease: Duration) -> Result<Fenced, StoreError>;

    /// Records a job as done for the length of a retention, and ends the claim.
    ///
    /// Idempotent for one token: a repetition is [`Fenced::Applied`]. It applies also when the lease
    /// has ended, as long as nobody else has acquired the job since: the work was done.
    ///
    /// # Errors
    ///
    /// When it is not known whether the job was recorded.
    async fn complete(&self, claim: &ClaimToken, retention: Duration) -> Result<Fenced, StoreError>;

    /// Frees a job that was not done, so that the next claim acquires it at once. The token is not used
    /// again.
    ///
    /// # Errors
    ///
    /// When it is not known whether the job was freed; its lease frees it later.
    async fn release(&self, claim: &ClaimToken) -> Result<Fenced, StoreError>;
}

/// What a store says to a claim.
#[derive(Debug, Clone)]
pub enum Claim {
    /// The job was free and is now claimed by this token.
    Acquired(ClaimToken),
    /// Somebody else has claimed the job.
    InProgress {
        /// How long the other's lease still lasts, unless it is renewed or released.
        retry_after: Duration,
    },
    /// The job has been done.
    Done,
}

/// The right to handle one job, until its lease ends: the job and an owner that no other claim has.
///
/// `Debug` leaves the owner out: whoever knows it can release the claim.
#[derive(Clone, PartialEq, Eq)]
pub struct ClaimToken {
    job: JobId,
    owner: u128,
}

impl ClaimToken {
    /// Draws a new owner for a job.
    #[must_use]
    pub fn new(job: &JobId) -> Self {
        /// Sets this process apart from every other one.
        static PROCESS: LazyLock<u64> = LazyLock::new(random_number);
        /// Sets this claim apart from the process's other ones.
        static CLAIMS: AtomicU64 = AtomicU64::new(0);

        let claim = CLAIMS.fetch_add(1, Ordering::Relaxed);
        Self { job: job.clone(), owner: u128::from(*PROCESS) << 64 | u128::from(claim) }
    }

    /// The job that is claimed.
    #[must_use]
    pub fn job(&self) -> &JobId {
        &self.job
    }

    /// The number that no other claim has, in this process or another: what a store compares.
    #[must_use]
    pub fn owner(&self) -> u128 {
        self.owner
    }
}

/// From the operating system; if it refuses, from what the standard library seeded its hashers with.
fn random_number() -> u64 {
    getrandom::u64().unwrap_or_else(|_| RandomState::new().hash_one(std::process::id()))
}

impl fmt::Debug for ClaimToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClaimToken").field("job", &self.job).field("owner", &"[redacted]").finish()
    }
}

#[async_trait]
impl<S: DedupStore + ?Sized> DedupStore for Arc<S> {
    async fn claim(&self, job: &JobId, lease: Duration) -> Result<Claim, StoreError> {
        (**self).claim(job, lease).await
    }

    async fn renew(&self, claim: &ClaimToken, lease: Duration) -> Result<Fenced, StoreError> {
        (**self).renew(claim, lease).await
    }

    async fn complete(&self, claim: &ClaimToken, retention: Duration) -> Result<Fenced, StoreError> {
        (**self).complete(claim, retention).await
    }

    async fn release(&self, claim: &ClaimToken) -> Result<Fenced, StoreError> {
        (**self).release(claim).await
    }
}
