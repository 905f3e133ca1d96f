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

/// The error of a job whose id begins with `bulk` when it fails again.
pub const SECOND_FAILURE: &str = "the second failure";

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
    if id.starts_with("bulk") {
        return handle_one_of_many(&id, job.attempt()).await;
    }
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

/// Fails at first, then once more for every second job, and each time for every tenth, which therefore ends only when it is
/// discarded. Prints the end of the run in any case but a kill.
async fn handle_one_of_many(id: &str, attempt: u32) -> Result<(), HandlerError> {
    struct Run(String, &'static str);
    impl Drop for Run {
        fn drop(&mut self) {
            let Self(job, end) = self;
            let _ = print(&format!("{end} {job} {}", std::process::id()));
        }
    }
    print(&format!("began {id} {}", std::process::id()))?;
    let mut run = Run(id.to_owned(), "dropped");
    sleep(Duration::from_millis(5)).await;
    let is_odd = id.ends_with(['1', '3', '5', '7', '9']);
    let failure = match attempt {
        0 | 1 => "the first failure",
        2 | 3 if is_odd => SECOND_FAILURE,
        _ if id.ends_with('9') => SECOND_FAILURE,
        _ => {
            run.1 = "handled";
            return Ok(());
        }
    };
    run.1 = "failed";
    Err(HandlerError::permanent(failure))
}

fn print(line: &str) -> Result<(), HandlerError> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(format!("{line}\n").as_bytes())?;
    stdout.flush()?;
    Ok(())
}
