//! Stopping with work under way.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use qomplement_webhooks::sender::{Payload, Sender};
use qomplement_webhooks::{BoxError, JobId, MemoryDedupStore, WebhookReceiver};
use tokio::time::Instant;

use crate::support::servers::{Framework, Server};
use crate::support::{Act, Call, Fault, FaultyStore, Gate, Script, request};

fn receiver(script: &Script, store: &Arc<MemoryDedupStore>) -> WebhookReceiver {
    WebhookReceiver::builder(script.handler()).unauthenticated().dedup_store(store.clone()).build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_waits_for_handlers_and_refuses_new_webhooks() {
    let gate = Arc::new(Gate::default());
    let (script, store) = (Script::new([Act::Wait(gate.clone())]), Arc::default());
    let receiver = receiver(&script, &store);
    let under_way = tokio::spawn({
        let receiver = receiver.clone();
        async move { receiver.receive(request(Payload::extract_completed())).await.status() }
    });
    gate.begun.notified().await;

    let shutdown = tokio::spawn({
        let receiver = receiver.clone();
        async move { receiver.shutdown(Duration::from_secs(60)).await }
    });
    tokio::task::yield_now().await;
    let refused = receiver.receive(request(Payload::extract_completed())).await;
    assert_eq!(script.runs(), 1, "a webhook was let in during the shutdown");
    assert_eq!(refused.status(), 503);
    assert_eq!(refused.headers()["retry-after"], "5");
    assert!(!shutdown.is_finished(), "the shutdown did not wait");

    gate.go_on.notify_one();
    assert_eq!(under_way.await.unwrap(), 200);
    assert_eq!(shutdown.await.unwrap(), 0);
    assert_eq!(script.finished(), 1);
}

#[tokio::test(start_paused = true)]
async fn work_that_has_outlived_its_request_is_waited_for() {
    let script = Script::new([Act::Take(Duration::from_secs(20))]);
    let receiver = receiver(&script, &Arc::default());
    let began = Instant::now();
    assert_eq!(receiver.receive(request(Payload::extract_completed())).await.status(), 503);
    assert_eq!(receiver.shutdown(Duration::from_secs(60)).await, 0);
    assert_eq!(script.finished(), 1, "the handler was not waited for");
    assert_eq!(began.elapsed().as_secs(), 20, "the shutdown took longer than the work");
}

#[tokio::test(start_paused = true)]
async fn what_does_not_end_in_time_is_dropped_and_its_job_is_free_at_once() {
    let (script, store) = (Script::new([Act::Hang, Act::Hang, Act::Succeed]), Arc::default());
    let stopping = receiver(&script, &store);
    let payload = Payload::extract_completed();
    assert_eq!(stopping.receive(request(&payload)).await.status(), 503);
    // A second one, whose client still waits, and a copy that waits for it.
    let other = Payload::extract_completed();
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let (stopping, other) = (stopping.clone(), other.to_bytes());
            tokio::spawn(async move { stopping.receive(request(other)).await.status() })
        })
        .collect();
    script.until("the second handler runs", |script| script.running() == 2).await;

    let began = Instant::now();
    assert_eq!(stopping.shutdown(Duration::from_secs(2)).await, 3, "two handlers and a waiting copy");
    assert_eq!(began.elapsed().as_secs(), 2, "nothing had to be waited for after the grace");
    assert_eq!(script.running(), 0, "a handler was not dropped");
    for waiting in waiting {
        assert_eq!(waiting.await.unwrap(), 503, "a client was left without an answer");
    }

    // Another process: the claims are released, not left to their leases.
    let next = receiver(&script, &store);
    assert_eq!(next.receive(request(&payload)).await.status(), 200);
    assert_eq!(next.receive(request(&other)).await.status(), 200);
    assert_eq!(began.elapsed().as_secs(), 2, "the next process had to wait for a lease");
}

/// A body whose bytes come when they may.
struct Slow(tokio::sync::oneshot::Receiver<Bytes>);

impl http_body::Body for Slow {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.0.is_terminated() {
            return Poll::Ready(None);
        }
        Pin::new(&mut self.0).poll(context).map(|bytes| Some(Ok(Frame::data(bytes.unwrap()))))
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_comes_after_the_shutdown_is_not_handled() {
    let (script, store) = (Script::default(), Arc::default());
    let stopping = receiver(&script, &store);
    let (bytes, body) = tokio::sync::oneshot::channel();
    let request =
        http::Request::post("/").header("content-type", "application/json").body(Slow(body)).unwrap();
    let mut reading = Box::pin(stopping.receive(request));
    assert!(tokio::time::timeout(Duration::from_millis(100), &mut reading).await.is_err());
    // Nobody polls the request while its server stops.
    assert_eq!(stopping.shutdown(Duration::from_secs(1)).await, 1);
    bytes.send(Payload::extract_completed().to_bytes()).unwrap();
    assert_eq!(reading.await.status(), 503);
    assert_eq!(script.runs(), 0, "a handler began after the shutdown");
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_body_a_registry_or_a_claim_ends_with_the_shutdown() {
    for waits_for in ["a body", "a registry", "a claim"] {
        let script = Script::default();
        let store = FaultyStore::new().fail(Call::Claim, [Some(Fault::Hang)]);
        let mut builder = WebhookReceiver::builder(script.handler()).unauthenticated().dedup_store(store);
        if waits_for == "a registry" {
            builder = builder.known_jobs(|_: JobId| std::future::pending::<Result<bool, BoxError>>());
        }
        let stopping = builder.build().unwrap();
        let (_bytes, body) = tokio::sync::oneshot::channel();
        let waiting = tokio::spawn({
            let stopping = stopping.clone();
            async move {
                match waits_for {
                    "a body" => stopping.receive(http::Request::post("/").body(Slow(body)).unwrap()).await,
                    _ => stopping.receive(request(Payload::extract_completed())).await,
                }
            }
        });
        tokio::time::sleep(Duration::from_millis(100)).await;
        let began = Instant::now();
        assert_eq!(stopping.shutdown(Duration::ZERO).await, 1, "{waits_for}");
        assert!(began.elapsed() < Duration::from_millis(10), "{waits_for}: {:?}", began.elapsed());
        assert_eq!(waiting.await.unwrap().status(), 503, "{waits_for}");
        // What still comes of a body is discarded for a second.
        assert!(began.elapsed() <= Duration::from_millis(1010), "{waits_for}: {:?}", began.elapsed());
        assert_eq!(script.runs(), 0, "{waits_for}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_stops_under_load_without_losing_an_acknowledged_webhook() {
    for framework in Framework::ALL {
        stop_under_load(framework).await;
    }
}

async fn stop_under_load(framework: Framework) {
    let (script, store) = (Script::default(), Arc::default());
    let receiver = receiver(&script, &store);
    let server = Server::start(framework, receiver.clone()).await;
    let sender = Sender::to_url(server.url()).unwrap().retry_delays([]);
    let senders: Vec<_> = (0..16)
        .map(|_| {
            let sender = sender.clone();
            tokio::spawn(async move {
                let mut acknowledged = 0;
                while sender.deliver(Payload::extract_completed()).await.is_delivered() {
                    acknowledged += 1;
                }
                acknowledged
            })
        })
        .collect();
    script.until("some load", |script| script.finished() > 200).await;
    assert_eq!(receiver.shutdown(Duration::from_secs(5)).await, 0);
    let finished = script.finished();
    let mut acknowledged = 0;
    for sender in senders {
        let refused = tokio::time::timeout(Duration::from_secs(30), sender).await;
        acknowledged += refused.expect("webhooks are acknowledged after the shutdown").unwrap();
    }
    assert_eq!(script.finished(), finished, "a handler ran after the shutdown");
    assert_eq!(acknowledged, finished, "acknowledged and handled are not the same");
}
