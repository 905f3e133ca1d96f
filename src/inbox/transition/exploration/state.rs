//! A row, its body, and two workers with their leases; and the calls that change them.

use std::time::Duration;

use bytes::Bytes;

use super::flaw::Flaw;
use crate::event::{JobId, JobStatus, JobType, TraceParent};
use crate::inbox::failed_attempts::FailedAttempts;
use crate::inbox::row::{Fetches, KeptEvent, Phase, Row};
use crate::inbox::timestamp::Timestamp;
use crate::inbox::transition::{BodyChange, Remains};
use crate::inbox::{Lease, NoResult, Outcome, Receipt, Retention};
use crate::store::Fenced;

pub(super) const NOW: Timestamp = Timestamp(0);
const LATER: Timestamp = Timestamp(1);
/// The fencing token of a simplified or new row, and of a lease that is not the row's last.
const FENCE: u64 = 2;
const OLD_FENCE: u64 = 1;

/// The bodies that a row can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Body {
    /// Reports that the job goes on.
    Early,
    Final,
    /// Has a final status, too, and other bytes.
    OtherFinal,
    Fetched,
}

/// A duration: none, or one that ends with the next tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum For {
    Nothing,
    ATick,
}

/// The outcomes that settle a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Settles {
    Done,
    Retry(For),
    Dead,
    Rejected,
    Release(For),
    Pending(For),
    NotFound(For),
    Failed(For),
}

/// A phase, whether it is due, whether its event is final, and whether a job that goes on is registered.
pub(super) type Kind = (u8, bool, Option<bool>, bool);

/// A call of the inbox, or of time. Workers are numbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Call {
    Receive(Body),
    Expect(For),
    Lease(usize, For),
    Overdue(usize, For),
    Begin(usize),
    Renew(usize, For),
    Verify(usize),
    Settle(usize, Settles),
    /// A worker forgets its lease: it crashed, or has ended its work.
    Forget(usize),
    Replay,
    Discard,
    PruneBody,
    PruneRow,
    Tick,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Reply {
    Receipt(u8),
    Granted(Told),
    NotGranted,
    Fenced(bool),
    Done(bool),
    Pruned(Remains),
}

/// The report of a lease about the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Told {
    pub(super) expired: bool,
    pub(super) begun: bool,
    pub(super) verified: bool,
    pub(super) expected_again: bool,
}

pub(super) const STORED: Reply = Reply::Receipt(0);
pub(super) const DUPLICATE: Reply = Reply::Receipt(1);
pub(super) const CONFLICT: Reply = Reply::Receipt(2);
pub(super) const APPLIED: Reply = Reply::Fenced(true);
pub(super) const STALE: Reply = Reply::Fenced(false);

/// Everything that matters for what can follow.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct State {
    pub(super) row: Option<Row>,
    pub(super) body: Option<Body>,
    /// The fencing token that each worker holds, also after its lease has ended.
    pub(super) workers: [Option<u64>; 2],
    /// The rest is not the inbox's: what it has promised so far.
    pub(super) promised: Promised,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Promised {
    /// The first accepted event with a final status, until the API says something else.
    pub(super) event: Option<Body>,
    /// Whether somebody may run the handler until the next tick, under a lease that has not ended.
    pub(super) is_leased: bool,
    /// Whether the job is registered, and no event with a final status has come since.
    pub(super) is_expected: bool,
}

impl Body {
    pub(super) fn is_final(self) -> bool {
        self != Self::Early
    }

    fn event(self) -> KeptEvent {
        let status = if self.is_final() { JobStatus::Completed } else { JobStatus::from("processing") };
        let verified = self == Self::Fetched;
        KeptEvent {
            job_type: JobType::Extract,
            status,
            verified,
            bytes: Some(1),
            traceparent: self.traceparent(),
        }
    }

    /// The trace of the delivery of each event. No delivery brings a fetched one.
    pub(super) fn traceparent(self) -> Option<TraceParent> {
        let (trace, span) = match self {
            Self::Early => (1, 1),
            Self::Final => (2, 2),
            Self::OtherFinal => (3, 3),
            Self::Fetched => return None,
        };
        format!("00-{trace:032x}-{span:016x}-01").parse().ok()
    }
}

impl For {
    const ALL: [Self; 2] = [Self::Nothing, Self::ATick];

    pub(super) fn duration(self) -> Duration {
        match self {
            Self::Nothing => Duration::ZERO,
            Self::ATick => LATER.since(NOW),
        }
    }
}

impl Settles {
    fn all() -> impl Iterator<Item = Self> {
        let lasting = [Self::Retry, Self::Release, Self::Pending, Self::NotFound, Self::Failed];
        let lasting = lasting.into_iter().flat_map(|outcome| For::ALL.map(outcome));
        [Self::Done, Self::Dead, Self::Rejected].into_iter().chain(lasting)
    }

    fn outcome(self) -> Outcome {
        let error = String::new;
        let again = |after: For, answer| Outcome::FetchAgain { after: after.duration(), answer };
        match self {
            Self::Done => Outcome::Done,
            Self::Retry(after) => Outcome::Retry { after: after.duration(), error: error() },
            Self::Dead => Outcome::Dead { error: error() },
            Self::Rejected => Outcome::Rejected { error: error() },
            Self::Release(after) => Outcome::Release { after: after.duration() },
            Self::Pending(after) => again(after, NoResult::Pending),
            Self::NotFound(after) => again(after, NoResult::NotFound),
            Self::Failed(after) => again(after, NoResult::Failed { error: error() }),
        }
    }
}

impl Call {
    pub(super) fn worker(self) -> Option<usize> {
        match self {
            Self::Lease(worker, _)
            | Self::Overdue(worker, _)
            | Self::Begin(worker)
            | Self::Renew(worker, _)
            | Self::Verify(worker)
            | Self::Settle(worker, _)
            | Self::Forget(worker) => Some(worker),
            _ => None,
        }
    }

    pub(super) fn without_worker(self) -> Self {
        match self {
            Self::Lease(_, length) => Self::Lease(0, length),
            Self::Overdue(_, length) => Self::Overdue(0, length),
            Self::Begin(_) => Self::Begin(0),
            Self::Renew(_, length) => Self::Renew(0, length),
            Self::Verify(_) => Self::Verify(0),
            Self::Settle(_, outcome) => Self::Settle(0, outcome),
            Self::Forget(_) => Self::Forget(0),
            other => other,
        }
    }

    /// The call as `tests/it` reads it, with the number of leases since its own; `None` if it is not a call of the inbox.
    pub(super) fn text(self, lease: usize) -> Option<String> {
        let length = |length: For| if length == For::Nothing { "0" } else { "1" };
        Some(match self {
            Self::Receive(body) => format!("receive {body:?}"),
            Self::Expect(deadline) => format!("expect {}", length(deadline)),
            Self::Lease(_, time) => format!("lease {}", length(time)),
            Self::Overdue(_, time) => format!("overdue {}", length(time)),
            Self::Begin(_) => format!("begin {lease}"),
            Self::Renew(_, time) => format!("renew {lease} {}", length(time)),
            Self::Verify(_) => format!("verify {lease}"),
            Self::Settle(_, outcome) => {
                let (name, time) = match outcome {
                    Settles::Done => ("Done", For::Nothing),
                    Settles::Dead => ("Dead", For::Nothing),
                    Settles::Rejected => ("Rejected", For::Nothing),
                    Settles::Retry(after) => ("Retry", after),
                    Settles::Release(after) => ("Release", after),
                    Settles::Pending(after) => ("Pending", after),
                    Settles::NotFound(after) => ("NotFound", after),
                    Settles::Failed(after) => ("Failed", after),
                };
                format!("settle {lease} {name} {}", length(time))
            }
            Self::Replay => "replay".to_owned(),
            Self::Discard => "discard".to_owned(),
            Self::PruneBody => "prune 0 1".to_owned(),
            Self::PruneRow => "prune 1 0".to_owned(),
            Self::Forget(_) | Self::Tick => return None,
        })
    }
}

impl State {
    /// The calls that can follow.
    pub(super) fn calls(&self) -> Vec<Call> {
        let mut calls = vec![Call::Replay, Call::Discard, Call::PruneBody, Call::PruneRow];
        calls.extend([Body::Early, Body::Final, Body::OtherFinal].map(Call::Receive));
        calls.extend(For::ALL.map(Call::Expect));
        // Idle workers are alike.
        if let Some(idle) = self.workers.iter().position(Option::is_none) {
            for length in For::ALL {
                calls.extend([Call::Lease(idle, length), Call::Overdue(idle, length)]);
            }
        }
        for worker in (0..self.workers.len()).filter(|worker| self.workers[*worker].is_some()) {
            calls.extend([Call::Begin(worker), Call::Verify(worker), Call::Forget(worker)]);
            calls.extend(For::ALL.map(|length| Call::Renew(worker, length)));
            calls.extend(Settles::all().map(|outcome| Call::Settle(worker, outcome)));
        }
        calls.push(Call::Tick);
        calls
    }

    /// Makes a call, as an inbox does that has looked the row up.
    pub(super) fn call(&self, call: Call, flaw: Option<Flaw>) -> (Reply, Self) {
        let mut after = self.clone();
        let reply = after.change(call);
        match flaw {
            Some(flaw) => flaw.spoil(self, call, reply, after),
            None => (reply, after),
        }
    }

    fn change(&mut self, call: Call) -> Reply {
        match call {
            Call::Tick => {
                self.times().into_iter().for_each(|time| *time = NOW);
                return Reply::Done(true);
            }
            Call::Forget(worker) => {
                self.workers[worker] = None;
                return Reply::Done(true);
            }
            _ => {}
        }
        let fence = call.worker().and_then(|worker| self.workers[worker]).unwrap_or_default();
        let fenced = |(fenced, body): (Fenced, BodyChange)| (Reply::Fenced(fenced == Fenced::Applied), body);
        let Some(row) = &mut self.row else {
            match call {
                Call::Receive(body) => {
                    self.row = Some(Row { fence: FENCE, ..Row::received(body.event(), NOW) });
                    self.body = Some(body);
                    return STORED;
                }
                Call::Expect(deadline) => {
                    self.row = Some(Row { fence: FENCE, ..Row::expected(deadline.duration(), NOW) });
                    return Reply::Done(true);
                }
                Call::Lease(..) | Call::Overdue(..) => return Reply::NotGranted,
                Call::Replay | Call::Discard => return Reply::Done(false),
                Call::PruneBody | Call::PruneRow => return Reply::Pruned(Remains::Everything),
                _ => return STALE,
            }
        };
        let mut new_body = Body::Fetched;
        let (reply, change) = match call {
            Call::Receive(body) => {
                new_body = body;
                let (receipt, change) =
                    row.receive(body.event(), self.body.is_some_and(|kept| kept != body), NOW);
                let number = [Receipt::Stored, Receipt::Duplicate, Receipt::Conflict]
                    .iter()
                    .position(|r| *r == receipt);
                (Reply::Receipt(number.unwrap_or_default() as u8), change)
            }
            Call::Expect(deadline) => (Reply::Done(true), row.expect(deadline.duration(), NOW)),
            Call::Lease(worker, length) => {
                let body = self.body.map(|_| Bytes::new());
                let leased = body.and_then(|body| row.lease(job(), body, length.duration(), NOW));
                self.workers[worker] = leased.as_ref().map(|leased| leased.lease.fence());
                let told = leased.map(|leased| Told {
                    expired: leased.expired,
                    begun: leased.begun,
                    verified: leased.verified,
                    expected_again: leased.expected_again,
                });
                (told.map_or(Reply::NotGranted, Reply::Granted), BodyChange::Keep)
            }
            Call::Overdue(worker, length) => {
                let overdue = row.overdue(job(), length.duration(), NOW);
                self.workers[worker] = overdue.as_ref().map(|overdue| overdue.lease.fence());
                let told = Told { expired: false, begun: false, verified: false, expected_again: false };
                (overdue.map_or(Reply::NotGranted, |_| Reply::Granted(told)), BodyChange::Keep)
            }
            Call::Begin(_) => fenced((row.begin(fence), BodyChange::Keep)),
            Call::Renew(_, length) => fenced((row.renew(fence, length.duration(), NOW), BodyChange::Keep)),
            Call::Verify(_) => fenced(row.verify(fence, Body::Fetched.event(), NOW)),
            Call::Settle(_, outcome) => {
                fenced(row.settle(&Lease::new(job(), fence), &outcome.outcome(), NOW))
            }
            Call::Replay => (Reply::Done(row.replay(NOW)), BodyChange::Keep),
            Call::Discard => {
                let is_discarded = row.can_be_discarded();
                if is_discarded {
                    (self.row, self.body) = (None, None);
                    // The tokens of the next row begin above.
                    self.workers.iter_mut().flatten().for_each(|fence| *fence = OLD_FENCE);
                }
                (Reply::Done(is_discarded), BodyChange::Keep)
            }
            Call::PruneBody | Call::PruneRow => {
                let (kept, pruned) = (Duration::from_secs(1), Duration::ZERO);
                let (payload, of_row) = if call == Call::PruneRow { (kept, pruned) } else { (pruned, kept) };
                let remains = row.prune(&Retention::default().payload(payload).row(of_row), NOW);
                let change =
                    if remains == Remains::WithoutBody { BodyChange::Drop } else { BodyChange::Keep };
                if remains == Remains::Nothing {
                    // Retention is longer than any call is under way.
                    (self.row, self.body, self.workers) = (None, None, [None; 2]);
                }
                (Reply::Pruned(remains), change)
            }
            Call::Tick | Call::Forget(_) => (Reply::Done(true), BodyChange::Keep),
        };
        match change {
            BodyChange::Keep => {}
            BodyChange::Replace => self.body = Some(new_body),
            BodyChange::Drop => self.body = None,
        }
        reply
    }

    /// The times of the row that decide anything.
    fn times(&mut self) -> Vec<&mut Timestamp> {
        let Some(Row { phase, fetches, deadline, .. }) = &mut self.row else { return Vec::new() };
        let time = match phase {
            Phase::Expected { overdue_at: at }
            | Phase::Received { due_at: at }
            | Phase::Running { until: at }
            | Phase::Done { done_at: at } => Some(at),
            Phase::Dead { .. } => None,
        };
        time.into_iter().chain(&mut fetches.next_at).chain(deadline).collect()
    }

    /// Makes states equal that differ in nothing that decides what can follow.
    pub(super) fn simplify(&mut self) {
        let Some(row) = &mut self.row else { return };
        for fence in self.workers.iter_mut().flatten() {
            *fence = if *fence == row.fence { FENCE } else { OLD_FENCE };
        }
        row.fence = FENCE;
        row.attempts = row.attempts.min(1);
        row.earlier_attempts = 0;
        row.fetches = Fetches { next_at: row.fetches.next_at, ..Fetches::default() };
        (row.error, row.failures) = (None, FailedAttempts::default());
        row.received_at = NOW;
        self.times().into_iter().for_each(|time| *time = (*time).clamp(NOW, LATER));
    }

    /// The kind of a state, for the traces.
    pub(super) fn kind(&self) -> Kind {
        let due = self.row.as_ref().and_then(Row::due_at).is_some_and(|at| at <= NOW);
        let phase = match self.row.as_ref().map(|row| row.phase) {
            None => 0,
            Some(Phase::Expected { .. }) => 1,
            Some(Phase::Received { .. }) => 2,
            Some(Phase::Running { .. }) => 3,
            Some(Phase::Done { .. }) => 4,
            Some(Phase::Dead { .. }) => 5,
        };
        let is_final = self.body.map(Body::is_final);
        let goes_on = is_final == Some(false) && self.row.as_ref().is_some_and(|row| row.deadline.is_some());
        (phase, due, is_final, goes_on)
    }

    /// Whether a call comes from a lease that is not the row's last.
    pub(super) fn is_stale(&self, call: Call) -> bool {
        let held = call.worker().and_then(|worker| self.workers[worker]);
        held.is_some() && held != self.row.as_ref().map(|row| row.fence)
    }
}

fn job() -> JobId {
    JobId::try_from("job").unwrap_or_else(|error| panic!("{error}"))
}
