//! Many copies of one webhook, and clients that leave.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};
use qomplement_webhooks::dedup::{Claim, ClaimToken};
use qomplement_webhooks::registry::MemoryJobRegistry;
use qomplement_webhooks::sender::{Payload, Sender};
use qomplement_webhooks::store::{Fenced, StoreError};
use qomplement_webhooks::{
    DedupStore, HandlerError, JobId, MemoryDedupStore, WebhookEvent, WebhookReceiver, async_trait, handler_fn,
};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, yield_now};
use tokio::time::Instant;

use crate::support::servers::{Framework, Server};
use crate::support::{Act, Gate, PATH, Script, request};

fn receiver(script: &Script) -> WebhookReceiver {
    WebhookReceiver::builder(script.handler()).unauthenticated().build().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_64_duplicates_at_once_one_runs_the_handler() {
    let script = Script::default();
    let server = Server::start(Framework::Axum, receiver(&script)).await;
    let sender = Sender::to_url(server.url()).unwrap();
    for round in 1..=20 {
        let reports = sender.deliver_at_once(Payload::extract_completed(), 64).await;
        for report in &reports {
            assert_eq!(report.statuses(), [Some(200)], "round {round}: {report:?}");
        }
        assert_eq!(
            script.runs(),
            round,
            "the copies of round {round} ran the handler more or less than once"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn duplicates_wait_and_one_takes_over_when_the_first_fails() {
    let gate = Arc::new(Gate::default());
    // Both runs of the script succeed; the handler around it makes a failure of the first.
    let script = Script::new([Act::Wait(gate.clone()), Act::Succeed]);
    let failing = handler_fn({
        let (script, first) = (script.clone(), Arc::new(AtomicBool::new(true)));
        let handler = Arc::new(script.handler());
        move |event: WebhookEvent| {
            let (handler, fails) = (handler.clone(), first.swap(false, Ordering::SeqCst));
            async move {
                let WebhookEvent::ExtractCompleted { job, result } = event else { panic!("another event") };
                qomplement_webhooks::WebhookHandler::extract_completed(&*handler, &job, result).await?;
                if fails { Err(HandlerError::from("not now")) } else { Ok(()) }
            }
        }
    });
    let receiver = WebhookReceiver::builder(failing).unauthenticated().build().unwrap();
    let payload = Payload::extract_completed().to_bytes();

    let receive = |payload: Bytes| {
        let receiver = receiver.clone();
        tokio::spawn(async move { receiver.receive(request(payload)).await.status().as_u16() })
    };
    let first = receive(payload.clone());
    gate.begun.notified().await;
    let copies: Vec<_> = (0..8).map(|_| receive(payload.clone())).collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(script.runs(), 1, "a copy ran while the first was running");
    gate.go_on.notify_one();

    assert_eq!(first.await.unwrap(), 503);
    for copy in copies {
        assert_eq!(copy.await.unwrap(), 200, "a copy did not see the job finished by one of them");
    }
    assert_eq!((script.runs(), script.most_running()), (2, 1), "one copy should have taken over");
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_that_takes_over_and_fails_makes_no_second_attempt() {
    let script = Script::new([Act::Take(Duration::from_secs(1)), Act::Fail]);
    let receiver = WebhookReceiver::builder(script.handler())
        .unauthenticated()
        .max_handler_time(Duration::from_millis(500))
        .build()
        .unwrap();
    let payload = Payload::extract_completed().to_bytes();
    let copy = |payload: Bytes| {
        let receiver = receiver.clone();
        tokio::spawn(async move { receiver.receive(request(payload)).await.status().as_u16() })
    };
    let (first, second) = (copy(payload.clone()), copy(payload));
    assert_eq!((first.await.unwrap(), second.await.unwrap()), (503, 503));
    assert_eq!(script.runs(), 2, "each request runs the handler once");
}

/// A receiver that runs one handler at a time, on a store that it may share.
fn with_room_for_one(script: &Script, store: &Arc<MemoryDedupStore>) -> WebhookReceiver {
    WebhookReceiver::builder(script.handler())
        .unauthenticated()
        .dedup_store(store.clone())
        .max_handlers_in_flight(1)
        .build()
        .unwrap()
}

/// Posts once; the status, and the time until the answer.
fn post(receiver: &WebhookReceiver, payload: &Payload) -> JoinHandle<(u16, Duration)> {
    let (receiver, request, began) = (receiver.clone(), request(payload), Instant::now());
    tokio::spawn(async move { (receiver.receive(request).await.status().as_u16(), began.elapsed()) })
}

#[tokio::test(start_paused = true)]
async fn while_all_handlers_are_busy_a_finished_job_is_acknowledged_and_a_fresh_one_keeps_no_claim() {
    let gate = Arc::new(Gate::default());
    let script = Script::new([Act::Succeed, Act::Wait(gate.clone()), Act::Succeed]);
    let store = Arc::new(MemoryDedupStore::new());
    let receiver = with_room_for_one(&script, &store);
    let [done, busy, fresh] = [0; 3].map(|_| Payload::extract_completed());
    assert_eq!(post(&receiver, &done).await.unwrap().0, 200);
    let running = post(&receiver, &busy);
    gate.begun.notified().await;

    assert_eq!(post(&receiver, &done).await.unwrap(), (200, Duration::ZERO), "a duplicate of a finished job");
    let waiting = post(&receiver, &fresh);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let claim = ClaimToken::new(fresh.event().unwrap().job().id());
    assert_eq!(store.claim(&claim, Duration::from_secs(1)).await.unwrap(), Claim::Acquired);
    assert_eq!(store.release(&claim).await.unwrap(), Fenced::Applied);
    assert_eq!(post(&receiver, &done).await.unwrap(), (200, Duration::ZERO), "behind one that waits");

    gate.go_on.notify_one();
    assert_eq!(running.await.unwrap().0, 200);
    assert_eq!(waiting.await.unwrap(), (200, Duration::from_millis(1500)), "the room was not given on");
    assert_eq!((script.runs(), script.most_running()), (3, 1));
}

#[tokio::test(start_paused = true)]
async fn a_job_that_is_done_elsewhere_while_its_duplicate_waits_for_room_is_acknowledged() {
    let (busy, elsewhere) = (Script::new([Act::Hang]), Script::default());
    let store = Arc::new(MemoryDedupStore::new());
    let (receiver, other) = (with_room_for_one(&busy, &store), with_room_for_one(&elsewhere, &store));
    let _running = post(&receiver, &Payload::extract_completed());
    busy.until("the room is taken", |script| script.running() == 1).await;
    let payload = Payload::extract_completed();
    let waiting = post(&receiver, &payload);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(post(&other, &payload).await.unwrap().0, 200);
    let (status, took) = waiting.await.unwrap();
    assert!(status == 200 && took <= Duration::from_secs(1), "{status} after {took:?}");
    assert_eq!((busy.runs(), elsewhere.runs()), (1, 1));
}

/// Answers the first claim of one job only when the gate opens.
#[derive(Debug)]
struct GatedStore {
    store: MemoryDedupStore,
    job: JobId,
    gate: Arc<Gate>,
    gated: AtomicBool,
}

#[async_trait]
impl DedupStore for GatedStore {
    async fn claim(&self, claim: &ClaimToken, lease: Duration) -> Result<Claim, StoreError> {
        let claimed = self.store.claim(claim, lease).await;
        if *claim.job() == self.job && !self.gated.swap(true, Ordering::SeqCst) {
            self.gate.begun.notify_one();
            self.gate.go_on.notified().await;
        }
        claimed
    }
    async fn renew(&self, claim: &ClaimToken, lease: Duration) -> Result<Fenced, StoreError> {
        self.store.renew(claim, lease).await
    }
    async fn complete(&self, claim: &ClaimToken, retention: Duration) -> Result<Fenced, StoreError> {
        self.store.complete(claim, retention).await
    }
    async fn release(&self, claim: &ClaimToken) -> Result<Fenced, StoreError> {
        self.store.release(claim).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_delivery_whose_turn_comes_while_it_checks_its_job_takes_its_turn() {
    let (busy, check) = (Arc::new(Gate::default()), Arc::new(Gate::default()));
    let script = Script::new([Act::Wait(busy.clone()), Act::Succeed]);
    let payload = Payload::extract_completed();
    let store = GatedStore {
        store: MemoryDedupStore::new(),
        job: payload.event().unwrap().job().id().clone(),
        gate: check.clone(),
        gated: AtomicBool::new(false),
    };
    let builder = WebhookReceiver::builder(script.handler()).unauthenticated().dedup_store(store);
    let receiver = builder.max_handlers_in_flight(1).build().unwrap();
    let running = post(&receiver, &Payload::extract_completed());
    busy.begun.notified().await;
    let waiting = post(&receiver, &payload);
    check.begun.notified().await;
    busy.go_on.notify_one();
    assert_eq!(running.await.unwrap().0, 200);
    // Lets a delivery that waits see that there is room.
    moment().await;
    check.go_on.notify_one();
    assert_eq!(waiting.await.unwrap(), (200, Duration::ZERO), "it met the claim of its own check");
    assert_eq!(script.runs(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_that_waits_for_another_process_takes_no_room() {
    let (elsewhere, here) = (Script::new([Act::Hang]), Script::default());
    let store = Arc::new(MemoryDedupStore::new());
    let (other, receiver) = (with_room_for_one(&elsewhere, &store), with_room_for_one(&here, &store));
    let payload = Payload::extract_completed();
    let _running = post(&other, &payload);
    elsewhere.until("the first delivery runs", |script| script.running() == 1).await;
    let waiting = post(&receiver, &payload);
    // In the middle of a pause between two of its looks.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(post(&receiver, &Payload::extract_completed()).await.unwrap(), (200, Duration::ZERO));
    assert_eq!(waiting.await.unwrap().0, 503);
    assert_eq!(here.runs(), 1);
}

/// Waits until the scheduler has come round, however often it is polled.
async fn moment() {
    tokio::spawn(async {}).await.unwrap();
}

/// Two frames, each after a moment's wait.
struct SlowBody {
    frames: Vec<Bytes>,
    wait: Option<JoinHandle<()>>,
}

impl Body for SlowBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let wait = self.wait.get_or_insert_with(|| tokio::spawn(async {}));
        std::task::ready!(Pin::new(wait).poll(context)).unwrap();
        self.wait = None;
        Poll::Ready((!self.frames.is_empty()).then(|| Ok(Frame::data(self.frames.remove(0)))))
    }
}

/// Waits for a moment before and after each call.
#[derive(Debug)]
struct SlowStore(Arc<MemoryDedupStore>);

impl SlowStore {
    async fn slow<T>(call: impl Future<Output = T>) -> T {
        moment().await;
        let result = call.await;
        moment().await;
        result
    }
}

#[async_trait]
impl DedupStore for SlowStore {
    async fn claim(&self, claim: &ClaimToken, lease: Duration) -> Result<Claim, StoreError> {
        Self::slow(self.0.claim(claim, lease)).await
    }
    async fn renew(&self, claim: &ClaimToken, lease: Duration) -> Result<Fenced, StoreError> {
        Self::slow(self.0.renew(claim, lease)).await
    }
    async fn complete(&self, claim: &ClaimToken, retention: Duration) -> Result<Fenced, StoreError> {
        Self::slow(self.0.complete(claim, retention)).await
    }
    async fn release(&self, claim: &ClaimToken) -> Result<Fenced, StoreError> {
        Self::slow(self.0.release(claim)).await
    }
}

/// Drops the request after so many polls; says whether it was answered before, how often the handler ran
/// and finished, and what the store says in the end.
async fn disconnect_after(polls: usize) -> (bool, usize, usize, Claim) {
    let script = Script::new([Act::Take(Duration::from_secs(1))]);
    let store = Arc::new(MemoryDedupStore::new());
    let registry = Arc::new(MemoryJobRegistry::new());
    let payload = Payload::extract_completed();
    let job = payload.event().unwrap().job().id().clone();
    registry.insert(job.clone());
    let known = move |job: JobId| {
        let registry = registry.clone();
        async move {
            moment().await;
            qomplement_webhooks::registry::JobRegistry::is_known(&registry, &job).await
        }
    };
    let receiver = WebhookReceiver::builder(script.handler())
        .unauthenticated()
        .dedup_store(SlowStore(store.clone()))
        .known_jobs(known)
        .build()
        .unwrap();
    let mut body = payload.to_bytes();
    let frames = vec![body.split_to(100), body];
    let request = http::Request::post(PATH).body(SlowBody { frames, wait: None }).unwrap();

    let answered = {
        let mut future = pin!(receiver.receive(request));
        let mut answered = false;
        for _ in 0..polls {
            answered =
                std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context).is_ready())).await;
            if answered {
                break;
            }
            yield_now().await;
            if script.running() == 1 {
                // Past the handler's own wait as well.
                tokio::time::advance(Duration::from_millis(300)).await;
            }
        }
        answered
    };
    // Nothing is left under way after this, however the request ended.
    assert_eq!(receiver.shutdown(Duration::from_secs(10)).await, 0);
    let state = store.claim(&ClaimToken::new(&job), Duration::from_secs(1)).await.unwrap();
    (answered, script.runs(), script.finished(), state)
}

#[tokio::test(start_paused = true)]
async fn wherever_the_client_leaves_the_handler_finishes_once_and_its_outcome_is_recorded() {
    let (mut before, mut during) = (0, 0);
    for polls in 0.. {
        let (answered, runs, finished, state) = disconnect_after(polls).await;
        if runs == 0 {
            before += 1;
            assert!(state == Claim::Acquired, "dropped after {polls} polls, nothing ran, but {state:?}");
            assert_eq!(during, 0, "a later disconnect lost the webhook that an earlier one did not");
        } else {
            during += 1;
            assert_eq!((runs, finished), (1, 1), "dropped after {polls} polls");
            assert!(
                matches!(state, Claim::Done),
                "dropped after {polls} polls, the outcome is lost: {state:?}"
            );
        }
        if answered {
            break;
        }
    }
    assert!(before >= 3, "the body has three waits, and none was hit ({before})");
    assert!(during >= 8, "registry, claim, handler and completion have eight waits; hit: {during}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_hangs_up_over_http_does_not_stop_the_handler() {
    for framework in Framework::ALL {
        hang_up(framework).await;
    }
}

async fn hang_up(framework: Framework) {
    let gate = Arc::new(Gate::default());
    let script = Script::new([Act::Wait(gate.clone())]);
    let receiver = receiver(&script);
    let server = Server::start(framework, receiver.clone()).await;
    let payload = Payload::extract_completed();
    let body = payload.to_bytes();

    let mut client = TcpStream::connect(server.address).await.unwrap();
    let head = format!("POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
    client.write_all(head.as_bytes()).await.unwrap();
    client.write_all(&body).await.unwrap();
    gate.begun.notified().await;
    drop(client);
    gate.go_on.notify_one();

    script.until("the handler finishes", |script| script.finished() == 1).await;
    assert_eq!(receiver.receive(request(&payload)).await.status(), 200);
    assert_eq!(script.runs(), 1, "{framework:?}: the outcome was not recorded");
}
