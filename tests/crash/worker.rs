//! A worker as a process of its own, whose handler does what the job's id says, and which loses its leases
//! soon.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use qomplement_webhooks::{
    HandlerError, InboxStore, InboxWorker, PostgresInbox, SqliteInbox, Verification, WebhookEvent, handler_fn,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

/// How long a lease lasts.
pub const LEASE: Duration = Duration::from_secs(3);
/// After how many attempts an event is dead.
pub const MAX_ATTEMPTS: u32 = 6;
/// How long a job whose id begins with `late` takes: longer than a lease.
pub const LATE: Duration = Duration::from_secs(8);

/// Works until SIGTERM.
pub async fn run(database: &str) {
    let inbox: Arc<dyn InboxStore> = if database.contains("://") {
        Arc::new(PostgresInbox::from_url(database).unwrap())
    } else {
        Arc::new(SqliteInbox::open(database).unwrap())
    };
    let worker = InboxWorker::new(inbox, handler_fn(handle), Verification::Trust)
        .lease(LEASE)
        .max_attempts(MAX_ATTEMPTS)
        .backoff(Duration::from_millis(50), Duration::from_secs(5))
        .poll(Duration::from_millis(50))
        .concurrency(8)
        .start();
    signal(SignalKind::terminate()).unwrap().recv().await;
    worker.shutdown(Duration::from_secs(10)).await;
}

async fn handle(event: WebhookEvent) -> Result<(), HandlerError> {
    let job = event.job();
    let (id, fence) = (job.id().to_string(), job.fence());
    print(&format!("began {id} {fence}"))?;
    if id.starts_with("abort") {
        std::process::abort();
    }
    if id.starts_with("late") {
        sleep(LATE).await;
        if job.attempt() == 1 {
            print(&format!("failed {id} {fence}"))?;
            return Err("the first run fails, and late".into());
        }
    }
    sleep(Duration::from_millis(20)).await;
    print(&format!("handled {id} {fence}"))
}

fn print(line: &str) -> Result<(), HandlerError> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(format!("{line}\n").as_bytes())?;
    stdout.flush()?;
    Ok(())
}
