//! The state machine of a row, without a database: what every transition asks and does.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::{Lease, Leased, Outcome, Receipt};
use crate::event::{Envelope, JobId, JobStatus, JobType};
use crate::store::Fenced;

/// One job's row.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) number: u64,
    pub(super) phase: Phase,
    pub(super) event: Option<Event>,
    pub(super) attempts: u32,
    pub(super) earlier_attempts: u32,
    pub(super) error: Option<String>,
    /// When it was received, or registered as expected.
    pub(super) since: Instant,
    sequence: u64,
}

/// Where it stands. No transition leads out of a phase but those below.
#[derive(Debug, Clone, Copy)]
pub(super) enum Phase {
    Expected { overdue: Instant },
    Received { due: Instant },
    Running { until: Instant },
    Done { since: Instant },
    Dead,
}

/// What is kept of an event.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) job_type: JobType,
    pub(super) status: JobStatus,
    /// `None` once it was pruned.
    pub(super) body: Option<Bytes>,
}

impl Row {
    pub(super) fn expected(number: u64, deadline: Duration, now: Instant) -> Self {
        Self {
            number,
            phase: Phase::Expected { overdue: now + deadline },
            event: None,
            attempts: 0,
            earlier_attempts: 0,
            error: None,
            since: now,
            sequence: 0,
        }
    }

    pub(super) fn received(number: u64, event: &Envelope, now: Instant) -> Self {
        let mut row = Self::expected(number, Duration::ZERO, now);
        row.take(event, now);
        row
    }

    /// Receives an event for a job that has a row.
    pub(super) fn receive(&mut self, event: &Envelope, now: Instant) -> Receipt {
        match &self.event {
            Some(kept) if kept.status.is_final() || !event.status().is_final() => {
                let differs = kept.body.as_ref().is_some_and(|body| body != event.body());
                // Two reports of a job that has not ended may well differ.
                if differs && event.status().is_final() { Receipt::Conflict } else { Receipt::Duplicate }
            }
            _ => {
                self.take(event, now);
                Receipt::Stored
            }
        }
    }

    fn take(&mut self, event: &Envelope, now: Instant) {
        self.event = Some(Event {
            job_type: event.job_type().clone(),
            status: event.status().clone(),
            body: Some(event.body().clone()),
        });
        (self.attempts, self.earlier_attempts, self.error) = (0, 0, None);
        self.since = now;
        match self.phase {
            // Who runs the old event must not settle the new one; and both must not run at once.
            Phase::Running { .. } => self.sequence += 1,
            _ => self.phase = Phase::Received { due: now },
        }
    }

    /// When it can be leased.
    pub(super) fn due(&self) -> Option<Instant> {
        match self.phase {
            Phase::Received { due } | Phase::Running { until: due } => Some(due),
            Phase::Expected { .. } | Phase::Done { .. } | Phase::Dead => None,
        }
    }

    /// Leases it, if it is due.
    pub(super) fn lease(&mut self, job: &JobId, length: Duration, now: Instant) -> Option<Leased> {
        let body = self.event.as_ref()?.body.clone()?;
        if self.due()? > now {
            return None;
        }
        let ran_out = matches!(self.phase, Phase::Running { .. });
        self.phase = Phase::Running { until: now + length };
        self.sequence += 1;
        self.attempts += 1;
        Some(Leased {
            lease: Lease::new(job.clone(), self.sequence),
            body,
            attempt: self.attempts,
            earlier_attempts: self.earlier_attempts,
            ran_out,
        })
    }

    pub(super) fn renew(&mut self, lease: &Lease, length: Duration, now: Instant) -> Fenced {
        match &mut self.phase {
            Phase::Running { until } if self.sequence == lease.sequence() => {
                *until = now + length;
                Fenced::Applied
            }
            _ => Fenced::Stale,
        }
    }

    pub(super) fn settle(&mut self, lease: &Lease, outcome: &Outcome, now: Instant) -> Fenced {
        if self.sequence != lease.sequence() {
            return Fenced::Stale;
        }
        let after = |after: Duration| Phase::Received { due: now + after };
        match (outcome, self.phase) {
            (Outcome::Done, Phase::Running { .. }) => self.phase = Phase::Done { since: now },
            (Outcome::Retry { after: delay, error }, Phase::Running { .. }) => {
                self.phase = after(*delay);
                self.error = Some(error.clone());
            }
            (Outcome::Dead { error }, Phase::Running { .. }) => {
                self.phase = Phase::Dead;
                self.error = Some(error.clone());
            }
            (Outcome::GiveBack { after: delay }, Phase::Running { .. }) => {
                self.phase = after(*delay);
                self.attempts -= 1;
            }
            // The repetition of a write whose reply was lost.
            (Outcome::Done, Phase::Done { .. })
            | (Outcome::Dead { .. }, Phase::Dead)
            | (Outcome::Retry { .. } | Outcome::GiveBack { .. }, Phase::Received { .. }) => {}
            _ => return Fenced::Stale,
        }
        Fenced::Applied
    }

    /// Receives its own event again.
    pub(super) fn replay(&mut self, now: Instant) -> bool {
        let has_body = self.event.as_ref().is_some_and(|event| event.body.is_some());
        let ended = matches!(self.phase, Phase::Done { .. } | Phase::Dead);
        if has_body && ended {
            self.earlier_attempts += std::mem::take(&mut self.attempts);
            self.phase = Phase::Received { due: now };
        }
        has_body && ended
    }
}
