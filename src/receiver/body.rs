//! Reads a request's body within limits of size, time and memory.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http_body::{Body, Frame};
use tokio::task::consume_budget;
use tokio::time::{Instant, sleep_until};
use tracing::warn;

use super::reply::WebhookReply;
use crate::error::{BoxError, chain};
use crate::execution::drain::Drain;
use crate::execution::isolation::{self, isolate};

/// The limits on bodies, and the counts that they apply to.
#[derive(Debug)]
pub(super) struct BodyLimits {
    pub(super) max_bytes: usize,
    pub(super) max_bytes_in_flight: usize,
    /// The bytes of all bodies in memory.
    pub(super) in_flight: Arc<AtomicUsize>,
    /// The number of refused bodies that are being discarded.
    pub(super) discarding: AtomicUsize,
}

/// The most bytes of a refused body that are discarded before the answer closes the connection.
const MOST_DISCARDED: usize = 2 << 20;
/// The longest time for which a refused body is discarded.
const DISCARD_TIME: Duration = Duration::from_secs(1);
/// The most bodies that are discarded at a time. Further requests are answered at once, so that a flood of
/// refused requests does not hold its connections for another second.
const MOST_DISCARDING: usize = 256;

/// The bytes of one body, counted in [`BodyLimits::in_flight`] until this is dropped.
#[derive(Debug)]
pub(super) struct BytesInFlight {
    bytes: usize,
    in_flight: Arc<AtomicUsize>,
}

impl BytesInFlight {
    /// Counts more bytes, or refuses them. Does not wait: bodies that waited for each other's memory could
    /// all wait for ever.
    fn grow(&mut self, more: usize, limits: &BodyLimits) -> Result<(), WebhookReply> {
        let grown =
            |bytes: usize| bytes.checked_add(more).filter(|&bytes| bytes <= limits.max_bytes_in_flight);
        if self.in_flight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown).is_err() {
            warn!("the bodies in memory have reached `max_body_bytes_in_flight`; answering 503");
            return Err(WebhookReply::Unavailable);
        }
        // Cannot overflow: the sum is part of `in_flight`, which did not.
        self.bytes += more;
        Ok(())
    }
}

impl Drop for BytesInFlight {
    fn drop(&mut self) {
        self.in_flight.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A whole body.
pub(super) struct ReadBody {
    pub(super) bytes: Bytes,
    /// To be dropped after the event has been handled, which is when the bytes are freed; a renewal that hangs keeps them
    /// counted until its time limit.
    pub(super) in_flight: BytesInFlight,
}

/// Reads a body to its end, unless the time or a shutdown ends before.
pub(super) async fn read<B>(
    body: Pin<&mut B>,
    limits: &BodyLimits,
    until: Instant,
    drain: &Drain,
) -> Result<ReadBody, WebhookReply>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    let read = pin!(read_all(body, limits));
    let ended = || async {
        tokio::select! {
            biased;
            () = drain.aborted() => WebhookReply::Unavailable,
            () = sleep_until(until) => WebhookReply::BodyTimeout,
        }
    };
    isolation::until(read, ended).await.unwrap_or_else(Err)
}

async fn read_all<B>(mut body: Pin<&mut B>, limits: &BodyLimits) -> Result<ReadBody, WebhookReply>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    let mut in_flight = BytesInFlight { bytes: 0, in_flight: limits.in_flight.clone() };
    // Nearly every body is one frame, which needs no copy.
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    loop {
        let Some(frame) = next_frame(&mut body).await else { break };
        let frame = frame.map_err(|error| {
            warn!(error = %chain(&*error.into()), "the body broke off; answering 400");
            WebhookReply::InvalidJson
        })?;
        if let Ok(mut data) = frame.into_data() {
            if data.remaining() > limits.max_bytes - first.len() - rest.len() {
                return Err(WebhookReply::BodyTooLarge);
            }
            in_flight.grow(data.remaining(), limits)?;
            if rest.is_empty() && first.is_empty() {
                first = data.copy_to_bytes(data.remaining());
            } else {
                if rest.is_empty() {
                    // Grows with the received bytes: a declared length must not reserve memory.
                    rest.put(std::mem::take(&mut first));
                }
                rest.put(data);
            }
            if body.is_end_stream() {
                break;
            }
        }
        // A body whose frames are always ready lets other tasks run, and timers fire.
        consume_budget().await;
    }
    let bytes = if rest.is_empty() { first } else { rest.freeze() };
    Ok(ReadBody { bytes, in_flight })
}

async fn next_frame<B: Body>(body: &mut Pin<&mut B>) -> Option<Result<Frame<B::Data>, B::Error>> {
    poll_fn(|context| body.as_mut().poll_frame(context)).await
}

/// One of the bodies that are being discarded, counted until this is dropped.
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

/// Reads and drops the rest of a refused body, within limits.
///
/// Many clients write their whole request before they read the answer. Such a client would see a broken
/// connection instead of the answer if the connection were closed while it writes.
pub(super) async fn discard<B: Body>(mut body: Pin<&mut B>, limits: &BodyLimits, until: Instant) {
    let Some(_place) = Discarding::begin(&limits.discarding) else { return };
    let rest = pin!(async {
        let mut left = MOST_DISCARDED;
        loop {
            // As in `read_all`.
            consume_budget().await;
            let Some(Ok(frame)) = next_frame(&mut body).await else { return };
            let bytes = frame.into_data().map_or(0, |data| data.remaining());
            match left.checked_sub(bytes) {
                Some(less) => left = less,
                None => return,
            }
        }
    });
    let until = until.min(Instant::now() + DISCARD_TIME);
    // A panic ends the body as well.
    let _ = isolation::until(isolate(rest), || sleep_until(until)).await;
}
