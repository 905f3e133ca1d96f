//! Leases, and the rows that they are on.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::event::{JobId, TraceParent};

/// The bytes of bodies with which one call ends to lease: a reply must not take as long as a lease.
pub(crate) const MOST_LEASED: usize = 64 << 20;

/// Whether a call leases no more rows, since their bodies have this many bytes.
pub(crate) fn is_enough(bytes: usize) -> bool {
    bytes >= MOST_LEASED
}

/// The right to handle a row, or to fetch an expected job, until the lease expires: the job and a fencing token. Leases
/// are equal if these two are.
#[derive(Clone)]
pub struct Lease {
    job: JobId,
    fence: u64,
    /// When this process got the lease.
    since: Instant,
}

/// A leased row with its event. `Debug` shows the length of the body only.
#[derive(Clone)]
#[non_exhaustive]
pub struct Leased {
    /// The lease, which renews and settles the row.
    pub lease: Lease,
    /// The body of the event.
    pub body: Bytes,
    /// The `traceparent` of the delivery that brought the event, if it had one; also after the event was
    /// [verified](super::InboxStore::verify).
    pub traceparent: Option<TraceParent>,
    /// The number of this attempt, counted from 1 since the row was received or last replayed.
    pub attempt: u32,
    /// The number of attempts before the last replay.
    pub earlier_attempts: u32,
    /// Whether the lease before this one expired: its holder died, hung, or lost the store.
    pub expired: bool,
    /// Whether the expired lease, or one before it that expired as well, was [begun](super::InboxStore::begin): then its
    /// holder had received the lease.
    pub begun: bool,
    /// Whether the event was fetched from the API, and not only received as a webhook.
    pub verified: bool,
    /// Whether the job is expected again after the last attempt, in place of a dead letter: the event has no final
    /// status, and the job is registered with a deadline.
    pub expected_again: bool,
    /// The time since the receipt of the event.
    pub age: Duration,
    /// The fetches of the job without a result so far.
    pub fetches: FetchHistory,
}

/// An expected job that is overdue, leased to fetch it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Overdue {
    /// The lease, which verifies and settles the row.
    pub lease: Lease,
    /// The time since the deadline of the event.
    pub by: Duration,
    /// The fetches of the job without a result so far.
    pub fetches: FetchHistory,
}

/// The fetches of a job without a result so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct FetchHistory {
    /// The number of fetches.
    pub count: u32,
    /// The number of consecutive not-found answers. A fetch without an answer does not reset it.
    pub not_found: u32,
    /// The time since the first of the latest consecutive fetches [without an answer](super::NoResult::Failed);
    /// `None` after an answer, and after the row was received, registered or replayed.
    pub unanswered_for: Option<Duration>,
    /// The time until the next fetch is allowed.
    pub next_in: Duration,
}

impl Lease {
    /// Makes the lease on a job's row with this fencing token, as held from now on.
    #[must_use]
    pub fn new(job: JobId, fence: u64) -> Self {
        Self { job, fence, since: Instant::now() }
    }

    /// The job whose row is leased.
    #[must_use]
    pub fn job(&self) -> &JobId {
        &self.job
    }

    /// The fencing token: it grows with every lease of the row.
    #[must_use]
    pub fn fence(&self) -> u64 {
        self.fence
    }

    /// The time since the lease was made in this process, by its own clock: how long an attempt has taken when it
    /// ends.
    #[must_use]
    pub fn held_for(&self) -> Duration {
        self.since.elapsed()
    }
}

impl PartialEq for Lease {
    fn eq(&self, other: &Self) -> bool {
        (&self.job, self.fence) == (&other.job, other.fence)
    }
}

impl Eq for Lease {}

impl Hash for Lease {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.job, self.fence).hash(state);
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("job", &self.job).field("fence", &self.fence).finish()
    }
}

impl Leased {
    /// Makes a leased row, for a store. The other fields say that nothing happened before: set those that differ.
    #[must_use]
    pub fn new(lease: Lease, body: Bytes, attempt: u32) -> Self {
        Self {
            lease,
            body,
            traceparent: None,
            attempt,
            earlier_attempts: 0,
            expired: false,
            begun: false,
            verified: false,
            expected_again: false,
            age: Duration::ZERO,
            fetches: FetchHistory::default(),
        }
    }
}

impl Overdue {
    /// Makes an overdue job, for a store. Set [`fetches`](Self::fetches) if the job was fetched before.
    #[must_use]
    pub fn new(lease: Lease, by: Duration) -> Self {
        Self { lease, by, fetches: FetchHistory::default() }
    }
}

impl fmt::Debug for Leased {
    /// Leaves the body out: it is the user's document.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leased")
            .field("lease", &self.lease)
            .field("body", &format_args!("{} bytes", self.body.len()))
            .field("traceparent", &self.traceparent)
            .field("attempt", &self.attempt)
            .field("earlier_attempts", &self.earlier_attempts)
            .field("expired", &self.expired)
            .field("begun", &self.begun)
            .field("verified", &self.verified)
            .field("expected_again", &self.expected_again)
            .field("age", &self.age)
            .field("fetches", &self.fetches)
            .finish()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_call_ends_to_lease_with_64_mib() {
        assert!(!is_enough((64 << 20) - 1));
        assert!(is_enough(64 << 20));
    }

    #[test]
    fn a_lease_is_its_job_and_its_fencing_token() {
        let lease = |job: &str, fence| Lease::new(job.parse().unwrap(), fence);
        assert_eq!(lease("a", 1), lease("a", 1));
        assert_ne!(lease("a", 1), lease("a", 2));
        assert_ne!(lease("a", 1), lease("b", 1));
        assert_eq!(format!("{:?}", lease("a", 1)), "Lease { job: JobId(a), fence: 1 }");
        let leases: HashSet<_> = [lease("a", 1), lease("a", 1), lease("a", 2)].into_iter().collect();
        assert_eq!(leases.len(), 2);
        let state = std::hash::BuildHasherDefault::<std::hash::DefaultHasher>::default();
        let hash = |lease: Lease| std::hash::BuildHasher::hash_one(&state, lease);
        assert_ne!(hash(lease("a", 1)), hash(lease("a", 2)), "all leases have one hash");
    }
}
