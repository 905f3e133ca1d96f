//! The queue of calls for the thread that writes.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::transaction::Transaction;
use crate::store::StoreError;

/// The most calls and bytes of one transaction: a larger one saves nothing, and its callers wait longer.
const BATCH_COMMANDS: usize = 256;
const BATCH_BYTES: usize = 8 << 20;
/// The most calls and bytes in the queue: a disk that hangs must not fill the memory.
const MAX_COMMANDS: usize = 1 << 16;
const MAX_BYTES: usize = 256 << 20;

/// A call that writes.
pub(super) trait Command: Send {
    /// Whether the caller still waits for the result.
    fn is_wanted(&self) -> bool;

    /// Writes, and keeps the result. Called again after the transaction is rolled back.
    fn apply(&mut self, transaction: &mut Transaction<'_>) -> ::rusqlite::Result<()>;

    /// Returns the result to the caller, or the error of the commit.
    fn answer(self: Box<Self>, committed: Result<(), StoreError>);
}

/// A [`Command`] made of a closure.
pub(super) struct WriteCall<T, F> {
    write: F,
    written: Option<T>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

/// Calls in the order of their arrival.
#[derive(Default)]
pub(super) struct WriteQueue {
    state: Mutex<WriteQueueState>,
    ready: Condvar,
}

#[derive(Default)]
struct WriteQueueState {
    waiting: VecDeque<(usize, Box<dyn Command>)>,
    bytes: usize,
    writer_waits: bool,
    closed: bool,
}

/// Calls to commit together.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) commands: Vec<Box<dyn Command>>,
    bytes: usize,
}

#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("the thread that writes has ended")]
    Closed,
    #[error("too many writes wait for the disk")]
    TooMany,
}

impl WriteQueue {
    /// Adds a call with this many bytes.
    pub(super) fn push(&self, bytes: usize, command: Box<dyn Command>) -> Result<(), StoreError> {
        let mut state = self.state();
        if state.closed {
            return Err(StoreError::unavailable(Refused::Closed));
        }
        let is_full = state.bytes.saturating_add(bytes) > MAX_BYTES || state.waiting.len() >= MAX_COMMANDS;
        if is_full && !state.waiting.is_empty() {
            return Err(StoreError::unavailable(Refused::TooMany));
        }
        state.bytes += bytes;
        state.waiting.push_back((bytes, command));
        let wake = std::mem::take(&mut state.writer_waits);
        drop(state);
        if wake {
            self.ready.notify_one();
        }
        Ok(())
    }

    /// Waits for a call, and takes as many as fit into a batch. `None` once the queue is closed and empty.
    pub(super) fn take(&self) -> Option<Batch> {
        let mut state = self.state();
        while state.waiting.is_empty() {
            if state.closed {
                return None;
            }
            state.writer_waits = true;
            state = self.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.writer_waits = false;
        }
        let mut batch = Batch::default();
        batch.fill(&mut state);
        Some(batch)
    }

    /// Takes calls that have arrived since. `false` if there are no more or the batch is full.
    pub(super) fn take_more(&self, batch: &mut Batch) -> bool {
        let before = batch.commands.len();
        batch.fill(&mut self.state());
        batch.commands.len() > before
    }

    /// Refuses further calls. Waiting ones are still taken.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.ready.notify_one();
    }

    /// Closes the queue, and drops the waiting calls, when no thread will take them.
    pub(super) fn abandon(&self) {
        self.close();
        let waiting = std::mem::take(&mut self.state().waiting);
        drop(waiting);
    }

    fn state(&self) -> MutexGuard<'_, WriteQueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Batch {
    pub(super) fn of(command: Box<dyn Command>) -> Self {
        Self { commands: vec![command], bytes: 0 }
    }

    fn is_full(&self) -> bool {
        self.commands.len() >= BATCH_COMMANDS || self.bytes >= BATCH_BYTES
    }

    /// Takes waiting calls, and drops those whose callers have left.
    fn fill(&mut self, state: &mut WriteQueueState) {
        while !self.is_full() {
            let Some((bytes, command)) = state.waiting.pop_front() else { break };
            state.bytes -= bytes;
            if command.is_wanted() {
                self.bytes += bytes;
                self.commands.push(command);
            }
        }
    }
}

impl<T, F> WriteCall<T, F> {
    pub(super) fn new(write: F) -> (Self, oneshot::Receiver<Result<T, StoreError>>) {
        let (reply, replied) = oneshot::channel();
        (Self { write, written: None, reply }, replied)
    }
}

impl<T, F> Command for WriteCall<T, F>
where
    T: Send,
    F: Fn(&mut Transaction<'_>) -> ::rusqlite::Result<T> + Send,
{
    fn is_wanted(&self) -> bool {
        !self.reply.is_closed()
    }

    fn apply(&mut self, transaction: &mut Transaction<'_>) -> ::rusqlite::Result<()> {
        self.written = Some((self.write)(transaction)?);
        Ok(())
    }

    fn answer(self: Box<Self>, committed: Result<(), StoreError>) {
        let answer = match (committed, self.written) {
            (Ok(()), Some(written)) => Ok(written),
            (Err(error), _) => Err(error),
            // Not applied: the caller sees the dropped channel.
            (Ok(()), None) => return,
        };
        // The caller may have left.
        let _ = self.reply.send(answer);
    }
}

/// The error of a call that was dropped without a result.
pub(super) fn unanswered() -> StoreError {
    StoreError::unavailable(Refused::Closed)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    type Caller = oneshot::Receiver<Result<(), StoreError>>;

    /// Adds a call, and returns its caller.
    fn push(queue: &WriteQueue, bytes: usize) -> Result<Caller, StoreError> {
        let (call, caller) = WriteCall::new(|_: &mut Transaction<'_>| Ok(()));
        queue.push(bytes, Box::new(call)).map(|()| caller)
    }

    fn take(queue: &WriteQueue) -> usize {
        queue.take().unwrap().commands.len()
    }

    #[test]
    fn a_full_queue_refuses_calls_until_some_are_taken() {
        let queue = WriteQueue::default();
        let _large = push(&queue, MAX_BYTES + 1).unwrap();
        assert!(push(&queue, 1).is_err(), "beside a call that is larger than the queue");
        assert_eq!(take(&queue), 1);
        let _two = [push(&queue, MAX_BYTES - 1).unwrap(), push(&queue, 1).unwrap()];
        assert!(push(&queue, 1).is_err(), "full of bytes");
        assert_eq!((take(&queue), take(&queue)), (1, 1));
        let _many: Vec<_> = (0..MAX_COMMANDS).map(|_| push(&queue, 0).unwrap()).collect();
        assert!(push(&queue, 0).is_err(), "full of calls");
        take(&queue);
        let _caller = push(&queue, 0).unwrap();
    }

    #[test]
    fn a_batch_is_bounded_and_has_only_calls_whose_callers_wait() {
        let queue = WriteQueue::default();
        let callers: Vec<_> = (0..BATCH_COMMANDS + 1).map(|_| push(&queue, 0).unwrap()).collect();
        let mut batch = queue.take().unwrap();
        assert_eq!(batch.commands.len(), BATCH_COMMANDS);
        assert!(!queue.take_more(&mut batch), "more than a batch holds");
        drop(callers);
        let callers = [BATCH_BYTES / 2, BATCH_BYTES / 2, 1].map(|bytes| push(&queue, bytes).unwrap());
        let mut batch = queue.take().unwrap();
        assert_eq!(
            (batch.commands.len(), take(&queue)),
            (2, 1),
            "of which one was left and three have bytes"
        );
        assert!(!queue.take_more(&mut batch));
        drop(callers);
        let _first = push(&queue, 0).unwrap();
        let mut batch = queue.take().unwrap();
        assert!(!queue.take_more(&mut batch));
        let _second = push(&queue, 0).unwrap();
        assert!(queue.take_more(&mut batch), "a call that came since");
        assert_eq!(batch.commands.len(), 2);
    }
}
