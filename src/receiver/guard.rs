//! Calls of code that is not ours: bounded in time, and their panics caught.

use std::any::Any;
use std::error::Error;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;

use tokio::time::{Instant, timeout_at};

/// What a panic said.
#[derive(Debug, thiserror::Error)]
#[error("panicked: {0}")]
pub(super) struct Panicked(String);

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    #[error("no answer in time")]
    Late,
    #[error(transparent)]
    Panicked(Panicked),
    #[error(transparent)]
    Failed(Box<dyn Error + Send + Sync>),
}

/// Runs a future of somebody else's, and turns a panic into a value.
///
/// What the panic may have left half done is the panicking code's own: of ours, a future that
/// panicked is never polled again.
pub(super) async fn isolate<F: Future>(future: F) -> Result<F::Output, Panicked> {
    let mut future = pin!(future);
    poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
        Ok(poll) => poll.map(Ok),
        Err(panic) => std::task::Poll::Ready(Err(Panicked(message(&*panic)))),
    })
    .await
}

/// Calls a store, a registry or an authenticator.
pub(super) async fn call<T, E: Into<Box<dyn Error + Send + Sync>>>(
    until: Instant,
    future: impl Future<Output = Result<T, E>>,
) -> Result<T, CallError> {
    match timeout_at(until, isolate(future)).await {
        Ok(Ok(Ok(value))) => Ok(value),
        Ok(Ok(Err(error))) => Err(CallError::Failed(error.into())),
        Ok(Err(panicked)) => Err(CallError::Panicked(panicked)),
        Err(_) => Err(CallError::Late),
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("(no message)").to_owned()
}

/// An error with everything that caused it, for a log line.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
