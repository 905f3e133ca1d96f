//! Rows that a transaction holds which does not end: their events wait for it, and others do not.

use std::time::{Duration, Instant, SystemTime};

use deadpool_postgres::{Manager, Pool};
use qomplement_webhooks::inbox::Receipt;
use qomplement_webhooks::store::StoreError;
use qomplement_webhooks::{InboxStore, PostgresInbox};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tokio_postgres::{Client, NoTls};

use super::{client, completed, inbox};
use crate::support::databases::postgres;
use crate::support::eventually;

/// Less than the time limit of a statement, and more than a call needs that waits for no row, on a machine under load.
const SOON: Duration = Duration::from_secs(20);

/// Writes the rows of jobs, as registering them does, in a transaction that has not ended.
async fn hold(schema: &str, ids: impl IntoIterator<Item = String>) -> Client {
    let client = client(postgres()).await;
    client.batch_execute("BEGIN").await.unwrap();
    for id in ids {
        let insert = format!(
            "INSERT INTO {schema}.inbox (job_id, state, due_at, deadline_at, received_at)
            VALUES ('{id}', 'expected', now(), now(), now())"
        );
        client.batch_execute(&insert).await.unwrap();
    }
    client
}

fn receiving(inbox: &PostgresInbox, id: &str) -> JoinHandle<Result<Receipt, StoreError>> {
    let (inbox, event) = (inbox.clone(), completed(id));
    tokio::spawn(async move { inbox.receive(&event).await })
}

/// The times at which the statements of an inbox began that wait for a row.
async fn waiting(client: &Client, schema: &str) -> Vec<SystemTime> {
    let waiting = format!(
        "SELECT query_start FROM pg_stat_activity
        WHERE wait_event_type = 'Lock' AND query LIKE '%INSERT INTO \"{schema}\"%'"
    );
    client.query(&waiting, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

fn is_held(received: &Result<Receipt, StoreError>) -> bool {
    let Err(StoreError::Unavailable(cause)) = received else { return false };
    cause.to_string() == "a transaction that has not ended holds the event's row"
}

/// The inbox on a pool with so many connections.
fn with_connections(connections: usize, schema: &str) -> PostgresInbox {
    let manager = Manager::new(postgres().url().parse().unwrap(), NoTls);
    let pool = Pool::builder(manager).max_size(connections).build().unwrap();
    PostgresInbox::from_pool(pool).with_table(schema, "inbox").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_stored_when_the_transaction_that_holds_its_row_ends() {
    let inbox = inbox("held_briefly").await;
    let watching = client(postgres()).await;
    for end in ["COMMIT", "ROLLBACK"] {
        let holding = hold("held_briefly", [end.to_owned()]).await;
        let event = receiving(&inbox, end);
        let waits = async || waiting(&watching, "held_briefly").await.len() == 1;
        eventually("the event waits", waits).await;
        let first = waiting(&watching, "held_briefly").await;
        let waits_alone = async || {
            let now = waiting(&watching, "held_briefly").await;
            now.len() == 1 && now != first
        };
        eventually("the event waits alone", waits_alone).await;
        holding.batch_execute(end).await.unwrap();
        assert_eq!(event.await.unwrap().unwrap(), Receipt::Stored, "{end}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_whose_row_is_held_for_long_is_refused_and_leaves_no_statement() {
    let inbox = inbox("held_for_long").await;
    let watching = client(postgres()).await;
    let holding = hold("held_for_long", ["held".to_owned()]).await;
    let began = Instant::now();
    let received = timeout(SOON, inbox.receive(&completed("held"))).await.unwrap();
    assert!(is_held(&received), "{received:?}");
    assert!(began.elapsed() >= Duration::from_millis(5500), "{:?}", began.elapsed());
    assert!(waiting(&watching, "held_for_long").await.is_empty());
    holding.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(inbox.receive(&completed("held")).await.unwrap(), Receipt::Stored);
}

/// All arrive before the first statement, on one thread: it stores 256 of them.
#[tokio::test]
async fn events_that_share_a_statement_with_one_whose_row_is_held_are_stored() {
    let inbox = inbox("held_together").await;
    inbox.receive(&completed("warm")).await.unwrap();
    let holding = hold("held_together", ["held".to_owned()]).await;
    let receiving = |id: &str| receiving(&inbox, id);
    let before: Vec<_> = (0..100).map(|number| receiving(&format!("before-{number}"))).collect();
    let held = receiving("held");
    let after: Vec<_> = (0..200).map(|number| receiving(&format!("after-{number}"))).collect();
    for event in before.into_iter().chain(after) {
        let received = timeout(SOON, event).await.expect("it waits for another job's row");
        assert_eq!(received.unwrap().unwrap(), Receipt::Stored);
    }
    let received = timeout(SOON, held).await.unwrap().unwrap();
    assert!(is_held(&received), "{received:?}");
    drop(holding);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_stored_while_more_rows_are_held_than_there_are_connections() {
    let own = inbox("held_many").await;
    let watching = client(postgres()).await;
    let of = |connections| with_connections(connections, "held_many");
    for (round, (inbox, most)) in [(own, 4), (of(4), 1), (of(2), 1), (of(1), 0)].into_iter().enumerate() {
        let ids: Vec<String> = (0..40).map(|number| format!("held-{round}-{number}")).collect();
        let holding = hold("held_many", ids.clone()).await;
        let mut held: JoinSet<_> = ids
            .iter()
            .map(|id| {
                let (inbox, event) = (inbox.clone(), completed(id));
                async move { inbox.receive(&event).await }
            })
            .collect();
        // Those that have no connection to wait on.
        for _ in most..40 {
            let received = timeout(SOON, held.join_next()).await.expect("more wait").unwrap().unwrap();
            assert!(is_held(&received), "{received:?}");
        }
        let received = timeout(SOON, inbox.receive(&completed(&format!("free-{round}")))).await;
        assert!(matches!(received, Ok(Ok(Receipt::Stored))), "{received:?}");
        holding.batch_execute("ROLLBACK").await.unwrap();
        held.join_all().await;
        eventually("no statement waits", async || waiting(&watching, "held_many").await.is_empty()).await;
    }
}
