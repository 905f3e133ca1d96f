//! The thread that writes.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use ::rusqlite::{Connection, ErrorCode, TransactionBehavior};
use tokio::sync::Notify;
use tracing::error;

use super::bodies::{Bodies, is_damage};
use super::place::{Lost, Place};
use super::queue::{Batch, Command, WriteCall, WriteQueue, unanswered};
use super::schema::is_busy;
use super::transaction::Transaction;
use crate::inbox::limits::Limits;
use crate::store::StoreError;

/// The time between two looks whether another process has ended its transaction.
const LOOK_PAUSE: Duration = Duration::from_millis(1);

/// Hands writes to the thread. On drop, the thread commits the waiting writes and ends.
pub(super) struct Writer {
    queue: Arc<WriteQueue>,
}

/// The state of the thread.
struct Thread {
    connection: Connection,
    /// `None` for a database in memory.
    place: Option<Arc<Place>>,
    limits: Limits,
    /// The longest wait for another process.
    busy_timeout: Duration,
    queue: Arc<WriteQueue>,
    arrived: Arc<Notify>,
}

/// The reason why a transaction was rolled back.
enum Failure {
    /// An error of one call, which concerns no other.
    OfOne(::rusqlite::Error),
    OfAll(::rusqlite::Error),
    /// The file is no longer at its path, so that the data would be lost.
    Lost(Lost),
}

impl Writer {
    pub(super) fn start(
        connection: Connection,
        place: Option<Arc<Place>>,
        limits: Limits,
        busy_timeout: Duration,
        arrived: Arc<Notify>,
    ) -> io::Result<Self> {
        let queue = Arc::new(WriteQueue::default());
        let thread = Thread { connection, place, limits, busy_timeout, queue: queue.clone(), arrived };
        thread::Builder::new().name("webhook-inbox".into()).spawn(move || thread.run())?;
        Ok(Self { queue })
    }

    /// Writes, and returns the result after the commit. `bytes` is the approximate size of the write.
    ///
    /// A dropped call is written as a whole or not at all.
    pub(super) async fn write<T, F>(&self, bytes: usize, write: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Fn(&mut Transaction<'_>) -> ::rusqlite::Result<T> + Send + 'static,
    {
        let (call, reply) = WriteCall::new(write);
        self.queue.push(bytes, Box::new(call))?;
        reply.await.unwrap_or_else(|_| Err(unanswered()))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue.close();
    }
}

impl Thread {
    fn run(mut self) {
        while let Some(batch) = self.queue.take() {
            self.write(batch);
        }
    }

    /// Commits calls together with those that arrive meanwhile, and answers them.
    fn write(&mut self, mut batch: Batch) {
        if batch.commands.is_empty() {
            return;
        }
        let queue = self.queue.clone();
        let committed = self.commit(&mut batch, &Bodies::Together, |batch| queue.take_more(batch));
        let commands = batch.commands;
        match committed {
            Err(Failure::OfOne(error)) if commands.len() > 1 || is_damage(&error) => {
                // The bodies of a call that was alone have been read together.
                let is_alone = commands.len() == 1;
                for command in commands {
                    self.write_alone(command, if is_alone { Bodies::apart() } else { Bodies::Together });
                }
            }
            committed => self.answer(commands, committed),
        }
    }

    /// Commits one call and answers it. Damage that it meets may be that of bodies, which are then left alone.
    fn write_alone(&mut self, command: Box<dyn Command>, mut bodies: Bodies) {
        let mut batch = Batch::of(command);
        let committed = loop {
            let committed = self.commit(&mut batch, &bodies, |_| false);
            let met_damage = matches!(&committed, Err(Failure::OfOne(error)) if is_damage(error));
            if !met_damage || !bodies.leave_the_damaged() {
                break committed;
            }
        };
        self.answer(batch.commands, committed);
    }

    fn answer(&self, commands: Vec<Box<dyn Command>>, committed: Result<usize, Failure>) {
        match committed {
            Ok(arrived) => {
                commands.into_iter().for_each(|command| command.answer(Ok(())));
                (0..arrived).for_each(|_| self.arrived.notify_one());
            }
            Err(Failure::OfOne(error) | Failure::OfAll(error)) => {
                let error = Arc::new(error);
                commands.into_iter().for_each(|command| command.answer(Err(store_error(&error))));
            }
            Err(Failure::Lost(lost)) => {
                let lost = Arc::new(lost);
                let error = || StoreError::unavailable(lost.clone());
                commands.into_iter().for_each(|command| command.answer(Err(error())));
            }
        }
    }

    /// Applies calls in one transaction with those that arrive meanwhile. Returns the number of rows that became due.
    fn commit(
        &mut self,
        batch: &mut Batch,
        bodies: &Bodies,
        take_more: impl Fn(&mut Batch) -> bool,
    ) -> Result<usize, Failure> {
        let sql = begin(&self.connection, self.busy_timeout).map_err(Failure::OfAll)?;
        let mut transaction = Transaction::begin(&sql, self.limits, bodies).map_err(Failure::OfAll)?;
        let mut applied = 0;
        loop {
            for command in &mut batch.commands[applied..] {
                command.apply(&mut transaction).map_err(Failure::of_one)?;
            }
            applied = batch.commands.len();
            if !take_more(batch) {
                break;
            }
        }
        let ended = transaction.end().map_err(Failure::OfAll)?;
        self.place.as_ref().map_or(Ok(()), |place| place.check()).map_err(Failure::Lost)?;
        sql.commit().map_err(Failure::OfAll)?;
        ended.log();
        Ok(ended.arrived)
    }
}

/// Begins to write, and waits for the end of another process's transaction.
///
/// SQLite's own waiting looks every 100 ms in the end, and would hardly ever find the file free between two transactions of
/// a process that has more to write.
fn begin(connection: &Connection, busy_timeout: Duration) -> ::rusqlite::Result<::rusqlite::Transaction<'_>> {
    let until = Instant::now() + busy_timeout;
    loop {
        let begun = ::rusqlite::Transaction::new_unchecked(connection, TransactionBehavior::Immediate);
        match begun {
            Err(error) if is_busy(&error) && Instant::now() < until => thread::sleep(LOOK_PAUSE),
            begun => return begun,
        }
    }
}

impl Failure {
    /// Sorts an error that one call raised.
    fn of_one(error: ::rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            // An error of the values, not of the whole file or the disk: damage may be that of one body.
            None
            | Some(
                ErrorCode::ConstraintViolation
                | ErrorCode::DatabaseCorrupt
                | ErrorCode::TooBig
                | ErrorCode::TypeMismatch
                | ErrorCode::ParameterOutOfRange
                | ErrorCode::Unknown,
            ) => Self::OfOne(error),
            Some(_) => Self::OfAll(error),
        }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        if thread::panicking() {
            error!("the thread that writes to the inbox has panicked: nothing is stored any more");
        }
        self.queue.abandon();
    }
}

fn store_error(error: &Arc<::rusqlite::Error>) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::Full,
        _ => StoreError::unavailable(error.clone()),
    }
}
