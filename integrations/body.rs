//! Bodies of frameworks that do not use [`http_body::Body`].

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use futures_core::Stream;
use http::HeaderMap;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};

/// A stream of chunks as an [`http_body::Body`].
pub(super) struct StreamBody<S> {
    chunks: S,
    /// Taken from the head, because a stream does not tell before it is polled.
    is_empty: bool,
}

impl<S> StreamBody<S> {
    pub(super) fn new(headers: &HeaderMap, chunks: S) -> Self {
        let has_length = headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0");
        Self { chunks, is_empty: !has_length && !headers.contains_key(TRANSFER_ENCODING) }
    }
}

impl<S, D, E> Body for StreamBody<S>
where
    S: Stream<Item = Result<D, E>> + Unpin,
    D: Buf,
{
    type Data = D;
    type Error = E;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<D>, E>>> {
        Pin::new(&mut self.chunks).poll_next(context).map_ok(Frame::data)
    }

    fn is_end_stream(&self) -> bool {
        self.is_empty
    }
}

/// The bytes of a reply's body.
pub(super) async fn bytes(body: Full<Bytes>) -> Bytes {
    match body.collect().await {
        Ok(collected) => collected.to_bytes(),
        Err(never) => match never {},
    }
}
