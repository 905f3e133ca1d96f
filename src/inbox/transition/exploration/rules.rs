//! The rules that each transition must keep: the contract of `InboxStore`.

use super::flaw::Flaw;
use super::state::{
    APPLIED, Body, CONFLICT, Call, DUPLICATE, For, NOW, Reply, STALE, STORED, Settles, State,
};
use crate::event::TraceParent;
use crate::inbox::row::{Phase, Row};
use crate::inbox::transition::Remains;

type Kept = Result<(), &'static str>;

fn rule(holds: bool, rule: &'static str) -> Kept {
    if holds { Ok(()) } else { Err(rule) }
}

/// Checks a transition, and notes what it promises in `after`.
pub(super) fn check(before: &State, call: Call, reply: Reply, after: &mut State, flaw: Option<Flaw>) -> Kept {
    sound(after)?;
    phases(before, call, after)?;
    fences(before, call, reply, after)?;
    match call {
        Call::Receive(body) => received(before, body, reply, after)?,
        Call::Lease(..) => leased(before, reply, after)?,
        Call::Begin(_) => rule(reply == STALE || is(after, |row| row.begun), "a beginning is noted")?,
        Call::Settle(_, outcome) => settled(before, outcome, reply, after)?,
        Call::Discard => {
            rule(reply != Reply::Done(true) || is_dead(before), "only dead letters are discarded")?;
        }
        Call::PruneBody | Call::PruneRow => {
            rule(
                reply == Reply::Pruned(Remains::Everything) || is_done(before),
                "only done rows are pruned",
            )?;
        }
        _ => {}
    }
    verified(before, call, after)?;
    traced(before, call, reply, after)?;
    repeated(call, reply, after, flaw)?;
    promised(before, call, reply, after)
}

/// Checks that a state has an end that can be reached: when its time has come, the row is leased, and settled.
pub(super) fn ends(state: &State, flaw: Option<Flaw>) -> Kept {
    let mut due = state.clone();
    due.workers = [None; 2];
    due = due.call(Call::Tick, flaw).1;
    let Some(phase) = phase(&due) else { return Ok(()) };
    let lease = match phase {
        Phase::Done { .. } | Phase::Dead { .. } => return Ok(()),
        Phase::Expected { .. } => Call::Overdue(0, For::ATick),
        Phase::Received { .. } | Phase::Running { .. } => Call::Lease(0, For::ATick),
    };
    let (reply, leased) = due.call(lease, flaw);
    rule(matches!(reply, Reply::Granted(_)), "a row whose time has come is leased")?;
    let (reply, settled) = leased.call(Call::Settle(0, Settles::Dead), flaw);
    rule(reply == APPLIED && phase_of(&settled) != phase_of(&leased), "the last lease settles its row")
}

fn phase(state: &State) -> Option<Phase> {
    state.row.as_ref().map(|row| row.phase)
}

/// The phase without its time.
fn phase_of(state: &State) -> Option<std::mem::Discriminant<Phase>> {
    phase(state).as_ref().map(std::mem::discriminant)
}

fn is(state: &State, holds: impl Fn(&Row) -> bool) -> bool {
    state.row.as_ref().is_some_and(holds)
}

fn is_done(state: &State) -> bool {
    matches!(phase(state), Some(Phase::Done { .. }))
}

fn is_dead(state: &State) -> bool {
    matches!(phase(state), Some(Phase::Dead { .. }))
}

fn is_running(state: &State) -> bool {
    matches!(phase(state), Some(Phase::Running { .. }))
}

fn is_expected(state: &State) -> bool {
    matches!(phase(state), Some(Phase::Expected { .. }))
}

/// The rows of two states without the fencing token and the number of attempts, which a simplified state rounds.
fn same_row(one: &State, other: &State) -> bool {
    one.row == other.row && one.body == other.body
}

fn sound(state: &State) -> Kept {
    let Some(row) = &state.row else { return rule(state.body.is_none(), "a body has a row") };
    let has_bytes = row.event.as_ref().is_some_and(|event| event.bytes.is_some());
    rule(has_bytes == state.body.is_some(), "a row knows whether it has a body")?;
    let is_sound = match row.phase {
        Phase::Expected { .. } => row.event.is_none(),
        Phase::Received { .. } | Phase::Running { .. } => state.body.is_some(),
        Phase::Done { .. } => row.event.is_some(),
        Phase::Dead { .. } => true,
    };
    rule(is_sound, "each phase has what it needs")
}

/// Which calls lead from one phase to another.
fn phases(before: &State, call: Call, after: &State) -> Kept {
    if phase_of(before) == phase_of(after) {
        return Ok(());
    }
    let is_received = matches!(phase(after), Some(Phase::Received { .. }));
    let may = match (phase(before), call) {
        (None, Call::Receive(_)) => is_received,
        (None, Call::Expect(_)) => is_expected(after),
        (Some(Phase::Expected { .. } | Phase::Done { .. } | Phase::Dead { .. }), Call::Receive(_)) => {
            is_received
        }
        (Some(Phase::Expected { .. }), Call::Verify(_)) => is_received,
        (Some(Phase::Expected { .. }), Call::Settle(_, Settles::Dead | Settles::Rejected)) => is_dead(after),
        (Some(Phase::Received { .. }), Call::Lease(..)) => is_running(after),
        (Some(Phase::Running { .. }), Call::Settle(_, outcome)) => match outcome {
            Settles::Done => is_done(after) || is_expected(after),
            Settles::Dead => is_dead(after) || is_expected(after),
            Settles::Rejected => is_dead(after),
            Settles::Retry(_) => is_received || is_expected(after),
            Settles::Pending(_) => is_expected(after),
            Settles::Release(_) | Settles::NotFound(_) | Settles::Failed(_) => is_received,
        },
        (Some(Phase::Done { .. } | Phase::Dead { .. }), Call::Expect(_)) => is_expected(after),
        (Some(Phase::Done { .. }), Call::Replay) => is_received,
        (Some(Phase::Dead { .. }), Call::Replay) => is_received || is_expected(after),
        (Some(Phase::Dead { .. }), Call::Discard) | (Some(Phase::Done { .. }), Call::PruneRow) => {
            after.row.is_none()
        }
        _ => false,
    };
    rule(may, "a row changes its phase as the diagram shows")
}

fn fences(before: &State, call: Call, reply: Reply, after: &State) -> Kept {
    if let (Some(old), Some(new)) = (&before.row, &after.row) {
        rule(new.fence >= old.fence, "a fencing token never falls")?;
        let granted = matches!(reply, Reply::Granted(_));
        rule(!granted || new.fence > old.fence, "each lease raises the fencing token")?;
    }
    let is_write = matches!(call, Call::Begin(_) | Call::Renew(..) | Call::Verify(_) | Call::Settle(..));
    if is_write && before.is_stale(call) {
        rule(reply == STALE, "a write under an earlier lease is stale")?;
    }
    rule(reply != STALE || same_row(before, after), "a stale write changes nothing")?;
    // An expired lease still writes, as long as no other one was granted.
    let writes = is_write && !before.is_stale(call) && is_running(before);
    rule(!writes || reply == APPLIED, "the last lease of a running row writes")
}

fn received(before: &State, body: Body, reply: Reply, after: &State) -> Kept {
    let event = before.row.as_ref().and_then(|row| row.event.as_ref());
    let first = event.is_none_or(|event| !event.status.is_final() && body.is_final());
    if !first {
        rule(same_row(before, after), "a later event changes nothing")?;
        let differs = before.body.is_some_and(|kept| kept != body) && body.is_final();
        let kind = if differs { CONFLICT } else { DUPLICATE };
        return rule(reply == kind, "other bytes are a conflict, unless the job goes on");
    }
    rule(reply == STORED && after.body == Some(body), "the first event is stored")?;
    rule(is(after, |row| row.attempts == 0 && !row.begun), "the attempts of a new event begin anew")?;
    let was_leased = is_running(before) || is_expected(before);
    let is_stale = is(after, |row| is(before, |old| row.fence > old.fence));
    rule(!was_leased || is_stale, "a new event makes the lease before it stale")?;
    if is_running(before) {
        return rule(phase(before) == phase(after), "a replaced event leaves the row to its lease");
    }
    rule(is(after, |row| row.due_at() == Some(NOW)), "a new event is due at once")
}

fn leased(before: &State, reply: Reply, after: &State) -> Kept {
    let is_due = match phase(before) {
        Some(Phase::Received { due_at: at } | Phase::Running { until: at }) => at <= NOW,
        _ => false,
    };
    let Reply::Granted(told) = reply else { return rule(!is_due, "a due row is leased") };
    rule(is_due && !before.promised.is_leased, "a row is leased to one at a time")?;
    let counted = is(after, |row| is(before, |old| row.attempts == old.attempts + 1));
    rule(counted, "a lease counts as an attempt")?;
    rule(told.expired == is_running(before), "a lease tells whether the one before expired")?;
    let begun = is_running(before) && is(before, |row| row.begun);
    rule(
        told.begun == begun && is(after, |row| row.begun == begun),
        "a lease tells whether the handler had begun",
    )?;
    rule(
        told.verified == (before.body == Some(Body::Fetched)),
        "a lease tells whether the event was fetched",
    )?;
    let again = before.body == Some(Body::Early) && is(before, |row| row.deadline.is_some());
    rule(told.expected_again == again, "a lease tells whether the job is expected again")
}

fn settled(before: &State, outcome: Settles, reply: Reply, after: &State) -> Kept {
    if reply != APPLIED || !is_running(before) {
        return Ok(());
    }
    let attempts = |state: &State| state.row.as_ref().map_or(0, |row| row.attempts);
    match outcome {
        Settles::Release(_) | Settles::NotFound(_) | Settles::Failed(_) => {
            rule(attempts(after) + 1 == attempts(before).max(1), "a released attempt does not count")?;
        }
        Settles::Retry(_) if !is_expected(after) => {
            rule(attempts(after) == attempts(before), "a failed attempt counts")?;
        }
        _ => {}
    }
    let goes_on = before.body == Some(Body::Early) && is(before, |row| row.deadline.is_some());
    if goes_on && matches!(outcome, Settles::Done | Settles::Dead) {
        rule(is_expected(after), "a registered job that goes on is expected again")?;
    }
    let after_for = match outcome {
        Settles::Retry(time) | Settles::Release(time) | Settles::NotFound(time) | Settles::Failed(time) => {
            Some(time)
        }
        _ => None,
    };
    let in_time = after_for.is_none_or(|time| {
        is_expected(after) || is(after, |row| row.due_at() == Some(NOW.after(time.duration())))
    });
    rule(in_time, "a row is due when its delay has passed")?;
    rule(outcome != Settles::Rejected || after.body.is_none(), "a rejected job drops its event")
}

/// A fetched event is replaced by nothing but another fetched one.
fn verified(before: &State, call: Call, after: &State) -> Kept {
    let flag = |state: &State| is(state, |row| row.event.as_ref().is_some_and(|event| event.verified));
    let has_left = flag(before) && !flag(after);
    let may = matches!(
        call,
        Call::Settle(_, Settles::Rejected | Settles::Pending(_)) | Call::Discard | Call::PruneRow
    );
    rule(!has_left || may, "a verified event stays")?;
    rule(flag(before) || !flag(after) || matches!(call, Call::Verify(_)), "only a fetched event is verified")
}

/// An event has the trace of the delivery that brought it; a fetched one, that of the event in whose place it is.
fn traced(before: &State, call: Call, reply: Reply, after: &State) -> Kept {
    let trace =
        |state: &State| -> Option<TraceParent> { state.row.as_ref()?.event.as_ref()?.traceparent.clone() };
    match call {
        Call::Receive(body) if reply == STORED => {
            rule(trace(after) == body.traceparent(), "an event has the trace of its delivery")
        }
        _ => {
            let has_event = is(after, |row| row.event.is_some());
            rule(!has_event || trace(after) == trace(before), "the trace of an event stays")
        }
    }
}

/// A write whose reply was lost is repeated.
fn repeated(call: Call, reply: Reply, after: &State, flaw: Option<Flaw>) -> Kept {
    let repeats = match call {
        Call::Receive(_) => true,
        Call::Begin(_) | Call::Renew(..) | Call::Verify(_) | Call::Settle(..) => reply == APPLIED,
        _ => false,
    };
    if !repeats {
        return Ok(());
    }
    let (again, twice) = after.call(call, flaw);
    rule(same_row(after, &twice), "a repeated write changes nothing")?;
    let expected = match call {
        Call::Receive(_) if reply == STORED => again == DUPLICATE,
        Call::Settle(..) if is_expected(after) => again == STALE,
        _ => again == reply,
    };
    rule(expected, "a repeated write has the reply of the first")
}

/// Checks what was promised before, and notes what this call promises.
fn promised(before: &State, call: Call, reply: Reply, after: &mut State) -> Kept {
    let mut promised = before.promised;
    let applied = reply == APPLIED && !same_row(before, after);
    match call {
        Call::Receive(body) if reply == STORED && body.is_final() => {
            (promised.event, promised.is_expected) = (Some(body), false);
        }
        // The first event of a rejected job that is not final: the job is expected from now on.
        Call::Receive(_) if reply == STORED && is_dead(before) => promised.is_expected = true,
        Call::Expect(_) => promised.is_expected |= promised.event.is_none() && !is_dead(before),
        Call::Lease(_, length) if reply != Reply::NotGranted => promised.is_leased = length == For::ATick,
        Call::Renew(_, length) if reply == APPLIED && is_running(before) => {
            promised.is_leased = length == For::ATick;
        }
        Call::Verify(_) if applied => (promised.event, promised.is_expected) = (Some(Body::Fetched), false),
        Call::Settle(_, outcome) if applied => {
            promised.is_leased &= !is_running(before);
            match outcome {
                Settles::Rejected => (promised.event, promised.is_expected) = (None, false),
                Settles::Pending(_) => promised.event = None,
                Settles::Dead if is_expected(before) => promised.is_expected = false,
                _ => {}
            }
        }
        Call::Replay if reply == Reply::Done(true) => promised.is_expected = is_expected(after),
        Call::Tick => promised.is_leased = false,
        _ => {}
    }
    let is_discarded = call == Call::Discard && reply == Reply::Done(true);
    if is_discarded || reply == Reply::Pruned(Remains::Nothing) {
        promised = super::state::Promised::default();
    }
    after.promised = promised;

    if let Some(event) = promised.event {
        let is_kept = after.body == Some(event) || (is_done(after) && after.body.is_none());
        rule(
            is_kept && is(after, |row| row.event.is_some()),
            "an accepted event stays until the API says otherwise",
        )?;
    }
    let goes_on = after.body == Some(Body::Early) && is(after, |row| row.deadline.is_some());
    let is_expected = is_expected(after) || (goes_on && !is_done(after) && !is_dead(after));
    rule(!promised.is_expected || is_expected, "a registered job is expected until its event comes")
}
