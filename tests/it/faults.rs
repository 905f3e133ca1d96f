//! Stores that err, hang, panic, or lose their reply, at each call.

use std::time::Duration;

use http_body_util::BodyExt;
use qomplement_webhooks::WebhookReceiver;
use qomplement_webhooks::dedup::Claim;
use qomplement_webhooks::sender::{Payload, Report, Sender};

use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::support::{Act, Call, FAULTS, Fault, FaultyStore, Script, StandingStore, request};

fn receiver(script: &Script, store: &FaultyStore) -> WebhookReceiver {
    WebhookReceiver::builder(script.handler()).unauthenticated().dedup_store(store.clone()).build().unwrap()
}

/// Delivers one webhook on the documented schedule.
async fn deliver(script: &Script, store: &FaultyStore, payload: &Payload) -> Report {
    Sender::to_service(receiver(script, store)).deliver(payload).await
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_fails_is_answered_503_runs_nothing_and_the_next_delivery_succeeds() {
    for fault in FAULTS {
        let (script, payload) = (Script::default(), Payload::extract_completed());
        let store = FaultyStore::new().fail(Call::Claim, [Some(fault)]);
        let report = deliver(&script, &store, &payload).await;
        assert_eq!(report.statuses(), [Some(503), Some(200)], "{fault:?}");
        // A claim whose reply was lost is released: the second try does not wait for its lease to end.
        assert!(report.deliveries[1].took.is_zero(), "{fault:?}: {report:?}");
        assert_eq!((script.runs(), script.finished()), (1, 1), "{fault:?}");
        assert!(store.is_done(payload.event().unwrap().job().id()).await, "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_stays_away_runs_nothing() {
    for fault in FAULTS {
        let script = Script::default();
        let store = FaultyStore::new().fail(Call::Claim, [Some(fault); 100]);
        let report = deliver(&script, &store, &Payload::extract_completed()).await;
        assert_eq!(report.statuses(), [Some(503); 3], "{fault:?}");
        assert_eq!(script.runs(), 0, "{fault:?}: a handler ran without a claim");
    }
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_a_store_carries_out_after_everybody_left_keeps_no_later_attempt_out() {
    // The deliveries begin after 0, 5 and 15 s; a lease from 14.9 s on would outlast the third.
    let (script, payload) = (Script::default(), Payload::extract_completed());
    let store = StandingStore::new(Duration::ZERO..Duration::from_millis(14_500));
    let receiver =
        WebhookReceiver::builder(script.handler()).unauthenticated().dedup_store(store).build().unwrap();
    let report = Sender::to_service(receiver).deliver(&payload).await;
    assert_eq!(report.statuses(), [Some(503), Some(503), Some(200)], "{report:?}");
    assert_eq!(script.runs(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_fails_is_released_at_once() {
    for fault in [Fault::ReplyLost, Fault::HangAfter] {
        let (script, payload) = (Script::default(), Payload::extract_completed());
        let store = FaultyStore::new().fail(Call::Claim, [Some(fault)]);
        let receiver = receiver(&script, &store);
        assert_eq!(receiver.receive(request(&payload)).await.status(), 503, "{fault:?}");
        store.until(Call::Release, 1).await;
        let job = payload.event().unwrap().job().id().clone();
        assert_eq!(
            store.state(&job).await,
            Claim::Acquired,
            "{fault:?}: the claim is nobody's, and still there"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_fails_after_a_wait_for_another_delivery_is_released_at_once() {
    let (script, payload) =
        (Script::new([Act::FailAfter(Duration::from_millis(300))]), Payload::extract_completed());
    // The first delivery claims once, its duplicate after 0, 200 and 400 ms. The last reply is lost.
    let store = FaultyStore::new().fail(Call::Claim, [None, None, None, Some(Fault::ReplyLost)]);
    let receiver = receiver(&script, &store);
    let (first, second) =
        tokio::join!(receiver.receive(request(&payload)), receiver.receive(request(&payload)));
    assert_eq!((first.status().as_u16(), second.status().as_u16()), (503, 503));
    assert_eq!(store.calls(Call::Claim), 4);
    store.until(Call::Release, 2).await;
    let job = payload.event().unwrap().job().id().clone();
    assert_eq!(store.state(&job).await, Claim::Acquired, "the claim is nobody's, and still there");
}

#[tokio::test(start_paused = true)]
async fn a_release_that_fails_is_repeated_until_the_store_is_back() {
    let (script, payload) = (Script::new([Act::Fail]), Payload::extract_completed());
    let store = FaultyStore::new().fail(Call::Release, [Some(Fault::Error), Some(Fault::Hang)]);
    let receiver = receiver(&script, &store);
    assert_eq!(receiver.receive(request(&payload)).await.status(), 503);
    store.until(Call::Release, 3).await;
    let job = payload.event().unwrap().job().id().clone();
    assert_eq!(store.state(&job).await, Claim::Acquired);
}

#[tokio::test(start_paused = true)]
async fn a_release_that_takes_its_time_is_waited_for() {
    let payload = Payload::extract_completed();
    let job = payload.event().unwrap().job().id().clone();
    // Before the answer to a delivery whose handler failed: the next one need not wait for the claim.
    let script = Script::new([Act::Fail, Act::Succeed]);
    let store = FaultyStore::new().fail(Call::Release, [Some(Fault::Brief)]);
    let failing = receiver(&script, &store);
    assert_eq!(failing.receive(request(&payload)).await.status(), 503);
    let began = Instant::now();
    assert_eq!(failing.receive(request(&payload)).await.status(), 200);
    assert!(began.elapsed().is_zero(), "the claim was still there: {:?}", began.elapsed());
    // In the background, by a store that is always slow.
    let store = FaultyStore::new().fail(Call::Claim, [Some(Fault::ReplyLost)]);
    let store = store.fail(Call::Release, [Some(Fault::Slow); 100]);
    assert_eq!(receiver(&script, &store).receive(request(&payload)).await.status(), 503);
    store.until(Call::Release, 1).await;
    assert_eq!(store.state(&job).await, Claim::Acquired);
}

#[tokio::test(start_paused = true)]
async fn a_release_is_repeated_until_it_applied_or_for_half_a_minute() {
    let payload = Payload::extract_completed();
    let minute = Duration::from_secs(60);
    for (releases, most) in
        [(vec![], 1), (vec![Some(Fault::Error); 2], 3), (vec![Some(Fault::Error); 500], 31)]
    {
        let store = FaultyStore::new().fail(Call::Claim, [Some(Fault::ReplyLost)]);
        let store = store.fail(Call::Release, releases);
        let receiver = receiver(&Script::default(), &store);
        assert_eq!(receiver.receive(request(&payload)).await.status(), 503);
        tokio::time::sleep(minute).await;
        let calls = store.calls(Call::Release);
        assert!((most - 1..=most).contains(&calls), "{calls} instead of {most}");
        tokio::time::sleep(minute).await;
        assert_eq!(store.calls(Call::Release), calls, "it goes on");
    }
    // The release of a claim that was never in doubt.
    let store = FaultyStore::new().fail(Call::Release, [Some(Fault::Error)]);
    let receiver = receiver(&Script::new([Act::Fail]), &store);
    assert_eq!(receiver.receive(request(&payload)).await.status(), 503);
    tokio::time::sleep(minute).await;
    assert_eq!(store.calls(Call::Release), 2);
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_was_renewed_is_released_when_its_handler_failed_and_the_store_with_it() {
    let payload = Payload::extract_completed();
    let script = Script::new([Act::FailAfter(Duration::from_secs(2))]);
    let store = FaultyStore::new().fail(Call::Release, [Some(Fault::Error)]);
    assert_eq!(receiver(&script, &store).receive(request(&payload)).await.status(), 503);
    assert_eq!(store.calls(Call::Renew), 1);
    store.until(Call::Release, 2).await;
    assert_eq!(store.state(payload.event().unwrap().job().id()).await, Claim::Acquired);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_waits_for_the_release_of_an_abandoned_claim_and_no_longer() {
    let payload = Payload::extract_completed();
    let job = payload.event().unwrap().job().id().clone();
    let script = Script::default();

    // The claim is dropped by the shutdown.
    let store = FaultyStore::new().fail(Call::Claim, [Some(Fault::HangAfter)]);
    let dropping = receiver(&script, &store);
    let (dropped, request_) = (dropping.clone(), request(&payload));
    let claiming = tokio::spawn(async move { dropped.receive(request_).await.status() });
    store.until(Call::Claim, 1).await;
    dropping.shutdown(Duration::ZERO).await;
    assert_eq!(claiming.await.unwrap(), 503);
    assert_eq!(store.state(&job).await, Claim::Acquired, "the claim outlived the shutdown");

    // A store that answers that there is no such claim, and one that answers nothing.
    for (fault, longest) in [(None, Duration::ZERO), (Some(Fault::Hang), Duration::from_secs(4))] {
        let store =
            FaultyStore::new().fail(Call::Claim, [Some(Fault::Error)]).fail(Call::Release, [fault; 100]);
        let receiver = receiver(&script, &store);
        assert_eq!(receiver.receive(request(&payload)).await.status(), 503);
        let began = Instant::now();
        receiver.shutdown(Duration::from_secs(3)).await;
        assert!(began.elapsed() <= longest, "{fault:?}: the shutdown took {:?}", began.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn claims_that_fail_for_hours_pile_up_no_releases() {
    let store = FaultyStore::new();
    let receiver = receiver(&Script::default(), &store);
    let tasks = || Handle::current().metrics().num_alive_tasks();
    for round in 0..3 {
        store
            .clone()
            .fail(Call::Claim, [Some(Fault::Error); 2000])
            .fail(Call::Release, [Some(Fault::Hang); 2000]);
        for _ in 0..2000 {
            let payload = Payload::extract_completed();
            assert_eq!(receiver.receive(request(&payload)).await.status(), 503);
        }
        assert!((1000..1100).contains(&tasks()), "round {round}: {} tasks wait", tasks());
        tokio::time::sleep(Duration::from_secs(40)).await;
        assert!(tasks() < 10, "round {round}: {} releases are still tried", tasks());
    }
}

#[tokio::test(start_paused = true)]
async fn a_claim_is_waited_for_until_the_answer_is_due_and_no_longer() {
    let store = FaultyStore::new().fail(Call::Claim, [Some(Fault::Hang)]);
    let receiver = WebhookReceiver::builder(Script::default().handler())
        .unauthenticated()
        .dedup_store(store)
        .ack_deadline(Duration::from_secs(1))
        .build()
        .unwrap();
    let began = Instant::now();
    assert_eq!(receiver.receive(request(Payload::extract_completed())).await.status(), 503);
    assert_eq!(began.elapsed().as_secs(), 1, "answered after {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_whose_last_look_comes_too_late_is_answered_from_the_look_before() {
    let script = Script::new([Act::Take(Duration::from_secs(60))]);
    let slow = [None, None, Some(Fault::Slow), Some(Fault::Slow), Some(Fault::Slow)];
    let receiver = WebhookReceiver::builder(script.handler())
        .unauthenticated()
        .dedup_store(FaultyStore::new().fail(Call::Claim, slow))
        .build()
        .unwrap();
    let payload = Payload::extract_completed();
    assert_eq!(receiver.receive(request(&payload)).await.status(), 503);
    let copy = receiver.receive(request(&payload)).await.into_body().collect().await.unwrap().to_bytes();
    assert!(copy.windows(11).any(|code| code == b"in_progress"), "{copy:?}");
}

#[tokio::test(start_paused = true)]
async fn a_handled_job_is_acknowledged_and_recorded_in_the_end_when_complete_fails_at_first() {
    for fault in FAULTS {
        let (script, payload) = (Script::default(), Payload::extract_completed());
        let store = FaultyStore::new().fail(Call::Complete, [Some(fault); 2]);
        let report = deliver(&script, &store, &payload).await;
        assert_eq!(report.statuses(), [Some(200)], "{fault:?}: the work was done");
        assert!(report.deliveries[0].took <= Duration::from_millis(4500), "{fault:?}: {report:?}");
        store.until(Call::Complete, 3).await;
        assert!(store.is_done(payload.event().unwrap().job().id()).await, "{fault:?}: not recorded");
        assert_eq!(script.runs(), 1, "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn recording_is_tried_for_as_long_as_the_lease_lasts_and_no_longer() {
    let (script, payload) = (Script::default(), Payload::extract_completed());
    let store = FaultyStore::new().fail(Call::Complete, [Some(Fault::Error); 100]);
    let receiver = WebhookReceiver::builder(script.handler())
        .unauthenticated()
        .dedup_store(store.clone())
        .build()
        .unwrap();
    let sender = Sender::to_service(receiver.clone());
    let report = sender.deliver(&payload).await;
    assert_eq!(report.statuses(), [Some(200)]);
    assert!(report.deliveries[0].took.is_zero(), "the answer waited for a second call: {report:?}");
    assert_eq!(receiver.shutdown(Duration::from_secs(5)).await, 0, "the retries did not end with the lease");
    let tries = store.calls(Call::Complete);
    assert!(
        (11..=12).contains(&tries),
        "{tries} calls in 5 s with pauses of 100, 200, 400 ms, and then of 500 ms"
    );
}

#[tokio::test(start_paused = true)]
async fn a_release_that_fails_costs_no_attempt() {
    for fault in FAULTS {
        let (script, payload) = (Script::new([Act::Fail, Act::Succeed]), Payload::extract_completed());
        let store = FaultyStore::new().fail(Call::Release, [Some(fault)]);
        let report = deliver(&script, &store, &payload).await;
        assert_eq!(report.statuses(), [Some(503), Some(200)], "{fault:?}");
        assert_eq!((script.runs(), script.most_running()), (2, 1), "{fault:?}");
        assert!(store.is_done(payload.event().unwrap().job().id()).await, "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_fails_is_run_again_by_the_next_delivery_and_one_that_fails_permanently_is_not() {
    let cases = [
        (vec![Act::Fail, Act::Succeed], vec![Some(503), Some(200)]),
        (vec![Act::Panic, Act::Succeed], vec![Some(500), Some(200)]),
        (vec![Act::Fail, Act::Panic, Act::Succeed], vec![Some(503), Some(500), Some(200)]),
        (vec![Act::Fail], vec![Some(503); 3]),
        (vec![Act::FailPermanently], vec![Some(200)]),
    ];
    for (acts, statuses) in cases {
        let (script, store, payload) = (Script::new(acts), FaultyStore::new(), Payload::extract_completed());
        let report = deliver(&script, &store, &payload).await;
        assert_eq!(report.statuses(), statuses);
        assert_eq!(script.runs(), statuses.len(), "one run per delivery");
        let failed = statuses.iter().filter(|status| **status != Some(200)).count();
        assert_eq!(store.calls(Call::Release), failed, "a failure frees the job at once: {statuses:?}");
        let done = store.is_done(payload.event().unwrap().job().id()).await;
        assert_eq!(done, report.is_delivered(), "acknowledged and remembered go together");
    }
}
