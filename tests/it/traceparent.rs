//! The `traceparent` of a delivery: which headers count, and how it reaches the handler, inline and through an inbox.

use std::borrow::Cow;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{
    Link, Span, SpanBuilder, SpanContext, SpanId, Status, TraceFlags, TraceId, TraceState, Tracer,
};
use opentelemetry::{Context, KeyValue};
use qomplement_webhooks::event::{Envelope, TraceParent};
use qomplement_webhooks::inbox::{InboxAdmin, InboxState, Outcome};
use qomplement_webhooks::sender::Payload;
use qomplement_webhooks::{
    HandlerError, InboxStore, InboxWorker, Job, JobId, MemoryInbox, SharedToken, SqliteInbox, Verification,
    WebhookHandler, WebhookReceiver, handler_fn, telemetry,
};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::layer::SubscriberExt;

use crate::databases::postgres_inbox;
use crate::sqlite::Folder;
use crate::support::api::{Api, Says};
use crate::support::eventually;
use crate::support::http::post;
use crate::support::servers::{Framework, Server};
use crate::support::{TOKEN, is_alone, request};

const SENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const OTHER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

/// The values of the headers, and the `traceparent` that counts.
fn table() -> Vec<(&'static str, Vec<String>, Option<&'static str>)> {
    let one = |text: &str| vec![text.to_owned()];
    let (trace, span) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
    vec![
        ("no header", vec![], None),
        ("a traceparent", one(SENT), Some(SENT)),
        ("one that is not sampled", one(OTHER), Some(OTHER)),
        (
            "flags of version 00",
            one(&SENT.replace("-01", "-ff")),
            Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-ff"),
        ),
        ("spaces around it", one(&format!("  {SENT}  ")), Some(SENT)),
        ("a later version", one(&format!("01-{trace}-{span}-01")), Some(SENT)),
        ("a longer later version", one(&format!("cc-{trace}-{span}-01-what-the-future-adds")), Some(SENT)),
        ("flags of a later version", one(&format!("cc-{trace}-{span}-fd-")), Some(SENT)),
        (
            "a later version, not sampled",
            one(&format!("fe-{trace}-{span}-fe")),
            Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"),
        ),
        ("the longest later version", one(&format!("01-{trace}-{span}-01-{}", "x".repeat(200))), Some(SENT)),
        ("nothing", one(""), None),
        ("no traceparent", one("s3cr3t-content"), None),
        ("version ff", one(&format!("ff-{trace}-{span}-01")), None),
        ("a version in capitals", one(&format!("CC-{trace}-{span}-01")), None),
        ("version 00 with more", one(&format!("{SENT}-x")), None),
        ("version 00 with a hyphen more", one(&format!("{SENT}-")), None),
        ("version 00 with a digit more", one(&format!("{SENT}0")), None),
        ("a later version with a digit more", one(&format!("01-{trace}-{span}-010")), None),
        ("over-long", one(&format!("01-{trace}-{span}-01-{}", "x".repeat(201))), None),
        ("far too long", one(&format!("01-{trace}-{span}-01-{}", "x".repeat(4000))), None),
        ("cut off", one(&SENT[..54]), None),
        ("a trace of zeros", one(&SENT.replace(trace, &"0".repeat(32))), None),
        ("a span of zeros", one(&SENT.replace(span, &"0".repeat(16))), None),
        ("capitals in the trace", one(&SENT.replace("4bf9", "4BF9")), None),
        ("capitals in the span", one(&SENT.replace("aa", "AA")), None),
        ("a letter that is no digit", one(&SENT.replace("4bf9", "4bg9")), None),
        ("flags that are no digits", one(&SENT.replace("-01", "-0x")), None),
        ("a hyphen too early", one(&SENT.replace("736-00f", "73-600f")), None),
        ("other separators", one(&SENT.replace('-', "_")), None),
        ("no ASCII", one(&SENT.replace("4bf9", "4bé")), None),
        ("two headers", vec![SENT.to_owned(), OTHER.to_owned()], None),
        ("the same twice", vec![SENT.to_owned(), SENT.to_owned()], None),
        ("a bad one first", vec!["x".to_owned(), SENT.to_owned()], None),
        ("two in one header", one(&format!("{SENT}, {SENT}")), None),
        ("two of a later version in one", one(&format!("01-{trace}-{span}-01,{SENT}")), None),
    ]
}

fn text(traceparent: Option<&TraceParent>) -> Option<String> {
    traceparent.map(ToString::to_string)
}

/// A handler that fails each first attempt, and reports the `traceparent` and the number of each attempt.
fn reporting() -> (impl WebhookHandler, UnboundedReceiver<(Option<String>, u32)>) {
    let (report, reported) = unbounded_channel();
    let handler = handler_fn(move |event| {
        let job = event.job();
        report.send((text(job.traceparent()), job.attempt())).unwrap();
        let failed = job.attempt() == 1;
        async move { if failed { Err(HandlerError::retry_after("not now", Duration::ZERO)) } else { Ok(()) } }
    });
    (handler, reported)
}

#[tokio::test]
async fn the_one_valid_traceparent_reaches_the_handler_and_the_inbox_from_every_framework() {
    let token = || SharedToken::new(TOKEN).unwrap();
    for framework in Framework::ALL {
        eprintln!("{framework:?}");
        let (report, mut reported) = unbounded_channel();
        let handler = handler_fn(move |event| {
            report.send(text(event.job().traceparent())).unwrap();
            std::future::ready(Ok(()))
        });
        let inline = WebhookReceiver::builder(handler).token(token()).build().unwrap();
        let inbox = MemoryInbox::new();
        let durable = WebhookReceiver::durable(inbox.clone()).token(token()).build().unwrap();
        let [inline, durable] =
            [Server::start(framework, inline).await, Server::start(framework, durable).await];
        for (what, values, expected) in table() {
            let payload = Payload::extract_completed();
            let mut draft = post(payload.to_bytes());
            for value in &values {
                draft = draft.header("Traceparent", value);
            }
            for server in [&inline, &durable] {
                assert_eq!(draft.send(server.address).await.status, 200, "{what}");
            }
            assert_eq!(reported.recv().await.unwrap().as_deref(), expected, "{what}: inline");
            let (row, _) = inbox.get(payload.event().unwrap().job().id()).await.unwrap().unwrap();
            assert_eq!(text(row.traceparent.as_ref()).as_deref(), expected, "{what}: durable");
        }
    }
}

/// Receives an event in one handle of an inbox, handles it in the next, and replays it in another.
async fn is_kept<I: InboxAdmin + Clone>(open: impl AsyncFn() -> I) {
    for (traceparent, other) in [(Some(SENT), Some(OTHER)), (None, Some(OTHER)), (Some(SENT), None)] {
        let (payload, expected) = (Payload::extract_completed(), traceparent.map(str::to_owned));
        let job = payload.event().unwrap().job().id().clone();
        {
            let receiver = WebhookReceiver::durable(open().await).unauthenticated().build().unwrap();
            // The first event wins, as its body does.
            for traceparent in [traceparent, other] {
                let mut request = request(&payload);
                if let Some(traceparent) = traceparent {
                    request.headers_mut().insert("traceparent", traceparent.parse().unwrap());
                }
                assert_eq!(receiver.receive(request).await.status(), 200);
            }
        }
        for attempts in [[1, 2].as_slice(), &[3]] {
            let (inbox, (handler, mut reported)) = (open().await, reporting());
            let worker = InboxWorker::new(inbox.clone(), handler, Verification::Trust).start();
            for attempt in attempts {
                assert_eq!(reported.recv().await.unwrap(), (expected.clone(), *attempt));
            }
            until_done(&inbox, &job).await;
            worker.shutdown(Duration::from_secs(5)).await;
            let (row, _) = inbox.get(&job).await.unwrap().unwrap();
            assert_eq!(text(row.traceparent.as_ref()), expected);
            assert!(inbox.replay(&job).await.unwrap());
        }
        let inbox = open().await;
        let leased = inbox.lease(1, Duration::from_secs(60)).await.unwrap().remove(0);
        assert_eq!(text(leased.traceparent.as_ref()), expected, "{leased:?}");
        let _ = inbox.settle(&leased.lease, &Outcome::Done).await.unwrap();
    }
}

async fn until_done(inbox: &impl InboxAdmin, job: &JobId) {
    let state = async || inbox.get(job).await.unwrap().unwrap().0.state;
    eventually("the event is done", async || state().await == InboxState::Done).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_keeps_it_over_a_restart_a_retry_and_a_replay() {
    let folder = Folder::new();
    is_kept(async || SqliteInbox::open(folder.file()).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_keeps_it_over_a_restart_a_retry_and_a_replay() {
    postgres_inbox::inbox("traceparent").await;
    is_kept(async || postgres_inbox::handle("traceparent")).await;
}

/// The same for a text that something else than this crate wrote into the column: the event is handled without it.
async fn is_ignored(inbox: impl InboxAdmin + Clone, spoil: impl AsyncFn(&str)) {
    for spoilt in ["", "x", "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", &"0".repeat(100_000)] {
        let payload = Payload::extract_completed();
        let event = Envelope::try_from(payload.to_bytes()).unwrap();
        let event = event.with_traceparent(SENT.parse().unwrap());
        let _ = inbox.receive(&event).await.unwrap();
        spoil(spoilt).await;
        let (row, _) = inbox.get(event.job()).await.unwrap().unwrap();
        assert_eq!(row.traceparent, None);
        let leased = inbox.lease(1, Duration::from_secs(60)).await.unwrap().remove(0);
        assert_eq!((leased.traceparent, &leased.body), (None, event.body()));
        let _ = inbox.settle(&leased.lease, &Outcome::Done).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_traceparent_that_cannot_be_read_keeps_no_event_from_being_handled() {
    let folder = Folder::new();
    let inbox = SqliteInbox::open(folder.file()).unwrap();
    let hand = Mutex::new(rusqlite::Connection::open(folder.file()).unwrap());
    is_ignored(inbox, async |text| {
        hand.lock().unwrap().execute("UPDATE inbox SET traceparent = ?1", [text]).unwrap();
    })
    .await;
    let inbox = postgres_inbox::inbox("odd_traceparents").await;
    let client = postgres_inbox::client(crate::support::databases::postgres()).await;
    is_ignored(inbox, async |text| {
        client.execute("UPDATE odd_traceparents.inbox SET traceparent = $1", &[&text]).await.unwrap();
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_verified_event_keeps_it_and_a_fetched_one_has_none() {
    let (inbox, api, (handler, mut reported)) = (MemoryInbox::new(), Api::new(Says::Pending), reporting());
    let payload = Payload::extract_completed();
    let received = payload.event().unwrap().job().id().clone();
    let expected: JobId = "expected".parse().unwrap();
    for job in [&received, &expected] {
        api.finish(job);
    }
    let receiver = WebhookReceiver::durable(inbox.clone()).unauthenticated().build().unwrap();
    let mut request = request(&payload);
    request.headers_mut().insert("traceparent", SENT.parse().unwrap());
    assert_eq!(receiver.receive(request).await.status(), 200);
    let _worker = InboxWorker::new(inbox.clone(), handler, Verification::fetch(api.clone())).start();
    for attempt in [1, 2] {
        assert_eq!(reported.recv().await.unwrap(), (Some(SENT.to_owned()), attempt));
    }
    inbox.expect(&expected, Duration::ZERO).await.unwrap();
    for attempt in [1, 2] {
        assert_eq!(reported.recv().await.unwrap(), (None, attempt));
    }
}

/// The function of the guide.
fn link_to_delivery(job: &Job) {
    let Some(traceparent) = job.traceparent() else { return };
    let trace = TraceId::from_hex(traceparent.trace_id()).unwrap_or(TraceId::INVALID);
    let span = SpanId::from_hex(traceparent.span_id()).unwrap_or(SpanId::INVALID);
    let flags = TraceFlags::new(traceparent.flags());
    // The current span is that of the attempt; inline, that of the request.
    tracing::Span::current().add_link(SpanContext::new(trace, span, flags, true, TraceState::default()));
}

/// Collects the spans that OpenTelemetry would send.
#[derive(Debug, Clone, Default)]
struct Collector(Arc<Mutex<Vec<SpanBuilder>>>);

#[derive(Debug)]
struct Collected {
    collector: Collector,
    number: usize,
    context: SpanContext,
}

impl Tracer for Collector {
    type Span = Collected;

    fn build_with_context(&self, builder: SpanBuilder, _: &Context) -> Collected {
        let mut spans = self.0.lock().unwrap();
        spans.push(builder);
        let (number, trace) = (spans.len() - 1, TraceId::from(7));
        let span = SpanId::from(spans.len() as u64);
        let context = SpanContext::new(trace, span, TraceFlags::SAMPLED, false, TraceState::default());
        Collected { collector: self.clone(), number, context }
    }
}

impl Collected {
    fn change(&self, change: impl FnOnce(&mut SpanBuilder)) {
        change(&mut self.collector.0.lock().unwrap()[self.number]);
    }
}

impl Span for Collected {
    fn add_event_with_timestamp<T: Into<Cow<'static, str>>>(
        &mut self,
        _: T,
        _: SystemTime,
        _: Vec<KeyValue>,
    ) {
    }

    fn span_context(&self) -> &SpanContext {
        &self.context
    }

    fn is_recording(&self) -> bool {
        true
    }

    fn set_attribute(&mut self, attribute: KeyValue) {
        self.change(|span| span.attributes.get_or_insert_default().push(attribute));
    }

    fn set_status(&mut self, _: Status) {}

    fn update_name<T: Into<Cow<'static, str>>>(&mut self, name: T) {
        self.change(|span| span.name = name.into());
    }

    fn add_link(&mut self, span_context: SpanContext, attributes: Vec<KeyValue>) {
        let link = Link::new(span_context, attributes, 0);
        self.change(|span| span.links.get_or_insert_default().push(link));
    }

    fn end_with_timestamp(&mut self, _: SystemTime) {}
}

#[test]
fn the_span_of_an_attempt_is_linked_to_the_trace_of_the_delivery() {
    // In a process of its own: a program has one subscriber.
    if !is_alone("traceparent::the_span_of_an_attempt_is_linked_to_the_trace_of_the_delivery") {
        return;
    }
    let collector = Collector::default();
    let layer = tracing_opentelemetry::layer().with_tracer(collector.clone());
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer)).unwrap();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let (report, mut reported) = unbounded_channel();
        let handler = handler_fn(move |event| {
            link_to_delivery(event.job());
            report.send(()).unwrap();
            std::future::ready(Ok(()))
        });
        let inbox = MemoryInbox::new();
        let receiver = WebhookReceiver::durable(inbox.clone()).unauthenticated().build().unwrap();
        let mut request = request(Payload::extract_completed());
        request.headers_mut().insert("traceparent", SENT.parse().unwrap());
        assert_eq!(receiver.receive(request).await.status(), 200);
        let worker = InboxWorker::new(inbox, handler, Verification::Trust).start();
        reported.recv().await.unwrap();
        assert_eq!(worker.shutdown(Duration::from_secs(5)).await, 0);
    });
    let spans = collector.0.lock().unwrap();
    let span = |name| spans.iter().find(|span| span.name == name).unwrap();
    let attempt = span(telemetry::ATTEMPT_SPAN);
    let links: Vec<_> = attempt.links.iter().flatten().map(|link| &link.span_context).collect();
    let [link] = links[..] else { panic!("{links:?}") };
    assert_eq!(format!("00-{}-{}-01", link.trace_id(), link.span_id()), SENT);
    assert!(link.is_sampled() && link.is_remote(), "{link:?}");
    for name in [telemetry::SPAN, telemetry::ATTEMPT_SPAN] {
        let mut fields = span(name).attributes.iter().flatten();
        let field = fields.find(|field| field.key.as_str() == telemetry::TRACEPARENT);
        assert_eq!(field.map(|field| field.value.to_string()).as_deref(), Some(SENT), "{name}");
    }
}
