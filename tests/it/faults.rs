//! Stores that err, hang, panic, or lose their reply, at each call.

use std::time::Duration;

use http_body_util::BodyExt;
use qomplement_webhooks::WebhookReceiver;
use qomplement_webhooks::sender::{Delivery, Payload, Sender};

use crate::support::{Act, Call, FAULTS, Fault, FaultyStore, Script, request};

/// Delivers one webhook on the documented schedule.
async fn deliver(script: &Script, store: &FaultyStore, payload: &Payload) -> Delivery {
    let receiver = WebhookReceiver::builder(script.handler())
        .unauthenticated()
        .dedup_store(store.clone())
        .build()
        .unwrap();
    Sender::to_service(receiver).deliver(payload).await
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_fails_is_answered_503_runs_nothing_and_the_next_try_succeeds() {
    for fault in FAULTS {
        let (script, payload) = (Script::default(), Payload::extract_completed());
        let store = FaultyStore::new().fail(Call::Claim, [Some(fault)]);
        let delivery = deliver(&script, &store, &payload).await;
        // A claim whose reply was lost holds until its lease ends, which the second try waits for.
        assert_eq!(delivery.statuses(), [Some(503), Some(200)], "{fault:?}");
        assert_eq!((script.runs(), script.finished()), (1, 1), "{fault:?}");
        assert!(store.is_done(payload.event().unwrap().job().id()).await, "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_stays_away_runs_nothing() {
    for fault in FAULTS {
        let script = Script::default();
        let store = FaultyStore::new().fail(Call::Claim, [Some(fault); 100]);
        let delivery = deliver(&script, &store, &Payload::extract_completed()).await;
        assert_eq!(delivery.statuses(), [Some(503); 3], "{fault:?}");
        assert_eq!(script.runs(), 0, "{fault:?}: a handler ran without a claim");
    }
}

#[tokio::test(start_paused = true)]
async fn a_copy_whose_last_look_comes_too_late_is_told_what_the_looks_before_saw() {
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
        let delivery = deliver(&script, &store, &payload).await;
        assert_eq!(delivery.statuses(), [Some(200)], "{fault:?}: the work was done");
        assert!(delivery.attempts[0].took <= Duration::from_millis(4500), "{fault:?}: {delivery:?}");
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
    assert_eq!(sender.deliver(&payload).await.statuses(), [Some(200)]);
    assert_eq!(receiver.shutdown(Duration::from_secs(5)).await, 0, "the retries did not end with the lease");
    let tries = store.calls(Call::Complete);
    assert!((4..=8).contains(&tries), "100 ms doubling fits five or six times into 5 s, not {tries}");
}

#[tokio::test(start_paused = true)]
async fn a_release_that_fails_costs_the_rest_of_the_lease_and_nothing_else() {
    for fault in FAULTS {
        let (script, payload) = (Script::new([Act::Fail, Act::Succeed]), Payload::extract_completed());
        let store = FaultyStore::new().fail(Call::Release, [Some(fault)]);
        let delivery = deliver(&script, &store, &payload).await;
        assert_eq!(delivery.statuses(), [Some(503), Some(200)], "{fault:?}");
        assert_eq!((script.runs(), script.most_running()), (2, 1), "{fault:?}");
        assert!(store.is_done(payload.event().unwrap().job().id()).await, "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_fails_is_run_again_by_the_next_try_and_one_that_fails_for_good_is_not() {
    let cases = [
        (vec![Act::Fail, Act::Succeed], vec![Some(503), Some(200)]),
        (vec![Act::Panic, Act::Succeed], vec![Some(500), Some(200)]),
        (vec![Act::Fail, Act::Panic, Act::Succeed], vec![Some(503), Some(500), Some(200)]),
        (vec![Act::Fail], vec![Some(503); 3]),
        (vec![Act::FailForGood], vec![Some(200)]),
    ];
    for (acts, statuses) in cases {
        let (script, store, payload) = (Script::new(acts), FaultyStore::new(), Payload::extract_completed());
        let delivery = deliver(&script, &store, &payload).await;
        assert_eq!(delivery.statuses(), statuses);
        assert_eq!(script.runs(), statuses.len(), "one run per attempt");
        let failed = statuses.iter().filter(|status| **status != Some(200)).count();
        assert_eq!(store.calls(Call::Release), failed, "a failure frees the job at once: {statuses:?}");
        let done = store.is_done(payload.event().unwrap().job().id()).await;
        assert_eq!(done, delivery.is_delivered(), "acknowledged and remembered go together");
    }
}
