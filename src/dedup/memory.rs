//! The dedup store in this process's memory.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use dashmap::{DashMap, SharedValue};
// The fast variant leaves the bits that choose an order uneven for a few of its seeds.
use foldhash::quality::RandomState;
use tokio::time::Instant;

use super::{Claim, ClaimToken, DedupStore};
use crate::event::JobId;
use crate::store::{Fenced, StoreError};

/// A [`DedupStore`] in this process's memory. It needs no server, and a restart loses its content.
///
/// After a restart, or in another process, a duplicate runs the handler again. That is good enough for a
/// single process whose handler may run twice; several processes behind one URL need a store that they
/// share. All clones are one store.
///
/// # Bounds
///
/// By default, the store remembers a million jobs, in about 95 bytes each if their ids are UUIDs. Memory grows in
/// small steps, so no call waits for a large table to grow or to be swept.
///
/// A full store forgets the finished job that came first, of some thousands (of all, in a store of up to 4096 jobs). If
/// that job finished less than a minute ago, the claim fails with [`StoreError::Full`]. A full store never forgets a
/// claim whose lease has not ended.
///
/// # Clock
///
/// The store measures time by tokio's clock, so a test with paused time can move it.
#[derive(Clone)]
pub struct MemoryDedupStore {
    inner: Arc<Inner>,
}

struct Inner {
    jobs: DashMap<JobId, JobState, RandomState>,
    /// The hash of each job in `jobs`, once, in the order of the jobs' arrival. Always locked before a shard of
    /// `jobs`, never after it.
    orders: Box<[Mutex<Order>]>,
    /// The number of jobs. `DashMap::len` would lock every shard.
    len: AtomicUsize,
    capacity: usize,
    epoch: Instant,
}

/// Nanoseconds since the store was made.
type Time = u64;

/// A claim or a finished job, in 16 bytes: a `DashMap` reserves up to twice as many of them as it has entries.
#[derive(Clone, Copy)]
struct JobState {
    /// The end of the lease or the retention.
    until: Time,
    /// The token's owner, folded into fewer bits.
    owner: u32,
    /// When the job finished, in seconds, rounded up, plus one. Zero for a claim.
    finished: u32,
}

/// The arrival order of a part of the jobs.
#[derive(Default)]
struct Order {
    hashes: VecDeque<u64>,
    /// The earliest time at which the first job can have expired.
    expires: Time,
}

/// How long a full store keeps a finished job, in seconds. A duplicate arrives within 15 seconds.
const KEEP: u32 = 60;
const JOBS_PER_ORDER: usize = 4096;
/// The most jobs that one call forgets. More than one, so that a store shrinks faster than it grows.
const FORGET_AT_ONCE: usize = 4;
const SECOND: Time = 1_000_000_000;

impl MemoryDedupStore {
    /// How many jobs a store remembers by default.
    pub const DEFAULT_CAPACITY: usize = 1_000_000;

    /// Makes a store for [`DEFAULT_CAPACITY`](Self::DEFAULT_CAPACITY) jobs.
    #[must_use]
    pub fn new() -> Self {
        Self::with_capacity(Self::DEFAULT_CAPACITY)
    }

    /// Makes a store that remembers up to `jobs` jobs, claims included; at least one.
    #[must_use]
    pub fn with_capacity(jobs: usize) -> Self {
        let orders = (jobs / JOBS_PER_ORDER).next_power_of_two().clamp(1, 256);
        // A shard doubles its table while it is locked. With a thousand jobs, that takes some ten microseconds.
        let jobs_in = DashMap::with_hasher_and_shard_amount(RandomState::default(), orders * 4);
        let inner = Inner {
            jobs: jobs_in,
            orders: std::iter::repeat_with(Mutex::default).take(orders).collect(),
            len: AtomicUsize::new(0),
            capacity: jobs.max(1),
            epoch: Instant::now(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The number of jobs in the store: claimed, finished, and expired but not yet forgotten.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.len.load(Ordering::Relaxed)
    }

    /// Whether the store holds no job.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Inner {
    fn now(&self) -> Time {
        nanoseconds(self.epoch.elapsed())
    }

    fn order(&self, hash: u64) -> MutexGuard<'_, Order> {
        // Bits that select neither a shard nor a bucket in it: orders and shards are independent.
        let index = (hash >> 32) as usize & (self.orders.len() - 1);
        self.orders[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the job's state by the one that `next` returns, or returns the error of `next`. An expired state counts as
    /// `None`.
    fn write<E>(
        &self,
        job: &JobId,
        now: Time,
        next: impl Fn(Option<JobState>) -> Result<JobState, E>,
    ) -> Result<Result<JobState, E>, StoreError> {
        // Through the shard, because an entry of `DashMap` would hash the job once more.
        let hash = self.jobs.hash_usize(job);
        let shard = &self.jobs.shards()[self.jobs.determine_shard(hash)];
        let hash = hash as u64;
        let mut may_make_room = true;
        loop {
            let mut jobs = shard.write();
            if let Some((_, place)) = jobs.get_mut(hash, |(other, _)| other == job) {
                let old = *place.get();
                let state = match next(old.holds(now).then_some(old)) {
                    Ok(state) => state,
                    Err(error) => return Ok(Err(error)),
                };
                *place.get_mut() = state;
                drop(jobs);
                if !old.holds(now) {
                    // The job begins anew, so it moves to the end of its order.
                    let mut order = self.order(hash);
                    order.remove(hash);
                    order.push(hash, state.until);
                }
                return Ok(Ok(state));
            }
            let state = match next(None) {
                Ok(state) => state,
                Err(error) => return Ok(Err(error)),
            };
            if self.len.fetch_add(1, Ordering::Relaxed) < self.capacity {
                let entry = (job.clone(), SharedValue::new(state));
                jobs.insert(hash, entry, |(job, _)| self.jobs.hash_usize(job) as u64);
                drop(jobs);
                let mut order = self.order(hash);
                order.push(hash, state.until);
                self.forget_expired(&mut order, now);
                return Ok(Ok(state));
            }
            self.len.fetch_sub(1, Ordering::Relaxed);
            drop(jobs);
            // Without the shard's lock: an order is locked before a shard.
            if !std::mem::take(&mut may_make_room) || !self.make_room(&mut self.order(hash), now) {
                return Err(StoreError::Full);
            }
        }
    }

    /// Forgets finished jobs whose retention has ended. An expired claim stays as long as there is room, because its
    /// owner may still renew or complete it.
    fn forget_expired(&self, order: &mut Order, now: Time) {
        if now < order.expires {
            return;
        }
        for _ in 0..FORGET_AT_ONCE {
            let Some(&hash) = order.hashes.front() else { return };
            match self.forget_if(hash, |state| !state.is_claim() && !state.holds(now)) {
                // A claim may be renewed for long, and must not keep the jobs behind it in memory.
                Some(state) if state.is_claim() => order.hashes.rotate_left(1),
                Some(state) => return order.expires = state.until,
                None => drop(order.hashes.pop_front()),
            }
        }
    }

    /// Forgets a few expired jobs, claims included, or else the oldest job that finished more than [`KEEP`] seconds ago.
    /// Returns whether it forgot any.
    fn make_room(&self, order: &mut Order, now: Time) -> bool {
        let mut forgotten = 0;
        for _ in 0..order.hashes.len() {
            let Some(&hash) = order.hashes.front().filter(|_| forgotten < FORGET_AT_ONCE) else { break };
            let is_old = |state: &JobState| forgotten == 0 && state.finished_before(KEEP, now);
            match self.forget_if(hash, |state| !state.holds(now) || is_old(state)) {
                Some(state) if state.is_claim() => order.hashes.rotate_left(1),
                None => {
                    order.hashes.pop_front();
                    forgotten += 1;
                }
                Some(_) => break,
            }
        }
        forgotten > 0
    }

    /// Removes the job with a hash if `condition` holds for its state, otherwise returns the state.
    fn forget_if(&self, hash: u64, condition: impl Fn(&JobState) -> bool) -> Option<JobState> {
        let mut shard = self.jobs.shards()[self.jobs.determine_shard(hash as usize)].write();
        let is_it = |(job, _): &(JobId, _)| self.jobs.hash_usize(job) as u64 == hash;
        let state = *shard.get(hash, is_it)?.1.get();
        if !condition(&state) {
            return Some(state);
        }
        shard.remove_entry(hash, is_it);
        self.len.fetch_sub(1, Ordering::Relaxed);
        None
    }
}

impl JobState {
    fn claim(token: &ClaimToken, now: Time, lease: Duration) -> Self {
        Self { until: after(now, lease), owner: owner(token), finished: 0 }
    }

    fn done(token: &ClaimToken, now: Time, retention: Duration) -> Self {
        let finished = u32::try_from(now.div_ceil(SECOND) + 1).unwrap_or(u32::MAX);
        Self { until: after(now, retention), owner: owner(token), finished }
    }

    /// Whether the lease or the retention has not ended.
    fn holds(&self, now: Time) -> bool {
        self.until > now
    }

    fn is_claim(&self) -> bool {
        self.finished == 0
    }

    fn is_of(&self, token: &ClaimToken) -> bool {
        self.owner == owner(token)
    }

    fn finished_before(&self, seconds: u32, now: Time) -> bool {
        !self.is_claim() && Time::from(self.finished.saturating_add(seconds)) <= now / SECOND + 1
    }
}

impl Order {
    fn push(&mut self, hash: u64, until: Time) {
        if self.hashes.len() == self.hashes.capacity() {
            // By an eighth: doubling would leave up to half of the memory unused.
            self.hashes.reserve_exact((self.hashes.len() / 8).max(16));
        }
        if self.hashes.is_empty() {
            self.expires = until;
        }
        self.hashes.push_back(hash);
    }

    /// Searches from the end, since a released claim is mostly young.
    fn remove(&mut self, hash: u64) {
        if let Some(place) = self.hashes.iter().rposition(|&other| other == hash) {
            self.hashes.remove(place);
        }
    }
}

#[async_trait]
impl DedupStore for MemoryDedupStore {
    async fn claim(&self, token: &ClaimToken, lease: Duration) -> Result<Claim, StoreError> {
        let (inner, now) = (&*self.inner, self.inner.now());
        let taken = |state: &JobState| {
            if state.is_claim() {
                Claim::InProgress { retry_after: Duration::from_nanos(state.until - now) }
            } else {
                Claim::Done
            }
        };
        let claimed = inner.write(token.job(), now, |held| match held {
            Some(state) if !state.is_claim() || !state.is_of(token) => Err(taken(&state)),
            _ => Ok(JobState::claim(token, now, lease)),
        })?;
        Ok(claimed.map_or_else(|taken| taken, |_| Claim::Acquired))
    }

    async fn renew(&self, claim: &ClaimToken, lease: Duration) -> Result<Fenced, StoreError> {
        let (inner, now) = (&*self.inner, self.inner.now());
        let renewed = inner.write(claim.job(), now, |held| match held {
            Some(state) if !state.is_claim() || !state.is_of(claim) => Err(Fenced::Stale),
            _ => Ok(JobState::claim(claim, now, lease)),
        })?;
        Ok(renewed.map_or_else(|stale| stale, |_| Fenced::Applied))
    }

    async fn complete(&self, claim: &ClaimToken, retention: Duration) -> Result<Fenced, StoreError> {
        let (inner, now) = (&*self.inner, self.inner.now());
        let completed = inner.write(claim.job(), now, |held| match held {
            Some(state) if !state.is_of(claim) => Err(Fenced::Stale),
            Some(state) if !state.is_claim() => Ok(state),
            _ => Ok(JobState::done(claim, now, retention)),
        })?;
        Ok(completed.map_or_else(|stale| stale, |_| Fenced::Applied))
    }

    async fn release(&self, claim: &ClaimToken) -> Result<Fenced, StoreError> {
        let inner = &*self.inner;
        let hash = inner.jobs.hash_usize(claim.job()) as u64;
        // Locked first: between the two removals, another thread could forget this place as that of no job, and a third
        // claim the job anew. Its new place would be removed here, and a job without a place is never forgotten.
        let mut order = inner.order(hash);
        let released = inner.jobs.remove_if(claim.job(), |_, state| state.is_claim() && state.is_of(claim));
        if released.is_none() {
            return Ok(Fenced::Stale);
        }
        inner.len.fetch_sub(1, Ordering::Relaxed);
        order.remove(hash);
        Ok(Fenced::Applied)
    }
}

/// Folds a token's owner. Tokens of one process differ in the counter in their low half: two of them for one job fold into
/// the same bits only if they are 2³² claims apart.
fn owner(token: &ClaimToken) -> u32 {
    let halves = (token.owner() >> 64) as u64 ^ token.owner() as u64;
    (halves >> 32) as u32 ^ halves as u32
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
            .field("capacity", &self.inner.capacity)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_the_jobs_leaves_little_memory_unused() {
        let mut order = Order::default();
        for hash in 0..5000 {
            order.push(hash, 0);
            let (jobs, room) = (order.hashes.len(), order.hashes.capacity());
            assert!(room <= jobs + jobs / 8 + 16, "room for {room} of {jobs}");
        }
    }
}
