//! The dedup store of one process.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use dashmap::{DashMap, Entry};
use foldhash::fast::RandomState;
use tokio::time::Instant;

use super::{Claim, ClaimToken, DedupStore};
use crate::event::JobId;
use crate::store::{Fenced, StoreError};

/// A [`DedupStore`] in this process's memory: no server, and nothing survives a restart.
///
/// After a restart, or in another process, a duplicate runs the handler again. That is enough for a
/// single process with idempotent effects; several processes behind one URL need a store that they
/// share.
///
/// # Bounds
///
/// The store remembers a million jobs unless told otherwise, in about 95 bytes each when their ids are
/// UUIDs. Memory grows in small steps, so no call waits for a large table to grow or to be swept. At the
/// bound, a job that finished more than a minute ago makes room, the oldest among some thousands (the
/// oldest of all, in a store of up to 4096 jobs); without one, the claim fails with
/// [`StoreError::Full`]. A claim never makes room for another.
///
/// # Clock
///
/// Tokio's, so a test with paused time can move it.
pub struct MemoryDedupStore {
    jobs: DashMap<JobId, State, RandomState>,
    /// The hash of each job in `jobs`, once, in the order in which the jobs came. Locked before a shard
    /// of `jobs`, never after.
    orders: Box<[Mutex<Order>]>,
    /// Jobs in the store. A `DashMap` counts its own by locking every shard.
    len: AtomicUsize,
    capacity: usize,
    epoch: Instant,
}

/// Nanoseconds since the store was made.
type Time = u64;

/// A claim, or a finished job. 16 bytes: a `DashMap` has up to twice as many places as entries.
#[derive(Clone, Copy)]
struct State {
    /// When the lease or the retention ends.
    until: Time,
    /// The low bits of the token's owner, which is a counter: two tokens for one job look alike only 2³²
    /// claims apart.
    owner: u32,
    /// In seconds, rounded up, plus one; zero for a claim.
    finished: u32,
}

#[derive(Default)]
struct Order {
    hashes: VecDeque<u64>,
    /// The earliest time at which the first job can have expired.
    expires: Time,
}

/// A duplicate comes within 15 seconds, so a job that finished a minute ago may be forgotten.
const KEEP: u32 = 60;
const JOBS_PER_ORDER: usize = 4096;
/// How many jobs one call forgets at most: more than it adds.
const FORGET_AT_ONCE: usize = 4;
const SECOND: Time = 1_000_000_000;

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
        let orders = (jobs / JOBS_PER_ORDER).next_power_of_two().clamp(1, 256);
        // A shard of a thousand jobs doubles in some ten microseconds.
        let jobs_in = DashMap::with_hasher_and_shard_amount(RandomState::default(), orders * 4);
        Self {
            jobs: jobs_in,
            orders: std::iter::repeat_with(Mutex::default).take(orders).collect(),
            len: AtomicUsize::new(0),
            capacity: jobs.max(1),
            epoch: Instant::now(),
        }
    }

    /// How many jobs the store holds: claimed, finished, and expired ones that are not yet forgotten.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Whether the store holds no job.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn now(&self) -> Time {
        nanoseconds(self.epoch.elapsed())
    }

    fn order(&self, hash: u64) -> MutexGuard<'_, Order> {
        // Bits that choose neither a shard nor a place in it.
        let index = (hash >> 32) as usize & (self.orders.len() - 1);
        self.orders[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the state that `next` gives for the job's present one, or returns its error.
    fn write<E>(
        &self,
        job: &JobId,
        now: Time,
        next: impl Fn(Option<State>) -> Result<State, E>,
    ) -> Result<Result<State, E>, StoreError> {
        let hash = self.jobs.hash_usize(job) as u64;
        let mut may_make_room = true;
        loop {
            match self.jobs.entry(job.clone()) {
                Entry::Occupied(mut entry) => {
                    let old = *entry.get();
                    let state = match next(old.holds(now).then_some(old)) {
                        Ok(state) => state,
                        Err(error) => return Ok(Err(error)),
                    };
                    entry.insert(state);
                    drop(entry);
                    if !old.holds(now) {
                        // It is young again.
                        let mut order = self.order(hash);
                        order.remove(hash);
                        order.push(hash, state.until);
                    }
                    return Ok(Ok(state));
                }
                Entry::Vacant(entry) => {
                    let state = match next(None) {
                        Ok(state) => state,
                        Err(error) => return Ok(Err(error)),
                    };
                    if self.len.fetch_add(1, Ordering::Relaxed) < self.capacity {
                        entry.insert(state);
                        let mut order = self.order(hash);
                        order.push(hash, state.until);
                        self.forget_expired(&mut order, now);
                        return Ok(Ok(state));
                    }
                    self.len.fetch_sub(1, Ordering::Relaxed);
                }
            }
            // The entry's lock is free again: an order is locked before a shard.
            if !std::mem::take(&mut may_make_room) || !self.make_room(&mut self.order(hash), now) {
                return Err(StoreError::Full);
            }
        }
    }

    /// Forgets finished jobs whose retention has ended. An expired claim stays, as long as there is room: its
    /// owner may come back.
    fn forget_expired(&self, order: &mut Order, now: Time) {
        if now < order.expires {
            return;
        }
        for _ in 0..FORGET_AT_ONCE {
            let Some(&hash) = order.hashes.front() else { return };
            match self.forget_if(hash, |state| !state.is_claim() && !state.holds(now)) {
                // Its end is not known yet, and others must not wait for it.
                Some(state) if state.is_claim() => order.hashes.rotate_left(1),
                Some(state) => return order.expires = state.until,
                None => drop(order.hashes.pop_front()),
            }
        }
    }

    /// Forgets some jobs that have expired, or the oldest that finished long enough ago.
    fn make_room(&self, order: &mut Order, now: Time) -> bool {
        let mut forgotten = 0;
        for _ in 0..order.hashes.len() {
            let Some(&hash) = order.hashes.front().filter(|_| forgotten < FORGET_AT_ONCE) else { break };
            let is_old = |state: &State| forgotten == 0 && state.finished_before(KEEP, now);
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

    /// Removes the job with a hash if its state is such; otherwise returns the state.
    fn forget_if(&self, hash: u64, condition: impl Fn(&State) -> bool) -> Option<State> {
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

impl State {
    fn claim(token: &ClaimToken, now: Time, lease: Duration) -> Self {
        Self { until: after(now, lease), owner: owner(token), finished: 0 }
    }

    fn done(token: &ClaimToken, now: Time, retention: Duration) -> Self {
        let finished = u32::try_from(now.div_ceil(SECOND) + 1).unwrap_or(u32::MAX);
        Self { until: after(now, retention), owner: owner(token), finished }
    }

    /// Whether it keeps others out.
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
            // In small steps: doubling would leave up to half of the memory unused.
            self.hashes.reserve_exact((self.hashes.len() / 8).max(16));
        }
        if self.hashes.is_empty() {
            self.expires = until;
        }
        self.hashes.push_back(hash);
    }

    /// Looks from the end: a claim that is released is young.
    fn remove(&mut self, hash: u64) {
        if let Some(place) = self.hashes.iter().rposition(|&other| other == hash) {
            self.hashes.remove(place);
        }
    }
}

#[async_trait]
impl DedupStore for MemoryDedupStore {
    async fn claim(&self, token: &ClaimToken, lease: Duration) -> Result<Claim, StoreError> {
        let now = self.now();
        let taken = |state: &State| {
            if state.is_claim() {
                Claim::InProgress { retry_after: Duration::from_nanos(state.until - now) }
            } else {
                Claim::Done
            }
        };
        // Most duplicates are of finished jobs, and need no write.
        if let Some(state) = self.jobs.get(token.job())
            && state.holds(now)
            && !state.is_of(token)
        {
            return Ok(taken(&state));
        }
        let claimed = self.write(token.job(), now, |held| match held {
            Some(state) if !state.is_claim() || !state.is_of(token) => Err(taken(&state)),
            _ => Ok(State::claim(token, now, lease)),
        })?;
        Ok(claimed.map_or_else(|taken| taken, |_| Claim::Acquired))
    }

    async fn renew(&self, claim: &ClaimToken, lease: Duration) -> Result<Fenced, StoreError> {
        let now = self.now();
        let renewed = self.write(claim.job(), now, |held| match held {
            Some(state) if !state.is_claim() || !state.is_of(claim) => Err(Fenced::Stale),
            _ => Ok(State::claim(claim, now, lease)),
        })?;
        Ok(renewed.map_or_else(|stale| stale, |_| Fenced::Applied))
    }

    async fn complete(&self, claim: &ClaimToken, retention: Duration) -> Result<Fenced, StoreError> {
        let now = self.now();
        let completed = self.write(claim.job(), now, |held| match held {
            Some(state) if !state.is_of(claim) => Err(Fenced::Stale),
            Some(state) if !state.is_claim() => Ok(state),
            _ => Ok(State::done(claim, now, retention)),
        })?;
        Ok(completed.map_or_else(|stale| stale, |_| Fenced::Applied))
    }

    async fn release(&self, claim: &ClaimToken) -> Result<Fenced, StoreError> {
        let released = self.jobs.remove_if(claim.job(), |_, state| state.is_claim() && state.is_of(claim));
        let Some((job, _)) = released else { return Ok(Fenced::Stale) };
        self.len.fetch_sub(1, Ordering::Relaxed);
        let hash = self.jobs.hash_usize(&job) as u64;
        self.order(hash).remove(hash);
        Ok(Fenced::Applied)
    }
}

fn owner(token: &ClaimToken) -> u32 {
    token.owner() as u32
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
