//! Bodies of frameworks that do not use [`http_body::Body`].

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures_core::Stream;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};

/// A stream of chunks as an [`http_body::Body`].
pub(super) struct StreamBody<S> {
    chunks: S,
    /// Whether there is no body. Taken from the head, because a stream does not tell before it is polled; and false after
    /// a chunk, because a body of HTTP/2 needs neither of the two headers.
    is_empty: bool,
}

impl<S> StreamBody<S> {
    pub(super) fn new(headers: &HeaderMap, chunks: S) -> Self {
        // Zero may be written `00`.
        let is_zero = |length: &HeaderValue| length.to_str().is_ok_and(|length| length.parse() == Ok(0_u64));
        let has_length = headers.get(CONTENT_LENGTH).is_some_and(|length| !is_zero(length));
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
        let chunk = ready!(Pin::new(&mut self.chunks).poll_next(context));
        self.is_empty &= chunk.is_none();
        Poll::Ready(chunk.map(|chunk| chunk.map(Frame::data)))
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

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;

    use super::*;
    use crate::{WebhookReceiver, handler_fn};

    struct Chunks(VecDeque<&'static [u8]>);

    impl Stream for Chunks {
        type Item = Result<Bytes, Infallible>;

        fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            Poll::Ready(self.0.pop_front().map(|chunk| Ok(Bytes::from_static(chunk))))
        }
    }

    #[tokio::test]
    async fn a_body_without_a_length_is_read_to_its_end() -> Result<(), Box<dyn std::error::Error>> {
        let receiver =
            WebhookReceiver::builder(handler_fn(|_| async { Ok(()) })).unauthenticated().build()?;
        let chunks: [&[u8]; 3] = [
            br#"{"job_id": "job-7", "data""#,
            br#": {"id": "job-7", "type": "extract","#,
            br#""status": "failed"}}"#,
        ];
        let body = StreamBody::new(&HeaderMap::new(), Chunks(chunks.into()));
        assert_eq!(receiver.receive(http::Request::post("/").body(body)?).await.status(), 200);
        Ok(())
    }
}
