//! Writes under a lease, retried until the store answers or the lease ends.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::execution::backoff::Backoff;
use crate::execution::isolation::{CallError, call};
use crate::store::{Fenced, StoreError};

/// How a fenced write is retried. The pauses double, without randomness: only the holder of the lease writes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Retry {
    /// The time limit of one call.
    call: Duration,
    backoff: Backoff,
}

/// How the calls of a write ended.
#[derive(Debug)]
pub(crate) enum Written {
    /// The store carried the write out.
    Applied,
    /// The lease has passed to another holder; the store wrote nothing.
    Stale,
    /// The lease ends before the next call, and the last call failed with this error. The store may have written.
    LeaseEnds(CallError),
}

impl Retry {
    /// Retries under a lease of this length. No pause is longer than a tenth of it, so that the last call begins shortly
    /// before the lease ends.
    pub(crate) const fn under(lease: Duration, call: Duration, first_pause: Duration) -> Self {
        let longest = match lease.checked_div(10) {
            Some(tenth) => tenth,
            None => lease,
        };
        Self { call, backoff: Backoff { first: first_pause, longest } }
    }

    /// Calls `write` until the store answers. Gives up when the next call would begin at `lease_ends` or later; `None`
    /// means that the caller drops this future when the lease is lost.
    ///
    /// `failed` gets every error that another call follows, with the pause before that call.
    pub(crate) async fn write<F>(
        self,
        lease_ends: Option<Instant>,
        mut write: impl FnMut() -> F,
        mut failed: impl FnMut(CallError, Duration),
    ) -> Written
    where
        F: Future<Output = Result<Fenced, StoreError>>,
    {
        let mut failures = 0u32;
        loop {
            let error = match call(|| Instant::now() + self.call, &mut write).await {
                Ok(Fenced::Applied) => return Written::Applied,
                Ok(Fenced::Stale) => return Written::Stale,
                Err(error) => error,
            };
            failures = failures.saturating_add(1);
            let pause = self.backoff.bound(failures);
            if lease_ends.is_some_and(|end| Instant::now() + pause >= end) {
                return Written::LeaseEnds(error);
            }
            failed(error, pause);
            // Boxed: nearly every write succeeds at once, and an inline request carries this future.
            Box::pin(sleep(pause)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const RETRY: Retry = Retry::under(Duration::from_secs(40), SECOND, SECOND);

    /// Writes with the answers in order, each after a second, and then hangs. Returns the end, the pauses, the calls
    /// and the time.
    async fn write(
        lease: Option<Duration>,
        answers: Vec<Result<Fenced, StoreError>>,
    ) -> (Written, Vec<u64>, u32, u64) {
        let (began, mut calls, mut pauses) = (Instant::now(), 0, Vec::new());
        let mut answers = answers.into_iter();
        let write = || {
            calls += 1;
            let answer = answers.next();
            async move {
                match answer {
                    Some(answer) => answer,
                    None => std::future::pending().await,
                }
            }
        };
        let failed = |_, pause: Duration| pauses.push(pause.as_secs());
        let written = RETRY.write(lease.map(|lease| began + lease), write, failed).await;
        (written, pauses, calls, began.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_is_retried_with_pauses_that_double_until_it_is_answered() {
        let failing = || (0..5).map(|_| Err(StoreError::Full));
        for (answer, lease) in [(Fenced::Applied, None), (Fenced::Stale, Some(SECOND * 60))] {
            let (written, pauses, calls, took) = write(lease, failing().chain([Ok(answer)]).collect()).await;
            assert_eq!((pauses, calls, took), (vec![1, 2, 4, 4, 4], 6, 15), "{written:?}");
            let expected = matches!(
                (answer, written),
                (Fenced::Applied, Written::Applied) | (Fenced::Stale, Written::Stale)
            );
            assert!(expected, "after {answer:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_is_retried_until_a_tenth_of_the_lease_is_left() {
        let lease = SECOND * 40;
        let (written, _, _, took) =
            write(Some(lease), (0..100).map(|_| Err(StoreError::Full)).collect()).await;
        assert!(matches!(written, Written::LeaseEnds(CallError::Failed(_))), "{written:?}");
        assert!((36..=40).contains(&took), "given up after {took} s");
    }

    #[tokio::test(start_paused = true)]
    async fn no_call_begins_when_the_lease_has_ended_and_a_call_that_hangs_is_dropped() {
        // Calls begin after 0, 2 and 5 s, and end a second later; the next one would begin after 10 s.
        let (written, pauses, calls, took) = write(Some(SECOND * 10), Vec::new()).await;
        assert!(matches!(written, Written::LeaseEnds(CallError::Late)), "{written:?}");
        assert_eq!((pauses, calls, took), (vec![1, 2], 3, 6));
        let (_, pauses, calls, _) = write(Some(SECOND * 11), Vec::new()).await;
        assert_eq!((pauses, calls), (vec![1, 2, 4], 4));
        let (written, _, calls, took) = write(Some(Duration::ZERO), vec![Ok(Fenced::Applied)]).await;
        assert!(matches!(written, Written::Applied), "the first call is made in any case: {written:?}");
        assert_eq!((calls, took), (1, 0));
    }
}
