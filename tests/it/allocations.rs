//! The allocations of a webhook, beside those of a bare handler in the same framework.

use std::alloc::System;
use std::convert::Infallible;

use axum::Router;
use axum::routing::post;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use qomplement_webhooks::sender::Payload;
use qomplement_webhooks::{MemoryDedupStore, SharedToken, WebhookReceiver, handler_fn};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

use crate::support::http::post as delivery;
use crate::support::servers::{Framework, Server};
use crate::support::{PATH, TOKEN, is_alone};

/// Counts what all threads allocate.
#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The allocations that a webhook may cost more than a bare handler's request: the adapter's future, the work, which
/// outlives a client that leaves, the state that it shares with the request, and the futures of three methods that
/// users implement (claim, handler, complete); the bare handler collects its body in a list.
const MOST: usize = 5;
const ANSWER: &str = r#"{"received":true}"#;

#[test]
fn a_webhook_makes_at_most_five_allocations_more_than_a_bare_handler() {
    // In a process of its own, where no other test allocates.
    if !is_alone("allocations::a_webhook_makes_at_most_five_allocations_more_than_a_bare_handler") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for framework in [Framework::Hyper, Framework::Axum] {
            let handler = handler_fn(|_| async { Ok(()) });
            // Of few shards: in a large store, nearly each of the first thousand jobs is a shard's first.
            let receiver = WebhookReceiver::builder(handler)
                .token(SharedToken::new(TOKEN).unwrap())
                .dedup_store(MemoryDedupStore::with_capacity(4096))
                .build()
                .unwrap();
            let server = Server::start(framework, receiver).await;
            let allocations = allocations(server.address).await;
            let bare = bare(framework).await;
            println!("{framework:?}: {allocations} allocations, {bare} of a bare handler");
            assert!(allocations <= bare + MOST, "{framework:?}: {allocations}, and {bare} of a bare handler");
        }
    });
}

/// The allocations of a request to a handler by hand, which reads the body and answers.
async fn bare(framework: Framework) -> usize {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server: AbortHandle = if framework == Framework::Axum {
        let handler = async |body: Bytes| {
            drop(body);
            ([("content-type", "application/json")], ANSWER)
        };
        let app = Router::new().route(PATH, post(handler));
        tokio::spawn(axum::serve(listener, app).into_future()).abort_handle()
    } else {
        let serve = async move {
            let (stream, _) = listener.accept().await.unwrap();
            let connection =
                http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(by_hand));
            connection.await.unwrap();
        };
        tokio::spawn(serve).abort_handle()
    };
    let allocations = allocations(address).await;
    server.abort();
    allocations
}

async fn by_hand(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    drop(request.into_body().collect().await.unwrap().to_bytes());
    let mut response = Response::new(Full::from(ANSWER));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// The median of the allocations from a request's first byte to its answer.
async fn allocations(address: std::net::SocketAddr) -> usize {
    let requests: Vec<_> = (0..100)
        .map(|number| {
            let body = Payload::extract_completed().job_id(format!("550e8400-e29b-41d4-a716-{number:012x}"));
            let draft = delivery(body.to_bytes());
            [draft.head().as_bytes(), draft.body()].concat()
        })
        .collect();
    let mut counts = Vec::with_capacity(requests.len());
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut answer = [0; 4096];
    for request in &requests {
        let region = Region::new(ALLOCATOR);
        stream.write_all(request).await.unwrap();
        let mut length = 0;
        while !answer[..length].ends_with(b"}") {
            let read = stream.read(&mut answer[length..]).await.unwrap();
            assert!(read > 0, "the connection ended");
            length += read;
        }
        let change = region.change();
        counts.push(change.allocations + change.reallocations);
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer[..length]));
    }
    counts.sort_unstable();
    counts[counts.len() / 2]
}
