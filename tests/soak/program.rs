//! The program under test.

use std::future::IntoFuture;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::any;
use qomplement_webhooks::fetch::{ApiKey, RequestBudget};
use qomplement_webhooks::inbox::Retention;
use qomplement_webhooks::registry::JobRegistry;
use qomplement_webhooks::{
    HandlerError, InboxStore, InboxWorker, JobsClient, PostgresInbox, SharedToken, SqliteInbox, Verification,
    WebhookEvent, WebhookReceiver, handler_fn,
};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

pub const TOKEN: &str = "a-token-that-is-long-enough-for-tests";
pub const KEY: &str = "the-key-of-the-stand-in";
/// The language of an API's result. That of a forged event is another.
pub const GENUINE: &str = "en";

/// Serves until SIGTERM.
pub async fn run(database: &str, api: &str) {
    if database.contains("://") {
        let inbox = PostgresInbox::from_url(database).unwrap();
        inbox.migrate().await.unwrap();
        serve(inbox, api).await;
    } else {
        serve(SqliteInbox::open(database).unwrap(), api).await;
    }
}

async fn serve(inbox: impl InboxStore + JobRegistry + Clone, api: &str) {
    let token = SharedToken::new(TOKEN).unwrap();
    let receiver =
        WebhookReceiver::durable(inbox.clone()).token(token).known_jobs(inbox.clone()).build().unwrap();
    let client =
        JobsClient::builder(ApiKey::new(KEY).unwrap()).origin(api).budget(RequestBudget::new(100.0, 8));
    let client = client.build().unwrap();
    let inbox: Arc<dyn InboxStore> = Arc::new(inbox);
    let worker = InboxWorker::new(inbox, handler_fn(handle), Verification::fetch(client))
        .lease(Duration::from_secs(5))
        .max_attempts(1000)
        .max_handler_time(Duration::from_secs(1))
        .backoff(Duration::from_millis(50), Duration::from_secs(1))
        .retention(Retention::default().payload(Duration::from_secs(10)).row(Duration::from_secs(30)))
        .start();
    let app = Router::new().route("/webhooks", any(receiver.clone()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    print(&format!("listening http://{}/webhooks", listener.local_addr().unwrap()));
    let mut stop = signal(SignalKind::terminate()).unwrap();
    tokio::select! {
        served = axum::serve(listener, app).into_future() => served.unwrap(),
        _ = stop.recv() => {}
    }
    receiver.shutdown(Duration::from_secs(5)).await;
    worker.shutdown(Duration::from_secs(10)).await;
}

/// Fails in a fifth of the first attempts, and now and then panics or hangs instead.
async fn handle(event: WebhookEvent) -> Result<(), HandlerError> {
    let job = event.job();
    let is_genuine = match &event {
        WebhookEvent::ExtractCompleted { result, .. } => result.language.as_deref() == Some(GENUINE),
        _ => false,
    };
    if !is_genuine {
        print(&format!("forged {}", job.id()));
    }
    let dice = getrandom::u64().unwrap() % 1000;
    if job.attempt() < 4 {
        match dice {
            0..10 => panic!("as planned"),
            10..15 => std::future::pending().await,
            15..200 => return Err("as planned".into()),
            _ => {}
        }
    }
    tokio::time::sleep(Duration::from_millis(dice % 20)).await;
    print(&format!("handled {}", job.id()));
    Ok(())
}

fn print(line: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(format!("{line}\n").as_bytes());
    let _ = stdout.flush();
}
