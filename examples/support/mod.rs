//! What the example servers share: what their handlers do, and when they stop.

use std::error::Error;
use std::io::Write;
use std::time::Duration;

use qomplement_webhooks::{HandlerError, Job};
use tokio::signal::unix::{SignalKind, signal};

/// What a handler does: prints that it was called. To try what happens otherwise:
///
/// - `FAIL_PERCENT`: how many calls out of a hundred fail, and print `failed EVENT JOB_ID` instead.
/// - `WORK_MS`: how long a call takes. It then also prints `began EVENT JOB_ID PROCESS_ID` first, and
///   `dropped EVENT JOB_ID` if it is not let to the end.
pub(crate) async fn work(event: &str, job: &Job) -> Result<(), HandlerError> {
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

/// Waits for SIGINT or SIGTERM.
pub(crate) async fn stop() {
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// An error with everything that caused it.
pub(crate) fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}
