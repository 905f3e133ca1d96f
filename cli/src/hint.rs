//! Hints: what the user can do about an error of a database.

use std::error::Error;
use std::io;

use deadpool_postgres::PoolError;
use qomplement_webhooks::inbox::SqliteInboxError;
use qomplement_webhooks::postgres::PostgresTableError;
use qomplement_webhooks::store::StoreError;
use rusqlite::ErrorCode;
use tokio_postgres::error::{DbError, SqlState};

use crate::causes::causes;

const SILENT: &str = "\n  The database does not answer: check the host, the port and the firewall";
const LOCKED: &str = "\n  Another program is writing to the file: try again when it has finished";
const READ_ONLY: &str = "\n  Reading, too, needs write permission for the file and its folder";
const UNREADABLE: &str = "\n  The file and its folder need read and write permission";
const FULL: &str = "\n  The inbox has reached its limit of unfinished events, or the disk is full\n  \
    Let workers finish events, or free space on the disk";
const DISK_FULL: &str = "\n  Free space on the disk of the file";
const NO_TABLE: &str = "\n  A receiving server creates the table (`PostgresInbox::migrate`)\n  \
    Check the database in the URL, and --table";
const NO_SCHEMA: &str = "\n  A receiving server creates the schema (`PostgresInbox::migrate`)\n  \
    Check the database in the URL, and --table";

/// The hint for an error, beginning with a line end; empty if no hint is known.
pub(crate) fn hint(error: &(dyn Error + 'static)) -> &'static str {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(hint) = hint_of_type(error) {
            return hint;
        }
        cause = error.source();
    }
    // The standard library has no error kind for a failed name lookup.
    if causes(error).contains("failed to lookup address") { "\n  Check the name of the host" } else { "" }
}

/// The hint for one error, without its causes.
fn hint_of_type(error: &(dyn Error + 'static)) -> Option<&'static str> {
    if let Some(error) = error.downcast_ref::<DbError>() {
        return Some(hint_of_state(error));
    }
    if let Some(PostgresTableError::Missing { .. }) = error.downcast_ref() {
        return Some(NO_TABLE);
    }
    if let Some(SqliteInboxError::ReadOnly(_)) = error.downcast_ref() {
        return Some(READ_ONLY);
    }
    if let Some(StoreError::Full) = error.downcast_ref() {
        return Some(FULL);
    }
    if let Some(PoolError::Timeout(_)) = error.downcast_ref() {
        return Some(SILENT);
    }
    if error.is::<tokio::time::error::Elapsed>() {
        return Some(SILENT);
    }
    if let Some(error) = error.downcast_ref::<rusqlite::ffi::Error>() {
        return match error.code {
            ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => Some(LOCKED),
            ErrorCode::ReadOnly => Some(READ_ONLY),
            ErrorCode::CannotOpen => Some(UNREADABLE),
            ErrorCode::DiskFull => Some(DISK_FULL),
            _ => None,
        };
    }
    match error.downcast_ref::<io::Error>()?.kind() {
        io::ErrorKind::ConnectionRefused => {
            Some("\n  Check that the database is running, and the host and port in the URL")
        }
        io::ErrorKind::TimedOut => Some(SILENT),
        _ => None,
    }
}

fn hint_of_state(error: &DbError) -> &'static str {
    let hints = [
        (SqlState::INVALID_CATALOG_NAME, "\n  Check the name of the database, at the end of the URL"),
        (SqlState::UNDEFINED_TABLE, NO_TABLE),
        (SqlState::INVALID_SCHEMA_NAME, NO_SCHEMA),
        (
            SqlState::UNDEFINED_COLUMN,
            "\n  The table has another version: a server of this version migrates it",
        ),
        (SqlState::INVALID_PASSWORD, "\n  Check the user and the password in the URL"),
        (SqlState::INSUFFICIENT_PRIVILEGE, "\n  Grant the user the right to read and write the table"),
        (SqlState::TOO_MANY_CONNECTIONS, "\n  Try again when other connections have ended"),
        (SqlState::CANNOT_CONNECT_NOW, "\n  The database is starting or stopping: try again in a moment"),
        (SqlState::DISK_FULL, "\n  Free space on the disk of the database"),
    ];
    match hints.into_iter().find(|(known, _)| known == error.code()) {
        Some((_, hint)) => hint,
        // An unknown user has the same code: only the text tells the two apart.
        None if error.message().contains("pg_hba.conf") => {
            "\n  The database refuses this user from this host, or requires ?sslmode=require"
        }
        None if *error.code() == SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
            "\n  Check the user in the URL"
        }
        None => "",
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use deadpool_postgres::{PoolError, TimeoutType};
    use qomplement_webhooks::inbox::SqliteInboxError;
    use qomplement_webhooks::store::StoreError;

    use super::{DISK_FULL, FULL, LOCKED, READ_ONLY, SILENT, UNREADABLE, hint};

    fn sqlite(code: i32) -> Arc<rusqlite::Error> {
        Arc::new(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), Some("text".to_owned())))
    }

    #[test]
    fn the_type_of_a_cause_decides_the_hint() {
        let busy_with_snapshot = 517;
        for (error, expected) in [
            (StoreError::Full, FULL),
            (StoreError::unavailable(PoolError::Timeout(TimeoutType::Wait)), SILENT),
            (StoreError::unavailable(io::Error::from(io::ErrorKind::TimedOut)), SILENT),
            (StoreError::unavailable(sqlite(5)), LOCKED),
            (StoreError::unavailable(sqlite(busy_with_snapshot)), LOCKED),
            (StoreError::unavailable(sqlite(8)), READ_ONLY),
            (StoreError::unavailable(SqliteInboxError::ReadOnly("text".into())), READ_ONLY),
            (StoreError::unavailable(sqlite(13)), DISK_FULL),
            (StoreError::unavailable(sqlite(14)), UNREADABLE),
            (StoreError::unavailable("the table is full, locked and timed out"), ""),
        ] {
            assert_eq!(hint(&error), expected, "{error:?}");
        }
    }
}
