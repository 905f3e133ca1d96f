//! What a worker does with events: runs, retries, and their ends.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use qomplement_webhooks::inbox::{Bulk, InboxAdmin, InboxFilter, InboxState, Outcome, Retention};
use qomplement_webhooks::sender::Payload;
use qomplement_webhooks::worker::RunningWorker;
use qomplement_webhooks::{HandlerError, InboxStore, InboxWorker, Verification, WebhookEvent, handler_fn};
use tokio::time::{Instant, sleep};

use crate::support::inboxes::{self, FaultyInbox};
use crate::support::{Act, Call, Fault, Gate, Script};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// The delays of all retries that were recorded.
fn delays(inbox: &FaultyInbox) -> Vec<Duration> {
    let retry = |outcome| match outcome {
        Outcome::Retry { after, .. } => Some(after),
        _ => None,
    };
    inbox.outcomes().into_iter().filter_map(retry).collect()
}

#[tokio::test(start_paused = true)]
async fn an_event_is_handled_and_done() {
    let (inbox, script) = (FaultyInbox::default(), Script::default());
    let before = inbox.add_new().await;
    let _worker = inbox.worker(&script).start();
    let after = inbox.add(&Payload::fill_pdf_completed()).await;
    for job in [before, after] {
        let row = inbox.until(&job, InboxState::Done).await;
        assert_eq!((script.runs_of(&job), row.attempts, row.error), (1, 1, None));
    }
}

#[tokio::test(start_paused = true)]
async fn within_a_process_an_event_is_handled_at_once_however_seldom_the_worker_polls() {
    let (inbox, script) = (FaultyInbox::default(), Script::new([Act::FailPermanently, Act::Succeed]));
    let _worker = inbox.worker(&script).poll(HOUR).start();
    inbox.faults.until(Call::Lease, 1).await;
    sleep(SECOND).await;
    let began = Instant::now();
    let job = inbox.add_new().await;
    script.until("a new event is handled", |script| script.runs() == 1).await;
    inbox.until(&job, InboxState::Dead).await;
    assert!(inbox.rows.replay(&job).await.unwrap());
    script.until("a replayed event is handled", |script| script.finished() == 1).await;
    assert!(began.elapsed() < SECOND, "the worker was not woken: {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn large_events_are_leased_with_several_calls_and_without_a_poll() {
    let (inbox, script) = (FaultyInbox::default(), Script::default());
    inboxes::a_lease_ends_with_the_row_with_which_its_bodies_have_64_mib(&inbox.rows).await;
    let note = "x".repeat(33 << 20);
    for _ in 0..5 {
        inbox.add(&Payload::extract_completed().set("/note", &*note)).await;
    }
    let _worker = inbox.worker(&script).concurrency(100).poll(HOUR).start();
    let began = Instant::now();
    script.until("all are handled", |script| script.finished() == 5).await;
    assert!(began.elapsed() < SECOND, "the worker polled: {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn dead_letters_that_are_replayed_together_are_handled_at_once() {
    let (inbox, script) = (FaultyInbox::default(), Script::new([Act::FailPermanently, Act::Succeed]));
    let _worker = inbox.worker(&script).poll(HOUR).start();
    let job = inbox.add_new().await;
    inbox.until(&job, InboxState::Dead).await;
    let began = Instant::now();
    let dead = InboxFilter::default().state(InboxState::Dead);
    assert_eq!(inbox.rows.replay_all(&dead, 10, Bulk::Apply).await.unwrap().rows, 1);
    script.until("it is handled", |script| script.finished() == 1).await;
    assert!(began.elapsed() < SECOND, "the worker was not woken: {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn events_that_come_one_after_another_are_each_handled_at_once() {
    let (inbox, script) = (FaultyInbox::default(), Script::default());
    let _worker = inbox.worker(&script).poll(HOUR).start();
    for number in 1..=10 {
        let began = Instant::now();
        inbox.add_new().await;
        script.until("it is handled", |script| script.finished() == number).await;
        assert!(began.elapsed().is_zero(), "event {number} waited for {:?}", began.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn events_that_are_due_wait_for_room_and_for_nothing_else() {
    let (inbox, script) = (FaultyInbox::default(), Script::default());
    let inbox = inbox.fail(Call::Wait, vec![Some(Fault::Hang); 100]);
    for _ in 0..9 {
        inbox.add_new().await;
    }
    let began = Instant::now();
    let _worker = inbox.worker(&script).concurrency(2).poll(HOUR).start();
    script.until("all events are handled", |script| script.finished() == 9).await;
    assert!(began.elapsed().is_zero(), "without a hint, they took {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_tried_again_after_a_time_within_a_bound_that_doubles() {
    let (inbox, script) = (FaultyInbox::default(), Script::new([Act::Fail]));
    let worker = inbox.worker(&script).max_attempts(9).backoff(SECOND * 2, SECOND * 60).start();
    let job = inbox.add_new().await;
    let row = inbox.until(&job, InboxState::Dead).await;
    assert_eq!((row.attempts, script.runs()), (9, 9), "attempts, and runs");
    assert_eq!(row.error.as_deref(), Some("not now"), "the error of the last attempt");
    let bounds = [2, 4, 8, 16, 32, 60, 60, 60].map(Duration::from_secs);
    let delays = delays(&inbox);
    assert_eq!(delays.len(), bounds.len(), "{delays:?}");
    for (attempt, (delay, bound)) in delays.iter().zip(bounds).enumerate() {
        assert!(*delay <= bound, "after attempt {}: {delay:?} is over {bound:?}", attempt + 1);
    }
    worker.shutdown(SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn what_failed_together_is_not_tried_together() {
    let (inbox, script) = (FaultyInbox::default(), Script::new([Act::Fail]));
    for _ in 0..200 {
        inbox.add_new().await;
    }
    let _worker = inbox.worker(&script).backoff(HOUR, HOUR).start();
    script.until("every event has failed once", |script| script.runs() == 200).await;
    let mut delays = delays(&inbox);
    delays.sort_unstable();
    let quarter = |part: u32| delays.iter().filter(|delay| **delay < HOUR / 4 * part).count();
    for (part, expected) in [(1, 50), (2, 100), (3, 150)] {
        let below = quarter(part);
        assert!(below.abs_diff(expected) < 40, "{below} of 200 delays are below {part}/4 of their bound");
    }
    delays.dedup();
    assert!(delays.len() > 190, "of 200 delays, {} are different", delays.len());
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_names_a_delay_is_tried_again_after_it() {
    let week = HandlerError::MAX_RETRY_AFTER;
    let asked = [SECOND * 90, Duration::ZERO, week, week * 2, Duration::MAX];
    let inbox = FaultyInbox::default();
    let handler = handler_fn(move |event: WebhookEvent| async move {
        let attempt = event.job().attempt() as usize;
        match asked.get(attempt - 1) {
            Some(delay) => Err(HandlerError::retry_after("the ledger is busy", *delay)),
            None => Err("not now".into()),
        }
    });
    let worker = InboxWorker::new(inbox.clone(), handler, Verification::Trust);
    let _worker = worker.max_attempts(7).backoff(HOUR, HOUR).poll(HOUR).start();
    let job = inbox.add_new().await;
    inbox.until(&job, InboxState::Received).await;
    while inbox.row(&job).await.state != InboxState::Dead {
        sleep(HOUR).await;
    }
    let (named, backoff) = (&delays(&inbox)[..5], delays(&inbox)[5]);
    assert_eq!(named, [SECOND * 90, Duration::ZERO, week, week, week]);
    assert!(backoff <= HOUR, "a failure without a delay waits for {backoff:?}");
    assert_eq!(inbox.row(&job).await.attempts, 7, "the attempts count");
}

#[tokio::test(start_paused = true)]
async fn the_last_failure_is_dead_whatever_delay_it_names() {
    let inbox = FaultyInbox::default();
    let handler = handler_fn(|_| async { Err(HandlerError::retry_after("busy", HOUR)) });
    let worker = InboxWorker::new(inbox.clone(), handler, Verification::Trust);
    let _worker = worker.max_attempts(2).start();
    let (job, began) = (inbox.add_new().await, Instant::now());
    let row = inbox.until(&job, InboxState::Dead).await;
    assert_eq!((row.attempts, row.error.as_deref()), (2, Some("busy")));
    assert!((HOUR..HOUR + SECOND * 10).contains(&began.elapsed()), "{:?}", began.elapsed());
}

/// An error with a cause, which has a cause.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Caused(&'static str, #[source] Option<Box<Caused>>);

#[tokio::test(start_paused = true)]
async fn a_permanent_failure_is_dead_at_once_and_says_why() {
    let inbox = FaultyInbox::default();
    let handler = handler_fn(|_| async {
        let cause = Caused("the disk is full", None);
        Err(HandlerError::permanent(Caused("no invoice was made", Some(Box::new(cause)))))
    });
    let _worker = InboxWorker::new(inbox.clone(), handler, Verification::Trust).start();
    let job = inbox.add_new().await;
    let row = inbox.until(&job, InboxState::Dead).await;
    assert_eq!(row.attempts, 1, "another attempt was made, which is useless");
    assert_eq!(row.error.as_deref(), Some("no invoice was made: the disk is full"));
}

#[tokio::test(start_paused = true)]
async fn a_panic_and_a_hang_are_failures_that_are_tried_again() {
    for (act, error) in [(Act::Panic, "panicked: a handler's bug"), (Act::Hang, "did not end within 5s")] {
        let (inbox, script) = (FaultyInbox::default(), Script::new([act, Act::Succeed]));
        let _worker = inbox.worker(&script).max_handler_time(SECOND * 5).start();
        let job = inbox.add_new().await;
        let row = inbox.until(&job, InboxState::Done).await;
        assert_eq!((row.attempts, script.runs(), script.running()), (2, 2, 0), "{error}");
        let [Outcome::Retry { error: said, .. }, Outcome::Done] = &inbox.outcomes()[..] else {
            panic!("{error}: {:?}", inbox.outcomes())
        };
        assert_eq!(said, error);
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_that_always_panics_or_hangs_is_dead_when_its_attempts_are_used_up() {
    for act in [Act::Panic, Act::Hang] {
        let (inbox, script) = (FaultyInbox::default(), Script::new([act]));
        let _worker = inbox.worker(&script).max_attempts(3).max_handler_time(SECOND * 60).start();
        let job = inbox.add_new().await;
        let row = inbox.until(&job, InboxState::Dead).await;
        assert_eq!((row.attempts, script.runs()), (3, 3));
        sleep(HOUR).await;
        assert_eq!(script.runs(), 3, "what is dead was tried again");
    }
}

#[tokio::test(start_paused = true)]
async fn attempts_are_counted_and_fences_grow_also_over_a_replay() {
    let inbox = FaultyInbox::default();
    let seen: Arc<Mutex<Vec<(u32, u64)>>> = Arc::default();
    let handler = handler_fn({
        let seen = seen.clone();
        move |event: WebhookEvent| {
            let mut seen = seen.lock().unwrap();
            seen.push((event.job().attempt(), event.job().fence()));
            let succeeds = seen.len() == 6;
            async move { if succeeds { Ok(()) } else { Err("not now".into()) } }
        }
    });
    let worker = InboxWorker::new(inbox.clone(), handler, Verification::Trust).max_attempts(4);
    let _worker = worker.start();
    let job = inbox.add_new().await;
    inbox.until(&job, InboxState::Dead).await;
    assert!(inbox.rows.replay(&job).await.unwrap());
    let row = inbox.until(&job, InboxState::Done).await;
    assert_eq!((row.attempts, row.earlier_attempts), (2, 4), "the replay has its own attempts");
    let seen = seen.lock().unwrap().clone();
    let attempts: Vec<_> = seen.iter().map(|(attempt, _)| *attempt).collect();
    assert_eq!(attempts, [1, 2, 3, 4, 5, 6], "the attempts that the handler saw");
    assert!(seen.is_sorted_by(|(_, one), (_, next)| one < next), "a fence fell, or stood: {seen:?}");
}

#[tokio::test(start_paused = true)]
async fn no_more_is_leased_than_can_be_handled_at_once() {
    let (inbox, script) = (FaultyInbox::default(), Script::new([Act::Take(SECOND)]));
    for _ in 0..50 {
        inbox.add_new().await;
    }
    let began = Instant::now();
    let _worker = inbox.worker(&script).concurrency(3).start();
    script.until("all events are handled", |script| script.finished() == 50).await;
    assert_eq!(script.most_running(), 3, "handlers at once");
    assert_eq!(inbox.most_leased(), 3, "events leased at once, with room for three handlers");
    assert_eq!(began.elapsed().as_secs(), 17, "there was room that was not used");
}

#[tokio::test(start_paused = true)]
async fn while_outcomes_wait_to_be_recorded_as_many_more_events_are_handled() {
    let (inbox, script) = (FaultyInbox::default(), Script::default());
    inbox.faults.fail(Call::Settle, [Some(Fault::Hang); 4]);
    for _ in 0..10 {
        inbox.add_new().await;
    }
    let _worker = inbox.worker(&script).concurrency(2).start();
    script.until("the events of two rounds are handled", |script| script.finished() == 4).await;
    sleep(SECOND * 5).await;
    assert_eq!((script.runs(), inbox.most_leased()), (4, 4), "events were leased without end");
    script.until("all events are handled", |script| script.finished() == 10).await;
}

#[tokio::test(start_paused = true)]
async fn while_there_is_no_room_nothing_is_leased() {
    let gate = Arc::new(Gate::default());
    let (inbox, script) = (FaultyInbox::default(), Script::new([Act::Wait(gate.clone()), Act::Succeed]));
    let (first, second) = (inbox.add_new().await, inbox.add_new().await);
    let _worker = inbox.worker(&script).concurrency(1).start();
    gate.begun.notified().await;
    let calls = inbox.calls(Call::Lease);
    sleep(SECOND * 30).await;
    assert_eq!(inbox.calls(Call::Lease), calls, "a worker without room asked for events");
    assert_eq!(inbox.row(&second).await.attempts, 0, "an event was leased that nobody handles");
    gate.go_on.notify_one();
    inbox.until(&first, InboxState::Done).await;
    inbox.until(&second, InboxState::Done).await;
}

#[tokio::test(start_paused = true)]
async fn two_workers_on_one_inbox_handle_ten_thousand_events_once_each() {
    let inbox = FaultyInbox::default();
    let scripts = [(); 2].map(|()| Script::new([Act::Take(Duration::from_millis(20))]));
    let mut jobs = Vec::new();
    for _ in 0..10_000 {
        jobs.push(inbox.add_new().await);
    }
    let began = Instant::now();
    let [one, two] = &scripts;
    let _workers = [one, two].map(|script| inbox.worker(script).concurrency(256).start());
    let finished = || one.finished() + two.finished();
    while finished() < jobs.len() {
        assert!(began.elapsed() < SECOND * 60, "{} were handled, and the others are starved", finished());
        sleep(Duration::from_millis(10)).await;
    }
    for job in &jobs {
        assert_eq!(one.runs_of(job) + two.runs_of(job), 1, "{job} was handled more or less than once");
    }
    for script in &scripts {
        assert!(script.most_running() <= 256, "{} handlers ran at once", script.most_running());
        assert!(script.runs() > 1000, "a worker got {} of 10,000 events", script.runs());
    }
    inbox.until(jobs.last().unwrap(), InboxState::Done).await;
    let stats = inbox.rows.stats().await.unwrap();
    assert_eq!((stats.done, stats.running, stats.received), (10_000, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_in_threads_run_each_event_once() {
    let (inbox, script) = (FaultyInbox::default(), Script::default());
    let workers = [(); 3].map(|()| inbox.worker(&script).concurrency(8).start());
    let mut jobs = Vec::new();
    for _ in 0..1000 {
        jobs.push(inbox.add_new().await);
    }
    script.until("all events are handled", |script| script.finished() == 1000).await;
    for worker in workers {
        assert_eq!(worker.shutdown(SECOND * 10).await, 0);
    }
    assert!(jobs.iter().all(|job| script.runs_of(job) == 1), "an event was handled twice");
    assert_eq!(script.overlaps(), 0, "an event was handled twice at once");
    assert_eq!(inbox.rows.stats().await.unwrap().done, 1000);
}

#[tokio::test(start_paused = true)]
async fn an_event_that_fails_again_and_again_does_not_hold_up_the_others() {
    let inbox = FaultyInbox::default();
    let bad = inbox.add(&Payload::failed(&qomplement_webhooks::JobType::Extract)).await;
    let finished = Arc::new(Mutex::new(0));
    let handler = handler_fn({
        let finished = finished.clone();
        move |event: WebhookEvent| {
            let bad = matches!(event, WebhookEvent::JobFailed { .. });
            *finished.lock().unwrap() += usize::from(!bad);
            async move { if bad { Err("not now".into()) } else { Ok(()) } }
        }
    });
    let _worker = InboxWorker::new(inbox.clone(), handler, Verification::Trust).concurrency(1).start();
    for _ in 0..100 {
        inbox.add_new().await;
    }
    inbox.until(&bad, InboxState::Dead).await;
    assert_eq!(*finished.lock().unwrap(), 100, "others waited for an event that fails");
}

#[tokio::test(start_paused = true)]
async fn what_is_done_is_pruned_after_its_time_and_nothing_else_is() {
    let script = Script::new([Act::Succeed, Act::FailPermanently]);
    let inbox = FaultyInbox::default();
    let retention = Retention::default().payload(SECOND * 300).row(SECOND * 900);
    let _worker = inbox.worker(&script).retention(retention).poll(HOUR).start();
    let done = inbox.add_new().await;
    inbox.until(&done, InboxState::Done).await;
    let dead = inbox.add_new().await;
    inbox.until(&dead, InboxState::Dead).await;
    let body = async |job| inbox.rows.get(job).await.unwrap().map(|(_, body)| body.is_some());
    let began = Instant::now();
    for (seconds, expected) in [(290, Some(true)), (370, Some(false)), (890, Some(false)), (970, None)] {
        tokio::time::sleep_until(began + SECOND * seconds).await;
        assert_eq!(body(&done).await, expected, "a row that is done, and its body, after {seconds} s");
    }
    sleep(HOUR * 48).await;
    assert_eq!(body(&dead).await, Some(true), "a dead event was pruned");
    assert!(!inbox.contains(&done).await.unwrap());
}

/// An inbox with done events, more than one call prunes, and a worker that keeps them for five minutes.
async fn with_much_to_prune(inbox: &FaultyInbox) -> RunningWorker {
    let script = Script::default();
    for _ in 0..3500 {
        inbox.add_new().await;
    }
    let retention = Retention::default().payload(SECOND * 300).row(SECOND * 300);
    let worker = inbox.worker(&script).concurrency(100).retention(retention).poll(HOUR).start();
    script.until("all are handled", |script| script.finished() == 3500).await;
    worker
}

#[tokio::test(start_paused = true)]
async fn all_that_is_to_be_pruned_is_pruned_in_one_round_also_by_a_slow_store() {
    for fault in [None, Some(Fault::Slow)] {
        let inbox = FaultyInbox::default().fail(Call::Prune, vec![fault; 100]);
        let _worker = with_much_to_prune(&inbox).await;
        sleep(SECOND * 290).await;
        assert_eq!(inbox.rows.stats().await.unwrap().done, 3500, "{fault:?}: pruned before their time");
        sleep(SECOND * 85).await;
        assert_eq!(inbox.rows.stats().await.unwrap().done, 0, "{fault:?}: rows are left");
    }
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_ends_a_round_of_pruning() {
    let inbox = FaultyInbox::default();
    let worker = with_much_to_prune(&inbox).await;
    sleep(SECOND * 240).await;
    inbox.faults.fail(Call::Prune, vec![Some(Fault::Slow); 100]);
    while inbox.rows.stats().await.unwrap().done == 3500 {
        sleep(SECOND / 10).await;
    }
    let calls = inbox.calls(Call::Prune);
    worker.shutdown(SECOND).await;
    sleep(SECOND * 60).await;
    assert!(inbox.calls(Call::Prune) <= calls + 1, "pruned on after the shutdown");
    assert_ne!(inbox.rows.stats().await.unwrap().done, 0);
}

#[tokio::test(start_paused = true)]
async fn dead_letters_are_pruned_after_their_time_if_there_is_one() {
    let script = Script::new([Act::FailPermanently]);
    let inbox = FaultyInbox::default();
    let _worker = inbox.worker(&script).retention(Retention::default().dead(HOUR)).start();
    let dead = inbox.add_new().await;
    inbox.until(&dead, InboxState::Dead).await;
    sleep(HOUR - SECOND * 10).await;
    assert!(inbox.contains(&dead).await.unwrap(), "pruned before its time");
    sleep(SECOND * 90).await;
    assert!(!inbox.contains(&dead).await.unwrap(), "not pruned after its time");
}
