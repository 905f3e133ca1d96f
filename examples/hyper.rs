//! A server to try things on, with hyper alone, over HTTP/1 and HTTP/2, and over HTTPS if told to.
//!
//! ```sh
//! WEBHOOK_TOKEN=$(openssl rand -hex 32) cargo run --example hyper --features hyper
//! ```
//!
//! - `ADDR`: where to listen, `127.0.0.1:3000` unless set.
//! - `WEBHOOK_TOKEN`: the token that webhooks must carry; anyone may deliver when it is unset.
//! - `DEDUP_URL`: where jobs are remembered, `redis://…` or `postgres://…` when built with that feature; in this
//!   process's memory when it is unset.
//! - `TLS_CERT`, `TLS_KEY`: PEM files, to serve HTTPS; or `TLS=self-signed`, to try it.
//! - Webhooks go to `/api/webhooks/qomplement?token=…`.
//! - Each call of the handler prints a line to stdout: `handled EVENT JOB_ID`. `FAIL_PERCENT` and `WORK_MS` make
//!   it fail now and then, and take time.
//! - SIGINT and SIGTERM stop it when the work under way has ended.

use std::convert::Infallible;
use std::error::Error;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use qomplement_webhooks::{
    ExtractResult, FillResult, HandlerError, Job, JobError, JobStatus, SharedToken, WebhookHandler,
    WebhookReceiver, async_trait,
};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use self::dedup::dedup_store;
use self::support::{stop, work};

#[path = "support/dedup.rs"]
mod dedup;
mod support;

struct Printer;

#[async_trait]
impl WebhookHandler for Printer {
    async fn extract_completed(&self, job: &Job, _: ExtractResult) -> Result<(), HandlerError> {
        work("extract_completed", job).await
    }

    async fn fill_completed(&self, job: &Job, _: FillResult) -> Result<(), HandlerError> {
        work("fill_completed", job).await
    }

    async fn job_failed(&self, job: &Job, _: JobError) -> Result<(), HandlerError> {
        work("job_failed", job).await
    }

    async fn unrecognized(&self, job: &Job, _: JobStatus) -> Result<(), HandlerError> {
        work("unrecognized", job).await
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let builder = WebhookReceiver::builder(Printer).dedup_store(dedup_store().await?);
    let builder = match std::env::var_os("WEBHOOK_TOKEN") {
        Some(_) => builder.token(SharedToken::from_env("WEBHOOK_TOKEN")?),
        None => builder.unauthenticated(), // logs a warning
    };
    let receiver = builder.build()?;

    let tls = tls()?;
    let address = std::env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".to_owned());
    let listener =
        TcpListener::bind(&address).await.map_err(|error| format!("cannot listen on {address}: {error}"))?;
    eprintln!(
        "listening on {}://{}/api/webhooks/qomplement",
        if tls.is_some() { "https" } else { "http" },
        listener.local_addr()?
    );

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
    match receiver.shutdown(Duration::from_secs(10)).await {
        0 => eprintln!("stopped; nothing was left unfinished"),
        unfinished => eprintln!("stopped; {unfinished} handlers were dropped"),
    }
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

/// Speaks TLS with the certificate and key in the PEM files `TLS_CERT` and `TLS_KEY`, or with one made
/// now for `localhost` if `TLS` is `self-signed`.
fn tls() -> Result<Option<TlsAcceptor>, Box<dyn Error>> {
    let (chain, key) =
        match (std::env::var("TLS_CERT"), std::env::var("TLS_KEY"), std::env::var("TLS").as_deref()) {
            (Ok(chain), Ok(key), _) => {
                let chain = CertificateDer::pem_file_iter(chain)?.collect::<Result<Vec<_>, _>>()?;
                (chain, PrivateKeyDer::from_pem_file(key)?)
            }
            (_, _, Ok("self-signed")) => {
                let made =
                    rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()])?;
                let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
                (vec![made.cert.into()], key)
            }
            _ => return Ok(None),
        };
    let mut config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Some(TlsAcceptor::from(Arc::new(config))))
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
