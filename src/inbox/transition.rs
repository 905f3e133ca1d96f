//! The state machine of a row: one function per operation, next to the diagram on [`InboxStore`](super::InboxStore).
//!
//! It drives the inboxes in memory and in SQLite: they look a row up, apply a transition, and store the row.
//! PostgreSQL states the same transitions in SQL (`postgres/statements.rs`), and a model test compares them.
//!
//! A transition is a pure function of the row, the time, and the operation. It changes the row in place and returns
//! the result for the caller and, where that can change, the fate of the body, which the row does not hold.

#[cfg(test)]
mod exploration;

use std::time::Duration;

use bytes::Bytes;

use super::failed_attempts::{EXPIRED, FailedAttempts, KeptAttempt, brief};
use super::row::{Fetches, KeptEvent, Phase, Row};
use super::text::storable;
use super::timestamp::Timestamp;
use super::{Lease, Leased, NoResult, Outcome, Overdue, Receipt, Retention};
use crate::event::JobId;
use crate::store::Fenced;

/// The fate of a row's body in a transition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum BodyChange {
    Keep,
    /// By the body of the event that the transition was given.
    Replace,
    Drop,
}

/// The remains of a row after pruning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Remains {
    Everything,
    /// The row without its body: it still recognizes duplicates.
    WithoutBody,
    Nothing,
}

/// Events and registrations.
impl Row {
    /// Receives an event for a job that has a row. `differs` tells whether its body differs from the one that is kept.
    pub(super) fn receive(
        &mut self,
        event: KeptEvent,
        differs: bool,
        now: Timestamp,
    ) -> (Receipt, BodyChange) {
        let is_final = event.status.is_final();
        if self.event.as_ref().is_some_and(|kept| kept.status.is_final() || !is_final) {
            // Two reports of a job that has not ended may well differ.
            let receipt = if differs && is_final { Receipt::Conflict } else { Receipt::Duplicate };
            return (receipt, BodyChange::Keep);
        }
        self.fetches.unanswered_since = None;
        match self.phase {
            // The holder of a lease on the old event, or on the expected job, must not settle the new event.
            Phase::Expected { .. } | Phase::Running { .. } => self.fence = self.fence.saturating_add(1),
            Phase::Received { .. } => {}
            Phase::Done { .. } | Phase::Dead { .. } => {
                self.fetches = Fetches::default();
                // A rejected job whose first event reports that it goes on is expected from now on.
                self.deadline = (self.event.is_none() && !is_final).then_some(now);
            }
        }
        // The handler may still run for the old event, and must not run twice at once.
        if !matches!(self.phase, Phase::Running { .. }) {
            self.phase = Phase::Received { due_at: now };
        }
        self.received_at = now;
        self.count_anew();
        self.error = None;
        self.event = Some(event);
        (Receipt::Stored, BodyChange::Replace)
    }

    /// Puts a fetched event in the place of the row's event. The trace stays that of the delivery.
    pub(super) fn verify(&mut self, fence: u64, event: KeptEvent, now: Timestamp) -> (Fenced, BodyChange) {
        match self.phase {
            _ if self.fence != fence => return (Fenced::Stale, BodyChange::Keep),
            Phase::Running { .. } => {}
            Phase::Expected { .. } => {
                self.phase = Phase::Received { due_at: now };
                self.received_at = now;
                self.count_anew();
            }
            // The repetition of a write whose reply was lost.
            Phase::Received { .. } if self.event.as_ref().is_some_and(|event| event.verified) => {
                return (Fenced::Applied, BodyChange::Keep);
            }
            Phase::Received { .. } | Phase::Done { .. } | Phase::Dead { .. } => {
                return (Fenced::Stale, BodyChange::Keep);
            }
        }
        (self.fetches, self.deadline, self.error) = (Fetches::default(), None, None);
        let traceparent = self.event.take().and_then(|received| received.traceparent);
        self.event = Some(KeptEvent { traceparent, ..event });
        (Fenced::Applied, BodyChange::Replace)
    }

    /// Registers a job that has a row: sets a deadline if an event without a final status has none.
    pub(super) fn expect(&mut self, deadline: Duration, now: Timestamp) -> BodyChange {
        let has_ended = self.event.as_ref().is_none_or(|event| event.status.is_final());
        if has_ended || self.deadline.is_some() {
            return BodyChange::Keep;
        }
        self.deadline = Some(now.after(deadline));
        match (self.phase, self.overdue_at()) {
            (Phase::Done { .. } | Phase::Dead { .. }, Some(overdue_at)) => self.expect_another(overdue_at),
            _ => BodyChange::Keep,
        }
    }

    fn count_anew(&mut self) {
        (self.attempts, self.earlier_attempts) = (0, 0);
        (self.begun, self.failures) = (false, FailedAttempts::default());
    }

    /// Expects the job. Any lease from before is stale.
    fn expect_at(&mut self, overdue_at: Timestamp) {
        self.phase = Phase::Expected { overdue_at };
        self.fence = self.fence.saturating_add(1);
    }

    /// Expects another event in the place of one without a final status.
    fn expect_another(&mut self, overdue_at: Timestamp) -> BodyChange {
        self.count_anew();
        self.expect_at(overdue_at);
        self.drop_event()
    }

    fn drop_event(&mut self) -> BodyChange {
        self.event = None;
        BodyChange::Drop
    }
}

/// Leases.
impl Row {
    /// Leases a row that is due; the body is only passed through.
    pub(super) fn lease(
        &mut self,
        job: JobId,
        body: Bytes,
        length: Duration,
        now: Timestamp,
    ) -> Option<Leased> {
        let event = self.event.as_ref()?;
        let (verified, traceparent) = (event.verified, event.traceparent.clone());
        let expired_at = match self.phase {
            Phase::Received { due_at } if due_at <= now => None,
            Phase::Running { until } if until <= now => Some(until),
            _ => return None,
        };
        let expired = expired_at.is_some();
        // No attempt is counted for an event that took the place of another while that one's handler ran.
        if let Some(at) = expired_at
            && self.attempts > 0
        {
            self.note_failure(at, None, EXPIRED);
        }
        // Kept until the row is settled: the process that learns of it may die, too.
        self.begun &= expired;
        self.phase = Phase::Running { until: now.after(length) };
        self.fence = self.fence.saturating_add(1);
        self.attempts = self.attempts.saturating_add(1);
        Some(Leased {
            lease: Lease::new(job, self.fence),
            body,
            traceparent,
            attempt: self.attempts,
            earlier_attempts: self.earlier_attempts,
            expired,
            begun: self.begun,
            verified,
            expected_again: self.next_overdue_at().is_some(),
            age: now.since(self.received_at),
            fetches: self.history(now),
        })
    }

    /// Leases an overdue job, to fetch it.
    pub(super) fn overdue(&mut self, job: JobId, length: Duration, now: Timestamp) -> Option<Overdue> {
        match &mut self.phase {
            Phase::Expected { overdue_at } if *overdue_at <= now => *overdue_at = now.after(length),
            _ => return None,
        }
        self.fence = self.fence.saturating_add(1);
        let by = now.since(self.deadline.unwrap_or(self.received_at));
        Some(Overdue { lease: Lease::new(job, self.fence), by, fetches: self.history(now) })
    }

    pub(super) fn begin(&mut self, fence: u64) -> Fenced {
        if self.fence != fence || !matches!(self.phase, Phase::Running { .. }) {
            return Fenced::Stale;
        }
        self.begun = true;
        Fenced::Applied
    }

    pub(super) fn renew(&mut self, fence: u64, length: Duration, now: Timestamp) -> Fenced {
        match &mut self.phase {
            _ if self.fence != fence => return Fenced::Stale,
            Phase::Running { until: end } | Phase::Expected { overdue_at: end } => *end = now.after(length),
            Phase::Received { .. } | Phase::Done { .. } | Phase::Dead { .. } => return Fenced::Stale,
        }
        Fenced::Applied
    }

    pub(super) fn settle(
        &mut self,
        lease: &Lease,
        outcome: &Outcome,
        now: Timestamp,
    ) -> (Fenced, BodyChange) {
        let body = match self.phase {
            _ if self.fence != lease.fence() => return (Fenced::Stale, BodyChange::Keep),
            Phase::Running { .. } => self.settle_running(lease.held_for(), outcome, now),
            Phase::Expected { .. } => match self.settle_expected(outcome, now) {
                Some(body) => body,
                None => return (Fenced::Stale, BodyChange::Keep),
            },
            phase if is_repetition(outcome, phase) => BodyChange::Keep,
            _ => return (Fenced::Stale, BodyChange::Keep),
        };
        (Fenced::Applied, body)
    }

    fn settle_running(&mut self, took: Duration, outcome: &Outcome, now: Timestamp) -> BodyChange {
        let next_overdue_at = self.next_overdue_at();
        match outcome {
            Outcome::Done => {
                self.phase = Phase::Done { done_at: now };
                next_overdue_at.map_or(BodyChange::Keep, |overdue_at| self.expect_another(overdue_at))
            }
            Outcome::Retry { after, error } => {
                let due_at = now.after(*after);
                self.phase = Phase::Received { due_at };
                self.fail(error, took, now);
                next_overdue_at
                    .filter(|overdue_at| *overdue_at <= due_at)
                    .map_or(BodyChange::Keep, |overdue_at| self.expect_another(overdue_at))
            }
            Outcome::Dead { error } => {
                self.phase = Phase::Dead { dead_at: now };
                self.fail(error, took, now);
                next_overdue_at.map_or(BodyChange::Keep, |overdue_at| self.expect_another(overdue_at))
            }
            Outcome::Rejected { error } => {
                self.fail(error, took, now);
                self.reject(now)
            }
            Outcome::Release { after } => {
                self.release(now.after(*after));
                BodyChange::Keep
            }
            Outcome::FetchAgain { after, answer } => {
                let next_at = now.after(*after);
                self.note_fetch(answer, next_at, now);
                self.release(next_at);
                if *answer != NoResult::Pending {
                    return BodyChange::Keep;
                }
                self.deadline.get_or_insert(now);
                self.expect_at(next_at);
                self.drop_event()
            }
        }
    }

    /// `None` for an outcome that a lease on an expected job cannot have.
    fn settle_expected(&mut self, outcome: &Outcome, now: Timestamp) -> Option<BodyChange> {
        match outcome {
            Outcome::Done | Outcome::Retry { .. } => return None,
            Outcome::Dead { error } => {
                self.phase = Phase::Dead { dead_at: now };
                self.error = Some(storable(error).into_owned());
            }
            Outcome::Rejected { error } => {
                self.error = Some(storable(error).into_owned());
                return Some(self.reject(now));
            }
            Outcome::Release { after } => self.expect_at(now.after(*after)),
            Outcome::FetchAgain { after, answer } => {
                let next_at = now.after(*after);
                self.note_fetch(answer, next_at, now);
                self.expect_at(next_at);
            }
        }
        Some(BodyChange::Keep)
    }

    /// Ends a run without a result. The attempt is not counted.
    fn release(&mut self, due_at: Timestamp) {
        self.phase = Phase::Received { due_at };
        self.attempts = self.attempts.saturating_sub(1);
    }

    /// Drops the event of a job that is not ours, so that another event can take its place.
    fn reject(&mut self, now: Timestamp) -> BodyChange {
        self.phase = Phase::Dead { dead_at: now };
        self.drop_event()
    }

    /// Notes the error of an attempt that ends now.
    fn fail(&mut self, error: &str, took: Duration, now: Timestamp) {
        let error = storable(error);
        self.note_failure(now, Some(took), &error);
        self.error = Some(error.into_owned());
    }

    fn note_failure(&mut self, at: Timestamp, took: Option<Duration>, error: &str) {
        let number = self.attempts.saturating_add(self.earlier_attempts);
        self.failures.push(KeptAttempt { number, at, took, error: brief(error).into_owned() });
    }

    /// Counts a fetch without a result.
    fn note_fetch(&mut self, answer: &NoResult, next_at: Timestamp, now: Timestamp) {
        let before = self.fetches;
        self.fetches = Fetches {
            count: before.count.saturating_add(1),
            not_found: answer.not_found_after(before.not_found),
            unanswered_since: match answer {
                NoResult::Failed { .. } => before.unanswered_since.or(Some(now)),
                NoResult::Pending | NoResult::NotFound => None,
            },
            next_at: Some(next_at),
        };
        self.error = answer.error().map(|error| storable(error).into_owned());
    }
}

/// Whether a row in this phase can be the result of the same outcome, whose first reply was lost.
fn is_repetition(outcome: &Outcome, phase: Phase) -> bool {
    match outcome {
        Outcome::Done => matches!(phase, Phase::Done { .. }),
        Outcome::Dead { .. } | Outcome::Rejected { .. } => matches!(phase, Phase::Dead { .. }),
        // A job that has not ended is expected afterwards, and never received.
        Outcome::FetchAgain { answer: NoResult::Pending, .. } => false,
        Outcome::Retry { .. } | Outcome::Release { .. } | Outcome::FetchAgain { .. } => {
            matches!(phase, Phase::Received { .. })
        }
    }
}

/// The end of a row's life, and a new one.
impl Row {
    /// Whether [`replay`](Self::replay) changes the row.
    pub(super) fn can_be_replayed(&self) -> bool {
        match self.phase {
            Phase::Done { .. } => self.event.as_ref().is_some_and(|event| event.bytes.is_some()),
            Phase::Dead { .. } => self.event.as_ref().is_none_or(|event| event.bytes.is_some()),
            Phase::Expected { .. } | Phase::Received { .. } | Phase::Running { .. } => false,
        }
    }

    /// Whether the row may be discarded.
    pub(super) fn can_be_discarded(&self) -> bool {
        matches!(self.phase, Phase::Dead { .. })
    }

    /// Makes a row that has ended due again, or overdue if it has no event. `false` if it cannot be replayed.
    pub(super) fn replay(&mut self, now: Timestamp) -> bool {
        if !self.can_be_replayed() {
            return false;
        }
        self.fetches = Fetches::default();
        if self.event.is_some() {
            let attempts = std::mem::take(&mut self.attempts);
            self.earlier_attempts = self.earlier_attempts.saturating_add(attempts);
            self.deadline = None;
            self.phase = Phase::Received { due_at: now };
        } else {
            self.deadline = Some(now);
            self.expect_at(now);
        }
        true
    }

    /// Gives up a row that something else than this crate wrote, and that no lease can be granted on.
    #[cfg(feature = "sqlite")]
    pub(super) fn set_aside(&mut self, reason: &str, has_body: bool, now: Timestamp) -> BodyChange {
        self.phase = Phase::Dead { dead_at: now };
        self.error = Some(storable(reason).into_owned());
        // An event without its body can never be handled, and would hide the job's next event.
        if has_body { BodyChange::Keep } else { self.drop_event() }
    }

    /// Prunes what the row keeps longer than the retention.
    pub(super) fn prune(&mut self, retention: &Retention, now: Timestamp) -> Remains {
        let done_at = match self.phase {
            Phase::Done { done_at } if done_at <= now.before(retention.row) => return Remains::Nothing,
            Phase::Done { done_at } => done_at,
            Phase::Dead { dead_at } if retention.dead.is_some_and(|dead| dead_at <= now.before(dead)) => {
                return Remains::Nothing;
            }
            _ => return Remains::Everything,
        };
        let event = self.event.as_mut().filter(|_| done_at <= now.before(retention.payload));
        match event.and_then(|event| event.bytes.take()) {
            Some(_) => Remains::WithoutBody,
            None => Remains::Everything,
        }
    }
}
