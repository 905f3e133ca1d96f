//! Behaviour that cannot be reached through the public API.

mod damaged;

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use ::rusqlite::{Connection, StatementStatus, params_from_iter};
use tokio::sync::Notify;

use super::bodies::Bodies;
use super::transaction::Transaction;
use super::writer::Writer;
use super::{SqliteInbox, SqliteInboxError, listing, reads, rows, schema, traffic};
use crate::inbox::limits::Limits;
use crate::inbox::look::Change;
use crate::inbox::timestamp::Timestamp;
use crate::inbox::{InboxCursor, InboxFilter};
use crate::store::StoreError;

pub(super) fn in_memory() -> Connection {
    let connection = Connection::open_in_memory().unwrap();
    connection.execute_batch(schema::MIGRATIONS[0]).unwrap();
    connection
}

#[tokio::test]
async fn calls_fail_when_the_thread_that_writes_has_died() {
    let limits = Limits { rows: 1, bytes: 1 };
    let writer = Writer::start(in_memory(), None, limits, Duration::ZERO, Arc::new(Notify::new())).unwrap();
    assert_eq!(writer.write(0, |_| Ok(7)).await.unwrap(), 7);
    let dying = writer.write::<(), _>(0, |_| panic!("a bug"));
    let calls = async { tokio::join!(dying, writer.write(0, |_| Ok(()))) };
    let (died, waiting) = tokio::time::timeout(Duration::from_secs(10), calls).await.unwrap();
    for error in [died.unwrap_err(), waiting.unwrap_err(), writer.write(0, |_| Ok(())).await.unwrap_err()] {
        assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
        assert!(error.source().unwrap().to_string().contains("ended"), "{error:?}");
    }
}

#[test]
fn a_database_that_would_lose_commits_is_refused() {
    let refused = schema::make_durable(&in_memory(), Duration::ZERO).unwrap_err();
    assert!(
        matches!(&refused, SqliteInboxError::NotDurable { setting: "journal_mode", wanted: "wal", found } if found == "memory"),
        "{refused:?}"
    );
}

#[test]
fn the_connection_that_writes_waits_for_the_disk() {
    let folder = std::env::temp_dir().join(format!("qomplement-webhooks-durable-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    let settings = super::SqliteInbox::builder("").settings;
    let (connection, _) = schema::open(&folder.join("inbox.db"), &settings).unwrap();
    let synchronous: i64 = connection.query_row("PRAGMA synchronous", [], |row| row.get(0)).unwrap();
    let journal: String = connection.query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap();
    assert_eq!((synchronous, journal.as_str()), (2, "wal"));
    drop(connection);
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_file_of_an_older_version_is_upgraded_by_who_may_create_it_and_by_nobody_else() {
    let folder = std::env::temp_dir().join(format!("qomplement-webhooks-upgrade-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    let file = folder.join("inbox.db");
    let settings = super::SqliteInbox::builder("").settings;
    let looking = super::Settings { create: false, ..settings };
    drop(schema::open(&file, &settings).unwrap());
    let before = std::fs::read(&file).unwrap();

    let next = [schema::MIGRATIONS[0], "ALTER TABLE inbox ADD COLUMN next_version INTEGER"];
    let refused = schema::open_as(&file, &looking, &next).map(drop).unwrap_err();
    assert!(matches!(refused, SqliteInboxError::TooOld { found: 1, known: 2 }), "{refused:?}");
    assert_eq!(std::fs::read(&file).unwrap(), before, "a program that looks has changed the file");

    let (connection, _) = schema::open_as(&file, &settings, &next).unwrap();
    connection.execute_batch("SELECT next_version FROM inbox").unwrap();
    drop(connection);
    drop(schema::open_as(&file, &looking, &next).unwrap());
    for settings in [settings, looking] {
        let refused = schema::open(&file, &settings).map(drop).unwrap_err();
        assert!(matches!(refused, SqliteInboxError::TooNew { found: 2, known: 1 }), "{refused:?}");
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn no_statement_looks_at_all_rows_or_sorts_them() {
    let connection = in_memory();
    let others = [listing::WITH_PREFIX, reads::CONTAINS, reads::STATS, reads::DEAD_ERRORS, traffic::TRAFFIC]
        .into_iter()
        .chain(rows::STATEMENTS)
        .map(str::to_owned);
    // Of these indexes, a call looks at a bounded number of rows.
    let bounded = ["inbox_leasable", "inbox_expected"].map(|index| format!("SCAN inbox USING INDEX {index}"));
    for statement in listing::statements().into_iter().chain(others) {
        let mut plan = connection.prepare(&format!("EXPLAIN QUERY PLAN {statement}")).unwrap();
        let parameters = params_from_iter(vec![1; plan.parameter_count()]);
        let steps: Vec<String> =
            plan.query_map(parameters, |row| row.get(3)).unwrap().collect::<Result<_, _>>().unwrap();
        let is_slow = |step: &String| {
            (step.starts_with("SCAN")
                && !step.contains("inbox_total")
                && !step.contains("CONSTANT ROW")
                && !bounded.contains(step))
                || step.contains("TEMP B-TREE")
        };
        assert!(!steps.iter().any(is_slow), "{statement}\n{steps:?}");
    }
}

#[test]
fn of_a_prefix_that_too_many_jobs_have_no_row_is_looked_at() {
    let connection = in_memory();
    let insert = "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 4000)
        INSERT INTO inbox (job_id, state, received_at) SELECT printf('job-%04d', n), 'done', 0 FROM n";
    connection.execute_batch(insert).unwrap();
    let by_prefix =
        || listing::statements().into_iter().filter(|statement| statement.contains("WHERE job_id >="));
    let steps = || -> i32 {
        by_prefix()
            .map(|look| connection.prepare_cached(&look).unwrap().get_status(StatementStatus::VmStep))
            .sum()
    };
    for (prefix, rows, is_by_prefix) in
        [("job-", 50, false), ("job-3", 50, true), ("job-39", 50, true), ("job-4", 1, true)]
    {
        let before = steps();
        let filter = InboxFilter::default().job_prefix(prefix);
        let list = listing::list(&connection, &filter, InboxCursor::Newest, 50).unwrap();
        assert_eq!(list.rows.len(), rows, "{prefix}");
        assert_eq!(steps() > before, is_by_prefix, "{prefix}: {} steps before and {} after", before, steps());
    }
}

#[test]
fn a_change_of_many_rows_stops_when_their_bodies_have_many_bytes() {
    for (most_bytes, changed_and_seen) in [(19, (2, 2)), (20, (2, 2)), (21, (3, 3))] {
        let connection = in_memory();
        let insert = "INSERT INTO inbox (job_id, state, status, bytes, received_at, ended_at)
            VALUES ('a', 'dead', 'failed', 10, 0, 0), ('b', 'dead', 'failed', 10, 0, 0), ('c', 'dead', 'failed', 10, 0, 0)";
        connection.execute_batch(insert).unwrap();
        let bodies = Bodies::default();
        let mut rows = Transaction::begin(&connection, Limits::default(), &bodies).unwrap();
        let discarded =
            rows.change_each(&[1, 2, 3], &InboxFilter::default(), Change::Discard, most_bytes).unwrap();
        assert_eq!(discarded, changed_and_seen, "{most_bytes}");
    }
}

/// The steps of SQLite's virtual machine in one look for due rows of each kind, beside `rows` rows of each that were
/// fetched and are not due.
fn steps_of_a_lease(rows: usize) -> i32 {
    let connection = in_memory();
    for (state, body) in [("expected", "NULL"), ("received", "'completed'")] {
        let insert = format!(
            "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {rows})
            INSERT INTO inbox (job_id, state, due_at, fetches, received_at, status)
            SELECT '{state}' || n, '{state}', 1000 + n, n % 10, 0, {body} FROM n"
        );
        connection.execute_batch(&insert).unwrap();
    }
    for lookup in [rows::LEASABLE, rows::OVERDUE_JOBS] {
        assert!(lookup.find(&connection, Timestamp(1000), 16, &Bodies::Together).unwrap().is_empty());
        assert_eq!(lookup.earliest(&connection).unwrap(), Some(Timestamp(1001)));
        let due = lookup.find(&connection, Timestamp(1005), 16, &Bodies::Together).unwrap();
        let fetches: Vec<u32> = due.iter().map(|due| due.stored.row.fetches.count).collect();
        assert_eq!(fetches, [1, 2, 3, 4, 5]);
    }
    let steps =
        |statement: &&str| connection.prepare_cached(statement).unwrap().get_status(StatementStatus::VmStep);
    rows::STATEMENTS.iter().map(steps).sum()
}

#[test]
fn rows_that_are_not_due_cost_a_lease_nothing() {
    let (few, many) = (steps_of_a_lease(100), steps_of_a_lease(20_000));
    assert!(many < few + 100, "{few} steps beside 100 rows, and {many} beside 20,000");
}

#[test]
fn several_processes_may_write_with_the_version_of_sqlite_that_comes_along() {
    assert!(schema::is_sound(::rusqlite::version_number()), "{}", ::rusqlite::version());
    assert!(schema::is_sound(3_051_003) && !schema::is_sound(3_051_002));
}

#[test]
fn a_call_waits_for_another_process_for_a_day_at_most() {
    let day = Duration::from_secs(86_400);
    for (set, counts) in [(Duration::MAX, day), (day, day), (day / 2, day / 2)] {
        assert_eq!(SqliteInbox::builder("inbox").busy_timeout(set).settings.busy_timeout, counts);
    }
}

#[test]
fn a_file_that_another_process_holds_is_waited_for_and_no_longer() {
    let file = std::env::temp_dir().join(format!("qomplement-webhooks-held-{}", std::process::id()));
    let other = Connection::open(&file).unwrap();
    other.execute_batch("CREATE TABLE other (id); BEGIN EXCLUSIVE").unwrap();
    let connection = Connection::open(&file).unwrap();
    // Nor does SQLite wait by itself when several processes switch to the log at once.
    connection.busy_timeout(Duration::ZERO).unwrap();
    let (began, time) = (std::time::Instant::now(), Duration::from_millis(200));
    let refused = schema::make_durable(&connection, time);
    assert!(matches!(refused, Err(SqliteInboxError::Open(_))), "{refused:?}");
    assert!(began.elapsed() >= time, "given up after {:?}", began.elapsed());
    other.execute_batch("COMMIT").unwrap();
    drop(other);
    schema::make_durable(&connection, time).unwrap();
    drop(connection);
    std::fs::remove_file(&file).unwrap();
}

#[test]
fn a_write_to_what_is_read_only_is_told_as_such() {
    let connection = in_memory();
    connection.execute_batch("PRAGMA query_only = ON").unwrap();
    let refused = connection.execute_batch("CREATE TABLE other (id)").unwrap_err();
    let told = SqliteInboxError::from(refused);
    assert!(matches!(told, SqliteInboxError::ReadOnly(_)), "{told:?}");
}
