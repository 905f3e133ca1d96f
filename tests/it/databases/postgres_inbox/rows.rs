//! What becomes of rows, one call after another.

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use qomplement_webhooks::event::Envelope;
use qomplement_webhooks::inbox::{
    Bulk, InboxAdmin, InboxCursor, InboxFilter, InboxState, Lease, Outcome, Receipt, Retention,
};
use qomplement_webhooks::store::Fenced;
use qomplement_webhooks::{InboxStore, PostgresInbox};
use tokio::task::JoinSet;
use tokio_postgres::NoTls;

use super::{HOUR, LEASE, client, completed, count, event, inbox, job, lease_one};
use crate::support::databases::{PASSWORD, postgres};
use crate::support::{eventually, inboxes};

#[tokio::test]
async fn the_first_of_two_events_with_different_bytes_is_kept() {
    let inbox = inbox("conflict").await;
    assert_eq!(inbox.receive(&event("job", "completed", "first")).await.unwrap(), Receipt::Stored);
    assert_eq!(inbox.receive(&event("job", "failed", "second")).await.unwrap(), Receipt::Conflict);
    assert_eq!(inbox.receive(&event("job", "processing", "third")).await.unwrap(), Receipt::Duplicate);
    let leased = lease_one(&inbox).await;
    assert_eq!(&leased.body, event("job", "completed", "first").body());
    let _ = inbox.settle(&leased.lease, &Outcome::Done).await.unwrap();
    inbox.prune(&Retention::default().payload(Duration::ZERO).row(HOUR)).await.unwrap();
    // What it differs from is no longer known.
    assert_eq!(inbox.receive(&event("job", "failed", "second")).await.unwrap(), Receipt::Duplicate);
}

#[tokio::test]
async fn large_bodies_are_compressed_and_come_back_as_they_were() {
    let inbox = inbox("large").await;
    let events: Vec<_> = [3_000, 70_000, 1_500_000, 3_000]
        .iter()
        .zip(0..)
        .map(|(length, number)| event(&format!("job-{number}"), "completed", &"large ".repeat(length / 6)))
        .collect();
    let receiving: JoinSet<_> = events
        .iter()
        .map(|event| {
            let (inbox, event) = (inbox.clone(), event.clone());
            async move { inbox.receive(&event).await.unwrap() }
        })
        .collect();
    assert_eq!(receiving.join_all().await, [Receipt::Stored; 4]);
    for event in &events {
        let (_, body) = inbox.get(event.job()).await.unwrap().unwrap();
        assert!(body.as_ref() == Some(event.body()), "{}", event.job());
    }
    let compressed = "SELECT count(*) FROM large.inbox WHERE pg_column_compression(body) = 'lz4'";
    assert_eq!(count(&client(postgres()).await, compressed).await, 4);
}

#[tokio::test]
async fn rows_that_are_replayed_together_are_leased_in_the_order_of_their_arrival() {
    let inbox = inbox("replayed_in_order").await;
    let jobs: Vec<_> = (10..90).map(|number| job(&format!("job-{number}"))).collect();
    for job in &jobs {
        inbox.receive(&completed(&job.to_string())).await.unwrap();
    }
    // So that they lie on their page in another order.
    for leased in inbox.lease(100, LEASE).await.unwrap().iter().rev() {
        let _ = inbox.settle(&leased.lease, &Outcome::Done).await.unwrap();
    }
    let replayed = inbox.replay_all(&InboxFilter::default(), 100, Bulk::Apply).await.unwrap();
    assert_eq!(replayed.rows, 80);
    let leased = inbox.lease(100, LEASE).await.unwrap();
    assert!(leased.iter().map(|leased| leased.lease.job()).eq(&jobs), "{leased:?}");
}

#[tokio::test]
async fn rows_that_have_ended_are_counted_exactly_and_the_bodies_of_the_first_stand_for_the_others() {
    let inbox = inbox("weighed").await;
    let client = client(postgres()).await;
    let fill = "INSERT INTO weighed.inbox (job_id, state, status, body, received_at, ended_at)
        SELECT state || i, state, 'completed', repeat('x', CASE WHEN i > 300 THEN 1 ELSE length END)::bytea,
            now(), now() + i * interval '1 second'
        FROM (VALUES ('done', 10, 300), ('dead', 20, 4000)) AS ended (state, length, most), generate_series(1, most) AS i";
    client.batch_execute(fill).await.unwrap();
    inbox.receive(&completed("received")).await.unwrap();
    let unfinished = completed("received").body().len() as u64;
    let stats = inbox.stats().await.unwrap();
    assert_eq!((stats.done, stats.dead, stats.received), (300, 4000, 1));
    assert_eq!((stats.bytes, stats.unfinished_bytes), (300 * 10 + 4000 * 20 + unfinished, unfinished));
}

#[tokio::test]
async fn dead_letters_are_all_counted_by_their_error_or_there_are_more() {
    inboxes::dead_letters_are_all_counted_or_there_are_more(&inbox("by_error").await).await;
}

#[tokio::test]
async fn a_verification_does_not_move_a_row_whose_lease_has_ended_behind_others() {
    let inbox = inbox("verified_late").await;
    inbox.receive(&completed("first")).await.unwrap();
    let lease = inbox.lease(1, Duration::ZERO).await.unwrap().remove(0).lease;
    inbox.receive(&completed("second")).await.unwrap();
    assert_eq!(inbox.verify(&lease, &completed("first")).await.unwrap(), Fenced::Applied);
    for expected in ["first", "second"] {
        assert_eq!(lease_one(&inbox).await.lease.job(), &job(expected));
    }
}

/// The texts of an error and of its causes.
fn texts(error: &(dyn Error + 'static)) -> String {
    let text = format!("{error}; {error:?}; ");
    error.source().map_or(text.clone(), |cause| text + &texts(cause))
}

#[tokio::test]
async fn an_error_about_a_row_shows_nothing_of_its_event() {
    let inbox = inbox("shown").await;
    for number in [1, 2] {
        inbox.receive(&completed(&format!("job-{number}"))).await.unwrap();
    }
    let lease = lease_one(&inbox).await.lease;
    let client = client(postgres()).await;
    client.batch_execute("ALTER TABLE shown.inbox ADD CHECK (false) NOT VALID").await.unwrap();
    let failed = Outcome::Dead { error: "why".to_owned() };
    let rejected = Outcome::Rejected { error: "why".to_owned() };
    for (call, error) in [
        ("receive", inbox.receive(&completed("job-3")).await.unwrap_err()),
        ("lease", inbox.lease(1, LEASE).await.unwrap_err()),
        ("begin", inbox.begin(&lease).await.unwrap_err()),
        ("renew", inbox.renew(&lease, HOUR).await.unwrap_err()),
        ("verify", inbox.verify(&lease, &event("job-1", "failed", "")).await.unwrap_err()),
        ("settle", inbox.settle(&lease, &failed).await.unwrap_err()),
        ("settle alone", inbox.settle(&lease, &rejected).await.unwrap_err()),
    ] {
        let text = texts(&error);
        // Why, but not the row, in which the body stands in hexadecimal digits.
        assert!(text.contains("violates check constraint"), "{call}: {text}");
        assert!(!text.contains("Failing row") && !text.contains("7b226a6f625f6964"), "{call}: {text}");
    }
}

#[tokio::test]
async fn an_event_that_is_not_final_is_replaced_in_every_state() {
    let inbox = inbox("replaced").await;
    let dead = || Outcome::Dead { error: "why".to_owned() };
    for (number, state) in
        [InboxState::Expected, InboxState::Received, InboxState::Running, InboxState::Done, InboxState::Dead]
            .into_iter()
            .enumerate()
    {
        let id = format!("job-{number}");
        let mut lease = None;
        if state == InboxState::Expected {
            inbox.expect(&job(&id), HOUR).await.unwrap();
        } else {
            assert_eq!(inbox.receive(&event(&id, "processing", "")).await.unwrap(), Receipt::Stored);
        }
        if matches!(state, InboxState::Running | InboxState::Done | InboxState::Dead) {
            lease = Some(lease_one(&inbox).await.lease);
        }
        match (&lease, state) {
            (Some(lease), InboxState::Done) => drop(inbox.settle(lease, &Outcome::Done).await.unwrap()),
            (Some(lease), InboxState::Dead) => drop(inbox.settle(lease, &dead()).await.unwrap()),
            _ => {}
        }
        assert_eq!(inbox.get(&job(&id)).await.unwrap().unwrap().0.state, state);
        assert_eq!(inbox.receive(&event(&id, "completed", "")).await.unwrap(), Receipt::Stored);
        if let Some(lease) = &lease {
            for outcome in [Outcome::Done, dead()] {
                assert_eq!(inbox.settle(lease, &outcome).await.unwrap(), Fenced::Stale, "{state}");
            }
        }
        let leased = inbox.lease(10, Duration::from_millis(100)).await.unwrap();
        if state == InboxState::Running {
            assert!(leased.is_empty(), "both would run at once");
            let client = client(postgres()).await;
            client
                .batch_execute("UPDATE replaced.inbox SET due_at = now() WHERE due_at > now()")
                .await
                .unwrap();
            let leased = lease_one(&inbox).await;
            assert_eq!((leased.attempt, leased.expired), (1, true));
            assert_eq!(inbox.settle(&leased.lease, &Outcome::Done).await.unwrap(), Fenced::Applied);
        } else {
            assert_eq!(leased.len(), 1, "{state}");
            assert_eq!(leased[0].attempt, 1);
            assert_eq!(leased[0].body, event(&id, "completed", "").body());
            assert_eq!(inbox.settle(&leased[0].lease, &Outcome::Done).await.unwrap(), Fenced::Applied);
        }
    }
}

#[tokio::test]
async fn durations_have_no_bounds_that_postgres_would_refuse() {
    let inbox = inbox("inbox_durations").await;
    for (id, time) in [("short", Duration::ZERO), ("long", Duration::MAX)] {
        inbox.expect(&job(&format!("expected-{id}")), time).await.unwrap();
        inbox.overdue(1, time).await.unwrap();
        inbox.receive(&completed(id)).await.unwrap();
        let leased = inbox.lease(usize::MAX, time).await.unwrap();
        let lease = &leased.iter().find(|leased| *leased.lease.job() == id).unwrap().lease;
        assert_eq!(inbox.renew(lease, time).await.unwrap(), Fenced::Applied);
        let again = Outcome::Retry { after: time, error: String::new() };
        assert_eq!(inbox.settle(lease, &again).await.unwrap(), Fenced::Applied);
        inbox.prune(&Retention::default().payload(time).row(time)).await.unwrap();
    }
    for number in [0, u64::MAX] {
        for from in [InboxCursor::After(number), InboxCursor::Before(number)] {
            inbox.list(&InboxFilter::default().older_than(Duration::MAX), from, usize::MAX).await.unwrap();
        }
    }
    let far = Lease::new(job("long"), u64::MAX);
    assert_eq!(inbox.settle(&far, &Outcome::Done).await.unwrap(), Fenced::Stale);
}

#[tokio::test]
async fn a_nul_in_a_text_is_no_obstacle() {
    let inbox = inbox("nul").await;
    let body = r#"{"job_id": "job", "data": {"id": "job", "type": "a\u0000b", "status": "c\u0000d"}}"#;
    let event = Envelope::try_from(Bytes::from_static(body.as_bytes())).unwrap();
    assert_eq!(inbox.receive(&event).await.unwrap(), Receipt::Stored);
    let leased = lease_one(&inbox).await;
    assert_eq!(leased.body, body);
    let dead = Outcome::Dead { error: "e\0f".to_owned() };
    assert_eq!(inbox.settle(&leased.lease, &dead).await.unwrap(), Fenced::Applied);
    let (row, _) = inbox.get(&job("job")).await.unwrap().unwrap();
    assert_eq!(row.error.as_deref(), Some("e\u{fffd}f"));
    assert_eq!((row.job_type.as_deref(), row.status.as_deref()), (Some("a\u{fffd}b"), Some("c\u{fffd}d")));
}

#[tokio::test]
async fn a_duplicate_writes_nothing_and_a_body_is_written_once() {
    let (inbox, client) = (inbox("written").await, client(postgres()).await);
    let versions =
        "SELECT string_agg(job_id || ctid || xmin || xmax, ',' ORDER BY job_id) FROM written.inbox";
    // What does not compress lies beside the table.
    let note: String = (0..20_000u64)
        .map(|number| {
            char::from(b'a' + ((number * number).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 59) as u8 % 26)
        })
        .collect();
    let big = event("big", "completed", &note);
    inbox.receive(&big).await.unwrap();
    let before: String = client.query_one(versions, &[]).await.unwrap().get(0);
    for _ in 0..5 {
        assert_eq!(inbox.receive(&big).await.unwrap(), Receipt::Duplicate);
        assert_eq!(inbox.receive(&event("big", "failed", "")).await.unwrap(), Receipt::Conflict);
    }
    let after: String = client.query_one(versions, &[]).await.unwrap().get(0);
    assert_eq!(before, after, "a duplicate locked or wrote its row");

    let beside = "SELECT pg_relation_size(reltoastrelid) FROM pg_class WHERE oid = 'written.inbox'::regclass";
    let size = count(&client, beside).await;
    assert!(size > 0, "the body lies in its row");
    for _ in 0..5 {
        let lease = lease_one(&inbox).await.lease;
        assert_eq!(inbox.renew(&lease, LEASE).await.unwrap(), Fenced::Applied);
        let retry = Outcome::Retry { after: Duration::ZERO, error: "why".to_owned() };
        assert_eq!(inbox.settle(&lease, &retry).await.unwrap(), Fenced::Applied);
    }
    assert_eq!(count(&client, beside).await, size, "the body was written again");
}

#[tokio::test]
async fn pruning_takes_what_is_done_in_small_batches() {
    let (inbox, client) = (inbox("pruned_inbox").await, client(postgres()).await);
    let fill = "INSERT INTO pruned_inbox.inbox (job_id, state, job_type, status, body, received_at, ended_at)
        SELECT state || i, state, 'extract', 'completed', CASE WHEN i % 2 = 0 OR state = 'dead' THEN ''::bytea END,
            now() - interval '2 days', now() - interval '1 day'
        FROM generate_series(1, 1500) AS i, unnest(ARRAY['done', 'dead']) AS state";
    client.batch_execute(fill).await.unwrap();
    let kept = Retention::default().payload(Duration::MAX).row(Duration::MAX);
    assert_eq!(inbox.prune(&kept).await.unwrap(), Default::default());
    let half = inbox.prune(&Retention::default().payload(HOUR).row(Duration::MAX)).await.unwrap();
    assert_eq!((half.payloads, half.rows), (750, 0));
    // A row that somebody has locked is left for the next time, and not waited for.
    client
        .batch_execute("BEGIN; SELECT FROM pruned_inbox.inbox WHERE job_id = 'done1' FOR UPDATE")
        .await
        .unwrap();
    let all = Retention::default().payload(HOUR).row(HOUR);
    let rows = [inbox.prune(&all).await.unwrap().rows, inbox.prune(&all).await.unwrap().rows];
    assert_eq!(rows, [1000, 499]);
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(inbox.prune(&all).await.unwrap().rows, 1);
    let stats = inbox.stats().await.unwrap();
    assert_eq!((stats.done, stats.dead), (0, 1500));
    assert_eq!(inbox.prune(&all.dead(Duration::MAX)).await.unwrap(), Default::default());
    let dead = [inbox.prune(&all.dead(HOUR)).await.unwrap(), inbox.prune(&all.dead(HOUR)).await.unwrap()];
    assert_eq!(dead.map(|pruned| (pruned.rows, pruned.dead)), [(0, 1000), (0, 500)]);
}

#[tokio::test]
async fn pruning_takes_large_bodies_a_few_at_once() {
    let (inbox, client) = (inbox("pruned_bodies").await, client(postgres()).await);
    let fill = "TRUNCATE pruned_bodies.inbox;
        INSERT INTO pruned_bodies.inbox (job_id, state, job_type, status, body, received_at, ended_at)
        SELECT i::text, 'done', 'extract', 'completed', repeat('x', 30 << 20)::bytea,
            now() - interval '2 days', now() - interval '1 day' + i * interval '1 second'
        FROM generate_series(1, 7) AS i";
    let prune =
        async |payload, row| inbox.prune(&Retention::default().payload(payload).row(row)).await.unwrap();
    client.batch_execute(fill).await.unwrap();
    for expected in [3, 3, 1, 0] {
        let pruned = prune(HOUR, Duration::MAX).await;
        assert_eq!((pruned.payloads, pruned.rows), (expected, 0), "64 MiB, and as much as one body more");
    }
    assert_eq!(prune(HOUR, HOUR).await.rows, 7, "rows without bodies");
    client.batch_execute(fill).await.unwrap();
    for expected in [3, 3, 1, 0] {
        assert_eq!(prune(Duration::MAX, HOUR).await.rows, expected);
    }
}

#[tokio::test]
async fn changes_of_many_rows_leave_locked_ones_and_take_large_bodies_a_few_at_once() {
    let (inbox, client) = (inbox("changed_rows").await, client(postgres()).await);
    // The last one has no body.
    let fill = "INSERT INTO changed_rows.inbox (job_id, state, job_type, status, body, received_at, ended_at)
        SELECT i::text, 'dead', CASE WHEN i < 2507 THEN 'extract' END, CASE WHEN i < 2507 THEN 'completed' END,
            CASE WHEN i <= 7 THEN repeat('x', 30 << 20)::bytea WHEN i < 2507 THEN 'x'::bytea END, now(), now()
        FROM generate_series(1, 2507) AS i";
    client.batch_execute(fill).await.unwrap();
    let lock = "BEGIN; SELECT FROM changed_rows.inbox WHERE job_id IN ('3', '2000') FOR UPDATE";
    client.batch_execute(lock).await.unwrap();
    let all = InboxFilter::default();
    let some = inbox.replay_all(&all, 5, Bulk::Apply).await.unwrap();
    assert_eq!((some.rows, some.more), (5, true));
    let rest = inbox.discard_all(&all, u64::MAX, Bulk::Apply).await.unwrap();
    assert_eq!((rest.rows, rest.more), (2500, true), "two are locked");
    client.batch_execute("COMMIT").await.unwrap();
    let last = inbox.discard_all(&all, u64::MAX, Bulk::Apply).await.unwrap();
    assert_eq!((last.rows, last.more), (2, false));
    assert_eq!(count(&client, "SELECT sum(number)::int8 FROM changed_rows.inbox").await, 1 + 2 + 4 + 5 + 6);
}

#[tokio::test]
async fn many_rows_with_a_prefix_are_changed_in_the_order_of_arrival() {
    let (inbox, client) = (inbox("many_with_a_prefix").await, client(postgres()).await);
    let fill =
        "INSERT INTO many_with_a_prefix.inbox (job_id, state, job_type, status, body, received_at, ended_at)
        SELECT 'p-' || 9999 - i, 'dead', 'extract', 'completed', 'x'::bytea, now(), now()
        FROM generate_series(1, 3500) AS i";
    client.batch_execute(fill).await.unwrap();
    let all = InboxFilter::default().job_prefix("p-");
    let first = inbox.replay_all(&all, 2, Bulk::Apply).await.unwrap();
    assert_eq!((first.rows, first.more), (2, true));
    let replayed = "SELECT sum(number)::int8 FROM many_with_a_prefix.inbox WHERE state = 'received'";
    assert_eq!(count(&client, replayed).await, 1 + 2);
    let rest = inbox.discard_all(&all, u64::MAX, Bulk::Apply).await.unwrap();
    assert_eq!((rest.rows, rest.more), (3498, false));
    assert_eq!(count(&client, replayed).await, 1 + 2);
}

#[tokio::test]
async fn the_clock_is_the_databases() {
    let client = client(postgres()).await;
    // A database whose clock is an hour ahead of ours.
    client.batch_execute("CREATE DATABASE ahead").await.unwrap();
    let url = format!("postgres://postgres:{PASSWORD}@127.0.0.1:{}/ahead", postgres().port());
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    tokio::spawn(connection);
    let mut ahead =
        "CREATE SCHEMA ahead; ALTER DATABASE ahead SET search_path = ahead, pg_catalog;".to_owned();
    for function in ["clock_timestamp", "statement_timestamp"] {
        ahead += &format!(
            "CREATE FUNCTION ahead.{function}() RETURNS timestamptz LANGUAGE sql VOLATILE
                AS $$ SELECT pg_catalog.{function}() + interval '1 hour' $$;"
        );
    }
    client.batch_execute(&ahead).await.unwrap();
    let inbox = PostgresInbox::from_url(&url).unwrap();
    inbox.migrate().await.unwrap();
    inbox.receive(&completed("job")).await.unwrap();
    let left =
        "SELECT extract(epoch FROM due_at - ahead.clock_timestamp())::int8 FROM ahead.qomplement_inbox";
    let mut lease = lease_one(&inbox).await.lease;
    assert!((20..=30).contains(&count(&client, left).await), "the lease");
    assert_eq!(inbox.renew(&lease, HOUR).await.unwrap(), Fenced::Applied);
    assert!((3590..=3600).contains(&count(&client, left).await), "the renewal");
    let retry = |after| Outcome::Retry { after, error: String::new() };
    assert_eq!(inbox.settle(&lease, &retry(Duration::ZERO)).await.unwrap(), Fenced::Applied);
    lease = lease_one(&inbox).await.lease;
    assert_eq!(inbox.settle(&lease, &retry(LEASE)).await.unwrap(), Fenced::Applied);
    assert!((20..=30).contains(&count(&client, left).await), "the retry");
    let (row, _) = inbox.get(&job("job")).await.unwrap().unwrap();
    assert!(row.age < LEASE && row.due_in.unwrap() <= LEASE, "{row:?}");
    inbox.expect(&job("expected"), Duration::ZERO).await.unwrap();
    assert_eq!(inbox.overdue(1, LEASE).await.unwrap()[0].lease.job(), &job("expected"));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_not_due_cost_a_lease_nothing() {
    let inbox = inbox("not_due").await;
    let client = client(postgres()).await;
    for (state, event) in [("expected", "NULL, NULL, NULL"), ("received", "'extract', 'completed', 'x'")] {
        let insert = format!(
            "INSERT INTO not_due.inbox (job_id, state, due_at, received_at, fetches, job_type, status, body)
            SELECT '{state}-' || n, '{state}', now() + n * interval '1 hour', now(), n % 10, {event}
            FROM generate_series(1, 20000) AS n"
        );
        client.batch_execute(&insert).await.unwrap();
    }
    client.batch_execute("ANALYZE not_due.inbox").await.unwrap();
    // The server counts with a delay of about a second: what the rows took is not to be counted with the looks.
    client.execute("SELECT pg_stat_force_next_flush()", &[]).await.unwrap();
    let read = async || {
        let scans = "SELECT sum(idx_scan)::int8 FROM pg_stat_user_indexes WHERE schemaname = 'not_due'";
        let blocks = "SELECT sum(idx_blks_hit + idx_blks_read)::int8 FROM pg_statio_user_indexes
            WHERE schemaname = 'not_due'";
        (count(&client, scans).await, count(&client, blocks).await)
    };
    let before = read().await;
    let looked = async || {
        for _ in 0..10 {
            assert!(inbox.lease(10, LEASE).await.unwrap().is_empty());
            assert!(inbox.overdue(10, LEASE).await.unwrap().is_empty());
        }
        read().await.0 - before.0 >= 10
    };
    eventually("the looks are counted", looked).await;
    let after = read().await;
    let (scans, blocks) = (after.0 - before.0, after.1 - before.1);
    assert!(blocks < scans * 10, "{blocks} blocks of the indexes read in {scans} looks");
    // Of those that are due, the least fetched come first.
    let due = "UPDATE not_due.inbox SET due_at = now()
        WHERE job_id IN ('received-11', 'received-3', 'received-13', 'received-2')";
    client.batch_execute(due).await.unwrap();
    let leased = inbox.lease(10, HOUR).await.unwrap();
    let fetches: Vec<u32> = leased.iter().map(|leased| leased.fetches.count).collect();
    assert_eq!(fetches, [1, 2, 3, 3]);
}

#[tokio::test]
async fn many_rows_that_have_ended_are_counted_about_right_and_others_exactly() {
    let (inbox, client) = (inbox("counted").await, client(postgres()).await);
    let fill = "INSERT INTO counted.inbox (job_id, state, job_type, status, body, due_at, received_at, ended_at, fetches)
        SELECT state || i, state, 'extract', 'completed', CASE WHEN i % 2 = 0 OR state <> 'done' THEN 'body'::bytea END,
            CASE WHEN state IN ('received', 'running') THEN now() - interval '1 hour' END, now(),
            CASE WHEN state IN ('done', 'dead') THEN now() END, i % 3
        FROM (VALUES ('done', 50000), ('dead', 12000), ('received', 11000), ('running', 100)) AS kind (state, rows),
            generate_series(1, rows) AS i";
    client.batch_execute(fill).await.unwrap();
    client.batch_execute("VACUUM ANALYZE counted.inbox").await.unwrap();
    let stats = inbox.stats().await.unwrap();
    assert_eq!((stats.received, stats.running, stats.expected), (11_000, 100, 0));
    assert!(stats.done.abs_diff(50_000) < 2_500 && stats.dead.abs_diff(12_000) < 600, "{stats:?}");
    let bytes = 4 * (25_000 + 12_000 + 11_000 + 100);
    assert!(stats.bytes.abs_diff(bytes) < bytes / 20, "{stats:?}");
    let oldest = stats.oldest_due.unwrap();
    assert!((HOUR..HOUR * 2).contains(&oldest), "{stats:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_ends_with_the_row_with_which_its_bodies_have_64_mib() {
    let inbox = inbox("large_leases").await;
    inboxes::a_lease_ends_with_the_row_with_which_its_bodies_have_64_mib(&inbox).await;
}
