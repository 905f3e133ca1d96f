//! An HTTP head and body through `receive`: the status that the model names, and the handler gets the event exactly if
//! that is 200. The input is a head with line ends of one byte, an empty line, and the body. The header `x-frame` divides
//! the body into frames of that length.
#![no_main]

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Method, Request, Uri};
use http_body::{Body, Frame};
use libfuzzer_sys::fuzz_target;
use qomplement_webhooks::dedup::{Claim, ClaimToken};
use qomplement_webhooks::store::{Fenced, StoreError};
use qomplement_webhooks::{DedupStore, SharedToken, WebhookEvent, WebhookReceiver, handler_fn};
use qomplement_webhooks_fuzz::model::{self, Refusal};
use tokio::runtime::Runtime;

const TOKEN: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const MOST_BYTES: usize = 1024;

/// Grants every claim and forgets it, so that every input is answered alike whatever came before.
#[derive(Debug)]
struct NoStore;

#[async_trait]
impl DedupStore for NoStore {
    async fn claim(&self, _: &ClaimToken, _: Duration) -> Result<Claim, StoreError> {
        Ok(Claim::Acquired)
    }

    async fn renew(&self, _: &ClaimToken, _: Duration) -> Result<Fenced, StoreError> {
        Ok(Fenced::Applied)
    }

    async fn complete(&self, _: &ClaimToken, _: Duration) -> Result<Fenced, StoreError> {
        Ok(Fenced::Applied)
    }

    async fn release(&self, _: &ClaimToken) -> Result<Fenced, StoreError> {
        Ok(Fenced::Applied)
    }
}

struct Fixture {
    runtime: Runtime,
    receiver: WebhookReceiver,
    handled: Arc<Mutex<Vec<WebhookEvent>>>,
}

static FIXTURE: LazyLock<Fixture> = LazyLock::new(|| {
    let handled = Arc::new(Mutex::new(Vec::new()));
    let handler = handler_fn({
        let handled = handled.clone();
        move |event: WebhookEvent| {
            handled.lock().unwrap().push(event);
            async { Ok(()) }
        }
    });
    let receiver = WebhookReceiver::builder(handler.with_unrecognized())
        .token(SharedToken::new(TOKEN).unwrap())
        .dedup_store(NoStore)
        .max_body_bytes(MOST_BYTES)
        .build()
        .unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    Fixture { runtime, receiver, handled }
});

struct Frames(VecDeque<Bytes>);

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// Reads the head; `None` if no server would pass it on.
fn head(text: &[u8]) -> Option<Request<()>> {
    let mut lines = text.split(|byte| *byte == b'\n');
    let mut words = lines.next()?.splitn(2, |byte| *byte == b' ');
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(words.next()?).ok()?;
    *request.uri_mut() = Uri::try_from(words.next()?).ok()?;
    for line in lines {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let name = HeaderName::from_bytes(parts.next()?).ok()?;
        let value = HeaderValue::from_bytes(parts.next()?.trim_ascii()).ok()?;
        request.headers_mut().append(name, value);
    }
    Some(request)
}

fn is_authentic(request: &Request<()>) -> bool {
    let query = request.uri().query().unwrap_or_default();
    let in_query = form_urlencoded::parse(query.as_bytes()).filter(|(key, _)| key == "token");
    let mut tokens: Vec<Vec<u8>> = in_query.map(|(_, token)| token.as_bytes().to_vec()).collect();
    for value in request.headers().get_all(AUTHORIZATION) {
        let value = value.as_bytes();
        if value.to_ascii_lowercase().starts_with(b"bearer ") {
            tokens.push(value[7..].trim_ascii().to_vec());
        }
    }
    tokens == [TOKEN.as_bytes()]
}

fn is_json(content_type: &HeaderValue) -> bool {
    let text = String::from_utf8_lossy(content_type.as_bytes()).to_ascii_lowercase();
    let essence = text.split(';').next().unwrap_or_default().trim_ascii();
    let Some(subtype) = essence.strip_prefix("application/") else { return false };
    subtype == "json" || subtype.strip_suffix("+json").is_some_and(|suffixed| !suffixed.is_empty())
}

fn status(request: &Request<()>, body: &[u8]) -> u16 {
    let headers = request.headers();
    let is_identity = |value: &HeaderValue| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity");
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    match model::body(body) {
        _ if request.method() != Method::POST => 405,
        _ if !is_authentic(request) => 401,
        _ if !headers.get_all(CONTENT_TYPE).iter().all(is_json) => 415,
        _ if !headers.get_all(CONTENT_ENCODING).iter().all(is_identity) => 415,
        _ if length.is_some_and(|length| length > MOST_BYTES as u64) || body.len() > MOST_BYTES => 413,
        Err(Refusal::NotUtf8 | Refusal::NotJson | Refusal::Repeated(_)) => 400,
        Err(Refusal::Envelope(_) | Refusal::Mismatch) => 422,
        Ok(_) => 200,
    }
}

fuzz_target!(|input: &[u8]| -> libfuzzer_sys::Corpus {
    let Some(end) = input.windows(2).position(|two| two == b"\n\n") else {
        return libfuzzer_sys::Corpus::Reject;
    };
    let body = &input[end + 2..];
    let Some(request) = head(&input[..end]) else { return libfuzzer_sys::Corpus::Reject };
    let frame = request.headers().get("x-frame").and_then(|frame| frame.to_str().ok()?.parse().ok());
    let frames = body.chunks(frame.unwrap_or(MOST_BYTES * 4).max(1)).map(Bytes::copy_from_slice).collect();
    let expected = status(&request, body);

    let Fixture { runtime, receiver, handled } = &*FIXTURE;
    let response = runtime.block_on(receiver.receive(request.map(|()| Frames(frames))));
    assert_eq!(response.status(), expected);
    assert!(expected != 200 || !response.headers().contains_key(CONNECTION));
    let handled = std::mem::take(&mut *handled.lock().unwrap());
    match (&handled[..], expected) {
        ([event], 200) => {
            let (root, envelope) = model::body(body).unwrap();
            assert_eq!(event.job().raw(), body);
            model::check_event(event, &root, &envelope);
        }
        ([], status) => assert_ne!(status, 200),
        (events, status) => panic!("{} events were handled, and the status is {status}", events.len()),
    }
    libfuzzer_sys::Corpus::Keep
});
