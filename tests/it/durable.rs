//! A receiver that stores before it answers.

use std::sync::Arc;
use std::time::Duration;

use qomplement_webhooks::inbox::InboxState;
use qomplement_webhooks::receiver::{BuildError, WebhookReceiverBuilder};
use qomplement_webhooks::registry::MemoryJobRegistry;
use qomplement_webhooks::sender::{Payload, Sender};
use qomplement_webhooks::worker::RunningWorker;
use qomplement_webhooks::{InboxStore, MemoryDedupStore, SharedToken, WebhookReceiver};
use tokio::time::{Instant, sleep};

use crate::answers::{body, expected};
use crate::support::http::post;
use crate::support::inboxes::{FaultyInbox, other_bytes};
use crate::support::servers::{Framework, Server};
use crate::support::{Act, Call, FAULTS, Fault, Gate, Script, TOKEN, request};

const SECOND: Duration = Duration::from_secs(1);

fn receiver(inbox: &FaultyInbox) -> WebhookReceiver {
    WebhookReceiver::durable(inbox.clone()).unauthenticated().build().unwrap()
}

fn running(inbox: &FaultyInbox, script: &Script) -> (WebhookReceiver, RunningWorker) {
    (receiver(inbox), inbox.worker(script).start())
}

async fn status(receiver: &WebhookReceiver, body: impl Into<bytes::Bytes>) -> u16 {
    receiver.receive(request(body)).await.status().as_u16()
}

#[tokio::test(start_paused = true)]
async fn an_event_is_acknowledged_when_it_is_committed_and_not_before() {
    let (inbox, payload) =
        (FaultyInbox::default().fail(Call::Receive, [Some(Fault::Slow)]), Payload::extract_completed());
    let (receiver, job) = (receiver(&inbox), payload.event().unwrap().job().id().clone());
    let answer = tokio::spawn({
        let payload = payload.to_bytes();
        async move { status(&receiver, payload).await }
    });
    sleep(Duration::from_millis(1800)).await;
    assert!(!answer.is_finished(), "it was answered before it was committed");
    assert_eq!(answer.await.unwrap(), 200);
    assert!(inbox.contains(&job).await.unwrap(), "it was acknowledged, and is not stored");
}

#[tokio::test(start_paused = true)]
async fn without_a_worker_everything_is_acknowledged_and_waits() {
    let inbox = FaultyInbox::default();
    let (receiver, payload) = (receiver(&inbox), Payload::extract_completed());
    assert_eq!(status(&receiver, &payload).await, 200);
    let row = inbox.row(payload.event().unwrap().job().id()).await;
    assert_eq!((row.state, row.attempts), (InboxState::Received, 0));
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_fails_is_answered_503_and_the_next_delivery_is_handled_once() {
    for fault in FAULTS {
        for times in [1, 2] {
            let (script, payload) = (Script::default(), Payload::extract_completed());
            let inbox = FaultyInbox::default().fail(Call::Receive, vec![Some(fault); times]);
            let (receiver, _worker) = running(&inbox, &script);
            let report = Sender::to_service(receiver).deliver(&payload).await;
            let mut statuses = vec![Some(503); times];
            statuses.push(Some(200));
            assert_eq!(report.statuses(), statuses, "{fault:?}");
            for delivery in &report.deliveries {
                assert!(delivery.took <= Duration::from_millis(4500), "{fault:?}: {report:?}");
            }
            inbox.until(payload.event().unwrap().job().id(), InboxState::Done).await;
            assert_eq!((script.runs(), script.finished()), (1, 1), "{fault:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_stays_away_acknowledges_nothing() {
    for fault in [Fault::Error, Fault::Hang, Fault::Panic] {
        let inbox = FaultyInbox::default().fail(Call::Receive, vec![Some(fault); 10]);
        let report = Sender::to_service(receiver(&inbox)).deliver(Payload::extract_completed()).await;
        assert_eq!(report.statuses(), [Some(503); 3], "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_commit_goes_on_after_its_deadline_and_the_next_duplicate_is_acknowledged() {
    let (script, payload) = (Script::default(), Payload::extract_completed());
    let inbox = FaultyInbox::default().fail(Call::Receive, [Some(Fault::Late)]);
    let (receiver, _worker) = running(&inbox, &script);
    let began = Instant::now();
    assert_eq!(status(&receiver, &payload).await, 503);
    assert_eq!(began.elapsed(), Duration::from_millis(4500), "when it was answered");
    inbox.faults.until(Call::Receive, 1).await;
    let job = payload.event().unwrap().job().id().clone();
    assert!(inbox.contains(&job).await.unwrap(), "the commit ended with its request");
    assert_eq!(status(&receiver, &payload).await, 200);
    inbox.until(&job, InboxState::Done).await;
    assert_eq!(script.runs(), 1, "a late commit and its copy were both handled");
}

#[tokio::test(start_paused = true)]
async fn a_commit_goes_on_when_the_client_leaves() {
    let (inbox, payload) =
        (FaultyInbox::default().fail(Call::Receive, [Some(Fault::Slow)]), Payload::extract_completed());
    let receiver = receiver(&inbox);
    let left = tokio::time::timeout(SECOND, receiver.receive(request(&payload))).await;
    assert!(left.is_err(), "the client waited for its answer");
    assert_eq!(receiver.shutdown(SECOND * 10).await, 0, "the shutdown did not wait for the commit");
    assert!(
        inbox.contains(payload.event().unwrap().job().id()).await.unwrap(),
        "the commit ended with its client"
    );
    assert_eq!(status(&receiver, Payload::extract_completed()).await, 503, "after the shutdown");
}

#[tokio::test(start_paused = true)]
async fn duplicates_are_acknowledged_and_their_event_is_handled_once_in_every_state() {
    for act in [Act::Succeed, Act::Fail, Act::FailPermanently, Act::Panic, Act::Take(SECOND * 60)] {
        let inbox = FaultyInbox::default();
        let script = Script::new([act]);
        let (receiver, worker) = running(&inbox, &script);
        let payload = Payload::extract_completed();
        for copy in 0..5 {
            assert_eq!(status(&receiver, &payload).await, 200, "copy {copy}");
            assert_eq!(status(&receiver, other_bytes(&payload)).await, 200, "copy {copy}, with other bytes");
        }
        script.until("the handler runs", |script| script.runs() > 0).await;
        worker.shutdown(SECOND * 120).await;
        assert_eq!(script.runs(), 1, "copies were handled");
        let row = inbox.row(payload.event().unwrap().job().id()).await;
        assert_eq!(row.attempts, 1, "copies were attempted");
    }
}

#[tokio::test(start_paused = true)]
async fn a_status_that_nobody_knows_is_stored_and_handled_as_unrecognized() {
    let inbox = FaultyInbox::default();
    let script = Script::default();
    let (receiver, _worker) = running(&inbox, &script);
    for odd in [
        Payload::extract_completed().set("/data/type", "summarize"),
        Payload::extract_completed().set("/data/status", "processing"),
        Payload::extract_completed().set("/data/result", "unreadable"),
    ] {
        assert_eq!(status(&receiver, &odd).await, 200, "{odd:?}");
        inbox.until(odd.event().unwrap().job().id(), InboxState::Done).await;
    }
    assert_eq!(script.finished(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_completed_webhook_is_handled_wherever_one_before_it_stands() {
    let act = |before| match before {
        "is running" => vec![Act::Hang, Act::Succeed],
        "is nearly done" => vec![Act::Take(SECOND * 5), Act::Succeed],
        "waits to be tried again" => vec![Act::Fail, Act::Succeed],
        "is dead" => vec![Act::FailPermanently, Act::Succeed],
        _ => vec![Act::Succeed],
    };
    for before in [
        "is expected",
        "is received",
        "is running",
        "is nearly done",
        "waits to be tried again",
        "is dead",
        "is done",
    ] {
        let (inbox, script) = (FaultyInbox::default(), Script::new(act(before)));
        let completed = Payload::extract_completed();
        let processing = completed.clone().set("/data/status", "processing");
        let job = completed.event().unwrap().job().id().clone();
        let receiver = receiver(&inbox);
        let worker = || inbox.worker(&script).backoff(SECOND * 600, SECOND * 600).start();
        if before == "is expected" {
            inbox.expect(&job, SECOND * 60).await.unwrap();
        } else {
            assert_eq!(status(&receiver, &processing).await, 200, "{before}");
        }
        let early = (!["is expected", "is received"].contains(&before)).then(worker);
        match before {
            "is running" | "is nearly done" | "waits to be tried again" => {
                script.until("it runs", |script| script.runs() == 1).await;
            }
            "is dead" => drop(inbox.until(&job, InboxState::Dead).await),
            "is done" => drop(inbox.until(&job, InboxState::Done).await),
            _ => {}
        }
        let runs = script.runs();
        assert_eq!(status(&receiver, &completed).await, 200, "{before}");
        let _late = early.is_none().then(worker);
        loop {
            let row = inbox.until(&job, InboxState::Done).await;
            if row.status.as_deref() == Some("completed") {
                assert_eq!(row.attempts, 1, "{before}: attempts at the new event");
                break;
            }
            sleep(SECOND).await;
        }
        assert_eq!(
            script.runs(),
            runs + 1,
            "{before}: the completed webhook was handled more or less than once"
        );
        assert_eq!(script.overlaps(), 0, "{before}: both were handled at once");
        assert_eq!(status(&receiver, &completed).await, 200, "{before}");
        assert_eq!(status(&receiver, &processing).await, 200, "{before}");
        sleep(SECOND * 1200).await;
        assert_eq!(script.runs(), runs + 1, "{before}: a copy was handled");
    }
}

#[tokio::test(start_paused = true)]
async fn the_known_jobs_may_be_those_of_the_inbox() {
    let (inbox, payload) = (FaultyInbox::default(), Payload::extract_completed());
    let receiver = WebhookReceiver::durable(inbox.clone())
        .unauthenticated()
        .known_jobs(inbox.rows.clone())
        .build()
        .unwrap();
    let job = payload.event().unwrap().job().id().clone();
    assert_eq!(status(&receiver, &payload).await, 404);
    assert_eq!(inbox.calls(Call::Receive), 0, "an unknown job was stored");
    inbox.expect(&job, SECOND * 60).await.unwrap();
    assert_eq!(status(&receiver, &payload).await, 200);
    assert_eq!(inbox.row(&job).await.state, InboxState::Received);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_of_both_loses_nothing() {
    let gate = Arc::new(Gate::default());
    let (inbox, script) = (FaultyInbox::default(), Script::new([Act::Wait(gate.clone())]));
    let (receiver, worker) = running(&inbox, &script);
    let payload = Payload::extract_completed();
    assert_eq!(status(&receiver, &payload).await, 200);
    gate.begun.notified().await;
    assert_eq!(receiver.shutdown(SECOND * 5).await, 0);
    assert_eq!(status(&receiver, Payload::extract_completed()).await, 503);
    let (dropped, ()) = tokio::join!(worker.shutdown(SECOND * 5), async { gate.go_on.notify_one() });
    assert_eq!(dropped, 0);
    assert_eq!(inbox.row(payload.event().unwrap().job().id()).await.state, InboxState::Done);
}

#[test]
fn what_says_how_handlers_run_is_refused_by_a_receiver_that_runs_none() {
    type Setting = fn(WebhookReceiverBuilder) -> WebhookReceiverBuilder;
    let builder = || WebhookReceiver::durable(FaultyInbox::default()).unauthenticated();
    let inline_only: [(&str, &str, Setting); 4] = [
        ("dedup_store", "leave it out", |builder| builder.dedup_store(MemoryDedupStore::new())),
        ("max_handlers_in_flight", "`InboxWorker::concurrency`", |builder| builder.max_handlers_in_flight(1)),
        ("retention", "`InboxWorker::retention`", |builder| builder.retention(Duration::from_secs(60))),
        ("max_handler_time", "`InboxWorker::max_handler_time`", |builder| {
            builder.max_handler_time(Duration::from_secs(60))
        }),
    ];
    for (name, advice, set) in inline_only {
        let refused = set(builder()).build().unwrap_err();
        assert_eq!(refused, BuildError::InlineOnly(name));
        let text = refused.to_string();
        assert!(text.starts_with(&format!("`{name}` ")) && text.contains(advice), "{text}");
    }
    let settings: [Setting; 4] = [
        |builder| builder.ack_deadline(Duration::from_secs(3)),
        |builder| builder.max_body_bytes(1000),
        |builder| builder.max_body_bytes_in_flight(32 << 20),
        |builder| builder.known_jobs(MemoryJobRegistry::new()),
    ];
    for set in settings {
        assert!(set(builder()).build().is_ok(), "a setting of every receiver was refused");
    }
    let nobody = WebhookReceiver::durable(FaultyInbox::default()).build().unwrap_err();
    assert_eq!(nobody, BuildError::NoAuthentication);
}

#[tokio::test]
async fn over_http_each_outcome_of_a_commit_has_its_answer() {
    for framework in Framework::ALL {
        eprintln!("{framework:?}");
        let inbox = FaultyInbox::default().fail(Call::Receive, FAULTS.map(Some));
        let receiver = WebhookReceiver::durable(inbox.clone())
            .token(SharedToken::new(TOKEN).unwrap())
            .ack_deadline(Duration::from_millis(300))
            .build()
            .unwrap();
        let server = Server::start(framework, receiver.clone()).await;
        for fault in FAULTS {
            let reply = post(body()).send(server.address).await;
            assert_eq!(reply, expected(503, "unavailable", true), "{fault:?}");
        }
        let payload = Payload::extract_completed();
        for what in ["stored", "a duplicate"] {
            let reply = post(payload.to_bytes()).send(server.address).await;
            assert_eq!(reply, expected(200, "", true), "{what}");
        }
        let reply = post(other_bytes(&payload)).send(server.address).await;
        assert_eq!(reply, expected(200, "", true), "other bytes");
        let odd = Payload::extract_completed().set("/data/status", "processing").to_bytes();
        assert_eq!(post(odd).send(server.address).await, expected(200, "", true), "an unknown status");
        assert_eq!(receiver.shutdown(SECOND).await, 2, "the two commits that hang");
        let reply = post(body()).send(server.address).await;
        assert_eq!(reply, expected(503, "unavailable", false), "it is shutting down");
    }
}
