//! Rows that a transaction locks which does not end: their events wait for it, and others do not.

use std::time::{Duration, Instant};

use deadpool_postgres::{Manager, Pool};
use qomplement_webhooks::inbox::Receipt;
use qomplement_webhooks::store::StoreError;
use qomplement_webhooks::{InboxStore, PostgresInbox};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::{Client, NoTls};

use super::{HOUR, client, completed, count, inbox, job};
use crate::support::databases::postgres;
use crate::support::eventually;

/// Less than the time limit of a statement, and more than a call needs that waits for no row, on a machine under load.
const SOON: Duration = Duration::from_secs(20);

/// Writes the rows of jobs, as registering them does, in a transaction that has not ended.
async fn lock(schema: &str, ids: impl IntoIterator<Item = String>) -> Client {
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

/// The number of statements of an inbox that have waited for a row for longer than those that wait with others.
async fn waiting_alone(client: &Client, schema: &str) -> i64 {
    let waiting = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'
            AND query LIKE '%INSERT INTO \"{schema}\"%' AND clock_timestamp() - query_start > interval '1 second'"
    );
    count(client, &waiting).await
}

fn is_locked(received: &Result<Receipt, StoreError>) -> bool {
    let Err(StoreError::Unavailable(cause)) = received else { return false };
    cause.to_string().starts_with("a transaction that has not ended holds the event's row")
}

/// The inbox on a pool of this size.
fn with_connections(connections: usize, schema: &str) -> PostgresInbox {
    let manager = Manager::new(postgres().url().parse().unwrap(), NoTls);
    let pool = Pool::builder(manager).max_size(connections).build().unwrap();
    PostgresInbox::from_pool(pool).with_table(schema, "inbox").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_stored_when_the_transaction_that_locks_its_row_ends() {
    let inbox = inbox("locked_briefly").await;
    let watching = client(postgres()).await;
    for end in ["COMMIT", "ROLLBACK"] {
        let locking = lock("locked_briefly", [end.to_owned()]).await;
        let event = receiving(&inbox, end);
        let waits = async || waiting_alone(&watching, "locked_briefly").await == 1;
        eventually("the event waits alone", waits).await;
        locking.batch_execute(end).await.unwrap();
        assert_eq!(event.await.unwrap().unwrap(), Receipt::Stored, "{end}");
    }
}

/// A row that is not committed stops the statement for new events, a committed one that for known events.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_whose_row_is_locked_for_long_is_refused_and_leaves_no_statement_and_its_room() {
    let inbox = inbox("locked_for_long").await.max_unfinished_rows(2);
    inbox.expect(&job("known"), HOUR).await.unwrap();
    let watching = client(postgres()).await;
    let locking = lock("locked_for_long", ["new".to_owned(), "prepared".to_owned()]).await;
    let lock_known = "SELECT FROM locked_for_long.inbox WHERE job_id = 'known' FOR UPDATE";
    locking.batch_execute(lock_known).await.unwrap();
    let began = Instant::now();
    let prepared = inbox.clone().with_prepared_statements();
    for event in [receiving(&inbox, "new"), receiving(&inbox, "known"), receiving(&prepared, "prepared")] {
        let received = timeout(SOON, event).await.unwrap().unwrap();
        assert!(is_locked(&received), "{received:?}");
        assert!(began.elapsed() >= Duration::from_millis(5500), "{:?}", began.elapsed());
    }
    assert_eq!(waiting_alone(&watching, "locked_for_long").await, 0);
    locking.batch_execute("ROLLBACK").await.unwrap();
    for id in ["new", "another"] {
        assert_eq!(inbox.receive(&completed(id)).await.unwrap(), Receipt::Stored);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_duplicate_does_not_wait_for_the_transaction_that_locks_the_row() {
    let inbox = inbox("locked_duplicate").await;
    inbox.receive(&completed("job")).await.unwrap();
    let locking = client(postgres()).await;
    locking.batch_execute("BEGIN; UPDATE locked_duplicate.inbox SET verified = false").await.unwrap();
    let received = timeout(SOON, inbox.receive(&completed("job"))).await.unwrap();
    assert_eq!(received.unwrap(), Receipt::Duplicate);
}

/// All arrive before the first statement, on one thread, and 256 of them share it.
#[tokio::test]
async fn events_that_share_a_statement_with_some_whose_rows_are_locked_are_stored() {
    let inbox = inbox("locked_together").await;
    inbox.receive(&completed("warm")).await.unwrap();
    let locked = ["free-0", "free-100!", "free-101!"].map(str::to_owned);
    let locking = lock("locked_together", locked.clone()).await;
    let mut waiting = Vec::new();
    let mut others = Vec::new();
    for number in 0..300 {
        others.push(receiving(&inbox, &format!("free-{number}?")));
        if let Some(id) = locked.get(number / 50).filter(|_| number % 50 == 0) {
            waiting.push(receiving(&inbox, id));
        }
    }
    for event in others {
        let received = timeout(SOON, event).await.expect("it waits for another job's row");
        assert_eq!(received.unwrap().unwrap(), Receipt::Stored);
    }
    for event in waiting {
        let received = timeout(SOON, event).await.unwrap().unwrap();
        assert!(is_locked(&received), "{received:?}");
    }
    drop(locking);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_stored_while_more_rows_are_locked_than_there_are_connections() {
    let own = inbox("locked_many").await;
    let watching = client(postgres()).await;
    let small = with_connections(4, "locked_many");
    for (round, (inbox, most)) in [(own, 2), (small, 1)].into_iter().enumerate() {
        let ids: Vec<String> = (0..40).map(|number| format!("locked-{round}-{number}")).collect();
        let locking = lock("locked_many", ids.clone()).await;
        let events: Vec<_> = ids.iter().map(|id| receiving(&inbox, id)).collect();
        let wait = async || waiting_alone(&watching, "locked_many").await == most;
        eventually("as many wait as may", wait).await;
        let received = timeout(SOON, inbox.receive(&completed(&format!("free-{round}")))).await;
        assert!(matches!(received, Ok(Ok(Receipt::Stored))), "{received:?}");
        assert!(waiting_alone(&watching, "locked_many").await <= most);
        locking.batch_execute("ROLLBACK").await.unwrap();
        for event in events {
            let received = timeout(SOON, event).await.unwrap().unwrap();
            assert!(is_locked(&received) || matches!(received, Ok(Receipt::Stored)), "{received:?}");
        }
    }
}
