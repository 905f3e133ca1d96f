//! What the stores in PostgreSQL share: how they are reached, and how their tables are named.

use std::fmt;
use std::time::Duration;

use deadpool_postgres::{Client, Manager, Pool, Runtime};
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Config, NoTls, Row};
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

/// A pool for a URL. It connects when it is first used.
pub(crate) fn pool(url: &str) -> Result<Pool, PostgresStoreError> {
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
    let manager = match config.get_ssl_mode() {
        SslMode::Disable | SslMode::Prefer => Manager::new(config, NoTls),
        _ => tls_manager(config).map_err(PostgresStoreError::Tls)?,
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
fn tls_manager(config: Config) -> Result<Manager, Box<dyn std::error::Error + Send + Sync>> {
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
    Ok(Manager::new(config, ::tokio_postgres_rustls::MakeRustlsConnect::new(tls)))
}

#[cfg(not(feature = "postgres-tls"))]
fn tls_manager(_: Config) -> Result<Manager, Box<dyn std::error::Error + Send + Sync>> {
    Err("that needs the feature postgres-tls, or a pool of your own".into())
}

/// Runs one statement in a transaction of its own, and returns its rows.
///
/// The statement is sent in one message with its parameters and their types, and never prepared under
/// a name: so it works through a pooler that gives each transaction another connection. It may be run
/// twice: it is repeated when the connection turns out to be broken, or when the isolation level that
/// the database has been given asks for that.
pub(crate) async fn query(
    pool: &Pool,
    statement: &str,
    parameters: &[(&(dyn ToSql + Sync), Type)],
) -> Result<Vec<Row>, StoreError> {
    let mut tries_left = 2;
    loop {
        let client = pool.get().await.map_err(StoreError::unavailable)?;
        match Lent(Some(client)).query(statement, parameters).await {
            Ok(rows) => return Ok(rows),
            Err(error) if tries_left > 0 && is_passing(&error) => {
                tries_left -= 1;
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

/// A connection that goes back to the pool only after a call that ended well. What another call left
/// half done, or a server that is no longer the primary, must not be in the way of the next one.
struct Lent(Option<Client>);

impl Lent {
    async fn query(
        mut self,
        statement: &str,
        parameters: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Vec<Row>, tokio_postgres::Error> {
        let rows = match &self.0 {
            Some(client) => client.query_typed(statement, parameters).await?,
            None => Vec::new(),
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
