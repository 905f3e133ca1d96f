//! Ends the work that is under way when the program stops.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

use crate::execution::isolation;

/// How long the work that was told to end may take to release its claims.
const RELEASE_TIME: Duration = Duration::from_secs(1);

/// Counts the webhooks under way, lets no new ones in once it is closed, and tells the rest to end.
#[derive(Debug, Default)]
pub(crate) struct Drain {
    under_way: AtomicUsize,
    closed: AtomicBool,
    aborted: AtomicBool,
    changed: Notify,
}

/// One webhook under way.
#[derive(Debug)]
pub(crate) struct UnderWay(Arc<Drain>);

impl Drain {
    /// Lets a webhook in, unless the receiver is shutting down.
    pub(crate) fn enter(self: &Arc<Self>) -> Option<UnderWay> {
        // Counted before the question, so that `finish` either sees this webhook or turned it away.
        self.under_way.fetch_add(1, Ordering::SeqCst);
        let entered = UnderWay(self.clone());
        (!self.is_closed()).then_some(entered)
    }

    /// More work that comes of work under way, and is waited for like it, also when nothing new is let in.
    pub(crate) fn more(self: &Arc<Self>) -> UnderWay {
        self.under_way.fetch_add(1, Ordering::SeqCst);
        UnderWay(self.clone())
    }

    /// Whether nothing new is let in.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Waits until nothing new is let in.
    pub(crate) async fn closed(&self) {
        self.until(|| self.is_closed()).await;
    }

    /// Whether the work under way was told to end.
    pub(crate) fn is_aborted(&self) -> bool {
        self.aborted.load(Ordering::SeqCst)
    }

    /// Waits until the work under way is told to end.
    pub(crate) async fn aborted(&self) {
        self.until(|| self.is_aborted()).await;
    }

    /// Waits for a part of the work, which does not begin, or is dropped, when the work is told to end: `None` then.
    pub(crate) async fn unless_aborted<F: Future + Unpin>(&self, part: F) -> Option<F::Output> {
        if self.is_aborted() {
            return None;
        }
        isolation::until(part, || self.aborted()).await.ok()
    }

    /// Lets nothing in, gives the work under way some time, then tells it to end. Returns how much was
    /// told so.
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
            // Listening before the question: a change in between is not missed.
            changed.as_mut().enable();
            if condition() {
                return;
            }
            changed.await;
        }
    }
}

impl UnderWay {
    /// More work that comes of this one, and is waited for like it, also when nothing new is let in.
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
    async fn a_change_between_the_question_and_the_wait_is_not_missed() {
        let (drain, asked) = (Drain::default(), AtomicBool::new(false));
        // What the first question asks for comes true just after it was answered.
        let waits = drain.until(|| {
            let asked = asked.swap(true, Ordering::SeqCst);
            if !asked {
                drain.changed.notify_waiters();
            }
            asked
        });
        assert!(timeout(Duration::from_secs(60), waits).await.is_ok(), "the wake-up was missed");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_told_to_end_does_not_begin() {
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
