//! The receiver's cost in a server: CPU time per request, beside that of the same framework's bare handler, which
//! reads the body and answers a static 200.
//!
//! ```sh
//! cargo bench --features axum,actix-web,warp,hyper --bench load            # or: -- axum, for one framework
//! ```
//!
//! The server is this program once more, on one core; `wrk` (from the package of that name) is on the
//! other, and posts webhooks with distinct ids over loopback: of 393 bytes, and of a megabyte, where a
//! third server skips over the body with serde_json. CPU time is read from `/proc`. The servers take
//! turns, so that a disturbance hits all of them. Ratios are of medians.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub)]

use std::convert::Infallible;

use actix_web::{App, HttpServer, web};
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{any, post};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use qomplement_webhooks::{WebhookReceiver, handler_fn};
use serde::de::IgnoredAny;
use tokio::net::TcpListener;
use warp::Filter;

use self::served::{Cores, Served};

#[path = "served.rs"]
#[allow(dead_code)]
mod served;

const FRAMEWORKS: [&str; 4] = ["axum", "actix-web", "warp", "hyper"];
const ROUNDS: usize = 3;
const CONNECTIONS: usize = 16;
const SECONDS: u64 = 4;
/// A tick of `/proc/PID/stat` on Linux, in microseconds.
const TICK: f64 = 10_000.0;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", framework, kind] => serve(framework, kind),
        ["--bench"] => FRAMEWORKS.iter().for_each(|framework| compare(framework)),
        [framework, "--bench"] => compare(framework),
        // `cargo test --benches` only checks that the program runs.
        [] => {}
        _ => panic!("usage: load [FRAMEWORK]"),
    }
}

/// The work of a bare handler.
fn bare(body: &[u8], scan: bool) -> &'static str {
    if scan {
        serde_json::from_slice::<IgnoredAny>(body).unwrap();
    }
    r#"{"received":true}"#
}

#[tokio::main]
async fn serve(framework: &str, kind: &str) {
    if kind == "receiver with spans" {
        tracing_subscriber::fmt().with_writer(std::io::sink).init();
    }
    let scan = kind == "bare with a scan";
    let receiver = kind.starts_with("receiver").then(receiver);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    match framework {
        "axum" => {
            let route = match receiver {
                Some(receiver) => any(receiver),
                None => post(move |body: Bytes| async move { bare(&body, scan) }),
            };
            let app = Router::new().route("/webhook", route).layer(DefaultBodyLimit::disable());
            axum::serve(listener, app).await.unwrap();
        }
        "actix-web" => {
            let app = move || {
                let route = match receiver.clone() {
                    Some(receiver) => web::to(receiver),
                    None => web::post().to(move |body: Bytes| async move { bare(&body, scan) }),
                };
                App::new().app_data(web::PayloadConfig::new(16 << 20)).route("/webhook", route)
            };
            let server = HttpServer::new(app).workers(1).listen(listener.into_std().unwrap()).unwrap();
            server.run().await.unwrap();
        }
        "warp" => match receiver {
            Some(receiver) => {
                let route = warp::path!("webhook").and(qomplement_webhooks::warp::webhook(receiver));
                warp::serve(route).incoming(listener).run().await;
            }
            None => {
                let body = warp::post().and(warp::body::bytes());
                let route = warp::path!("webhook").and(body).map(move |body: Bytes| bare(&body, scan));
                warp::serve(route).incoming(listener).run().await;
            }
        },
        "hyper" => loop {
            let (stream, _) = listener.accept().await.unwrap();
            let receiver = receiver.clone();
            tokio::spawn(async move {
                let (server, io) = (http1::Builder::new(), TokioIo::new(stream));
                let _ = match receiver {
                    Some(receiver) => server.serve_connection(io, receiver).await,
                    None => {
                        server.serve_connection(io, service_fn(|request| bare_hyper(request, scan))).await
                    }
                };
            });
        },
        other => panic!("no such framework: {other}"),
    }
}

async fn bare_hyper(
    request: http::Request<hyper::body::Incoming>,
    scan: bool,
) -> Result<http::Response<Full<Bytes>>, Infallible> {
    let body = request.into_body().collect().await.unwrap().to_bytes();
    Ok(http::Response::new(Full::from(bare(&body, scan))))
}

fn receiver() -> WebhookReceiver {
    let handler = handler_fn(|event| async move {
        std::hint::black_box(event);
        Ok(())
    });
    WebhookReceiver::builder(handler).token(served::token()).build().unwrap()
}

/// The CPU time of a process so far, user and system, in microseconds.
fn cpu(process: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) * TICK
}

/// The CPU time of a server per request, in microseconds.
fn cost(framework: &str, kind: &str, is_large: bool) -> f64 {
    let server = Served::start(Cores::OneEach, &[framework, kind]);
    let before = cpu(server.id());
    let requests = server.load(CONNECTIONS, SECONDS, is_large);
    (cpu(server.id()) - before) / requests
}

fn compare(framework: &str) {
    let small = ["bare", "receiver", "receiver with spans"];
    let large = ["bare with a scan", "bare", "receiver"];
    for (size, kinds, is_large) in [("393 B", small, false), ("1 MiB", large, true)] {
        let mut samples = kinds.map(|_| Vec::new());
        for round in 0..=ROUNDS {
            for (kind, samples) in kinds.iter().zip(&mut samples) {
                let cost = cost(framework, kind, is_large);
                // The first round warms up.
                if round > 0 {
                    samples.push(cost);
                }
            }
        }
        println!("{framework}, {size}: CPU time of the server per request");
        let mut first = None;
        for (kind, samples) in kinds.iter().zip(&mut samples) {
            samples.sort_by(f64::total_cmp);
            let (least, median, most) = (samples[0], samples[ROUNDS / 2], samples[ROUNDS - 1]);
            let ratio = median / *first.get_or_insert(median);
            println!("    {kind:20} {median:8.2} µs ({least:.2}..{most:.2})  {ratio:.3} x");
        }
    }
}
