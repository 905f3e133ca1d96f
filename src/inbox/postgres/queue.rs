//! The queue of events to store, and the tasks that empty it.
//!
//! Events queue up while statements are under way. A task takes the queued events, stores them with one statement, and
//! ends when the queue is empty. So a single event does not wait, and many events share a commit. An event that waits
//! too long starts another task: no event depends on a stuck statement, or on a runtime that has ended.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::{Inner, batch, capacity};
use crate::event::{Envelope, JobId};
use crate::inbox::Receipt;
use crate::store::StoreError;

/// The most statements of one handle under way at once. Fewer statements share more events each, so another one is sent
/// only when [`ENOUGH_EVENTS`] wait or the last one was sent [`LONG_AGO`].
const TASKS: usize = 4;
/// The age from which a statement is stuck, as behind a locked row, and does not keep another from being sent.
const STUCK: Duration = Duration::from_secs(1);
const ENOUGH_EVENTS: usize = 64;
const LONG_AGO: Duration = Duration::from_millis(50);
/// The most events and bytes of one statement; a larger body goes alone.
const BATCH_EVENTS: usize = 256;
const BATCH_BYTES: usize = 8 << 20;

/// The caller that waits for an event's receipt.
type Caller = oneshot::Sender<Result<Receipt, StoreError>>;

pub(super) struct EventQueue {
    state: Mutex<EventQueueState>,
    /// The most statements under way at once, including stuck ones.
    most_tasks: usize,
}

#[derive(Default)]
struct EventQueueState {
    waiting: VecDeque<(Envelope, Caller)>,
    /// The time at which each task last began to store a batch.
    tasks: HashMap<u64, Instant>,
    /// The number of tasks started so far.
    started: u64,
    /// The time of the last statement.
    last: Option<Instant>,
}

/// An event and the callers that received it.
pub(super) struct Received {
    pub(super) event: Envelope,
    callers: Vec<Caller>,
}

/// A task that stores the queued events.
struct StoreTask {
    inner: Arc<Inner>,
    number: u64,
}

/// Queues an event, and waits for its receipt.
pub(super) async fn receive(inner: &Arc<Inner>, event: &Envelope) -> Result<Receipt, StoreError> {
    let mut retries_left = 2;
    loop {
        let (caller, mut receipt) = oneshot::channel();
        inner.queue.push(event.clone(), caller);
        let received = loop {
            start_task(inner)?;
            if let Ok(received) = timeout(LONG_AGO, &mut receipt).await {
                break received;
            }
        };
        match received {
            Ok(receipt) => return receipt,
            // The task belonged to another runtime, which has ended.
            Err(_) if retries_left > 0 => retries_left -= 1,
            Err(ended) => return Err(StoreError::unavailable(ended)),
        }
    }
}

/// Starts a task if the queued events need one.
fn start_task(inner: &Arc<Inner>) -> Result<(), StoreError> {
    let runtime = Handle::try_current().map_err(StoreError::unavailable)?;
    let started = inner.queue.state().start_task(inner.queue.most_tasks);
    if let Some(number) = started {
        runtime.spawn(StoreTask { inner: inner.clone(), number }.run());
    }
    Ok(())
}

impl EventQueue {
    /// Makes the queue of an inbox whose pool has this many connections. Stuck statements leave some of them to other
    /// calls.
    pub(super) fn new(connections: usize) -> Self {
        Self { state: Mutex::default(), most_tasks: TASKS.max(connections / 4 * 3) }
    }

    fn state(&self) -> MutexGuard<'_, EventQueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, event: Envelope, caller: Caller) {
        let mut state = self.state();
        // Events whose callers have left take no memory, even while all statements are stuck.
        while state.waiting.front().is_some_and(|(_, caller)| caller.is_closed()) {
            state.waiting.pop_front();
        }
        state.waiting.push_back((event, caller));
    }
}

impl EventQueueState {
    /// Notes another task, if the queued events need one, and returns its number.
    fn start_task(&mut self, most: usize) -> Option<u64> {
        let now = Instant::now();
        if self.waiting.is_empty() || self.tasks.len() >= most {
            return None;
        }
        let is_wanted = match self.tasks.values().filter(|began| now - **began < STUCK).count() {
            0 => true,
            1..TASKS => {
                self.waiting.len() >= ENOUGH_EVENTS || self.last.is_some_and(|last| now - last >= LONG_AGO)
            }
            _ => false,
        };
        if !is_wanted {
            return None;
        }
        self.started += 1;
        self.tasks.insert(self.started, now);
        Some(self.started)
    }
}

impl StoreTask {
    async fn run(self) {
        while let Some(batch) = self.next_batch() {
            batch::store(&self.inner, batch).await;
            if self.inner.room.is_counted() && self.inner.room.is_count_due() {
                capacity::count(&self.inner).await;
            }
        }
    }

    /// Takes the queued events that fit into one statement; `None` when the queue is empty.
    ///
    /// Duplicates of one event become one. Another event of a job in the batch waits for the next batch: its receipt
    /// depends on that of the first.
    fn next_batch(&self) -> Option<Vec<Received>> {
        let mut state = self.inner.queue.state();
        let mut batch: Vec<Received> = Vec::new();
        let mut places: HashMap<JobId, usize> = HashMap::new();
        let (mut later, mut bytes) = (Vec::new(), 0);
        while batch.len() < BATCH_EVENTS
            && let Some((event, caller)) = state.waiting.pop_front()
        {
            if caller.is_closed() {
                continue;
            }
            match places.entry(event.job().clone()) {
                Entry::Occupied(place) => match batch.get_mut(*place.get()) {
                    Some(first) if first.is_duplicated_by(&event) => first.callers.push(caller),
                    _ => later.push((event, caller)),
                },
                Entry::Vacant(_) if bytes > 0 && bytes + event.body().len() > BATCH_BYTES => {
                    later.push((event, caller));
                    break;
                }
                Entry::Vacant(place) => {
                    place.insert(batch.len());
                    bytes += event.body().len();
                    batch.push(Received { event, callers: vec![caller] });
                }
            }
        }
        for waiting in later.into_iter().rev() {
            state.waiting.push_front(waiting);
        }
        if batch.is_empty() {
            // Under the same lock as the look at the queue, so that the next event starts another task.
            state.tasks.remove(&self.number);
            return None;
        }
        let now = Instant::now();
        state.last = Some(now);
        state.tasks.insert(self.number, now);
        Some(batch)
    }
}

impl Drop for StoreTask {
    /// Notes the end of the task, also when the runtime is shut down during a statement. Queued events start another.
    fn drop(&mut self) {
        self.inner.queue.state().tasks.remove(&self.number);
    }
}

impl Received {
    fn is_duplicated_by(&self, event: &Envelope) -> bool {
        self.event.body() == event.body()
    }

    /// Answers every caller. All but the first brought a duplicate.
    pub(super) fn answer(self, receipt: Receipt) {
        let of_duplicate = if receipt == Receipt::Stored { Receipt::Duplicate } else { receipt };
        for (number, caller) in self.callers.into_iter().enumerate() {
            // A caller that has left needs no answer.
            let _ = caller.send(Ok(if number == 0 { receipt } else { of_duplicate }));
        }
    }

    /// Answers every caller with an error.
    pub(super) fn refuse(self, error: impl Fn() -> StoreError) {
        for caller in self.callers {
            let _ = caller.send(Err(error()));
        }
    }
}
