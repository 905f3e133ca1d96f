//! The dedup stores: which jobs are claimed, and which are done.

mod memory;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "redis")]
mod redis;
#[cfg(test)]
mod tests;

use std::fmt;
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
use crate::random;
use crate::store::{Fenced, StoreError};

/// A store in which receivers claim jobs, so that one at a time runs a job's handler.
///
/// # Contract
///
/// A job is *free*, *claimed* by one [`ClaimToken`] until its lease ends, or *done* until its
/// retention ends.
///
/// - [`claim`](Self::claim) is atomic: of any number of tokens that claim one free job, over all handles
///   and processes that share the store, one gets [`Claim::Acquired`]. A check followed by a write is not
///   atomic.
/// - A job whose lease has ended is free: the next `claim` acquires it. The store writes token and lease together
///   with the claim, never in a second write. So a claim whose caller left early, or got an error, is freed by a
///   [`release`](Self::release) of its token, or else by the end of its lease.
/// - [`renew`](Self::renew), [`complete`](Self::complete) and [`release`](Self::release) act for the
///   token that owns the job: the last one that acquired it, even if its lease has ended since. While
///   the job is claimed or done by another token, they change nothing and return [`Fenced::Stale`]. For a free job, a
///   store may accept any token that claimed the job before.
/// - A job id is opaque: it is compared exactly and may contain any visible ASCII character.
/// - The store keeps every write that it answered `Ok` until the lease or retention ends. A write that it has no room
///   for, it refuses with [`StoreError::Full`].
///
/// # Durations
///
/// Leases and retentions count from the moment of the write. A lease is some seconds, a retention some
/// days, or up to a century; neither is zero.
///
/// # Cancel safety
///
/// The receiver drops a call that takes too long. The write may have happened by then, may happen later, or may
/// never happen; the store must stay usable and must not lose another job's write. After a claim that was dropped or
/// failed, the receiver releases the token, and repeats the release for as long as the claim could still
/// arrive and meet a delivery of the job.
///
/// # Examples
///
/// A complete custom store, for one process:
///
/// ```
#[doc = include_str!("../../examples/custom_dedup_store.rs")]
/// ```
#[async_trait]
pub trait DedupStore: fmt::Debug + Send + Sync + 'static {
    /// Claims the token's job for the length of a lease, atomically.
    ///
    /// May be repeated with the same token: while the token holds the job, the repetition returns [`Claim::Acquired`], and
    /// the lease begins anew; while another token holds the job, no trace of the claim is left.
    ///
    /// # Errors
    ///
    /// Returns [`StoreError::Full`] if the store has no room for the claim, and wrote nothing. Returns
    /// [`StoreError::Unavailable`] if the result is not known: the claim may take effect all the same, even later.
    /// [`release`](Self::release) ends it.
    async fn claim(&self, claim: &ClaimToken, lease: Duration) -> Result<Claim, StoreError>;

    /// Extends a claim by another lease, counted from now.
    ///
    /// Applies even if the lease has ended, unless another token has acquired the job since. Never turns a done job
    /// into a claimed one.
    ///
    /// # Errors
    ///
    /// Returns an error if the claim may not have been renewed.
    async fn renew(&self, claim: &ClaimToken, lease: Duration) -> Result<Fenced, StoreError>;

    /// Records a job as done for the length of a retention, and ends the claim.
    ///
    /// Idempotent for one token: a repetition returns [`Fenced::Applied`] again. Applies even if the lease
    /// has ended, unless another token has acquired the job since: the work was done.
    ///
    /// # Errors
    ///
    /// Returns an error if the job may not have been recorded as done.
    async fn complete(&self, claim: &ClaimToken, retention: Duration) -> Result<Fenced, StoreError>;

    /// Frees a job that is not done, so that the next claim acquires it at once. The caller does not use the token
    /// again.
    ///
    /// # Errors
    ///
    /// Returns an error if the job may not have been freed; the end of its lease frees it later.
    async fn release(&self, claim: &ClaimToken) -> Result<Fenced, StoreError>;
}

/// The result of [`DedupStore::claim`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// The token has claimed the job.
    Acquired,
    /// Another token has claimed the job.
    InProgress {
        /// How long the other claim's lease still lasts, unless it is renewed or released.
        retry_after: Duration,
    },
    /// The job is done.
    Done,
}

/// The identity of one claim: the job, and an owner that no other claim has.
///
/// The caller draws it before the claim, and so can release the claim even if no answer came. `Debug` hides the owner,
/// because knowing it is enough to release the claim.
#[derive(Clone, PartialEq, Eq)]
pub struct ClaimToken {
    job: JobId,
    owner: u128,
}

impl ClaimToken {
    /// Draws a new owner for a job.
    #[must_use]
    pub fn new(job: &JobId) -> Self {
        /// Differs in every process. The low half hides that the claims of each process are counted from zero: a store
        /// that by mistake kept only this half would otherwise meet equal owners of two processes all the time.
        static PROCESS: LazyLock<u128> =
            LazyLock::new(|| u128::from(random::unique()) << 64 | u128::from(random::unique()));
        /// Differs for every claim of this process.
        static CLAIMS: AtomicU64 = AtomicU64::new(0);

        let claim = CLAIMS.fetch_add(1, Ordering::Relaxed);
        Self { job: job.clone(), owner: *PROCESS ^ u128::from(claim) }
    }

    /// The token of another owner, which differs in these bits alone.
    #[cfg(feature = "conformance")]
    pub(crate) fn with_flipped(&self, bits: u128) -> Self {
        Self { job: self.job.clone(), owner: self.owner ^ bits }
    }

    /// The job that is claimed.
    #[must_use]
    pub fn job(&self) -> &JobId {
        &self.job
    }

    /// The number that a store compares, all 128 bits of it. No other claim has it, in this process or another.
    #[must_use]
    pub fn owner(&self) -> u128 {
        self.owner
    }
}

impl fmt::Debug for ClaimToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClaimToken").field("job", &self.job).field("owner", &"[redacted]").finish()
    }
}

#[async_trait]
impl<S: DedupStore + ?Sized> DedupStore for Arc<S> {
    async fn claim(&self, claim: &ClaimToken, lease: Duration) -> Result<Claim, StoreError> {
        (**self).claim(claim, lease).await
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
