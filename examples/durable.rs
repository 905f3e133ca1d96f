//! Acknowledge first, work later: an event is committed to a file before it is answered, and handled from there.
//!
//! ```sh
//! WEBHOOK_TOKEN=$(openssl rand -hex 32) cargo run --example durable --features axum,sqlite
//! ```

use std::time::Duration;

use axum::Router;
use axum::routing::any;
use qomplement_webhooks::{
    BoxError, InboxWorker, SharedToken, SqliteInbox, Verification, WebhookEvent, WebhookReceiver, handler_fn,
};
use tokio::net::TcpListener;
use tokio::time::sleep;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let inbox = SqliteInbox::open("inbox.db")?;
    let token = SharedToken::from_env("WEBHOOK_TOKEN")?;
    let receiver = WebhookReceiver::durable(inbox.clone()).token(token).build()?;

    // May take minutes, fail, and be run again: at least once for each job, until it returns `Ok`.
    let handler = handler_fn(|event: WebhookEvent| async move {
        println!("{} {}", event.name(), event.job().id());
        Ok(())
    });
    let worker = InboxWorker::new(inbox, handler, Verification::Trust).start();

    let app = Router::new().route("/api/webhooks/qomplement", any(receiver.clone()));
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    tokio::select! {
        served = axum::serve(listener, app).with_graceful_shutdown(stop()) => served?,
        // A request or connection that does not end must not keep the shutdown below from beginning.
        () = async { stop().await; sleep(Duration::from_secs(5)).await } => {}
    }
    receiver.shutdown(Duration::from_secs(5)).await; // first: nothing new is stored
    worker.shutdown(Duration::from_secs(10)).await; // then: handlers that run finish, or are released
    Ok(())
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
