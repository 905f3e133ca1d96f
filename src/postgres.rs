//! What the stores in PostgreSQL share: how they are reached, and how their tables are named.

use std::fmt;
use std::future::poll_fn;
use std::time::Duration;

use deadpool_postgres::{Client, Manager, Pool, Runtime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{FromSql, ToSql, Type};
use tokio_postgres::{AsyncMessage, Config, Connection, NoTls, Notification, Row};
use tracing::debug;

use crate::store::StoreError;

/// Why a store in PostgreSQL cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PostgresStoreError {
    /// The URL is not one of a PostgreSQL server. The driver's reason is kept when it cannot quote the
    /// password.
    #[error("not a URL of a PostgreSQL server, such as postgres://user:password@host:5432/database")]
    Url(#[source] Option<tokio_postgres::Error>),
    /// The URL asks for TLS, and it cannot be had.
    #[error("the URL asks for TLS (sslmode=require)")]
    Tls(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The name of a schema or a table is empty, too long, or holds a NUL.
    #[error("a schema's name has 1 to 63 bytes, a table's 1 to 50, and neither holds a NUL")]
    Name,
}

/// How many connections a pool of ours may have.
const CONNECTIONS: usize = 16;
/// How long a call waits for a connection from the pool, and for the server to accept a new one.
const CONNECT_TIME: Duration = Duration::from_secs(2);

/// How a server is reached.
#[derive(Clone)]
pub(crate) struct Connector {
    config: Config,
    tls: Option<Tls>,
}

#[cfg(feature = "postgres-tls")]
type Tls = ::tokio_postgres_rustls::MakeRustlsConnect;
#[cfg(not(feature = "postgres-tls"))]
type Tls = NoTls;

impl Connector {
    pub(crate) fn from_url(url: &str) -> Result<Self, PostgresStoreError> {
        let mut config = parse(url)?;
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIME);
        }
        if config.get_tcp_user_timeout().is_none() {
            // A server that vanished without a word is given up, and connected to anew.
            config.tcp_user_timeout(Duration::from_secs(5));
        }
        if config.get_application_name().is_none() {
            config.application_name(env!("CARGO_PKG_NAME"));
        }
        let tls = match config.get_ssl_mode() {
            SslMode::Disable | SslMode::Prefer => None,
            _ => Some(tls().map_err(PostgresStoreError::Tls)?),
        };
        Ok(Self { config, tls })
    }

    /// A pool, which connects when it is first used.
    pub(crate) fn pool(&self) -> Result<Pool, PostgresStoreError> {
        let manager = match &self.tls {
            None => Manager::new(self.config.clone(), NoTls),
            Some(tls) => Manager::new(self.config.clone(), Tls::clone(tls)),
        };
        let pool = Pool::builder(manager)
            .max_size(CONNECTIONS)
            .wait_timeout(Some(CONNECT_TIME))
            .create_timeout(Some(CONNECT_TIME))
            .runtime(Runtime::Tokio1)
            .build();
        // All that can be missing is the runtime, which is given.
        pool.map_err(|_| PostgresStoreError::Url(None))
    }

    /// Connects to a channel, and hands over what is sent to it until the connection ends. The first call
    /// of `notified`, without a notification, says that the channel is listened to from now on.
    pub(crate) async fn listen(
        &self,
        channel: &str,
        notified: impl Fn(Option<&Notification>),
    ) -> Result<(), tokio_postgres::Error> {
        let mut config = self.config.clone();
        // Nothing is ever sent on it that would show that the server is gone.
        config.keepalives_idle(Duration::from_secs(60));
        match &self.tls {
            None => listen(config.connect(NoTls).await?, channel, notified).await,
            Some(tls) => listen(config.connect(Tls::clone(tls)).await?, channel, notified).await,
        }
    }
}

async fn listen<S, T>(
    (client, mut connection): (tokio_postgres::Client, Connection<S, T>),
    channel: &str,
    notified: impl Fn(Option<&Notification>),
) -> Result<(), tokio_postgres::Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    let listen = async {
        client.batch_execute(&format!("LISTEN {}", quote(channel))).await?;
        notified(None);
        std::future::pending().await
    };
    let messages = async {
        while let Some(message) = poll_fn(|context| connection.poll_message(context)).await {
            if let AsyncMessage::Notification(notification) = message? {
                notified(Some(&notification));
            }
        }
        Ok(())
    };
    tokio::select! {
        failed = listen => failed,
        ended = messages => ended,
    }
}

fn parse(url: &str) -> Result<Config, PostgresStoreError> {
    let rest = ["postgres://", "postgresql://"].iter().find_map(|scheme| url.strip_prefix(scheme));
    let Some(rest) = rest else { return Err(PostgresStoreError::Url(None)) };
    url.parse().map_err(|_| {
        // The driver quotes what it does not understand. What it says without user and password is
        // safe to show; if it has nothing to say then, they are what is wrong.
        let server = rest.rsplit_once('@').map_or(rest, |(_, server)| server);
        PostgresStoreError::Url(format!("postgres://{server}").parse::<Config>().err())
    })
}

#[cfg(feature = "postgres-tls")]
fn tls() -> Result<Tls, Box<dyn std::error::Error + Send + Sync>> {
    let mut roots = ::rustls::RootCertStore::empty();
    let found = ::rustls_native_certs::load_native_certs();
    if let (true, Some(error)) = (found.certs.is_empty(), found.errors.into_iter().next()) {
        return Err(error.into());
    }
    roots.add_parsable_certificates(found.certs);
    let provider = ::rustls::crypto::aws_lc_rs::default_provider();
    let tls = ::rustls::ClientConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Tls::new(tls))
}

#[cfg(not(feature = "postgres-tls"))]
fn tls() -> Result<Tls, Box<dyn std::error::Error + Send + Sync>> {
    Err("that needs the feature postgres-tls, or a pool of your own".into())
}

/// Runs one statement in a transaction of its own, and returns its rows.
///
/// The statement is sent in one message with its parameters and their types, and never prepared under
/// a name: so it works through a pooler that gives each transaction another connection. It may be run
/// twice: it is repeated when the connection turns out to be broken, or when it met another that ran at the
/// same time.
pub(crate) async fn query(
    pool: &Pool,
    statement: &str,
    parameters: &[(&(dyn ToSql + Sync), Type)],
) -> Result<Vec<Row>, StoreError> {
    let (mut tries_left, mut isolation) = (2, Isolation::Default);
    loop {
        let client = pool.get().await.map_err(StoreError::unavailable)?;
        match Lent(Some(client)).query(statement, parameters, isolation).await {
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

/// A connection that goes back to the pool only after a call that ended well. What another call left
/// half done, or a server that is no longer the primary, must not be in the way of the next one.
struct Lent(Option<Client>);

impl Lent {
    async fn query(
        mut self,
        statement: &str,
        parameters: &[(&(dyn ToSql + Sync), Type)],
        isolation: Isolation,
    ) -> Result<Vec<Row>, tokio_postgres::Error> {
        let rows = match (&self.0, isolation) {
            (Some(client), Isolation::Default) => client.query_typed(statement, parameters).await?,
            (Some(client), Isolation::ReadCommitted) => {
                client.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED").await?;
                let rows = client.query_typed(statement, parameters).await?;
                client.batch_execute("COMMIT").await?;
                rows
            }
            (None, _) => Vec::new(),
        };
        drop(self.0.take());
        Ok(rows)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(client) = self.0.take() {
            drop(Client::take(client));
        }
    }
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

/// Creates what a store needs, unless `wanted` exists; any number of processes may do so at once.
///
/// `CREATE … IF NOT EXISTS` is no such thing by itself: it asks for the right to create before it
/// looks, and two that run at once fail with a unique violation.
pub(crate) async fn create(pool: &Pool, wanted: &str, statements: &str) -> Result<(), StoreError> {
    let mut tries_left = 10;
    loop {
        let found = query(pool, "SELECT to_regclass($1) IS NOT NULL", &[(&wanted, Type::TEXT)]).await?;
        if found.first().is_some_and(|row| row.get(0)) {
            return Ok(());
        }
        let client = pool.get().await.map_err(StoreError::unavailable)?;
        match client.batch_execute(statements).await {
            Ok(()) => return Ok(()),
            Err(error) if tries_left > 0 && is_race_to_create(&error) => tries_left -= 1,
            Err(error) => return Err(StoreError::unavailable(error)),
        }
    }
}

fn is_race_to_create(error: &tokio_postgres::Error) -> bool {
    let races = [
        SqlState::UNIQUE_VIOLATION,
        SqlState::DUPLICATE_TABLE,
        SqlState::DUPLICATE_SCHEMA,
        SqlState::DUPLICATE_OBJECT,
        SqlState::T_R_DEADLOCK_DETECTED,
        // "tuple concurrently updated"
        SqlState::INTERNAL_ERROR,
    ];
    error.code().is_some_and(|code| races.contains(code))
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
