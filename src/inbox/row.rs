//! A job's row, without its body and its place in a store.

use std::time::Duration;

use super::failed_attempts::FailedAttempts;
use super::text::storable;
use super::timestamp::Timestamp;
use super::{FetchHistory, InboxState};
use crate::event::{Envelope, JobStatus, JobType, TraceParent};

/// Everything about a job's row but the bytes of its body.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Row {
    pub(super) phase: Phase,
    /// `None` while the job is expected, and for a dead row whose job the API rejected.
    pub(super) event: Option<KeptEvent>,
    /// The fencing token of the last lease. It never falls, and is never below the row's [`first_fence`].
    pub(super) fence: u64,
    /// Whether the handler has begun under the last lease, or under one before that expired as well.
    pub(super) begun: bool,
    /// Attempts since the row was received or last replayed.
    pub(super) attempts: u32,
    /// Attempts before the last replay.
    pub(super) earlier_attempts: u32,
    pub(super) fetches: Fetches,
    /// The deadline of a registered job's event.
    pub(super) deadline: Option<Timestamp>,
    /// The error of the last failure, for people.
    pub(super) error: Option<String>,
    /// The last failed attempts of the event.
    pub(super) failures: FailedAttempts,
    /// The time of the receipt, or of the registration of an expected job.
    pub(super) received_at: Timestamp,
}

/// The state of a row, with the time that matters in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Phase {
    /// A lease on an expected job moves `overdue_at` to the end of the lease.
    Expected {
        overdue_at: Timestamp,
    },
    Received {
        due_at: Timestamp,
    },
    Running {
        until: Timestamp,
    },
    Done {
        done_at: Timestamp,
    },
    Dead {
        dead_at: Timestamp,
    },
}

/// A row's event without its body.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct KeptEvent {
    pub(super) job_type: JobType,
    pub(super) status: JobStatus,
    pub(super) verified: bool,
    /// The length of the body; `None` once the body was pruned.
    pub(super) bytes: Option<u64>,
    /// The trace of the delivery that brought the row its event.
    pub(super) traceparent: Option<TraceParent>,
}

/// The fetches of a job without a result so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Fetches {
    pub(super) count: u32,
    /// The latest consecutive not-found answers. A fetch without an answer does not reset them.
    pub(super) not_found: u32,
    /// The first of the latest consecutive fetches that had no answer.
    pub(super) unanswered_since: Option<Timestamp>,
    /// The earliest time of the next fetch.
    pub(super) next_at: Option<Timestamp>,
}

/// The fencing token of a new row before its first lease. The number of a row is never used again, and a row would need a
/// million leases to reach the tokens of the next. So a lease on a row that was pruned or discarded is stale for a new row
/// of its job.
pub(super) fn first_fence(number: u64) -> u64 {
    number.min(MOST_NUMBERED) << FENCE_BITS
}

/// The bits of a fencing token that count the leases of a row.
pub(super) const FENCE_BITS: u32 = 20;
/// The greatest number with tokens of its own.
pub(super) const MOST_NUMBERED: u64 = i64::MAX.unsigned_abs() >> FENCE_BITS;

impl KeptEvent {
    pub(super) fn received(event: &Envelope) -> Self {
        Self::new(event, false, event.traceparent().cloned())
    }

    /// No delivery brought the event.
    pub(super) fn fetched(event: &Envelope) -> Self {
        Self::new(event, true, None)
    }

    fn new(event: &Envelope, verified: bool, traceparent: Option<TraceParent>) -> Self {
        Self {
            job_type: JobType::from(&*storable(event.job_type().as_str())),
            status: JobStatus::from(&*storable(event.status().as_str())),
            verified,
            bytes: Some(event.body().len() as u64),
            traceparent,
        }
    }
}

impl Row {
    /// A new row of a job whose first event has come.
    pub(super) fn received(event: KeptEvent, now: Timestamp) -> Self {
        Self { event: Some(event), ..Self::new(Phase::Received { due_at: now }, now) }
    }

    /// A new row of a job that is registered.
    pub(super) fn expected(deadline: Duration, now: Timestamp) -> Self {
        let overdue_at = now.after(deadline);
        Self { deadline: Some(overdue_at), ..Self::new(Phase::Expected { overdue_at }, now) }
    }

    fn new(phase: Phase, now: Timestamp) -> Self {
        Self {
            phase,
            event: None,
            fence: 0,
            begun: false,
            attempts: 0,
            earlier_attempts: 0,
            fetches: Fetches::default(),
            deadline: None,
            error: None,
            failures: FailedAttempts::default(),
            received_at: now,
        }
    }

    pub(super) fn state(&self) -> InboxState {
        match self.phase {
            Phase::Expected { .. } => InboxState::Expected,
            Phase::Received { .. } => InboxState::Received,
            Phase::Running { .. } => InboxState::Running,
            Phase::Done { .. } => InboxState::Done,
            Phase::Dead { .. } => InboxState::Dead,
        }
    }

    /// The length of the body, 0 without one.
    pub(super) fn bytes(&self) -> u64 {
        self.event.as_ref().and_then(|event| event.bytes).unwrap_or(0)
    }

    /// The time at which the row was done or dead.
    #[cfg(feature = "sqlite")]
    pub(super) fn ended_at(&self) -> Option<Timestamp> {
        match self.phase {
            Phase::Done { done_at: at } | Phase::Dead { dead_at: at } => Some(at),
            Phase::Expected { .. } | Phase::Received { .. } | Phase::Running { .. } => None,
        }
    }

    /// The time at which the row is due, overdue, or its lease ends.
    pub(super) fn due_at(&self) -> Option<Timestamp> {
        match self.phase {
            Phase::Expected { overdue_at: at }
            | Phase::Received { due_at: at }
            | Phase::Running { until: at } => Some(at),
            Phase::Done { .. } | Phase::Dead { .. } => None,
        }
    }

    /// Whether a transition from this phase has made the row leasable at once.
    pub(super) fn has_become_due(&self, before: Option<Phase>, now: Timestamp) -> bool {
        before != Some(self.phase) && matches!(self.phase, Phase::Received { due_at } if due_at <= now)
    }

    /// The deadline that a registered job falls back to when a run for an event without a final status ends.
    pub(super) fn next_overdue_at(&self) -> Option<Timestamp> {
        match &self.event {
            Some(event) if !event.status.is_final() => self.overdue_at(),
            _ => None,
        }
    }

    /// The later of the deadline and the next fetch; `None` without a deadline.
    pub(super) fn overdue_at(&self) -> Option<Timestamp> {
        self.deadline.map(|deadline| self.fetches.next_at.map_or(deadline, |next| next.max(deadline)))
    }

    pub(super) fn history(&self, now: Timestamp) -> FetchHistory {
        let Fetches { count, not_found, unanswered_since, next_at } = self.fetches;
        FetchHistory {
            count,
            not_found,
            unanswered_for: unanswered_since.map(|since| now.since(since)),
            next_in: next_at.map_or(Duration::ZERO, |next| next.since(now)),
        }
    }
}
