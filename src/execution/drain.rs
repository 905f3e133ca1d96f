//! Ends the work under way when the program stops.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

use crate::execution::isolation;

/// The time that aborted work has to release its claims and leases.
const RELEASE_TIME: Duration = Duration::from_secs(1);

/// Counts the work under way. Once closed, it refuses new work, waits for the rest, and finally aborts it.
#[derive(Debug, Default)]
pub(crate) struct Drain {
    under_way: AtomicUsize,
    closed: AtomicBool,
    aborted: AtomicBool,
    changed: Notify,
}

/// One piece of work under way, such as a webhook or a leased event.
#[derive(Debug)]
pub(crate) struct UnderWay(Arc<Drain>);

impl Drain {
    /// Admits new work; `None` after the shutdown began.
    pub(crate) fn enter(self: &Arc<Self>) -> Option<UnderWay> {
        // Counted before the check, so that `finish` either waits for this work or has refused it.
        self.under_way.fetch_add(1, Ordering::SeqCst);
        let entered = UnderWay(self.clone());
        (!self.is_closed()).then_some(entered)
    }

    /// Adds work that follows from admitted work: admitted and waited for also after the shutdown began.
    pub(crate) fn more(self: &Arc<Self>) -> UnderWay {
        self.under_way.fetch_add(1, Ordering::SeqCst);
        UnderWay(self.clone())
    }

    /// Whether new work is refused.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Waits until new work is refused.
    pub(crate) async fn closed(&self) {
        self.until(|| self.is_closed()).await;
    }

    /// Whether the work under way is aborted.
    pub(crate) fn is_aborted(&self) -> bool {
        self.aborted.load(Ordering::SeqCst)
    }

    /// Waits until the work under way is aborted.
    pub(crate) async fn aborted(&self) {
        self.until(|| self.is_aborted()).await;
    }

    /// Waits for a part of the work. When the work is aborted, drops the part, or does not begin it, and returns
    /// `None`.
    pub(crate) async fn unless_aborted<F: Future + Unpin>(&self, part: F) -> Option<F::Output> {
        if self.is_aborted() {
            return None;
        }
        isolation::until(part, || self.aborted()).await.ok()
    }

    /// Refuses new work, waits up to `grace` for the work under way, then aborts the rest. Returns how much work was
    /// aborted.
    pub(crate) async fn finish(&self, grace: Duration) -> usize {
        self.closed.store(true, Ordering::SeqCst);
        self.changed.notify_waiters();
        let finished = || self.under_way.load(Ordering::SeqCst) == 0;
        if timeout(grace, self.until(finished)).await.is_ok() {
            return 0;
        }
        let unfinished = self.under_way.load(Ordering::SeqCst);
        self.aborted.store(true, Ordering::SeqCst);
        self.changed.notify_waiters();
        let _ = timeout(RELEASE_TIME, self.until(finished)).await;
        unfinished
    }

    async fn until(&self, condition: impl Fn() -> bool) {
        loop {
            let mut changed = pin!(self.changed.notified());
            // Registered before the check, so that a change in between is not missed.
            changed.as_mut().enable();
            if condition() {
                return;
            }
            changed.await;
        }
    }
}

impl UnderWay {
    /// Adds work that follows from this work: admitted and waited for also after the shutdown began.
    pub(crate) fn more(&self) -> Self {
        self.0.under_way.fetch_add(1, Ordering::SeqCst);
        Self(self.0.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let last = self.0.under_way.fetch_sub(1, Ordering::SeqCst) == 1;
        if last && self.0.is_closed() {
            self.0.changed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_change_between_the_check_and_the_wait_is_not_missed() {
        let (drain, checked) = (Drain::default(), AtomicBool::new(false));
        // The condition comes true just after the first check.
        let waits = drain.until(|| {
            let checked = checked.swap(true, Ordering::SeqCst);
            if !checked {
                drain.changed.notify_waiters();
            }
            checked
        });
        assert!(timeout(Duration::from_secs(60), waits).await.is_ok(), "the wake-up was missed");
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_is_aborted_does_not_begin() {
        let drain = Arc::new(Drain::default());
        let under_way = drain.enter();
        assert_eq!(drain.unless_aborted(std::future::ready(1)).await, Some(1));
        let (unfinished, waited) =
            tokio::join!(drain.finish(Duration::ZERO), drain.unless_aborted(std::future::pending::<()>()));
        assert_eq!((unfinished, waited), (1, None));
        assert_eq!(drain.unless_aborted(std::future::ready(1)).await, None, "begun after the shutdown");
        drop(under_way);
    }
}
