//! A worker whose store fails, whose leases are lost, and whose process dies or is told to stop.

use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use qomplement_webhooks::inbox::{InboxAdmin, InboxState, Outcome};
use qomplement_webhooks::store::Fenced;
use qomplement_webhooks::worker::RunningWorker;
use qomplement_webhooks::{InboxStore, InboxWorker, JobId, Verification, WebhookEvent, handler_fn};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use crate::support::inboxes::FaultyInbox;
use crate::support::{Act, Call, FAULTS, Fault, Gate, Script};

const SECOND: Duration = Duration::from_secs(1);
const LEASE: Duration = Duration::from_secs(30);

#[tokio::test(start_paused = true)]
async fn whatever_fails_at_any_call_an_event_is_handled_and_recorded_and_never_twice_at_once() {
    for call in [Call::Lease, Call::Renew, Call::Settle, Call::Prune, Call::Wait] {
        for fault in FAULTS.into_iter().chain([Fault::Slow, Fault::Late]) {
            for times in [1, 2, 5] {
                let what = format!("{fault:?} at {call:?}, {times} times");
                let script = Script::new([Act::Take(SECOND * 25)]);
                let inbox = FaultyInbox::default().fail(call, vec![Some(fault); times]);
                let job = inbox.add_new().await;
                let began = Instant::now();
                // Two workers, as in two processes.
                let _workers = [inbox.worker(&script).start(), inbox.worker(&script).start()];
                inbox.until(&job, InboxState::Done).await;
                assert!(script.finished() >= 1, "{what}: done, and not handled");
                assert_eq!(script.overlaps(), 0, "{what}: handled twice at once");
                let most = LEASE * 2 + SECOND * 25 * (times as u32 + 1);
                assert!(began.elapsed() < most, "{what}: stuck for {:?}", began.elapsed());
                if times == 1 || [Call::Prune, Call::Wait].contains(&call) {
                    assert_eq!(script.runs(), 1, "{what}: it was handled again");
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_outcome_is_recorded_again_and_again_while_the_lease_lasts() {
    for fault in FAULTS {
        for acts in [[Act::Succeed], [Act::FailPermanently]] {
            let state = if matches!(acts[0], Act::Succeed) { InboxState::Done } else { InboxState::Dead };
            let (inbox, script) = (FaultyInbox::default(), Script::new(acts));
            let inbox = inbox.fail(Call::Settle, vec![Some(fault); 2]);
            let _worker = inbox.worker(&script).start();
            let job = inbox.add_new().await;
            let row = inbox.until(&job, state).await;
            assert_eq!((script.runs(), row.attempts), (1, 1), "{fault:?}: it was handled again");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_outcome_that_cannot_be_recorded_is_given_up_with_the_lease_and_the_event_is_handled_again() {
    let (inbox, script) = (FaultyInbox::default(), Script::default());
    let inbox = inbox.fail(Call::Settle, vec![Some(Fault::Error); 100]);
    let worker = inbox.worker(&script).max_attempts(3).start();
    let job = inbox.add_new().await;
    script.until("the handler ends", |script| script.finished() == 1).await;
    let began = Instant::now();
    assert_eq!(worker.shutdown(LEASE).await, 0, "the retries did not end with the lease");
    let tries = inbox.calls(Call::Settle);
    assert_eq!(tries, 14, "the calls in 30 s with pauses of 100 ms to 1.6 s, doubling, and then of 3 s");
    assert!(began.elapsed() >= LEASE * 9 / 10, "given up after {:?}", began.elapsed());
    inbox.faults.mend(Call::Settle);
    let _worker = inbox.worker(&script).start();
    let row = inbox.until(&job, InboxState::Done).await;
    assert_eq!((row.attempts, script.finished()), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_worker_outlives_a_store_that_is_away_for_minutes() {
    for fault in [Fault::Error, Fault::Hang, Fault::Panic] {
        let (inbox, script) = (FaultyInbox::default(), Script::default());
        let calls = [Call::Lease, Call::Prune];
        for call in calls {
            inbox.faults.fail(call, vec![Some(fault); 1000]);
        }
        let _worker = inbox.worker(&script).start();
        let job = inbox.add_new().await;
        sleep(SECOND * 600).await;
        let asked = inbox.calls(Call::Lease);
        assert!(
            (30..200).contains(&asked),
            "{fault:?}: a store that is away was asked {asked} times in 10 minutes"
        );
        assert_eq!(script.runs(), 0, "{fault:?}");
        for call in calls {
            inbox.faults.mend(call);
        }
        let back = Instant::now();
        inbox.until(&job, InboxState::Done).await;
        assert!(back.elapsed() <= SECOND * 16, "{fault:?}: noticed after {:?}", back.elapsed());
        // The pauses begin anew.
        inbox.faults.fail(Call::Lease, [Some(Fault::Error)]);
        sleep(SECOND * 3).await;
        let began = Instant::now();
        let job = inbox.add_new().await;
        inbox.until(&job, InboxState::Done).await;
        assert!(began.elapsed() <= SECOND * 2, "{fault:?}: after one failure {:?}", began.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_hint_a_worker_finds_events_by_asking() {
    for fault in FAULTS {
        let (inbox, script) = (FaultyInbox::default(), Script::default());
        let inbox = inbox.fail(Call::Wait, vec![Some(fault); 100]);
        let _worker = inbox.worker(&script).poll(SECOND * 5).start();
        inbox.faults.until(Call::Lease, 1).await;
        for _ in 0..3 {
            sleep(SECOND * 7).await;
            let began = Instant::now();
            let job = inbox.add_new().await;
            inbox.until(&job, InboxState::Done).await;
            assert!(began.elapsed() <= SECOND * 5, "{fault:?}: found after {:?}", began.elapsed());
        }
        let asked = inbox.calls(Call::Lease);
        assert!(asked < 20, "{fault:?}: the worker asked {asked} times in half a minute");
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hints_all_the_time_is_not_polled_all_the_time() {
    let (inbox, script) = (FaultyInbox::default().hinting(), Script::default());
    let _worker = inbox.worker(&script).start();
    sleep(SECOND).await;
    let asked = inbox.calls(Call::Lease);
    assert!((10..=101).contains(&asked), "asked {asked} times in a second");
    let job = inbox.add_new().await;
    let began = Instant::now();
    inbox.until(&job, InboxState::Done).await;
    assert!(began.elapsed() <= SECOND / 20, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_worker_with_the_shortest_poll_lets_time_pass_between_two_looks() {
    let (inbox, script) = (FaultyInbox::default(), Script::default());
    let began = Instant::now();
    let _worker = inbox.worker(&script).poll(Duration::ZERO).start();
    // The looks are what is waited for, so that a loop without a pause ends the test.
    inbox.faults.until(Call::Lease, 3000).await;
    let took = began.elapsed();
    assert!(took >= SECOND * 2, "3000 looks in {took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_long_handler_keeps_its_lease_and_runs_once() {
    let (inbox, script) = (FaultyInbox::default(), Script::new([Act::Take(SECOND * 600)]));
    let worker = || inbox.worker(&script).max_handler_time(SECOND * 3600).start();
    let _workers = [worker(), worker()];
    let job = inbox.add_new().await;
    let row = inbox.until(&job, InboxState::Done).await;
    assert_eq!((row.attempts, script.runs()), (1, 1), "a handler whose lease is renewed was run again");
    let renewals = inbox.calls(Call::Renew);
    assert!((60..=80).contains(&renewals), "10 minutes need a renewal every 10 s, not {renewals}");
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_is_never_answered_is_made_up_for() {
    let (inbox, script) = (FaultyInbox::default(), Script::new([Act::Take(SECOND * 120)]));
    let inbox = inbox.fail(Call::Renew, [Some(Fault::Hang), None, Some(Fault::Hang)]);
    let _worker = inbox.worker(&script).start();
    let job = inbox.add_new().await;
    let row = inbox.until(&job, InboxState::Done).await;
    assert_eq!((row.attempts, script.runs()), (1, 1), "the lease could have been kept");
}

#[tokio::test(start_paused = true)]
async fn a_handler_whose_lease_cannot_be_renewed_is_dropped_before_the_next_begins() {
    for fault in FAULTS {
        let (inbox, script) = (FaultyInbox::default(), Script::new([Act::Hang, Act::Succeed]));
        let write_is_lost = !matches!(fault, Fault::ReplyLost | Fault::HangAfter);
        let inbox = inbox.fail(Call::Renew, vec![Some(fault); 100]);
        let _workers = [inbox.worker(&script).start(), inbox.worker(&script).start()];
        let began = Instant::now();
        let job = inbox.add_new().await;
        script.until("the handler runs", |script| script.running() == 1).await;
        script.until("the handler is dropped", |script| script.running() == 0).await;
        assert!(began.elapsed() <= LEASE, "{fault:?}: dropped after its lease: {:?}", began.elapsed());
        let row = inbox.until(&job, InboxState::Done).await;
        assert_eq!((script.runs(), script.overlaps(), row.attempts), (2, 0, 2), "{fault:?}");
        assert!(
            !inbox.outcomes().iter().any(|outcome| matches!(outcome, Outcome::Retry { .. })),
            "{fault:?}"
        );
        if write_is_lost {
            assert!(began.elapsed() <= LEASE + SECOND * 4, "{fault:?}: stuck for {:?}", began.elapsed());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_whose_row_has_passed_to_another_is_dropped_and_changes_nothing() {
    let (inbox, script) = (FaultyInbox::default(), Script::new([Act::Hang]));
    let worker = inbox.worker(&script).start();
    inbox.add_new().await;
    script.until("the handler runs", |script| script.running() == 1).await;
    // As if its process had been stopped for longer than the lease: the lease ends, and another takes it.
    let ended = inbox.rows.renew(&inbox.leases()[0], Duration::ZERO).await.unwrap();
    assert_eq!(ended, Fenced::Applied);
    let other = inbox.rows.lease(1, SECOND * 60).await.unwrap().remove(0).lease;
    script.until("the handler is dropped", |script| script.running() == 0).await;
    assert_eq!(worker.shutdown(SECOND).await, 0);
    assert_eq!(inbox.calls(Call::Settle), 0, "a lost lease is not ours to settle");
    assert_eq!(inbox.rows.settle(&other, &Outcome::Done).await.unwrap(), Fenced::Applied);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_blocks_its_thread_does_not_stop_its_own_renewal() {
    let ((begun, has_begun), (go_on, gate)) = (mpsc::sync_channel(1), mpsc::sync_channel(1));
    let script = Script::new([Act::Block(begun, Arc::new(Mutex::new(gate)))]);
    let inbox = FaultyInbox::default();
    let worker = inbox.worker(&script).lease(SECOND).start();
    let job = inbox.add_new().await;
    tokio::task::spawn_blocking(move || has_begun.recv().unwrap()).await.unwrap();
    inbox.faults.until(Call::Renew, 2).await;
    go_on.send(()).unwrap();
    script.until("the handler ends", |script| script.finished() == 1).await;
    assert_eq!(worker.shutdown(SECOND * 10).await, 0);
    assert_eq!(inbox.row(&job).await.state, InboxState::Done);
    assert_eq!(script.runs(), 1);
}

/// Runs workers in one process after the other, each of which dies when the handler of one job begins, until
/// that job is dead and all others are done. Returns how many died.
fn processes_that_die(inbox: &FaultyInbox, killer: &JobId, others: &[JobId]) -> usize {
    let mut died = 0;
    loop {
        let process: Runtime =
            Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let dies = Arc::new(Notify::new());
        let handler = handler_fn({
            let (killer, dies) = (killer.clone(), dies.clone());
            move |event: WebhookEvent| {
                let (kills, dies) = (*event.job().id() == killer, dies.clone());
                async move {
                    if kills {
                        dies.notify_one();
                        std::future::pending::<()>().await;
                    }
                    sleep(Duration::from_millis(200)).await;
                    Ok(())
                }
            }
        });
        let ended = process.block_on(async {
            let worker = InboxWorker::new(inbox.clone(), handler, Verification::Trust);
            let _worker = worker.max_attempts(6).backoff(SECOND * 20, SECOND * 3600).start();
            let all_end = async {
                inbox.until(killer, InboxState::Dead).await;
                for job in others {
                    inbox.until(job, InboxState::Done).await;
                }
            };
            tokio::select! {
                () = dies.notified() => false,
                () = all_end => true,
            }
        });
        if ended {
            return died;
        }
        died += 1;
        assert!(died <= 20, "an event that kills its process is tried without end");
    }
}

#[test]
fn an_event_that_kills_its_process_is_dead_in_the_end_and_the_others_are_done() {
    let inbox = FaultyInbox::default();
    let setting_up = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let (killer, others) = setting_up.block_on(async {
        let killer = inbox.add_new().await;
        let mut others = Vec::new();
        for _ in 0..40 {
            others.push(inbox.add_new().await);
        }
        (killer, others)
    });
    assert_eq!(processes_that_die(&inbox, &killer, &others), 6, "it has six attempts");
    let row = setting_up.block_on(inbox.row(&killer));
    assert_eq!(row.error.as_deref(), Some("attempt 6 of 6 did not end"));
    let failures: Vec<_> = row.failures.iter().map(|failed| (failed.number, failed.took.is_some())).collect();
    let expected: Vec<_> = (1..=7).map(|number| (number, number == 7)).collect();
    assert_eq!(
        failures, expected,
        "the attempts whose leases expired, and the worker's judgement after the last"
    );
}

#[tokio::test(start_paused = true)]
async fn what_did_not_end_is_not_tried_again_at_once() {
    let (inbox, script) = (FaultyInbox::default(), Script::default());
    let mut jobs = Vec::new();
    for _ in 0..100 {
        jobs.push(inbox.add_new().await);
    }
    // A process that leased them all, and died.
    assert_eq!(inbox.rows.lease(100, SECOND).await.unwrap().len(), 100);
    sleep(SECOND).await;
    let began = Instant::now();
    let _worker = inbox.worker(&script).backoff(SECOND * 100, SECOND * 100).concurrency(100).start();
    script.until("the first is handled", |script| script.runs() > 0).await;
    sleep_until(began + SECOND * 50).await;
    let half = script.runs();
    assert!(
        (25..=75).contains(&half),
        "of 100 that died together, {half} were tried within half of their bound"
    );
    sleep_until(began + SECOND * 102).await;
    assert_eq!(script.finished(), 100);
    for job in &jobs {
        assert_eq!(
            inbox.row(job).await.attempts,
            2,
            "the attempt that died counts, and what was put off does not"
        );
    }
}

async fn stop(worker: &RunningWorker, grace: Duration) -> (usize, Duration) {
    let began = Instant::now();
    let dropped = worker.shutdown(grace).await;
    (dropped, began.elapsed())
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_waits_for_handlers_and_leases_nothing_more() {
    let (inbox, script) = (FaultyInbox::default(), Script::new([Act::Take(SECOND * 5)]));
    let worker = inbox.worker(&script).start();
    let first = inbox.add_new().await;
    script.until("the handler runs", |script| script.running() == 1).await;
    let (dropped, later) = tokio::join!(stop(&worker, SECOND * 10), async {
        sleep(SECOND).await;
        inbox.add_new().await
    });
    assert_eq!(dropped, (0, SECOND * 5), "how many were dropped, and after how long");
    assert_eq!(
        inbox.row(&first).await.state,
        InboxState::Done,
        "the shutdown was over before the outcome was recorded"
    );
    sleep(SECOND * 600).await;
    assert_eq!(inbox.row(&later).await.attempts, 0, "an event was leased after the shutdown");
}

#[tokio::test(start_paused = true)]
async fn after_its_grace_a_shutdown_drops_handlers_and_releases_their_events_uncounted() {
    let (inbox, script) = (FaultyInbox::default(), Script::new([Act::Hang, Act::Hang, Act::Succeed]));
    let worker = inbox.worker(&script).start();
    let jobs = [inbox.add_new().await, inbox.add_new().await];
    script.until("the handlers run", |script| script.running() == 2).await;
    assert_eq!(
        stop(&worker, SECOND * 10).await,
        (2, SECOND * 10),
        "how many were dropped, and after how long"
    );
    assert_eq!(script.running(), 0, "a handler was not dropped");
    for job in &jobs {
        let row = inbox.row(job).await;
        assert_eq!(
            (row.state, row.attempts),
            (InboxState::Received, 0),
            "an attempt that was called off counts"
        );
    }
    let began = Instant::now();
    let _next = inbox.worker(&script).start();
    script.until("the next worker handles them", |script| script.finished() == 2).await;
    assert_eq!(began.elapsed(), Duration::ZERO, "the next worker had to wait for them");
    for job in &jobs {
        assert_eq!(inbox.until(job, InboxState::Done).await.attempts, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_ends_in_time_also_while_the_store_hangs() {
    for call in [Call::Lease, Call::Renew, Call::Settle, Call::Prune, Call::Wait] {
        let (inbox, script) = (FaultyInbox::default(), Script::new([Act::Hang]));
        let worker = inbox.worker(&script).start();
        if call != Call::Lease {
            inbox.add_new().await;
            script.until("the handler runs", |script| script.running() == 1).await;
        }
        inbox.faults.fail(call, vec![Some(Fault::Hang); 100]);
        sleep(SECOND * 65).await;
        let (_, took) = stop(&worker, SECOND * 2).await;
        assert!(took <= SECOND * 3, "{call:?} hangs: the shutdown took {took:?}");
        assert_eq!(script.running(), 0, "{call:?} hangs: a handler was not dropped");
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_leased_when_the_shutdown_begins_is_released_before_it_ends() {
    let (inbox, script) = (FaultyInbox::default(), Script::default());
    let jobs = [inbox.add_new().await, inbox.add_new().await];
    let inbox = inbox.fail(Call::Lease, [Some(Fault::Slow)]).fail(Call::Settle, [Some(Fault::Slow); 2]);
    let worker = inbox.worker(&script).start();
    sleep(SECOND).await;
    assert_eq!(stop(&worker, SECOND * 10).await.0, 0, "how many were dropped");
    assert_eq!(script.runs(), 0, "a handler was started during the shutdown");
    for job in &jobs {
        let row = inbox.row(job).await;
        assert_eq!(
            (row.state, row.attempts),
            (InboxState::Received, 0),
            "leased while the shutdown began, and not given back"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_last_attempt_that_expired_does_not_run_again_when_it_is_leased_during_a_shutdown() {
    let (inbox, script) = (FaultyInbox::default(), Script::default());
    let job = inbox.add_new().await;
    // A process that died in the handler of the only attempt.
    let died = inbox.rows.lease(1, SECOND).await.unwrap().remove(0).lease;
    assert_eq!(inbox.rows.begin(&died).await.unwrap(), Fenced::Applied);
    sleep(SECOND).await;
    let inbox = inbox.fail(Call::Lease, [Some(Fault::Slow)]);
    let worker = inbox.worker(&script).max_attempts(1).start();
    sleep(SECOND).await;
    assert_eq!(stop(&worker, SECOND * 10).await.0, 0, "how many were dropped");
    let _next = inbox.worker(&script).max_attempts(1).start();
    sleep(SECOND * 60).await;
    let row = inbox.row(&job).await;
    assert_eq!((row.state, script.runs()), (InboxState::Dead, 0));
    assert_eq!(row.error.as_deref(), Some("attempt 1 of 1 did not end"));
}

#[tokio::test(start_paused = true)]
async fn under_a_raised_limit_a_last_attempt_that_expired_is_followed_by_another() {
    let (inbox, script) = (FaultyInbox::default(), Script::default());
    let job = inbox.add_new().await;
    // A process that died in the handler of the only attempt.
    let died = inbox.rows.lease(1, SECOND).await.unwrap().remove(0).lease;
    assert_eq!(inbox.rows.begin(&died).await.unwrap(), Fenced::Applied);
    sleep(SECOND).await;
    let _worker = inbox.worker(&script).max_attempts(2).start();
    let row = inbox.until(&job, InboxState::Done).await;
    assert_eq!((row.attempts, script.runs()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_worker_ends_only_by_its_shutdown() {
    let gate = Arc::new(Gate::default());
    let (inbox, script) = (FaultyInbox::default(), Script::new([Act::Wait(gate.clone()), Act::Succeed]));
    drop(inbox.worker(&script).start());
    let first = inbox.add_new().await;
    gate.begun.notified().await;
    gate.go_on.notify_one();
    inbox.until(&first, InboxState::Done).await;
    let second = inbox.add_new().await;
    inbox.until(&second, InboxState::Done).await;
    assert_eq!(inbox.rows.stats().await.unwrap().done, 2);
}

#[tokio::test(start_paused = true)]
async fn a_lease_counts_from_its_call_and_ends_a_tick_early() {
    // The lease is answered after 1.9 s, or renewed once, after 8 s.
    for (lease, renewal, held) in
        [(Some(Fault::Slow), Fault::Error, Duration::ZERO), (None, Fault::Late, SECOND * 10)]
    {
        let (inbox, script) = (FaultyInbox::default(), Script::new([Act::Hang]));
        inbox.add_new().await;
        let renewals = [Some(renewal)].into_iter().chain([Some(Fault::Error); 100]);
        let inbox = inbox.fail(Call::Lease, [lease]).fail(Call::Renew, renewals);
        let began = Instant::now();
        let _worker = inbox.worker(&script).start();
        script.until("the handler is dropped", |script| script.runs() == 1 && script.running() == 0).await;
        // A tick is a twentieth of the lease.
        let end = held + LEASE - LEASE / 20;
        let elapsed = began.elapsed();
        assert!(elapsed <= end + SECOND / 100, "{renewal:?}: dropped {:?} too late", elapsed - end);
        assert!(elapsed > held + LEASE - SECOND * 5, "{renewal:?}: dropped after {elapsed:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_over_when_its_reply_comes_runs_no_handler() {
    let inbox = FaultyInbox::default();
    let job = inbox.add_new().await;
    let fences: Arc<Mutex<Vec<u64>>> = Arc::default();
    let handler = handler_fn({
        let fences = fences.clone();
        move |event: WebhookEvent| {
            fences.lock().unwrap().push(event.job().fence());
            async { Ok(()) }
        }
    });
    let inbox = inbox.fail(Call::Lease, [Some(Fault::StandStill)]);
    let _worker = InboxWorker::new(inbox.clone(), handler, Verification::Trust).start();
    inbox.until(&job, InboxState::Done).await;
    let fences = fences.lock().unwrap().clone();
    let first = inbox.leases()[0].fence();
    assert!(fences.len() == 1 && fences[0] > first, "handled under the lease that was over: {fences:?}");
    assert!(
        !inbox.outcomes()[..inbox.outcomes().len() - 1].contains(&Outcome::Done),
        "settled without a lease"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_never_lets_go_is_ended_in_time() {
    let began = std::time::Instant::now();
    let (inbox, script) = (FaultyInbox::default(), Script::new([Act::Busy]));
    let job = inbox.add_new().await;
    let worker =
        inbox.worker(&script).max_handler_time(SECOND / 2).backoff(SECOND * 600, SECOND * 600).start();
    script.until("the handler is dropped", |script| script.runs() == 1 && script.running() == 0).await;
    inbox.until(&job, InboxState::Received).await;
    worker.shutdown(SECOND).await;

    inbox.add_new().await;
    let worker = inbox.worker(&script).start();
    script.until("the handler runs", |script| script.running() == 1).await;
    assert_eq!(worker.shutdown(Duration::ZERO).await, 1);
    assert_eq!(script.running(), 0, "the shutdown waited for the handler");

    let inbox = inbox.fail(Call::Renew, [Some(Fault::Error); 100]);
    let _worker = inbox.worker(&script).lease(SECOND).start();
    script.until("the handler loses its lease", |script| script.runs() == 3 && script.running() == 0).await;
    assert!(began.elapsed() < SECOND * 25, "it took {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_worker_does_not_start_what_it_still_runs() {
    for max_attempts in [1, 12] {
        let (inbox, script) = (FaultyInbox::default(), Script::new([Act::Hang, Act::Succeed]));
        // The first run is not told that it lost its lease, until its own clock says so.
        let inbox = inbox.fail(Call::Renew, [Some(Fault::Hang); 100]);
        let worker = inbox.worker(&script).max_attempts(max_attempts).backoff(SECOND / 100, SECOND / 100);
        let _worker = worker.start();
        let job = inbox.add_new().await;
        script.until("the handler runs", |script| script.running() == 1).await;
        // As if the store's clock were set forward.
        assert_eq!(inbox.rows.renew(&inbox.leases()[0], Duration::ZERO).await.unwrap(), Fenced::Applied);
        sleep(SECOND * 20).await;
        assert_eq!((script.runs(), script.running()), (1, 1), "a second run at once, or none");
        assert!(inbox.row(&job).await.state != InboxState::Dead, "dead while its handler runs");
        let row = inbox.until(&job, InboxState::Done).await;
        assert_eq!(
            (script.runs(), script.overlaps(), row.attempts),
            (2, 0, 2),
            "what was left alone does not count"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_whose_leases_get_lost_is_not_dead_without_a_run() {
    for lost in [5, 6, 7, 12] {
        for fault in FAULTS {
            for (act, state, error) in
                [(Act::Succeed, InboxState::Done, None), (Act::Fail, InboxState::Dead, Some("not now"))]
            {
                let (inbox, script) = (FaultyInbox::default(), Script::new([act]));
                let job = inbox.add_new().await;
                // Each lease is taken, its reply lost, and the row free after its end.
                for _ in 0..lost {
                    assert_eq!(inbox.rows.lease(1, SECOND).await.unwrap().len(), 1);
                    sleep(SECOND).await;
                }
                let inbox = inbox.fail(Call::Begin, [Some(fault)]);
                let worker = inbox.worker(&script).max_attempts(6).start();
                let row = inbox.until(&job, state).await;
                assert!(script.runs() >= 1, "{lost} lost: no handler ran");
                assert_eq!(row.error.as_deref(), error, "{lost} lost");
                worker.shutdown(SECOND).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn under_a_lower_limit_an_event_has_one_more_attempt() {
    for (act, state, error) in [
        // What is done keeps the error of the attempt before.
        (Act::Succeed, InboxState::Done, Some("not now")),
        (Act::FailPermanently, InboxState::Dead, Some("never")),
        (Act::Panic, InboxState::Dead, Some("panicked: a handler's bug")),
    ] {
        let acts = [vec![Act::Fail; 5], vec![act]].concat();
        let (inbox, script) = (FaultyInbox::default(), Script::new(acts));
        let job = inbox.add_new().await;
        let worker = inbox.worker(&script).backoff(SECOND, SECOND).start();
        script.until("five attempts", |script| script.runs() == 5 && script.running() == 0).await;
        worker.shutdown(SECOND).await;
        let _worker = inbox.worker(&script).max_attempts(3).start();
        let row = inbox.until(&job, state).await;
        assert_eq!((script.runs(), row.attempts, row.error.as_deref()), (6, 6, error));
    }
}
