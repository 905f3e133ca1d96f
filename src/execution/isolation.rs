//! Calls of foreign code (handlers, stores, registries, sources): time limits, and panics as values.

use std::any::Any;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::task::Poll;

use tokio::task::unconstrained;
use tokio::time::{Instant, sleep_until};

use crate::error::BoxError;

/// A caught panic, with its message.
#[derive(Debug, thiserror::Error)]
#[error("panicked: {0}")]
pub(crate) struct Panicked(String);

/// The failure of a call.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("no answer in time")]
    Late,
    #[error(transparent)]
    Panicked(Panicked),
    #[error(transparent)]
    Failed(BoxError),
}

/// Runs a foreign future, and turns a panic into a value.
///
/// Unwind safety is asserted: a panic leaves only the foreign code's own state half changed, and a future that panicked
/// is never polled again.
pub(crate) fn isolate<F: Future + Unpin>(
    mut future: F,
) -> impl Future<Output = Result<F::Output, Panicked>> + Unpin {
    poll_fn(move |context| match catch_unwind(AssertUnwindSafe(|| Pin::new(&mut future).poll(context))) {
        Ok(poll) => poll.map(Ok),
        Err(panic) => Poll::Ready(Err(Panicked(message(&*panic)))),
    })
}

/// Waits for a foreign future until `end` is ready.
///
/// A future that never waits uses up its task's cooperative budget at every poll, and tokio's timers are then pending
/// even after their time. So `end` is polled without a budget, after every poll of the future.
///
/// Most calls finish without a wait. `end` is made and boxed only when the first poll is pending, which keeps timers out
/// of the request's future: that future is moved several times. The future is polled in one place, so that the compiler
/// can inline the poll.
pub(crate) async fn until<F, E>(mut future: F, end: impl FnOnce() -> E) -> Result<F::Output, E::Output>
where
    F: Future + Unpin,
    E: Future,
{
    let (mut make, mut made) = (Some(end), None);
    poll_fn(|context| {
        if let Poll::Ready(output) = Pin::new(&mut future).poll(context) {
            return Poll::Ready(Ok(output));
        }
        if let Some(make) = make.take() {
            made = Some(Box::pin(unconstrained(make())));
        }
        made.as_mut().map_or(Poll::Pending, |end| end.as_mut().poll(context).map(Err))
    })
    .await
}

/// Makes a foreign future at the first poll, so that a panic on the way to the future is caught with those of the
/// future: a trait's method need not be an `async fn`.
pub(crate) async fn made<F: Future>(make: impl FnOnce() -> F) -> F::Output {
    make().await
}

/// Calls a store, a registry or an authenticator, with the time limit that `late` returns. `make` makes the call.
pub(crate) async fn call<T, E: Into<BoxError>, F>(
    late: impl FnOnce() -> Instant,
    make: impl FnOnce() -> F,
) -> Result<T, CallError>
where
    F: Future<Output = Result<T, E>>,
{
    match until(isolate(pin!(made(make))), || sleep_until(late())).await {
        Ok(Ok(answer)) => answer.map_err(|error| CallError::Failed(error.into())),
        Ok(Err(panicked)) => Err(CallError::Panicked(panicked)),
        Err(()) => Err(CallError::Late),
    }
}

/// Calls foreign code, or drops a foreign value, and turns a panic into a value.
pub(crate) fn caught<T>(foreign: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(foreign)).map_err(|panic| Panicked(message(&*panic)))
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("(no message)").to_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use tokio::task::consume_budget;
    use tokio::time::sleep;

    use super::*;

    /// Uses up its task's budget at every poll, for far longer than a test waits.
    async fn busy() {
        let began = std::time::Instant::now();
        while began.elapsed() < Duration::from_secs(30) {
            consume_budget().await;
        }
    }

    #[tokio::test]
    async fn a_future_that_is_always_ready_to_go_on_is_left_in_time() {
        let began = std::time::Instant::now();
        assert!(until(pin!(busy()), || sleep(Duration::from_millis(50))).await.is_err());
        // Also when the budget was used up before the timer's first poll, and by a future around it.
        let nested = pin!(async { until(pin!(busy()), || sleep(Duration::from_secs(600))).await.is_err() });
        assert!(until(nested, || sleep(Duration::from_millis(50))).await.is_err());
        let answer = || async {
            busy().await;
            Ok::<_, std::io::Error>(())
        };
        let late = call(|| Instant::now() + Duration::from_millis(50), answer).await;
        assert!(matches!(late, Err(CallError::Late)), "{late:?}");
        assert!(began.elapsed() < Duration::from_secs(20), "the timers waited for {:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn what_ends_in_time_is_returned_whatever_the_timer_says() {
        assert_eq!(until(std::future::ready(1), || sleep(Duration::ZERO)).await, Ok(1));
        let second = Duration::from_secs(1);
        assert_eq!(until(pin!(sleep(second)), || sleep(second)).await, Ok(()));
    }

    #[tokio::test]
    async fn a_panic_before_there_is_a_future_is_an_error_of_the_call() {
        let panics = || -> std::future::Ready<std::io::Result<()>> { panic!("no future") };
        let called = call(Instant::now, panics).await;
        assert!(
            matches!(&called, Err(CallError::Panicked(panicked)) if panicked.0 == "no future"),
            "{called:?}"
        );
    }

    #[test]
    fn what_panics_at_its_drop_is_gone_and_said() {
        struct Panics;
        impl Drop for Panics {
            fn drop(&mut self) {
                panic!("at its drop");
            }
        }
        let dropped = caught(|| drop(Panics));
        assert_eq!(dropped.unwrap_err().to_string(), "panicked: at its drop");
        assert_eq!(caught(|| 1).ok(), Some(1));
    }
}
