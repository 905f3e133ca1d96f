//! Which jobs are being handled, and which have been.

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
/// - [`claim`](Self::claim) is atomic: of any number of tokens that claim one free job, over all handles
///   and processes that share the store, one gets [`Claim::Acquired`]. A check followed by a write is not
///   atomic.
/// - A claim whose lease has ended is free: the next `claim` acquires it. The token and the lease are part
///   of the claim's own write, never of a second one: a claim whose caller did not wait for the answer, or
///   got an error, is freed by a [`release`](Self::release) of its token, and otherwise by its lease.
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
/// The receiver drops a call that takes too long. The write may have happened by then, may happen later, or
/// never; the store must stay usable and must not lose another job's write. After a claim that was dropped or
/// failed, the receiver releases the token, and repeats the release for as long as the claim could still
/// arrive and meet a delivery of the job.
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
    /// Claims the token's job for the length of a lease, atomically.
    ///
    /// Idempotent for one token: a repetition while the token holds the job is [`Claim::Acquired`], too.
    ///
    /// # Errors
    ///
    /// Returns an error if it is not known whether the job is free. The claim may take effect all the same,
    /// even later; [`release`](Self::release) ends it.
    async fn claim(&self, claim: &ClaimToken, lease: Duration) -> Result<Claim, StoreError>;

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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// The job was free, and is now claimed by the token.
    Acquired,
    /// Somebody else has claimed the job.
    InProgress {
        /// How long the other's lease still lasts, unless it is renewed or released.
        retry_after: Duration,
    },
    /// The job has been done.
    Done,
}

/// The name of one claim: the job, and an owner that no other claim has. The caller draws it before the claim,
/// and so can release the claim whatever the answer was.
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
