//! Rows that a transaction locks which does not end: their events wait for it, and others do not.

use std::time::{Duration, Instant};

use deadpool_postgres::{Manager, Pool};
use qomplement_webhooks::inbox::Receipt;
use qomplement_webhooks::store::StoreError;
use qomplement_webhooks::{InboxStore, PostgresInbox};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::{Client, NoTls};

use super::{HOUR, LEASE, client, completed, count, inbox, job, lease_one};
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

/// Leases see meanwhile that no row is due, and the next ones begin to look where these ended.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_whose_registration_is_rolled_back_is_leased_at_once() {
    let inbox = inbox("locked_rollback").await;
    let (watching, counting) = (client(postgres()).await, client(postgres()).await);
    for round in 0..5 {
        let late = format!("late-{round}");
        let locking = lock("locked_rollback", [late.clone()]).await;
        let began = Instant::now();
        let event = receiving(&inbox, &late);
        let waits = async || waiting_alone(&watching, "locked_rollback").await == 1;
        eventually("the event waits alone", waits).await;
        for number in 0..2 {
            inbox.receive(&completed(&format!("other-{round}-{number}"))).await.unwrap();
        }
        lease_one(&inbox).await;
        // Lets the event's transaction go on after the registration's end, and wait again before its own.
        let lock_counts = "BEGIN; INSERT INTO locked_rollback.inbox_traffic AS traffic (minute, session, received, handled)
            SELECT extract(epoch FROM now())::int8 / 60 + later, pid, 0, 0 FROM pg_stat_activity, generate_series(-1, 1) AS later
            WHERE wait_event_type = 'Lock' AND query LIKE '%INSERT INTO \"locked_rollback\"%'
            ON CONFLICT (minute, session) DO UPDATE SET received = traffic.received";
        counting.batch_execute(lock_counts).await.unwrap();
        locking.batch_execute("ROLLBACK").await.unwrap();
        drop(locking);
        let waiting = "SELECT count(*) FROM pg_locks AS waits JOIN pg_locks AS holds USING (transactionid)
            WHERE NOT waits.granted AND holds.granted AND holds.pid = pg_backend_pid()";
        eventually("the event is written", async || count(&counting, waiting).await == 1).await;
        lease_one(&inbox).await;
        // A transaction of five seconds is not waited for.
        let is_in_time = began.elapsed() < Duration::from_secs(4);
        counting.batch_execute("COMMIT").await.unwrap();
        let received = event.await.unwrap();
        if is_in_time {
            assert_eq!(received.unwrap(), Receipt::Stored);
            let leased = inbox.lease(1, LEASE).await.unwrap().pop().expect("the event is passed over");
            assert_eq!(leased.lease.job(), &job(&late));
            return;
        }
        while !inbox.lease(1, LEASE).await.unwrap().is_empty() {}
    }
    panic!("five rounds took too long");
}

/// It ends the wait for a row before the inbox does.
#[tokio::test]
async fn a_statement_timeout_of_the_server_refuses_only_the_event_whose_row_is_locked() {
    inbox("locked_timeout").await;
    let url = format!("{}&options=-c%20statement_timeout%3D480", postgres().url());
    let inbox = PostgresInbox::from_url(&url).unwrap().with_table("locked_timeout", "inbox").unwrap();
    inbox.receive(&completed("warm")).await.unwrap();
    let _locking = lock("locked_timeout", ["locked".to_owned()]).await;
    let locked = receiving(&inbox, "locked");
    let others: Vec<_> = (0..20).map(|number| receiving(&inbox, &format!("free-{number}"))).collect();
    for event in others {
        let received = timeout(SOON, event).await.expect("it waits for another job's row");
        assert_eq!(received.unwrap().unwrap(), Receipt::Stored);
    }
    let received = timeout(SOON, locked).await.unwrap().unwrap();
    assert!(matches!(received, Err(StoreError::Unavailable(_))), "{received:?}");
}

/// A server that is slow for all gets no more statements for it.
#[tokio::test(flavor = "multi_thread")]
async fn events_of_a_server_that_is_too_slow_for_its_statement_timeout_are_refused_at_once() {
    inbox("locked_slow").await;
    let url = format!("{}&options=-c%20statement_timeout%3D300", postgres().url());
    let inbox = PostgresInbox::from_url(&url).unwrap().with_table("locked_slow", "inbox").unwrap();
    inbox.receive(&completed("warm")).await.unwrap();
    let slow = "CREATE FUNCTION locked_slow.slow() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN PERFORM pg_sleep(1); RETURN NEW; END';
        CREATE TRIGGER slow BEFORE INSERT ON locked_slow.inbox FOR EACH ROW EXECUTE FUNCTION locked_slow.slow()";
    client(postgres()).await.batch_execute(slow).await.unwrap();
    let events: Vec<_> = (0..200).map(|number| receiving(&inbox, &format!("slow-{number}"))).collect();
    let refused = async {
        for event in events {
            let received = event.await.unwrap();
            assert!(matches!(received, Err(StoreError::Unavailable(_))), "{received:?}");
        }
    };
    timeout(Duration::from_secs(10), refused).await.expect("the server gets one statement after the other");
}
