//! No call of administration looks at all rows.

use std::time::Duration;

use qomplement_webhooks::inbox::{Bulk, InboxAdmin, InboxCursor, InboxFilter, InboxState, Retention};
use qomplement_webhooks::{InboxStore, PostgresInbox};

use super::{HOUR, client};
use crate::support::databases::Server;
use crate::support::eventually;

/// The most rows that a node of a plan reads. Of a prefix that too many jobs have, no row is looked at.
fn most(node: &str) -> u64 {
    if node.contains("Index Scan using inbox_job_id_key") { 3000 } else { 10_001 }
}

const DONE: u64 = 60_000;

/// The rows that the nodes of the logged plans read of the table, with the nodes.
fn reads(log: &str) -> Vec<(u64, &str)> {
    let nodes = log.lines().filter(|line| line.contains(" on inbox") || line.contains(" on \"inbox\""));
    let actual = nodes.filter_map(|line| {
        let (_, actual) = line.split_once("(actual rows=")?;
        let (rows, rest) = actual.split_once(" loops=")?;
        let loops: u64 = rest.trim_end_matches(')').parse().unwrap();
        Some((rows.parse::<u64>().unwrap() * loops, line))
    });
    actual.collect()
}

/// The same of the first plan of `stats`, once it is complete.
fn of_stats(log: &str) -> Vec<(u64, &str)> {
    let mut plans = log.split("duration: ").skip_while(|plan| !plan.contains("unfinished_bytes"));
    let first = plans.next();
    plans.next().and(first).map(reads).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_of_administration_looks_at_all_rows() {
    let server = Server::postgres(
        &[
            "shared_preload_libraries=auto_explain",
            "auto_explain.log_min_duration=0",
            "auto_explain.log_analyze=on",
            "auto_explain.log_timing=off",
        ],
        &[],
    );
    let client = client(&server).await;
    let inbox = PostgresInbox::from_url(&server.url()).unwrap().with_table("plans", "inbox").unwrap();
    inbox.migrate().await.unwrap();
    // Autovacuum would come at a time of its own.
    let fill = format!(
        "ALTER TABLE plans.inbox SET (autovacuum_enabled = off);
        INSERT INTO plans.inbox (job_id, state, job_type, status, body, received_at, ended_at, error)
        SELECT to_hex(i * 7919) || '-' || i, CASE i % 3 WHEN 0 THEN 'dead' ELSE 'done' END, 'extract', 'completed', ''::bytea,
            now(), now(), 'why'
        FROM generate_series(1, {DONE}) AS i;
        INSERT INTO plans.inbox (job_id, state, status, body, due_at, received_at)
        SELECT 'received-' || i, 'received', 'completed', ''::bytea, now(), now() FROM generate_series(1, 30) AS i;
        INSERT INTO plans.inbox (job_id, state, due_at, received_at)
        SELECT 'expected-' || i, 'expected', now(), now() FROM generate_series(1, 30) AS i"
    );
    client.batch_execute(&fill).await.unwrap();
    let any = InboxFilter::default;
    let states =
        [InboxState::Expected, InboxState::Received, InboxState::Running, InboxState::Done, InboxState::Dead];
    let mut filters: Vec<_> = states.map(|state| any().state(state)).into();
    filters.extend([any(), any().error("none"), any().job_type("none"), any().older_than(HOUR)]);
    filters.extend(["1a2b3c-1", "none"].map(|prefix| any().job_prefix(prefix)));
    filters.push(any().state(InboxState::Dead).error("none"));
    for is_analyzed in [false, true] {
        if is_analyzed {
            client.batch_execute("ANALYZE plans.inbox").await.unwrap();
            // Without statistics, the planner expects few jobs with a prefix, however short it is.
            filters.extend(["1", "1a"].map(|prefix| any().job_prefix(prefix)));
            filters.push(any().state(InboxState::Dead).job_prefix("2"));
        }
        let before = server.log().len();
        for filter in &filters {
            for from in [InboxCursor::Oldest, InboxCursor::Newest, InboxCursor::After(DONE / 2)] {
                inbox.list(filter, from, 10).await.unwrap();
            }
            inbox.replay_all(filter, u64::MAX, Bulk::DryRun).await.unwrap();
            inbox.discard_all(filter, u64::MAX, Bulk::DryRun).await.unwrap();
            inbox.replay_all(filter, 10, Bulk::Apply).await.unwrap();
            inbox.discard_all(filter, 10, Bulk::Apply).await.unwrap();
        }
        inbox.dead_by_error(10).await.unwrap();
        inbox.stats().await.unwrap();
        inbox.prune(&Retention::default().dead(Duration::ZERO)).await.unwrap();
        eventually("the plans are in the log", async || !of_stats(&server.log()[before..]).is_empty()).await;
        let log = server.log();
        let reads = reads(&log[before..]);
        assert!(reads.len() > 100, "no plans in the log: {}", &log[before..]);
        // Without statistics, the planner expects few rows of each state, and sorts all that there are.
        let is_bounded =
            |(rows, node): &(u64, &str)| !node.contains("Seq Scan") && (!is_analyzed || *rows <= most(node));
        let others: Vec<_> = reads.into_iter().filter(|read| !is_bounded(read)).collect();
        assert!(others.is_empty(), "analyzed: {is_analyzed}: {others:#?}");
        let is_of_table = |(_, node): &(u64, &str)| !node.contains("Index Only Scan");
        let of_table: Vec<_> = of_stats(&log[before..]).into_iter().filter(is_of_table).collect();
        let rows: u64 = of_table.iter().map(|(rows, _)| rows).sum();
        assert!(!is_analyzed || rows < 2000, "`stats` reads {rows} rows of the table: {of_table:#?}");
    }
}
