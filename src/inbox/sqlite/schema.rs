//! The file: its identification, its settings and its tables.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use ::rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};
use tracing::warn;

use super::place::{self, Place};
use super::{Settings, SqliteInboxError, integer};

/// Tells inbox files from the databases of other programs.
const APPLICATION_ID: i64 = 0x514d_5049;

/// The number of pages after which the write-ahead log is copied into the file: 16 MiB, instead of SQLite's 1000 pages.
/// A job id may belong on any page of its index, so in a longer log more rows share a copied page.
const CHECKPOINT_PAGES: i64 = 4000;

/// Whether a version of SQLite is without the fault by which a file that two processes write and checkpoint at once can be
/// corrupted. A program that also uses another package with SQLite gets the version of that.
pub(super) fn is_sound(version: i32) -> bool {
    version >= 3_051_003
}

/// The steps that upgrade a file, each by one version, starting from an empty file. The file's `user_version` is the
/// number of applied steps. A released step is never changed.
pub(super) const MIGRATIONS: [&str; 1] = ["
    -- One row per job. Times are microseconds since 1970.
    CREATE TABLE inbox (
        -- Never used again, as fencing tokens begin with it.
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        job_id TEXT NOT NULL UNIQUE,
        state TEXT NOT NULL CHECK (state IN ('expected', 'received', 'running', 'done', 'dead')),
        -- When it is overdue, may be leased, or its lease ends; NULL when it is done or dead.
        due_at INTEGER,
        -- Grows with every lease. 0 before the first.
        fence INTEGER NOT NULL DEFAULT 0,
        attempts INTEGER NOT NULL DEFAULT 0,
        -- Those before it was last replayed.
        earlier_attempts INTEGER NOT NULL DEFAULT 0,
        -- Whether the handler has begun under the last lease.
        begun INTEGER NOT NULL DEFAULT 0,
        -- NULL when there is no event, as is the status.
        job_type TEXT,
        status TEXT,
        -- Whether the event is what the API says.
        verified INTEGER NOT NULL DEFAULT 0,
        -- The fetches of the job without a result, those in a row that did not know it, and the earliest time of the next.
        fetches INTEGER NOT NULL DEFAULT 0,
        not_found INTEGER NOT NULL DEFAULT 0,
        next_fetch_at INTEGER,
        -- The first of the latest fetches in a row that had no answer.
        unanswered_since INTEGER,
        -- When the event should have come, if the job is an expected one.
        deadline_at INTEGER,
        -- The length of the body; NULL when there is none.
        bytes INTEGER,
        received_at INTEGER NOT NULL,
        -- When it was done or dead.
        ended_at INTEGER,
        error TEXT,
        -- JSON: the last failed attempts, each with its number, time, duration and error; NULL without any.
        failures TEXT,
        -- Of the delivery that brought the event: its trace (W3C Trace Context).
        traceparent TEXT
    ) STRICT;
    -- Jobs that were fetched more often wait behind those that were fetched less.
    CREATE INDEX inbox_leasable ON inbox (fetches, due_at) WHERE state IN ('received', 'running');
    CREATE INDEX inbox_expected ON inbox (fetches, due_at) WHERE state = 'expected';
    -- In the order of arrival, for lists.
    CREATE INDEX inbox_dead ON inbox (state) WHERE state = 'dead';
    -- For pruning.
    CREATE INDEX inbox_died ON inbox (ended_at) WHERE state = 'dead';
    CREATE INDEX inbox_done ON inbox (ended_at) WHERE state = 'done' AND bytes IS NOT NULL;
    CREATE INDEX inbox_tombstone ON inbox (ended_at) WHERE state = 'done' AND bytes IS NULL;

    -- Apart, so that a lease does not write a body again.
    CREATE TABLE inbox_body (id INTEGER PRIMARY KEY, body BLOB NOT NULL) STRICT;

    -- How many rows there are in each state, and how long their bodies are together.
    CREATE TABLE inbox_total (state TEXT PRIMARY KEY, rows INTEGER NOT NULL, bytes INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    INSERT INTO inbox_total (state, rows, bytes)
        VALUES ('expected', 0, 0), ('received', 0, 0), ('running', 0, 0), ('done', 0, 0), ('dead', 0, 0);

    -- The events that were received and the rows that became done, by minutes since 1970.
    CREATE TABLE inbox_traffic (minute INTEGER PRIMARY KEY, received INTEGER NOT NULL, handled INTEGER NOT NULL) STRICT;
"];

const IDENTITY: &str = "SELECT (SELECT application_id FROM pragma_application_id),
    (SELECT user_version FROM pragma_user_version), (SELECT count(*) FROM sqlite_schema)";

/// Opens a file to write to it: an inbox of this version or, unless the settings forbid it, an empty or older file, which
/// becomes one.
pub(super) fn open(path: &Path, settings: &Settings) -> Result<(Connection, Place), SqliteInboxError> {
    open_as(path, settings, &MIGRATIONS)
}

/// Opens a file of the version that these migrations lead to.
pub(super) fn open_as(
    path: &Path,
    settings: &Settings,
    migrations: &[&str],
) -> Result<(Connection, Place), SqliteInboxError> {
    if !is_sound(::rusqlite::version_number()) {
        let version = ::rusqlite::version();
        warn!(
            version,
            "this version of SQLite can corrupt a file that several processes write: use one process"
        );
    }
    let before = place::identity(path).ok();
    let flags = if settings.create { OpenFlags::SQLITE_OPEN_CREATE } else { OpenFlags::empty() };
    let mut connection = connect(path, settings.busy_timeout, flags)?;
    let known = integer(migrations.len());
    let version = version(&connection, known)?;
    match version {
        0 if !settings.create => return Err(SqliteInboxError::NotAnInbox),
        found if found < known && !settings.create => return Err(SqliteInboxError::TooOld { found, known }),
        _ => {}
    }
    make_durable(&connection, settings.busy_timeout)?;
    // Checked first, so that a file of this version opens while another process writes to it.
    if version < known {
        migrate(&mut connection, migrations)?;
    }
    connection.execute_batch(&format!("PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}"))?;
    if let Some(bytes) = settings.max_file_bytes {
        let page: i64 = connection.query_row("PRAGMA page_size", [], |row| row.get(0))?;
        let pages = integer(bytes) / page.max(1);
        connection.execute_batch(&format!("PRAGMA max_page_count = {}", pages.clamp(1, u32::MAX.into())))?;
    }
    // Opens the log and the shared memory, too.
    check_that_it_is_writable(&connection)?;
    let place = Place::new(path, before).map_err(|error| SqliteInboxError::Open(error.into()))?;
    Ok((connection, place))
}

/// Checks that the file can be written: SQLite opens a read-only file without an error, which comes with the first write.
/// The write of this check changes nothing, and does not wait for another program that writes. Nor does the connection wait
/// from then on: the thread that writes does so itself.
fn check_that_it_is_writable(connection: &Connection) -> Result<(), SqliteInboxError> {
    connection.busy_timeout(Duration::ZERO)?;
    match connection.execute_batch("DELETE FROM inbox_total WHERE false") {
        Err(error) if !is_busy(&error) => Err(error.into()),
        _ => Ok(()),
    }
}

/// Opens a file that is an inbox, to read from it.
pub(super) fn open_to_read(path: &Path, busy_timeout: Duration) -> ::rusqlite::Result<Connection> {
    let connection = connect(path, busy_timeout, OpenFlags::empty())?;
    connection.execute_batch("PRAGMA query_only = ON")?;
    Ok(connection)
}

fn connect(path: &Path, busy_timeout: Duration, flags: OpenFlags) -> ::rusqlite::Result<Connection> {
    let flags = flags | OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(busy_timeout)?;
    // More than the number of statements.
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// The version of a file, 0 if it is empty. Fails if the file is not an inbox.
fn version(connection: &Connection, known: i64) -> Result<i64, SqliteInboxError> {
    let identity = connection.query_row(IDENTITY, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    match identity {
        (APPLICATION_ID, found, _) if (0..=known).contains(&found) => Ok(found),
        (APPLICATION_ID, found, _) => Err(SqliteInboxError::TooNew { found, known }),
        (0, 0, 0) => Ok(0),
        (_, _, _) => Err(SqliteInboxError::NotAnInbox),
    }
}

pub(super) fn make_durable(connection: &Connection, busy_timeout: Duration) -> Result<(), SqliteInboxError> {
    let until = Instant::now() + busy_timeout;
    let journal: String = loop {
        match connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)) {
            // When several processes switch at once, SQLite does not wait by itself.
            Err(error) if is_busy(&error) && Instant::now() < until => {
                thread::sleep(Duration::from_millis(10));
            }
            journal => break journal?,
        }
    };
    // On macOS, nothing else reaches the disk; elsewhere it changes nothing.
    connection.execute_batch("PRAGMA synchronous = FULL; PRAGMA fullfsync = ON")?;
    let synchronous: i64 = connection.query_row("PRAGMA synchronous", [], |row| row.get(0))?;
    let settings = [
        ("journal_mode", "wal", journal),
        // FULL
        ("synchronous", "2", synchronous.to_string()),
    ];
    match settings.into_iter().find(|(_, wanted, found)| wanted != found) {
        Some((setting, wanted, found)) => Err(SqliteInboxError::NotDurable { setting, wanted, found }),
        None => Ok(()),
    }
}

fn migrate(connection: &mut Connection, migrations: &[&str]) -> Result<(), SqliteInboxError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Another process may have been faster.
    let version = version(&transaction, integer(migrations.len()))?;
    for migration in migrations.iter().skip(usize::try_from(version).unwrap_or(0)) {
        transaction.execute_batch(migration)?;
    }
    if version < integer(migrations.len()) {
        transaction.execute_batch(&format!(
            "PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {}",
            migrations.len()
        ))?;
    }
    transaction.commit()?;
    Ok(())
}

pub(super) fn is_busy(error: &::rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

impl From<::rusqlite::Error> for SqliteInboxError {
    fn from(error: ::rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase) => Self::NotADatabase,
            Some(ErrorCode::ReadOnly) => Self::ReadOnly(error.into()),
            _ => Self::Open(error.into()),
        }
    }
}
