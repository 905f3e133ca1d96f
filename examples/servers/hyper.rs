//! A server to try things on, with hyper alone, over HTTP/1 and HTTP/2. The tests and the benchmarks run it, too.
//!
//! ```sh
//! WEBHOOK_TOKEN=$(openssl rand -hex 32) cargo run --example hyper --features hyper
//! ```
//!
//! - `ADDR`: the address to listen on, `127.0.0.1:3000` unless set.
//! - `WEBHOOK_TOKEN`: the token that webhooks must carry; anyone may deliver when it is unset.
//! - `DEDUP_URL`: the dedup store, `redis://…` or `postgres://…` when built with that feature; in memory when it is
//!   unset.
//! - `TLS_CERT`, `TLS_KEY`: PEM files, to serve HTTPS; or `TLS=self-signed`, to try it.
//! - Webhooks go to `/api/webhooks/qomplement?token=…`.
//! - Each call of the handler prints a line to stdout: `handled EVENT JOB_ID`. `FAIL_PERCENT` and `WORK_MS` make
//!   calls fail, and take time.
//! - SIGINT and SIGTERM stop it when the work under way has ended.

use std::convert::Infallible;
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use qomplement_webhooks::{BoxError, WebhookReceiver};
use tokio::time::timeout;

use self::inline::{receiver, shutdown};
use self::support::{listen, run, stop};
use self::tls::tls;

#[path = "support/inline.rs"]
mod inline;
mod support;
#[path = "support/tls.rs"]
mod tls;

async fn serve() -> Result<(), BoxError> {
    let receiver = receiver().await?;
    let tls = tls()?;
    let listener = listen(if tls.is_some() { "https" } else { "http" }).await?;

    let mut server = auto::Builder::new(TokioExecutor::new());
    // Without a timer, hyper waits for ever for the head of a request.
    server.http1().timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(5));
    let connections = GracefulShutdown::new();
    let mut stop = pin!(stop());
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    eprintln!("a connection was not accepted: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
            () = &mut stop => break,
        };
        let (server, watcher, receiver) = (server.clone(), connections.watcher(), receiver.clone());
        let tls = tls.clone();
        tokio::spawn(async move {
            // `serve_connection(io, receiver)` would do, if nothing else were served.
            let service = service_fn(move |request| respond(receiver.clone(), request));
            let served = match tls {
                None => watcher.watch(server.serve_connection(TokioIo::new(stream), service)).await,
                Some(tls) => match timeout(Duration::from_secs(5), tls.accept(stream)).await {
                    Ok(Ok(stream)) => {
                        watcher.watch(server.serve_connection(TokioIo::new(stream), service)).await
                    }
                    Ok(Err(error)) => Err(error.into()),
                    Err(elapsed) => Err(elapsed.into()),
                },
            };
            if let Err(error) = served {
                eprintln!("a connection broke off: {error}");
            }
        });
    }
    drop(listener);
    if timeout(Duration::from_secs(10), connections.shutdown()).await.is_err() {
        eprintln!("some connections did not end in time");
    }
    shutdown(&receiver).await;
    Ok(())
}

async fn respond(
    receiver: WebhookReceiver,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path() == "/api/webhooks/qomplement" {
        return Ok(receiver.receive(request).await);
    }
    let mut not_found = Response::new(Full::default());
    *not_found.status_mut() = StatusCode::NOT_FOUND;
    Ok(not_found)
}

#[tokio::main]
async fn main() -> ExitCode {
    run(serve()).await
}
