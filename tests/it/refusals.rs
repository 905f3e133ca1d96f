//! Clients that write their whole request before they read the answer.

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use actix_web::error::PayloadError;
use actix_web::test::TestRequest;
use actix_web::{FromRequest, Handler, dev, web};
use bytes::Bytes;
use futures_core::Stream;
use qomplement_webhooks::{SharedToken, WebhookReceiver};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::answers::{LIMIT, builder, expected};
use crate::support::http::{Connection, Draft, chunked, post};
use crate::support::servers::{Framework, Server};
use crate::support::{PATH, Script, TOKEN};

const MIB: usize = 1 << 20;

/// A connection that keeps hardly anything back of what the server does not read.
async fn connect(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_send_buffer_size(16 << 10).unwrap();
    socket.connect(address).await.unwrap()
}

/// Every request that is refused with this much of its body still to come.
fn refused(length: usize) -> Vec<(u16, &'static str, Draft)> {
    let large = || post(vec![b' '; length]);
    let in_chunks = post(chunked(&vec![b' '; length], 32 << 10)).undeclared();
    vec![
        (405, "method_not_allowed", large().method("PUT")),
        (401, "unauthorized", large().query("?token=wrong")),
        (401, "unauthorized", in_chunks.clone().header("transfer-encoding", "chunked").query("")),
        (415, "unsupported_media_type", large().without("content-type").header("content-type", "text/plain")),
        (415, "unsupported_encoding", large().header("content-encoding", "gzip")),
        (413, "body_too_large", large()),
        (413, "body_too_large", in_chunks.header("transfer-encoding", "chunked")),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_writes_a_mebibyte_before_it_reads_reads_its_answer() {
    for framework in Framework::ALL {
        let receiver = builder(&Script::default()).build().unwrap();
        let server = Server::start(framework, receiver.clone()).await;
        let mut requests = refused(MIB);
        for shut_down in [false, true] {
            if shut_down {
                receiver.shutdown(Duration::ZERO).await;
                requests = vec![(503, "unavailable", post(vec![b' '; MIB]))];
            }
            for (status, code, request) in &requests {
                let mut stream = connect(server.address).await;
                stream.write_all(request.head().as_bytes()).await.unwrap();
                // In pieces, as a slow client would: the server may answer in between.
                for piece in request.body().chunks(64 << 10) {
                    let written = stream.write_all(piece).await;
                    assert!(written.is_ok(), "{framework:?} {code}: {written:?} while it wrote");
                    tokio::task::yield_now().await;
                }
                let reply = Connection::of(stream).read("POST").await;
                assert_eq!(reply, expected(*status, code, false), "{framework:?} {code}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_was_told_to_continue_reads_its_answer_too() {
    for framework in Framework::ALL {
        let server = Server::start(framework, builder(&Script::default()).build().unwrap()).await;
        let request = post(chunked(&vec![b' '; MIB], 32 << 10)).undeclared();
        let request = request.header("transfer-encoding", "chunked").header("expect", "100-continue");
        let mut stream = connect(server.address).await;
        stream.write_all(request.head().as_bytes()).await.unwrap();
        let mut told = [0; "HTTP/1.1 100 Continue\r\n\r\n".len()];
        stream.read_exact(&mut told).await.unwrap();
        assert!(told.starts_with(b"HTTP/1.1 100 "), "{framework:?}: {:?}", String::from_utf8_lossy(&told));
        for piece in request.body().chunks(64 << 10) {
            let written = stream.write_all(piece).await;
            assert!(written.is_ok(), "{framework:?}: {written:?} while it wrote");
            tokio::task::yield_now().await;
        }
        let reply = Connection::of(stream).read("POST").await;
        assert_eq!(reply, expected(413, "body_too_large", false), "{framework:?}");
    }
}

/// The chunks of a body that its client holds back.
struct HeldBack;

impl Stream for HeldBack {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Pending
    }
}

#[tokio::test(start_paused = true)]
async fn on_actix_web_a_body_that_is_held_back_is_waited_for_only_if_the_client_was_told_to_continue() {
    use actix_web::http::Version;
    use tokio::time::Instant;

    let receiver = builder(&Script::default()).build().unwrap();
    // actix-web says `100 Continue` by itself, over HTTP/1.1 alone.
    for (version, told) in [(Version::HTTP_10, false), (Version::HTTP_11, true), (Version::HTTP_2, false)] {
        let request = TestRequest::post().uri(PATH).version(version).insert_header(("content-length", "9"));
        let request = request.insert_header(("expect", "100-continue")).to_http_request();
        let mut payload: dev::Payload = dev::Payload::Stream { payload: Box::pin(HeldBack) };
        let payload = web::Payload::from_request(&request, &mut payload).await.unwrap();
        let began = Instant::now();
        let reply = Handler::call(&receiver, (request, payload)).await;
        let waited = Duration::from_secs(u64::from(told));
        assert_eq!((reply.status().as_u16(), began.elapsed()), (401, waited), "{version:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_writes_without_end_or_stalls_holds_its_connection_for_about_a_second() {
    let frameworks = Framework::ALL.map(|framework| {
        tokio::spawn(async move {
            let server = Server::start(framework, builder(&Script::default()).build().unwrap()).await;
            // Three mebibytes are more than is taken: it reads its answer, or a broken connection, and waits
            // for neither.
            let large = post(vec![b' '; 3 * MIB]).query("");
            let began = Instant::now();
            let mut stream = connect(server.address).await;
            stream.write_all(large.head().as_bytes()).await.unwrap();
            let _ = stream.write_all(large.body()).await;
            let rest = Connection::of(stream).closed().await;
            let rest = String::from_utf8_lossy(&rest).into_owned();
            assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 401"), "{framework:?}: {rest}");
            assert!(began.elapsed() < Duration::from_secs(5), "{framework:?}: {:?}", began.elapsed());

            let began = Instant::now();
            let mut stalled = Connection::open(server.address).await;
            stalled.write(large.head().as_bytes()).await;
            stalled.write(&[b' '; 1000]).await;
            assert_eq!(stalled.read("POST").await, expected(401, "unauthorized", false), "{framework:?}");
            assert!(began.elapsed() < Duration::from_secs(4), "{framework:?}: {:?}", began.elapsed());
            assert_eq!(stalled.closed().await, b"", "{framework:?}: the connection was kept");
        })
    });
    for framework in frameworks {
        framework.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http2_a_refused_mebibyte_has_its_answer_too() {
    for framework in Framework::ALL {
        let server = Server::start(framework, builder(&Script::default()).build().unwrap()).await;
        let client = reqwest::Client::builder().http2_prior_knowledge().no_proxy().build().unwrap();
        for (status, query) in [(401, String::new()), (413, format!("?token={TOKEN}"))] {
            for _ in 0..3 {
                let url = format!("{}{query}", server.url());
                let reply = client.post(url).body(vec![b' '; MIB]).send().await;
                let reply = reply.unwrap_or_else(|error| panic!("{framework:?} {status}: {error:?}"));
                assert_eq!(reply.status(), status, "{framework:?}");
            }
        }
    }
}

/// What is taken of a refused body counts in no limit.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_body_leaves_the_room_to_webhooks() {
    let script = Script::default();
    let receiver = WebhookReceiver::builder(script.handler())
        .token(SharedToken::new(TOKEN).unwrap())
        .max_body_bytes(LIMIT)
        .max_body_bytes_in_flight(LIMIT)
        .build()
        .unwrap();
    let server = Server::start(Framework::Axum, receiver).await;
    let mut open = Vec::new();
    for _ in 0..20 {
        let mut stalled = Connection::open(server.address).await;
        stalled.write(post(vec![b' '; MIB]).query("").head().as_bytes()).await;
        stalled.write(&[b' '; 64 << 10]).await;
        open.push(stalled);
    }
    let reply = post(crate::answers::body()).send(server.address).await;
    assert_eq!((reply.status, script.runs()), (200, 1));
    drop(open);
}
