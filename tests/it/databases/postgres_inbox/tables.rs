//! How its table is made, named and checked.

use qomplement_webhooks::inbox::{InboxAdmin, Outcome, Receipt, Retention};
use qomplement_webhooks::postgres::PostgresStoreError;
use qomplement_webhooks::store::Fenced;
use qomplement_webhooks::{InboxStore, PostgresInbox};

use super::{HOUR, client, completed, count, handle, inbox, job, lease_one};
use crate::support::databases::postgres;

#[tokio::test(flavor = "multi_thread")]
async fn many_processes_migrate_at_once() {
    for round in 0..5 {
        let schema = format!("migrated_inbox_{round}");
        let tasks: Vec<_> = (0..16)
            .map(|_| {
                let inbox = handle(&schema);
                tokio::spawn(async move { inbox.migrate().await.map(|()| inbox) })
            })
            .collect();
        for task in tasks {
            task.await.unwrap().unwrap().check().await.unwrap();
        }
    }
}

#[tokio::test]
async fn names_are_quoted_and_the_default_table_needs_none() {
    let odd = r#"It's an "odd"; DROP TABLE x --"#;
    let inbox = PostgresInbox::from_url(&postgres().url()).unwrap().with_table(odd, odd).unwrap();
    assert!(inbox.check().await.is_err(), "there is no table yet");
    inbox.migrate().await.unwrap();
    inbox.check().await.unwrap();
    assert_eq!(inbox.receive(&completed("odd")).await.unwrap(), Receipt::Stored);
    lease_one(&inbox).await;
    let client = client(postgres()).await;

    let default = PostgresInbox::from_url(&postgres().url()).unwrap();
    assert!(default.migrations()[0].starts_with(r#"CREATE TABLE "qomplement_inbox" ("#));
    default.migrate().await.unwrap();
    default.receive(&completed("default")).await.unwrap();
    let found = "SELECT count(*) FROM public.qomplement_inbox WHERE job_id = 'default'";
    assert_eq!(count(&client, found).await, 1);

    for (schema, table) in
        [("", "t"), ("s", ""), ("s", "t\0"), (&*"s".repeat(64), "t"), ("s", &"t".repeat(51))]
    {
        let refused = PostgresInbox::from_url(&postgres().url()).unwrap().with_table(schema, table);
        assert!(matches!(refused, Err(PostgresStoreError::Name)), "{schema} {table}");
    }
    let longest = PostgresInbox::from_url(&postgres().url()).unwrap();
    let longest = longest.with_table(&"i".repeat(63), &"t".repeat(50)).unwrap();
    longest.migrate().await.unwrap();
    longest.check().await.unwrap();
    longest.receive(&completed("longest")).await.unwrap();
    longest.replay(&job("longest")).await.unwrap();
}

#[tokio::test]
async fn a_role_that_may_not_create_tables_uses_those_that_exist() {
    inbox("granted_inbox").await;
    let owner = client(postgres()).await;
    let grants = "CREATE ROLE porter LOGIN PASSWORD 'porter'; GRANT USAGE ON SCHEMA granted_inbox TO porter;
        GRANT SELECT, INSERT, UPDATE, DELETE ON granted_inbox.inbox, granted_inbox.inbox_traffic TO porter";
    owner.batch_execute(grants).await.unwrap();
    let url = format!("postgres://porter:porter@127.0.0.1:{}/postgres", postgres().port());
    let inbox = |schema| PostgresInbox::from_url(&url).unwrap().with_table(schema, "inbox").unwrap();
    let granted = inbox("granted_inbox");
    granted.migrate().await.unwrap();
    granted.receive(&completed("job")).await.unwrap();
    let lease = lease_one(&granted).await.lease;
    assert_eq!(granted.settle(&lease, &Outcome::Done).await.unwrap(), Fenced::Applied);
    assert!(granted.replay(&job("job")).await.unwrap());
    granted.expect(&job("expected"), HOUR).await.unwrap();
    granted.prune(&Retention::default()).await.unwrap();
    granted.stats().await.unwrap();
    granted.traffic().await.unwrap();
    assert!(inbox("elsewhere_inbox").migrate().await.is_err());
}

#[tokio::test]
async fn a_table_of_something_else_is_found_out_at_the_start() {
    let client = client(postgres()).await;
    let create = "CREATE SCHEMA other_inbox; CREATE TABLE other_inbox.inbox (number int, job_id text)";
    client.batch_execute(create).await.unwrap();
    let other = handle("other_inbox");
    assert!(other.migrate().await.is_err());
    assert!(other.check().await.is_err());
}
