//! Durable inboxes: events are stored before they are acknowledged, and handled afterwards.

mod admin;
mod dead_by_error;
mod dead_letter;
mod failed_attempts;
mod filter;
mod lease;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod limits;
mod list;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod look;
mod memory;
mod outcome;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod read;
mod redaction;
mod row;
#[cfg(feature = "sqlite")]
mod sqlite;
mod text;
mod timestamp;
mod totals;
mod traffic;
mod transition;
mod view;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

pub use self::admin::{Bulk, Changed, InboxAdmin, InboxStats};
pub use self::dead_by_error::DeadByError;
pub use self::dead_letter::DeadLetter;
pub(crate) use self::dead_letter::DeadLetterHook;
pub use self::failed_attempts::FailedAttempt;
pub use self::filter::InboxFilter;
#[cfg(feature = "postgres")]
pub(crate) use self::lease::MOST_LEASED;
pub(crate) use self::lease::is_enough;
pub use self::lease::{FetchHistory, Lease, Leased, Overdue};
pub use self::list::{InboxCursor, InboxList};
pub use self::memory::MemoryInbox;
pub use self::outcome::{NoResult, Outcome, Pruned, Receipt, Retention};
#[cfg(feature = "postgres")]
pub use self::postgres::{Bind, CompleteError, PostgresInbox, Statement};
pub use self::redaction::Redaction;
#[cfg(feature = "sqlite")]
pub use self::sqlite::{SqliteInbox, SqliteInboxBuilder, SqliteInboxError};
pub use self::traffic::InboxTraffic;
pub use self::view::{InboxRow, InboxState};
use crate::event::{Envelope, JobId};
use crate::store::{Fenced, StoreError};

/// A durable store of events and of the jobs whose events are expected.
///
/// The row *is* the queue: one row per job, and no second step that could lose an event.
///
/// ```text
/// expected ──receive, verify──► received ──lease──► running ──settle──► done
///     ▲                            ▲ ▲                │ │ │
///     │                            │ └─ retry, ───────┘ │ └──settle───► dead ──replay──► received
///     │                            │    release         │
///     │                            └──── the lease expires: leasable again
///     └────────────────── the job has not ended ────────┘
/// ```
///
/// # Contract
///
/// - [`receive`](Self::receive) returns `Ok` only when the event is committed: to the disk, unless the store
///   is documented as not durable.
/// - A row is leased to one caller at a time. [`lease`](Self::lease) is atomic over all handles and
///   processes that share the store. The same write counts the attempt and raises the row's fencing token. A job's
///   tokens never fall, also after its row was pruned or discarded: a lease on that row is stale for the next one.
/// - [`begin`](Self::begin), [`renew`](Self::renew), [`verify`](Self::verify) and [`settle`](Self::settle) carry the
///   fencing token of their lease. After another lease of the row, or another event, they change nothing and return
///   [`Fenced::Stale`]. They still apply after the lease has expired, as long as the token is the row's.
/// - A row whose lease has expired can be leased again.
/// - An id is opaque: it is compared exactly and may hold any visible ASCII character.
/// - A store refuses with [`StoreError::Full`] what it has no room for.
///
/// # Durations
///
/// Durations count from the moment of the store's write, by one clock: the database's own.
///
/// # Cancel safety
///
/// A call may be dropped at any await. Its write then happens as a whole or not at all, and the store stays usable.
#[async_trait]
pub trait InboxStore: fmt::Debug + Send + Sync + 'static {
    /// Stores an event, due at once.
    ///
    /// The first event of a job is kept, with its [`traceparent`](Envelope::traceparent). Every later
    /// event is a [`Receipt::Duplicate`] or a [`Receipt::Conflict`] and changes nothing, with one
    /// exception: an event with a [final](crate::JobStatus::is_final) status replaces one without, in every state of the
    /// row. The row is then received as if it were new. If it is leased, that lease is stale, and the row
    /// is due when the lease ends.
    ///
    /// For an expected job, or a dead row without an event, any event is the first. A lease by
    /// [`overdue`](Self::overdue) is then stale. The [fetch history](FetchHistory) is kept, unless
    /// the row was done or dead; the time without an answer starts anew.
    ///
    /// An event without a final status keeps an expected job's deadline: see
    /// [`settle`](Self::settle). As the first event of a dead row without an event, it makes the job expected
    /// from now on.
    ///
    /// # Errors
    ///
    /// Returns an error if the commit may not have happened, and [`StoreError::Full`] if a limit of the store is
    /// reached.
    async fn receive(&self, event: &Envelope) -> Result<Receipt, StoreError>;

    /// Leases up to `most` due rows: jobs with the fewest [fetches](FetchHistory::count) first, then the longest due.
    ///
    /// Stops after the row that brings the bodies to 64 MiB, so that the reply arrives long before the leases expire. After
    /// such a reply, a worker leases again at once; after another one with fewer rows than `most`, it waits.
    ///
    /// A row is due when it was received, when the delay of its retry or release has passed, or when its lease has
    /// expired. Each lease counts as an attempt. An attempt whose lease has expired is one more of
    /// [`InboxRow::failures`].
    ///
    /// A row that cannot be read, since its event is damaged or another program wrote it, keeps no other row from being
    /// leased. It becomes dead, and its error says why. That is so as far as the database can tell damage of one row from
    /// damage that concerns more, and from errors of the disk: see each store.
    ///
    /// # Errors
    ///
    /// Returns an error if rows may have been leased without the caller's knowledge. They are due again when the lease
    /// expires.
    async fn lease(&self, most: usize, length: Duration) -> Result<Vec<Leased>, StoreError>;

    /// Notes that the handler begins under a lease of a received event. If this lease expires, the next ones report it
    /// as [`Leased::begun`], until one is settled. Idempotent.
    ///
    /// A worker calls it before an event's last attempt. If that lease expires, the next holder then knows whether the
    /// process died in the handler, or never learned of the lease because the store's reply was lost.
    ///
    /// # Errors
    ///
    /// Returns an error if the commit may not have happened.
    async fn begin(&self, lease: &Lease) -> Result<Fenced, StoreError>;

    /// Extends a lease to `length` from now.
    ///
    /// # Errors
    ///
    /// Returns an error if the commit may not have happened.
    async fn renew(&self, lease: &Lease, length: Duration) -> Result<Fenced, StoreError>;

    /// Replaces the event of a leased row by the fetched one: the row is [verified](Leased::verified) from then on.
    /// The event must be of the lease's job, and its status final.
    ///
    /// A running row keeps the `traceparent` of the event that was received; the event of an expected row has none.
    ///
    /// A running row stays running under the same lease. An expected row is received, due at once, and the lease ends.
    ///
    /// # Errors
    ///
    /// Returns an error if the commit may not have happened.
    async fn verify(&self, lease: &Lease, event: &Envelope) -> Result<Fenced, StoreError>;

    /// Ends a lease with an outcome. Idempotent for one lease and outcome: a repetition is
    /// [`Fenced::Applied`], unless the row has been leased again or is expected; then it is stale.
    ///
    /// [`Outcome::Done`] or [`Outcome::Dead`] for an event without a final status, of a job
    /// registered with a deadline, makes the job expected again: its event is dropped, and the job is overdue at that
    /// deadline. An [`Outcome::Retry`] that is not due before the deadline does the same.
    ///
    /// A lease on an expected job ends as [`Outcome::FetchAgain`], [`Outcome::Release`], [`Outcome::Dead`] or
    /// [`Outcome::Rejected`]; any other outcome is stale.
    ///
    /// An attempt that ends as [`Outcome::Retry`], [`Outcome::Dead`] or [`Outcome::Rejected`] is one more of
    /// [`InboxRow::failures`]; it took as long as the [lease was held](Lease::held_for). The row keeps the last 20, also
    /// over a replay, until another event takes the place of its event.
    ///
    /// A store may cut an error's text and replace characters that it cannot hold: no text keeps an outcome from being
    /// recorded.
    ///
    /// # Errors
    ///
    /// Returns an error if the commit may not have happened.
    async fn settle(&self, lease: &Lease, outcome: &Outcome) -> Result<Fenced, StoreError>;

    /// Registers a started job whose event should come within `deadline`. If the job has a row, `expect` changes it only
    /// if its event is not final and has no deadline. Then the deadline is set; a done or dead row becomes expected.
    ///
    /// # Errors
    ///
    /// Returns an error if the commit may not have happened, and [`StoreError::Full`] if a limit of the store is
    /// reached and the job is not registered.
    async fn expect(&self, job: &JobId, deadline: Duration) -> Result<(), StoreError>;

    /// Leases up to `most` overdue jobs, to fetch them: jobs with the fewest fetches first, then the longest overdue.
    /// An expected job is overdue when its deadline, the pause after its last fetch, and any such lease have passed.
    /// No attempt is counted, and the jobs stay expected. A job that cannot be read becomes dead, as in
    /// [`lease`](Self::lease).
    ///
    /// # Errors
    ///
    /// Returns an error if jobs may have been leased without the caller's knowledge. They are overdue again when the
    /// lease expires.
    async fn overdue(&self, most: usize, length: Duration) -> Result<Vec<Overdue>, StoreError>;

    /// Returns whether the store has a row for this job.
    ///
    /// # Errors
    ///
    /// Returns an error if the store was not reached.
    async fn contains(&self, job: &JobId) -> Result<bool, StoreError>;

    /// Deletes a small batch of done rows, of their bodies, and of dead letters that retention no longer keeps. Never
    /// touches a row in another state.
    ///
    /// # Errors
    ///
    /// Returns an error if the store was not reached.
    async fn prune(&self, retention: &Retention) -> Result<Pruned, StoreError>;

    /// Waits until a row may be due. Only a hint: it may return for no reason, and a store without
    /// notifications never returns, so callers also poll.
    async fn wait(&self) {
        std::future::pending::<()>().await;
    }

    /// Returns the administration of this store, if it has one. A worker samples its gauges from
    /// [`stats`](InboxAdmin::stats). A store that implements [`InboxAdmin`] returns `Some(self)`.
    fn admin(&self) -> Option<&dyn InboxAdmin> {
        None
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

    fn admin(&self) -> Option<&dyn InboxAdmin> {
        (**self).admin()
    }
}
