//! Mistakes of a state machine, each of which must break a rule.

use self::Flaw::*;
use super::state::{APPLIED, Body, Call, DUPLICATE, For, NOW, Reply, STALE, Settles, State};
use crate::inbox::row::{Phase, Row};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flaw {
    KeepsTheFencingToken,
    LeasesBeforeTheEnd,
    LeasesNoExpiredRow,
    HidesAnExpiredLease,
    RemembersThatItBegan,
    ForgetsThatItBegan,
    RenewsWithoutFence,
    SettlesWithoutFence,
    VerifiesWithoutFence,
    SettlesOnce,
    SettlesOnlyInTime,
    CountsAReleaseAsAnAttempt,
    ForgetsDelays,
    ForgetsEventsOfRetries,
    KeepsTheLastEvent,
    FreesTheLeaseOfAReplacedEvent,
    LetsTheOldLeaseWriteToTheNewEvent,
    ForgetsThatItVerified,
    VerifiesWebhooks,
    KeepsTheTraceOfAReplacedEvent,
    ForgetsTheTraceOfAVerifiedEvent,
    KeepsTheEventOfAPendingJob,
    RejectsWithTheEvent,
    ForgetsTheDeadlineOfAnEarlyEvent,
    DuplicatesReviveDeadLetters,
    PrunesTheDead,
    DiscardsDoneRows,
    ReplaysRunningRows,
    ExpectsReceivedJobs,
    NeverFetchesAgain,
}

pub(super) const FLAWS: [Flaw; 30] = [
    KeepsTheFencingToken,
    LeasesBeforeTheEnd,
    LeasesNoExpiredRow,
    HidesAnExpiredLease,
    RemembersThatItBegan,
    ForgetsThatItBegan,
    RenewsWithoutFence,
    SettlesWithoutFence,
    VerifiesWithoutFence,
    SettlesOnce,
    SettlesOnlyInTime,
    CountsAReleaseAsAnAttempt,
    ForgetsDelays,
    ForgetsEventsOfRetries,
    KeepsTheLastEvent,
    FreesTheLeaseOfAReplacedEvent,
    LetsTheOldLeaseWriteToTheNewEvent,
    ForgetsThatItVerified,
    VerifiesWebhooks,
    KeepsTheTraceOfAReplacedEvent,
    ForgetsTheTraceOfAVerifiedEvent,
    KeepsTheEventOfAPendingJob,
    RejectsWithTheEvent,
    ForgetsTheDeadlineOfAnEarlyEvent,
    DuplicatesReviveDeadLetters,
    PrunesTheDead,
    DiscardsDoneRows,
    ReplaysRunningRows,
    ExpectsReceivedJobs,
    NeverFetchesAgain,
];

impl Flaw {
    /// The result of a call with this flaw; `reply` and `after` are those without it.
    pub(super) fn spoil(self, before: &State, call: Call, reply: Reply, mut after: State) -> (Reply, State) {
        let nothing = |reply| (reply, before.clone());
        let is_running = |state: &State| matches!(phase(state), Some(Phase::Running { .. }));
        let replaces_running =
            matches!(call, Call::Receive(_)) && is_running(before) && after.body != before.body;
        match (self, call) {
            (KeepsTheFencingToken, Call::Lease(worker, _)) if reply != Reply::NotGranted => {
                let fence = before.row.as_ref().map(|row| row.fence);
                after.workers[worker] = fence;
                row(&mut after, |row| row.fence = fence.unwrap_or_default());
            }
            (LeasesBeforeTheEnd, Call::Lease(..)) if is_running(before) => {
                return due(before).call(call, None);
            }
            (LeasesNoExpiredRow, Call::Lease(..)) if is_running(before) => return nothing(Reply::NotGranted),
            (HidesAnExpiredLease, _) => {
                if let Reply::Granted(mut told) = reply {
                    told.expired = false;
                    return (Reply::Granted(told), after);
                }
            }
            (RemembersThatItBegan, Call::Lease(..)) => {
                let begun = before.row.as_ref().is_some_and(|row| row.begun);
                row(&mut after, |row| row.begun = begun);
            }
            (ForgetsThatItBegan, Call::Lease(..)) => row(&mut after, |row| row.begun = false),
            (RenewsWithoutFence, Call::Renew(worker, _))
            | (SettlesWithoutFence, Call::Settle(worker, _))
            | (VerifiesWithoutFence, Call::Verify(worker)) => {
                let mut last = before.clone();
                last.workers[worker] = before.row.as_ref().map(|row| row.fence);
                return last.call(call, None);
            }
            (SettlesOnce, Call::Settle(..)) if !is_running(before) => return nothing(STALE),
            (SettlesOnlyInTime, Call::Settle(..)) if is_running(before) && is_due(before) => {
                return nothing(STALE);
            }
            (CountsAReleaseAsAnAttempt, Call::Settle(_, Settles::Release(_))) if reply == APPLIED => {
                let attempts = before.row.as_ref().map_or(0, |row| row.attempts);
                row(&mut after, |row| row.attempts = attempts);
            }
            (ForgetsDelays, Call::Settle(_, Settles::Retry(For::ATick))) => return (reply, due(&after)),
            (ForgetsEventsOfRetries, Call::Settle(_, Settles::Retry(_))) if reply == APPLIED => {
                after.body = None;
                row(&mut after, |row| row.event = None);
            }
            (KeepsTheLastEvent, Call::Receive(body)) if reply != DUPLICATE => after.body = Some(body),
            (FreesTheLeaseOfAReplacedEvent, _) if replaces_running => {
                row(&mut after, |row| row.phase = Phase::Received { due_at: NOW });
            }
            (LetsTheOldLeaseWriteToTheNewEvent, _) if replaces_running => {
                let fence = before.row.as_ref().map_or(0, |row| row.fence);
                row(&mut after, |row| row.fence = fence);
            }
            (ForgetsThatItVerified, Call::Settle(_, Settles::Retry(_))) => {
                row(&mut after, |row| row.event.iter_mut().for_each(|event| event.verified = false));
            }
            (VerifiesWebhooks, Call::Receive(_)) => {
                row(&mut after, |row| row.event.iter_mut().for_each(|event| event.verified = true));
            }
            (KeepsTheTraceOfAReplacedEvent, Call::Receive(_)) => {
                let kept = before.row.as_ref().and_then(|row| row.event.as_ref()?.traceparent.clone());
                row(&mut after, |row| {
                    row.event.iter_mut().for_each(|event| {
                        event.traceparent = kept.clone().or(event.traceparent.take());
                    });
                });
            }
            (ForgetsTheTraceOfAVerifiedEvent, Call::Verify(_)) if reply == APPLIED => {
                row(&mut after, |row| row.event.iter_mut().for_each(|event| event.traceparent = None));
            }
            (KeepsTheEventOfAPendingJob, Call::Settle(_, Settles::Pending(_))) if reply == APPLIED => {
                return before.call(
                    Call::Settle(call.worker().unwrap_or_default(), Settles::NotFound(For::ATick)),
                    None,
                );
            }
            (RejectsWithTheEvent, Call::Settle(_, Settles::Rejected))
                if is_running(before) && reply == APPLIED =>
            {
                return before.call(Call::Settle(call.worker().unwrap_or_default(), Settles::Dead), None);
            }
            (ForgetsTheDeadlineOfAnEarlyEvent, Call::Receive(Body::Early)) => {
                row(&mut after, |row| row.deadline = None);
            }
            (DuplicatesReviveDeadLetters, Call::Receive(_))
                if matches!(phase(before), Some(Phase::Dead { .. })) =>
            {
                row(&mut after, |row| row.phase = Phase::Received { due_at: NOW });
            }
            (PrunesTheDead, Call::PruneRow) if matches!(phase(before), Some(Phase::Dead { .. })) => {
                (after.row, after.body, after.workers) = (None, None, [None; 2]);
            }
            (DiscardsDoneRows, Call::Discard) if matches!(phase(before), Some(Phase::Done { .. })) => {
                (after.row, after.body, after.workers) = (None, None, [None; 2]);
                return (Reply::Done(true), after);
            }
            (ReplaysRunningRows, Call::Replay) if is_running(before) => {
                row(&mut after, |row| row.phase = Phase::Received { due_at: NOW });
                return (Reply::Done(true), after);
            }
            (ExpectsReceivedJobs, Call::Expect(_)) if before.body.is_some() => {
                after.body = None;
                row(&mut after, |row| {
                    row.event = None;
                    row.phase = Phase::Expected { overdue_at: NOW };
                });
            }
            (NeverFetchesAgain, Call::Overdue(..))
                if before.row.as_ref().is_some_and(|row| row.fetches.next_at.is_some()) =>
            {
                return nothing(Reply::NotGranted);
            }
            _ => {}
        }
        (reply, after)
    }
}

fn phase(state: &State) -> Option<Phase> {
    state.row.as_ref().map(|row| row.phase)
}

fn row(state: &mut State, change: impl FnOnce(&mut Row)) {
    if let Some(row) = &mut state.row {
        change(row);
    }
}

/// The state after all its times have passed.
fn due(state: &State) -> State {
    state.call(Call::Tick, None).1
}

fn is_due(state: &State) -> bool {
    state.row.as_ref().and_then(Row::due_at).is_some_and(|at| at <= NOW)
}
