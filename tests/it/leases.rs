//! Long handlers keep their claim, and lose it when it cannot be kept.

use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use qomplement_webhooks::dedup::{Claim, ClaimToken};
use qomplement_webhooks::sender::{Payload, Sender};
use qomplement_webhooks::{DedupStore, WebhookReceiver, handler_fn};
use tokio::time::Instant;

use crate::support::{Act, Call, Fault, FaultyStore, Script, StandingStore, request};

fn receiver(script: &Script, store: &FaultyStore) -> WebhookReceiver {
    WebhookReceiver::builder(script.handler()).unauthenticated().dedup_store(store.clone()).build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_handler_of_40_seconds_outlives_the_schedule_runs_once_and_is_done() {
    let script = Script::new([Act::Take(Duration::from_secs(40))]);
    let store = FaultyStore::new();
    let sender = Sender::to_service(receiver(&script, &store));
    let payload = Payload::extract_completed();
    let began = Instant::now();

    let report = sender.deliver(&payload).await;
    assert_eq!(report.statuses(), [Some(503); 3], "no delivery may be acknowledged before the handler ended");
    assert_eq!((script.runs(), script.finished()), (1, 0), "every delivery met the run of the first");

    tokio::time::sleep_until(began + Duration::from_millis(40_001)).await;
    assert_eq!((script.runs(), script.finished()), (1, 1), "the handler was not left alone");
    let store_says = store.is_done(payload.event().unwrap().job().id()).await;
    assert!(store_says, "the outcome of a handler that outlived its request was not recorded");

    let late_copy = sender.deliver(&payload).await;
    assert_eq!(late_copy.statuses(), [Some(200)]);
    assert_eq!(script.runs(), 1, "a copy of a finished job ran the handler");
    assert!(
        store.calls(Call::Renew) >= 26,
        "40 s need a renewal every 1.5 s, not {}",
        store.calls(Call::Renew)
    );
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_slow_at_every_call_keeps_the_claim_of_a_long_handler() {
    let script = Script::new([Act::Take(Duration::from_secs(30))]);
    let mut store = FaultyStore::new().fail(Call::Renew, [Some(Fault::Slow); 100]);
    store = store.fail(Call::Claim, [Some(Fault::Slow)]);
    let payload = Payload::extract_completed();
    let receiver = receiver(&script, &store);
    assert_eq!(receiver.receive(request(&payload)).await.status(), 503);
    script.until("the handler ends", |script| script.running() == 0).await;
    assert_eq!(script.finished(), 1, "the handler lost its claim to a slow store");
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_is_under_way_when_the_handler_fails_does_not_claim_the_job_again() {
    // The renewal begins at 1.5 s and writes at 3.4 s; the handler fails at 2 s.
    let script = Script::new([Act::FailAfter(Duration::from_secs(2)), Act::Succeed]);
    let store = FaultyStore::new().fail(Call::Renew, [Some(Fault::Slow)]);
    let report = Sender::to_service(receiver(&script, &store)).deliver(Payload::extract_completed()).await;
    assert_eq!(report.statuses(), [Some(503), Some(200)]);
    assert!(report.deliveries[1].took.is_zero(), "the second delivery had to wait: {report:?}");
}

#[tokio::test(start_paused = true)]
async fn a_failed_renewal_is_made_up_for() {
    let script = Script::new([Act::Take(Duration::from_secs(20))]);
    let faults = [Fault::Error, Fault::Panic, Fault::ReplyLost].map(Some);
    let store = FaultyStore::new().fail(Call::Renew, faults.into_iter().chain([None, Some(Fault::Hang)]));
    let payload = Payload::extract_completed();
    let first = tokio::spawn({
        let receiver = receiver(&script, &store);
        let payload = payload.to_bytes();
        async move { receiver.receive(request(payload)).await.status() }
    });
    assert_eq!(first.await.unwrap(), 503);
    script.until("the handler ends", |script| script.running() == 0).await;
    assert_eq!(script.finished(), 1, "the handler was dropped, although its claim could be kept");
}

#[tokio::test(start_paused = true)]
async fn a_handler_whose_claim_cannot_be_renewed_is_dropped_before_the_next_owner_begins() {
    let script = Script::new([Act::Hang, Act::Succeed]);
    let store = FaultyStore::new().fail(Call::Renew, [Some(Fault::Error); 100]);
    let payload = Payload::extract_completed();
    // Two processes on one store. The first answers before its claim ends.
    let first = WebhookReceiver::builder(script.handler()).unauthenticated().dedup_store(store.clone());
    let first = first.ack_deadline(Duration::from_secs(3)).build().unwrap();
    let second = receiver(&script, &store);
    let began = Instant::now();

    assert_eq!(first.receive(request(&payload)).await.status(), 503);
    assert_eq!(script.running(), 1, "the ack deadline is no reason to drop the handler");
    script.until("the handler is dropped", |script| script.running() == 0).await;
    assert!(
        began.elapsed() <= Duration::from_secs(5),
        "dropped after the lease ended: {:?}",
        began.elapsed()
    );

    assert_eq!(second.receive(request(&payload)).await.status(), 200);
    assert_eq!((script.runs(), script.most_running()), (2, 1), "two owners ran at once");
    assert!(
        store.is_done(payload.event().unwrap().job().id()).await,
        "the lost claim took the job from its owner"
    );
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_a_store_carries_out_after_its_handler_was_dropped_holds_nothing() {
    let script = Script::new([Act::Hang]);
    let store = StandingStore::new(Duration::from_secs(1)..Duration::from_secs(12));
    let inner = store.inner.clone();
    let receiver =
        WebhookReceiver::builder(script.handler()).unauthenticated().dedup_store(store).build().unwrap();
    let (payload, began) = (Payload::extract_completed(), Instant::now());
    assert_eq!(receiver.receive(request(&payload)).await.status(), 503);
    script.until("the handler is dropped", |script| script.running() == 0).await;
    // The renewals are carried out after 12.4 s, and each would last for a lease.
    tokio::time::sleep_until(began + Duration::from_secs(14)).await;
    let claim = ClaimToken::new(payload.event().unwrap().job().id());
    assert_eq!(inner.claim(&claim, Duration::from_secs(5)).await.unwrap(), Claim::Acquired);
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_is_carried_out_after_its_claim_was_released_holds_nothing() {
    let script = Script::new([Act::Hang]);
    let store = StandingStore::new(Duration::from_secs(1)..Duration::from_secs(8)).only_for_renewals();
    let inner = store.inner.clone();
    let receiver = WebhookReceiver::builder(script.handler()).unauthenticated().dedup_store(store);
    let (receiver, payload, began) =
        (receiver.build().unwrap(), Payload::extract_completed(), Instant::now());
    assert_eq!(receiver.receive(request(&payload)).await.status(), 503);
    script.until("the handler is dropped", |script| script.running() == 0).await;
    // The release was carried out after 4.5 s, and the renewals are after 8.4 s.
    tokio::time::sleep_until(began + Duration::from_secs(10)).await;
    let claim = ClaimToken::new(payload.event().unwrap().job().id());
    assert_eq!(inner.claim(&claim, Duration::from_secs(5)).await.unwrap(), Claim::Acquired);
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_hangs_is_ended_and_the_job_is_free() {
    let script = Script::new([Act::Hang, Act::Succeed]);
    let store = FaultyStore::new();
    let receiver = WebhookReceiver::builder(script.handler())
        .unauthenticated()
        .dedup_store(store.clone())
        .max_handler_time(Duration::from_secs(60))
        .build()
        .unwrap();
    let payload = Payload::extract_completed();
    let began = Instant::now();

    assert_eq!(receiver.receive(request(&payload)).await.status(), 503);
    tokio::time::sleep_until(began + Duration::from_millis(59_900)).await;
    assert_eq!(script.running(), 1, "ended before its time");
    tokio::time::sleep_until(began + Duration::from_millis(60_100)).await;
    assert_eq!(script.running(), 0, "not ended when its time was over");
    assert_eq!(receiver.receive(request(&payload)).await.status(), 200, "the job was not released");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_blocks_its_thread_does_not_stop_its_own_renewal() {
    let ((begun, has_begun), (go_on, gate)) = (mpsc::sync_channel(1), mpsc::sync_channel(1));
    let script = Script::new([Act::Block(begun, Arc::new(Mutex::new(gate)))]);
    let store = FaultyStore::new();
    let receiver = receiver(&script, &store);
    let payload = Payload::extract_completed();

    let blocked = tokio::spawn(async move { receiver.receive(request(&payload)).await.status() });
    tokio::task::spawn_blocking(move || has_begun.recv().unwrap()).await.unwrap();
    store.until(Call::Renew, 1).await;
    go_on.send(()).unwrap();
    assert_eq!(blocked.await.unwrap(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_claim_counts_from_its_call_and_ends_a_tick_early() {
    let script = Script::new([Act::Hang]);
    // The claim is answered after 1.9 s, and no renewal is.
    let store = FaultyStore::new().fail(Call::Claim, [Some(Fault::Slow)]);
    let store = store.fail(Call::Renew, [Some(Fault::Error); 100]);
    let began = Instant::now();
    assert_eq!(receiver(&script, &store).receive(request(Payload::extract_completed())).await.status(), 503);
    script.until("the handler is dropped", |script| script.runs() == 1 && script.running() == 0).await;
    let (held, end) = (began.elapsed(), Duration::from_millis(4500));
    assert!(held <= end + Duration::from_millis(2), "dropped {:?} too late", held - end);
}

#[tokio::test(start_paused = true)]
async fn a_renewed_claim_counts_from_the_call_of_its_renewal() {
    let script = Script::new([Act::Hang]);
    let faults = [Some(Fault::Slow)].into_iter().chain([Some(Fault::Error); 100]);
    let store = FaultyStore::new().fail(Call::Renew, faults);
    let began = Instant::now();
    assert_eq!(receiver(&script, &store).receive(request(Payload::extract_completed())).await.status(), 503);
    script.until("the handler is dropped", |script| script.running() == 0).await;
    // The renewal is called after 1.5 s at the latest.
    let (held, end) = (began.elapsed(), Duration::from_millis(1500 + 4500));
    assert!(held <= end + Duration::from_millis(5), "dropped {:?} too late", held - end);
    assert!(held >= Duration::from_millis(4600), "the renewal had no effect: {held:?}");
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_is_over_when_its_reply_comes_runs_no_handler() {
    let script = Script::default();
    let store = FaultyStore::new().fail(Call::Claim, [Some(Fault::StandStill)]);
    let (receiver, payload) = (receiver(&script, &store), Payload::extract_completed());
    assert_eq!(receiver.receive(request(&payload)).await.status(), 503);
    assert_eq!(script.runs(), 0, "a handler began under a claim that was over");
    assert_eq!(receiver.receive(request(&payload)).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_never_lets_go_is_answered_and_ended_in_time() {
    let began = std::time::Instant::now();
    let time = Duration::from_millis(300);
    let receiver = |script: &Script, store: &FaultyStore, handler_time| {
        WebhookReceiver::builder(script.handler())
            .unauthenticated()
            .dedup_store(store.clone())
            .ack_deadline(time)
            .max_handler_time(handler_time)
            .build()
            .unwrap()
    };
    let day = Duration::from_secs(24 * 60 * 60);

    let (script, store) = (Script::new([Act::Busy]), FaultyStore::new());
    let payload = Payload::extract_completed();
    let by_time = receiver(&script, &store, time * 2);
    assert_eq!(by_time.receive(request(&payload)).await.status(), 503, "the answer waited for the handler");
    script.until("the handler is dropped", |script| script.running() == 0).await;

    let by_shutdown = receiver(&script, &store, day);
    store.until(Call::Release, 1).await;
    assert_eq!(by_shutdown.receive(request(&payload)).await.status(), 503);
    assert_eq!((script.runs(), script.running()), (2, 1));
    assert_eq!(by_shutdown.shutdown(Duration::ZERO).await, 1);
    assert_eq!(script.running(), 0, "the shutdown waited for the handler");

    let lost = FaultyStore::new().fail(Call::Renew, [Some(Fault::Error); 100]);
    let by_lease = receiver(&script, &lost, day);
    assert_eq!(by_lease.receive(request(&payload)).await.status(), 503);
    script.until("the handler loses its claim", |script| script.running() == 0).await;

    let script = Script::default();
    let busy = FaultyStore::new().fail(Call::Claim, [Some(Fault::Busy)]);
    assert_eq!(receiver(&script, &busy, day).receive(request(&payload)).await.status(), 503);
    assert_eq!(script.runs(), 0);
    assert!(began.elapsed() < Duration::from_secs(25), "it took {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_handler_is_gone_before_its_claim_is_released() {
    let second = Duration::from_secs(1);
    for (shutdown, renewal) in
        [(false, None), (false, Some(Fault::Hang)), (true, None), (true, Some(Fault::Hang))]
    {
        let script = Script::new([Act::Hang]);
        // A release that is never answered, and a renewal that is waited for before it.
        let store = FaultyStore::new().fail(Call::Release, [Some(Fault::Hang)]).fail(Call::Renew, [renewal]);
        let builder = WebhookReceiver::builder(script.handler()).unauthenticated().dedup_store(store.clone());
        let time = if shutdown { second * 600 } else { second * 2 };
        let receiver = builder.ack_deadline(second).max_handler_time(time).build().unwrap();
        let began = Instant::now();
        assert_eq!(receiver.receive(request(Payload::extract_completed())).await.status(), 503);
        tokio::time::sleep_until(began + Duration::from_millis(1900)).await;
        assert_eq!(script.running(), 1);
        if shutdown {
            receiver.shutdown(Duration::ZERO).await;
        }
        tokio::time::sleep_until(began + Duration::from_millis(2010)).await;
        assert_eq!(script.running(), 0, "it lives while its claim is released: {shutdown} {renewal:?}");
        store.until(Call::Release, 1).await;
    }
}

/// Panics when it is dropped.
struct PanicsAtDrop;

impl Drop for PanicsAtDrop {
    fn drop(&mut self) {
        panic!("a handler's bug at its end");
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_panics_while_it_is_dropped_leaves_no_claim() {
    let store = FaultyStore::new();
    let calls = Arc::new(Mutex::new(0));
    let handler = handler_fn({
        let calls = calls.clone();
        move |_| {
            *calls.lock().unwrap() += 1;
            let first = *calls.lock().unwrap() == 1;
            async move {
                if first {
                    let _panics = PanicsAtDrop;
                    std::future::pending::<()>().await;
                }
                Ok(())
            }
        }
    });
    let builder = WebhookReceiver::builder(handler).unauthenticated().dedup_store(store.clone());
    let receiver = builder.max_handler_time(Duration::from_secs(2)).build().unwrap();
    let payload = Payload::extract_completed();
    assert_eq!(receiver.receive(request(&payload)).await.status(), 503);
    assert_eq!(store.calls(Call::Release), 1, "the claim was not released");
    assert_eq!(receiver.receive(request(&payload)).await.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_the_store_gives_twice_runs_one_handler_at_once() {
    let script = Script::new([Act::Hang, Act::Succeed]);
    let faults = [None].into_iter().chain([Some(Fault::Hang); 100]);
    let store = FaultyStore::new().fail(Call::Renew, faults);
    let (receiver, payload) = (receiver(&script, &store), Payload::extract_completed());
    let first = tokio::spawn({
        let (receiver, payload) = (receiver.clone(), payload.to_bytes());
        async move { receiver.receive(request(payload)).await.status() }
    });
    store.until(Call::Renew, 1).await;
    store.end_renewed_claim().await;
    assert_eq!(receiver.receive(request(&payload)).await.status(), 503);
    assert_eq!(script.runs(), 1, "two runs of one job at once");
    // The second claim outlasts the first run, or another process would run the job beside it.
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(script.running(), 1);
    let job = payload.event().unwrap().job().id().clone();
    assert!(matches!(store.state(&job).await, Claim::InProgress { .. }), "free while its handler runs");
    assert_eq!(first.await.unwrap(), 503);
    script.until("the first run is dropped", |script| script.running() == 0).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(receiver.receive(request(&payload)).await.status(), 200);
}
