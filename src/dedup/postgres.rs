//! The store that processes share through PostgreSQL.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use deadpool_postgres::Pool;
use tokio::time::Instant;
use tokio_postgres::types::{ToSql, Type};
use tracing::{debug, warn};
use uuid::Uuid;

use super::{Claim, ClaimToken, DedupStore};
use crate::error::chain;
use crate::postgres::{
    self, Connector, Database, PostgresStoreError, Schema, TableName, column, microseconds,
};
use crate::store::{Fenced, StoreError};

/// A [`DedupStore`] in PostgreSQL (feature `postgres`): processes that share it run a job's handler one at
/// a time.
///
/// One row per job in one table; the unique index decides who claims a job, and the database's clock when
/// a lease ends. Each statement is a transaction of its own, without advisory locks, session state or named
/// prepared statements, so it works behind PgBouncer in transaction mode. A fresh job costs one `INSERT` and
/// one `UPDATE`; a duplicate costs an `INSERT` that finds the row and writes nothing, and one `SELECT`.
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
/// # What it promises, and what it cannot
///
/// It keeps [`DedupStore`]'s contract for as long as the database keeps what it committed: a crash of the
/// server loses nothing with `synchronous_commit = on` (the default); a failover loses what an
/// asynchronous replica had not received, and those jobs may be handled again.
///
/// # The table
///
/// `qomplement_dedup`, in the first schema of the `search_path`, unless [`with_table`](Self::with_table) says
/// otherwise. [`migrate`](Self::migrate) creates it; [`migrations`](Self::migrations) are the SQL for
/// migrations of your own. The role needs `SELECT`, `INSERT`, `UPDATE` and `DELETE` on it.
///
/// Rows that have expired are deleted in the background, once a minute while claims come, in batches of a
/// thousand that skip rows in use; [`prune`](Self::prune) deletes a batch when you like.
///
/// # Errors
///
/// With [`from_url`](Self::from_url), a call waits up to two seconds for one of sixteen connections. The holders of
/// claims have two more for when all of these are in use. A connection is not used again after a call that failed
/// or was dropped.
pub struct PostgresDedupStore {
    database: Database,
    statements: Statements,
    next_pruning: Mutex<Instant>,
}

const TABLE: &str = "qomplement_dedup";
const KIND: &str = "qomplement-webhooks dedup";
const PRUNE_EVERY: Duration = Duration::from_secs(60);
const PRUNE_ROWS: i64 = 1000;

impl PostgresDedupStore {
    /// Makes a store in the database at a `postgres://` URL. It connects when it is first used.
    ///
    /// With `sslmode=require` the connection is made with TLS (feature `postgres-tls`), and the server's
    /// certificate must be one that the system trusts; without it, there is no TLS.
    ///
    /// A URL may name several hosts (`postgres://user:password@first,second/database`). They are tried one after
    /// another, each for its share of two seconds, or of the URL's `connect_timeout` if that is longer; of several, one is
    /// used that takes writes, unless the URL's `target_session_attrs` says `read-only`.
    ///
    /// # Errors
    ///
    /// When the URL is not one, or has a setting that is not supported. Whether the database is there,
    /// [`check`](Self::check) says.
    pub fn from_url(url: &str) -> Result<Self, PostgresStoreError> {
        Connector::from_url(url)?.pool().map(Self::from_pool)
    }

    /// Makes a store on a pool of your own. Its timeouts are the pool's.
    ///
    /// Handlers may use the same pool. When they hold all its connections, renewing, completing and releasing use
    /// two that the first claim has taken out of the pool, which opens two others in their place when it needs them: so
    /// there are two more than the pool's size. What the pool does with a new connection is done with these, too.
    #[must_use]
    pub fn from_pool(pool: Pool) -> Self {
        let schema = schema(TableName::unqualified(TABLE));
        Self::new(Database::new(pool, schema))
    }

    /// Uses another table.
    ///
    /// # Errors
    ///
    /// When a name is empty, holds a NUL, or is longer than 63 bytes (the schema's) or 50 (the table's).
    /// Any other character is fine: names are quoted.
    pub fn with_table(self, schema: &str, table: &str) -> Result<Self, PostgresStoreError> {
        let schema = self::schema(TableName::new(schema, table)?);
        Ok(Self::new(self.database.with_schema(schema)))
    }

    /// Knows one version of the table more, for tests of what comes after this one.
    #[doc(hidden)]
    #[must_use]
    pub fn with_next_version(self, statements: &str) -> Self {
        let schema = self.database.schema().with_step(statements);
        Self::new(self.database.with_schema(schema))
    }

    fn new(database: Database) -> Self {
        let statements = Statements::new(database.schema().table());
        Self { database, statements, next_pruning: Mutex::new(Instant::now() + PRUNE_EVERY) }
    }

    /// Creates the table, and its schema if one was named, or brings the table up to this version of the crate. Any
    /// number of processes may do so at once.
    ///
    /// The table's comment says which version it has.
    ///
    /// # Errors
    ///
    /// When the database is not reached, the role may not create tables, or there is such a table that is not one of
    /// these or has a newer version: the source is a [`PostgresTableError`](crate::postgres::PostgresTableError) then.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        self.database.migrate().await
    }

    /// The SQL that [`migrate`](Self::migrate) runs, for migrations of your own: one text for each version of the
    /// table. The first creates it, each other one upgrades the table from the version before.
    #[must_use]
    pub fn migrations(&self) -> Vec<String> {
        self.database.schema().migrations()
    }

    /// Reaches the database, and looks for what would make calls fail: a table that is missing, has another
    /// version, other columns, or is not the one that [`migrate`](Self::migrate) would create; privileges that the
    /// role lacks; a server that takes no writes; a database that cannot hold every text. Good for a program's start and
    /// for health checks.
    ///
    /// # Errors
    ///
    /// When the database is not reached, refuses the credentials, or one of these is found: the source is a
    /// [`PostgresTableError`](crate::postgres::PostgresTableError) then.
    pub async fn check(&self) -> Result<(), StoreError> {
        self.database.check().await?;
        postgres::query(&self.database, &self.statements.check, &[]).await.map(drop)
    }

    /// Deletes up to a thousand expired rows, and returns how many.
    ///
    /// # Errors
    ///
    /// When the database is not reached.
    pub async fn prune(&self) -> Result<u64, StoreError> {
        prune(&self.database, &self.statements.prune).await
    }

    /// Deletes expired rows in the background, if it is time.
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
                    Ok(rows) => debug!(rows, "expired rows were deleted"),
                    Err(error) => {
                        warn!(error = %chain(&error), "expired rows cannot be deleted; trying again in a minute");
                        return;
                    }
                }
            }
        });
    }

    /// Runs one of the writes of a claim, and says whether it took place.
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

    /// Writes for the token that owns the job, or may have owned it when nobody does.
    async fn write_as_owner(
        &self,
        token: &ClaimToken,
        done: bool,
        time: Duration,
    ) -> Result<Fenced, StoreError> {
        let (values, Statements { take, insert, .. }) = (Values::new(token, done, time), &self.statements);
        for statement in [take, insert] {
            let written = postgres::query_leased(&self.database, statement, &values.parameters()).await?;
            if !written.is_empty() {
                return Ok(Fenced::Applied);
            }
        }
        Ok(Fenced::Stale)
    }
}

/// What makes the table, version by version.
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
    let deleted = postgres::query(database, statement, &[(&PRUNE_ROWS, Type::INT8)]).await?;
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
            let parameters: [(&(dyn ToSql + Sync), Type); 2] = [(&id, Type::TEXT), (&owner, Type::UUID)];
            let held = postgres::query(&self.database, &self.statements.held, &parameters).await?;
            if let Some(held) = held.first() {
                if column(held, "done")? {
                    return Ok(Claim::Done);
                }
                let left: Option<i64> = column(held, "microseconds")?;
                let left = left.map_or(lease, |left| Duration::from_micros(left.unsigned_abs()));
                return Ok(Claim::InProgress { retry_after: left });
            }
            // It has expired, or it is this claim's own and the reply to the insertion was lost.
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
        let parameters: [(&(dyn ToSql + Sync), Type); 2] = [(&job, Type::TEXT), (&owner, Type::UUID)];
        let deleted = postgres::query_leased(&self.database, &self.statements.release, &parameters).await?;
        Ok(if deleted.is_empty() { Fenced::Stale } else { Fenced::Applied })
    }
}

fn owner(token: &ClaimToken) -> Uuid {
    Uuid::from_u128(token.owner())
}

/// The values of a write: job, owner, whether the job is done, and for how long.
struct Values(String, Uuid, bool, i64);

impl Values {
    fn new(token: &ClaimToken, done: bool, time: Duration) -> Self {
        Self(token.job().to_string(), owner(token), done, microseconds(time))
    }

    fn parameters(&self) -> [(&(dyn ToSql + Sync), Type); 4] {
        [(&self.0, Type::TEXT), (&self.1, Type::UUID), (&self.2, Type::BOOL), (&self.3, Type::INT8)]
    }
}

/// The statements, with the table's name in them. Each is planned anew whenever it runs, so they are simple:
/// one that looks and writes took twice the server's time.
///
/// Whether something has expired is asked of the time when the statement began, and new ends are counted
/// from the time when the row is written, after a wait for another statement: both err on the safe side.
struct Statements {
    /// Writes a job that has no row.
    insert: String,
    /// Writes a job that has expired, or is the token's own.
    take: String,
    /// Reads a job that is done, or another's.
    held: String,
    release: String,
    prune: String,
    check: String,
}

impl Statements {
    fn new(table: &TableName) -> Self {
        const NEW_END: &str = "clock_timestamp() + $4 * interval '1 microsecond'";
        Self {
            // A row that is there is neither locked nor written.
            insert: format!(
                "INSERT INTO {table} (job_id, owner, done, until) VALUES ($1, $2, $3, {NEW_END})
                ON CONFLICT (job_id) DO NOTHING
                RETURNING true"
            ),
            // What is done may be completed again, and is not claimed again.
            take: format!(
                "UPDATE {table} SET owner = $2, done = $3, until = {NEW_END}
                WHERE job_id = $1 AND (until <= statement_timestamp() OR (owner = $2 AND (NOT done OR $3)))
                RETURNING true"
            ),
            held: format!(
                "SELECT done, CASE WHEN isfinite(until)
                    THEN (extract(epoch FROM until - statement_timestamp()) * 1000000)::int8 END AS microseconds
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
