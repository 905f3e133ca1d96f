//! What to do about an error of a database.

use std::error::Error;
use std::io;

use qomplement_webhooks::postgres::PostgresTableError;
use tokio_postgres::error::SqlState;

use crate::failure::causes;

/// What to do about an error, in a line of its own; nothing if that is not known.
pub(crate) fn hint(error: &(dyn Error + 'static)) -> &'static str {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<tokio_postgres::Error>()
            && let Some(state) = error.code()
        {
            return of_postgres(state, &causes(error));
        }
        if let Some(PostgresTableError::Missing { .. }) = error.downcast_ref() {
            return of_postgres(&SqlState::UNDEFINED_TABLE, "");
        }
        if let Some(error) = error.downcast_ref::<io::Error>()
            && error.kind() == io::ErrorKind::ConnectionRefused
        {
            return "\n  Is the database running, and is it the right host and port?";
        }
        cause = error.source();
    }
    let text = causes(error);
    let hints = [
        ("locked", "\n  Another program is writing to the file for long; try again when it has ended"),
        ("readonly", "\n  The file and its folder must be writable, also to look into it"),
        ("unable to open", "\n  The file and its folder must be readable and writable, also to look into it"),
        ("no such table", "\n  The file has no inbox's tables: is it the right one?"),
        ("failed to lookup address", "\n  Is the host's name right?"),
        ("imeout", "\n  The database does not answer: is it the right host and port?"),
        ("timed out", "\n  The database does not answer: is it the right host and port?"),
        ("full", "\n  Too much is unfinished, or the disk is full; prune, or make room"),
    ];
    hints.into_iter().find(|(sign, _)| text.contains(sign)).map_or("", |(_, hint)| hint)
}

fn of_postgres(state: &SqlState, text: &str) -> &'static str {
    let hints = [
        (SqlState::INVALID_CATALOG_NAME, "\n  Is the database's name, at the end of the URL, right?"),
        (
            SqlState::UNDEFINED_TABLE,
            "\n  The server that receives creates the table (`PostgresInbox::migrate`)\n  Is it in another database, or another --table?",
        ),
        (
            SqlState::INVALID_SCHEMA_NAME,
            "\n  The server that receives creates the schema (`PostgresInbox::migrate`)\n  Is it in another database, or another --table?",
        ),
        (
            SqlState::UNDEFINED_COLUMN,
            "\n  The table is of another version: let a server of this version migrate it",
        ),
        (SqlState::INVALID_PASSWORD, "\n  Are user and password right?"),
        (SqlState::INSUFFICIENT_PRIVILEGE, "\n  The user needs the right to read and write the table"),
        (SqlState::TOO_MANY_CONNECTIONS, "\n  Try again when others have ended"),
        (SqlState::CANNOT_CONNECT_NOW, "\n  The database starts or stops: try again in a moment"),
        (SqlState::DISK_FULL, "\n  Make room on the database's disk"),
    ];
    match hints.into_iter().find(|(known, _)| known == state) {
        Some((_, hint)) => hint,
        None if text.contains("pg_hba.conf") => {
            "\n  The database does not let this user in from here, or only with ?sslmode=require"
        }
        None if *state == SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
            "\n  Is the user in the URL right?"
        }
        None => "",
    }
}
