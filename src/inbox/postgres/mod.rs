//! The inbox that processes share through PostgreSQL.

mod batch;
mod listen;
mod room;
mod rows;
mod statements;
mod tell;
mod text;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use deadpool_postgres::Pool;
use tokio::time::sleep;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Row, Transaction};
use tracing::error;

use self::batch::Queue;
use self::listen::{Arrivals, Listener};
use self::room::{Limits, Room};
use self::rows::{Unreadable, duration};
use self::statements::Statements;
use self::tell::Teller;
use self::text::{Texts, is_untranslatable};
use super::{
    InboxAdmin, InboxFilter, InboxRow, InboxState, InboxStats, InboxStore, Lease, Leased, NoResult, Outcome,
    Overdue, Pruned, Receipt, Retention,
};
use crate::error::{BoxError, chain};
use crate::event::{Envelope, Job, JobId};
use crate::postgres::{
    self, Connector, Database, PostgresStoreError, Schema, TableName, column, microseconds,
};
use crate::registry::JobRegistry;
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
/// event it refuses for that event alone; and a statement that is stuck, as behind a row that somebody has locked,
/// holds up no event that comes after it.
///
/// Types, statuses and errors are texts for people: of one that is longer than 4096 bytes the beginning is kept, a
/// NUL is replaced, and in a database whose encoding is not UTF-8 characters may be written as `\\u{…}`. The body is
/// kept byte for byte.
///
/// # Waking up
///
/// Workers learn at once of events that this process received. With [`from_url`](Self::from_url) they learn also of
/// those of others, by `LISTEN` on a connection of its own, which begins with the first worker that waits; behind
/// a pooler in transaction mode, which passes no notifications on, and with [`from_pool`](Self::from_pool), workers
/// find them when they poll. Notifications are hints, each a small transaction of its own after the events are
/// committed: nothing else fails when they do. One worker of each process is woken, and wakes the next when it finds
/// as much as it can take.
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
    arrivals: Arc<Arrivals>,
    teller: Teller,
    listener: Listener,
    /// Whether the database's encoding lacks characters, so that texts are written in ASCII.
    ascii: AtomicBool,
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
/// The most rows that one call prunes, and the most bytes of bodies, about: their rows are locked meanwhile.
const PRUNE_ROWS: i64 = 1000;
const PRUNE_BYTES: i64 = 64 << 20;
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
            queue: Queue::new(database.connections()),
            database,
            connector,
            room: Room::new(limits),
            arrivals: Arc::default(),
            teller: Teller::default(),
            listener: Listener::default(),
            ascii: AtomicBool::new(false),
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
    /// these or has a newer version: the source is a [`PostgresTableError`](crate::postgres::PostgresTableError) then.
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
    /// [`PostgresTableError`](crate::postgres::PostgresTableError) then.
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
        let Ok(fence) = i64::try_from(job.fence()) else { return Err(CompleteError::Stale) };
        let id = job.id().to_string();
        let parameters: [Parameter<'_>; 2] = [(&id, Type::TEXT), (&fence, Type::INT8)];
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
        let written = self.written(statement, lease, others).await?;
        Ok(if written.is_none() { Fenced::Stale } else { Fenced::Applied })
    }

    /// The row that a statement for the holder of a lease returns, if there is one.
    async fn written(
        &self,
        statement: &str,
        lease: &Lease,
        others: &[Parameter<'_>],
    ) -> Result<Option<Row>, StoreError> {
        let Ok(fence) = i64::try_from(lease.fence()) else { return Ok(None) };
        let job = lease.job().to_string();
        let mut parameters: Vec<Parameter<'_>> = vec![(&job, Type::TEXT), (&fence, Type::INT8)];
        parameters.extend_from_slice(others);
        Ok(self.query_leased(statement, &parameters).await?.into_iter().next())
    }

    /// Keeps those rows that can be read. The others would be leased again and again in vain, so they are dead; when
    /// that cannot be written now, it is when their leases have ended.
    async fn readable<T>(&self, rows: &[Row], read: impl Fn(&Row) -> Result<T, Unreadable>) -> Vec<T> {
        let (mut readable, mut unreadable) = (Vec::with_capacity(rows.len()), Vec::new());
        for row in rows {
            match read(row) {
                Ok(row) => readable.push(row),
                Err(row) => unreadable.push(row),
            }
        }
        for Unreadable { number, fence, reason } in unreadable {
            error!(number, %reason, "a row in the inbox cannot be read: it is dead");
            let parameters: [Parameter<'_>; 3] =
                [(&number, Type::INT8), (&fence, Type::INT8), (&reason, Type::TEXT)];
            if let Err(error) = self.query_leased(&self.inner.statements.set_aside, &parameters).await {
                error!(number, error = %chain(&error), "the row cannot be set aside; trying again when its lease ends");
            }
        }
        readable
    }

    async fn settle_with(
        &self,
        texts: Texts,
        lease: &Lease,
        outcome: &Outcome,
    ) -> Result<Fenced, StoreError> {
        let Statements { done, retry, dead, rejected, release, pending, not_found, failed, .. } =
            &self.inner.statements;
        match outcome {
            Outcome::Done => self.write(done, lease, &[]).await,
            Outcome::Retry { after, error } => {
                let (after, error) = (microseconds(*after), texts.storable(error));
                self.write(retry, lease, &[(&after, Type::INT8), (&error, Type::TEXT)]).await
            }
            Outcome::Dead { error } => self.write(dead, lease, &[(&texts.storable(error), Type::TEXT)]).await,
            Outcome::Release { after } => {
                self.write(release, lease, &[(&microseconds(*after), Type::INT8)]).await
            }
            Outcome::Rejected { error } => {
                self.write(rejected, lease, &[(&texts.storable(error), Type::TEXT)]).await
            }
            Outcome::FetchAgain { after, answer } => {
                let after = microseconds(*after);
                let error = answer.error().map(|error| texts.storable(error));
                let parameters: [Parameter<'_>; 2] = [(&after, Type::INT8), (&error, Type::TEXT)];
                match answer {
                    NoResult::Pending => self.write(pending, lease, &parameters[..1]).await,
                    NoResult::NotFound => self.write(not_found, lease, &parameters).await,
                    NoResult::Failed { .. } => self.write(failed, lease, &parameters).await,
                }
            }
        }
    }
}

impl Inner {
    fn texts(&self) -> Texts {
        Texts { ascii: self.ascii.load(Ordering::Relaxed) }
    }

    /// Whether a statement failed because its texts hold characters that the database's encoding lacks, and is to be
    /// sent again with [others](Self::texts).
    fn must_escape(&self, texts: Texts, error: &StoreError) -> bool {
        let must = !texts.ascii && is_untranslatable(error);
        if must {
            self.ascii.store(true, Ordering::Relaxed);
        }
        must
    }
}

#[async_trait]
impl InboxStore for PostgresInbox {
    async fn receive(&self, event: &Envelope) -> Result<Receipt, StoreError> {
        batch::receive(&self.inner, event).await
    }

    async fn lease(&self, most: usize, length: Duration) -> Result<Vec<Leased>, StoreError> {
        let (wanted, length) = (limit(most), microseconds(length));
        let parameters: [Parameter<'_>; 2] = [(&wanted, Type::INT8), (&length, Type::INT8)];
        self.inner.database.reserve().await?;
        let rows = self.query_leased(&self.inner.statements.lease, &parameters).await?;
        self.inner.arrivals.leased(rows.len(), most);
        Ok(self.readable(&rows, rows::leased).await)
    }

    async fn begin(&self, lease: &Lease) -> Result<Fenced, StoreError> {
        self.write(&self.inner.statements.begin, lease, &[]).await
    }

    async fn renew(&self, lease: &Lease, length: Duration) -> Result<Fenced, StoreError> {
        let length = microseconds(length);
        let renew = &self.inner.statements.renew;
        let mut tries_left = LOCKED_TRIES;
        loop {
            let held = self.written(renew, lease, &[(&length, Type::INT8)]).await?;
            match held {
                None => return Ok(Fenced::Stale),
                Some(row) if column(&row, "renewed")? => return Ok(Fenced::Applied),
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
        let body: &[u8] = event.body();
        let verified = loop {
            let texts = self.inner.texts();
            let (job_type, status) =
                (texts.storable(event.job_type().as_str()), texts.storable(event.status().as_str()));
            let others: [Parameter<'_>; 3] =
                [(&job_type, Type::TEXT), (&status, Type::TEXT), (&body, Type::BYTEA)];
            match self.written(&self.inner.statements.verify, lease, &others).await {
                Err(error) if self.inner.must_escape(texts, &error) => {}
                verified => break verified?,
            }
        };
        let Some(row) = verified else { return Ok(Fenced::Stale) };
        if column(&row, "is_received")? {
            tell::arrived(&self.inner, 1);
        }
        Ok(Fenced::Applied)
    }

    async fn settle(&self, lease: &Lease, outcome: &Outcome) -> Result<Fenced, StoreError> {
        loop {
            let texts = self.inner.texts();
            match self.settle_with(texts, lease, outcome).await {
                Err(error) if self.inner.must_escape(texts, &error) => {}
                settled => return settled,
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
        Ok(self.readable(&rows, rows::overdue).await)
    }

    async fn contains(&self, job: &JobId) -> Result<bool, StoreError> {
        let found = self.query(&self.inner.statements.contains, &[(&job.to_string(), Type::TEXT)]).await?;
        Ok(!found.is_empty())
    }

    /// At most 1000 rows and 1000 bodies, and of each about 64 MiB.
    async fn prune(&self, retention: &Retention) -> Result<Pruned, StoreError> {
        let Statements { prune_rows, prune_payloads, .. } = &self.inner.statements;
        let prune = async |statement, older: Duration| {
            let older = microseconds(older);
            let parameters: [Parameter<'_>; 3] =
                [(&older, Type::INT8), (&PRUNE_ROWS, Type::INT8), (&PRUNE_BYTES, Type::INT8)];
            self.query(statement, &parameters).await.map(|pruned| pruned.len() as u64)
        };
        let rows = prune(prune_rows, retention.row).await?;
        Ok(Pruned { payloads: prune(prune_payloads, retention.payload).await?, rows })
    }

    async fn wait(&self) {
        let Inner { connector, listener, payload, arrivals, .. } = &*self.inner;
        if let Some(connector) = connector {
            listener.start(connector, payload, arrivals);
        }
        arrivals.wait().await;
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
        let rows = loop {
            let texts = self.inner.texts();
            let [job_type, status] = [&filter.job_type, &filter.status]
                .map(|text| text.as_deref().map(|text| texts.storable(text)));
            let parameters: [Parameter<'_>; 5] = [
                (&after, Type::INT8),
                (&state, Type::TEXT),
                (&job_type, Type::TEXT),
                (&status, Type::TEXT),
                (&most, Type::INT8),
            ];
            match self.query(&self.inner.statements.list, &parameters).await {
                Err(error) if self.inner.must_escape(texts, &error) => {}
                rows => break rows?,
            }
        };
        rows.iter().map(rows::view).collect()
    }

    async fn get(&self, job: &JobId) -> Result<Option<(InboxRow, Option<Bytes>)>, StoreError> {
        let rows = self.query(&self.inner.statements.get, &[(&job.to_string(), Type::TEXT)]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let body: Option<&[u8]> = column(row, "body")?;
        Ok(Some((rows::view(row)?, body.map(Bytes::copy_from_slice))))
    }

    async fn replay(&self, job: &JobId) -> Result<bool, StoreError> {
        let replayed = self.query(&self.inner.statements.replay, &[(&job.to_string(), Type::TEXT)]).await?;
        if !replayed.is_empty() {
            tell::arrived_now(&self.inner).await;
        }
        Ok(!replayed.is_empty())
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
    async fn is_known(&self, job: &JobId) -> Result<bool, BoxError> {
        Ok(self.contains(job).await?)
    }
}

fn limit(most: usize) -> i64 {
    i64::try_from(most).unwrap_or(i64::MAX)
}

impl fmt::Debug for PostgresInbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresInbox")
            .field("table", &self.inner.database.schema().table().to_string())
            .field("limits", &self.inner.room.limits())
            .finish_non_exhaustive()
    }
}
