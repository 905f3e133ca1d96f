//! Bodies as no server would give them: in odd frames, without an end, with a panic in the middle.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Version};
use http_body::{Body, Frame};
use tokio::time::Instant;

use crate::answers::{LIMIT, body, builder};
use crate::http::post;
use crate::support::Script;

/// Gives its frames one at a time, and then stalls.
#[derive(Default)]
struct Frames {
    frames: VecDeque<Frame<Bytes>>,
    end: Option<Result<(), &'static str>>,
}

impl Body for Frames {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        match (self.frames.pop_front(), self.end) {
            (Some(frame), _) => Poll::Ready(Some(Ok(frame))),
            (None, Some(Ok(()))) => Poll::Ready(None),
            (None, Some(Err("panics"))) => panic!("a body's bug"),
            (None, Some(Err(error))) => Poll::Ready(Some(Err(error))),
            (None, None) => Poll::Pending,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_is_the_sum_of_its_frames() {
    let script = Script::default();
    let receiver = builder(&script).build().unwrap();
    for size in [1, 7, 100, LIMIT] {
        let content = body();
        let mut frames: VecDeque<_> =
            content.chunks(size).map(|chunk| Frame::data(Bytes::copy_from_slice(chunk))).collect();
        // Empty frames say nothing, and trailers are not of the body.
        frames.insert(frames.len() / 2, Frame::data(Bytes::new()));
        frames.push_front(Frame::data(Bytes::new()));
        frames.push_back(Frame::trailers(HeaderMap::new()));
        let whole = Frames { frames, end: Some(Ok(())) };
        // Of what is declared, no more is believed than that the body is not too large.
        let declared = if size == 7 { "1" } else { "2000" };
        let request = post("").header("content-length", declared).with_body(whole);
        assert_eq!(receiver.receive(request).await.status(), 200, "frames of {size}");
    }
    assert_eq!(script.runs(), 4);

    let frames = (0..=LIMIT).map(|_| Frame::data(Bytes::from_static(b" "))).collect();
    let long = Frames { frames, end: None };
    let began = Instant::now();
    assert_eq!(receiver.receive(post("").with_body(long)).await.status(), 413, "a byte over the limit");
    assert_eq!(began.elapsed(), Duration::ZERO, "it was read on after the limit");
}

#[tokio::test(start_paused = true)]
async fn a_body_has_seven_ninths_of_the_deadline_and_must_come_to_its_end() {
    let script = Script::default();
    let receiver = builder(&script).build().unwrap();
    for (end, status, seconds) in
        [(None, 408, 3.5), (Some(Err("reset by peer")), 400, 0.0), (Some(Err("panics")), 503, 0.0)]
    {
        let began = Instant::now();
        let frames = [Frame::data(body().into())].into();
        let reply = receiver.receive(post("").with_body(Frames { frames, end })).await;
        assert_eq!(reply.status(), status, "{end:?}");
        assert_eq!(reply.headers()["connection"], "close", "{end:?}: the body was not read");
        assert_eq!(began.elapsed().as_secs_f32(), seconds, "{end:?}");
    }
    assert_eq!(script.runs(), 0, "a body without its end was handled");
}

/// A server may drop the header or fail over it, so that no test over HTTP/2 could tell.
#[tokio::test]
async fn no_connection_is_closed_that_is_shared_by_others() {
    let receiver = builder(&Script::default()).build().unwrap();
    for (version, closes) in [(Version::HTTP_10, true), (Version::HTTP_11, true), (Version::HTTP_2, false)] {
        let mut request = post("").query("").with_body(Frames::default());
        *request.version_mut() = version;
        let reply = receiver.receive(request).await;
        assert_eq!((reply.status().as_u16(), reply.headers().contains_key("connection")), (401, closes));
    }
}
