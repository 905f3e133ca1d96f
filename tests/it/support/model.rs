//! A comparison of an inbox with the one in memory: the same calls must have the same results and leave the same rows.

use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use qomplement_webhooks::event::Envelope;
use qomplement_webhooks::inbox::{
    Bulk, FetchHistory, InboxAdmin, InboxCursor, InboxFilter, InboxRow, InboxState, Lease, Leased, NoResult,
    Outcome, Retention,
};
use qomplement_webhooks::{JobId, MemoryInbox};
use serde_json::json;

const HOUR: Duration = Duration::from_secs(3600);
const JOBS: [&str; 4] = ["550e8400-e29b-41d4-a716-446655440000", "a", "A", "');_DROP_TABLE_inbox;_--~%"];

#[derive(Debug, Clone)]
pub enum Call {
    Receive(Envelope),
    Lease(usize, Duration),
    /// The first number is a lease, counted back from the last one; likewise below.
    Renew(usize, Duration),
    Begin(usize),
    /// With an event that is larger by a number of bytes. The call is made twice, as after a lost reply.
    Verify(usize, usize),
    /// The call is made twice.
    Settle(usize, Outcome),
    Expect(JobId, Duration),
    Overdue(Duration),
    Replay(JobId),
    Discard(JobId),
    ReplayAll(InboxFilter, u64, Bulk),
    DiscardAll(InboxFilter, u64, Bulk),
    Prune(Retention),
    /// All pages of two rows.
    List(InboxFilter),
    Reopen,
}

fn a_job() -> impl Strategy<Value = JobId> {
    prop::sample::select(&JOBS[..]).prop_map(|job| job.parse().unwrap())
}

fn an_event() -> impl Strategy<Value = Envelope> {
    let status = prop::sample::select(&["completed", "failed", "processing", "queued"][..]);
    (a_job(), status, 0..2_usize).prop_map(|(job, status, padding)| event(&job, status, padding))
}

fn event(job: &JobId, status: &str, padding: usize) -> Envelope {
    let data = json!({"id": job.to_string(), "type": "extract", "status": status});
    let body = json!({"job_id": job.to_string(), "data": data, "padding": "x".repeat(padding)});
    // Each event is of a trace of its own, and one of no trace.
    let trace = status.len() * 2 + padding;
    let event = Envelope::try_from(Bytes::from(body.to_string())).unwrap();
    match format!("00-{trace:032x}-{trace:016x}-01").parse() {
        Ok(traceparent) if status != "queued" => event.with_traceparent(traceparent),
        _ => event,
    }
}

/// Zero, or a time that never passes in this test.
fn a_duration() -> impl Strategy<Value = Duration> {
    prop::sample::select(&[Duration::ZERO, HOUR][..])
}

/// Texts, some of them longer than a row keeps.
fn an_error() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => Just("'no'".to_owned()),
        1 => (0..4_usize).prop_map(|place| format!("{}{}\0", "x".repeat(place), "é…\u{1f4a3}".repeat(1000))),
    ]
}

fn an_outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        2 => Just(Outcome::Done),
        1 => (a_duration(), an_error()).prop_map(|(after, error)| Outcome::Retry { after, error }),
        1 => an_error().prop_map(|error| Outcome::Dead { error }),
        1 => a_duration().prop_map(|after| Outcome::Release { after }),
        1 => an_error().prop_map(|error| Outcome::Rejected { error }),
        3 => (a_duration(), an_answer()).prop_map(|(after, answer)| Outcome::FetchAgain { after, answer }),
    ]
}

fn an_answer() -> impl Strategy<Value = NoResult> {
    let failed = NoResult::Failed { error: "no answer".to_owned() };
    prop::sample::select(vec![NoResult::Pending, NoResult::NotFound, failed])
}

/// A filter that selects some rows, or all.
fn a_filter() -> impl Strategy<Value = InboxFilter> {
    let states = [InboxState::Expected, InboxState::Received, InboxState::Running, InboxState::Done];
    let all = InboxFilter::default;
    prop_oneof![
        2 => Just(all()),
        2 => Just(all().state(InboxState::Dead)),
        2 => prop::sample::select(states.to_vec()).prop_map(move |state| all().state(state)),
        1 => prop::sample::select(&["completed", "queued"][..]).prop_map(move |status| all().status(status)),
        1 => prop::sample::select(&["", "5", "a", "A", "'", "');_DROP%", "b", " "][..])
            .prop_map(move |prefix| all().job_prefix(prefix)),
        1 => prop::sample::select(&["", "NO", "'", "%", "\0"][..]).prop_map(move |part| all().error(part)),
        // No row is as old as an hour.
        1 => Just(all().older_than(Duration::ZERO).newer_than(HOUR)),
        1 => Just(all().older_than(HOUR)),
        1 => Just(all().state(InboxState::Dead).job_prefix("a").job_type("extract").error("no")),
    ]
}

fn a_call() -> impl Strategy<Value = Call> {
    // Mostly the last lease, sometimes an earlier one.
    let which = || prop_oneof![3 => Just(0), 1 => 0..6_usize];
    let retention = (a_duration(), a_duration(), prop::option::of(a_duration()));
    let retention = retention.prop_map(|(payload, row, dead)| {
        let retention = Retention::default().payload(payload).row(row);
        dead.map_or(retention, |dead| retention.dead(dead))
    });
    let bulk = || prop::sample::select(&[Bulk::DryRun, Bulk::Apply, Bulk::Apply][..]);
    let most = || prop::sample::select(&[0, 1, 2, u64::MAX][..]);
    prop_oneof![
        8 => an_event().prop_map(Call::Receive),
        4 => (0..4_usize).prop_map(|most| Call::Lease(most, HOUR)),
        // Of several leases that ended together, any may be the next.
        4 => Just(Call::Lease(1, Duration::ZERO)),
        2 => (which(), a_duration()).prop_map(|(which, length)| Call::Renew(which, length)),
        2 => which().prop_map(Call::Begin),
        3 => (which(), 0..2_usize).prop_map(|(which, padding)| Call::Verify(which, padding)),
        10 => (which(), an_outcome()).prop_map(|(which, outcome)| Call::Settle(which, outcome)),
        2 => (a_job(), a_duration()).prop_map(|(job, deadline)| Call::Expect(job, deadline)),
        3 => a_duration().prop_map(Call::Overdue),
        4 => a_job().prop_map(Call::Replay),
        2 => a_job().prop_map(Call::Discard),
        2 => (a_filter(), most(), bulk()).prop_map(|(filter, most, bulk)| Call::ReplayAll(filter, most, bulk)),
        2 => (a_filter(), most(), bulk()).prop_map(|(filter, most, bulk)| Call::DiscardAll(filter, most, bulk)),
        2 => retention.prop_map(Call::Prune),
        1 => a_filter().prop_map(Call::List),
        1 => Just(Call::Reopen),
    ]
}

/// The comparable part of a call's result.
async fn result(inbox: &dyn InboxAdmin, call: &Call, leases: &mut Vec<Lease>) -> String {
    let lease = |which: &usize| leases.iter().rev().nth(*which).cloned();
    match call {
        Call::Receive(event) => format!("{:?}", inbox.receive(event).await.unwrap()),
        Call::Lease(most, length) => {
            let leased = inbox.lease(*most, *length).await.unwrap();
            leased.iter().for_each(|leased| note(leases, &leased.lease));
            format!("{:?}", leased.iter().map(leased_timeless).collect::<Vec<_>>())
        }
        Call::Renew(which, length) => match lease(which) {
            Some(lease) => format!("{:?}", inbox.renew(&lease, *length).await.unwrap()),
            None => String::new(),
        },
        Call::Begin(which) => match lease(which) {
            Some(lease) => format!("{:?}", inbox.begin(&lease).await.unwrap()),
            None => String::new(),
        },
        Call::Verify(which, padding) => match lease(which) {
            Some(lease) => {
                let said = event(lease.job(), "completed", *padding);
                let first = inbox.verify(&lease, &said).await.unwrap();
                format!("{first:?} {:?}", inbox.verify(&lease, &said).await.unwrap())
            }
            None => String::new(),
        },
        Call::Settle(which, outcome) => match lease(which) {
            Some(lease) => {
                let first = inbox.settle(&lease, outcome).await.unwrap();
                format!("{first:?} {:?}", inbox.settle(&lease, outcome).await.unwrap())
            }
            None => String::new(),
        },
        Call::Expect(job, deadline) => format!("{:?}", inbox.expect(job, *deadline).await.unwrap()),
        Call::Overdue(again) => {
            let mut overdue = inbox.overdue(10, *again).await.unwrap();
            overdue.sort_unstable_by(|one, other| one.lease.job().cmp(other.lease.job()));
            overdue.iter().for_each(|overdue| note(leases, &overdue.lease));
            let timeless = overdue.iter().map(|overdue| {
                assert!(overdue.by < HOUR / 2, "{overdue:?}");
                format!("{} {}", overdue.lease.job(), history(&overdue.fetches))
            });
            format!("{:?}", timeless.collect::<Vec<_>>())
        }
        Call::Replay(job) => inbox.replay(job).await.unwrap().to_string(),
        Call::Discard(job) => inbox.discard(job).await.unwrap().to_string(),
        Call::ReplayAll(filter, most, bulk) => {
            format!("{:?}", inbox.replay_all(filter, *most, *bulk).await.unwrap())
        }
        Call::DiscardAll(filter, most, bulk) => {
            format!("{:?}", inbox.discard_all(filter, *most, *bulk).await.unwrap())
        }
        Call::Prune(retention) => format!("{:?}", inbox.prune(retention).await.unwrap()),
        Call::List(filter) => format!("{:?}", listed(inbox, filter).await),
        Call::Reopen => String::new(),
    }
}

/// The rows that a filter selects, by pages of two, in both directions.
async fn listed(inbox: &dyn InboxAdmin, filter: &InboxFilter) -> [Vec<String>; 2] {
    let mut lists = [Vec::new(), Vec::new()];
    for (list, begin) in lists.iter_mut().zip([InboxCursor::Oldest, InboxCursor::Newest]) {
        let mut from = Some(begin);
        while let Some(place) = from {
            let page = inbox.list(filter, place, 2).await.unwrap();
            assert!(page.rows.len() <= 2 && page.rows.iter().all(|row| filter.matches(row)), "{page:?}");
            list.extend(page.rows.iter().map(timeless));
            from = page.next;
        }
    }
    lists
}

/// Keeps a lease. Its fencing token is greater than all that the job had, also those of a row that is gone.
fn note(leases: &mut Vec<Lease>, lease: &Lease) {
    for earlier in leases.iter().filter(|earlier| earlier.job() == lease.job()) {
        assert!(earlier.fence() < lease.fence(), "{lease:?} follows {earlier:?}");
    }
    leases.push(lease.clone());
}

/// The content of an inbox, without times: all rows and totals, and what a state's filter and a job's id find. The
/// `turn` says which of them, as each is a query more.
async fn content(inbox: &dyn InboxAdmin, turn: usize) -> Vec<String> {
    let mut content = Vec::new();
    let states = [InboxState::Done, InboxState::Dead, InboxState::Received];
    for state in [None, Some(states[turn % states.len()])] {
        let filter = state.map_or(InboxFilter::default(), |state| InboxFilter::default().state(state));
        let from = [InboxCursor::Oldest, InboxCursor::Newest][turn % 2];
        let rows = inbox.list(&filter, from, 10).await.unwrap().rows;
        let second = rows.first().map_or(from, |row| from.past(row.number));
        let next = inbox.list(&filter, second, 1).await.unwrap().rows;
        assert_eq!(next.first().map(timeless), rows.get(1).map(timeless));
        content.push(format!("{:?}", rows.iter().map(timeless).collect::<Vec<_>>()));
    }
    let job: JobId = JOBS[turn % JOBS.len()].parse().unwrap();
    let found = inbox.get(&job).await.unwrap();
    assert_eq!(found.is_some(), inbox.contains(&job).await.unwrap());
    content.push(format!("{:?}", found.map(|(row, body)| (timeless(&row), body))));
    let mut stats = inbox.stats().await.unwrap();
    let (due, overdue) = (stats.oldest_due.take().is_some(), stats.oldest_overdue.take().is_some());
    // The inbox in memory has no limits.
    (stats.max_unfinished_rows, stats.max_unfinished_bytes) = (None, None);
    content.push(format!("{stats:?} {due} {overdue}"));
    content
}

fn leased_timeless(leased: &Leased) -> String {
    assert!(leased.age < HOUR / 2, "{leased:?}");
    let history = history(&leased.fetches);
    let mut leased = leased.clone();
    (leased.age, leased.fetches) = (Duration::ZERO, FetchHistory::default());
    // Tokens begin with the row's number, which is the store's own.
    leased.lease = Lease::new(leased.lease.job().clone(), 0);
    format!("{leased:?} {history}")
}

fn history(history: &FetchHistory) -> String {
    let FetchHistory { count, not_found, unanswered_for, next_in, .. } = history;
    format!("{count} {not_found} {} {}", unanswered_for.is_some(), *next_in > HOUR / 2)
}

fn timeless(row: &InboxRow) -> String {
    assert!(row.age < HOUR / 2, "{row:?}");
    let due = row.due_in.map(|due| due > HOUR / 2);
    let InboxRow {
        job_id,
        state,
        job_type,
        status,
        traceparent,
        verified,
        fetches,
        attempts,
        earlier_attempts,
        error,
        failures,
        ..
    } = row;
    let failures = failures.iter().map(|failed| {
        assert!(failed.age < HOUR / 2 && failed.took.is_none_or(|took| took < HOUR / 2), "{row:?}");
        (failed.number, failed.took.is_some(), &failed.error)
    });
    let failures: Vec<_> = failures.collect();
    format!(
        "{job_id} {state} {job_type:?} {status:?} {traceparent:?} {verified} {fetches} {attempts} {earlier_attempts} {error:?} {failures:?} {due:?}"
    )
}

/// Traces that together take each kind of transition of the state machine once; a unit test of the state machine makes
/// them.
pub fn traces() -> Vec<Vec<Call>> {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/src/inbox/transition/exploration/traces.txt");
    let text = std::fs::read_to_string(file).unwrap();
    text.lines().map(trace).collect()
}

fn trace(line: &str) -> Vec<Call> {
    let job: JobId = JOBS[0].parse().unwrap();
    let read = |call: &str| {
        let words: Vec<_> = call.split(' ').collect();
        let time = |place: usize| if words[place] == "0" { Duration::ZERO } else { HOUR };
        let which = || words[1].parse().unwrap();
        let again = |answer| Outcome::FetchAgain { after: time(3), answer };
        match words[0] {
            "receive" => Call::Receive(match words[1] {
                "Early" => event(&job, "processing", 0),
                "Final" => event(&job, "completed", 0),
                "OtherFinal" => event(&job, "completed", 1),
                other => panic!("{other}"),
            }),
            "expect" => Call::Expect(job.clone(), time(1)),
            "lease" => Call::Lease(1, time(1)),
            "overdue" => Call::Overdue(time(1)),
            "begin" => Call::Begin(which()),
            "renew" => Call::Renew(which(), time(2)),
            "verify" => Call::Verify(which(), 2),
            "settle" => Call::Settle(
                which(),
                match words[2] {
                    "Done" => Outcome::Done,
                    "Dead" => Outcome::Dead { error: "no".to_owned() },
                    "Rejected" => Outcome::Rejected { error: "no".to_owned() },
                    "Retry" => Outcome::Retry { after: time(3), error: "no".to_owned() },
                    "Release" => Outcome::Release { after: time(3) },
                    "Pending" => again(NoResult::Pending),
                    "NotFound" => again(NoResult::NotFound),
                    "Failed" => again(NoResult::Failed { error: "no".to_owned() }),
                    other => panic!("{other}"),
                },
            ),
            "replay" => Call::Replay(job.clone()),
            "discard" => Call::Discard(job.clone()),
            "prune" => Call::Prune(Retention::default().payload(time(1)).row(time(2))),
            other => panic!("{other}"),
        }
    };
    line.split("; ").map(read).collect()
}

pub fn calls() -> impl Strategy<Value = Vec<Call>> {
    prop::collection::vec(a_call(), 1..100)
}

/// A number of random sequences of calls, different in each run.
pub fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// Makes the calls of a trace on an empty inbox and on one in memory, and compares the results and the job's row.
pub async fn replay(calls: &[Call], other: &impl InboxAdmin) -> Result<(), TestCaseError> {
    let (memory, job) = (MemoryInbox::new(), JOBS[0].parse().unwrap());
    let (mut leases, mut other_leases) = (Vec::new(), Vec::new());
    for (number, call) in calls.iter().enumerate() {
        let expected = result(&memory, call, &mut leases).await;
        let found = result(other, call, &mut other_leases).await;
        prop_assert_eq!(expected, found, "call {} has another result: {:?}", number, call);
        let (expected, found) = (memory.get(&job).await.unwrap(), other.get(&job).await.unwrap());
        let shown = |row: Option<(InboxRow, Option<Bytes>)>| row.map(|(row, body)| (timeless(&row), body));
        prop_assert_eq!(shown(expected), shown(found), "call {} has left something else: {:?}", number, call);
    }
    Ok(())
}

/// Compares an empty inbox with one in memory, call after call.
pub async fn compare<I: InboxAdmin>(calls: &[Call], open: impl AsyncFn() -> I) -> Result<(), TestCaseError> {
    let (memory, mut other) = (MemoryInbox::new(), open().await);
    let (mut leases, mut other_leases) = (Vec::new(), Vec::new());
    for (number, call) in calls.iter().enumerate() {
        if matches!(call, Call::Reopen) {
            drop(other);
            other = open().await;
        }
        let expected = result(&memory, call, &mut leases).await;
        let found = result(&other, call, &mut other_leases).await;
        prop_assert_eq!(expected, found, "call {} has another result: {:?}", number, call);
        let (expected, found) = (content(&memory, number).await, content(&other, number).await);
        prop_assert_eq!(expected, found, "call {} has left something else: {:?}", number, call);
    }
    // All that the turns above may have left out.
    for turn in 0..JOBS.len() {
        let (expected, found) = (content(&memory, turn).await, content(&other, turn).await);
        prop_assert_eq!(expected, found, "the calls have left something else");
    }
    Ok(())
}
