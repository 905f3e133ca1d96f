//! Bodies in the file, some of which may be damaged.

use std::cell::RefCell;
use std::collections::BTreeSet;

use ::rusqlite::{Connection, ErrorCode, OptionalExtension, ffi};
use bytes::Bytes;

use super::rows;

/// The most repetitions of one call that leave further damaged bodies alone: other writes wait meanwhile.
const MOST_REPETITIONS: usize = 8;

/// How a transaction reads, stores and deletes bodies.
///
/// Once SQLite has met damage in a transaction, it lets that transaction read on, and write nothing more. So a transaction
/// that meets damaged bodies is rolled back, and begun again with these bodies left alone. It reads as much as it can before
/// its first write, to learn of all of them at once.
#[derive(Debug, Default)]
pub(super) enum Bodies {
    /// They are read with their rows, as nothing is known to be damaged.
    #[default]
    Together,
    /// Each is read by a statement of its own, except for those that are damaged.
    Apart(Apart),
}

/// The damaged bodies that one call has met.
#[derive(Debug, Default)]
pub(super) struct Apart {
    /// The rows whose bodies earlier transactions have found to be damaged.
    damaged: BTreeSet<i64>,
    /// The rows whose bodies this transaction has found to be damaged.
    met: RefCell<BTreeSet<i64>>,
    repetitions: usize,
    /// The rows at which the call ends, as it was repeated often enough.
    ends: BTreeSet<i64>,
}

/// A body that SQLite cannot read.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("its body is damaged in the file (SQLITE_CORRUPT)")]
pub(super) struct Damaged;

impl Bodies {
    /// For a transaction that follows one that met damage.
    pub(super) fn apart() -> Self {
        Self::Apart(Apart::default())
    }

    pub(super) fn are_apart(&self) -> bool {
        matches!(self, Self::Apart(_))
    }

    /// Prepares for another transaction after one that met damage. Returns `false` if it would meet the same.
    pub(super) fn leave_the_damaged(&mut self) -> bool {
        let Self::Apart(apart) = self else {
            *self = Self::apart();
            return true;
        };
        let met = apart.met.take();
        if met.is_empty() || !apart.ends.is_empty() {
            return false;
        }
        apart.repetitions += 1;
        if apart.repetitions < MOST_REPETITIONS {
            apart.damaged.extend(met);
        } else {
            apart.ends = met;
        }
        true
    }

    /// Whether a call that changes many rows ends before this one. A later call goes on with it.
    pub(super) fn end_before(&self, id: i64) -> bool {
        matches!(self, Self::Apart(apart) if apart.ends.contains(&id))
    }

    /// Whether an earlier transaction of the call has found the body of this row to be damaged.
    pub(super) fn is_damaged(&self, id: i64) -> bool {
        matches!(self, Self::Apart(apart) if apart.damaged.contains(&id))
    }

    /// Reads the body of one row. Before the transaction writes, it must [`check`](Self::check) that it may.
    pub(super) fn read(
        &self,
        connection: &Connection,
        id: i64,
    ) -> ::rusqlite::Result<Result<Option<Bytes>, Damaged>> {
        let read = || connection.prepare_cached(rows::BODY)?.query_row([id], |row| row.get(0)).optional();
        let body: Result<Option<Vec<u8>>, _> = self.unless_damaged(connection, id, read)?;
        Ok(body.map(|body| body.map(Bytes::from)))
    }

    /// Reads bodies that are to be deleted, if some of them may be damaged: so one repetition suffices for all.
    pub(super) fn examine(
        &self,
        connection: &Connection,
        ids: impl IntoIterator<Item = i64>,
    ) -> ::rusqlite::Result<()> {
        if self.are_apart() {
            for id in ids {
                let _is_damaged = self.read(connection, id)?;
            }
        }
        self.check()
    }

    /// Fails if the transaction has met damage, as it can write nothing then.
    pub(super) fn check(&self) -> ::rusqlite::Result<()> {
        match self {
            Self::Apart(apart) if !apart.met.borrow().is_empty() => Err(damage()),
            Self::Together | Self::Apart(_) => Ok(()),
        }
    }

    /// Stores the body of one row, in the place of its body if it has one. Fails if that one is damaged: SQLite cannot find
    /// all of its pages.
    pub(super) fn store(&self, connection: &Connection, id: i64, body: &[u8]) -> ::rusqlite::Result<()> {
        // SQLite would overwrite a body of the same length on whatever pages the damaged ones name.
        let replace = || {
            connection.prepare_cached(rows::DELETE_BODY)?.execute([id])?;
            rows::store_body(connection, id, body)
        };
        let stored = self.unless_damaged(connection, id, replace)?;
        self.check()?;
        stored.map_err(|Damaged| damage())
    }

    /// Deletes the body of one row. A damaged one is left, and so is one for which SQLite looks at a damaged page beside it.
    pub(super) fn delete(&self, connection: &Connection, id: i64) -> ::rusqlite::Result<Result<(), Damaged>> {
        let delete = || connection.prepare_cached(rows::DELETE_BODY)?.execute([id]).map(drop);
        let deleted = self.unless_damaged(connection, id, delete)?;
        self.check()?;
        Ok(deleted)
    }

    /// Does something with a body. If that fails because the body is damaged, notes it, unless the whole table is of no use.
    fn unless_damaged<T>(
        &self,
        connection: &Connection,
        id: i64,
        run: impl FnOnce() -> ::rusqlite::Result<T>,
    ) -> ::rusqlite::Result<Result<T, Damaged>> {
        let Self::Apart(apart) = self else { return run().map(Ok) };
        if apart.damaged.contains(&id) {
            return Ok(Err(Damaged));
        }
        match run() {
            Err(error) if is_damage(&error) => {
                // One end is enough: a damaged page at the other end is like any other.
                let reach = |end| connection.prepare_cached(end)?.query_row([], |_| Ok(()));
                reach(rows::LAST_BODY).or_else(|_| reach(rows::FIRST_BODY))?;
                apart.met.borrow_mut().insert(id);
                Ok(Err(Damaged))
            }
            ran => ran.map(Ok),
        }
    }
}

/// Whether SQLite has met damage in the file.
pub(super) fn is_damage(error: &::rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt)
}

/// The error with which SQLite refuses each write after damage.
fn damage() -> ::rusqlite::Error {
    ::rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_CORRUPT), None)
}
