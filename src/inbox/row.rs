//! The state machine of a row, without a database: what every transition asks and does.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::text::storable;
use super::{Asked, Lease, Leased, Outcome, Overdue, Receipt, Unfinished};
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
    pub(super) asking: Asking,
    pub(super) error: Option<String>,
    /// When it was received, or registered as expected.
    pub(super) since: Instant,
    sequence: u64,
    /// Whether the handler has begun under the last lease.
    begun: bool,
}

/// Where it stands. No transition leads out of a phase but those below.
#[derive(Debug, Clone, Copy)]
pub(super) enum Phase {
    /// With a lease, too, if its number was given to nobody else since.
    Expected {
        overdue: Instant,
    },
    Received {
        due: Instant,
    },
    Running {
        until: Instant,
    },
    Done {
        since: Instant,
    },
    Dead,
}

/// What is kept of an event.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) job_type: JobType,
    pub(super) status: JobStatus,
    pub(super) verified: bool,
    /// `None` once it was pruned.
    pub(super) body: Option<Bytes>,
}

/// How the API was asked for the job, without a result so far.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Asking {
    pub(super) times: u32,
    not_found: u32,
    /// When the first of the last fetches was that had no answer.
    unanswered: Option<Instant>,
    /// Not before.
    again: Option<Instant>,
    /// When the event should have come, if the job is an expected one.
    deadline: Option<Instant>,
}

impl Row {
    pub(super) fn expected(number: u64, deadline: Duration, now: Instant) -> Self {
        let overdue = later(now, deadline);
        Self {
            number,
            phase: Phase::Expected { overdue },
            event: None,
            attempts: 0,
            earlier_attempts: 0,
            asking: Asking { deadline: Some(overdue), ..Asking::default() },
            error: None,
            since: now,
            sequence: 0,
            begun: false,
        }
    }

    pub(super) fn received(number: u64, event: &Envelope, now: Instant) -> Self {
        let mut row = Self::expected(number, Duration::ZERO, now);
        row.asking = Asking::default();
        row.take(event, false, now);
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
                if matches!(self.phase, Phase::Done { .. } | Phase::Dead) {
                    // What was given up without an event, and goes on, is expected again.
                    let goes_on = self.event.is_none() && !event.status().is_final();
                    self.asking = Asking { deadline: goes_on.then_some(now), ..Asking::default() };
                }
                self.asking.unanswered = None;
                // Who runs the old event, or asks for one, must not settle the new one.
                if matches!(self.phase, Phase::Expected { .. } | Phase::Running { .. }) {
                    self.sequence += 1;
                }
                self.take(event, false, now);
                Receipt::Stored
            }
        }
    }

    fn take(&mut self, event: &Envelope, verified: bool, now: Instant) {
        self.event = Some(Event {
            job_type: JobType::from(&*storable(event.job_type().as_str())),
            status: JobStatus::from(&*storable(event.status().as_str())),
            verified,
            body: Some(event.body().clone()),
        });
        (self.attempts, self.earlier_attempts, self.error) = (0, 0, None);
        self.since = now;
        // Whoever runs the old event may still do so: the two must not run at once.
        if !matches!(self.phase, Phase::Running { .. }) {
            self.phase = Phase::Received { due: now };
        }
    }

    /// Registers a job that has a row.
    pub(super) fn expect(&mut self, deadline: Duration, now: Instant) {
        if self.has_final_event() != Some(false) || self.asking.deadline.is_some() {
            return;
        }
        self.asking.deadline = Some(later(now, deadline));
        if matches!(self.phase, Phase::Done { .. } | Phase::Dead) {
            self.expect_another();
        }
    }

    fn has_final_event(&self) -> Option<bool> {
        self.event.as_ref().map(|event| event.status.is_final())
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
        let event = self.event.as_ref()?;
        let (verified, body) = (event.verified, event.body.clone()?);
        if self.due()? > now {
            return None;
        }
        let ran_out = matches!(self.phase, Phase::Running { .. });
        let begun = std::mem::take(&mut self.begun) && ran_out;
        self.phase = Phase::Running { until: later(now, length) };
        self.sequence += 1;
        self.attempts += 1;
        Some(Leased {
            lease: Lease::new(job.clone(), self.sequence),
            body,
            attempt: self.attempts,
            earlier_attempts: self.earlier_attempts,
            ran_out,
            begun,
            verified,
            age: now - self.since,
            asked: self.asked(now),
        })
    }

    /// Leases it to ask for it, if it is overdue.
    pub(super) fn overdue(&mut self, job: &JobId, length: Duration, now: Instant) -> Option<Overdue> {
        match &mut self.phase {
            Phase::Expected { overdue } if *overdue <= now => *overdue = later(now, length),
            _ => return None,
        }
        self.sequence += 1;
        Some(Overdue {
            lease: Lease::new(job.clone(), self.sequence),
            late: now.saturating_duration_since(self.asking.deadline.unwrap_or(self.since)),
            asked: self.asked(now),
        })
    }

    fn asked(&self, now: Instant) -> Asked {
        let Asking { times, not_found, unanswered, again, .. } = self.asking;
        Asked {
            times,
            not_found,
            unanswered_for: unanswered.map(|since| now.saturating_duration_since(since)),
            again_in: again.map_or(Duration::ZERO, |again| again.saturating_duration_since(now)),
        }
    }

    pub(super) fn begin(&mut self, lease: &Lease) -> Fenced {
        if self.sequence != lease.sequence() || !matches!(self.phase, Phase::Running { .. }) {
            return Fenced::Stale;
        }
        self.begun = true;
        Fenced::Applied
    }

    pub(super) fn renew(&mut self, lease: &Lease, length: Duration, now: Instant) -> Fenced {
        match &mut self.phase {
            Phase::Running { until } | Phase::Expected { overdue: until }
                if self.sequence == lease.sequence() =>
            {
                *until = later(now, length);
                Fenced::Applied
            }
            _ => Fenced::Stale,
        }
    }

    pub(super) fn verify(&mut self, lease: &Lease, event: &Envelope, now: Instant) -> Fenced {
        if self.sequence != lease.sequence() {
            return Fenced::Stale;
        }
        let is_verified = self.event.as_ref().is_some_and(|event| event.verified);
        match self.phase {
            Phase::Running { .. } => {
                let (attempts, since) = ((self.attempts, self.earlier_attempts), self.since);
                self.take(event, true, now);
                ((self.attempts, self.earlier_attempts), self.since) = (attempts, since);
            }
            Phase::Expected { .. } => self.take(event, true, now),
            // The repetition of a write whose reply was lost.
            Phase::Received { .. } if is_verified => return Fenced::Applied,
            _ => return Fenced::Stale,
        }
        self.asking = Asking::default();
        Fenced::Applied
    }

    pub(super) fn settle(&mut self, lease: &Lease, outcome: &Outcome, now: Instant) -> Fenced {
        if self.sequence != lease.sequence() {
            return Fenced::Stale;
        }
        let after = |after: &Duration| Phase::Received { due: later(now, *after) };
        match (outcome, self.phase) {
            (Outcome::Done, Phase::Running { .. }) if self.stays_expected() => self.expect_another(),
            (Outcome::Done, Phase::Running { .. }) => self.phase = Phase::Done { since: now },
            (Outcome::Retry { after: delay, error }, Phase::Running { .. }) => {
                if self.stays_expected() && self.overdue_at() <= Some(later(now, *delay)) {
                    self.expect_another();
                } else {
                    self.phase = after(delay);
                }
                self.error = Some(storable(error).into_owned());
            }
            (Outcome::Dead { error }, Phase::Running { .. } | Phase::Expected { .. }) => {
                if self.stays_expected() {
                    self.expect_another();
                } else {
                    self.phase = Phase::Dead;
                }
                self.error = Some(storable(error).into_owned());
            }
            (Outcome::Disowned { error }, Phase::Running { .. } | Phase::Expected { .. }) => {
                self.phase = Phase::Dead;
                self.event = None;
                self.error = Some(storable(error).into_owned());
            }
            (Outcome::GiveBack { after: delay }, Phase::Running { .. }) => {
                self.phase = after(delay);
                self.attempts -= 1;
            }
            (Outcome::GiveBack { after: delay }, Phase::Expected { .. }) => {
                self.expect_again(later(now, *delay));
            }
            (Outcome::AskAgain { after: delay, answer }, Phase::Running { .. }) => {
                self.attempts -= 1;
                self.note(answer, now, *delay);
                if *answer == Unfinished::Pending {
                    self.event = None;
                    self.asking.deadline.get_or_insert(now);
                    self.expect_again(later(now, *delay));
                } else {
                    self.phase = after(delay);
                }
            }
            (Outcome::AskAgain { after: delay, answer }, Phase::Expected { .. }) => {
                self.note(answer, now, *delay);
                self.expect_again(later(now, *delay));
            }
            // What has not ended is never received by this.
            (Outcome::AskAgain { answer: Unfinished::Pending, .. }, _) => return Fenced::Stale,
            // The repetition of a write whose reply was lost.
            (Outcome::Done, Phase::Done { .. })
            | (Outcome::Dead { .. } | Outcome::Disowned { .. }, Phase::Dead)
            | (
                Outcome::Retry { .. } | Outcome::GiveBack { .. } | Outcome::AskAgain { .. },
                Phase::Received { .. },
            ) => {}
            _ => return Fenced::Stale,
        }
        Fenced::Applied
    }

    /// It is expected, and no lease of before is one on that.
    fn expect_again(&mut self, overdue: Instant) {
        self.phase = Phase::Expected { overdue };
        self.sequence += 1;
    }

    /// Whether its job is expected, however a run for the event that it has ends.
    fn stays_expected(&self) -> bool {
        self.has_final_event() == Some(false) && self.asking.deadline.is_some()
    }

    /// Drops an event that was no last word of an expected job.
    fn expect_another(&mut self) {
        self.event = None;
        (self.attempts, self.earlier_attempts) = (0, 0);
        if let Some(overdue) = self.overdue_at() {
            self.expect_again(overdue);
        }
    }

    fn overdue_at(&self) -> Option<Instant> {
        // `None` is less than any time.
        self.asking.deadline.max(self.asking.again)
    }

    /// Notes that the API was asked in vain.
    fn note(&mut self, answer: &Unfinished, now: Instant, delay: Duration) {
        let asking = &mut self.asking;
        asking.times = asking.times.saturating_add(1);
        asking.not_found = answer.not_found_after(asking.not_found);
        asking.unanswered = match answer {
            Unfinished::Failed { .. } => asking.unanswered.or(Some(now)),
            Unfinished::Pending | Unfinished::NotFound => None,
        };
        asking.again = Some(later(now, delay));
        self.error = answer.error().map(|error| storable(error).into_owned());
    }

    /// Receives its own event again, or expects one again.
    pub(super) fn replay(&mut self, now: Instant) -> bool {
        let event = self.event.as_ref();
        match self.phase {
            Phase::Done { .. } | Phase::Dead if event.is_some_and(|event| event.body.is_some()) => {
                self.earlier_attempts += std::mem::take(&mut self.attempts);
                self.asking = Asking::default();
                self.phase = Phase::Received { due: now };
            }
            Phase::Dead if event.is_none() => {
                self.asking = Asking { deadline: Some(now), ..Asking::default() };
                self.expect_again(now);
            }
            _ => return false,
        }
        true
    }
}

/// A time from now; one that no clock reaches is in thirty years.
fn later(now: Instant, after: Duration) -> Instant {
    now.checked_add(after).unwrap_or_else(|| now + Duration::from_secs(30 * 365 * 24 * 60 * 60))
}
