//! The store of one process.

use std::fmt;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use hashbrown::{DefaultHashBuilder, HashTable};
use tokio::time::Instant;

use super::finished::{CompletedBy, Finished, Time};
use super::{Claim, ClaimToken, DedupStore};
use crate::event::JobId;
use crate::store::{Fenced, StoreError};

/// A [`DedupStore`] in this process's memory: no server, and nothing survives a restart.
///
/// After a restart, or in another process, a copy of a webhook runs the handler again. That is what
/// a single process with idempotent effects needs; several processes behind one URL need a store
/// that they share.
///
/// # Bounds
///
/// It remembers a million jobs unless told otherwise, in about 50 bytes each when their ids are
/// UUIDs. Memory is taken as it is needed, in small steps: no call waits for a large table to grow
/// or to be swept. When the bound is reached, a job that was done more than a minute ago makes room,
/// the oldest among some thousands (the oldest of all, in a store of up to 4096 jobs); if there is
/// none, the claim fails with [`StoreError::Full`]. A claim never makes room for another.
///
/// # Clock
///
/// Tokio's, so that a test with paused time can move it.
pub struct MemoryDedupStore {
    /// A power of two of them, so that threads seldom meet and a step of growth is short.
    shards: Box<[Mutex<Shard>]>,
    /// Seeded for each store. Fast rather than proof against chosen keys: ids come from who is authenticated.
    hasher: DefaultHashBuilder,
    /// Claims and finished jobs in all shards.
    jobs: AtomicUsize,
    capacity: usize,
    epoch: Instant,
}

#[derive(Default)]
struct Shard {
    claims: HashTable<Held>,
    /// How many claims make it worth looking for expired ones that nobody came back for.
    sweep_claims_at: usize,
    finished: Finished,
}

struct Held {
    job: JobId,
    owner: u128,
    until: Time,
}

/// A copy of a webhook comes within 15 seconds, so what finished a minute ago can be forgotten first.
const KEEP_SECONDS: u32 = 60;
const JOBS_PER_SHARD: usize = 4096;

impl MemoryDedupStore {
    /// How many jobs a store remembers unless told otherwise.
    pub const DEFAULT_CAPACITY: usize = 1_000_000;

    /// Makes a store for [`DEFAULT_CAPACITY`](Self::DEFAULT_CAPACITY) jobs.
    #[must_use]
    pub fn new() -> Self {
        Self::with_capacity(Self::DEFAULT_CAPACITY)
    }

    /// Makes a store that remembers up to `jobs` jobs, at least one, claims included.
    #[must_use]
    pub fn with_capacity(jobs: usize) -> Self {
        let shards = (jobs / JOBS_PER_SHARD).next_power_of_two().clamp(1, 1024);
        Self {
            shards: std::iter::repeat_with(Mutex::default).take(shards).collect(),
            hasher: DefaultHashBuilder::default(),
            jobs: AtomicUsize::new(0),
            capacity: jobs.max(1),
            epoch: Instant::now(),
        }
    }

    /// How many jobs it holds: claimed ones, done ones, and expired ones that are not yet forgotten.
    #[must_use]
    pub fn len(&self) -> usize {
        self.jobs.load(Ordering::Relaxed)
    }

    /// Whether it holds no job.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn now(&self) -> Time {
        nanoseconds(self.epoch.elapsed())
    }

    fn shard(&self, hash: u64) -> MutexGuard<'_, Shard> {
        // Bits that the shard's own tables use neither to find a bucket nor to compare it.
        let index = (hash >> 40) as usize & (self.shards.len() - 1);
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one more job, if the bound or something old leaves room for it.
    fn make_room(&self, shard: &mut Shard, now: Time) -> Result<(), StoreError> {
        if self.jobs.fetch_add(1, Ordering::Relaxed) < self.capacity {
            return Ok(());
        }
        if shard.finished.pop_older_than(&self.hasher, KEEP_SECONDS, now) {
            self.forget(1);
            return Ok(());
        }
        if self.sweep_claims(shard, now) > 0 {
            return Ok(());
        }
        self.forget(1);
        Err(StoreError::Full)
    }

    fn hold(&self, shard: &mut Shard, hash: u64, held: Held) {
        shard.claims.insert_unique(hash, held, |held| self.hasher.hash_one(&held.job));
    }

    /// Drops claims that expired and were not taken over.
    fn sweep_claims(&self, shard: &mut Shard, now: Time) -> usize {
        let before = shard.claims.len();
        shard.claims.retain(|held| held.until > now);
        shard.sweep_claims_at = (shard.claims.len() * 2).max(64);
        let swept = before - shard.claims.len();
        self.forget(swept);
        swept
    }

    /// Drops some finished jobs that have expired: more than one call can add.
    fn drop_expired(&self, shard: &mut Shard, now: Time) {
        for _ in 0..4 {
            if !shard.finished.pop_expired(&self.hasher, now) {
                break;
            }
            self.forget(1);
        }
    }

    fn forget(&self, jobs: usize) {
        self.jobs.fetch_sub(jobs, Ordering::Relaxed);
    }
}

impl Held {
    fn new(token: &ClaimToken, until: Time) -> Self {
        Self { job: token.job().clone(), owner: token.owner(), until }
    }

    /// Whether the job is another token's.
    fn excludes(&self, claim: &ClaimToken, now: Time) -> bool {
        self.owner != claim.owner() && self.until > now
    }
}

#[async_trait]
impl DedupStore for MemoryDedupStore {
    async fn claim(&self, claim: &ClaimToken, lease: Duration) -> Result<Claim, StoreError> {
        let hash = self.hasher.hash_one(claim.job());
        let now = self.now();
        let mut shard = self.shard(hash);
        self.drop_expired(&mut shard, now);
        match shard.claims.find_mut(hash, |held| held.job == *claim.job()) {
            Some(held) if held.excludes(claim, now) => {
                return Ok(Claim::InProgress { retry_after: Duration::from_nanos(held.until - now) });
            }
            Some(held) => {
                *held = Held::new(claim, after(now, lease));
                return Ok(Claim::Acquired);
            }
            None => {}
        }
        if shard.finished.completed_by(hash, claim.job(), now).is_some() {
            return Ok(Claim::Done);
        }
        if shard.claims.len() >= shard.sweep_claims_at {
            self.sweep_claims(&mut shard, now);
        }
        self.make_room(&mut shard, now)?;
        self.hold(&mut shard, hash, Held::new(claim, after(now, lease)));
        Ok(Claim::Acquired)
    }

    async fn renew(&self, claim: &ClaimToken, lease: Duration) -> Result<Fenced, StoreError> {
        let hash = self.hasher.hash_one(claim.job());
        let now = self.now();
        let mut shard = self.shard(hash);
        match shard.claims.find_mut(hash, |held| held.job == *claim.job()) {
            Some(held) if held.excludes(claim, now) => return Ok(Fenced::Stale),
            Some(held) => {
                *held = Held::new(claim, after(now, lease));
                return Ok(Fenced::Applied);
            }
            None => {}
        }
        if shard.finished.completed_by(hash, claim.job(), now).is_some() {
            return Ok(Fenced::Stale);
        }
        // Expired and swept, and nobody came for the job.
        self.make_room(&mut shard, now)?;
        self.hold(&mut shard, hash, Held::new(claim, after(now, lease)));
        Ok(Fenced::Applied)
    }

    async fn complete(&self, claim: &ClaimToken, retention: Duration) -> Result<Fenced, StoreError> {
        let hash = self.hasher.hash_one(claim.job());
        let now = self.now();
        let mut shard = self.shard(hash);
        match shard.claims.find_entry(hash, |held| held.job == *claim.job()) {
            Ok(held) if held.get().excludes(claim, now) => return Ok(Fenced::Stale),
            Ok(held) => {
                held.remove();
            }
            Err(_) => match shard.finished.completed_by(hash, claim.job(), now) {
                Some(owner) if owner == CompletedBy::new(claim) => return Ok(Fenced::Applied),
                Some(_) => return Ok(Fenced::Stale),
                None => self.make_room(&mut shard, now)?,
            },
        }
        shard.finished.push(&self.hasher, hash, claim, now, after(now, retention));
        Ok(Fenced::Applied)
    }

    async fn release(&self, claim: &ClaimToken) -> Result<Fenced, StoreError> {
        let hash = self.hasher.hash_one(claim.job());
        let mut shard = self.shard(hash);
        match shard.claims.find_entry(hash, |held| held.job == *claim.job()) {
            Ok(held) if held.get().owner == claim.owner() => {
                held.remove();
                self.forget(1);
                Ok(Fenced::Applied)
            }
            _ => Ok(Fenced::Stale),
        }
    }
}

fn after(now: Time, duration: Duration) -> Time {
    now.saturating_add(nanoseconds(duration))
}

fn nanoseconds(duration: Duration) -> Time {
    Time::try_from(duration.as_nanos()).unwrap_or(Time::MAX)
}

impl Default for MemoryDedupStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryDedupStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryDedupStore")
            .field("jobs", &self.len())
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}
