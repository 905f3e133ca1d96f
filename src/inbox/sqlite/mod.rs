//! The inbox in one file, an SQLite database.

mod admin;
mod bodies;
mod listing;
mod place;
mod queue;
mod reads;
mod rows;
mod schema;
#[cfg(test)]
mod tests;
mod totals;
mod traffic;
mod transaction;
mod writer;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use tokio::sync::Notify;

use self::reads::Readers;
use self::writer::Writer;
use super::limits::Limits;
use super::timestamp::Timestamp;
use super::{InboxAdmin, InboxStore, Lease, Leased, Outcome, Overdue, Pruned, Receipt, Retention};
use crate::error::BoxError;
use crate::event::{Envelope, JobId};
use crate::registry::JobRegistry;
use crate::store::{Fenced, StoreError};

/// An [`InboxStore`] in one file (feature `sqlite`), for one machine without a database server.
///
/// Cheap to clone; all clones are one inbox. It is also a [`JobRegistry`] that knows the jobs of its rows.
///
/// ```no_run
/// # async fn app() -> Result<(), Box<dyn std::error::Error>> {
/// # let handler = qomplement_webhooks::handler_fn(|_| async { Ok(()) });
/// use qomplement_webhooks::{InboxWorker, SharedToken, SqliteInbox, Verification, WebhookReceiver};
///
/// let inbox = SqliteInbox::open("/var/lib/app/webhooks.db")?;
/// let worker = InboxWorker::new(inbox.clone(), handler, Verification::Trust).start();
/// let receiver =
///     WebhookReceiver::durable(inbox).token(SharedToken::from_env("WEBHOOK_TOKEN")?).build()?;
/// # Ok(()) }
/// ```
///
/// # Guarantees and limits
///
/// It keeps [`InboxStore`]'s contract. `Ok` means that SQLite has committed in WAL mode with `synchronous=FULL`: the
/// operating system has confirmed that the data is on the disk. A disk that confirms too early, or that is lost, loses
/// the events: the file is the only one. Times come from the system's clock: after it is set back, due rows wait longer, and
/// after it is set forward, leases end early.
///
/// One thread writes, and commits all waiting calls in one transaction: the more calls at once, the less each costs.
/// Reads do not wait for writes; they run on tokio's blocking threads, four at once.
///
/// # The file
///
/// It must be on a local disk: SQLite's locks and its shared memory do not work over NFS or SMB. Any number of
/// processes on one machine may open it at once, such as two servers, or a command line beside a server; they
/// take turns at writing. Each of them needs SQLite 3.51.3 or newer: earlier versions can corrupt a file that two
/// processes write at once. This crate brings a newer one along, unless another package of the program needs an older
/// one, as sqlx 0.8 with its feature `sqlite` does; a warning is then logged.
///
/// `PATH-wal` and `PATH-shm` belong to it while it is open, and after a crash: move or copy all three, or none. For a
/// backup while it is open, use `VACUUM INTO` or SQLite's backup command. It holds the bodies unencrypted; the directory
/// and the umask decide which users can read it.
///
/// The write-ahead log is copied into the file after every 4000 pages (16 MiB). It grows beyond that by one
/// transaction, which has at most 8 MiB of bodies, and one more, or while a program reads the file without a pause. Its
/// space is used again, and is freed when the last program closes the file. The file itself does not shrink: the space
/// of pruned rows is used again, and `VACUUM` frees it.
///
/// # Limits
///
/// A call returns [`StoreError::Full`] at one of the limits set with [the builder](Self::builder), which count expected,
/// received and running rows and their bodies, or if the disk is full. Done rows and dead letters do not count.
///
/// After the file, `PATH-wal` or `PATH-shm` is deleted, moved or replaced while the inbox is open, every call fails, so
/// that the receiver answers 503, and an error is logged. The inbox goes on when the same files are back. It does not
/// use a new file: restart the program. Before every commit, the files are compared with those that were opened, by
/// device and inode (on Unix; Windows lets no program delete or move open files).
///
/// # Damage
///
/// A row is dead once a lease finds that its body is damaged (`SQLITE_CORRUPT`), and other rows are leased as usual. Except on
/// Windows, SQLite also reports as damage what the disk cannot read. [`get`](InboxAdmin::get) and another delivery of the
/// event fail for such a row. It can be discarded and pruned, and its job fetched. An event with a final status takes the
/// place of one without as usual; the row then has a new [number](super::InboxRow::number).
///
/// The damaged pages stay in the file until a backup is restored. Until then, `VACUUM` and `VACUUM INTO` fail;
/// SQLite's backup command works. While the last page of the table of bodies is damaged, no event can be stored; the rows
/// whose bodies begin on it are dead, and others are leased. If the first one is damaged, too, no row is dead: the calls
/// that meet damage fail, as they do for damage elsewhere, such as in an index.
///
/// # Errors
///
/// While another process holds the file's lock, a write waits for up to three seconds, or for
/// [`busy_timeout`](SqliteInboxBuilder::busy_timeout). An error of the disk that SQLite does not
/// report as damage fails all calls of one transaction.
///
/// # Shutting down
///
/// The thread ends after the last clone is dropped, when it has committed the waiting calls. A process that exits earlier
/// loses no call that has returned.
#[derive(Clone)]
pub struct SqliteInbox {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    limits: Limits,
    /// Dropped before `writer`: of connections that close at once, none may be the last, which removes the log.
    readers: Readers,
    writer: Writer,
    arrived: Arc<Notify>,
}

/// Configures a [`SqliteInbox`].
#[derive(Debug, Clone)]
#[must_use = "nothing is opened before `open`"]
pub struct SqliteInboxBuilder {
    path: PathBuf,
    settings: Settings,
}

#[derive(Debug, Clone, Copy)]
struct Settings {
    limits: Limits,
    create: bool,
    max_file_bytes: Option<u64>,
    busy_timeout: Duration,
}

/// The reason why a [`SqliteInbox`] cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SqliteInboxError {
    /// The file cannot be opened, read or written.
    #[error("the file cannot be opened")]
    Open(#[source] BoxError),
    /// The file is not an SQLite database.
    #[error("the file is not an SQLite database")]
    NotADatabase,
    /// The file is another program's database.
    #[error("the file is an SQLite database, but not an inbox")]
    NotAnInbox,
    /// The file, or one of its companions `-wal` and `-shm`, cannot be written.
    #[error("the file, its -wal or its -shm cannot be written, so the file cannot be read either")]
    ReadOnly(#[source] BoxError),
    /// The file was written by an older version of this crate, and [`create`](SqliteInboxBuilder::create) is off.
    #[error(
        "the file has version {found}, and this program needs version {known}; a server of this version upgrades it"
    )]
    TooOld {
        /// The version of the file.
        found: i64,
        /// The version that this program needs.
        known: i64,
    },
    /// The file was written by a newer version of this crate.
    #[error("the file has version {found}, and this program knows versions up to {known}: use a newer one")]
    TooNew {
        /// The version of the file.
        found: i64,
        /// The newest version that this program knows.
        known: i64,
    },
    /// SQLite cannot guarantee that committed data is kept. Some file systems cannot share memory, which the write-ahead
    /// log needs.
    #[error("{setting} is {found} instead of {wanted}, so committed events could be lost")]
    NotDurable {
        /// The setting.
        setting: &'static str,
        /// The value it must have.
        wanted: &'static str,
        /// The value it has.
        found: String,
    },
    /// The thread that writes cannot be started.
    #[error("the thread that writes cannot be started")]
    Thread(#[source] io::Error),
}

impl SqliteInbox {
    /// Opens the inbox in a file, with the default limits. The file is created unless it exists, and brought
    /// up to this version of the crate; any number of processes may do so at once.
    ///
    /// Blocks for some milliseconds, and for up to [`busy_timeout`](SqliteInboxBuilder::busy_timeout) while another process
    /// holds the file's lock: call it when the program starts.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be opened or written, is not an inbox, or is one of a newer version.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, SqliteInboxError> {
        Self::builder(path).open()
    }

    /// Starts to configure the inbox in a file.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use qomplement_webhooks::inbox::SqliteInboxError;
    /// # use qomplement_webhooks::SqliteInbox;
    /// # fn open() -> Result<SqliteInbox, SqliteInboxError> {
    /// let inbox = SqliteInbox::builder("webhooks.db").max_unfinished_rows(10_000).open()?;
    /// # Ok(inbox) }
    /// ```
    pub fn builder(path: impl AsRef<Path>) -> SqliteInboxBuilder {
        SqliteInboxBuilder {
            path: path.as_ref().to_owned(),
            settings: Settings {
                limits: Limits::default(),
                create: true,
                max_file_bytes: None,
                busy_timeout: Duration::from_secs(3),
            },
        }
    }
}

impl SqliteInboxBuilder {
    /// Sets the number of expected, received and running rows at which a new job is not registered, and the event of a
    /// job that is not expected is refused, with [`StoreError::Full`]. Default: 100,000.
    ///
    /// In a `PostgresInbox`, expected jobs never cause an event to be refused.
    pub fn max_unfinished_rows(mut self, rows: u64) -> Self {
        self.settings.limits.rows = rows;
        self
    }

    /// Sets the number of bytes that the bodies of these rows may have together. Default: 10 GiB.
    pub fn max_unfinished_bytes(mut self, bytes: u64) -> Self {
        self.settings.limits.bytes = bytes;
        self
    }

    /// Sets whether a missing file is created, an empty one made an inbox, and one of an older version upgraded. Default:
    /// true. With `false`, each of these is an error and changes nothing, as fits a program that only looks into the inbox
    /// of another.
    pub fn create(mut self, create: bool) -> Self {
        self.settings.create = create;
        self
    }

    /// Limits the size of the file, to test a full disk. Unfit for production: when the file is full to its last page, no
    /// row can be leased, so none is finished and pruned to make room.
    #[doc(hidden)]
    pub fn max_file_bytes(mut self, bytes: u64) -> Self {
        self.settings.max_file_bytes = Some(bytes);
        self
    }

    /// Sets the longest time a call waits while another process holds the file's lock. It should leave time to answer
    /// within the receiver's ack deadline. More than a day counts as a day. Default: 3 seconds.
    pub fn busy_timeout(mut self, time: Duration) -> Self {
        // SQLite counts milliseconds in 32 bits.
        self.settings.busy_timeout = time.min(Duration::from_secs(24 * 60 * 60));
        self
    }

    /// Opens the inbox: see [`SqliteInbox::open`].
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be opened or written, is not an inbox, or is one of a newer version; without
    /// [`create`](Self::create), also if it is one of an older version.
    pub fn open(self) -> Result<SqliteInbox, SqliteInboxError> {
        // Absolute, so that the working directory may change, and no name is special to SQLite.
        let path = std::path::absolute(&self.path).map_err(|error| SqliteInboxError::Open(error.into()))?;
        let (connection, place) = schema::open(&path, &self.settings)?;
        let (place, arrived) = (Some(Arc::new(place)), Arc::new(Notify::new()));
        let Settings { limits, busy_timeout, .. } = self.settings;
        let writer = Writer::start(connection, place.clone(), limits, busy_timeout, arrived.clone())
            .map_err(SqliteInboxError::Thread)?;
        let readers = Readers::new(&path, place, busy_timeout);
        Ok(SqliteInbox { inner: Arc::new(Inner { path, limits, writer, readers, arrived }) })
    }
}

#[async_trait]
impl InboxStore for SqliteInbox {
    async fn receive(&self, event: &Envelope) -> Result<Receipt, StoreError> {
        let (event, bytes) = (event.clone(), event.body().len());
        self.inner.writer.write(bytes, move |rows| rows.receive(&event)).await?.ok_or(StoreError::Full)
    }

    async fn lease(&self, most: usize, length: Duration) -> Result<Vec<Leased>, StoreError> {
        self.inner.writer.write(0, move |rows| rows.lease(most, length)).await
    }

    async fn begin(&self, lease: &Lease) -> Result<Fenced, StoreError> {
        let lease = lease.clone();
        self.inner.writer.write(0, move |rows| rows.note_begun(&lease)).await
    }

    async fn renew(&self, lease: &Lease, length: Duration) -> Result<Fenced, StoreError> {
        let lease = lease.clone();
        self.inner.writer.write(0, move |rows| rows.renew(&lease, length)).await
    }

    async fn verify(&self, lease: &Lease, event: &Envelope) -> Result<Fenced, StoreError> {
        let (lease, event, bytes) = (lease.clone(), event.clone(), event.body().len());
        self.inner.writer.write(bytes, move |rows| rows.verify(&lease, &event)).await
    }

    async fn settle(&self, lease: &Lease, outcome: &Outcome) -> Result<Fenced, StoreError> {
        let (lease, outcome) = (lease.clone(), outcome.clone());
        self.inner.writer.write(0, move |rows| rows.settle(&lease, &outcome)).await
    }

    async fn expect(&self, job: &JobId, deadline: Duration) -> Result<(), StoreError> {
        let job = job.clone();
        self.inner.writer.write(0, move |rows| rows.expect(&job, deadline)).await?.ok_or(StoreError::Full)
    }

    async fn overdue(&self, most: usize, length: Duration) -> Result<Vec<Overdue>, StoreError> {
        self.inner.writer.write(0, move |rows| rows.overdue(most, length)).await
    }

    async fn contains(&self, job: &JobId) -> Result<bool, StoreError> {
        let job = job.clone();
        self.inner.readers.read(move |connection| reads::contains(connection, &job)).await
    }

    /// Prunes at most 1000 rows and bodies together, and about 64 MiB.
    async fn prune(&self, retention: &Retention) -> Result<Pruned, StoreError> {
        let retention = *retention;
        self.inner.writer.write(0, move |rows| rows.prune(&retention)).await
    }

    /// Returns at once after a write of this process. Only a poll finds the writes of other processes.
    async fn wait(&self) {
        self.inner.arrived.notified().await;
    }

    fn admin(&self) -> Option<&dyn InboxAdmin> {
        Some(self)
    }
}

#[async_trait]
impl JobRegistry for SqliteInbox {
    async fn is_known(&self, job: &JobId) -> Result<bool, BoxError> {
        Ok(self.contains(job).await?)
    }
}

impl fmt::Debug for SqliteInbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteInbox").field("path", &self.inner.path).finish_non_exhaustive()
    }
}

/// The current time, in the file's unit: microseconds since 1970.
fn now() -> Timestamp {
    Timestamp(0).after(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// A number as SQLite stores it, or the largest if it is larger.
fn integer(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}
