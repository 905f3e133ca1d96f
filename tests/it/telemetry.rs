//! What is reported, under which names, and what never is.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context as TaskContext, Poll};
use std::thread::ThreadId;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use qomplement_webhooks::inbox::InboxState;
use qomplement_webhooks::registry::MemoryJobRegistry;
use qomplement_webhooks::sender::Payload;
use qomplement_webhooks::telemetry::{self, outcome, result, settled};
use qomplement_webhooks::{MemoryInbox, SharedToken, WebhookReceiver};
use tracing::Level;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

use crate::answers::{LIMIT, builder};
use crate::support::inboxes::{FaultyInbox, other_bytes};
use crate::support::{Act, Call, Fault, FaultyStore, PATH, Script, TOKEN};

/// Every outcome of a request, and the status that goes with it.
const OUTCOMES: [(&str, u16); 20] = [
    (outcome::HANDLED, 200),
    (outcome::STORED, 200),
    (outcome::CONFLICT, 200),
    (outcome::DUPLICATE, 200),
    (outcome::HANDLER_FAILED_PERMANENTLY, 200),
    (outcome::IN_PROGRESS, 503),
    (outcome::HANDLER_FAILED, 503),
    (outcome::HANDLER_PANICKED, 500),
    (outcome::HANDLER_TIMEOUT, 503),
    (outcome::UNAVAILABLE, 503),
    (outcome::METHOD_NOT_ALLOWED, 405),
    (outcome::UNAUTHORIZED, 401),
    (outcome::UNSUPPORTED_MEDIA_TYPE, 415),
    (outcome::UNSUPPORTED_ENCODING, 415),
    (outcome::BODY_TOO_LARGE, 413),
    (outcome::BODY_TIMEOUT, 408),
    (outcome::INVALID_JSON, 400),
    (outcome::INVALID_PAYLOAD, 422),
    (outcome::JOB_ID_MISMATCH, 422),
    (outcome::UNKNOWN_JOB, 404),
];

/// Collects every span's fields and every event's text, of one thread.
#[derive(Clone)]
struct Log {
    collected: Arc<Mutex<Collected>>,
    thread: ThreadId,
}

impl Log {
    /// `None` in another test's thread: there is one subscriber for the whole program, as one for a
    /// thread alone misses what another thread was the first to reach.
    fn collected(&self) -> Option<MutexGuard<'_, Collected>> {
        (std::thread::current().id() == self.thread).then(|| self.collected.lock().unwrap())
    }
}

#[derive(Debug, Default)]
struct Collected {
    spans: Vec<Reported>,
    events: Vec<Reported>,
}

/// A span or an event.
#[derive(Debug)]
struct Reported {
    level: Level,
    /// The span's name, or the event's message.
    name: String,
    fields: BTreeMap<String, String>,
    /// The span around an event.
    within: Option<usize>,
}

struct Fields<'a>(&'a mut BTreeMap<String, String>);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}").trim_matches('"').to_owned());
    }
}

impl<S: tracing::Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Log {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(mut log) = self.collected() else { return };
        let mut fields = BTreeMap::new();
        attributes.record(&mut Fields(&mut fields));
        for field in attributes.metadata().fields() {
            fields.entry(field.name().to_owned()).or_default();
        }
        context.span(id).unwrap().extensions_mut().insert(log.spans.len());
        let (level, name) = (*attributes.metadata().level(), attributes.metadata().name().to_owned());
        log.spans.push(Reported { level, name, fields, within: None });
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(mut log) = self.collected() else { return };
        let index = *context.span(id).unwrap().extensions().get::<usize>().unwrap();
        values.record(&mut Fields(&mut log.spans[index].fields));
    }

    fn on_event(&self, event: &tracing::Event<'_>, context: Context<'_, S>) {
        let Some(mut log) = self.collected() else { return };
        let mut fields = BTreeMap::new();
        event.record(&mut Fields(&mut fields));
        let name = fields.remove("message").unwrap_or_default();
        let within = context.event_span(event).and_then(|span| span.extensions().get::<usize>().copied());
        log.events.push(Reported { level: *event.metadata().level(), name, fields, within });
    }
}

/// A body that never comes.
struct Stalled;

impl Body for Stalled {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Pending
    }
}

fn token() -> SharedToken {
    SharedToken::new(TOKEN).unwrap()
}

/// Sends requests, and notes the statuses and codes of the answers, in order.
struct Sent<'a> {
    receiver: &'a WebhookReceiver,
    secret: &'a str,
    answers: Vec<(u16, Option<String>)>,
}

impl Sent<'_> {
    async fn send<B>(&mut self, request: http::request::Builder, body: B)
    where
        B: Body<Data = Bytes, Error = Infallible>,
    {
        let headers = [("x-secret", self.secret), ("traceparent", self.secret), ("tracestate", self.secret)];
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let request = request.body(body).unwrap();
        let reply = self.receiver.receive(request).await;
        let status = reply.status().as_u16();
        let body: serde_json::Value =
            serde_json::from_slice(&reply.into_body().collect().await.unwrap().to_bytes()).unwrap();
        self.answers.push((status, body["error"]["code"].as_str().map(str::to_owned)));
    }

    fn post(&self) -> http::request::Builder {
        Request::post(format!("{PATH}?token={TOKEN}&x={}", self.secret))
    }

    async fn text(&mut self, text: impl Into<Bytes>) {
        self.send(self.post(), Full::new(text.into())).await;
    }
}

/// Gets every outcome of a request and every end of a handler, and returns the answers in order.
pub async fn send_all_kinds(secret: &str) -> Vec<(u16, Option<String>)> {
    let acts = [
        Act::Succeed,
        Act::FailFor(Duration::from_secs(77)),
        Act::FailPermanently,
        Act::Panic,
        Act::Take(Duration::from_secs(10)),
        Act::Hang,
        Act::Succeed,
        Act::Hang,
    ];
    let store =
        FaultyStore::new().fail(Call::Claim, [Some(Fault::Error)]).fail(Call::Complete, [Some(Fault::Error)]);
    let registry = Arc::new(MemoryJobRegistry::new());
    let receiver = builder(&Script::new(acts))
        .dedup_store(store)
        .known_jobs(registry.clone())
        .max_handler_time(Duration::from_secs(15))
        .build()
        .unwrap();
    let mut sent = Sent { receiver: &receiver, secret, answers: Vec::new() };
    let payload = || {
        Payload::extract_completed()
            .set("/data/result/fields/secret", secret)
            .set("/data/result/model", secret)
            .set(&format!("/data/{secret}"), secret)
    };
    // The claim fails, and then one for each act; after the fifth act, while it goes on and when it is
    // done, a copy.
    for request in 0..8 {
        let payload = payload();
        registry.insert(payload.event().unwrap().job().id().clone());
        sent.text(payload.to_bytes()).await;
        if request == 5 {
            sent.text(payload.to_bytes()).await;
            sent.text(payload.to_bytes()).await;
        }
    }
    let unknown = payload().to_bytes();
    sent.text(unknown.clone()).await;
    sent.send(sent.post().method(Method::GET), Full::default()).await;
    sent.send(Request::post(format!("{PATH}?token={secret}")), Full::new(unknown.clone())).await;
    let bearer = Request::post(PATH).header("authorization", format!("Bearer {secret}"));
    sent.send(bearer, Full::new(unknown.clone())).await;
    for header in ["content-type", "content-encoding"] {
        sent.send(sent.post().header(header, secret), Full::new(unknown.clone())).await;
    }
    sent.send(sent.post(), Stalled).await;
    for text in [
        format!("{{\"{secret}\""),
        format!("{{\"{secret}\":1}}"),
        format!("{{\"job_id\":\"{secret} \",\"data\":{{}}}}"),
        format!(
            r#"{{"job_id":"{secret}","data":{{"id":"{secret}x","type":"{secret}","status":"{secret}"}}}}"#
        ),
        format!(r#"{{"job_id":"{secret}","data":{{"id":"{secret}","{secret}":tru}}}}"#),
        format!(r#"{{"job_id":"j","data":{{"result":{{"model":"{secret}","model":"{secret}"}}}}}}"#),
        secret.to_owned(),
        secret.repeat(LIMIT + 1),
    ] {
        sent.text(text).await;
    }
    // The last act hangs until the shutdown drops it.
    let payload = payload();
    registry.insert(payload.event().unwrap().job().id().clone());
    sent.text(payload.to_bytes()).await;
    receiver.shutdown(Duration::from_secs(5)).await;
    sent.text(unknown).await;

    // A handler that hangs until its claim is lost.
    let store = FaultyStore::new().fail(Call::Renew, [Some(Fault::Error); 100]);
    let receiver = builder(&Script::new([Act::Hang]))
        .dedup_store(store)
        .ack_deadline(Duration::from_secs(3))
        .build()
        .unwrap();
    let mut lost = Sent { receiver: &receiver, secret, answers: sent.answers };
    lost.text(payload.to_bytes()).await;
    receiver.shutdown(Duration::from_secs(60)).await;

    // An event that is stored, and another of the same job.
    let receiver = WebhookReceiver::durable(MemoryInbox::new()).token(token()).build().unwrap();
    let mut stored = Sent { receiver: &receiver, secret, answers: lost.answers };
    stored.text(payload.to_bytes()).await;
    stored.text(other_bytes(&payload)).await;
    stored.answers
}

/// Lets a worker come to every end of an attempt.
pub async fn attempt_all_kinds(secret: &str) {
    let acts = [
        Act::Fail,
        Act::Succeed,
        Act::Panic,
        Act::Succeed,
        Act::Hang,
        Act::Succeed,
        Act::FailPermanently,
        Act::Hang,
        Act::Succeed,
        Act::Hang,
    ];
    let (inbox, script) = (FaultyInbox::default(), Script::new(acts));
    let add = async || inbox.add(&Payload::extract_completed().set("/data/result/model", secret)).await;
    let worker = inbox.worker(&script).max_handler_time(Duration::from_secs(100)).start();
    for state in [InboxState::Done, InboxState::Done, InboxState::Done, InboxState::Dead] {
        inbox.until(&add().await, state).await;
    }
    // A handler that hangs until its lease is lost; its event is leased again, and released for later.
    inbox.faults.fail(Call::Renew, [Some(Fault::Error); 100]);
    inbox.until(&add().await, InboxState::Done).await;
    inbox.faults.mend(Call::Renew);
    // Its last act hangs until the shutdown drops it.
    let dropped = add().await;
    inbox.until(&dropped, InboxState::Running).await;
    assert_eq!(worker.shutdown(Duration::from_secs(1)).await, 1);
}

#[test]
fn a_request_is_one_span_with_the_documented_fields_and_nothing_secret() {
    let log = Log { collected: Arc::default(), thread: std::thread::current().id() };
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(log.clone())).unwrap();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let secret = "s3cr3t-content";
    let answers = runtime.block_on(send_all_kinds(secret));
    runtime.block_on(attempt_all_kinds(secret));

    let log = log.collected().unwrap();
    attempts_are_spans(&log);
    let spans: Vec<_> =
        log.spans.iter().enumerate().filter(|(_, span)| span.name == telemetry::SPAN).collect();
    assert_eq!(spans.len(), answers.len(), "one span for each request");
    let names = HashSet::from([
        telemetry::OTEL_KIND,
        telemetry::OUTCOME,
        telemetry::STATUS,
        telemetry::JOB_ID,
        telemetry::EVENT,
        telemetry::TRACEPARENT,
    ]);
    let statuses = HashMap::from(OUTCOMES);
    for ((index, span), (status, code)) in spans.iter().zip(&answers) {
        let fields = &span.fields;
        assert_eq!(fields.keys().map(String::as_str).collect::<HashSet<_>>(), names, "{span:?}");
        assert_eq!(span.level, Level::INFO, "{span:?}");
        assert_eq!(fields[telemetry::OTEL_KIND], "server", "{span:?}");
        assert_eq!(fields[telemetry::TRACEPARENT], "", "none was valid: {span:?}");
        let outcome = fields[telemetry::OUTCOME].as_str();
        assert_eq!(statuses.get(outcome), Some(status), "{span:?}");
        assert_eq!(fields[telemetry::STATUS], status.to_string(), "{span:?}");
        assert!(code.as_deref().is_none_or(|code| code == outcome), "the code is {code:?}: {span:?}");
        assert_eq!(code.is_none(), *status == 200, "the code is {code:?}: {span:?}");

        // What comes before parsing, and what comes after it; `unavailable` can be either.
        let unread = [401, 405, 408, 413, 415, 400, 422].contains(status);
        let read = !unread && outcome != outcome::UNAVAILABLE;
        // What is stored is read as far as its job.
        let stored = [outcome::STORED, outcome::CONFLICT].contains(&outcome);
        for (field, text) in [(telemetry::JOB_ID, "-"), (telemetry::EVENT, "extract_completed")] {
            let unread = unread || stored && field == telemetry::EVENT;
            assert!(!unread || fields[field].is_empty(), "{field} of what was not read: {span:?}");
            assert!(unread || !read || fields[field].contains(text), "{field} is missing: {span:?}");
        }

        let said = |name: &str| {
            let events = log.events.iter().filter(|event| event.within == Some(*index));
            Vec::from_iter(events.filter(|event| event.name == name).map(|event| event.level))
        };
        let levels = (said("webhook acknowledged"), said("webhook not acknowledged"));
        let expected =
            if *status == 200 { (vec![Level::DEBUG], vec![]) } else { (vec![], vec![Level::WARN]) };
        assert_eq!(levels, expected, "the events of {span:?}");
    }
    let late: Vec<_> =
        log.events.iter().filter(|event| event.name == "finished after the request had ended").collect();
    let outcomes: Vec<_> = late.iter().map(|event| event.fields[telemetry::OUTCOME].as_str()).collect();
    // Recorded at the second try, slow, ended by its time, by the shutdown, by its lease.
    let ends = [
        outcome::HANDLED,
        outcome::HANDLED,
        outcome::HANDLER_TIMEOUT,
        outcome::UNAVAILABLE,
        outcome::UNAVAILABLE,
    ];
    assert_eq!(outcomes, ends, "how the work ended that took longer than the answer");
    assert!(late.iter().all(|event| event.within.is_some()), "outside of the request's span: {late:?}");
    let asked: Vec<_> =
        log.events.iter().filter_map(|event| event.fields.get("retry_after")).map(String::as_str).collect();
    assert_eq!(asked, ["77s"], "the delay that a handler asked for");
    let everything = format!("{log:?}");
    for cause in
        ["a handler's bug", "fails by plan", "not now", "never", "another event of this job is stored"]
    {
        assert!(everything.contains(cause), "it is not logged why: {cause}");
    }
    for hidden in [secret, TOKEN, PATH, "x-secret", "tracestate"] {
        assert!(!everything.contains(hidden), "{hidden} is logged:\n{everything}");
    }
}

/// Every attempt is one span with the documented fields, and what went wrong is said in it.
fn attempts_are_spans(log: &Collected) {
    let spans: Vec<_> =
        log.spans.iter().enumerate().filter(|(_, span)| span.name == telemetry::ATTEMPT_SPAN).collect();
    let names = HashSet::from([
        telemetry::OTEL_KIND,
        telemetry::JOB_ID,
        telemetry::EVENT,
        telemetry::ATTEMPT,
        telemetry::TRACEPARENT,
    ]);
    let mut attempts = Vec::new();
    for (index, span) in spans {
        let fields = &span.fields;
        assert_eq!(fields.keys().map(String::as_str).collect::<HashSet<_>>(), names, "{span:?}");
        assert_eq!(span.level, Level::INFO, "{span:?}");
        assert_eq!(fields[telemetry::OTEL_KIND], "consumer", "{span:?}");
        assert!(fields[telemetry::JOB_ID].contains('-'), "the job is missing: {span:?}");
        let said =
            log.events.iter().filter(|event| event.within == Some(index) && event.level <= Level::WARN);
        let mut said: Vec<_> = said.map(|event| event.name.split([':', ';', ',']).next().unwrap()).collect();
        said.dedup();
        attempts.push((fields[telemetry::ATTEMPT].as_str(), fields[telemetry::EVENT].as_str(), said));
    }
    let handled = |attempt, said: &[&'static str]| (attempt, "extract_completed", said.to_vec());
    assert_eq!(
        attempts,
        [
            handled("1", &["the handler failed"]),
            handled("2", &[]),
            handled("1", &["the handler failed"]),
            handled("2", &[]),
            handled("1", &["the handler failed"]),
            handled("2", &[]),
            handled("1", &["the handler failed permanently"]),
            handled("1", &["the lease was not renewed", "the lease expired before it could be renewed"]),
            ("2", "", vec!["the earlier attempt did not end"]),
            handled("2", &[]),
            handled("1", &["the handler was dropped"]),
        ]
    );
}

#[test]
fn attempts_are_counted_by_how_they_were_settled() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    metrics::with_local_recorder(&recorder, || runtime.block_on(attempt_all_kinds("x")));

    let (mut attempts, mut runs) = (BTreeMap::new(), BTreeMap::new());
    for (key, _, _, value) in snapshotter.snapshot().into_vec() {
        let labels: Vec<_> = key.key().labels().map(|label| (label.key(), label.value())).collect();
        match (key.key().name(), &labels[..], value) {
            (telemetry::ATTEMPTS, [(telemetry::SETTLED, end)], DebugValue::Counter(count)) if count > 0 => {
                attempts.insert((*end).to_owned(), count);
            }
            (telemetry::HANDLER_SECONDS, [(telemetry::RESULT, end)], DebugValue::Histogram(values)) => {
                runs.insert((*end).to_owned(), values.len());
            }
            _ => {}
        }
    }
    let counts = |counts: &[(&str, u64)]| {
        BTreeMap::from_iter(counts.iter().map(|(result, count)| ((*result).to_owned(), *count)))
    };
    // Released: the event whose lease had expired, and the event of the dropped handler. An attempt that lost its lease
    // is not settled.
    assert_eq!(
        attempts,
        counts(&[(settled::DONE, 4), (settled::RETRY, 3), (settled::DEAD, 1), (settled::RELEASED, 2)])
    );
    let runs: BTreeMap<_, _> = runs.into_iter().map(|(result, count)| (result, count as u64)).collect();
    let expected = counts(&[
        (result::OK, 4),
        (result::FAILED, 1),
        (result::PANICKED, 1),
        (result::TIMED_OUT, 1),
        (result::PERMANENT_FAILURE, 1),
        (result::LEASE_LOST, 1),
        (result::ABORTED, 1),
    ]);
    assert_eq!(runs, expected, "runs of the handler");
}

#[test]
fn requests_and_handlers_are_counted_by_how_they_ended() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let answers = metrics::with_local_recorder(&recorder, || runtime.block_on(send_all_kinds("x")));

    let (mut counted, mut timed) = (BTreeMap::new(), BTreeMap::new());
    let mut runs = BTreeMap::new();
    for (key, _, _, value) in snapshotter.snapshot().into_vec() {
        let Some(label) = key.key().labels().next() else { continue };
        let seconds = |values: Vec<_>, largest: f64| {
            let values: Vec<f64> = values.into_iter().map(f64::from).collect();
            assert!(values.iter().all(|value| *value <= largest), "{label:?} are not seconds: {values:?}");
            values
        };
        match (key.key().name(), label.key(), value) {
            (telemetry::REQUESTS, telemetry::OUTCOME, DebugValue::Counter(count)) => {
                counted.insert(label.value().to_owned(), count);
            }
            (telemetry::REQUEST_SECONDS, telemetry::OUTCOME, DebugValue::Histogram(values)) => {
                timed.insert(label.value().to_owned(), seconds(values, 4.6).len() as u64);
            }
            (telemetry::HANDLER_SECONDS, telemetry::RESULT, DebugValue::Histogram(values)) => {
                runs.insert(label.value().to_owned(), seconds(values, 20.0));
            }
            _ => {}
        }
    }
    assert_eq!(counted, timed, "requests are counted and timed alike");
    assert_eq!(counted.values().sum::<u64>(), answers.len() as u64, "every request is counted once");
    let expected: HashSet<_> = OUTCOMES.iter().map(|(outcome, _)| *outcome).collect();
    assert_eq!(counted.keys().map(String::as_str).collect::<HashSet<_>>(), expected);

    // Each end with the shortest and the longest of its runs, in seconds of paused time.
    let ends: Vec<_> = runs
        .iter()
        .map(|(end, seconds)| {
            let shortest = seconds.iter().copied().fold(f64::INFINITY, f64::min).round();
            (end.as_str(), seconds.len(), shortest, seconds.iter().copied().fold(0.0, f64::max).round())
        })
        .collect();
    let mut expected = [
        (result::OK, 3, 0.0, 10.0),
        (result::FAILED, 1, 0.0, 0.0),
        (result::PERMANENT_FAILURE, 1, 0.0, 0.0),
        (result::PANICKED, 1, 0.0, 0.0),
        (result::TIMED_OUT, 1, 15.0, 15.0),
        (result::LEASE_LOST, 1, 5.0, 5.0),
        (result::ABORTED, 1, 10.0, 10.0),
    ];
    expected.sort_by_key(|(end, ..)| *end);
    assert_eq!(ends, expected);
}
