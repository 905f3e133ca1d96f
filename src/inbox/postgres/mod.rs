//! The inbox that processes share through PostgreSQL.

mod batch;
mod listen;
mod room;
mod statements;

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use deadpool_postgres::Pool;
use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Row, Transaction};

use self::batch::Queue;
use self::listen::Listener;
use self::room::{Limits, Room};
use self::statements::Statements;
use super::{
    Asked, InboxAdmin, InboxFilter, InboxRow, InboxState, InboxStats, InboxStore, Lease, Leased, Outcome,
    Overdue, Pruned, Receipt, Retention, Unfinished,
};
use crate::event::{Envelope, Job, JobId};
use crate::jobs::JobRegistry;
use crate::postgres::{
    self, Connector, Database, PostgresStoreError, Schema, TableName, column, microseconds,
};
use crate::store::{Fenced, StoreError};

/// An [`InboxStore`] in PostgreSQL (feature `postgres`): any number of receivers and workers, on any number of
/// machines, share it.
///
/// One row per job in one table. Each transition is one statement in a transaction of its own, without advisory
/// locks, session state or named prepared statements, so it works behind PgBouncer in transaction mode. All
/// times are the database's own. Cheap to clone; all clones are one inbox.
///
/// ```no_run
/// # async fn app() -> Result<(), Box<dyn std::error::Error>> {
/// # let handler = qomplement_webhooks::handler_fn(|_| async { Ok(()) });
/// use qomplement_webhooks::{InboxWorker, PostgresInbox, SharedToken, Verification, WebhookReceiver};
///
/// let inbox = PostgresInbox::from_url("postgres://user:password@127.0.0.1/app")?;
/// inbox.migrate().await?;
/// let receiver =
///     WebhookReceiver::durable(inbox.clone()).token(SharedToken::from_env("WEBHOOK_TOKEN")?).build()?;
/// let worker = InboxWorker::new(inbox, handler, Verification::Trust).start();
/// # Ok(()) }
/// ```
///
/// # What it promises, and what it cannot
///
/// It keeps [`InboxStore`]'s contract for as long as the database keeps what it committed. An event is
/// acknowledged when it is on the primary's disk, also in a database with `synchronous_commit = off`. A failover
/// loses what an asynchronous replica had not received.
///
/// Effects in the same database can happen exactly once: [`complete_in_tx`](Self::complete_in_tx).
///
/// # Receiving
///
/// Events that come while others are being stored wait for their turn and are stored together, so that many
/// share one commit. A copy of an event that is stored writes nothing. What a database refuses on account of one
/// event it refuses for that event alone.
///
/// # Waking up
///
/// Workers learn at once of events that this process received. With [`from_url`](Self::from_url) they learn also of
/// those of others, by `LISTEN` on a connection of its own, which begins with the first worker that waits; behind
/// a pooler in transaction mode, which passes no notifications on, and with [`from_pool`](Self::from_pool), workers
/// find them when they poll.
///
/// # The table
///
/// `qomplement_inbox`, in the first schema of the `search_path`, unless [`with_table`](Self::with_table) says
/// otherwise. [`migrate`](Self::migrate) creates it; [`migrations`](Self::migrations) are the SQL for
/// migrations of your own. The role needs `SELECT`, `INSERT`, `UPDATE` and `DELETE` on it. Neither receiving nor
/// leasing takes longer when there are many rows that are done; workers prune them.
///
/// # Errors
///
/// With [`from_url`](Self::from_url), a call waits up to two seconds for one of sixteen connections. Workers have
/// two more for when all of these are in use, so that a lease is renewed in time. A connection is not used
/// again after a call that failed or was dropped.
#[derive(Clone)]
pub struct PostgresInbox {
    inner: Arc<Inner>,
}

struct Inner {
    database: Database,
    /// How to reach the server to listen, if that is known.
    connector: Option<Connector>,
    statements: Statements,
    /// What a notification of ours says.
    payload: String,
    queue: Queue,
    room: Room,
    arrived: Arc<Notify>,
    listener: Listener,
}

/// Why an event was not [completed in a transaction](PostgresInbox::complete_in_tx). Either way, the transaction
/// must not be committed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompleteError {
    /// The event has been leased again since, replaced or settled: another run handles it, or has.
    #[error("the lease on the job's event has passed to another")]
    Stale,
    /// The store was not reached, or reported an error.
    #[error(transparent)]
    Store(StoreError),
}

const TABLE: &str = "qomplement_inbox";
const LIMITS: Limits = Limits { rows: 100_000, bytes: 10 << 30 };
/// The most rows that one call prunes.
const PRUNE_ROWS: i64 = 1000;
/// How often a renewal looks again at a row that another transaction holds, and the pause before: a second in all.
const LOCKED_TRIES: u32 = 20;
const LOCKED_AGAIN: Duration = Duration::from_millis(50);

type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

impl PostgresInbox {
    /// Makes an inbox in the database at a `postgres://` URL. It connects when it is first used.
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
        let connector = Connector::from_url(url)?;
        let database = Database::new(connector.pool()?, statements::schema(TableName::unqualified(TABLE)));
        Ok(Self::new(database, Some(connector), LIMITS))
    }

    /// Makes an inbox on a pool of your own. Its timeouts are the pool's, and it does not listen: workers find
    /// what other processes received when they poll.
    ///
    /// Handlers may use the same pool. When they hold all its connections, leasing, renewing and settling use
    /// two that the first lease has taken out of the pool, which opens two others in their place when it needs them: so
    /// there are two more than the pool's size. What the pool does with a new connection is done with these, too.
    #[must_use]
    pub fn from_pool(pool: Pool) -> Self {
        let schema = statements::schema(TableName::unqualified(TABLE));
        Self::new(Database::new(pool, schema), None, LIMITS)
    }

    /// Uses another table.
    ///
    /// # Errors
    ///
    /// When a name is empty, holds a NUL, or is longer than 63 bytes (the schema's) or 50 (the table's).
    /// Any other character is fine: names are quoted.
    pub fn with_table(self, schema: &str, table: &str) -> Result<Self, PostgresStoreError> {
        Ok(self.with_schema(statements::schema(TableName::new(schema, table)?)))
    }

    /// Knows one version of the table more, for tests of what comes after this one.
    #[doc(hidden)]
    #[must_use]
    pub fn with_next_version(self, statements: &str) -> Self {
        let schema = self.inner.database.schema().with_step(statements);
        self.with_schema(schema)
    }

    fn with_schema(self, schema: Schema) -> Self {
        let Inner { database, connector, room, .. } = &*self.inner;
        Self::new(database.with_schema(schema), connector.clone(), room.limits())
    }

    /// How many events may wait to be handled, about: above, a new one is refused with [`StoreError::Full`].
    /// They are counted once a second at most, so that many processes together can go somewhat above it.
    /// Default: 100,000.
    ///
    /// A job is not registered as expected either, with the same error, when so many events wait or jobs are
    /// expected. Jobs that are expected are never why an event is refused; in a `SqliteInbox` they can be.
    #[must_use]
    pub fn max_unfinished_rows(self, rows: u64) -> Self {
        let limits = Limits { rows, ..self.inner.room.limits() };
        self.with_limits(limits)
    }

    /// How many bytes the bodies of the events that wait to be handled may have, about. Default: 10 GiB.
    #[must_use]
    pub fn max_unfinished_bytes(self, bytes: u64) -> Self {
        let limits = Limits { bytes, ..self.inner.room.limits() };
        self.with_limits(limits)
    }

    fn with_limits(self, limits: Limits) -> Self {
        let Inner { database, connector, .. } = &*self.inner;
        Self::new(database.clone(), connector.clone(), limits)
    }

    fn new(database: Database, connector: Option<Connector>, limits: Limits) -> Self {
        let table = database.schema().table();
        let inner = Inner {
            statements: Statements::new(table),
            payload: listen::payload(&table.to_string()),
            database,
            connector,
            queue: Queue::default(),
            room: Room::new(limits),
            arrived: Arc::default(),
            listener: Listener::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Creates the table, and its schema if one was named, or brings the table up to this version of the crate. Any
    /// number of processes may do so at once.
    ///
    /// The table's comment says which version it has.
    ///
    /// # Errors
    ///
    /// When the database is not reached, the role may not create tables, or there is such a table that is not one of
    /// these or has a newer version: the source is a [`PostgresTableError`](crate::PostgresTableError) then.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        self.inner.database.migrate().await
    }

    /// The SQL that [`migrate`](Self::migrate) runs, for migrations of your own: one text for each version of the
    /// table. The first creates it, each other one upgrades the table from the version before.
    #[must_use]
    pub fn migrations(&self) -> Vec<String> {
        self.inner.database.schema().migrations()
    }

    /// Reaches the database, and looks for what would make calls fail: a table that is missing, has another
    /// version, other columns, or is not the one that [`migrate`](Self::migrate) would create; privileges that the
    /// role lacks; a server that takes no writes; a database that cannot hold every text. Good for a program's start and
    /// for health checks.
    ///
    /// # Errors
    ///
    /// When the database is not reached, refuses the credentials, or one of these is found: the source is a
    /// [`PostgresTableError`](crate::PostgresTableError) then.
    pub async fn check(&self) -> Result<(), StoreError> {
        self.inner.database.check().await?;
        self.query(&self.inner.statements.check, &[]).await.map(drop)
    }

    /// Marks the event that a handler was called with as done, in a transaction of yours: what else the transaction
    /// writes happens if and only if the event is done with it, so it happens exactly once, whatever crashes.
    ///
    /// Call it in a handler that an [`InboxWorker`](crate::InboxWorker) on this inbox runs, as the last statement before
    /// the commit, and return the error if there is one, so that the transaction is rolled back. The transaction
    /// must be of the database that the inbox is in. It locks the event's row until it ends; a second run that
    /// overlaps waits here, and is stale then.
    ///
    /// # Errors
    ///
    /// [`CompleteError::Stale`] when the lease that the handler was called under is no longer the event's, as
    /// when the process was stopped for longer than it lasts. Nothing may be committed then.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use deadpool_postgres::Pool;
    /// use qomplement_webhooks::{HandlerError, PostgresInbox, WebhookEvent, handler_fn};
    ///
    /// # fn app(pool: Pool, inbox: PostgresInbox) {
    /// let handler = handler_fn(move |event: WebhookEvent| {
    ///     let (pool, inbox) = (pool.clone(), inbox.clone());
    ///     async move {
    ///         let (job, mut client) = (event.job(), pool.get().await?);
    ///         let transaction = client.transaction().await?;
    ///         let book = "INSERT INTO bookings (job_id) VALUES ($1)";
    ///         transaction.execute(book, &[&job.id().to_string()]).await?;
    ///         inbox.complete_in_tx(job, &transaction).await?;
    ///         transaction.commit().await?;
    ///         Ok::<_, HandlerError>(())
    ///     }
    /// });
    /// # drop(handler); }
    /// ```
    pub async fn complete_in_tx(
        &self,
        job: &Job,
        transaction: &Transaction<'_>,
    ) -> Result<(), CompleteError> {
        let Ok(sequence) = i64::try_from(job.fence()) else { return Err(CompleteError::Stale) };
        let id = job.id().to_string();
        let parameters: [Parameter<'_>; 2] = [(&id, Type::TEXT), (&sequence, Type::INT8)];
        match transaction.query_typed(&self.inner.statements.complete, &parameters).await {
            Ok(completed) if completed.is_empty() => Err(CompleteError::Stale),
            Ok(_) => Ok(()),
            Err(error) => Err(CompleteError::Store(StoreError::unavailable(error))),
        }
    }

    async fn query(&self, statement: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, StoreError> {
        postgres::query(&self.inner.database, statement, parameters).await
    }

    async fn query_leased(
        &self,
        statement: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<Row>, StoreError> {
        postgres::query_leased(&self.inner.database, statement, parameters).await
    }

    /// Runs one of the writes that carry the number of a lease. They return a row when they take place.
    async fn write(
        &self,
        statement: &str,
        lease: &Lease,
        others: &[Parameter<'_>],
    ) -> Result<Fenced, StoreError> {
        let written = self.query_as_holder(statement, lease, others).await?;
        Ok(if written.is_empty() { Fenced::Stale } else { Fenced::Applied })
    }

    async fn query_as_holder(
        &self,
        statement: &str,
        lease: &Lease,
        others: &[Parameter<'_>],
    ) -> Result<Vec<Row>, StoreError> {
        let Ok(sequence) = i64::try_from(lease.sequence()) else { return Ok(Vec::new()) };
        let job = lease.job().to_string();
        let mut parameters: Vec<Parameter<'_>> = vec![(&job, Type::TEXT), (&sequence, Type::INT8)];
        parameters.extend_from_slice(others);
        self.query_leased(statement, &parameters).await
    }
}

#[async_trait]
impl InboxStore for PostgresInbox {
    async fn receive(&self, event: &Envelope) -> Result<Receipt, StoreError> {
        batch::receive(&self.inner, event).await
    }

    async fn lease(&self, most: usize, length: Duration) -> Result<Vec<Leased>, StoreError> {
        let (most, length) = (limit(most), microseconds(length));
        let parameters: [Parameter<'_>; 2] = [(&most, Type::INT8), (&length, Type::INT8)];
        self.inner.database.reserve().await?;
        let rows = self.query_leased(&self.inner.statements.lease, &parameters).await?;
        rows.iter().map(leased).collect()
    }

    async fn begin(&self, lease: &Lease) -> Result<Fenced, StoreError> {
        self.write(&self.inner.statements.begin, lease, &[]).await
    }

    async fn renew(&self, lease: &Lease, length: Duration) -> Result<Fenced, StoreError> {
        let length = microseconds(length);
        let renew = &self.inner.statements.renew;
        let mut tries_left = LOCKED_TRIES;
        loop {
            let held = self.query_as_holder(renew, lease, &[(&length, Type::INT8)]).await?;
            match held.first() {
                None => return Ok(Fenced::Stale),
                Some(row) if column(row, "renewed")? => return Ok(Fenced::Applied),
                // A call that was dropped lets go of the row soon; the transaction of a handler may take longer.
                Some(_) if tries_left > 0 => tries_left -= 1,
                Some(_) => {
                    return Err(StoreError::unavailable(
                        "a transaction that has not ended holds the event's row",
                    ));
                }
            }
            sleep(LOCKED_AGAIN).await;
        }
    }

    async fn verify(&self, lease: &Lease, event: &Envelope) -> Result<Fenced, StoreError> {
        let (job_type, status) = (storable(event.job_type().as_str()), storable(event.status().as_str()));
        let body: &[u8] = event.body();
        let others: [Parameter<'_>; 4] = [
            (&job_type, Type::TEXT),
            (&status, Type::TEXT),
            (&body, Type::BYTEA),
            (&self.inner.payload, Type::TEXT),
        ];
        let verified = self.write(&self.inner.statements.verify, lease, &others).await?;
        if verified == Fenced::Applied {
            self.inner.arrived.notify_one();
        }
        Ok(verified)
    }

    async fn settle(&self, lease: &Lease, outcome: &Outcome) -> Result<Fenced, StoreError> {
        let Statements { done, retry, dead, disowned, give_back, pending, not_found, failed, .. } =
            &self.inner.statements;
        match outcome {
            Outcome::Done => self.write(done, lease, &[]).await,
            Outcome::Retry { after, error } => {
                let (after, error) = (microseconds(*after), storable(error));
                self.write(retry, lease, &[(&after, Type::INT8), (&error, Type::TEXT)]).await
            }
            Outcome::Dead { error } => self.write(dead, lease, &[(&storable(error), Type::TEXT)]).await,
            Outcome::GiveBack { after } => {
                self.write(give_back, lease, &[(&microseconds(*after), Type::INT8)]).await
            }
            Outcome::Disowned { error } => {
                self.write(disowned, lease, &[(&storable(error), Type::TEXT)]).await
            }
            Outcome::AskAgain { after, answer } => {
                let (after, error) = (microseconds(*after), answer.error().map(storable));
                let parameters: [Parameter<'_>; 2] = [(&after, Type::INT8), (&error, Type::TEXT)];
                match answer {
                    Unfinished::Pending => self.write(pending, lease, &parameters[..1]).await,
                    Unfinished::NotFound => self.write(not_found, lease, &parameters).await,
                    Unfinished::Failed { .. } => self.write(failed, lease, &parameters).await,
                }
            }
        }
    }

    async fn expect(&self, job: &JobId, deadline: Duration) -> Result<(), StoreError> {
        if !batch::has_room_to_expect(&self.inner).await {
            return if self.contains(job).await? { Ok(()) } else { Err(StoreError::Full) };
        }
        let (job, deadline) = (job.to_string(), microseconds(deadline));
        let parameters: [Parameter<'_>; 2] = [(&job, Type::TEXT), (&deadline, Type::INT8)];
        let written = self.query(&self.inner.statements.expect, &parameters).await?;
        if let Some(row) = written.first()
            && column(row, "expected")?
        {
            self.inner.room.expected();
        }
        Ok(())
    }

    async fn overdue(&self, most: usize, length: Duration) -> Result<Vec<Overdue>, StoreError> {
        let (most, length) = (limit(most), microseconds(length));
        let parameters: [Parameter<'_>; 2] = [(&most, Type::INT8), (&length, Type::INT8)];
        self.inner.database.reserve().await?;
        let rows = self.query_leased(&self.inner.statements.overdue, &parameters).await?;
        let overdue = rows.iter().map(|row| {
            Ok(Overdue { lease: lease(row)?, late: duration(column(row, "late")?), asked: asked(row)? })
        });
        overdue.collect()
    }

    async fn contains(&self, job: &JobId) -> Result<bool, StoreError> {
        let found = self.query(&self.inner.statements.contains, &[(&job.to_string(), Type::TEXT)]).await?;
        Ok(!found.is_empty())
    }

    async fn prune(&self, retention: &Retention) -> Result<Pruned, StoreError> {
        let (row, payload) = (microseconds(retention.row), microseconds(retention.payload));
        let Statements { prune_rows, prune_payloads, .. } = &self.inner.statements;
        let rows = self.query(prune_rows, &[(&row, Type::INT8), (&PRUNE_ROWS, Type::INT8)]).await?;
        let payloads =
            self.query(prune_payloads, &[(&payload, Type::INT8), (&PRUNE_ROWS, Type::INT8)]).await?;
        Ok(Pruned { payloads: payloads.len() as u64, rows: rows.len() as u64 })
    }

    async fn wait(&self) {
        let Inner { connector, listener, payload, arrived, .. } = &*self.inner;
        if let Some(connector) = connector {
            listener.start(connector, payload, arrived);
        }
        arrived.notified().await;
    }
}

#[async_trait]
impl InboxAdmin for PostgresInbox {
    async fn list(
        &self,
        filter: &InboxFilter,
        after: Option<u64>,
        most: usize,
    ) -> Result<Vec<InboxRow>, StoreError> {
        let after = after.map_or(-1, |after| i64::try_from(after).unwrap_or(i64::MAX));
        let (state, most) = (filter.state.map(InboxState::as_str), limit(most));
        let job_type = filter.job_type.as_deref().map(storable);
        let status = filter.status.as_deref().map(storable);
        let parameters: [Parameter<'_>; 5] = [
            (&after, Type::INT8),
            (&state, Type::TEXT),
            (&job_type, Type::TEXT),
            (&status, Type::TEXT),
            (&most, Type::INT8),
        ];
        let rows = self.query(&self.inner.statements.list, &parameters).await?;
        rows.iter().map(view).collect()
    }

    async fn get(&self, job: &JobId) -> Result<Option<(InboxRow, Option<Bytes>)>, StoreError> {
        let rows = self.query(&self.inner.statements.get, &[(&job.to_string(), Type::TEXT)]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let body: Option<&[u8]> = column(row, "body")?;
        Ok(Some((view(row)?, body.map(Bytes::copy_from_slice))))
    }

    async fn replay(&self, job: &JobId) -> Result<bool, StoreError> {
        let job = job.to_string();
        let parameters: [Parameter<'_>; 2] = [(&job, Type::TEXT), (&self.inner.payload, Type::TEXT)];
        let replayed = !self.query(&self.inner.statements.replay, &parameters).await?.is_empty();
        if replayed {
            self.inner.arrived.notify_one();
        }
        Ok(replayed)
    }

    async fn stats(&self) -> Result<InboxStats, StoreError> {
        let rows = self.query(&self.inner.statements.stats, &[]).await?;
        let Some(row) = rows.first() else { return Ok(InboxStats::default()) };
        let count = |name| column(row, name).map(i64::unsigned_abs);
        Ok(InboxStats {
            expected: count("expected")?,
            received: count("received")?,
            running: count("running")?,
            done: count("done")?,
            dead: count("dead")?,
            bytes: count("bytes")?,
            oldest_due: column::<Option<i64>>(row, "oldest_due")?.map(duration),
        })
    }
}

#[async_trait]
impl JobRegistry for PostgresInbox {
    async fn is_known(&self, job: &JobId) -> Result<bool, Box<dyn Error + Send + Sync>> {
        Ok(self.contains(job).await?)
    }
}

fn leased(row: &Row) -> Result<Leased, StoreError> {
    Ok(Leased {
        lease: lease(row)?,
        body: Bytes::copy_from_slice(column(row, "body")?),
        attempt: column::<i32>(row, "attempts")?.unsigned_abs(),
        earlier_attempts: column::<i32>(row, "earlier_attempts")?.unsigned_abs(),
        ran_out: column(row, "ran_out")?,
        begun: column(row, "was_begun")?,
        verified: column(row, "verified")?,
        age: duration(column(row, "age")?),
        asked: asked(row)?,
    })
}

fn lease(row: &Row) -> Result<Lease, StoreError> {
    Ok(Lease::new(job(row)?, column::<i64>(row, "sequence")?.unsigned_abs()))
}

fn asked(row: &Row) -> Result<Asked, StoreError> {
    Ok(Asked {
        times: column::<i32>(row, "asked")?.unsigned_abs(),
        not_found: column::<i32>(row, "not_found")?.unsigned_abs(),
        unanswered_for: column::<Option<i64>>(row, "unanswered_for")?.map(duration),
        again_in: column::<Option<i64>>(row, "ask_in")?.map(duration).unwrap_or_default(),
    })
}

fn view(row: &Row) -> Result<InboxRow, StoreError> {
    use InboxState::{Dead, Done, Expected, Received, Running};
    let state: &str = column(row, "state")?;
    let mut states = [Expected, Received, Running, Done, Dead].into_iter();
    let state = states.find(|known| known.as_str() == state);
    Ok(InboxRow {
        number: column::<i64>(row, "number")?.unsigned_abs(),
        job: job(row)?,
        state: state.ok_or_else(|| StoreError::unavailable("a row is in a state that is not known"))?,
        job_type: column(row, "job_type")?,
        status: column(row, "status")?,
        verified: column(row, "verified")?,
        asked: column::<i32>(row, "asked")?.unsigned_abs(),
        attempts: column::<i32>(row, "attempts")?.unsigned_abs(),
        earlier_attempts: column::<i32>(row, "earlier_attempts")?.unsigned_abs(),
        error: column(row, "error")?,
        age: duration(column(row, "age")?),
        due_in: column::<Option<i64>>(row, "due_in")?.map(duration),
    })
}

fn job(row: &Row) -> Result<JobId, StoreError> {
    column::<&str>(row, "job_id")?.parse().map_err(StoreError::unavailable)
}

/// What is past is no time.
fn duration(microseconds: i64) -> Duration {
    Duration::from_micros(u64::try_from(microseconds).unwrap_or(0))
}

fn limit(most: usize) -> i64 {
    i64::try_from(most).unwrap_or(i64::MAX)
}

/// A text for a column, which cannot hold a NUL.
fn storable(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { text.replace('\0', "\u{fffd}").into() } else { text.into() }
}

impl fmt::Debug for PostgresInbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresInbox")
            .field("table", &self.inner.database.schema().table().to_string())
            .field("limits", &self.inner.room.limits())
            .finish_non_exhaustive()
    }
}
