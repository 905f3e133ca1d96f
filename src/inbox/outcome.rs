//! Results of the calls that write to an inbox, and the outcomes that end a lease.

use std::time::Duration;

/// The result of receiving an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receipt {
    /// The event is stored.
    Stored,
    /// The job's event was stored before.
    Duplicate,
    /// Another event of this job, with other bytes, was stored before and is kept.
    Conflict,
}

/// The outcome of a lease.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The event was handled.
    Done,
    /// The attempt failed; the row is due again after a delay.
    Retry {
        /// The delay, counted from now.
        after: Duration,
        /// The error, for people.
        error: String,
    },
    /// No further attempt is useful: the event is a dead letter until it is replayed.
    Dead {
        /// The error, for people.
        error: String,
    },
    /// The lease ends without a result, and the attempt is not counted.
    Release {
        /// The delay until the row is due or overdue again, counted from now.
        after: Duration,
    },
    /// The job was fetched without a result. Counts as a [fetch](super::FetchHistory), not as an attempt.
    ///
    /// A job that [has not ended](NoResult::Pending) is expected again, and its event is
    /// dropped; without a deadline, its deadline is now. Otherwise the row returns to its state before the lease.
    FetchAgain {
        /// The delay until the next fetch is allowed and the row is due or overdue, counted from now.
        after: Duration,
        /// Why there is no result.
        answer: NoResult,
    },
    /// The job is not one of ours: the row is dead, and its event is dropped, so that another event can take its place.
    Rejected {
        /// The error, for people.
        error: String,
    },
}

/// Why a fetch has no result.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum NoResult {
    /// The job has not ended.
    Pending,
    /// The API knows no such job.
    NotFound,
    /// The fetch had no answer.
    Failed {
        /// The error, for people.
        error: String,
    },
}

/// How long rows are kept after they are done or dead.
///
/// ```
/// # use std::time::Duration;
/// # const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// use qomplement_webhooks::inbox::Retention;
///
/// let retention = Retention::default().payload(DAY).dead(90 * DAY);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Retention {
    /// How long the body of a done event is kept.
    pub payload: Duration,
    /// How long a done row is kept. Without it, a duplicate of the webhook is handled again.
    pub row: Duration,
    /// How long a dead letter is kept, with its body; `None` keeps it until it is replayed or discarded.
    pub dead: Option<Duration>,
}

/// The numbers of pruned bodies, rows and dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Pruned {
    /// Bodies of done events.
    pub payloads: u64,
    /// Done rows.
    pub rows: u64,
    /// Dead letters.
    pub dead: u64,
}

impl Pruned {
    /// The rows and bodies together.
    pub(crate) fn total(&self) -> u64 {
        self.payloads.saturating_add(self.rows).saturating_add(self.dead)
    }
}

impl NoResult {
    /// The number of consecutive not-found answers, after there were this many before.
    pub(crate) fn not_found_after(&self, before: u32) -> u32 {
        match self {
            Self::Pending => 0,
            Self::NotFound => before.saturating_add(1),
            Self::Failed { .. } => before,
        }
    }

    /// The error that the row keeps.
    #[must_use]
    pub fn error(&self) -> Option<&str> {
        match self {
            Self::Pending => None,
            Self::NotFound => Some("the API knows no such job"),
            Self::Failed { error } => Some(error),
        }
    }
}

impl Default for Retention {
    /// A week for bodies, thirty days for done rows, and no end for dead letters.
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        Self { payload: DAY * 7, row: DAY * 30, dead: None }
    }
}

impl Retention {
    /// Sets how long the body of a done event is kept.
    #[must_use]
    pub fn payload(mut self, time: Duration) -> Self {
        self.payload = time;
        self
    }

    /// Sets how long a done row is kept.
    #[must_use]
    pub fn row(mut self, time: Duration) -> Self {
        self.row = time;
        self
    }

    /// Sets how long a dead letter is kept.
    #[must_use]
    pub fn dead(mut self, time: Duration) -> Self {
        self.dead = Some(time);
        self
    }
}
