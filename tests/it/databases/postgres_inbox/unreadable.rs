//! Rows that something else than this crate wrote: one that cannot be read keeps no other from anybody.

use std::time::Duration;

use qomplement_webhooks::inbox::{InboxAdmin, InboxFilter, InboxState, Outcome, Retention};
use qomplement_webhooks::{InboxStore, InboxWorker, Verification};

use super::{HOUR, client, completed, inbox, job};
use crate::support::databases::postgres;
use crate::support::inboxes::all_rows;
use crate::support::{Script, eventually};

/// Ids that no version accepts.
fn ids() -> Vec<String> {
    vec![String::new(), "   ".to_owned(), "x".repeat(300), "jöb".to_owned(), "a\tb\u{9b}".to_owned()]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_cannot_be_read_is_dead_and_the_others_go_on() {
    let (inbox, client) = (inbox("unreadable").await, client(postgres()).await);
    let insert = "INSERT INTO unreadable.inbox
        (job_id, state, job_type, status, body, due_at, received_at, fence, attempts)
        VALUES ($1, $2, 'extract', 'completed', $3, now() - interval '1 hour', now(), $4, 1)";
    for (state, fence) in [("received", 0_i64), ("running", 7), ("expected", 3)] {
        for id in ids() {
            let body = (state != "expected").then_some(&b"{}"[..]);
            let id = format!("{id}{}", "\u{7f}".repeat(fence as usize));
            client.execute(insert, &[&id, &state, &body, &fence]).await.unwrap();
        }
    }
    for (id, fence) in [("never-leased-again", i64::MAX), ("below-zero", -5)] {
        client.execute(insert, &[&id, &"received", &Some(&b"{}"[..]), &fence]).await.unwrap();
    }
    client.execute(insert, &[&"overdue-never-leased", &"expected", &None::<&[u8]>, &i64::MAX]).await.unwrap();
    let unreadable = 3 * ids().len() + 3;
    for number in 0..20 {
        inbox.receive(&completed(&format!("job-{number}"))).await.unwrap();
    }
    inbox.expect(&job("expected"), Duration::ZERO).await.unwrap();
    // Before anything has touched them, and after.
    let listed = async || all_rows(&inbox, &InboxFilter::default()).await;
    assert_eq!(listed().await.len(), unreadable + 21);
    assert_eq!(inbox.stats().await.unwrap().received, 20 + ids().len() as u64 + 2);

    let overdue = inbox.overdue(100, HOUR).await.unwrap();
    assert_eq!(
        overdue.iter().map(|overdue| overdue.lease.job().to_string()).collect::<Vec<_>>(),
        ["expected"]
    );
    let script = Script::default();
    let worker = InboxWorker::new(inbox.clone(), script.handler(), Verification::Trust).start();
    script.until("the others are handled", |script| script.finished() == 20).await;
    eventually("they are recorded", async || inbox.stats().await.unwrap().done == 20).await;
    worker.shutdown(Duration::from_secs(5)).await;

    let dead = InboxFilter::default().state(InboxState::Dead);
    let dead = all_rows(&inbox, &dead).await;
    assert_eq!(dead.len(), unreadable, "{dead:?}");
    for row in &dead {
        let error = row.error.as_deref().unwrap();
        // A lease raises its token to one that can be read, and a worker finds that its event cannot.
        let why = if row.job_id == "below-zero" { "unreadable" } else { "cannot be read" };
        assert!(error.contains(why) && row.due_in.is_none(), "{row:?}");
    }
    assert_eq!(dead.iter().filter(|row| row.job().is_none()).count(), 3 * ids().len());
    let shown: Vec<_> = dead.iter().map(|row| row.job_id.trim_end_matches('\u{7f}')).collect();
    assert!(ids().iter().all(|id| shown.contains(&&**id)), "{shown:?}");
    assert_eq!(listed().await.len(), unreadable + 21);
    assert_eq!(inbox.stats().await.unwrap().dead, unreadable as u64);
    assert_eq!(
        inbox.prune(&Retention::default().payload(Duration::ZERO).row(Duration::ZERO)).await.unwrap().rows,
        20
    );
    // What has an id can be looked at, and replayed.
    assert!(inbox.replay(&job("below-zero")).await.unwrap());
    assert!(inbox.get(&job("never-leased-again")).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_numbers_and_times_keep_no_row_from_being_handled_or_listed() {
    let (inbox, client) = (inbox("odd_numbers").await, client(postgres()).await);
    let insert = "INSERT INTO odd_numbers.inbox (job_id, state, job_type, status, body, due_at, received_at, attempts,
            earlier_attempts, fetches, not_found, next_fetch_at, deadline_at)
        SELECT state || n || replace(at, ' ', '_'), state, NULL, 'completed', CASE state WHEN 'received' THEN 'no JSON'::bytea END,
            at::timestamptz, at::timestamptz, n, n, n, n, at::timestamptz, at::timestamptz
        FROM unnest(ARRAY['received', 'expected']) AS state, unnest(ARRAY[-2147483648, -3, 2147483647]) AS n,
            unnest(ARRAY['-infinity', '4713-01-01 BC']) AS at";
    client.batch_execute(&format!("SET timezone = 'UTC'; {insert}")).await.unwrap();
    client
        .batch_execute(
            "INSERT INTO odd_numbers.inbox (job_id, state, due_at, received_at)
            VALUES ('never', 'expected', 'infinity', 'infinity')",
        )
        .await
        .unwrap();
    inbox.receive(&completed("job")).await.unwrap();
    assert_eq!(all_rows(&inbox, &InboxFilter::default()).await.len(), 14);
    inbox.stats().await.unwrap();
    let leased = inbox.lease(100, HOUR).await.unwrap();
    assert_eq!(leased.len(), 7);
    for leased in &leased {
        assert!(leased.attempt >= 1, "{leased:?}");
    }
    for (place, leased) in leased.iter().enumerate() {
        let error = || "why".to_owned();
        let outcome = match place % 3 {
            0 => Outcome::FetchAgain { after: HOUR, answer: qomplement_webhooks::inbox::NoResult::NotFound },
            1 => Outcome::Dead { error: error() },
            _ => Outcome::Release { after: HOUR },
        };
        let settled = inbox.settle(&leased.lease, &outcome).await.unwrap();
        assert_eq!(settled, qomplement_webhooks::store::Fenced::Applied);
        if place % 3 == 1 {
            assert!(inbox.replay(leased.lease.job()).await.is_ok_and(|replayed| replayed));
        }
    }
    let overdue = inbox.overdue(100, HOUR).await.unwrap();
    assert_eq!(overdue.len(), 6);
    for overdue in &overdue {
        let pending =
            Outcome::FetchAgain { after: HOUR, answer: qomplement_webhooks::inbox::NoResult::Pending };
        assert_eq!(
            inbox.settle(&overdue.lease, &pending).await.unwrap(),
            qomplement_webhooks::store::Fenced::Applied
        );
    }
    let ids: Vec<_> = all_rows(&inbox, &InboxFilter::default()).await;
    assert_eq!(ids.len(), 14);
    for row in ids {
        inbox.replay(&row.job().unwrap()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_failed_attempts_keep_no_row_from_being_handled_or_listed() {
    let (inbox, client) = (inbox("odd_failures").await, client(postgres()).await);
    let insert = r#"INSERT INTO odd_failures.inbox
            (job_id, state, job_type, status, body, due_at, received_at, attempts, failures)
        SELECT state || number || kept, state, 'extract', 'completed', '{}'::bytea, '-infinity', now(), 2147483647, failures
        FROM unnest(ARRAY['received', 'running']) AS state,
            unnest(ARRAY['null', '3', '"x"', '{}', '{"a": 1}', '[]', '[3, null, {}, [[]]]', '[{"number": 1e300, "at": 1, "error": "x"}]',
                (SELECT jsonb_agg(number)::text FROM generate_series(1, 1000) AS number)
            ]::jsonb[]) WITH ORDINALITY AS odd (failures, number),
            generate_series(0, 3) AS kept"#;
    assert_eq!(client.execute(insert, &[]).await.unwrap(), 72);
    let error = || "why".to_owned();
    let listed = async || all_rows(&inbox, &InboxFilter::default()).await;
    assert!(listed().await.iter().all(|row| row.failures.is_empty()));
    let leased = inbox.lease(100, HOUR).await.unwrap();
    assert_eq!(leased.len(), 72);
    for (place, leased) in leased.iter().enumerate() {
        let outcome = match place % 3 {
            0 => Outcome::Retry { after: HOUR, error: error() },
            1 => Outcome::Rejected { error: error() },
            _ => Outcome::Dead { error: error() },
        };
        let settled = inbox.settle(&leased.lease, &outcome).await.unwrap();
        assert_eq!(settled, qomplement_webhooks::store::Fenced::Applied);
        assert!(inbox.get(leased.lease.job()).await.unwrap().is_some());
    }
    for row in listed().await {
        let (failed, expired) = (row.failures.last().unwrap(), row.job_id.starts_with("running"));
        assert_eq!((&*failed.error, row.failures.len()), ("why", 1 + usize::from(expired)), "{row:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_its_constraints_is_listed_whatever_is_in_it() {
    let (inbox, client) = (inbox("unconstrained").await, client(postgres()).await);
    let alter =
        "ALTER TABLE unconstrained.inbox DROP CONSTRAINT inbox_state_check, DROP CONSTRAINT inbox_check,
            DROP CONSTRAINT inbox_check1, DROP CONSTRAINT inbox_check2,
            ALTER verified DROP NOT NULL, ALTER attempts DROP NOT NULL, ALTER received_at DROP NOT NULL;
        INSERT INTO unconstrained.inbox (job_id, state, verified, attempts, due_at, received_at)
            VALUES ('odd', 'lost', NULL, NULL, NULL, NULL), ('bodiless', 'received', false, 0, now(), now())";
    client.batch_execute(alter).await.unwrap();
    inbox.receive(&completed("job")).await.unwrap();
    let rows = all_rows(&inbox, &InboxFilter::default()).await;
    assert_eq!(rows.iter().map(|row| &*row.job_id).collect::<Vec<_>>(), ["odd", "bodiless", "job"]);
    assert!(rows[0].error.as_deref().unwrap().contains("lost"), "{rows:?}");
    assert_eq!(lease_one_of_two(&inbox).await, "job");
    assert_eq!(inbox.get(&job("bodiless")).await.unwrap().unwrap().0.state, InboxState::Dead);
}

/// Leases both rows that are due; one of them can be read.
async fn lease_one_of_two(inbox: &qomplement_webhooks::PostgresInbox) -> String {
    let leased = inbox.lease(2, HOUR).await.unwrap();
    assert_eq!(leased.len(), 1);
    leased[0].lease.job().to_string()
}
