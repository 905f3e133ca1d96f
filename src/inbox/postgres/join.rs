//! Joins writes of the inbox to transactions of the user's, with any driver.

use std::time::Duration;

use tokio_postgres::Transaction;
use tokio_postgres::types::Type;

use super::{Parameter, PostgresInbox};
use crate::event::{Job, JobId};
use crate::postgres::{microseconds, statement_error};
use crate::store::StoreError;

/// A statement of a [`PostgresInbox`] for a transaction of yours, with any driver: text and plain values.
///
/// Run it on the connection of the transaction. It returns one row or none, and drivers also report this as the number
/// of affected rows. [`complete_statement`](PostgresInbox::complete_statement) and
/// [`expect_statement`](PostgresInbox::expect_statement) say what "no row" means.
///
/// - The tables have the names that the inbox gives them. Without [`with_table`](PostgresInbox::with_table), these are names
///   without a schema: the connection's `search_path` must find the inbox's tables. Its role needs `SELECT`, `INSERT` and
///   `UPDATE` on both.
/// - The statement uses no session state but that `search_path`, so with a schema in the table's name it works behind
///   PgBouncer in transaction mode if the driver does: a driver that prepares statements under names needs PgBouncer's
///   `max_prepared_statements`, or its own statement cache turned off.
/// - The transaction should be `READ COMMITTED`, the default. At a stricter level the statement or the commit fails with
///   SQLSTATE 40001 if the row was written since the transaction began, as by a renewal of the lease, and at
///   `SERIALIZABLE` registrations of different jobs conflict, too: roll the transaction back and run it again.
///
/// # Examples
///
/// Each driver needs one function of this kind. The [guide](crate::guide::durable) has those for sqlx, diesel and
/// sea-orm.
///
/// ```
/// use qomplement_webhooks::inbox::{Bind, Statement};
/// use tokio_postgres::types::ToSql;
/// use tokio_postgres::{Error, Transaction};
///
/// /// Runs a statement of the inbox. Returns whether it returned a row.
/// async fn run(statement: &Statement, transaction: &Transaction<'_>) -> Result<bool, Error> {
///     let mut binds: Vec<&(dyn ToSql + Sync)> = Vec::new();
///     for bind in &statement.binds {
///         match bind {
///             Bind::Text(text) => binds.push(text),
///             Bind::BigInt(number) => binds.push(number),
///         }
///     }
///     Ok(transaction.execute(&statement.sql, &binds).await? == 1)
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a statement does nothing until a transaction runs it"]
#[non_exhaustive]
pub struct Statement {
    /// The text, with `$1`, `$2` and so on where the values go.
    pub sql: String,
    /// The values, that of `$1` first.
    pub binds: Vec<Bind>,
}

/// A value of a [`Statement`]. There are no other types.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bind {
    /// PostgreSQL's `text`.
    Text(String),
    /// PostgreSQL's `bigint`, also named `int8`.
    BigInt(i64),
}

/// The reason why an event was not [completed in a transaction](PostgresInbox::complete_in_tx). The transaction must not be
/// committed in any of these cases.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompleteError {
    /// The event was leased again, replaced or settled: the outcome of another run counts.
    #[error("the lease on the job's event has passed to another")]
    Stale,
    /// The store was not reached, or reported an error.
    #[error(transparent)]
    Store(StoreError),
}

impl Statement {
    fn parameters(&self) -> Vec<Parameter<'_>> {
        let mut parameters: Vec<Parameter<'_>> = Vec::with_capacity(self.binds.len());
        for bind in &self.binds {
            match bind {
                Bind::Text(text) => parameters.push((text, Type::TEXT)),
                Bind::BigInt(number) => parameters.push((number, Type::INT8)),
            }
        }
        parameters
    }
}

impl PostgresInbox {
    /// Marks a handler's event as done in a transaction of yours: the transaction's other writes and the completion
    /// commit together, so these writes happen exactly once, whatever crashes.
    ///
    /// Call it in a handler that an [`InboxWorker`](crate::InboxWorker) on this inbox runs, as the last statement before
    /// the commit, and return the error if there is one, so that the transaction is rolled back. The transaction
    /// must be of the database that the inbox is in. It locks the event's row until it ends, so that no other worker
    /// leases the event meanwhile.
    ///
    /// The transaction is one of `tokio-postgres` or `deadpool-postgres`. With another driver, use
    /// [`complete_statement`](Self::complete_statement), which has the rules in full.
    ///
    /// # Errors
    ///
    /// Returns [`CompleteError::Stale`] if the handler's lease is no longer the row's, for example because the process
    /// was stopped for longer than the lease. Nothing may be committed then.
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
        let complete = self.complete_statement(job);
        match transaction.query_typed(&complete.sql, &complete.parameters()).await {
            Ok(completed) if completed.is_empty() => Err(CompleteError::Stale),
            Ok(_) => Ok(()),
            Err(error) => Err(CompleteError::Store(statement_error(error))),
        }
    }

    /// Returns the statement that marks a handler's event as done in a transaction of yours, with any driver. The
    /// transaction's other writes and the completion then commit together, so these writes happen exactly once,
    /// whatever crashes.
    ///
    /// Run it in a handler that an [`InboxWorker`](crate::InboxWorker) on this inbox runs, in the database that the
    /// inbox is in, as the last statement before the commit.
    ///
    /// - **One row**: the event is done if the transaction commits. Commit at once. The job of an event without a final
    ///   status is expected again instead, if it is registered.
    /// - **No row**: the handler's lease is stale. The event was leased again, replaced or settled, for example because
    ///   the process was stopped for longer than the lease, and the outcome of another run counts. Roll the transaction
    ///   back and return an error, such as [`CompleteError::Stale`]. A commit would write the effect a second time.
    ///
    /// The transaction must not outlive the lease. The statement locks the event's row until the transaction ends.
    /// Meanwhile the worker cannot renew the lease, and no other worker can lease the event. When the lease ends, the
    /// worker drops the handler; a transaction on a thread or task of its own would go on without it.
    ///
    /// After the commit, return `Ok` from the handler at once: the lease has ended, so the next renewal drops a handler that
    /// goes on, and what it had left to do is not repeated. The worker's own completion changes nothing. Nor does an error that the handler returns after the commit, for example because the
    /// commit's reply was lost.
    ///
    /// Exactly this statement is what [`complete_in_tx`](Self::complete_in_tx) runs.
    pub fn complete_statement(&self, job: &Job) -> Statement {
        // No lease has a negative token, so the statement finds no row for a token that is too large.
        let fence = i64::try_from(job.fence()).unwrap_or(-1);
        Statement {
            sql: self.inner.statements.complete.clone(),
            binds: vec![Bind::Text(job.id().to_string()), Bind::BigInt(fence)],
        }
    }

    /// Returns the statement that registers a job in a transaction of yours, with any driver, as
    /// [`expect`](crate::InboxStore::expect) does: the record of your submission and the registration then commit
    /// together.
    ///
    /// Run it after the API has accepted the job, in the database that the inbox is in.
    ///
    /// - **One row**: the job is registered if the transaction commits, or was registered before. It is no error if the
    ///   webhook was faster.
    /// - **No row**: a limit of the inbox is reached, and the job is not registered; [`StoreError::Full`] is the error
    ///   for it. Roll the transaction back and repeat it later: the job runs at the API all the same.
    ///
    /// Commit soon. A webhook of the job that arrives before the commit waits for it, for about 5.5 s. After that it is
    /// stored only if the sender delivers it again. The deadline counts from the statement. The commit is on the disk when the driver
    /// reports it, also in a database with `synchronous_commit = off`.
    ///
    /// Register several jobs of one transaction in the byte order of their ids, in which events are stored, too. In
    /// another order, the transaction and a batch of events may wait for each other. The batch gives way after half a
    /// second, but PostgreSQL may end the transaction first: it then fails with SQLSTATE 40P01 and must be run again.
    ///
    /// The limit is that of [`max_unfinished_rows`](Self::max_unfinished_rows). For a job without a row, the statement
    /// counts the unfinished rows and expected jobs, up to the limit. An inbox without a limit counts nothing.
    pub fn expect_statement(&self, job: &JobId, deadline: Duration) -> Statement {
        let most = i64::try_from(self.inner.room.limits().rows).unwrap_or(i64::MAX);
        Statement {
            sql: self.inner.statements.expect_counted.clone(),
            binds: vec![
                Bind::Text(job.to_string()),
                Bind::BigInt(microseconds(deadline)),
                Bind::BigInt(most),
            ],
        }
    }
}
