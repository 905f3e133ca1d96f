//! What waits for the thread that writes.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::transaction::Transaction;
use crate::store::StoreError;

/// The most that is committed together: beyond, a larger transaction saves nothing, and those that wait for it
/// wait longer.
const BATCH_COMMANDS: usize = 256;
const BATCH_BYTES: usize = 8 << 20;
/// The most that waits: a disk that hangs must not fill the memory.
const MAX_COMMANDS: usize = 1 << 16;
const MAX_BYTES: usize = 256 << 20;

/// One call that writes.
pub(super) trait Command: Send {
    /// Whether somebody still waits for the answer.
    fn is_wanted(&self) -> bool;

    /// Writes, and keeps what to answer. Called again when the transaction was rolled back.
    fn apply(&mut self, transaction: &mut Transaction<'_>) -> ::rusqlite::Result<()>;

    /// Answers, once it is known whether the transaction is committed.
    fn answer(self: Box<Self>, committed: Result<(), StoreError>);
}

/// A [`Command`] out of a closure.
pub(super) struct Call<T, F> {
    write: F,
    written: Option<T>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

/// Calls in the order of their arrival.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    ready: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<(usize, Box<dyn Command>)>,
    bytes: usize,
    writer_waits: bool,
    closed: bool,
}

/// Calls that are committed together.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) commands: Vec<Box<dyn Command>>,
    bytes: usize,
}

#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("the thread that writes has ended")]
    Closed,
    #[error("too many calls wait to be written")]
    TooMany,
}

impl Queue {
    /// Adds a call with so many bytes.
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

    /// Waits for calls, and takes what is there. `None` once the queue is closed and empty.
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

    /// Takes calls that have come since. `false` if there are none.
    pub(super) fn take_more(&self, batch: &mut Batch) -> bool {
        let before = batch.commands.len();
        batch.fill(&mut self.state());
        batch.commands.len() > before
    }

    /// Lets no further call in. Those that wait are still taken.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.ready.notify_one();
    }

    /// Drops those that wait: nobody will take them.
    pub(super) fn abandon(&self) {
        self.close();
        let waiting = std::mem::take(&mut self.state().waiting);
        drop(waiting);
    }

    fn state(&self) -> MutexGuard<'_, State> {
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

    /// Takes what waits, but for calls that nobody waits for any more.
    fn fill(&mut self, state: &mut State) {
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

impl<T, F> Call<T, F> {
    pub(super) fn new(write: F) -> (Self, oneshot::Receiver<Result<T, StoreError>>) {
        let (reply, replied) = oneshot::channel();
        (Self { write, written: None, reply }, replied)
    }
}

impl<T, F> Command for Call<T, F>
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
            // Not applied: the receiver's end says so.
            (Ok(()), None) => return,
        };
        // Whoever asked may have gone.
        let _ = self.reply.send(answer);
    }
}

/// What the end of a call's reply without an answer means.
pub(super) fn unanswered() -> StoreError {
    StoreError::unavailable(Refused::Closed)
}
