//! Which jobs are taken, and what becomes of webhooks that are not recognized.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use qomplement_webhooks::inbox::InboxState;
use qomplement_webhooks::receiver::BuildError;
use qomplement_webhooks::registry::{JobRegistry, MemoryJobRegistry};
use qomplement_webhooks::sender::Payload;
use qomplement_webhooks::{
    ExtractResult, FillResult, HandlerError, InboxWorker, Job, JobError, SharedToken, Verification,
    WebhookEvent, WebhookHandler, WebhookReceiver, async_trait, handler_fn,
};
use tokio::time::Instant;

use crate::answers::{body, builder, expected};
use crate::support::http::post;
use crate::support::inboxes::FaultyInbox;
use crate::support::servers::{Framework, Server};
use crate::support::{Act, Call, FaultyStore, PATH, Script, TOKEN, request};

async fn answer(response: Response<Full<Bytes>>) -> (u16, String) {
    let status = response.status().as_u16();
    let body: serde_json::Value =
        serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap();
    (status, body["error"]["code"].as_str().unwrap_or_default().to_owned())
}

fn receiver(script: &Script, store: &FaultyStore, registry: impl JobRegistry) -> WebhookReceiver {
    WebhookReceiver::builder(script.handler())
        .unauthenticated()
        .dedup_store(store.clone())
        .known_jobs(registry)
        .build()
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_unknown_job_is_looked_for_for_two_seconds_and_leaves_no_trace() {
    let (script, store) = (Script::default(), FaultyStore::new());
    let registry = Arc::new(MemoryJobRegistry::new());
    let receiver = receiver(&script, &store, registry.clone());
    let payload = Payload::extract_completed();
    let job = payload.event().unwrap().job().id().clone();
    let began = Instant::now();

    let refused = answer(receiver.receive(request(&payload)).await).await;
    assert_eq!(refused, (404, "unknown_job".to_owned()));
    assert_eq!(began.elapsed().as_secs(), 2, "it was looked for for another time");
    assert_eq!((script.runs(), store.calls(Call::Claim)), (0, 0), "an unknown job was written to the store");

    // The registration comes after the webhook.
    let late = tokio::spawn(async move { answer(receiver.receive(request(&payload)).await).await.0 });
    tokio::time::sleep(Duration::from_millis(1900)).await;
    registry.insert(job);
    assert_eq!(late.await.unwrap(), 200);
    assert_eq!(script.runs(), 1);
}

#[tokio::test]
async fn over_http_a_job_that_becomes_known_while_it_is_looked_for_is_taken() {
    let script = Script::default();
    let looks = Arc::new(AtomicUsize::new(0));
    let count = looks.clone();
    let known = move |_| {
        let look = count.fetch_add(1, Ordering::SeqCst) + 1;
        async move { Ok::<_, Infallible>(look == 3) }
    };
    let server = Server::start(Framework::Axum, builder(&script).known_jobs(known).build().unwrap()).await;
    assert_eq!(post(body()).send(server.address).await, expected(200, "", true), "known at the third look");
    assert_eq!((looks.load(Ordering::SeqCst), script.runs()), (3, 1), "looks and runs");
}

#[tokio::test(start_paused = true)]
async fn a_job_that_was_not_looked_for_long_enough_is_not_called_unknown() {
    let script = Script::default();
    // The deadline comes first, or the registry fails when it is asked again.
    for (deadline, looks_that_work, seconds) in [(0.9, usize::MAX, 0.9), (4.5, 3, 0.6)] {
        let looks = AtomicUsize::new(0);
        let known = move |_| {
            let works = looks.fetch_add(1, Ordering::SeqCst) < looks_that_work;
            async move { if works { Ok(false) } else { Err("the database is away") } }
        };
        let deadline = Duration::from_secs_f32(deadline);
        let receiver = builder(&script).unauthenticated().ack_deadline(deadline).known_jobs(known);
        let began = Instant::now();
        let refused = answer(receiver.build().unwrap().receive(request(body())).await).await;
        assert_eq!(refused, (503, "unavailable".to_owned()), "after {looks_that_work} looks");
        assert!((began.elapsed().as_secs_f32() - seconds).abs() < 0.01, "{:?}", began.elapsed());
    }
    assert_eq!(script.runs(), 0, "a job that is not known was handled");
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_fails_hangs_or_panics_is_503_and_never_404() {
    for conduct in ["fails", "hangs", "panics"] {
        let (script, store) = (Script::default(), FaultyStore::new());
        let registry = move |_| async move {
            match conduct {
                "fails" => Err("the database is away"),
                "hangs" => std::future::pending().await,
                _ => panic!("a registry's bug"),
            }
        };
        let began = Instant::now();
        let receiver = receiver(&script, &store, registry);
        let refused = answer(receiver.receive(request(Payload::extract_completed())).await).await;
        assert_eq!(refused, (503, "unavailable".to_owned()), "{conduct}");
        assert!(began.elapsed() <= Duration::from_secs(1), "{conduct}: one call may take a second");
        assert_eq!((script.runs(), store.calls(Call::Claim)), (0, 0), "{conduct}");
    }
}

/// Implements what it must and no more.
struct Plain;

#[async_trait]
impl WebhookHandler for Plain {
    async fn extract_completed(&self, _: &Job, _: ExtractResult) -> Result<(), HandlerError> {
        Ok(())
    }
    async fn fill_completed(&self, _: &Job, _: FillResult) -> Result<(), HandlerError> {
        Ok(())
    }
    async fn job_failed(&self, _: &Job, _: JobError) -> Result<(), HandlerError> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn what_nobody_handles_is_not_acknowledged() {
    let receiver = WebhookReceiver::builder(Plain).unauthenticated().build().unwrap();
    for odd in [
        Payload::extract_completed().set("/data/type", "summarize"),
        Payload::extract_completed().set("/data/status", "processing"),
        Payload::extract_completed().set("/data/result", "unreadable"),
    ] {
        let refused = answer(receiver.receive(request(&odd)).await).await;
        assert_eq!(refused, (503, "handler_failed".to_owned()), "{odd:?}");
    }
    assert_eq!(receiver.receive(request(Payload::extract_completed())).await.status(), 200);
}

/// What is not recognized, with its status.
fn odd() -> [(Payload, &'static str); 4] {
    [
        (Payload::extract_completed().set("/data/type", "summarize"), "completed"),
        (Payload::extract_completed().set("/data/status", "processing"), "processing"),
        (Payload::extract_completed().set("/data/result", "unreadable"), "completed"),
        (Payload::failed(&"summarize".into()), "failed"),
    ]
}

/// The events that a function got.
type Got = Arc<Mutex<Vec<String>>>;

/// A handler for each way to make one, shared or not, with its name and the events that it got.
fn functions() -> Vec<(&'static str, Arc<dyn WebhookHandler>, Got)> {
    let got = || Arc::new(Mutex::new(Vec::new()));
    let function = |got: &Got| {
        let got = got.clone();
        handler_fn(move |event: WebhookEvent| {
            let text = match &event {
                WebhookEvent::Unrecognized { job } => format!("{} {}", job.job_type(), job.status()),
                event => event.name().to_owned(),
            };
            got.lock().unwrap().push(text);
            async { Ok(()) }
        })
    };
    let (plain, shared, all, all_shared) = (got(), got(), got(), got());
    vec![
        ("fails", Arc::new(function(&plain)), plain),
        ("fails", Arc::new(Arc::new(function(&shared))), shared),
        ("gets it", Arc::new(function(&all).with_unrecognized()), all),
        ("gets it", Arc::new(Arc::new(Arc::new(function(&all_shared).with_unrecognized()))), all_shared),
    ]
}

#[tokio::test(start_paused = true)]
async fn a_function_acknowledges_what_is_not_recognized_only_if_it_was_made_to_get_it() {
    for (what, handler, got) in functions() {
        let receiver = WebhookReceiver::builder(handler).unauthenticated().build().unwrap();
        for (payload, status) in odd() {
            got.lock().unwrap().clear();
            let reply = answer(receiver.receive(request(&payload)).await).await;
            let job_type = payload.event().unwrap().job().job_type().to_string();
            if what == "fails" {
                assert_eq!(reply, (503, "handler_failed".to_owned()), "{job_type} {status}");
                assert!(got.lock().unwrap().is_empty(), "the function was called");
            } else {
                assert_eq!(reply.0, 200, "{job_type} {status}");
                assert_eq!(*got.lock().unwrap(), [format!("{job_type} {status}")]);
            }
        }
        got.lock().unwrap().clear();
        assert_eq!(receiver.receive(request(Payload::extract_completed())).await.status(), 200);
        assert_eq!(*got.lock().unwrap(), ["extract_completed"]);
    }
}

#[tokio::test(start_paused = true)]
async fn in_an_inbox_what_no_function_gets_is_dead_and_what_one_gets_is_done() {
    for (what, handler, got) in functions() {
        let inbox = FaultyInbox::default();
        let worker = InboxWorker::new(inbox.clone(), handler, Verification::Trust).max_attempts(2).start();
        for (payload, status) in odd() {
            got.lock().unwrap().clear();
            let job = inbox.add(&payload).await;
            let job_type = payload.event().unwrap().job().job_type().to_string();
            if what == "fails" {
                let row = inbox.until(&job, InboxState::Dead).await;
                assert_eq!(row.attempts, 2, "{job_type} {status}");
                assert!(got.lock().unwrap().is_empty(), "the function was called");
            } else {
                inbox.until(&job, InboxState::Done).await;
                assert_eq!(*got.lock().unwrap(), [format!("{job_type} {status}")]);
            }
        }
        worker.shutdown(Duration::ZERO).await;
    }
}

#[tokio::test]
async fn the_error_of_what_nobody_handles_is_logged_and_says_nothing_of_the_body() {
    let event = Payload::extract_completed().set("/data/type", "s3cr3t-content").event().unwrap();
    let error = Plain.unrecognized(event.job()).await.unwrap_err();
    assert!(!format!("{error} {error:?}").contains("s3cr3t"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_unknown_status_is_never_a_jobs_last_word() {
    for act in [Act::Succeed, Act::FailPermanently] {
        let (script, store) = (Script::new([act]), FaultyStore::new());
        let receiver = receiver(&script, &store, |_| async { Ok::<_, Infallible>(true) });
        let completed = Payload::extract_completed();
        let processing = completed.clone().set("/data/status", "processing");
        for run in 1..=2 {
            assert_eq!(receiver.receive(request(&processing)).await.status(), 200);
            assert_eq!(script.runs(), run, "an unknown status was remembered");
        }
        assert_eq!(receiver.receive(request(&completed)).await.status(), 200);
        assert_eq!(script.runs(), 3, "the completed webhook was taken for a duplicate");
        assert_eq!(receiver.receive(request(&completed)).await.status(), 200);
        assert_eq!(receiver.receive(request(&processing)).await.status(), 200);
        assert_eq!(script.runs(), 3, "after the completed one, the job is done");
    }
}

#[tokio::test(start_paused = true)]
async fn an_unknown_type_or_an_unreadable_result_that_was_handled_is_remembered() {
    for odd in [
        Payload::extract_completed().set("/data/type", "summarize"),
        Payload::extract_completed().set("/data/result", "unreadable"),
        Payload::fill_pdf_completed().remove("/data/result"),
    ] {
        let script = Script::new([Act::Fail, Act::Succeed]);
        let receiver = WebhookReceiver::builder(script.handler()).unauthenticated().build().unwrap();
        let failed = answer(receiver.receive(request(&odd)).await).await;
        assert_eq!(failed, (503, "handler_failed".to_owned()), "{odd:?}");
        for copy in 1..=2 {
            assert_eq!(receiver.receive(request(&odd)).await.status(), 200, "copy {copy}: {odd:?}");
            assert_eq!(script.runs(), 2, "copy {copy}: {odd:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_was_read_elsewhere_is_received_alike() {
    let script = Script::default();
    let token = SharedToken::new(TOKEN).unwrap();
    let receiver =
        WebhookReceiver::builder(script.handler()).token(token).max_body_bytes(1000).build().unwrap();
    let head = |method: &str, query: &str| {
        Request::builder().method(method).uri(format!("{PATH}{query}")).body(()).unwrap().into_parts().0
    };
    let (good, query) = (Payload::extract_completed().to_bytes(), format!("?token={TOKEN}"));
    let cases = [
        (head("POST", &query), good.clone(), 200, ""),
        (head("POST", &query), good.clone(), 200, ""),
        (head("GET", &query), good.clone(), 405, "method_not_allowed"),
        (head("POST", ""), good.clone(), 401, "unauthorized"),
        (head("POST", &query), Bytes::from(vec![b' '; 1001]), 413, "body_too_large"),
        (head("POST", &query), Bytes::from_static(b"{"), 400, "invalid_json"),
    ];
    for (parts, body, status, code) in cases {
        let early = receiver.authenticate(&parts).await;
        let refused_early = [401, 405].contains(&status);
        assert_eq!(early.is_err(), refused_early, "{code}");
        if let Err(early) = early {
            assert_eq!(early.headers()["connection"], "close", "the body was not read");
            assert_eq!(answer(early).await, (status, code.to_owned()));
        }
        let reply = receiver.receive_parts(&parts, body.clone()).await;
        assert!(!reply.headers().contains_key("connection"), "the body was read");
        assert_eq!(answer(reply).await, (status, code.to_owned()));
    }
    assert_eq!(script.runs(), 1);
}

#[test]
fn without_a_runtime_there_is_an_answer_too() {
    let script = Script::default();
    let receiver = WebhookReceiver::builder(script.handler()).unauthenticated().build().unwrap();
    let mut future = Box::pin(receiver.receive(request(Payload::extract_completed())));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let std::task::Poll::Ready(reply) = future.as_mut().poll(&mut context) else { panic!("it waits") };
    assert_eq!((reply.status().as_u16(), script.runs()), (503, 0));
}

#[test]
fn a_setting_that_would_break_a_promise_is_refused() {
    let builder = || WebhookReceiver::builder(Plain).unauthenticated();
    let seconds = Duration::from_secs;
    assert_eq!(WebhookReceiver::builder(Plain).build().unwrap_err(), BuildError::NoAuthentication);
    assert!(builder().ack_deadline(seconds(5)).build().is_ok());
    let refused = [
        (builder().ack_deadline(seconds(5) + Duration::from_nanos(1)), "ack deadline"),
        (builder().ack_deadline(Duration::ZERO), "ack deadline"),
        (builder().retention(seconds(14)), "retention"),
        (builder().max_handler_time(Duration::ZERO), "handler"),
        (builder().max_handlers_in_flight(0), "max_handlers_in_flight"),
        (builder().max_body_bytes(0), "max_body_bytes"),
        (builder().max_body_bytes(100).max_body_bytes_in_flight(99), "`max_body_bytes`, 100, but is 99"),
    ];
    for (builder, about) in refused {
        let message = builder.build().unwrap_err().to_string();
        assert!(message.contains(about), "{message}");
    }
}
