//! What the stores in PostgreSQL share: how they are reached, and how their tables are made, named and checked.

mod connect;
mod reserve;
mod schema;

use std::fmt;
use std::time::Duration;

use deadpool_postgres::{Pool, PoolError, TimeoutType, Timeouts};
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{FromSql, ToSql, Type};
use tracing::debug;

pub(crate) use self::connect::Connector;
use self::reserve::{Lent, Reserve};
pub use self::schema::PostgresTableError;
pub(crate) use self::schema::Schema;
use crate::error::BoxError;
use crate::store::StoreError;

/// Why a store in PostgreSQL cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PostgresStoreError {
    /// The URL is not one of a PostgreSQL server. The driver's reason is kept when it cannot quote the
    /// password.
    #[error("not a URL of a PostgreSQL server, such as postgres://user:password@host:5432/database")]
    Url(#[source] Option<tokio_postgres::Error>),
    /// A setting in the URL has a value that is not supported. The value is not shown.
    #[error("the URL's {setting} has a value that is not supported{}", values_of(setting))]
    Setting {
        /// The setting, such as `sslmode`.
        setting: &'static str,
    },
    /// The URL asks for TLS, and it cannot be had.
    #[error("sslmode=require is refused, since TLS cannot be set up")]
    Tls(#[source] BoxError),
    /// The name of a schema or a table is empty, too long, or holds a NUL.
    #[error("a schema's name has 1 to 63 bytes, a table's 1 to 50, and neither holds a NUL")]
    Name,
}

/// The values that a setting may have, for a message.
fn values_of(setting: &str) -> &'static str {
    match setting {
        "sslmode" => {
            ": it is `disable`, `prefer` (without TLS here) or `require` (TLS; certificate and host name are \
            checked, as with `verify-full` elsewhere)"
        }
        "target_session_attrs" => ": it is `any`, `read-write` or `read-only`",
        _ => "",
    }
}

/// The database that a store's table is in.
///
/// Most calls take a connection from the pool. Calls that keep or end a lease never wait for the pool: other
/// calls and, in a pool of the user's, handlers may hold all its connections for longer than a lease lasts.
#[derive(Clone)]
pub(crate) struct Database {
    pool: Pool,
    reserve: Reserve,
    schema: Schema,
}

/// Where a call takes its connection from.
#[derive(Clone, Copy)]
enum Connections<'a> {
    Pool(&'a Pool),
    /// The pool, if one is free at once; otherwise the reserve.
    PoolOrReserve(&'a Pool, &'a Reserve),
}

impl Connections<'_> {
    async fn lend(self) -> Result<Lent, PoolError> {
        let (pool, reserve) = match self {
            Self::Pool(pool) => return pool.get().await.map(Lent::pooled),
            Self::PoolOrReserve(pool, reserve) => (pool, reserve),
        };
        let at_once = Timeouts { wait: Some(Duration::ZERO), ..pool.timeouts() };
        match pool.timeout_get(&at_once).await {
            Err(PoolError::Timeout(TimeoutType::Wait)) => reserve.lend(pool).await,
            got => got.map(Lent::pooled),
        }
    }
}

impl Database {
    pub(crate) fn new(pool: Pool, schema: Schema) -> Self {
        Self { pool, reserve: Reserve::default(), schema }
    }

    /// The same database with another table.
    pub(crate) fn with_schema(&self, schema: Schema) -> Self {
        Self::new(self.pool.clone(), schema)
    }

    pub(crate) fn schema(&self) -> &Schema {
        &self.schema
    }

    /// How many connections the pool may have.
    pub(crate) fn connections(&self) -> usize {
        self.pool.status().max_size
    }

    /// Creates the table, or brings it up to this version of the crate.
    pub(crate) async fn migrate(&self) -> Result<(), StoreError> {
        self.schema.migrate(&self.pool).await
    }

    /// Looks whether the database and the table are such that every call would work.
    pub(crate) async fn check(&self) -> Result<(), StoreError> {
        self.schema.check(&self.pool).await
    }

    /// Connects what [`query_leased`] may need. For calls that begin a lease: without it, the lease might not be kept.
    pub(crate) async fn reserve(&self) -> Result<(), StoreError> {
        self.reserve.fill(&self.pool).await.map_err(StoreError::unavailable)
    }
}

/// Runs one statement in a transaction of its own, and returns its rows.
///
/// The statement is sent in one message with its parameters and their types, and never prepared under
/// a name: so it works through a pooler that gives each transaction another connection. It may be run
/// twice: it is repeated when the connection turns out to be broken, or when it met another that ran at the
/// same time.
pub(crate) async fn query(
    database: &Database,
    statement: &str,
    parameters: &[(&(dyn ToSql + Sync), Type)],
) -> Result<Vec<Row>, StoreError> {
    database.schema.check_once(&database.pool).await?;
    repeat(Connections::Pool(&database.pool), statement, parameters).await
}

/// Like [`query`], for a statement that begins, keeps or ends a lease: it does not wait for the pool.
pub(crate) async fn query_leased(
    database: &Database,
    statement: &str,
    parameters: &[(&(dyn ToSql + Sync), Type)],
) -> Result<Vec<Row>, StoreError> {
    database.schema.check_once(&database.pool).await?;
    repeat(Connections::PoolOrReserve(&database.pool, &database.reserve), statement, parameters).await
}

/// Runs a statement, on another connection when the first turns out to be broken.
async fn repeat(
    connections: Connections<'_>,
    statement: &str,
    parameters: &[(&(dyn ToSql + Sync), Type)],
) -> Result<Vec<Row>, StoreError> {
    let (mut tries_left, mut isolation) = (2, Isolation::Default);
    loop {
        let connection = connections.lend().await.map_err(StoreError::unavailable)?;
        match connection.query(statement, parameters, isolation).await {
            Ok(rows) => return Ok(rows),
            Err(error) if tries_left > 0 && is_passing(&error) => {
                tries_left -= 1;
                if error.code() == Some(&SqlState::T_R_SERIALIZATION_FAILURE) {
                    isolation = Isolation::ReadCommitted;
                }
                debug!(%error, "a statement failed in passing; trying again");
            }
            Err(error) if error.code() == Some(&SqlState::DISK_FULL) => return Err(StoreError::Full),
            Err(error) => return Err(StoreError::unavailable(error)),
        }
    }
}

/// Whether a statement failed for a reason that a second try does not meet.
fn is_passing(error: &tokio_postgres::Error) -> bool {
    match error.code() {
        Some(code) => {
            [SqlState::T_R_SERIALIZATION_FAILURE, SqlState::T_R_DEADLOCK_DETECTED, SqlState::ADMIN_SHUTDOWN]
                .contains(code)
        }
        None => error.is_closed(),
    }
}

/// How a statement is kept apart from others that run at the same time.
#[derive(Clone, Copy)]
enum Isolation {
    /// As the database has been told to; that is nearly always the next one.
    Default,
    /// Waits for others where it would fail on account of them in a stricter one. Takes three trips.
    ReadCommitted,
}

/// A column of a row that a statement returned.
pub(crate) fn column<'a, T: FromSql<'a>>(row: &'a Row, name: &str) -> Result<T, StoreError> {
    row.try_get(name).map_err(StoreError::unavailable)
}

/// What PostgreSQL counts in; no more than it takes.
pub(crate) fn microseconds(duration: Duration) -> i64 {
    const CENTURY: i64 = 100 * 365 * 24 * 3600 * 1_000_000;
    i64::try_from(duration.as_micros()).map_or(CENTURY, |time| time.clamp(1, CENTURY))
}

/// A table's name, quoted for a statement.
#[derive(Debug, Clone)]
pub(crate) struct TableName {
    schema: Option<String>,
    table: String,
}

impl TableName {
    /// A table in the schema that the connection's `search_path` begins with.
    pub(crate) fn unqualified(table: &str) -> Self {
        Self { schema: None, table: table.to_owned() }
    }

    pub(crate) fn new(schema: &str, table: &str) -> Result<Self, PostgresStoreError> {
        // 63 bytes is PostgreSQL's limit; the rest of it is for the names of indexes.
        if [(schema, 63), (table, 50)]
            .iter()
            .any(|(name, limit)| name.is_empty() || name.len() > *limit || name.contains('\0'))
        {
            return Err(PostgresStoreError::Name);
        }
        Ok(Self { schema: Some(schema.to_owned()), table: table.to_owned() })
    }

    /// The schema, if one was given.
    pub(crate) fn schema(&self) -> Option<String> {
        self.schema.as_deref().map(quote)
    }

    /// The table without its schema.
    fn table(&self) -> String {
        quote(&self.table)
    }

    /// The name of one of the table's indexes, which lies in its schema.
    pub(crate) fn index(&self, suffix: &str) -> String {
        quote(&format!("{}_{suffix}", self.table))
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(schema) = self.schema() {
            write!(f, "{schema}.")?;
        }
        f.write_str(&quote(&self.table))
    }
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
