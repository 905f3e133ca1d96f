//! Joins the transactions of diesel (with diesel-async): a submission registers its job in the transaction that stores
//! it, and a handler completes its event in the transaction that books the result.
//!
//! ```sh
//! DATABASE_URL=postgres://user:password@127.0.0.1/scratch cargo run --bin diesel_transaction
//! ```

use diesel::pg::Pg;
use diesel::sql_types::{BigInt, Text};
use diesel::{ExpressionMethods, QueryResult};
use diesel_async::pooled_connection::AsyncDieselConnectionManager;
use diesel_async::pooled_connection::deadpool::Pool;
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl};
use qomplement_webhooks::inbox::{Bind, CompleteError, Statement};
use qomplement_webhooks::store::StoreError;
use qomplement_webhooks::{BoxError, HandlerError, Job, JobId, PostgresInbox};
use qomplement_webhooks_orms::{Books, DEADLINE};

diesel::table! {
    submissions (job_id) {
        job_id -> Text,
    }
}

diesel::table! {
    bookings (number) {
        number -> BigInt,
        job_id -> Text,
    }
}

/// Runs a statement of the inbox. Returns whether there was a row.
async fn run(statement: Statement, transaction: &mut AsyncPgConnection) -> QueryResult<bool> {
    let mut query = diesel::sql_query(statement.sql).into_boxed::<Pg>();
    for bind in statement.binds {
        query = match bind {
            Bind::Text(text) => query.bind::<Text, _>(text),
            Bind::BigInt(number) => query.bind::<BigInt, _>(number),
        };
    }
    Ok(query.execute(transaction).await? == 1)
}

#[derive(Clone)]
struct DieselBooks {
    pool: Pool<AsyncPgConnection>,
}

impl Books for DieselBooks {
    async fn submit(&self, inbox: &PostgresInbox, job: &JobId) -> Result<(), BoxError> {
        let mut connection = self.pool.get().await?;
        connection
            .transaction(async |transaction| {
                diesel::insert_into(submissions::table)
                    .values(submissions::job_id.eq(job.to_string()))
                    .execute(transaction)
                    .await?;
                if !run(inbox.expect_statement(job, DEADLINE), transaction).await? {
                    return Err(StoreError::Full.into()); // an error rolls the transaction back
                }
                Ok(())
            })
            .await
    }

    async fn book(&self, inbox: &PostgresInbox, job: &Job) -> Result<(), HandlerError> {
        let mut connection = self.pool.get().await?;
        connection
            .transaction(async |transaction| {
                diesel::insert_into(bookings::table)
                    .values(bookings::job_id.eq(job.id().to_string()))
                    .execute(transaction)
                    .await?;
                if !run(inbox.complete_statement(job), transaction).await? {
                    return Err(CompleteError::Stale.into());
                }
                Ok(())
            })
            .await
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let url = std::env::var("DATABASE_URL")?;
    let pool = Pool::builder(AsyncDieselConnectionManager::new(&url)).build()?;
    qomplement_webhooks_orms::run(DieselBooks { pool }, &url).await
}
