//! Reads a request's body, within bounds of size, time and memory.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use http_body::{Body, Frame};
use tokio::task::consume_budget;
use tokio::time::{Instant, sleep_until};
use tracing::warn;

use super::Reply;
use crate::error::{BoxError, chain};
use crate::execution::isolation::{self, isolate};

/// How many bytes bodies may have.
#[derive(Debug)]
pub(super) struct BodyLimits {
    pub(super) max_bytes: usize,
    pub(super) max_bytes_in_flight: usize,
    /// The bytes of all bodies in memory.
    pub(super) in_flight: Arc<AtomicUsize>,
    /// How many refused bodies are being discarded.
    pub(super) discarding: AtomicUsize,
}

/// How much of a refused body is discarded, and for how long, before the answer closes the connection.
const MOST_DISCARDED: usize = 2 << 20;
const DISCARD_TIME: Duration = Duration::from_secs(1);
/// How many bodies are discarded at once. More get their answer at once, as a flood of refused requests
/// should not hold so many connections for a second more.
const MOST_DISCARDING: usize = 256;

/// Bytes that count as in flight.
#[derive(Debug)]
pub(super) struct Room {
    bytes: usize,
    in_flight: Arc<AtomicUsize>,
}

impl Room {
    /// Takes room for more bytes, or refuses: bodies that waited for each other's room could all wait.
    fn grow(&mut self, more: usize, limits: &BodyLimits) -> Result<(), Reply> {
        let grown =
            |bytes: usize| bytes.checked_add(more).filter(|&bytes| bytes <= limits.max_bytes_in_flight);
        if self.in_flight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown).is_err() {
            warn!("the bodies in memory have reached their limit");
            return Err(Reply::Unavailable);
        }
        // Cannot overflow: these bytes are among those in flight.
        self.bytes += more;
        Ok(())
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

/// Checks what the head says about the body.
pub(super) fn check_headers(headers: &HeaderMap, limits: &BodyLimits) -> Result<(), Reply> {
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
        Ok(declared) if declared <= limits.max_bytes => Ok(()),
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

/// Reads a body to its end.
pub(super) async fn read<B>(body: Pin<&mut B>, limits: &BodyLimits, until: Instant) -> Result<ReadBody, Reply>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    let read = pin!(read_all(body, limits));
    isolation::until(read, || sleep_until(until)).await.unwrap_or(Err(Reply::BodyTimeout))
}

async fn read_all<B>(mut body: Pin<&mut B>, limits: &BodyLimits) -> Result<ReadBody, Reply>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    let mut room = Room { bytes: 0, in_flight: limits.in_flight.clone() };
    // Nearly every body is one frame, which is taken as it is.
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(frame) = next_frame(&mut body).await {
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
                // Grows with what comes: a declared length is not to be trusted with memory.
                rest.put(std::mem::take(&mut first));
            }
            rest.put(data);
        }
    }
    let bytes = if rest.is_empty() { first } else { rest.freeze() };
    Ok(ReadBody { bytes, room })
}

/// The next frame of a body. A body whose frames are always ready lets other tasks run, and timers fire.
async fn next_frame<B: Body>(body: &mut Pin<&mut B>) -> Option<Result<Frame<B::Data>, B::Error>> {
    consume_budget().await;
    poll_fn(|context| body.as_mut().poll_frame(context)).await
}

/// Takes a place among the bodies that are discarded, for as long as it lives.
struct Discarding<'a>(&'a AtomicUsize);

impl<'a> Discarding<'a> {
    fn begin(discarding: &'a AtomicUsize) -> Option<Self> {
        let place = Self(discarding);
        (discarding.fetch_add(1, Ordering::Relaxed) < MOST_DISCARDING).then_some(place)
    }
}

impl Drop for Discarding<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Takes what still comes of a refused body, within bounds, and keeps nothing of it.
///
/// Many a client writes its whole request before it reads the answer. If the connection were closed while it
/// writes, it would see a broken connection in the place of the answer.
pub(super) async fn discard<B: Body>(
    mut body: Pin<&mut B>,
    headers: &HeaderMap,
    limits: &BodyLimits,
    until: Instant,
) {
    // This client sends its body only when it is asked to, and asking is what reading would do.
    if headers.get_all(EXPECT).iter().any(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        return;
    }
    let Some(_place) = Discarding::begin(&limits.discarding) else { return };
    let rest = pin!(async {
        let mut left = MOST_DISCARDED;
        while let Some(Ok(frame)) = next_frame(&mut body).await {
            let bytes = frame.into_data().map_or(0, |data| data.remaining());
            match left.checked_sub(bytes) {
                Some(less) => left = less,
                None => return,
            }
        }
    });
    let until = until.min(Instant::now() + DISCARD_TIME);
    // A body that panics has ended.
    let _ = isolation::until(isolate(rest), || sleep_until(until)).await;
}
