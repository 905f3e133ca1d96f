//! The transactions that damaged bodies cost, and the remains.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ::rusqlite::Connection;
use bytes::Bytes;
use tokio::sync::Notify;

use crate::event::Envelope;
use crate::inbox::limits::Limits;
use crate::inbox::look::Change;
use crate::inbox::sqlite::bodies::Bodies;
use crate::inbox::sqlite::transaction::{PRUNE_BYTES, Transaction};
use crate::inbox::sqlite::writer::Writer;
use crate::inbox::sqlite::{SqliteInbox, schema};
use crate::inbox::{InboxFilter, Retention};

const PAGE: usize = 4096;
const HOUR: Duration = Duration::from_secs(3600);
const LIMITS: Limits = Limits { rows: 1 << 20, bytes: 1 << 40 };

/// A file with an inbox that nobody has open.
struct File(PathBuf);

impl File {
    /// Stores the events of jobs, each with a text that its body ends with.
    fn new(name: &str, events: impl IntoIterator<Item = (String, String)>) -> Self {
        let folder = std::env::temp_dir().join(format!("qomplement-webhooks-{name}-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let file = Self(folder.join("inbox.db"));
        let (mut connection, bodies) = (file.connect(), Bodies::Together);
        let sql = connection.transaction().unwrap();
        let mut transaction = Transaction::begin(&sql, LIMITS, &bodies).unwrap();
        for (job, text) in events {
            let data = serde_json::json!({"id": job, "type": "extract", "status": "completed", "result": {}});
            let body = serde_json::json!({"job_id": job, "data": data, "text": text}).to_string();
            let event = Envelope::try_from(Bytes::from(body)).unwrap();
            transaction.receive(&event).unwrap();
        }
        transaction.end().unwrap();
        sql.commit().unwrap();
        file
    }

    fn connect(&self) -> Connection {
        schema::open(&self.0, &SqliteInbox::builder("").settings).unwrap().0
    }

    fn path(&self) -> &Path {
        &self.0
    }

    /// Ends all rows, in a state.
    fn end_all(&self, state: &str) {
        let end = format!(
            "UPDATE inbox SET state = '{state}', due_at = NULL, ended_at = id;
            UPDATE inbox_total SET (rows, bytes) = (SELECT count(*), coalesce(sum(bytes), 0) FROM inbox
                WHERE inbox.state = inbox_total.state)"
        );
        self.connect().execute_batch(&end).unwrap();
    }

    /// Overwrites the pages that are chosen. Returns their number.
    fn overwrite(&self, mut is_chosen: impl FnMut(&[u8]) -> bool) -> usize {
        let mut bytes = std::fs::read(self.path()).unwrap();
        let mut overwritten = 0;
        for page in bytes.chunks_exact_mut(PAGE).filter(|page| is_chosen(page)) {
            page.fill(0xff);
            overwritten += 1;
        }
        std::fs::write(self.path(), bytes).unwrap();
        overwritten
    }

    /// Overwrites the pages that are filled with this letter.
    fn damage(&self, letter: u8) {
        assert!(self.overwrite(|page| page[4..].iter().all(|byte| *byte == letter)) > 0);
    }

    fn number(&self, query: &str) -> i64 {
        self.connect().query_row(query, [], |row| row.get(0)).unwrap()
    }

    /// Checks that totals and traffic are what the rows add up to, of which this many events were received.
    fn check_counts(&self, received: i64) {
        let wrong = "SELECT count(*) FROM inbox_total WHERE (rows, bytes) <>
            (SELECT count(*), coalesce(sum(bytes), 0) FROM inbox WHERE inbox.state = inbox_total.state)";
        assert_eq!(self.number(wrong), 0, "totals are wrong");
        assert_eq!(self.number("SELECT coalesce(sum(received), 0) FROM inbox_traffic"), received);
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.0.parent().unwrap());
    }
}

/// Does one call. Returns its result and the number of its transactions.
async fn call<T: Send + 'static>(
    file: &File,
    call: impl Fn(&mut Transaction<'_>) -> ::rusqlite::Result<T> + Send + 'static,
) -> (T, usize) {
    let writer =
        Writer::start(file.connect(), None, LIMITS, Duration::ZERO, Arc::new(Notify::new())).unwrap();
    let transactions = Arc::new(AtomicUsize::new(0));
    let count = transactions.clone();
    let counted = move |rows: &mut Transaction<'_>| {
        count.fetch_add(1, Ordering::Relaxed);
        call(rows)
    };
    let result = writer.write(0, counted).await.unwrap();
    (result, transactions.load(Ordering::Relaxed))
}

/// Events of which every third has a body with a damaged page.
fn every_third_is_damaged(name: &str, events: usize) -> File {
    let text = |number: usize| if number.is_multiple_of(3) { "d" } else { "s" }.repeat(10 * PAGE);
    let file = File::new(name, (0..events).map(|number| (format!("job-{number}"), text(number))));
    file.damage(b'd');
    file
}

/// Such an error may pass, and SQLite has met no damage: no row must die of it.
#[test]
fn only_damage_counts_as_damage() {
    let connection = Connection::open_in_memory().unwrap();
    connection.execute_batch("CREATE TABLE inbox_body (id INTEGER PRIMARY KEY, body); INSERT INTO inbox_body VALUES (1, 'text')").unwrap();
    let bodies = Bodies::apart();
    let error = bodies.read(&connection, 1).unwrap_err();
    assert!(matches!(error, ::rusqlite::Error::InvalidColumnType(..)), "{error}");
    bodies.check().unwrap();
}

#[tokio::test]
async fn any_number_of_damaged_bodies_costs_a_lease_three_transactions() {
    for (events, damaged) in [(2, 1), (20, 7), (90, 30)] {
        let file = every_third_is_damaged(&format!("leased-{events}"), events);
        let (leased, transactions) = call(&file, move |rows| rows.lease(events, HOUR)).await;
        assert_eq!((leased.len(), transactions), (events - damaged, 3));
        assert_eq!(file.number("SELECT count(*) FROM inbox WHERE state = 'dead'"), damaged as i64);
        file.check_counts(events as i64);
        let (again, transactions) = call(&file, move |rows| rows.lease(events, HOUR)).await;
        assert_eq!((again.len(), transactions), (0, 1));
    }
}

#[tokio::test]
async fn any_number_of_damaged_bodies_costs_a_pruning_pass_and_a_discard_three_transactions() {
    for (events, left) in [(2, 1), (90, 30)] {
        let file = every_third_is_damaged(&format!("pruned-{events}"), events);
        file.end_all("done");
        let retention = Retention::default().payload(Duration::ZERO).row(HOUR * 1_000_000);
        let (pruned, transactions) = call(&file, move |rows| rows.prune(&retention)).await;
        assert_eq!((pruned.payloads, pruned.rows, transactions), (events as u64, 0, 3));
        assert_eq!(file.number("SELECT count(*) FROM inbox_body"), left);
        file.check_counts(events as i64);
        let retention = retention.row(Duration::ZERO);
        let (pruned, transactions) = call(&file, move |rows| rows.prune(&retention)).await;
        assert_eq!((pruned.payloads, pruned.rows, transactions), (0, events as u64, 3));
        file.check_counts(events as i64);

        let file = every_third_is_damaged(&format!("discarded-{events}"), events);
        file.end_all("dead");
        let ids: Vec<i64> = (1..).take(events).collect();
        let discard = move |rows: &mut Transaction<'_>| {
            rows.change_each(&ids, &InboxFilter::default(), Change::Discard, PRUNE_BYTES)
        };
        let (discarded, transactions) = call(&file, discard).await;
        assert_eq!((discarded, transactions), ((events as u64, events), 3));
        assert_eq!(file.number("SELECT count(*) FROM inbox_body"), left);
        assert_eq!(file.number("SELECT count(*) FROM inbox"), 0);
        file.check_counts(events as i64);
    }
}

/// To delete a sound body, SQLite may look at the pages beside its own.
#[tokio::test]
async fn many_damaged_pages_cost_a_pruning_pass_some_transactions_and_then_it_ends_early() {
    let events = 400;
    let file = File::new("pages", (0..events).map(|number| (format!("job-{number}"), "s".repeat(700))));
    file.end_all("done");
    let of_bodies = |page: &[u8]| page[0] == 0x0d && page.windows(8).any(|part| part == b"\"text\":\"");
    let mut leaves = 0;
    let damaged = file.overwrite(|page| {
        leaves += usize::from(of_bodies(page));
        of_bodies(page) && leaves.is_multiple_of(4)
    });
    assert!((10..40).contains(&damaged), "{damaged} of {leaves} pages are damaged");
    let retention = Retention::default().row(Duration::ZERO);
    let mut passes = Vec::new();
    while passes.last() != Some(&0) {
        let (pruned, transactions) = call(&file, move |rows| rows.prune(&retention)).await;
        assert!(transactions <= 10, "{transactions} transactions");
        passes.push(pruned.rows);
        file.check_counts(events);
    }
    assert_eq!(passes.iter().sum::<u64>(), events.unsigned_abs(), "{passes:?}");
    assert!(passes.len() > 2, "no pass ended early: {passes:?}");
    assert_eq!(file.number("SELECT count(*) FROM inbox"), 0);
}
