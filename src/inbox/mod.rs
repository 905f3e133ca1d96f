//! Events that are stored before they are acknowledged.

mod admin;
mod memory;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod read;
mod row;
#[cfg(feature = "sqlite")]
mod sqlite;
mod text;
mod timestamp;
mod totals;
mod transition;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

pub use self::admin::{InboxAdmin, InboxFilter, InboxRow, InboxState, InboxStats};
pub use self::memory::MemoryInbox;
#[cfg(feature = "postgres")]
pub use self::postgres::{CompleteError, PostgresInbox};
#[cfg(feature = "sqlite")]
pub use self::sqlite::{SqliteInbox, SqliteInboxBuilder, SqliteInboxError};
use crate::event::{Envelope, JobId};
use crate::store::{Fenced, StoreError};

/// Where events wait, durably, until they are handled.
///
/// The row *is* the queue: one row per job, and no second step in which an event could get lost.
///
/// ```text
/// expected ──receive, verify──► received ──lease──► running ──settle──► done
///     ▲                            ▲ ▲                │ │ │
///     │                            │ └─ retry, ───────┘ │ └──settle───► dead ──replay──► received
///     │                            │    give back       │
///     │                            └──── the lease ran out: leasable again
///     └────────────────── the job has not ended ────────┘
/// ```
///
/// # Contract
///
/// - [`receive`](Self::receive) returns `Ok` only when the event is committed: to the disk, unless the store
///   says that it is not durable.
/// - A row is leased to one caller at a time. [`lease`](Self::lease) is atomic over all handles and
///   processes that share the store, counts the attempt in the same write, and raises the row's fencing token, which never falls while the row is kept.
/// - [`begin`](Self::begin), [`renew`](Self::renew), [`verify`](Self::verify) and [`settle`](Self::settle) carry the fencing token of
///   their lease. When the row has been leased again since, or another event has come, they change nothing and
///   return [`Fenced::Stale`]. They apply also when the lease has ended, as long as the number is still the
///   row's.
/// - A row whose lease has ended is leased again, by whoever asks.
/// - An id is opaque: it is compared exactly and may hold any visible ASCII character.
/// - What a store cannot keep, it refuses with [`StoreError::Full`].
///
/// # Durations
///
/// They count from the moment when the store writes, by one clock: the database's own.
///
/// # Cancel safety
///
/// A call may be dropped at any wait. Its write may or may not happen then, as a whole; the store stays
/// usable.
#[async_trait]
pub trait InboxStore: fmt::Debug + Send + Sync + 'static {
    /// Stores an event, to be leased at once.
    ///
    /// The first event of a job is kept, and every later one is a [`Receipt::Duplicate`] or a
    /// [`Receipt::Conflict`] and changes nothing; with one exception: an event whose status
    /// [is final](crate::JobStatus::is_final) takes the place of one whose status is not, in every state of the
    /// row. The row is received then, as if it were new; if it is leased, that lease is stale, and the row
    /// can be leased when it ends.
    ///
    /// The event of a job that is expected, or that is dead without one, is its first. A lease that
    /// [`overdue`](Self::overdue) gave is stale then. How often the job [was asked for](FetchHistory) is kept, unless
    /// the row was done or dead; the time without an answer counts anew.
    ///
    /// An event whose status is not final leaves an expected job's deadline as it is: see
    /// [`settle`](Self::settle). If it is the first event of a job that is dead without one, the job is expected
    /// from now on.
    ///
    /// # Errors
    ///
    /// When it is not known whether the event is committed, or [`StoreError::Full`] when a limit of the store is
    /// reached.
    async fn receive(&self, event: &Envelope) -> Result<Receipt, StoreError>;

    /// Leases up to `most` of the rows that are due: those whose job was [fetched](FetchHistory::count) least often first, and
    /// of these the ones that have been due for longest.
    ///
    /// Due are rows that were received, or given back or to be tried again and their time has come, and rows
    /// whose lease has ended. Each counts an attempt.
    ///
    /// # Errors
    ///
    /// When it is not known what was leased. What was comes back when the lease ends.
    async fn lease(&self, most: usize, length: Duration) -> Result<Vec<Leased>, StoreError>;

    /// Notes that the handler begins under a lease of a received event. The next lease of the row says so
    /// ([`Leased::begun`]) if this one runs out. Idempotent.
    ///
    /// A worker calls it before the last attempt that an event has: whoever finds that this attempt's lease ran out then
    /// knows whether its process died in the handler, or never heard of the lease because the store's reply was lost.
    ///
    /// # Errors
    ///
    /// When it is not known whether it was noted.
    async fn begin(&self, lease: &Lease) -> Result<Fenced, StoreError>;

    /// Makes a lease last for another `length`, counted from now.
    ///
    /// # Errors
    ///
    /// When it is not known whether it was renewed.
    async fn renew(&self, lease: &Lease, length: Duration) -> Result<Fenced, StoreError>;

    /// Puts the event that the API gave in the place of whatever event a leased row has: it is
    /// [verified](Leased::verified) from then on. The event must be of the lease's job, and its status final.
    ///
    /// A running row stays so, under the same lease. One that is expected is received, to be leased at once, and
    /// that ends the lease.
    ///
    /// # Errors
    ///
    /// When it is not known whether the event is committed.
    async fn verify(&self, lease: &Lease, event: &Envelope) -> Result<Fenced, StoreError>;

    /// Ends a lease with what came of it. Idempotent for one lease and outcome: a repetition is
    /// [`Fenced::Applied`], unless the row has been leased again, or is expected; then it is stale.
    ///
    /// A row that is [`Outcome::Done`] or [`Outcome::Dead`] with an event whose status is not final, and whose job is
    /// registered with a deadline, is expected again: its event is dropped, and the job is overdue at that
    /// deadline. So it is after an [`Outcome::Retry`] that is not due before that.
    ///
    /// A lease on an expected job ends as [`Outcome::FetchAgain`], [`Outcome::Release`], [`Outcome::Dead`] or
    /// [`Outcome::Rejected`]; any other outcome is stale.
    ///
    /// Of an error's text, a store may keep the beginning, with characters replaced that it cannot hold: no text is
    /// why an outcome is not recorded.
    ///
    /// # Errors
    ///
    /// When it is not known whether the outcome is committed.
    async fn settle(&self, lease: &Lease, outcome: &Outcome) -> Result<Fenced, StoreError>;

    /// Registers a job that was started, and whose event should come within `deadline`. A job that the store
    /// knows is left as it is, with one exception: a job without a deadline, whose event has a status that is not
    /// final, gets this deadline, and is expected if the row is done or dead.
    ///
    /// # Errors
    ///
    /// When it is not known whether the job is registered, or [`StoreError::Full`] when a limit of the store is
    /// reached and it is not.
    async fn expect(&self, job: &JobId, deadline: Duration) -> Result<(), StoreError>;

    /// Leases up to `most` of the expected jobs that are overdue, to ask the API for them, those that were fetched
    /// least often first, and of these the ones that have been overdue for longest. Overdue are jobs whose deadline has
    /// passed, and that were not asked for, or it is time to do so again, or such a lease has ended. No attempt
    /// is counted, and the jobs stay expected.
    ///
    /// # Errors
    ///
    /// When it is not known what was leased. What was is overdue again when the lease ends.
    async fn overdue(&self, most: usize, length: Duration) -> Result<Vec<Overdue>, StoreError>;

    /// Whether the store has a row for this job.
    ///
    /// # Errors
    ///
    /// When the store was not reached.
    async fn contains(&self, job: &JobId) -> Result<bool, StoreError>;

    /// Deletes what is no longer needed of rows that are done, in a small batch, and returns how much. Never
    /// touches a row in another state.
    ///
    /// # Errors
    ///
    /// When the store was not reached.
    async fn prune(&self, retention: &Retention) -> Result<Pruned, StoreError>;

    /// Waits until there may be something to lease. Only a hint: it may return for nothing, and a store that
    /// cannot tell never returns; whoever leases asks again every now and then, too.
    async fn wait(&self) {
        std::future::pending::<()>().await;
    }
}

/// What became of an event that was to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receipt {
    /// It is stored.
    Stored,
    /// The job's event was stored before.
    Duplicate,
    /// Another event of this job was stored before, with other bytes; that one is kept.
    Conflict,
}

/// The right to handle a row until its lease ends: the job, and a number that grows with every lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    job: JobId,
    fence: u64,
}

/// A row that was leased. `Debug` shows of the body how long it is.
#[derive(Clone)]
pub struct Leased {
    /// What renews and settles it.
    pub lease: Lease,
    /// The body of its event.
    pub body: Bytes,
    /// Which attempt this is, counted from 1, since the row was received or last replayed.
    pub attempt: u32,
    /// How many attempts there were before it was replayed.
    pub earlier_attempts: u32,
    /// Whether the lease before this one ran out: its holder died, hung, or lost the store.
    pub expired: bool,
    /// Whether that lease was [begun](InboxStore::begin): then its holder did not lose the reply.
    pub begun: bool,
    /// Whether the event is what the API says, and not only what a webhook said.
    pub verified: bool,
    /// How long ago the event was received.
    pub age: Duration,
    /// How the job was asked for.
    pub fetches: FetchHistory,
}

/// An expected job that is overdue, leased to be asked for.
#[derive(Debug, Clone)]
pub struct Overdue {
    /// What verifies and settles it.
    pub lease: Lease,
    /// How long ago its event should have come.
    pub late: Duration,
    /// How the job was asked for.
    pub fetches: FetchHistory,
}

/// How the API was asked for a job, without a result so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FetchHistory {
    /// How often.
    pub count: u32,
    /// How often in a row, at the end, it did not know the job. That it could not be asked does not break the
    /// row.
    pub not_found: u32,
    /// How long ago the first fetch was that [had no answer](NoResult::Failed), of those in a row at the end;
    /// `None` after an answer, and in a row that was received, registered or replayed since.
    pub unanswered_for: Option<Duration>,
    /// How long it is until it may be asked again.
    pub next_in: Duration,
}

/// What came of a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The event was handled.
    Done,
    /// It was not; it is due again after a while.
    Retry {
        /// How long after now.
        after: Duration,
        /// Why, for people.
        error: String,
    },
    /// It will not be handled, unless it is replayed.
    Dead {
        /// Why, for people.
        error: String,
    },
    /// The handler was not called, or called off: the attempt does not count.
    Release {
        /// How long after now it is due again.
        after: Duration,
    },
    /// The API was asked for the job, and there is no result. The attempt does not count, and the asking
    /// [does](FetchHistory). A job that [has not ended](NoResult::Pending) is expected again, and its event is
    /// dropped; if it has no deadline, that is now. Otherwise the row stays what it was before the lease.
    FetchAgain {
        /// How long after now it may be asked again, and is due or overdue.
        after: Duration,
        /// What it said.
        answer: NoResult,
    },
    /// The job is none: dead, and its event is dropped, so that another can take its place.
    Rejected {
        /// Why, for people.
        error: String,
    },
}

/// Why there is no result of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoResult {
    /// The API says that it has not ended.
    Pending,
    /// The API says that there is no such job.
    NotFound,
    /// The API could not be asked.
    Failed {
        /// Why, for people.
        error: String,
    },
}

/// How long what is done is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// The body of the event.
    pub payload: Duration,
    /// The row, without which a copy of the webhook is handled again.
    pub row: Duration,
}

/// What was pruned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pruned {
    /// Bodies of events.
    pub payloads: u64,
    /// Rows.
    pub rows: u64,
}

impl NoResult {
    /// How often in a row the API did not know the job, after it was that often before.
    pub(crate) fn not_found_after(&self, before: u32) -> u32 {
        match self {
            Self::Pending => 0,
            Self::NotFound => before.saturating_add(1),
            Self::Failed { .. } => before,
        }
    }

    /// What stands as the row's error.
    #[must_use]
    pub fn error(&self) -> Option<&str> {
        match self {
            Self::Pending => None,
            Self::NotFound => Some("the API knows no such job"),
            Self::Failed { error } => Some(error),
        }
    }
}

impl Lease {
    /// The lease on a job's row with this number.
    #[must_use]
    pub fn new(job: JobId, fence: u64) -> Self {
        Self { job, fence }
    }

    /// The job whose row is leased.
    #[must_use]
    pub fn job(&self) -> &JobId {
        &self.job
    }

    /// The number of the lease.
    #[must_use]
    pub fn fence(&self) -> u64 {
        self.fence
    }
}

impl fmt::Debug for Leased {
    /// Leaves the body out: it is the user's document.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leased")
            .field("lease", &self.lease)
            .field("body", &format_args!("{} bytes", self.body.len()))
            .field("attempt", &self.attempt)
            .field("earlier_attempts", &self.earlier_attempts)
            .field("expired", &self.expired)
            .field("verified", &self.verified)
            .field("age", &self.age)
            .field("fetches", &self.fetches)
            .finish()
    }
}

impl Default for Retention {
    /// A week for bodies, thirty days for rows.
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        Self { payload: DAY * 7, row: DAY * 30 }
    }
}

#[async_trait]
impl<S: InboxStore + ?Sized> InboxStore for Arc<S> {
    async fn receive(&self, event: &Envelope) -> Result<Receipt, StoreError> {
        (**self).receive(event).await
    }

    async fn lease(&self, most: usize, length: Duration) -> Result<Vec<Leased>, StoreError> {
        (**self).lease(most, length).await
    }

    async fn begin(&self, lease: &Lease) -> Result<Fenced, StoreError> {
        (**self).begin(lease).await
    }

    async fn renew(&self, lease: &Lease, length: Duration) -> Result<Fenced, StoreError> {
        (**self).renew(lease, length).await
    }

    async fn verify(&self, lease: &Lease, event: &Envelope) -> Result<Fenced, StoreError> {
        (**self).verify(lease, event).await
    }

    async fn settle(&self, lease: &Lease, outcome: &Outcome) -> Result<Fenced, StoreError> {
        (**self).settle(lease, outcome).await
    }

    async fn expect(&self, job: &JobId, deadline: Duration) -> Result<(), StoreError> {
        (**self).expect(job, deadline).await
    }

    async fn overdue(&self, most: usize, length: Duration) -> Result<Vec<Overdue>, StoreError> {
        (**self).overdue(most, length).await
    }

    async fn contains(&self, job: &JobId) -> Result<bool, StoreError> {
        (**self).contains(job).await
    }

    async fn prune(&self, retention: &Retention) -> Result<Pruned, StoreError> {
        (**self).prune(retention).await
    }

    async fn wait(&self) {
        (**self).wait().await;
    }
}
