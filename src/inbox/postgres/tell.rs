//! News of arrivals: wakes callers in this process at once, and notifies other processes.
//!
//! A notification is only a hint, sent after the commit. Its failure, as when the server's queue of notifications is full,
//! fails nothing else.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::types::Type;
use tracing::debug;

use super::{Inner, Parameter};
use crate::error::chain;
use crate::postgres;
use crate::store::StoreError;

/// The least time between two notifications. Arrivals in between share one.
const PAUSE: Duration = Duration::from_millis(10);
/// The longest time that a notification may take.
const TIME: Duration = Duration::from_secs(5);
/// The longest time that a notification may take while the caller of a committed write waits for it.
const TIME_BEFORE_REPLY: Duration = Duration::from_millis(100);

/// The arrivals of which other processes have not been notified.
#[derive(Default)]
pub(super) struct Notifier(Mutex<NotifierState>);

#[derive(Default)]
struct NotifierState {
    /// Whether an arrival has no notification yet.
    is_pending: bool,
    /// The number of the task that notifies, and the time of its last notification.
    task: Option<(u64, Instant)>,
    /// The number of tasks started so far.
    started: u64,
}

/// The task that notifies.
struct NotifyTask {
    inner: Arc<Inner>,
    number: u64,
}

/// Wakes a caller for each event, and notifies other processes soon.
pub(super) fn arrived(inner: &Arc<Inner>, events: usize) {
    (0..events).for_each(|_| inner.arrivals.wake_one());
    let Ok(runtime) = Handle::try_current() else { return };
    if events > 0
        && let Some(number) = inner.notifier.start()
    {
        runtime.spawn(NotifyTask { inner: inner.clone(), number }.run());
    }
}

/// Wakes a caller, and notifies other processes before it returns, because the program may end then. Without a free
/// connection it gives up soon: the outcome that it belongs to is committed, and its caller holds a lease.
pub(super) async fn arrived_now(inner: &Inner) {
    inner.arrivals.wake_one();
    notify(inner, TIME_BEFORE_REPLY).await;
}

async fn notify(inner: &Inner, time: Duration) {
    let parameters: [Parameter<'_>; 1] = [(&inner.payload, Type::TEXT)];
    let notify = postgres::query(&inner.database, &inner.statements.notify, &parameters);
    let notified = timeout(time, notify).await.unwrap_or_else(|late| Err(StoreError::unavailable(late)));
    if let Err(error) = notified {
        debug!(error = %chain(&error), "notifying other processes of an arrival failed; they find it when they poll");
    }
}

impl Notifier {
    fn state(&self) -> MutexGuard<'_, NotifierState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes an arrival. Returns the number of a task to start, unless a task runs; one that made no progress for a while
    /// does not count, as its runtime may have stopped.
    fn start(&self) -> Option<u64> {
        let mut state = self.state();
        state.is_pending = true;
        if state.task.is_some_and(|(_, began)| began.elapsed() < TIME * 2) {
            return None;
        }
        state.started += 1;
        state.task = Some((state.started, Instant::now()));
        Some(state.started)
    }
}

impl NotifyTask {
    async fn run(self) {
        while self.next() {
            notify(&self.inner, TIME).await;
            sleep(PAUSE).await;
        }
    }

    /// Whether an arrival is pending. If not, the task ends, and the next arrival starts another.
    fn next(&self) -> bool {
        let mut state = self.inner.notifier.state();
        if !std::mem::take(&mut state.is_pending) {
            state.end(self.number);
            return false;
        }
        state.task = Some((self.number, Instant::now()));
        true
    }
}

impl NotifierState {
    fn end(&mut self, number: u64) {
        self.task.take_if(|(task, _)| *task == number);
    }
}

impl Drop for NotifyTask {
    fn drop(&mut self) {
        self.inner.notifier.state().end(self.number);
    }
}
