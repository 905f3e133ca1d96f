//! Every setting of every builder at its extremes: refused when it is built, or a webhook passes through it.

use std::sync::Arc;
use std::time::Duration;

use qomplement_webhooks::dedup::{Claim, ClaimToken};
use qomplement_webhooks::event::Envelope;
use qomplement_webhooks::fetch::{ApiKey, Fetched, JobSource, RequestBudget};
use qomplement_webhooks::inbox::{InboxAdmin, InboxFilter, InboxState, Retention};
use qomplement_webhooks::receiver::{BuildError, WebhookReceiverBuilder};
use qomplement_webhooks::sender::{Payload, Sender};
use qomplement_webhooks::store::Fenced;
use qomplement_webhooks::{
    DedupStore, InboxStore, InboxWorker, JobsClient, MemoryDedupStore, MemoryInbox, Reconciler, SharedToken,
    SqliteInbox, Verification, WebhookReceiver,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

use crate::sqlite::Folder;
use crate::support::api::{Api, Says};
use crate::support::inboxes::FaultyInbox;
use crate::support::inboxes::all_rows;
use crate::support::{Act, FaultyStore, Script, TOKEN, request};

const TIMES: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_nanos(1),
    Duration::from_secs(1),
    Duration::from_secs(u64::MAX),
    Duration::MAX,
];
const NUMBERS: [usize; 3] = [0, 1, usize::MAX];
const HOUR: Duration = Duration::from_secs(3600);
/// A store that adds a longer duration to a clock may fail.
const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
const NEVER_SHORT: Duration = Duration::from_secs(50 * 365 * 24 * 3600);

type Receiver = WebhookReceiverBuilder;

/// Builds a receiver and hands it a webhook, whose handler has to wait.
async fn received(what: &str, set: impl Fn(Receiver) -> Receiver) -> Result<u16, BuildError> {
    let script = Script::new([Act::Take(Duration::from_millis(10))]);
    let store = FaultyStore::new();
    let builder = WebhookReceiver::builder(script.handler()).unauthenticated().dedup_store(store.clone());
    let receiver = set(builder).build()?;
    let status = receiver.receive(request(Payload::extract_completed())).await.status().as_u16();
    assert!([200, 413, 503].contains(&status), "{what}: {status}");
    // What the answer did not wait for has its end as well.
    assert_eq!(receiver.shutdown(Duration::MAX).await, 0, "{what}");
    assert!(script.running() == 0, "{what}");
    assert!(store.longest() <= CENTURY, "{what}: {:?}", store.longest());
    Ok(status)
}

#[tokio::test(start_paused = true)]
async fn a_receiver_refuses_a_setting_or_works_with_it() {
    type OfTime = fn(Receiver, Duration) -> Receiver;
    let of_time: [(&str, OfTime); 3] = [
        ("ack_deadline", Receiver::ack_deadline),
        ("retention", Receiver::retention),
        ("max_handler_time", Receiver::max_handler_time),
    ];
    for (name, set) in of_time {
        for time in TIMES {
            let what = format!("{name} {time:?}");
            let status = received(&what, |builder| set(builder, time)).await;
            match status {
                Ok(200) | Err(_) => {}
                // The handler has less time than it takes.
                Ok(status) => assert!(time < Duration::from_secs(1), "{what}: {status}"),
            }
            if time > HOUR && name != "ack_deadline" {
                assert_eq!(status, Ok(200), "{what}");
            }
        }
    }
    let (shortest, longest) = (Receiver::MIN_RETENTION, Receiver::MAX_ACK_DEADLINE);
    let bounds = received("bounds", |builder| builder.retention(shortest).ack_deadline(longest));
    assert_eq!(bounds.await, Ok(200));
    type OfNumber = fn(Receiver, usize) -> Receiver;
    let of_number: [(&str, OfNumber); 4] = [
        ("max_body_bytes", Receiver::max_body_bytes),
        ("max_body_bytes_in_flight", Receiver::max_body_bytes_in_flight),
        ("both", |builder, bytes| builder.max_body_bytes(bytes).max_body_bytes_in_flight(bytes)),
        ("max_handlers_in_flight", Receiver::max_handlers_in_flight),
    ];
    for (name, set) in of_number {
        for number in NUMBERS {
            let what = format!("{name} {number}");
            let status = received(&what, |builder| set(builder, number)).await;
            if number == 0 {
                assert!(status.is_err(), "{what}: {status:?}");
            }
            if number == usize::MAX && name != "max_body_bytes" {
                assert_eq!(status, Ok(200), "{what}");
            }
        }
    }
    for jobs in NUMBERS {
        let store = || MemoryDedupStore::with_capacity(jobs);
        assert_eq!(received("capacity", |builder| builder.dedup_store(store())).await, Ok(200), "{jobs}");
    }
    let everything = received("everything", |builder| {
        builder
            .ack_deadline(Duration::from_secs(5))
            .retention(Duration::MAX)
            .max_handler_time(Duration::MAX)
            .max_body_bytes(usize::MAX)
            .max_body_bytes_in_flight(usize::MAX)
            .max_handlers_in_flight(usize::MAX)
    });
    assert_eq!(everything.await, Ok(200));
}

/// Of deliveries that end 5 s after they began, the third begins 25 s after the first, and claims the job within 5 s.
#[tokio::test(start_paused = true)]
async fn the_shortest_retention_outlasts_the_sender_s_last_delivery() {
    let second = Duration::from_secs(1);
    let script = Script::default();
    let build =
        |retention| WebhookReceiver::builder(script.handler()).unauthenticated().retention(retention).build();
    let shortest = WebhookReceiverBuilder::MIN_RETENTION;
    let short = shortest - Duration::from_nanos(1);
    assert_eq!(build(short).unwrap_err(), BuildError::Retention(short));
    assert_eq!(
        build(short).unwrap_err().to_string(),
        "the retention must be at least 30s, but is 29.999999999s"
    );
    let (receiver, payload) = (build(shortest).unwrap(), Payload::extract_completed());
    for wait in [0, 5 + 5, 5 + 10] {
        sleep(second * wait).await;
        assert_eq!(receiver.receive(request(&payload)).await.status(), 200);
    }
    // Its body may take nearly until the ack deadline.
    sleep(second * 5 - Duration::from_millis(1)).await;
    assert_eq!(receiver.receive(request(&payload)).await.status(), 200);
    assert_eq!(script.runs(), 1, "a handler that succeeded ran again");
}

/// Sends a webhook through an inbox and a worker, whose handler takes long enough that leases are renewed.
async fn worked(what: &str, acts: &[Act], set: impl Fn(InboxWorker) -> InboxWorker) -> FaultyInbox {
    let (inbox, script) = (FaultyInbox::default(), Script::new(acts.iter().cloned()));
    let worker = set(inbox.worker(&script)).start();
    let receiver = WebhookReceiver::durable(inbox.clone()).unauthenticated().build().unwrap();
    assert_eq!(receiver.receive(request(Payload::extract_completed())).await.status(), 200, "{what}");
    script.until(what, |script| script.runs() > 0 && script.running() == 0).await;
    // Long enough for rows to be pruned, unless the inbox is asked every millisecond.
    sleep(Duration::from_secs(if what.starts_with("poll") { 1 } else { 70 })).await;
    assert_eq!(worker.shutdown(Duration::MAX).await, 0, "{what}: unfinished");
    assert!(inbox.faults.longest() <= CENTURY, "{what}: {:?}", inbox.faults.longest());
    inbox
}

#[tokio::test(start_paused = true)]
async fn a_worker_works_with_any_setting() {
    type Set = fn(InboxWorker, Duration) -> InboxWorker;
    let of_time: [(&str, Set); 7] = [
        ("lease", InboxWorker::lease),
        ("poll", InboxWorker::poll),
        ("max_handler_time", InboxWorker::max_handler_time),
        ("the first retry", |worker, time| worker.backoff(time, time)),
        ("payloads", |worker, payload| worker.retention(Retention::default().payload(payload))),
        ("dead letters", |worker, time| worker.retention(Retention::default().dead(time))),
        ("rows", |worker, time| worker.retention(Retention::default().payload(time).row(time))),
    ];
    for (name, set) in of_time {
        for time in TIMES {
            let what = format!("{name} {time:?}");
            let inbox = worked(&what, &[Act::Succeed], |worker| set(worker, time)).await;
            let stats = inbox.rows.stats().await.unwrap();
            assert_eq!((stats.received, stats.running, stats.dead), (0, 0, 0), "{what}");
            assert!(stats.done == 1 || name == "rows" && time < HOUR, "{what}: {stats:?}");
            // One that has to wait: as long as the lease and the handler's time allow.
            let inbox = worked(&what, &[Act::Take(Duration::from_secs(2))], |worker| set(worker, time)).await;
            let stats = inbox.rows.stats().await.unwrap();
            assert_eq!(stats.running, 0, "{what}: {stats:?}");
            if time > HOUR {
                assert_eq!(stats.done, 1, "{what}: {stats:?}");
            }
        }
    }
    for number in NUMBERS {
        let what = format!("concurrency {number}");
        let inbox = worked(&what, &[Act::Succeed], |worker| worker.concurrency(number)).await;
        assert_eq!(inbox.rows.stats().await.unwrap().done, 1, "{what}");
    }
    for attempts in [0, 1, u32::MAX] {
        let inbox =
            worked("attempts", &[Act::Fail, Act::Succeed], |worker| worker.max_attempts(attempts)).await;
        let stats = inbox.rows.stats().await.unwrap();
        assert_eq!((stats.done, stats.dead), if attempts < 2 { (0, 1) } else { (1, 0) }, "{attempts}");
    }
    // A retry that is due in an age is recorded as such.
    let inbox = worked("backoff", &[Act::Fail], |worker| worker.backoff(Duration::MAX, Duration::MAX)).await;
    let row = all_rows(&inbox.rows, &InboxFilter::default()).await.remove(0);
    assert_eq!((row.state, row.attempts), (InboxState::Received, 1), "{row:?}");
}

#[tokio::test(start_paused = true)]
async fn a_reconciler_works_with_any_horizon() {
    for time in TIMES {
        let inbox = MemoryInbox::new();
        inbox.expect(&"j".parse().unwrap(), Duration::ZERO).await.unwrap();
        let api = Api::new(Says::Pending);
        let reconciler = Reconciler::new(inbox.clone(), api.clone()).horizon(time).start();
        sleep(HOUR).await;
        assert!(api.fetches() > 0, "{time:?}");
        let stats = inbox.stats().await.unwrap();
        assert_eq!((stats.expected, stats.dead), if time < HOUR { (0, 1) } else { (1, 0) }, "{time:?}");
        assert_eq!(reconciler.shutdown(Duration::MAX).await, 0, "{time:?}");
    }
}

/// The store is asked for what its contract says, for any duration.
pub async fn a_dedup_store_takes_any_duration(what: &str, store: impl DedupStore + Clone) {
    for time in TIMES {
        let payload = Payload::extract_completed();
        let job = payload.event().unwrap().job().id().clone();
        let [claim, other] = [(); 2].map(|()| ClaimToken::new(&job));
        assert_eq!(store.claim(&claim, time).await.unwrap(), Claim::Acquired, "{what} {time:?}");
        let _ = store.renew(&claim, time).await.unwrap();
        if time >= HOUR {
            let held = store.claim(&other, time).await.unwrap();
            assert!(matches!(held, Claim::InProgress { .. }), "{what} {time:?}: {held:?}");
            assert_eq!(store.complete(&claim, time).await.unwrap(), Fenced::Applied, "{what} {time:?}");
            assert_eq!(store.claim(&other, time).await.unwrap(), Claim::Done, "{what} {time:?}");
        }
        let script = Script::default();
        let receiver = WebhookReceiver::builder(script.handler()).unauthenticated();
        let receiver = receiver.dedup_store(store.clone()).retention(time.max(HOUR)).build().unwrap();
        let sender = Sender::to_service(receiver).retry_delays([Duration::from_millis(100); 100]);
        for delivery in sender.deliver_in_turn(Payload::extract_completed(), 2).await {
            assert!(delivery.is_delivered(), "{what} {time:?}: {delivery:?}");
        }
        assert_eq!(script.runs(), 1, "{what} {time:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn other_times_may_be_any() {
    let store = Arc::new(MemoryDedupStore::new());
    sleep(HOUR).await;
    a_dedup_store_takes_any_duration("memory", store).await;
    for time in TIMES {
        let inbox = MemoryInbox::new();
        let job: qomplement_webhooks::JobId = "j".parse().unwrap();
        inbox.expect(&job, time).await.unwrap();
        inbox.prune(&Retention::default().payload(time).row(time)).await.unwrap();
        for _ in 0..2 {
            let overdue = inbox.overdue(1, time).await.unwrap();
            assert!(overdue.is_empty() || time < HOUR, "{time:?}: {overdue:?}");
            sleep(HOUR).await;
        }
        let event = Envelope::try_from(Payload::extract_completed().job_id("j").to_bytes()).unwrap();
        inbox.receive(&event).await.unwrap();
        let leased = inbox.lease(usize::MAX, time).await.unwrap().remove(0);
        let _ = inbox.renew(&leased.lease, time).await.unwrap();

        let script = Script::new([Act::Fail, Act::Succeed]);
        let receiver = WebhookReceiver::builder(script.handler()).unauthenticated().build().unwrap();
        let sender = Sender::to_service(receiver).retry_delays([time]).delivery_timeout(time);
        let report = sender.deliver(Payload::extract_completed()).await;
        assert!(report.is_delivered(), "{time:?}: {report:?}");
        let waited = report.deliveries[1].at;
        assert!(if time > HOUR { waited >= NEVER_SHORT } else { waited < HOUR }, "{time:?}: {waited:?}");
    }
    for per_second in [0.0, -1.0, f64::MIN_POSITIVE, 1e-300, 1e-9, 1.0, f64::MAX, f64::INFINITY, f64::NAN] {
        for at_once in NUMBERS {
            let budget = RequestBudget::new(per_second, at_once);
            for _ in 0..2 {
                let permit = timeout(HOUR * 48, budget.acquire()).await.expect("no permit").unwrap();
                permit.answered();
            }
        }
    }
}

#[tokio::test]
async fn a_client_and_a_file_work_with_any_setting() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 4096]).await;
                let reply = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                let _ = stream.write_all(reply).await;
            });
        }
    });
    for time in TIMES {
        let client = JobsClient::builder(ApiKey::new("key").unwrap()).origin(&origin).timeout(time);
        let fetched = client.build().unwrap().fetch(&"j".parse().unwrap()).await;
        assert!(matches!(fetched, Ok(Fetched::NotFound)) || time < HOUR, "{time:?}: {fetched:?}");

        let folder = Folder::new();
        let inbox = SqliteInbox::builder(folder.file()).busy_timeout(time).open().unwrap();
        let event = Envelope::try_from(Payload::extract_completed().to_bytes()).unwrap();
        inbox.receive(&event).await.unwrap();
        let leased = inbox.lease(usize::MAX, time).await.unwrap().remove(0);
        let _ = inbox.renew(&leased.lease, time).await.unwrap();
        assert!(inbox.lease(usize::MAX, HOUR).await.unwrap().is_empty() || time < HOUR, "{time:?}");
        inbox.expect(&"j".parse().unwrap(), time).await.unwrap();
        assert!(inbox.overdue(1, time).await.unwrap().is_empty() || time < HOUR, "{time:?}");
        inbox.prune(&Retention::default().payload(time).row(time)).await.unwrap();
    }
    for limit in [0, 1, u64::MAX] {
        let folder = Folder::new();
        let inbox =
            SqliteInbox::builder(folder.file()).max_unfinished_rows(limit).max_unfinished_bytes(limit);
        let inbox = inbox.open().unwrap();
        let script = Script::default();
        let token = SharedToken::new(TOKEN).unwrap();
        let receiver = WebhookReceiver::durable(inbox.clone()).token(token).build().unwrap();
        let worker = InboxWorker::new(inbox.clone(), script.handler(), Verification::Trust).start();
        let mut webhook = request(Payload::extract_completed());
        webhook.headers_mut().insert("authorization", format!("Bearer {TOKEN}").parse().unwrap());
        let status = receiver.receive(webhook).await.status().as_u16();
        assert_eq!(status, if limit > 1 { 200 } else { 503 }, "{limit}");
        if status == 200 {
            script.until("the webhook is handled", |script| script.finished() == 1).await;
        }
        worker.shutdown(HOUR).await;
    }
}
