//! Reads a request's body, within bounds of size, time and memory.

use std::error::Error;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http_body::Body;
use tokio::time::{Instant, sleep_until};
use tracing::warn;

use super::Reply;
use crate::guard::{self, chain};

/// How many bytes bodies may have.
#[derive(Debug)]
pub(super) struct BodyLimits {
    pub(super) max_bytes: usize,
    pub(super) max_bytes_in_flight: usize,
    /// The bytes of all bodies in memory.
    pub(super) in_flight: Arc<AtomicUsize>,
}

/// Bytes that count as in flight.
#[derive(Debug)]
pub(super) struct Room {
    bytes: usize,
    in_flight: Arc<AtomicUsize>,
}

impl Room {
    /// Takes room for more bytes, or refuses: bodies that waited for each other's room could all wait.
    fn grow(&mut self, more: usize, limits: &BodyLimits) -> Result<(), Reply> {
        self.bytes += more;
        if self.in_flight.fetch_add(more, Ordering::Relaxed) + more <= limits.max_bytes_in_flight {
            return Ok(());
        }
        warn!("the bodies in memory have reached their limit");
        Err(Reply::Unavailable)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.in_flight.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A whole body, and the room in memory that it takes.
pub(super) struct ReadBody {
    pub(super) bytes: Bytes,
    /// Given back when the event has been handled, which is when the bytes go.
    pub(super) room: Room,
}

/// Checks what the head says about the body, and returns the declared length, 0 if there is none.
pub(super) fn check_headers(headers: &HeaderMap, limits: &BodyLimits) -> Result<usize, Reply> {
    if !headers.get_all(CONTENT_TYPE).iter().all(|value| is_json(value.as_bytes())) {
        return Err(Reply::UnsupportedMediaType);
    }
    let mut encodings = headers.get_all(CONTENT_ENCODING).iter();
    if !encodings.all(|value| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity")) {
        return Err(Reply::UnsupportedEncoding);
    }
    // One that cannot be read is for the server to refuse; the bytes are counted anyway.
    let declared = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    match usize::try_from(declared.unwrap_or(0)) {
        Ok(declared) if declared <= limits.max_bytes => Ok(declared),
        _ => Err(Reply::BodyTooLarge),
    }
}

/// Whether a content type is `application/json` or `application/*+json`, whatever its parameters.
fn is_json(content_type: &[u8]) -> bool {
    let essence = content_type.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
    let Some((kind, subtype)) = essence.split_at_checked("application/".len()) else { return false };
    let suffix = subtype.len().checked_sub("+json".len()).map(|at| &subtype[at..]);
    kind.eq_ignore_ascii_case(b"application/")
        && (subtype.eq_ignore_ascii_case(b"json")
            || subtype.len() > "+json".len()
                && suffix.is_some_and(|suffix| suffix.eq_ignore_ascii_case(b"+json")))
}

/// Reads a body of a declared length to its end.
pub(super) async fn read<B>(
    body: B,
    declared: usize,
    limits: &BodyLimits,
    until: Instant,
) -> Result<ReadBody, Reply>
where
    B: Body,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let read = pin!(read_all(body, declared, limits));
    guard::until(read, || sleep_until(until)).await.unwrap_or(Err(Reply::BodyTimeout))
}

async fn read_all<B>(body: B, declared: usize, limits: &BodyLimits) -> Result<ReadBody, Reply>
where
    B: Body,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let mut body = pin!(body);
    let mut room = Room { bytes: 0, in_flight: limits.in_flight.clone() };
    // Nearly every body is one frame, which is taken as it is.
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(frame) = poll_fn(|context| body.as_mut().poll_frame(context)).await {
        let frame = frame.map_err(|error| {
            warn!(error = %chain(&*error.into()), "the body broke off");
            Reply::InvalidJson
        })?;
        let Ok(mut data) = frame.into_data() else { continue };
        if data.remaining() > limits.max_bytes - first.len() - rest.len() {
            return Err(Reply::BodyTooLarge);
        }
        room.grow(data.remaining(), limits)?;
        if rest.is_empty() && first.is_empty() {
            first = data.copy_to_bytes(data.remaining());
        } else {
            if rest.is_empty() {
                // At once, as growing would copy what has come again and again. Memory that is not
                // written to is not taken from the machine yet.
                rest.reserve(declared);
                rest.put(std::mem::take(&mut first));
            }
            rest.put(data);
        }
    }
    let bytes = if rest.is_empty() { first } else { rest.freeze() };
    Ok(ReadBody { bytes, room })
}
