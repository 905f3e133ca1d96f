//! The finished jobs of one shard of the memory store, oldest first.
//!
//! The jobs lie in a ring in the order in which they finished, and a hash table of four-byte numbers
//! finds them there. Against a map from job to state, that is half of the memory (a hash table's
//! buckets are up to twice its entries, so they should be small), and what has expired or must make
//! room is always at the front: nothing ever sweeps.

use std::collections::VecDeque;
use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use super::ClaimToken;
use crate::event::JobId;

/// Nanoseconds since the store was made.
pub(super) type Time = u64;

const SECOND: Time = 1_000_000_000;

#[derive(Default)]
pub(super) struct Finished {
    /// A job that finished again after it had expired is in here twice until the older one goes.
    ring: VecDeque<Entry>,
    /// The number of the entry at the front; entry `n` lies at `n - front`, wrapping.
    front: u32,
    /// The number of each job's newest entry.
    numbers: HashTable<u32>,
}

/// 40 bytes, of which a UUID takes 17.
struct Entry {
    job: JobId,
    until: Time,
    /// In seconds, rounded up.
    finished_at: u32,
    /// The low bits of the owner that completed it: a counter, so that two claims of one job would
    /// have to be 2³² claims apart to look alike.
    owner: u32,
}

impl Finished {
    /// Who completed the job, unless that has expired.
    pub(super) fn completed_by(&self, hash: u64, job: &JobId, now: Time) -> Option<CompletedBy> {
        let number = self.numbers.find(hash, |&number| self.entry(number).job == *job)?;
        let entry = self.entry(*number);
        (entry.until > now).then_some(CompletedBy(entry.owner))
    }

    /// Appends a job that has just finished.
    pub(super) fn push(
        &mut self,
        hasher: &DefaultHashBuilder,
        hash: u64,
        claim: &ClaimToken,
        now: Time,
        until: Time,
    ) {
        if self.ring.len() == self.ring.capacity() {
            // In steps of a quarter: doubling would leave up to half of the memory unused.
            self.ring.reserve_exact((self.ring.len() / 4).max(16));
        }
        let number = self.front.wrapping_add(self.ring.len() as u32);
        self.ring.push_back(Entry {
            job: claim.job().clone(),
            until,
            finished_at: u32::try_from(now.div_ceil(SECOND)).unwrap_or(u32::MAX),
            owner: CompletedBy::new(claim).0,
        });
        let (ring, front) = (&self.ring, self.front);
        let entry = |number: u32| &ring[number.wrapping_sub(front) as usize];
        self.numbers
            .entry(hash, |&old| entry(old).job == *claim.job(), |&old| hasher.hash_one(&entry(old).job))
            .insert(number);
    }

    /// Forgets the oldest job if it has expired.
    pub(super) fn pop_expired(&mut self, hasher: &DefaultHashBuilder, now: Time) -> bool {
        let expired = self.ring.front().is_some_and(|oldest| oldest.until <= now);
        expired && self.pop(hasher)
    }

    /// Forgets the oldest job if it finished at least so many seconds ago.
    pub(super) fn pop_older_than(&mut self, hasher: &DefaultHashBuilder, seconds: u32, now: Time) -> bool {
        let old = self
            .ring
            .front()
            .is_some_and(|oldest| Time::from(oldest.finished_at.saturating_add(seconds)) <= now / SECOND);
        old && self.pop(hasher)
    }

    fn pop(&mut self, hasher: &DefaultHashBuilder) -> bool {
        let Some(entry) = self.ring.pop_front() else { return false };
        let number = self.front;
        self.front = number.wrapping_add(1);
        // Not found when a newer entry has taken the job's place.
        if let Ok(found) = self.numbers.find_entry(hasher.hash_one(&entry.job), |&other| other == number) {
            found.remove();
        }
        true
    }

    fn entry(&self, number: u32) -> &Entry {
        &self.ring[number.wrapping_sub(self.front) as usize]
    }
}

/// Which claim completed a job, as far as a finished job remembers it.
#[derive(PartialEq, Eq)]
pub(super) struct CompletedBy(u32);

impl CompletedBy {
    pub(super) fn new(claim: &ClaimToken) -> Self {
        Self(claim.owner() as u32)
    }
}
