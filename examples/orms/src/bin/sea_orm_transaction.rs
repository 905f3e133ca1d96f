//! Joins the transactions of sea-orm: a submission registers its job in the transaction that stores it, and a handler
//! completes its event in the transaction that books the result.
//!
//! ```sh
//! DATABASE_URL=postgres://user:password@127.0.0.1/scratch cargo run --bin sea_orm_transaction
//! ```

use qomplement_webhooks::inbox::{Bind, CompleteError, Statement};
use qomplement_webhooks::store::StoreError;
use qomplement_webhooks::{BoxError, HandlerError, Job, JobId, PostgresInbox};
use qomplement_webhooks_orms::{Books, DEADLINE};
use sea_orm::ActiveValue::Set;
use sea_orm::{
    ActiveModelTrait, ConnectionTrait, Database, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr,
    TransactionTrait, Value,
};

mod submissions {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "submissions")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub job_id: String,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

mod bookings {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "bookings")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub number: i64,
        pub job_id: String,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// Runs a statement of the inbox. Returns whether there was a row.
async fn run(statement: Statement, transaction: &DatabaseTransaction) -> Result<bool, DbErr> {
    let binds = statement.binds.into_iter().map(|bind| match bind {
        Bind::Text(text) => Value::from(text),
        Bind::BigInt(number) => Value::from(number),
    });
    let query = sea_orm::Statement::from_sql_and_values(DbBackend::Postgres, statement.sql, binds);
    Ok(transaction.execute_raw(query).await?.rows_affected() == 1)
}

#[derive(Clone)]
struct SeaOrmBooks {
    database: DatabaseConnection,
}

impl Books for SeaOrmBooks {
    async fn submit(&self, inbox: &PostgresInbox, job: &JobId) -> Result<(), BoxError> {
        let transaction = self.database.begin().await?;
        submissions::ActiveModel { job_id: Set(job.to_string()) }.insert(&transaction).await?;
        if !run(inbox.expect_statement(job, DEADLINE), &transaction).await? {
            return Err(StoreError::Full.into()); // the transaction is rolled back when it is dropped
        }
        Ok(transaction.commit().await?)
    }

    async fn book(&self, inbox: &PostgresInbox, job: &Job) -> Result<(), HandlerError> {
        let transaction = self.database.begin().await?;
        let booking = bookings::ActiveModel { job_id: Set(job.id().to_string()), ..Default::default() };
        booking.insert(&transaction).await?;
        if !run(inbox.complete_statement(job), &transaction).await? {
            return Err(CompleteError::Stale.into());
        }
        Ok(transaction.commit().await?)
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let url = std::env::var("DATABASE_URL")?;
    let books = SeaOrmBooks { database: Database::connect(&url).await? };
    qomplement_webhooks_orms::run(books, &url).await
}
