//! Queues of calls that share statements, and the tasks that empty them.
//!
//! Calls queue up while statements are under way. A task takes the queued calls, sends one statement for them, and ends
//! when the queue is empty. So a single call does not wait, and many calls share a commit. A call that waits too long
//! starts another task: no call depends on a stuck statement, or on a runtime that has ended.

use std::collections::{HashMap, VecDeque};
use std::error::Error;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::Inner;
use crate::store::StoreError;

/// The most statements of one queue under way at once. Fewer statements share more calls each, so another one is sent
/// only when [`ENOUGH_CALLS`] wait, a large one is next, or the last one was sent [`LONG_AGO`].
const TASKS: usize = 4;
/// The age from which a statement is stuck, as behind a locked table, and does not keep another from being sent.
const STUCK: Duration = Duration::from_secs(1);
const ENOUGH_CALLS: usize = 64;
const LONG_AGO: Duration = Duration::from_millis(50);

/// The caller that waits for a call's result.
pub(super) type Caller<R> = oneshot::Sender<Result<R, StoreError>>;

/// A call that shares a statement with others of its kind.
pub(super) trait Queued: Sized + Send + 'static {
    type Batch: Send;

    /// The queue of these calls.
    fn queue(inner: &Inner) -> &Queue<Self>;

    /// Whether the caller has left.
    fn is_abandoned(&self) -> bool;

    /// Whether the call keeps a connection busy for long: another statement is then sent beside it.
    fn is_large(&self) -> bool {
        false
    }

    /// Takes the calls that fit into one statement; `None` when no caller waits.
    fn next_batch(waiting: &mut VecDeque<Self>) -> Option<Self::Batch>;

    /// Sends the statement, and answers the callers.
    fn send(inner: &Arc<Inner>, batch: Self::Batch) -> impl Future<Output = ()> + Send;
}

pub(super) struct Queue<C> {
    state: Mutex<State<C>>,
    /// The most statements under way at once, including stuck ones.
    most_tasks: usize,
}

struct State<C> {
    waiting: VecDeque<C>,
    /// The time at which each task last took a batch.
    tasks: HashMap<u64, Instant>,
    /// The number of tasks started so far.
    started: u64,
    /// The time of the last statement.
    last: Option<Instant>,
}

/// A task that empties a queue.
struct Task<C: Queued> {
    inner: Arc<Inner>,
    number: u64,
    calls: PhantomData<fn() -> C>,
}

/// Queues a call, and waits for its result.
pub(super) async fn call<C: Queued, R>(
    inner: &Arc<Inner>,
    queued: impl Fn(Caller<R>) -> C,
) -> Result<R, StoreError> {
    let mut retries_left = 2;
    loop {
        let (caller, mut result) = oneshot::channel();
        C::queue(inner).push(queued(caller));
        let answered = loop {
            start_task::<C>(inner)?;
            if let Ok(answered) = timeout(LONG_AGO, &mut result).await {
                break answered;
            }
        };
        match answered {
            Ok(result) => return result,
            // The task belonged to another runtime, which has ended.
            Err(_) if retries_left > 0 => retries_left -= 1,
            Err(ended) => return Err(StoreError::unavailable(ended)),
        }
    }
}

/// Starts a task if the queued calls need one.
fn start_task<C: Queued>(inner: &Arc<Inner>) -> Result<(), StoreError> {
    let runtime = Handle::try_current().map_err(StoreError::unavailable)?;
    let queue = C::queue(inner);
    let started = queue.state().start_task(queue.most_tasks);
    if let Some(number) = started {
        runtime.spawn(Task::<C> { inner: inner.clone(), number, calls: PhantomData }.run());
    }
    Ok(())
}

/// Takes the first calls whose callers still wait; `None` if no caller does.
pub(super) fn take<C: Queued>(waiting: &mut VecDeque<C>, most: usize) -> Option<Vec<C>> {
    let calls = std::iter::from_fn(|| waiting.pop_front()).filter(|call| !call.is_abandoned());
    let batch: Vec<C> = calls.take(most).collect();
    (!batch.is_empty()).then_some(batch)
}

/// Runs a statement while a caller waits for it. A connection that hangs is given up with the last caller, and not with
/// the time limit of the statement.
pub(super) async fn while_called<R, T>(
    callers: &mut [Caller<R>],
    statement: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let left = async {
        for caller in callers {
            caller.closed().await;
        }
    };
    tokio::select! {
        biased;
        done = statement => done,
        () = left => Err(StoreError::unavailable("no caller waits any more")),
    }
}

/// Answers each caller, or all with the error. One that has left needs no answer.
pub(super) fn end<R>(callers: impl IntoIterator<Item = Caller<R>>, results: Result<Vec<R>, StoreError>) {
    match results {
        Ok(results) => {
            for (caller, result) in callers.into_iter().zip(results) {
                let _ = caller.send(Ok(result));
            }
        }
        Err(error) => {
            let error = for_each(error);
            for caller in callers {
                let _ = caller.send(Err(error()));
            }
        }
    }
}

/// An error for each of several callers.
pub(super) fn for_each(error: StoreError) -> impl Fn() -> StoreError {
    let cause: Option<Arc<dyn Error + Send + Sync>> = match error {
        StoreError::Unavailable(cause) => Some(Arc::from(cause)),
        StoreError::Full => None,
    };
    move || cause.clone().map_or(StoreError::Full, StoreError::unavailable)
}

/// The result at a place that a statement returned, counted from one.
pub(super) fn place<R>(place: i64, results: &mut [R]) -> Option<&mut R> {
    results.get_mut(usize::try_from(place - 1).ok()?)
}

impl<C> Queue<C> {
    /// Makes the queue of an inbox whose pool has this many connections. Stuck statements, and events that wait alone for a
    /// lock, leave an eighth of a large pool to other calls.
    pub(super) fn new(connections: usize) -> Self {
        let state = State { waiting: VecDeque::new(), tasks: HashMap::new(), started: 0, last: None };
        Self { state: Mutex::new(state), most_tasks: TASKS.max(connections / 4 * 3) }
    }

    fn state(&self) -> MutexGuard<'_, State<C>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C: Queued> Queue<C> {
    fn push(&self, call: C) {
        let mut state = self.state();
        // Calls whose callers have left take no memory, even while all statements are stuck.
        while state.waiting.front().is_some_and(C::is_abandoned) {
            state.waiting.pop_front();
        }
        state.waiting.push_back(call);
    }
}

impl<C: Queued> State<C> {
    /// Notes another task, if the queued calls need one, and returns its number.
    fn start_task(&mut self, most: usize) -> Option<u64> {
        let now = Instant::now();
        if self.waiting.is_empty() || self.tasks.len() >= most {
            return None;
        }
        let is_wanted = match self.tasks.values().filter(|began| now - **began < STUCK).count() {
            0 => true,
            1..TASKS => {
                self.waiting.len() >= ENOUGH_CALLS
                    || self.waiting.front().is_some_and(C::is_large)
                    || self.last.is_some_and(|last| now - last >= LONG_AGO)
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

impl<C: Queued> Task<C> {
    async fn run(self) {
        while let Some(batch) = self.next_batch() {
            C::send(&self.inner, batch).await;
        }
    }

    /// Takes the queued calls that fit into one statement; `None` when the queue is empty.
    fn next_batch(&self) -> Option<C::Batch> {
        let mut state = C::queue(&self.inner).state();
        let Some(batch) = C::next_batch(&mut state.waiting) else {
            // Under the same lock as the look at the queue, so that the next call starts another task.
            state.tasks.remove(&self.number);
            return None;
        };
        let now = Instant::now();
        state.last = Some(now);
        state.tasks.insert(self.number, now);
        Some(batch)
    }
}

impl<C: Queued> Drop for Task<C> {
    /// Notes the end of the task, also when the runtime is shut down during a statement. Queued calls start another.
    fn drop(&mut self) {
        C::queue(&self.inner).state().tasks.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Call {
        is_large: bool,
    }

    impl Queued for Call {
        type Batch = ();

        fn queue(_: &Inner) -> &Queue<Self> {
            unreachable!("no call is sent")
        }

        fn is_abandoned(&self) -> bool {
            false
        }

        fn is_large(&self) -> bool {
            self.is_large
        }

        fn next_batch(_: &mut VecDeque<Self>) -> Option<()> {
            None
        }

        async fn send(_: &Arc<Inner>, (): ()) {}
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_call_waits_for_no_other_statement_while_there_are_few() {
        for (is_large, most) in [(false, 1), (true, TASKS)] {
            let (waiting, last) = (VecDeque::from([Call { is_large }]), Some(Instant::now()));
            let mut state = State { waiting, tasks: HashMap::new(), started: 0, last };
            while state.start_task(TASKS * 2).is_some() {}
            assert_eq!(state.tasks.len(), most, "large: {is_large}");
        }
    }
}
