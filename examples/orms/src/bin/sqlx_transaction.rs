//! Joins the transactions of sqlx: a submission registers its job in the transaction that stores it, and a handler
//! completes its event in the transaction that books the result.
//!
//! ```sh
//! DATABASE_URL=postgres://user:password@127.0.0.1/scratch cargo run --bin sqlx_transaction
//! ```

use qomplement_webhooks::inbox::{Bind, CompleteError, Statement};
use qomplement_webhooks::store::StoreError;
use qomplement_webhooks::{BoxError, HandlerError, Job, JobId, PostgresInbox};
use qomplement_webhooks_orms::{Books, DEADLINE};
use sqlx::{AssertSqlSafe, PgConnection, PgPool};

/// Runs a statement of the inbox. Returns whether there was a row.
async fn run(statement: Statement, transaction: &mut PgConnection) -> sqlx::Result<bool> {
    let mut query = sqlx::query(AssertSqlSafe(statement.sql));
    for bind in statement.binds {
        query = match bind {
            Bind::Text(text) => query.bind(text),
            Bind::BigInt(number) => query.bind(number),
        };
    }
    Ok(query.execute(transaction).await?.rows_affected() == 1)
}

#[derive(Clone)]
struct SqlxBooks {
    pool: PgPool,
}

impl Books for SqlxBooks {
    async fn submit(&self, inbox: &PostgresInbox, job: &JobId) -> Result<(), BoxError> {
        let mut transaction = self.pool.begin().await?;
        sqlx::query("INSERT INTO submissions (job_id) VALUES ($1)")
            .bind(job.to_string())
            .execute(&mut *transaction)
            .await?;
        if !run(inbox.expect_statement(job, DEADLINE), &mut transaction).await? {
            return Err(StoreError::Full.into()); // the transaction is rolled back when it is dropped
        }
        Ok(transaction.commit().await?)
    }

    async fn book(&self, inbox: &PostgresInbox, job: &Job) -> Result<(), HandlerError> {
        let mut transaction = self.pool.begin().await?;
        sqlx::query("INSERT INTO bookings (job_id) VALUES ($1)")
            .bind(job.id().to_string())
            .execute(&mut *transaction)
            .await?;
        if !run(inbox.complete_statement(job), &mut transaction).await? {
            return Err(CompleteError::Stale.into());
        }
        Ok(transaction.commit().await?)
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let url = std::env::var("DATABASE_URL")?;
    let books = SqlxBooks { pool: PgPool::connect(&url).await? };
    qomplement_webhooks_orms::run(books, &url).await
}
