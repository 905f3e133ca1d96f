//! Shared by the stores in PostgreSQL: connecting, querying, and creating and checking their tables.

mod connect;
mod refusal;
mod reserve;
mod schema;
mod table_name;

use std::error::Error;
use std::future::ready;
use std::time::Duration;

use deadpool_postgres::{Pool, PoolError, Timeouts};
use tokio::time::timeout;
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{FromSql, ToSql, Type};
use tracing::debug;

pub(crate) use self::connect::{Canceller, Connector};
pub(crate) use self::refusal::{code, statement_error};
use self::reserve::{AnyConnection, Lent, Reserve};
pub use self::schema::PostgresTableError;
pub(crate) use self::schema::Schema;
pub(crate) use self::table_name::TableName;
use self::table_name::quote;
use crate::error::BoxError;
use crate::store::StoreError;

/// Why a store in PostgreSQL cannot be made.
///
/// No variant shows the URL's user or password.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PostgresStoreError {
    /// The text is not the URL of a PostgreSQL server. The source is the driver's reason, if that cannot quote the
    /// password.
    #[error("not a URL of a PostgreSQL server, such as postgres://user:password@host:5432/database")]
    Url(#[source] Option<tokio_postgres::Error>),
    /// A setting in the URL has an unsupported value. The value is not shown.
    #[error("the URL's {setting} has an unsupported value{}", values_of(setting))]
    Setting {
        /// The setting's name, such as `sslmode`.
        setting: &'static str,
    },
    /// The URL asks for TLS, and TLS cannot be set up.
    #[error("TLS cannot be set up, which the URL's sslmode=require needs")]
    Tls(#[source] BoxError),
    /// The name of a schema or a table is empty, too long, or contains a NUL.
    #[error("a schema's name has 1 to 63 bytes, a table's 1 to 50, and neither contains a NUL")]
    Name,
}

/// The values that a setting may have, for the message of [`PostgresStoreError::Setting`].
fn values_of(setting: &str) -> &'static str {
    match setting {
        "sslmode" => {
            ": use `disable`, `prefer` (without TLS here) or `require` (TLS; certificate and host name are \
            checked, as with `verify-full` elsewhere)"
        }
        "target_session_attrs" => ": use `any`, `read-write` or `read-only`",
        "sslrootcert" | "sslcert" | "sslkey" => ": leave it out, as only the system's certificates are used",
        _ => "",
    }
}

/// How long a call that keeps or ends a lease waits for a new connection of the pool before it uses the reserve.
const NEW_CONNECTION_TIME: Duration = Duration::from_millis(100);
/// How long that connection may take in all. A pool of the user's may have no limit, and each attempt holds a place in it.
const LATE_CONNECTION_TIME: Duration = Duration::from_secs(5);

/// The database of a store's table.
///
/// Most calls take a connection from the pool. Calls that keep or end a lease do not wait for the pool: other calls
/// and, in a pool of the user's, handlers can hold all its connections for longer than a lease lasts, and the server can
/// refuse a new one. They use the reserve instead.
#[derive(Clone)]
pub(crate) struct Database {
    pool: Pool,
    canceller: Canceller,
    reserve: Reserve,
    schema: Schema,
    /// Whether connections keep the plans of frequent statements.
    prepares: bool,
}

/// The source of a call's connection.
#[derive(Clone, Copy)]
struct Connections<'a> {
    pool: &'a Pool,
    /// Used if the pool has no connection soon.
    reserve: Option<&'a Reserve>,
    canceller: &'a Canceller,
}

impl Connections<'_> {
    async fn lend(self) -> Result<Lent, PoolError> {
        let connection = self.connection().await?;
        Ok(Lent::new(connection, self.canceller.clone()))
    }

    async fn connection(self) -> Result<AnyConnection, PoolError> {
        let Self { pool, reserve, .. } = self;
        let Some(reserve) = reserve else { return pool.get().await.map(AnyConnection::Pooled) };
        let at_once = Timeouts { wait: Some(Duration::ZERO), ..pool.timeouts() };
        let mut get = Box::pin({
            let pool = pool.clone();
            async move { timeout(LATE_CONNECTION_TIME, pool.timeout_get(&at_once)).await }
        });
        let got = tokio::select! {
            biased;
            got = &mut get => Some(got),
            // In a task of its own, so that a new connection that comes later is one more in the pool.
            () = ready(()) => timeout(NEW_CONNECTION_TIME, tokio::spawn(get)).await.ok().and_then(Result::ok),
        };
        match got {
            Some(Ok(Ok(client))) => Ok(AnyConnection::Pooled(client)),
            Some(Ok(Err(PoolError::Closed))) => Err(PoolError::Closed),
            _ => reserve.lend(pool).await,
        }
    }
}

impl Database {
    pub(crate) fn new(pool: Pool, canceller: Canceller, schema: Schema) -> Self {
        Self { pool, canceller, reserve: Reserve::default(), schema, prepares: false }
    }

    /// Returns the same database with another table.
    pub(crate) fn with_schema(&self, schema: Schema) -> Self {
        Self { schema, reserve: Reserve::default(), ..self.clone() }
    }

    /// Returns the same database with prepared statements.
    pub(crate) fn with_prepared_statements(&self) -> Self {
        Self { prepares: true, ..self.clone() }
    }

    pub(crate) fn schema(&self) -> &Schema {
        &self.schema
    }

    /// The pool's size, in connections.
    pub(crate) fn connections(&self) -> usize {
        self.pool.status().max_size
    }

    /// Creates the table, or upgrades it to this version of the crate.
    pub(crate) async fn migrate(&self) -> Result<(), StoreError> {
        self.schema.migrate(&self.pool).await
    }

    /// Checks that the database, the table and the role's privileges allow every call; `probe` is a statement that
    /// names all columns the store uses.
    pub(crate) async fn check(&self, probe: &str) -> Result<(), StoreError> {
        self.schema.check(&self.pool).await?;
        query(self, probe, &[]).await.map(drop)
    }

    fn pooled(&self) -> Connections<'_> {
        Connections { pool: &self.pool, reserve: None, canceller: &self.canceller }
    }

    fn pooled_or_reserved(&self) -> Connections<'_> {
        Connections { reserve: Some(&self.reserve), ..self.pooled() }
    }

    /// Opens the connections of the reserve, for calls that begin a lease: one that cannot be renewed must not begin.
    pub(crate) async fn reserve(&self) -> Result<(), StoreError> {
        self.reserve.fill(&self.pool).await.map_err(StoreError::unavailable)
    }
}

/// Lets the commit of a statement that found a row wait for the synchronous replicas, if there are any: a commit that
/// writes nothing does not wait, and the row may be on the primary alone, since the session that wrote it was ended while
/// it waited.
pub(crate) const REPLICATED: &str = "CASE WHEN current_setting('synchronous_standby_names') <> ''
            THEN pg_logical_emit_message(true, 'qomplement-webhooks', ''::text) END";

/// A value of a statement, with its type.
pub(crate) type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// Runs one statement in a transaction of its own, and returns its rows.
///
/// Unless the database [prepares](Database::with_prepared_statements) statements, it is sent in one message with its
/// parameters and their types, and never prepared under a name, so it works through a pooler that gives each transaction
/// another connection.
///
/// The statement may run twice: it is repeated if the connection turns out to be broken, or if another transaction
/// made it fail.
pub(crate) async fn query(
    database: &Database,
    statement: &str,
    parameters: &[Parameter<'_>],
) -> Result<Vec<Row>, StoreError> {
    run(database, database.pooled(), statement, parameters, database.prepares).await
}

/// Like [`query`], for a statement that is never prepared: its best plan depends on its parameters, or on the table's
/// size.
pub(crate) async fn query_seldom(
    database: &Database,
    statement: &str,
    parameters: &[Parameter<'_>],
) -> Result<Vec<Row>, StoreError> {
    run(database, database.pooled(), statement, parameters, false).await
}

/// Like [`query_seldom`], for a statement that must not run again after its commit: it is repeated only when the database
/// has rolled it back. If the connection broke, the error says that the change may have been made.
pub(crate) async fn query_once(
    database: &Database,
    statement: &str,
    parameters: &[Parameter<'_>],
) -> Result<Vec<Row>, StoreError> {
    database.schema.check_once(&database.pool).await?;
    match repeat(database.pooled(), statement, parameters, false, is_rolled_back).await {
        Err(StoreError::Unavailable(cause)) if is_unanswered(&*cause) => {
            Err(StoreError::unavailable(Unanswered(cause)))
        }
        ran => ran,
    }
}

/// A statement was sent, and the connection broke before the reply.
#[derive(Debug, thiserror::Error)]
#[error("the connection broke, and the change may have been made: look before you make it again")]
struct Unanswered(#[source] BoxError);

/// Whether a connection broke, or a pooler says so of its own (SQLSTATE 08…).
fn is_unanswered(cause: &(dyn Error + 'static)) -> bool {
    let Some(error) = cause.downcast_ref::<tokio_postgres::Error>() else { return false };
    error.code().is_none_or(|code| code.code().starts_with("08"))
}

/// Runs a statement that begins, keeps or ends a lease: like [`query`], without waiting for the pool.
pub(crate) async fn query_leased(
    database: &Database,
    statement: &str,
    parameters: &[Parameter<'_>],
) -> Result<Vec<Row>, StoreError> {
    run(database, database.pooled_or_reserved(), statement, parameters, database.prepares).await
}

async fn run(
    database: &Database,
    connections: Connections<'_>,
    statement: &str,
    parameters: &[Parameter<'_>],
    prepares: bool,
) -> Result<Vec<Row>, StoreError> {
    database.schema.check_once(&database.pool).await?;
    repeat(connections, statement, parameters, prepares, is_transient).await
}

/// Runs a statement, and repeats it up to twice after errors of some kind, each time on another connection.
async fn repeat(
    connections: Connections<'_>,
    statement: &str,
    parameters: &[Parameter<'_>],
    prepares: bool,
    may_be_repeated: impl Fn(&tokio_postgres::Error) -> bool,
) -> Result<Vec<Row>, StoreError> {
    let (mut repetitions_left, mut isolation) = (2, Isolation::Default);
    // Whether an earlier run may have been committed.
    let mut in_doubt = false;
    loop {
        let connection = match connections.lend().await {
            Ok(connection) => connection,
            // A new connection broke while it was opened, and nothing was sent.
            Err(PoolError::Backend(error)) if repetitions_left > 0 && is_transient(&error) => {
                repetitions_left -= 1;
                debug!(%error, "a new connection broke; opening another one now");
                continue;
            }
            Err(error) => return Err(StoreError::unavailable(error)),
        };
        match connection.query(statement, parameters, isolation, prepares).await {
            Ok(rows) => return Ok(rows),
            Err(error) if repetitions_left > 0 && may_be_repeated(&error) => {
                repetitions_left -= 1;
                in_doubt |= !is_rolled_back(&error);
                if error.code() == Some(&SqlState::T_R_SERIALIZATION_FAILURE) {
                    isolation = Isolation::ReadCommitted;
                }
                debug!(%error, "transient error of a statement; repeating it now on another connection");
            }
            Err(error) if error.code() == Some(&SqlState::DISK_FULL) && !in_doubt => {
                return Err(StoreError::Full);
            }
            Err(error) => return Err(statement_error(error)),
        }
    }
}

/// Whether a repetition on another connection can succeed.
fn is_transient(error: &tokio_postgres::Error) -> bool {
    is_rolled_back(error) || error.code().is_none() && error.is_closed()
}

/// The same, for an error that comes before the commit.
fn is_rolled_back(error: &tokio_postgres::Error) -> bool {
    const CODES: [SqlState; 3] =
        [SqlState::T_R_SERIALIZATION_FAILURE, SqlState::T_R_DEADLOCK_DETECTED, SqlState::ADMIN_SHUTDOWN];
    error.code().is_some_and(|code| CODES.contains(code))
}

/// The isolation level of a statement's transaction.
#[derive(Clone, Copy)]
enum Isolation {
    /// The database's default, nearly always `READ COMMITTED`.
    Default,
    /// `READ COMMITTED`, which waits for other transactions where a stricter level fails. Takes three round trips.
    ReadCommitted,
}

/// A column of a row that a statement returned.
pub(crate) fn column<'a, T: FromSql<'a>>(row: &'a Row, name: &str) -> Result<T, StoreError> {
    row.try_get(name).map_err(StoreError::unavailable)
}

/// A duration in PostgreSQL's unit: at least one microsecond, at most a century.
pub(crate) fn microseconds(duration: Duration) -> i64 {
    const CENTURY: i64 = 100 * 365 * 24 * 3600 * 1_000_000;
    i64::try_from(duration.as_micros()).map_or(CENTURY, |time| time.clamp(1, CENTURY))
}
