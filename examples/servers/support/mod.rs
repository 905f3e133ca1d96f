//! The parts that the servers share: their handler, their settings, and how they stop.

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use qomplement_webhooks::receiver::WebhookReceiverBuilder;
use qomplement_webhooks::{
    BoxError, ExtractResult, FillResult, HandlerError, Job, JobError, SharedToken, WebhookHandler,
    WebhookReceiver, async_trait,
};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;

/// Prints one line for each call: `handled EVENT JOB_ID`.
pub(crate) struct Printer;

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

    async fn unrecognized(&self, job: &Job) -> Result<(), HandlerError> {
        work("unrecognized", job).await
    }
}

/// Prints that the handler was called. To try failures and slow handlers:
///
/// - `FAIL_PERCENT`: the percentage of calls that fail, and print `failed EVENT JOB_ID` instead.
/// - `WORK_MS`: the time that a call takes. It then also prints `began EVENT JOB_ID PROCESS_ID` first, and
///   `dropped EVENT JOB_ID` if its future is dropped.
async fn work(event: &str, job: &Job) -> Result<(), HandlerError> {
    if let Some(time) = number_from_env("WORK_MS")? {
        print(&format!("began {event} {} {}", job.id(), std::process::id()))?;
        let dropped = PrintOnDrop(format!("dropped {event} {}", job.id()));
        tokio::time::sleep(Duration::from_millis(time)).await;
        std::mem::forget(dropped);
    }
    if getrandom::u64()? % 100 < number_from_env("FAIL_PERCENT")?.unwrap_or(0) {
        print(&format!("failed {event} {}", job.id()))?;
        return Err("this one fails, as FAIL_PERCENT asks".into());
    }
    print(&format!("handled {event} {}", job.id()))
}

struct PrintOnDrop(String);

impl Drop for PrintOnDrop {
    fn drop(&mut self) {
        let _ = print(&self.0);
    }
}

/// Prints a line at once, and whole.
fn print(line: &str) -> Result<(), HandlerError> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(format!("{line}\n").as_bytes())?;
    stdout.flush()?;
    Ok(())
}

fn number_from_env(name: &str) -> Result<Option<u64>, HandlerError> {
    let Ok(text) = std::env::var(name) else { return Ok(None) };
    Ok(Some(text.parse().map_err(|error| format!("{name}={text}: {error}"))?))
}

/// Builds a receiver that requires the token in `WEBHOOK_TOKEN`.
pub(crate) fn build(builder: WebhookReceiverBuilder) -> Result<WebhookReceiver, BoxError> {
    let builder = match std::env::var_os("WEBHOOK_TOKEN") {
        Some(_) => builder.token(SharedToken::from_env("WEBHOOK_TOKEN")?),
        None => builder.unauthenticated(), // logs a warning
    };
    Ok(builder.build()?)
}

/// Listens at `ADDR`, and installs the signal handlers before the line that announces the server.
pub(crate) async fn listen(scheme: &str) -> Result<TcpListener, BoxError> {
    let address = std::env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".to_owned());
    let listener =
        TcpListener::bind(&address).await.map_err(|error| format!("cannot listen on {address}: {error}"))?;
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        RUNNING.close();
    });
    eprintln!("listening on {scheme}://{}/api/webhooks/qomplement", listener.local_addr()?);
    Ok(listener)
}

/// Closed by the first SIGINT or SIGTERM.
static RUNNING: Semaphore = Semaphore::const_new(0);

/// Waits for SIGINT or SIGTERM, also one that came since [`listen`].
pub(crate) async fn stop() {
    let _ = RUNNING.acquire().await;
}

/// Runs a server, and says why it ended.
pub(crate) async fn run(server: impl Future<Output = Result<(), BoxError>>) -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    match server.await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Formats an error with its causes.
pub(crate) fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}
