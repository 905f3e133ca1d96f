//! Tells of arrivals: those who wait in this process at once, other processes by a notification of its own.
//!
//! A notification is only a hint. It is sent after the commit, and its failure, as when the server's queue of
//! notifications is full, fails nothing else.

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

/// The least time between two notifications. What arrives in between is told together.
const PAUSE: Duration = Duration::from_millis(10);
/// How long one may take.
const TIME: Duration = Duration::from_secs(5);

/// Which arrivals other processes have yet to be told of.
#[derive(Default)]
pub(super) struct Teller(Mutex<State>);

#[derive(Default)]
struct State {
    is_untold: bool,
    /// The task that tells, and when it last began to.
    telling: Option<(u64, Instant)>,
    /// How many tasks there have been.
    started: u64,
}

/// The task that tells.
struct Telling {
    inner: Arc<Inner>,
    number: u64,
}

/// Wakes as many as there are events, and tells the other processes.
pub(super) fn arrived(inner: &Arc<Inner>, events: usize) {
    (0..events).for_each(|_| inner.arrivals.wake_one());
    let Ok(runtime) = Handle::try_current() else { return };
    if events > 0
        && let Some(number) = inner.teller.start()
    {
        runtime.spawn(Telling { inner: inner.clone(), number }.run());
    }
}

/// Wakes one who waits, and tells the other processes before it returns: the program may end then.
pub(super) async fn arrived_now(inner: &Inner) {
    inner.arrivals.wake_one();
    notify(inner).await;
}

async fn notify(inner: &Inner) {
    let parameters: [Parameter<'_>; 1] = [(&inner.payload, Type::TEXT)];
    let notify = postgres::query(&inner.database, &inner.statements.notify, &parameters);
    let told = timeout(TIME, notify).await.unwrap_or_else(|late| Err(StoreError::unavailable(late)));
    if let Err(error) = told {
        debug!(error = %chain(&error), "other processes were not told of an arrival; they find it when they poll");
    }
}

impl Teller {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes an arrival, and returns the number of a task to be started, unless one is at it. A task whose runtime
    /// stands still is none.
    fn start(&self) -> Option<u64> {
        let mut state = self.state();
        state.is_untold = true;
        if state.telling.is_some_and(|(_, began)| began.elapsed() < TIME * 2) {
            return None;
        }
        state.started += 1;
        state.telling = Some((state.started, Instant::now()));
        Some(state.started)
    }
}

impl Telling {
    async fn run(self) {
        while self.next() {
            notify(&self.inner).await;
            sleep(PAUSE).await;
        }
    }

    /// Whether there is something to tell. If not, the next arrival starts another task.
    fn next(&self) -> bool {
        let mut state = self.inner.teller.state();
        if !std::mem::take(&mut state.is_untold) {
            state.end(self.number);
            return false;
        }
        state.telling = Some((self.number, Instant::now()));
        true
    }
}

impl State {
    fn end(&mut self, number: u64) {
        self.telling.take_if(|(telling, _)| *telling == number);
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        self.inner.teller.state().end(self.number);
    }
}
