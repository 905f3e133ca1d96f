//! Counts by minute.

use std::time::Duration;

use qomplement_webhooks::InboxStore;
use qomplement_webhooks::inbox::{InboxAdmin, InboxTraffic, Outcome, Retention};
use tokio_postgres::Client;

use super::{client, completed, count, event, inbox, lease_one, receive_all};
use crate::support::databases::postgres;

const MINUTE: &str = "floor(extract(epoch FROM now()) / 60)::int8";

/// Puts counts into an inbox: minutes ago, session, received, handled.
async fn put(client: &Client, schema: &str, counts: &str) {
    let insert = format!(
        "INSERT INTO {schema}.inbox_traffic (minute, session, received, handled)
        SELECT {MINUTE} - ago, session, received, handled
        FROM (VALUES {counts}) AS counts (ago, session, received, handled)"
    );
    client.batch_execute(&insert).await.unwrap();
}

/// The minutes from some time on, whose numbers change while a test runs.
fn since(minutes: Vec<InboxTraffic>, ago: u32) -> Vec<(u64, u64)> {
    let earlier = minutes.into_iter().filter(|minute| minute.minutes_ago >= ago);
    earlier.map(|minute| (minute.received, minute.handled)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn pruning_adds_the_sessions_of_a_minute_together_and_forgets_minutes_of_more_than_a_day_ago() {
    let (inbox, mut own, watcher) =
        (inbox("added").await, client(postgres()).await, client(postgres()).await);
    put(
        &watcher,
        "added",
        "(0, 5, 1, 1), (0, 6, 1, 1), (20, 1, 10, 1), (20, -2, 20, 2), (20, 0, 30, 3),
        (40, 7, 7, 7), (1439 - 30, 1, 4, 4), (1439 - 30, 2, 4, 4), (1440, 0, 8, 8), (9000, 3, 9, 9)",
    )
    .await;
    let known = [(60, 6), (7, 7), (8, 8)];
    assert_eq!(since(inbox.traffic().await.unwrap(), 10), known);

    // A transaction that has counted, and has not ended, keeps none from being pruned but its own.
    let transaction = own.transaction().await.unwrap();
    let count_one = "UPDATE added.inbox_traffic SET received = received + 1 WHERE session = 7";
    transaction.execute(count_one, &[]).await.unwrap();
    inbox.prune(&Retention::default()).await.unwrap();
    assert_eq!(since(inbox.traffic().await.unwrap(), 10), known);
    let rows =
        "SELECT count(*) FROM added.inbox_traffic WHERE minute < floor(extract(epoch FROM now()) / 60) - 10";
    assert_eq!(count(&watcher, rows).await, 3);
    transaction.commit().await.unwrap();
    for _ in 0..2 {
        inbox.prune(&Retention::default()).await.unwrap();
        assert_eq!(since(inbox.traffic().await.unwrap(), 10), [(60, 6), (8, 7), (8, 8)]);
    }
    assert_eq!(count(&watcher, &format!("{rows} AND session = 0")).await, 3);
    assert_eq!(count(&watcher, rows).await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn prunings_at_once_lose_no_count() {
    let (inbox, client) = (inbox("pruned_at_once").await, client(postgres()).await);
    for round in 1..=10 {
        let counts = "(20, 1, 1, 1), (20, 2, 1, 1), (30, 3, 1, 1), (40, 4, 1, 1), (40, 5, 1, 1)";
        put(&client, "pruned_at_once", counts).await;
        let prunings = (0..8).map(|_| {
            let inbox = inbox.clone();
            tokio::spawn(async move { inbox.prune(&Retention::default()).await.unwrap() })
        });
        for pruning in prunings.collect::<Vec<_>>() {
            pruning.await.unwrap();
        }
        let sums = "SELECT sum(received)::int8 FROM pruned_at_once.inbox_traffic";
        assert_eq!(count(&client, sums).await, 5 * round);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_at_once_are_counted_by_their_sessions() {
    let (inbox, client) = (inbox("counted_at_once").await, client(postgres()).await);
    let events: Vec<_> = (0..2000).map(|number| event(&format!("job-{number}"), "completed", "")).collect();
    receive_all(&[&inbox, &inbox], events).await;
    let sums = "SELECT sum(received)::int8 FROM counted_at_once.inbox_traffic";
    assert_eq!(count(&client, sums).await, 2000);
    let sessions = "SELECT count(DISTINCT session) FROM counted_at_once.inbox_traffic WHERE session > 0";
    assert!(count(&client, sessions).await > 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_counts_do_no_harm() {
    let (inbox, client) = (inbox("odd_counts").await, client(postgres()).await);
    // Whatever session of the server receives it, and in whatever minute.
    let full = format!(
        "INSERT INTO odd_counts.inbox_traffic (minute, session, received, handled)
        SELECT {MINUTE} + ago, pid, 9223372036854775807, 9223372036854775807
        FROM generate_series(-20, 3) AS ago, generate_series(0, 3) AS pid;
        CREATE FUNCTION odd_counts.fill() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            NEW.received := 9223372036854775807; NEW.handled := 9223372036854775807; RETURN NEW;
        END $$;
        CREATE TRIGGER fill BEFORE INSERT ON odd_counts.inbox_traffic
            FOR EACH ROW WHEN (NEW.session > 3) EXECUTE FUNCTION odd_counts.fill();"
    );
    client.batch_execute(&full).await.unwrap();
    put(
        &client,
        "odd_counts",
        "(50, 1, -9, -9), (-9000, 1, 1, 1), (51, 0, 5, -9223372036854775808), (51, 1, -9, 3),
        (52, 1, -9223372036854775808, -9223372036854775808), (52, 2, -9223372036854775808, 1)",
    )
    .await;
    for job in ["one", "two", "three"] {
        inbox.receive(&completed(job)).await.unwrap();
        let lease = lease_one(&inbox).await.lease;
        let _ = inbox.settle(&lease, &Outcome::Done).await.unwrap();
    }
    for _ in 0..2 {
        let minutes = inbox.traffic().await.unwrap();
        assert!(minutes.iter().all(|minute| minute.minutes_ago < 1440), "{minutes:?}");
        let largest = i64::MAX.unsigned_abs();
        let fifth = minutes.iter().find(|minute| minute.minutes_ago == 5).unwrap();
        assert_eq!((fifth.received, fifth.handled), (largest, largest));
        assert_eq!(since(minutes, 50), [(0, 0), (5, 3), (0, 1)]);
        inbox.prune(&Retention::default()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_pruned_also_when_their_counts_cannot_be() {
    let (inbox, client) = (inbox("counts_kept").await, client(postgres()).await);
    put(&client, "counts_kept", "(20, 1, 1, 1)").await;
    let refuse = "CREATE FUNCTION counts_kept.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            RAISE EXCEPTION 'no';
        END $$;
        CREATE TRIGGER refuse BEFORE DELETE ON counts_kept.inbox_traffic
            FOR EACH ROW EXECUTE FUNCTION counts_kept.refuse()";
    client.batch_execute(refuse).await.unwrap();
    inbox.receive(&completed("job")).await.unwrap();
    let lease = lease_one(&inbox).await.lease;
    let _ = inbox.settle(&lease, &Outcome::Done).await.unwrap();
    let nothing_kept = Retention::default().payload(Duration::ZERO).row(Duration::ZERO);
    assert_eq!(inbox.prune(&nothing_kept).await.unwrap().rows, 1);
    assert_eq!(count(&client, "SELECT count(*) FROM counts_kept.inbox").await, 0);
}
