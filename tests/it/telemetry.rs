//! What is reported, under which names, and what never is.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::ThreadId;
use std::time::Duration;

use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use qomplement_webhooks::sender::Payload;
use qomplement_webhooks::{MemoryJobRegistry, SharedToken, WebhookReceiver, telemetry};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

use crate::support::{Act, Call, Fault, FaultyStore, PATH, Script, TOKEN};

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

#[derive(Default)]
struct Collected {
    spans: Vec<(String, BTreeMap<String, String>)>,
    text: String,
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
        log.spans.push((attributes.metadata().name().to_owned(), fields));
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(mut log) = self.collected() else { return };
        let index = *context.span(id).unwrap().extensions().get::<usize>().unwrap();
        values.record(&mut Fields(&mut log.spans[index].1));
    }

    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let Some(mut log) = self.collected() else { return };
        let mut fields = BTreeMap::new();
        event.record(&mut Fields(&mut fields));
        writeln!(log.text, "{} {fields:?}", event.metadata().level()).unwrap();
    }
}

/// Sends one request of nearly every kind, and returns how many.
async fn send_all_kinds(secrets: &str) -> usize {
    let token = SharedToken::new(TOKEN).unwrap();
    let acts = [
        Act::Succeed,
        Act::Fail,
        Act::FailForGood,
        Act::Panic,
        Act::Take(Duration::from_secs(10)),
        Act::Succeed,
    ];
    let store =
        FaultyStore::new().fail(Call::Claim, [Some(Fault::Error)]).fail(Call::Complete, [Some(Fault::Error)]);
    let registry = Arc::new(MemoryJobRegistry::new());
    let receiver = WebhookReceiver::builder(Script::new(acts).handler())
        .token(token)
        .dedup_store(store)
        .known_jobs(registry.clone())
        .build()
        .unwrap();
    let target = format!("{PATH}?token={TOKEN}&x={secrets}");
    let mut sent = 0;
    let mut send = async |method: &str, target: &str, body: Vec<u8>| {
        let request = http::Request::builder().method(method).uri(target).header("x-secret", secrets);
        receiver.receive(request.body(http_body_util::Full::new(bytes::Bytes::from(body))).unwrap()).await;
        sent += 1;
    };
    for _ in 0..7 {
        let payload = Payload::extract_completed()
            .set("/data/result/fields/secret", secrets)
            .set("/data/result/model", secrets);
        registry.insert(payload.event().unwrap().job().id().clone());
        send("POST", &target, payload.to_bytes().to_vec()).await;
    }
    let unknown = Payload::extract_completed().set("/data/result", secrets);
    send("POST", &target, unknown.to_bytes().to_vec()).await;
    send("GET", &target, Vec::new()).await;
    send("POST", &format!("{PATH}?token={secrets}"), Vec::new()).await;
    for body in [
        format!("{{\"{secrets}\""),
        format!("{{\"{secrets}\":1}}"),
        format!("{{\"job_id\":\"{secrets} \"}}"),
        secrets.to_owned(),
    ] {
        send("POST", &target, body.into_bytes()).await;
    }
    receiver.shutdown(Duration::from_secs(60)).await;
    sent
}

#[test]
fn a_request_is_one_span_with_the_documented_fields_and_nothing_secret() {
    let log = Log { collected: Arc::default(), thread: std::thread::current().id() };
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(log.clone())).unwrap();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let secret = "s3cr3t-content";
    let sent = runtime.block_on(send_all_kinds(secret));

    let log = log.collected().unwrap();
    let spans: Vec<_> = log.spans.iter().filter(|(name, _)| name == telemetry::SPAN).collect();
    assert_eq!(spans.len(), sent, "one span for each request");
    let names = [telemetry::OUTCOME, telemetry::STATUS, telemetry::JOB_ID, telemetry::EVENT];
    for (_, fields) in &spans {
        let found: HashSet<_> = fields.keys().map(String::as_str).collect();
        assert_eq!(found, HashSet::from(names));
        assert!(!fields[telemetry::OUTCOME].is_empty(), "{fields:?}");
        let parsed = fields[telemetry::STATUS] == "200"
            || ["handler_timeout", "unknown_job"].contains(&fields["outcome"].as_str());
        assert!(!parsed || !fields[telemetry::JOB_ID].is_empty(), "{fields:?}");
        let unread = ["405", "401", "400"].contains(&fields[telemetry::STATUS].as_str());
        assert!(!unread || fields[telemetry::JOB_ID].is_empty(), "{fields:?}");
    }
    let everything = format!("{:?}\n{}", log.spans, log.text);
    assert!(
        log.text.contains("finished after the request had ended"),
        "the late outcome is not logged:\n{}",
        log.text
    );
    assert!(log.text.contains("a handler's bug") && log.text.contains("fails by plan"), "causes are missing");
    for hidden in [secret, TOKEN, PATH, "x-secret"] {
        assert!(!everything.contains(hidden), "{hidden} is logged:\n{everything}");
    }
}

#[test]
fn requests_and_handlers_are_counted_by_how_they_ended() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let sent = metrics::with_local_recorder(&recorder, || runtime.block_on(send_all_kinds("x")));

    let (mut counted, mut timed, mut outcomes, mut results) = (0, 0, HashSet::new(), HashSet::new());
    for (key, _, _, value) in snapshotter.snapshot().into_vec() {
        let label =
            |name: &str| key.key().labels().find(|label| label.key() == name).unwrap().value().to_owned();
        match (key.key().name(), value) {
            (telemetry::REQUESTS, DebugValue::Counter(count)) => {
                counted += count;
                outcomes.insert(label(telemetry::OUTCOME));
            }
            (telemetry::REQUEST_SECONDS, DebugValue::Histogram(values)) => timed += values.len(),
            (telemetry::HANDLER_SECONDS, DebugValue::Histogram(values)) => {
                let result = label(telemetry::RESULT);
                if result == telemetry::result::OK && values.len() > 1 {
                    assert!(values.iter().any(|value| value.into_inner() >= 10.0), "seconds: {values:?}");
                }
                results.insert(result);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((counted, timed), (sent as u64, sent));
    use telemetry::{outcome, result};
    let expected = [
        outcome::HANDLED,
        outcome::HANDLER_FAILED,
        outcome::HANDLER_FAILED_FOR_GOOD,
        outcome::HANDLER_PANICKED,
        outcome::HANDLER_TIMEOUT,
        outcome::UNAVAILABLE,
        outcome::UNKNOWN_JOB,
        outcome::METHOD_NOT_ALLOWED,
        outcome::UNAUTHORIZED,
        outcome::INVALID_JSON,
        outcome::INVALID_PAYLOAD,
    ];
    assert_eq!(outcomes, expected.map(str::to_owned).into());
    assert_eq!(
        results,
        [result::OK, result::FAILED, result::FAILED_FOR_GOOD, result::PANICKED].map(str::to_owned).into()
    );
}
