//! Bodies as no server would give them: in odd frames, without an end, with a panic in the middle.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Version};
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use crate::answers::{LIMIT, body, builder};
use crate::support::http::post;
use crate::support::{Script, TOKEN};

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

/// Says beforehand how long it is, as a server's body does by the request's head.
struct Declared(Frames, u64);

impl Body for Declared {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        Pin::new(&mut self.0).poll_frame(context)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.1)
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
    let long = Frames { frames, end: Some(Ok(())) };
    let began = Instant::now();
    assert_eq!(receiver.receive(post("").with_body(long)).await.status(), 413, "a byte over the limit");
    assert_eq!(began.elapsed(), Duration::ZERO, "it was waited for after the limit");
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

/// Panics when it is asked for its end.
struct PanicsAtOnce;

impl Body for PanicsAtOnce {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        panic!("a body's bug")
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_panics_before_it_is_read_has_an_answer() {
    let receiver = builder(&Script::default()).build().unwrap();
    assert_eq!(receiver.receive(post("").with_body(PanicsAtOnce)).await.status(), 503);
}

/// A server may drop the header or fail over it, so that no test over HTTP/2 could tell.
#[tokio::test(start_paused = true)]
async fn no_connection_is_closed_that_is_shared_by_others() {
    let receiver = builder(&Script::default()).build().unwrap();
    for (version, closes) in [(Version::HTTP_10, true), (Version::HTTP_11, true), (Version::HTTP_2, false)] {
        let mut request = post("").query("").with_body(Frames::default());
        *request.version_mut() = version;
        let reply = receiver.receive(request).await;
        assert_eq!((reply.status().as_u16(), reply.headers().contains_key("connection")), (401, closes));
    }
}

/// Frames of one kind, always ready and counted. They end after a gibibyte, so that a test which takes all of them fails.
#[derive(Clone)]
struct Endless {
    kind: Kind,
    given: Arc<AtomicUsize>,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Data(&'static [u8]),
    Trailers,
}

impl Endless {
    fn of(kind: Kind) -> Self {
        Self { kind, given: Arc::default() }
    }

    fn given(&self) -> usize {
        self.given.load(Ordering::SeqCst)
    }
}

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let given = self.given.fetch_add(1, Ordering::SeqCst);
        Poll::Ready(match self.kind {
            Kind::Data(bytes) if bytes.len().saturating_mul(given) > 1 << 30 => None,
            Kind::Data(bytes) => Some(Ok(Frame::data(Bytes::from_static(bytes)))),
            Kind::Trailers => Some(Ok(Frame::trailers(HeaderMap::new()))),
        })
    }
}

/// By the real clock: a paused one stands still while anything is ready.
#[tokio::test]
async fn a_body_that_is_always_ready_starves_neither_its_deadline_nor_other_tasks() {
    let script = Script::default();
    let receiver = builder(&script)
        .max_body_bytes(usize::MAX >> 1)
        .max_body_bytes_in_flight(usize::MAX)
        .ack_deadline(Duration::from_millis(450))
        .build()
        .unwrap();
    for kind in [Kind::Data(b""), Kind::Trailers, Kind::Data(b" ")] {
        let ticks = Arc::new(AtomicUsize::new(0));
        let other = tokio::spawn({
            let ticks = ticks.clone();
            async move {
                loop {
                    ticks.fetch_add(1, Ordering::SeqCst);
                    tokio::task::yield_now().await;
                }
            }
        });
        let (began, body) = (Instant::now(), Endless::of(kind));
        let received = receiver.receive(post("").with_body(body.clone()));
        // From a thread of its own: a request that starves this one would starve the test's own end as well.
        let (done, is_done) = std::sync::mpsc::channel::<()>();
        std::thread::spawn(move || {
            if is_done.recv_timeout(Duration::from_secs(30))
                == Err(std::sync::mpsc::RecvTimeoutError::Timeout)
            {
                eprintln!("{kind:?}: the body has starved its runtime");
                std::process::abort();
            }
        });
        let status = received.await.status();
        drop(done);
        other.abort();
        assert_eq!(status, 408, "{kind:?}");
        assert!(began.elapsed() < Duration::from_secs(5), "{kind:?}: {:?}", began.elapsed());
        assert!(ticks.load(Ordering::SeqCst) > 10, "{kind:?}: no other task had a turn");
        // The same of a body that is only discarded.
        let (began, body) = (Instant::now(), Endless::of(kind));
        let reply = receiver.receive(post("").query("").with_body(body.clone())).await;
        assert_eq!(reply.status(), 401, "{kind:?}");
        assert!(began.elapsed() < Duration::from_secs(5), "{kind:?}: {:?}", began.elapsed());
    }
    assert_eq!(script.runs(), 0);
}

#[tokio::test(start_paused = true)]
async fn memory_is_taken_for_what_has_come_whatever_is_declared_and_allowed() {
    let script = Script::default();
    let receiver = builder(&script).max_body_bytes(usize::MAX).max_body_bytes_in_flight(usize::MAX).build();
    let receiver = receiver.unwrap();
    for declared in ["70368744177664", "9223372036854775807", "18446744073709551615"] {
        let content = body();
        let frames = content.chunks(100).map(|chunk| Frame::data(Bytes::copy_from_slice(chunk))).collect();
        let request = post("").header("content-length", declared);
        let body = Declared(Frames { frames, end: Some(Ok(())) }, declared.parse().unwrap());
        assert_eq!(receiver.receive(request.with_body(body)).await.status(), 200, "{declared}");
    }
    assert_eq!(script.runs(), 3);
}

#[tokio::test(start_paused = true)]
async fn of_a_refused_body_two_mebibytes_are_discarded_or_what_comes_in_a_second() {
    const FRAME: &[u8] = &[b' '; 64 << 10];
    let receiver = builder(&Script::default()).build().unwrap();
    let requests = [
        (405, post("").method("PUT")),
        (401, post("").query("")),
        (415, post("").without("content-type").header("content-type", "x/y")),
        (413, post("").header("content-length", "9999999")),
        (413, post("")),
    ];
    for (status, request) in requests {
        let (began, body) = (Instant::now(), Endless::of(Kind::Data(FRAME)));
        assert_eq!(receiver.receive(request.with_body(body.clone())).await.status(), status);
        // The last frame is the one that is too much, and a body that is too large has one more.
        assert!((33..=34).contains(&body.given()), "{status}: {} frames were taken", body.given());
        assert_eq!(began.elapsed(), Duration::ZERO, "{status}");

        let stalled = Frames { frames: [Frame::data(Bytes::from_static(FRAME))].into(), end: None };
        let reply = receiver.receive(request.with_body(stalled)).await;
        assert_eq!((reply.status().as_u16(), began.elapsed()), (status, Duration::from_secs(1)));
        assert_eq!(reply.headers()["connection"], "close", "{status}");

        for end in [Ok(()), Err("reset by peer"), Err("panics")] {
            let began = Instant::now();
            let whole = Frames { frames: [Frame::data(Bytes::from_static(FRAME))].into(), end: Some(end) };
            let reply = receiver.receive(request.with_body(whole)).await;
            assert_eq!((reply.status().as_u16(), began.elapsed()), (status, Duration::ZERO), "{end:?}");
            // Whether all of it came in time is nothing that the answer depends on.
            assert_eq!(reply.headers()["connection"], "close", "{status} {end:?}");
        }
        if status != 413 || request.head().contains("content-length") {
            let (began, body) = (Instant::now(), Endless::of(Kind::Data(FRAME)));
            let waits = request.header("expect", "100-Continue").with_body(body.clone());
            assert_eq!(receiver.receive(waits).await.status(), status);
            assert_eq!((body.given(), began.elapsed()), (0, Duration::ZERO), "it was asked for its body");
        }
    }
    // The answer is due at the ack deadline, whatever still comes.
    let deadline = Duration::from_millis(200);
    let receiver = builder(&Script::default()).ack_deadline(deadline).build().unwrap();
    let began = Instant::now();
    let reply = receiver.receive(post("").query("").with_body(Frames::default())).await;
    assert_eq!((reply.status().as_u16(), began.elapsed()), (401, deadline));
}

#[tokio::test(start_paused = true)]
async fn what_is_discarded_takes_no_room_from_webhooks_and_a_flood_of_it_is_answered_at_once() {
    let script = Script::default();
    let receiver = builder(&script).max_body_bytes_in_flight(LIMIT).build().unwrap();
    let began = Instant::now();
    let mut discarding = tokio::task::JoinSet::new();
    for _ in 0..300 {
        let receiver = receiver.clone();
        let frames = [Frame::data(Bytes::from_static(&[b' '; 4096]))].into();
        let refused = post("").query("?token=x").with_body(Frames { frames, end: None });
        discarding.spawn(async move {
            assert_eq!(receiver.receive(refused).await.status(), 401);
            began.elapsed()
        });
    }
    tokio::task::yield_now().await;
    let mut large = body();
    large.resize(LIMIT, b' ');
    let webhook = Frames { frames: [Frame::data(large.into())].into(), end: Some(Ok(())) };
    let request = post("").query(&format!("?token={TOKEN}"));
    assert_eq!(receiver.receive(request.with_body(webhook)).await.status(), 200);
    assert_eq!((began.elapsed(), script.runs()), (Duration::ZERO, 1), "the webhook waited");
    let took = discarding.join_all().await;
    let at_once = took.iter().filter(|took| took.is_zero()).count();
    assert_eq!(at_once, 300 - 256, "so many were not discarded: {took:?}");
    assert!(took.iter().all(|took| *took <= Duration::from_secs(1)), "{took:?}");
    let began = Instant::now();
    receiver.receive(post("").query("").with_body(Frames::default())).await;
    assert_eq!(began.elapsed(), Duration::from_secs(1), "a place was not given back");
}
