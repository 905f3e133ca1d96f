//! A server with an inbox, a worker, and its metrics for Prometheus.
//!
//! ```sh
//! WEBHOOK_TOKEN=$(openssl rand -hex 32) cargo run --example metrics --features axum,metrics,sqlite
//! curl http://127.0.0.1:9464/metrics
//! ```
//!
//! - `ADDR`: the address for webhooks, `127.0.0.1:3000` unless set.
//! - `METRICS_ADDR`: the address for Prometheus, `127.0.0.1:9464` unless set: keep it private.
//! - `DATABASE`: the file of the inbox, `inbox.db` unless set.

use std::time::Duration;

use axum::Router;
use axum::routing::{any, get};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use qomplement_webhooks::{
    BoxError, InboxWorker, SharedToken, SqliteInbox, Verification, WebhookEvent, WebhookReceiver, handler_fn,
};
use tokio::net::TcpListener;
use tokio::time::sleep;

/// The bounds of the histograms' buckets, in seconds. Times to the answer lie below 5 seconds, waits may take hours.
const BUCKETS: [f64; 14] =
    [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0];

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    // Before the receiver and the worker, so that nothing goes unrecorded.
    let metrics = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &BUCKETS)?
        .install_recorder()?;
    tokio::spawn(upkeep(metrics.clone()));

    let inbox = SqliteInbox::open(setting("DATABASE", "inbox.db"))?;
    let token = SharedToken::from_env("WEBHOOK_TOKEN")?;
    let receiver = WebhookReceiver::durable(inbox.clone()).token(token).build()?;
    let handler = handler_fn(|event: WebhookEvent| async move {
        println!("handled {} {}", event.name(), event.job().id());
        Ok(())
    });
    // Samples the gauges of the inbox every 15 seconds. Without a worker in this program, call `telemetry::describe()`.
    let worker = InboxWorker::new(inbox, handler, Verification::Trust).start();

    // An address of its own: the metrics are not for everybody who may deliver webhooks.
    let private = TcpListener::bind(setting("METRICS_ADDR", "127.0.0.1:9464")).await?;
    eprintln!("metrics on http://{}/metrics", private.local_addr()?);
    let pages = Router::new().route("/metrics", get(move || async move { metrics.render() }));
    tokio::spawn(async move { axum::serve(private, pages).await });

    let app = Router::new().route("/api/webhooks/qomplement", any(receiver.clone()));
    let public = TcpListener::bind(setting("ADDR", "127.0.0.1:3000")).await?;
    eprintln!("listening on http://{}/api/webhooks/qomplement", public.local_addr()?);
    tokio::select! {
        served = axum::serve(public, app).with_graceful_shutdown(stop()) => served?,
        () = async { stop().await; sleep(Duration::from_secs(5)).await } => {}
    }
    receiver.shutdown(Duration::from_secs(5)).await;
    worker.shutdown(Duration::from_secs(10)).await;
    Ok(())
}

/// Moves the values of histograms into their buckets, also while nobody reads them.
async fn upkeep(metrics: PrometheusHandle) {
    loop {
        sleep(Duration::from_secs(5)).await;
        metrics.run_upkeep();
    }
}

fn setting(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

/// Waits for Ctrl-C, or for SIGTERM, which container platforms and systemd send.
async fn stop() {
    #[cfg(unix)]
    let terminate = async {
        use tokio::signal::unix::{SignalKind, signal};
        signal(SignalKind::terminate())?.recv().await;
        Ok::<_, std::io::Error>(())
    };
    #[cfg(not(unix))]
    let terminate = std::future::pending::<std::io::Result<()>>();
    tokio::select! {
        Ok(()) = tokio::signal::ctrl_c() => {}
        Ok(()) = terminate => {}
        else => std::future::pending().await,
    }
}
