//! Bodies in the file, some of which may be damaged.

use std::cell::Cell;
use std::collections::BTreeSet;

use ::rusqlite::{Connection, ErrorCode, OptionalExtension};
use bytes::Bytes;
use tracing::warn;

use super::rows;

/// How a transaction reads and deletes bodies.
///
/// Once SQLite has met damage in a transaction, it lets that transaction write nothing more. So a transaction that meets a
/// damaged body is rolled back, and begun again with that body left alone.
#[derive(Debug, Default)]
pub(super) enum Bodies {
    /// They are read with their rows, as nothing is known to be damaged.
    #[default]
    Together,
    /// Each is read by a statement of its own, except for those that are damaged.
    Apart {
        damaged: BTreeSet<i64>,
        /// The row whose body the transaction has found to be damaged.
        met: Cell<Option<i64>>,
    },
}

/// A body that SQLite cannot read.
#[derive(Debug, thiserror::Error)]
#[error("its body is damaged in the file (SQLITE_CORRUPT)")]
pub(super) struct Damaged;

impl Bodies {
    pub(super) fn are_apart(&self) -> bool {
        matches!(self, Self::Apart { .. })
    }

    /// Prepares for another transaction after one that met damage. Returns `false` if it would meet the same.
    pub(super) fn leave_the_damaged(&mut self) -> bool {
        match self {
            Self::Together => {
                *self = Self::Apart { damaged: BTreeSet::new(), met: Cell::new(None) };
                true
            }
            Self::Apart { damaged, met } => met.take().is_some_and(|id| damaged.insert(id)),
        }
    }

    /// Reads the body of one row.
    pub(super) fn read(
        &self,
        connection: &Connection,
        id: i64,
    ) -> ::rusqlite::Result<Result<Option<Bytes>, Damaged>> {
        if self.is_damaged(id) {
            return Ok(Err(Damaged));
        }
        let read = || connection.prepare_cached(rows::BODY)?.query_row([id], |row| row.get(0)).optional();
        let body: Option<Vec<u8>> = self.noting_damage(connection, id, read)?;
        Ok(Ok(body.map(Bytes::from)))
    }

    /// Deletes the body of one row. A damaged one is left: SQLite cannot find all of its pages. Nothing else refers to it,
    /// as no row gets the number of another.
    pub(super) fn delete(&self, connection: &Connection, id: i64) -> ::rusqlite::Result<()> {
        if self.is_damaged(id) {
            warn!(id, "a damaged body cannot be deleted; its pages are lost until the file is made anew");
            return Ok(());
        }
        let delete = || connection.prepare_cached(rows::DELETE_BODY)?.execute([id]).map(drop);
        self.noting_damage(connection, id, delete)
    }

    fn is_damaged(&self, id: i64) -> bool {
        matches!(self, Self::Apart { damaged, .. } if damaged.contains(&id))
    }

    /// Notes that a body is damaged if this fails for that reason, unless new bodies could not be stored either: then the
    /// whole table is of no use.
    fn noting_damage<T>(
        &self,
        connection: &Connection,
        id: i64,
        run: impl FnOnce() -> ::rusqlite::Result<T>,
    ) -> ::rusqlite::Result<T> {
        let ran = run();
        if let (Err(error), Self::Apart { met, .. }) = (&ran, self)
            && is_damage(error)
        {
            connection.prepare_cached(rows::LAST_BODY)?.query_row([], |_| Ok(()))?;
            met.set(Some(id));
        }
        ran
    }
}

/// Whether SQLite has met damage in the file.
pub(super) fn is_damage(error: &::rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt)
}
