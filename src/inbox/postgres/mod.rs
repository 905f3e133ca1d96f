//! The inbox that processes share through PostgreSQL.

mod admin;
mod batch;
mod capacity;
mod head;
mod join;
mod leasing;
mod listen;
mod queue;
mod received;
mod renewing;
mod room;
mod rows;
mod schema;
mod settling;
mod statements;
mod store;
mod tell;
mod text;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use deadpool_postgres::Pool;
use tokio::sync::Semaphore;
use tokio_postgres::Row;

use self::head::Head;
pub use self::join::{Bind, CompleteError, Statement};
use self::listen::{Arrivals, Listener};
use self::queue::Queue;
use self::received::Arrived;
use self::renewing::Renewing;
use self::room::Room;
use self::settling::Settling;
use self::statements::Statements;
use self::tell::Notifier;
use self::text::{Texts, is_untranslatable};
use super::InboxStore;
use super::limits::Limits;
use crate::error::BoxError;
use crate::event::JobId;
use crate::postgres::{
    self, Canceller, Connector, Database, Parameter, PostgresStoreError, Schema, TableName,
};
use crate::registry::JobRegistry;
use crate::store::StoreError;

/// An [`InboxStore`] in PostgreSQL (feature `postgres`): any number of receivers and workers, on any number of
/// machines, share it.
///
/// One row per job in one table, and counts by minute in another. Each transition is one statement in a transaction of its own,
/// without advisory locks, session state or, unless you [ask for them](Self::with_prepared_statements), prepared statements, so
/// it works behind PgBouncer in transaction mode. All times are the database's own. Cheap to clone; all clones are one inbox.
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
/// # Guarantees and limits
///
/// It keeps [`InboxStore`]'s contract for as long as the database keeps what it committed. An event is
/// acknowledged when it is on the primary's disk, also in a database with `synchronous_commit = off`. There, a crash of the
/// server can undo the newest leases, and the next ones get the same fencing tokens; so can a failover, which loses what
/// an asynchronous replica had not received.
///
/// Effects in the same database can happen exactly once, with any driver:
/// [`complete_statement`](Self::complete_statement), [`complete_in_tx`](Self::complete_in_tx).
/// [`expect_statement`](Self::expect_statement) registers a job in the transaction that records its submission.
///
/// # Receiving
///
/// Events that arrive while others are being stored wait for their turn and are stored together, so that many
/// share one commit. A duplicate writes nothing. An event that the database refuses takes no other event with it.
///
/// A transaction that has not ended locks the rows that it writes, as one does that registers a job with
/// [`expect_statement`](Self::expect_statement). The job's event is stored when the transaction ends, if that takes less
/// than about 5.5 s; otherwise the call fails, and the sender delivers the event again if a delivery is left. An eighth of the
/// pool's connections, at least one, serve such events in turn: one that waits for its turn for 5 s fails, too. One locked row
/// delays the events that arrive together with it by about a second, many delay them by more. A statement that is stuck for
/// another reason, for example behind a lock of the whole table, delays the events that it stores for up to 30 s. When such
/// statements have three quarters of the pool's connections, the events that arrive after them wait too.
///
/// Types, statuses and errors are texts for people: they are cut at 4096 bytes, NUL is replaced, and in a database
/// whose encoding is not UTF-8 characters may be written as `\\u{…}`. The body is kept byte for byte.
///
/// # Waking up
///
/// Workers learn at once of events that their own process received. With [`from_url`](Self::from_url) they also learn
/// of events that other processes received, by `LISTEN` on a separate connection, which opens when the first worker
/// waits. Behind a pooler in transaction mode, which passes no notifications on, and with
/// [`from_pool`](Self::from_pool), workers find these events when they poll. Notifications are hints, each a small
/// transaction of its own after the commit of the events: nothing else fails when they do. One worker of each process
/// is woken, and wakes the next when it leases as many rows as it wanted.
///
/// # Damaged rows
///
/// A row is dead once a lease finds that the server cannot return its values: a damaged body, or a text that another program
/// wrote and that is not valid in the database's encoding. The server's message is its error. All values stay as they are, so
/// replay the row when they are restored; or discard it, and fetch its job. [`get`](crate::inbox::InboxAdmin::get) and another
/// delivery of the event fail for such a row, and lists show what can be read of it. A row that cannot be read for another
/// reason, such as an error of the disk (SQLSTATE 58…) or one inside the server (XX000), stays and is read again after the
/// length of a lease, and the log has a warning; others are leased meanwhile. A read that hangs delays all leases.
///
/// # The tables
///
/// `qomplement_inbox` and `qomplement_inbox_traffic`, in the first schema of the `search_path`, unless
/// [`with_table`](Self::with_table) says otherwise. [`migrate`](Self::migrate) creates them; [`migrations`](Self::migrations)
/// returns the SQL for migrations of your own. The role needs `SELECT`, `INSERT`, `UPDATE` and `DELETE` on both. Done rows slow
/// down neither receiving nor leasing; workers prune them. [`stats`](crate::inbox::InboxAdmin::stats) counts up to 10,000 done
/// and as many dead rows exactly, and estimates more from what the server knows of its indexes. Of more than 300 it estimates
/// the bytes.
///
/// # Errors
///
/// With [`from_url`](Self::from_url), a call waits up to two seconds for one of sixteen connections. When all of them are in
/// use, or the server refuses a new one, workers have two more, so that leases are renewed in time. A connection is not used
/// again after a call that was dropped, or that failed for another reason than a lock. Calls whose connection broke are
/// repeated, except those of [`InboxAdmin`](crate::inbox::InboxAdmin) that make a change: their error says that it may have
/// been made.
#[derive(Clone)]
pub struct PostgresInbox {
    inner: Arc<Inner>,
}

struct Inner {
    database: Database,
    /// Connects to the server to listen; `None` with a pool of the user's.
    connector: Option<Connector>,
    statements: Statements,
    /// The payload of this inbox's notifications.
    payload: String,
    arrived: Queue<Arrived>,
    /// A permit for each event that may wait alone for a lock.
    alone: Semaphore,
    settling: Queue<Settling>,
    renewing: Queue<Renewing>,
    head: Head,
    room: Arc<Room>,
    arrivals: Arc<Arrivals>,
    notifier: Notifier,
    listener: Listener,
    /// Whether the database's encoding lacks characters, so that texts are written in ASCII.
    ascii: AtomicBool,
}

const TABLE: &str = "qomplement_inbox";

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
    /// Returns an error if the text is no URL, or has a setting that is not supported. Use [`check`](Self::check) to
    /// learn whether the database can be reached.
    pub fn from_url(url: &str) -> Result<Self, PostgresStoreError> {
        let connector = Connector::from_url(url)?;
        let database = Database::new(
            connector.pool()?,
            connector.canceller(),
            schema::schema(TableName::unqualified(TABLE)),
        );
        Ok(Self::new(database, Some(connector), Limits::default()))
    }

    /// Makes an inbox on a pool of your own. Its timeouts are the pool's, and it does not listen: workers find
    /// what other processes received when they poll.
    ///
    /// Handlers may use the same pool. The first lease moves two connections from the pool to a reserve. Leasing, renewing
    /// and settling use the reserve when the pool is exhausted, or opens no new connection within half a second, so the server
    /// sees up to two more connections than the pool's size. The pool's hooks run for them.
    ///
    /// Give connections back outside a transaction, as `client.transaction()` does also when it is dropped. After a `BEGIN` of
    /// your own that no `COMMIT` or `ROLLBACK` followed, the inbox's writes join that transaction and are lost with it.
    ///
    /// The statements of calls that were dropped are cancelled on the server, unless the pool's connections require TLS or lead
    /// to PgBouncer, where the driver's request does not arrive.
    #[must_use]
    pub fn from_pool(pool: Pool) -> Self {
        let schema = schema::schema(TableName::unqualified(TABLE));
        Self::new(Database::new(pool, Canceller::default(), schema), None, Limits::default())
    }

    /// Uses another table, and for its counts by minute the one of that name with `_traffic` at its end.
    ///
    /// # Errors
    ///
    /// Returns an error if a name is empty, holds a NUL, or is longer than 63 bytes (the schema) or 50 (the table).
    /// Any other character is allowed: names are quoted.
    pub fn with_table(self, schema: &str, table: &str) -> Result<Self, PostgresStoreError> {
        Ok(self.with_schema(schema::schema(TableName::new(schema, table)?)))
    }

    /// Prepares frequent statements once for each connection. Otherwise the server plans them at every call, which takes it
    /// about 0.3 ms for events that are received, and 1.5 ms for a lease.
    ///
    /// Only for connections that are sessions of the server, directly or through a pooler in session mode. A pooler in
    /// transaction mode must know prepared statements, as PgBouncer does from 1.21 on with `max_prepared_statements`
    /// above 0; with others, calls fail or run another program's statement.
    #[must_use]
    pub fn with_prepared_statements(self) -> Self {
        let Inner { database, connector, room, .. } = &*self.inner;
        Self::new(database.with_prepared_statements(), connector.clone(), room.limits())
    }

    /// Adds a version of the table, to test upgrades.
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

    /// Sets the approximate number of received and running rows above which a new event is refused with
    /// [`StoreError::Full`]. The rows are counted at most once a second, so many processes together can exceed the
    /// limit somewhat. Default: 100,000.
    ///
    /// Registering a job fails with the same error when this many rows are received, running or expected. Expected jobs
    /// never cause an event to be refused; in a `SqliteInbox` they can.
    #[must_use]
    pub fn max_unfinished_rows(self, rows: u64) -> Self {
        let limits = Limits { rows, ..self.inner.room.limits() };
        self.with_limits(limits)
    }

    /// Sets the approximate number of bytes that the bodies of these rows may have together. Default: 10 GiB.
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
        let (table, connections) = (database.schema().table(), database.connections());
        let inner = Inner {
            statements: Statements::new(table),
            payload: listen::payload(&table.to_string()),
            arrived: Queue::new(connections),
            alone: Semaphore::new((connections / 8).max(1)),
            settling: Queue::new(connections),
            renewing: Queue::new(connections),
            database,
            connector,
            head: Head::default(),
            room: Arc::new(Room::new(limits)),
            arrivals: Arc::default(),
            notifier: Notifier::default(),
            listener: Listener::default(),
            ascii: AtomicBool::new(false),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Creates the table, and its schema if one was named, or brings the table up to this version of the crate. Any
    /// number of processes may do so at once.
    ///
    /// The table's comment holds its version.
    ///
    /// # Errors
    ///
    /// Returns an error if the database is not reached or the role may not create tables. If the table is not an inbox
    /// or has a newer version, the source is a [`PostgresTableError`](crate::postgres::PostgresTableError).
    pub async fn migrate(&self) -> Result<(), StoreError> {
        self.inner.database.migrate().await
    }

    /// The SQL that [`migrate`](Self::migrate) runs, for migrations of your own: one text for each version of the
    /// table. The first creates it, each other one upgrades the table from the version before.
    #[must_use]
    pub fn migrations(&self) -> Vec<String> {
        self.inner.database.schema().migrations()
    }

    /// Connects to the database and checks for faults that would make calls fail: a table that is missing, has another
    /// version or other columns, or is not the one that [`migrate`](Self::migrate) would create; missing privileges of
    /// the role; a server that accepts no writes; a database that cannot hold every text. Use it at a program's start
    /// and for health checks.
    ///
    /// # Errors
    ///
    /// Returns an error if the database is not reached or refuses the credentials. If one of these faults is found, the
    /// source is a [`PostgresTableError`](crate::postgres::PostgresTableError).
    pub async fn check(&self) -> Result<(), StoreError> {
        self.inner.database.check(&self.inner.statements.check).await
    }

    async fn query(&self, statement: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, StoreError> {
        postgres::query(&self.inner.database, statement, parameters).await
    }

    async fn query_seldom(
        &self,
        statement: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<Row>, StoreError> {
        postgres::query_seldom(&self.inner.database, statement, parameters).await
    }

    async fn query_once(
        &self,
        statement: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<Row>, StoreError> {
        postgres::query_once(&self.inner.database, statement, parameters).await
    }

    async fn query_leased(
        &self,
        statement: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<Row>, StoreError> {
        postgres::query_leased(&self.inner.database, statement, parameters).await
    }
}

impl Inner {
    fn texts(&self) -> Texts {
        Texts { ascii: self.ascii.load(Ordering::Relaxed) }
    }

    /// Whether a statement failed because the database's encoding lacks characters of its texts, and must be sent again
    /// with [escaped texts](Self::texts).
    fn must_escape(&self, texts: Texts, error: &StoreError) -> bool {
        let must = !texts.ascii && is_untranslatable(error);
        if must {
            self.ascii.store(true, Ordering::Relaxed);
        }
        must
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
