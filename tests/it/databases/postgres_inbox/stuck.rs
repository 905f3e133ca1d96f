//! Statements that are stuck, and runtimes that end under them: what comes after waits for neither.

use std::time::Duration;

use qomplement_webhooks::inbox::Receipt;
use qomplement_webhooks::store::StoreError;
use qomplement_webhooks::{InboxStore, PostgresInbox};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::Client;

use super::{client, completed, count, inbox};
use crate::support::databases::postgres;
use crate::support::eventually;

/// Lets the statements that store jobs named `stuck…` run until [`release`].
async fn stick(schema: &str) -> Client {
    let client = client(postgres()).await;
    let statements = format!(
        "CREATE TABLE {schema}.sticking ();
        INSERT INTO {schema}.sticking DEFAULT VALUES;
        CREATE FUNCTION {schema}.stick() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            WHILE EXISTS (SELECT FROM {schema}.sticking) LOOP PERFORM pg_sleep(0.01); END LOOP;
            RETURN NEW;
        END $$;
        CREATE TRIGGER stick BEFORE INSERT ON {schema}.inbox FOR EACH ROW
            WHEN (NEW.job_id LIKE 'stuck%') EXECUTE FUNCTION {schema}.stick()"
    );
    client.batch_execute(&statements).await.unwrap();
    client
}

async fn release(client: &Client, schema: &str) {
    client.batch_execute(&format!("DELETE FROM {schema}.sticking")).await.unwrap();
}

fn receiving(inbox: &PostgresInbox, id: &str) -> JoinHandle<Result<Receipt, StoreError>> {
    let (inbox, event) = (inbox.clone(), completed(id));
    tokio::spawn(async move { inbox.receive(&event).await })
}

async fn are_stuck(client: &Client, schema: &str, statements: i64) {
    let stuck = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND query LIKE '%INSERT INTO \"{schema}\"%'"
    );
    eventually("statements are stuck", async || count(client, &stuck).await == statements).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_comes_right_after_one_that_is_stuck_is_stored() {
    let inbox = inbox("stuck_once").await;
    let client = stick("stuck_once").await;
    inbox.receive(&completed("warm")).await.unwrap();
    for round in 0..5 {
        let first = receiving(&inbox, &format!("stuck-{round}"));
        // Mostly so soon that another statement is not due yet.
        are_stuck(&client, "stuck_once", 1).await;
        let received =
            timeout(Duration::from_secs(10), inbox.receive(&completed(&format!("free-{round}")))).await;
        assert!(matches!(received, Ok(Ok(Receipt::Stored))), "{received:?}");
        release(&client, "stuck_once").await;
        assert_eq!(first.await.unwrap().unwrap(), Receipt::Stored);
        client.batch_execute("INSERT INTO stuck_once.sticking DEFAULT VALUES").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_stored_when_as_many_statements_are_stuck_as_there_usually_are() {
    let inbox = inbox("stuck_all").await;
    let client = stick("stuck_all").await;
    let mut stuck = Vec::new();
    for number in 0..6 {
        stuck.push(receiving(&inbox, &format!("stuck-{number}")));
        are_stuck(&client, "stuck_all", number + 1).await;
    }
    let received = timeout(Duration::from_secs(10), inbox.receive(&completed("free"))).await;
    assert!(matches!(received, Ok(Ok(Receipt::Stored))), "{received:?}");
    release(&client, "stuck_all").await;
    for receiving in stuck {
        assert_eq!(receiving.await.unwrap().unwrap(), Receipt::Stored);
    }
}

#[test]
fn an_event_and_its_room_outlive_the_runtime_that_was_storing_others() {
    let runtime =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (main, other) = (runtime(), runtime());
    let (inbox, client) = main.block_on(async {
        let inbox = inbox("stuck_runtime").await.max_unfinished_rows(1);
        (inbox, stick("stuck_runtime").await)
    });
    other.spawn({
        let inbox = inbox.clone();
        async move { inbox.receive(&completed("stuck")).await }
    });
    main.block_on(are_stuck(&client, "stuck_runtime", 1));
    let waiting = main.spawn({
        let inbox = inbox.clone();
        async move { inbox.receive(&completed("free")).await }
    });
    other.shutdown_background();
    main.block_on(async {
        let first =
            timeout(Duration::from_secs(10), waiting).await.expect("it waits for a runtime that has ended");
        let stored = matches!(first, Ok(Ok(Receipt::Stored)));
        release(&client, "stuck_runtime").await;
        let is_stored = async || {
            matches!(inbox.receive(&completed("free")).await, Ok(Receipt::Stored | Receipt::Duplicate))
        };
        if !stored {
            eventually("the room is given back", is_stored).await;
        }
    });
}
