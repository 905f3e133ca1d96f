//! The dedup store in PostgreSQL.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use deadpool_postgres::Pool;
use tokio::time::Instant;
use tokio_postgres::types::Type;
use tracing::{debug, warn};
use uuid::Uuid;

use super::{Claim, ClaimToken, DedupStore};
use crate::error::chain;
use crate::postgres::{
    self, Canceller, Connector, Database, Parameter, PostgresStoreError, REPLICATED, Schema, TableName,
    column, microseconds,
};
use crate::store::{Fenced, StoreError};

/// A [`DedupStore`] in PostgreSQL (feature `postgres`): the processes that share it run a job's handler one at
/// a time.
///
/// One table has one row per job. Its unique index decides between claims, and the database's clock ends leases. Each
/// statement is a transaction of its own, without advisory locks, session state or, unless you
/// [ask for them](Self::with_prepared_statements), prepared statements, so the store works behind PgBouncer in transaction
/// mode. A fresh job costs one `INSERT` and one `UPDATE`; a duplicate costs an `INSERT` that finds the row and writes
/// nothing, and one `SELECT`.
///
/// ```no_run
/// # async fn app() -> Result<(), Box<dyn std::error::Error>> {
/// # let handler = qomplement_webhooks::handler_fn(|_| async { Ok(()) });
/// use qomplement_webhooks::{PostgresDedupStore, SharedToken, WebhookReceiver};
///
/// let store = PostgresDedupStore::from_url("postgres://user:password@127.0.0.1/app")?;
/// store.migrate().await?;
/// let receiver = WebhookReceiver::builder(handler)
///     .token(SharedToken::from_env("WEBHOOK_TOKEN")?)
///     .dedup_store(store)
///     .build()?;
/// # Ok(()) }
/// ```
///
/// # Guarantees and limits
///
/// The store keeps [`DedupStore`]'s contract as long as the database keeps its commits. With `synchronous_commit = on`
/// (the default), a crash of the server loses nothing. A failover to an asynchronous replica loses the commits that the
/// replica had not received; the handler may run again for those jobs.
///
/// # The table
///
/// By default, the table is `qomplement_dedup` in the first schema of the `search_path`;
/// [`with_table`](Self::with_table) chooses another. [`migrate`](Self::migrate) creates it;
/// [`migrations`](Self::migrations) returns the SQL for your own migration tool. The role needs `SELECT`, `INSERT`,
/// `UPDATE` and `DELETE` on it.
///
/// While claims arrive, the store prunes expired rows once a minute in the background, in batches of a thousand that
/// skip locked rows. [`prune`](Self::prune) deletes one batch at once.
///
/// # Connections
///
/// With [`from_url`](Self::from_url), the store has sixteen connections, and a call waits up to two seconds for one.
/// Renewing, completing and releasing have two more, for when all sixteen are in use. After a call that failed or was
/// dropped, its connection is closed. All clones are one store, with the same connections.
#[derive(Clone)]
pub struct PostgresDedupStore {
    database: Database,
    statements: Arc<DedupStatements>,
    next_pruning: Arc<Mutex<Instant>>,
}

const TABLE: &str = "qomplement_dedup";
const KIND: &str = "qomplement-webhooks dedup";
const PRUNE_EVERY: Duration = Duration::from_secs(60);
const PRUNE_ROWS: i64 = 1000;

impl PostgresDedupStore {
    /// Makes a store in the database at a `postgres://` URL. It connects on first use; [`check`](Self::check) tells whether
    /// the database is reachable.
    ///
    /// With `sslmode=require`, connections use TLS (feature `postgres-tls`), and the system must trust the server's
    /// certificate. Without it, connections do not use TLS.
    ///
    /// A URL may name several hosts (`postgres://user:password@first,second/database`). The store connects to the first
    /// of them that takes writes, or to any if the URL's `target_session_attrs` is `read-only`. Each host gets a share of
    /// two seconds, or of the URL's `connect_timeout` if that is longer.
    ///
    /// # Errors
    ///
    /// Returns [`PostgresStoreError::Url`] or [`PostgresStoreError::Setting`] if the URL is not valid, and
    /// [`PostgresStoreError::Tls`] if it requires TLS that cannot be set up.
    pub fn from_url(url: &str) -> Result<Self, PostgresStoreError> {
        let connector = Connector::from_url(url)?;
        Ok(Self::in_pool(connector.pool()?, connector.canceller()))
    }

    /// Makes a store on your own pool, with the pool's timeouts.
    ///
    /// Handlers may use the same pool. While they hold all its connections, or the server refuses a new one, renewing,
    /// completing and releasing use a reserve of two connections, which the first claim takes out of the pool. The pool opens
    /// two others in their place, so the server has up to two connections more than the pool's size. The pool's hooks run
    /// for the reserve, too.
    ///
    /// Give connections back outside a transaction, as `client.transaction()` does also when it is dropped. After a `BEGIN` of
    /// your own that no `COMMIT` or `ROLLBACK` followed, the store's writes join that transaction and are lost with it.
    ///
    /// The statements of calls that were dropped are cancelled on the server, unless the pool's connections require TLS or lead
    /// to PgBouncer, where the driver's request does not arrive.
    #[must_use]
    pub fn from_pool(pool: Pool) -> Self {
        Self::in_pool(pool, Canceller::default())
    }

    fn in_pool(pool: Pool, canceller: Canceller) -> Self {
        Self::new(Database::new(pool, canceller, schema(TableName::unqualified(TABLE))))
    }

    /// Uses another table. Names are quoted, so they may contain any character but NUL.
    ///
    /// # Errors
    ///
    /// Returns [`PostgresStoreError::Name`] if a name is empty, contains a NUL, or is longer than 63 bytes (the schema's)
    /// or 50 bytes (the table's).
    pub fn with_table(self, schema: &str, table: &str) -> Result<Self, PostgresStoreError> {
        let schema = self::schema(TableName::new(schema, table)?);
        Ok(Self::new(self.database.with_schema(schema)))
    }

    /// Prepares frequent statements once for each connection, instead of letting the server plan them at every call.
    ///
    /// Only for connections that are sessions of the server, directly or through a pooler in session mode. A pooler in
    /// transaction mode must know prepared statements, as PgBouncer does from 1.21 on with `max_prepared_statements`
    /// above 0; with others, calls fail or run another program's statement.
    #[must_use]
    pub fn with_prepared_statements(self) -> Self {
        Self::new(self.database.with_prepared_statements())
    }

    /// Adds a version of the table, for tests of future upgrades.
    #[doc(hidden)]
    #[must_use]
    pub fn with_next_version(self, statements: &str) -> Self {
        let schema = self.database.schema().with_step(statements);
        Self::new(self.database.with_schema(schema))
    }

    fn new(database: Database) -> Self {
        let statements = Arc::new(DedupStatements::new(database.schema().table()));
        Self { database, statements, next_pruning: Arc::new(Mutex::new(Instant::now() + PRUNE_EVERY)) }
    }

    /// Creates the table, and its schema if one was named, or upgrades the table to this version of the crate. Any
    /// number of processes may do so at once.
    ///
    /// The table's comment holds its version.
    ///
    /// # Errors
    ///
    /// Returns [`StoreError::Unavailable`] if the database is not reachable, the role may not create tables, or a table of
    /// that name is another program's or has a newer version. In the last two cases, the source is a
    /// [`PostgresTableError`](crate::postgres::PostgresTableError).
    pub async fn migrate(&self) -> Result<(), StoreError> {
        self.database.migrate().await
    }

    /// The SQL of [`migrate`](Self::migrate), for your own migration tool: one text for each version of the table. The
    /// first creates the table, each other one upgrades it from the version before.
    #[must_use]
    pub fn migrations(&self) -> Vec<String> {
        self.database.schema().migrations()
    }

    /// Checks that calls can succeed: the database is reachable; the table exists, is the one that
    /// [`migrate`](Self::migrate) creates, and has this version and its columns; the role has its privileges; the server
    /// takes writes; the encoding is UTF-8. For a program's start and for health checks.
    ///
    /// # Errors
    ///
    /// Returns [`StoreError::Unavailable`] if one of these is not so. If the table, a privilege, the server's state or the
    /// encoding is wrong, the source is a [`PostgresTableError`](crate::postgres::PostgresTableError).
    pub async fn check(&self) -> Result<(), StoreError> {
        self.database.check(&self.statements.check).await
    }

    /// Deletes up to a thousand expired rows, and returns their number.
    ///
    /// # Errors
    ///
    /// Returns an error if the rows may not have been deleted.
    pub async fn prune(&self) -> Result<u64, StoreError> {
        prune(&self.database, &self.statements.prune).await
    }

    /// Prunes in the background, if a minute has passed since the last time.
    fn prune_now_and_then(&self) {
        let now = Instant::now();
        let mut next = self.next_pruning.lock().unwrap_or_else(PoisonError::into_inner);
        if now < *next {
            return;
        }
        *next = now + PRUNE_EVERY;
        let (database, statement) = (self.database.clone(), self.statements.prune.clone());
        tokio::spawn(async move {
            loop {
                match prune(&database, &statement).await {
                    Ok(rows) if rows < PRUNE_ROWS.unsigned_abs() => return,
                    Ok(rows) => debug!(rows, "pruned expired rows; pruning more now"),
                    Err(error) => {
                        warn!(error = %chain(&error), "pruning expired rows failed; repeating it in 60 s");
                        return;
                    }
                }
            }
        });
    }

    /// Runs one of a claim's writing statements, and returns whether it wrote the row.
    async fn claim_by(
        &self,
        statement: &str,
        token: &ClaimToken,
        time: Duration,
    ) -> Result<bool, StoreError> {
        let values = Values::new(token, false, time);
        let written = postgres::query(&self.database, statement, &values.parameters()).await?;
        Ok(!written.is_empty())
    }

    /// Writes for the token that owns the job, or for any token if the job is free.
    async fn write_as_owner(
        &self,
        token: &ClaimToken,
        done: bool,
        time: Duration,
    ) -> Result<Fenced, StoreError> {
        let (values, DedupStatements { take, insert, .. }) =
            (Values::new(token, done, time), &*self.statements);
        for statement in [take, insert] {
            let written = postgres::query_leased(&self.database, statement, &values.parameters()).await?;
            if !written.is_empty() {
                return Ok(Fenced::Applied);
            }
        }
        Ok(Fenced::Stale)
    }
}

/// The statements that create the table, version by version.
fn schema(table: TableName) -> Schema {
    let index = table.index("until");
    let first = format!(
        "CREATE TABLE {table} (
    job_id text COLLATE \"C\" PRIMARY KEY,
    owner uuid NOT NULL,
    done boolean NOT NULL,
    until timestamptz NOT NULL
);
CREATE INDEX {index} ON {table} (until);
"
    );
    Schema::new(table, KIND, vec![first])
}

async fn prune(database: &Database, statement: &str) -> Result<u64, StoreError> {
    let deleted = postgres::query_seldom(database, statement, &[(&PRUNE_ROWS, Type::INT8)]).await?;
    Ok(deleted.len() as u64)
}

#[async_trait]
impl DedupStore for PostgresDedupStore {
    async fn claim(&self, claim: &ClaimToken, lease: Duration) -> Result<Claim, StoreError> {
        let (id, owner) = (claim.job().to_string(), owner(claim));
        self.database.reserve().await?;
        loop {
            if self.claim_by(&self.statements.insert, claim, lease).await? {
                break;
            }
            let parameters: [Parameter<'_>; 2] = [(&id, Type::TEXT), (&owner, Type::UUID)];
            let held = postgres::query(&self.database, &self.statements.held, &parameters).await?;
            if let Some(held) = held.first() {
                if column(held, "done")? {
                    return Ok(Claim::Done);
                }
                let left: Option<i64> = column(held, "microseconds")?;
                let left = left.map_or(lease, |left| Duration::from_micros(left.unsigned_abs()));
                return Ok(Claim::InProgress { retry_after: left });
            }
            // The row has expired, or is this token's own: the reply to its insertion was lost.
            if self.claim_by(&self.statements.take, claim, lease).await? {
                break;
            }
        }
        self.prune_now_and_then();
        Ok(Claim::Acquired)
    }

    async fn renew(&self, claim: &ClaimToken, lease: Duration) -> Result<Fenced, StoreError> {
        self.write_as_owner(claim, false, lease).await
    }

    async fn complete(&self, claim: &ClaimToken, retention: Duration) -> Result<Fenced, StoreError> {
        self.write_as_owner(claim, true, retention).await
    }

    async fn release(&self, claim: &ClaimToken) -> Result<Fenced, StoreError> {
        let (job, owner) = (claim.job().to_string(), owner(claim));
        let parameters: [Parameter<'_>; 2] = [(&job, Type::TEXT), (&owner, Type::UUID)];
        let deleted = postgres::query_leased(&self.database, &self.statements.release, &parameters).await?;
        Ok(if deleted.is_empty() { Fenced::Stale } else { Fenced::Applied })
    }
}

fn owner(token: &ClaimToken) -> Uuid {
    Uuid::from_u128(token.owner())
}

/// The parameters of a write: job, owner, whether the job is done, and the microseconds until the row expires.
struct Values(String, Uuid, bool, i64);

impl Values {
    fn new(token: &ClaimToken, done: bool, time: Duration) -> Self {
        Self(token.job().to_string(), owner(token), done, microseconds(time))
    }

    fn parameters(&self) -> [Parameter<'_>; 4] {
        [(&self.0, Type::TEXT), (&self.1, Type::UUID), (&self.2, Type::BOOL), (&self.3, Type::INT8)]
    }
}

/// The statements, with the table's name. The server plans each of them whenever it runs, so they are simple: a
/// statement that reads and writes took twice the server's time.
///
/// A row has expired if its end precedes the *beginning* of the statement, and a new end counts from the time of the
/// *write*, which may follow a wait for another transaction. Both are on the safe side: they never end a lease early.
struct DedupStatements {
    /// Writes a row for a job that has none.
    insert: String,
    /// Writes the row of a job if it has expired or is the token's own.
    take: String,
    /// Reads the row of a job if it is done or another token's. If it says that the job is done, it is on the replicas as well.
    held: String,
    release: String,
    prune: String,
    check: String,
}

impl DedupStatements {
    fn new(table: &TableName) -> Self {
        const NEW_END: &str = "clock_timestamp() + $4 * interval '1 microsecond'";
        Self {
            // An existing row is neither locked nor written.
            insert: format!(
                "INSERT INTO {table} (job_id, owner, done, until) VALUES ($1, $2, $3, {NEW_END})
                ON CONFLICT (job_id) DO NOTHING
                RETURNING true"
            ),
            // A token may complete its done job again, but not claim it again.
            take: format!(
                "UPDATE {table} SET owner = $2, done = $3, until = {NEW_END}
                WHERE job_id = $1 AND (until <= statement_timestamp() OR (owner = $2 AND (NOT done OR $3)))
                RETURNING true"
            ),
            held: format!(
                "SELECT done, CASE WHEN isfinite(until)
                    THEN (extract(epoch FROM until - statement_timestamp()) * 1000000)::int8 END AS microseconds,
                    CASE WHEN done THEN {REPLICATED} END AS replicated
                FROM {table}
                WHERE job_id = $1 AND until > statement_timestamp() AND (done OR owner <> $2)"
            ),
            release: format!(
                "DELETE FROM {table} WHERE job_id = $1 AND owner = $2 AND NOT done RETURNING true"
            ),
            prune: format!(
                "WITH expired AS MATERIALIZED (
                    SELECT job_id FROM {table} WHERE until <= statement_timestamp()
                    ORDER BY until LIMIT $1 FOR UPDATE SKIP LOCKED
                )
                DELETE FROM {table} AS job USING expired WHERE job.job_id = expired.job_id
                RETURNING true"
            ),
            check: format!(
                "SELECT FROM {table} WHERE job_id = ''::text AND owner = '00000000-0000-0000-0000-000000000000'::uuid AND done AND until > now()"
            ),
        }
    }
}

impl fmt::Debug for PostgresDedupStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresDedupStore")
            .field("table", &self.database.schema().table().to_string())
            .finish_non_exhaustive()
    }
}
