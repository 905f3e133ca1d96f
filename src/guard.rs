//! Calls of code that is not ours: bounded in time, and their panics caught.

use std::any::Any;
use std::error::Error;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::task::Poll;

use tokio::time::{Instant, timeout_at};

/// What a panic said.
#[derive(Debug, thiserror::Error)]
#[error("panicked: {0}")]
pub(crate) struct Panicked(String);

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
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
pub(crate) fn isolate<F: Future + Unpin>(
    mut future: F,
) -> impl Future<Output = Result<F::Output, Panicked>> + Unpin {
    poll_fn(move |context| match catch_unwind(AssertUnwindSafe(|| Pin::new(&mut future).poll(context))) {
        Ok(poll) => poll.map(Ok),
        Err(panic) => Poll::Ready(Err(Panicked(message(&*panic)))),
    })
}

/// What a future gives at its first poll; if it has to wait, what `later` makes of it.
///
/// Nearly every webhook is handled without a wait. What belongs to waiting, such as timers, then
/// takes no room in the future of the request, which is moved about.
pub(crate) async fn at_once_or<F, L>(mut future: F, later: impl FnOnce(F) -> L) -> F::Output
where
    F: Future + Unpin,
    L: Future<Output = F::Output>,
{
    match poll_fn(|context| Poll::Ready(Pin::new(&mut future).poll(context))).await {
        Poll::Ready(output) => output,
        Poll::Pending => Box::pin(later(future)).await,
    }
}

/// Calls a store, a registry or an authenticator, and waits for it until the time that `until` gives.
pub(crate) async fn call<T, E: Into<Box<dyn Error + Send + Sync>>>(
    until: impl FnOnce() -> Instant,
    future: impl Future<Output = Result<T, E>> + Unpin,
) -> Result<T, CallError> {
    let answer = pin!(async {
        match isolate(future).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(CallError::Failed(error.into())),
            Err(panicked) => Err(CallError::Panicked(panicked)),
        }
    });
    let in_time = |answer| async { timeout_at(until(), answer).await.unwrap_or(Err(CallError::Late)) };
    at_once_or(answer, in_time).await
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("(no message)").to_owned()
}

/// An error with everything that caused it, for a log line.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
