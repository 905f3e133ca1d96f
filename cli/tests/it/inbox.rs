//! `inbox`, on an SQLite file.

use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use bytes::Bytes;
use qomplement_webhooks::event::Envelope;
use qomplement_webhooks::inbox::{Outcome, SqliteInboxError};
use qomplement_webhooks::{InboxStore, SqliteInbox};
use serde_json::{Value, json};

use super::{Folder, Going, Ran, command, end, run};

pub const HOUR: Duration = Duration::from_secs(3600);
/// Shown as `1h` throughout a test.
const LEASE: Duration = Duration::from_secs(5400);

/// Stores a row in each state, and two dead ones. A retry is due in two hours.
pub(super) async fn fill(inbox: &dyn InboxStore) {
    let take = async || inbox.lease(1, LEASE).await.unwrap().remove(0).lease;
    for (job, job_type, status, outcome) in [
        ("job-done", "extract", "completed", Some(Outcome::Done)),
        (
            "job-dead",
            "fill_pdf",
            "failed",
            Some(Outcome::Dead { error: "no such\u{1b}[31m customer".into() }),
        ),
        ("job-odd", "summarize", "processing", Some(Outcome::Dead { error: "an unknown type".into() })),
        (
            "job-again",
            "extract",
            "failed",
            Some(Outcome::Retry { after: HOUR * 2, error: "the disk is full".into() }),
        ),
        ("job-running", "fill_excel", "completed", None),
    ] {
        let body = json!({"job_id": job, "data": {"id": job, "type": job_type, "status": status}});
        inbox.receive(&Envelope::try_from(Bytes::from(body.to_string())).unwrap()).await.unwrap();
        let lease = take().await;
        if let Some(outcome) = outcome {
            let _ = inbox.settle(&lease, &outcome).await.unwrap();
        }
    }
    let body = r#"{"job_id":"job-new","data":{"type":"extract","status":"completed","id":"job-new"}}"#;
    let event = Envelope::try_from(Bytes::from(body)).unwrap();
    inbox.receive(&event.with_traceparent(TRACEPARENT.parse().unwrap())).await.unwrap();
    inbox.expect(&"job-expected".parse().unwrap(), HOUR * 3).await.unwrap();
}

const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

async fn filled(folder: &Folder) -> String {
    let file = folder.file("inbox.db");
    fill(&SqliteInbox::open(&file).unwrap()).await;
    file
}

async fn inbox(file: &str, args: &[&str]) -> Ran {
    run(&[&["inbox", args[0], "--db", file], &args[1..]].concat()).await
}

pub(super) const LIST: &str = "\
JOB  STATE  ATTEMPTS  AGE  NEXT  TYPE  STATUS  LAST ERROR
job-done  done  1  TIME  -  extract  completed
job-dead  dead  1  TIME  -  fill_pdf  failed  no such\\u{1b}[31m customer
job-odd  dead  1  TIME  -  summarize  processing  an unknown type
job-again  received  1  TIME  waits 1h  extract  failed  the disk is full
job-running  running  1  TIME  leased 1h  fill_excel  completed
job-new  received  0  TIME  due  extract  completed
job-expected  expected  0  TIME  fetch due in 2h  -  -
";

#[tokio::test]
async fn rows_are_listed_with_their_last_errors() {
    let folder = Folder::new();
    let file = filled(&folder).await;
    inbox(&file, &["list"]).await.shows(0, LIST, "");
    let lines = |numbers: &[usize]| -> String {
        numbers.iter().map(|number| format!("{}\n", LIST.lines().nth(*number).unwrap())).collect()
    };
    for (args, shown) in [
        (&["--state", "dead"] as &[_], &[0usize, 2, 3] as &[_]),
        (&["--state", "received"], &[0, 4, 6]),
        (&["--type", "extract"], &[0, 1, 4, 6]),
        (&["--type", "extract", "--status", "failed"], &[0, 4]),
        (&["--limit", "0", "--after", "5"], &[0, 6, 7]),
        (&["--newest", "--state", "dead"], &[0, 3, 2]),
        (&["--newest", "--after", "3"], &[0, 2, 1]),
        (&["--job", "job-d"], &[0, 1, 2]),
        (&["--job", "job-expected"], &[0, 7]),
        (&["--error", "UNKNOWN"], &[0, 3]),
        (&["--error", "t", "--newest", "--type", "extract"], &[0, 4]),
        (&["--newer-than", "1h", "--older-than", "0s", "--state", "running"], &[0, 5]),
    ] {
        inbox(&file, &[&["list"], args].concat()).await.shows(0, &lines(shown), "");
    }
    let page = inbox(&file, &["list", "--limit", "2"]).await;
    page.shows(0, &lines(&[0, 1, 2]), "more rows follow: --after 2 lists the next, --limit 0 lists all\n");
    let page = inbox(&file, &["list", "--newest", "--limit", "2"]).await;
    page.shows(0, &lines(&[0, 7, 6]), "more rows follow: --after 6 lists the next, --limit 0 lists all\n");
    inbox(&file, &["list", "--limit", "7"]).await.shows(0, LIST, "");
    for args in [["--older-than", "1h"], ["--newer-than", "0s"], ["--job", "JOB"], ["--error", "no row"]] {
        inbox(&file, &[&["list"], &args[..]].concat()).await.shows(0, "", "no row matches the filter\n");
    }
    inbox(&file, &["list", "--type", "none"]).await.shows(0, "", "no row matches the filter\n");
}

#[tokio::test]
async fn a_row_whose_id_no_version_accepts_is_listed_and_discarded() {
    let folder = Folder::new();
    let file = folder.file("inbox.db");
    drop(SqliteInbox::open(&file).unwrap());
    let by_hand = "INSERT INTO inbox (job_id, state, received_at, error)
        VALUES ('a' || char(155) || ' b', 'dead', 1, 'by hand'), (CAST(x'ff' AS TEXT), 'dead', 1, 'by hand')";
    rusqlite::Connection::open(&file).unwrap().execute_batch(by_hand).unwrap();
    let listed = inbox(&file, &["list"]).await;
    assert!(listed.out.contains("a\\u{9b} b") && listed.out.contains("\u{fffd}"), "{listed:?}");
    let json = inbox(&file, &["list", "--format", "json"]).await;
    let first: Value = serde_json::from_str(json.out.lines().next().unwrap()).unwrap();
    assert_eq!(first["job_id"], json!("a\u{9b} b"));
    let discarded = inbox(&file, &["discard", "--all", "--error", "BY HAND", "--yes"]).await;
    assert!(discarded.out.ends_with("\n2 discarded\n"), "{discarded:?}");
    inbox(&file, &["list"]).await.shows(0, "", "the inbox is empty\n");
}

#[tokio::test]
async fn json_holds_every_member_of_a_row() {
    let folder = Folder::new();
    let file = filled(&folder).await;
    let listed = inbox(&file, &["list", "--format", "json"]).await;
    let rows: Vec<Value> = listed.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), 7);
    let mut row = rows[3].clone();
    let age = row["age_seconds"].take().as_f64().unwrap();
    let due = row["due_in_seconds"].take().as_f64().unwrap();
    assert!((0.0..60.0).contains(&age) && (7140.0..=7200.0).contains(&due), "{age} {due}");
    let expected = json!({
        "number": 4, "job_id": "job-again", "state": "received", "type": "extract", "status": "failed",
        "verified": false, "fetches": 0, "attempts": 1, "earlier_attempts": 0, "error": "the disk is full", "age_seconds": null,
        "due_in_seconds": null,
    });
    assert_eq!(row, expected);
    assert_eq!(rows[0]["due_in_seconds"], Value::Null);

    let mut shown = inbox(&file, &["show", "job-again", "--format", "json"]).await.json();
    assert_eq!(shown["body"].take()["data"]["status"], json!("failed"));
    assert_eq!(shown.as_object().unwrap().len(), 15);
    assert_eq!(shown["traceparent"], Value::Null);
    let mut failures = shown["failures"].take();
    let [age, took] = ["age_seconds", "took_seconds"].map(|time| failures[0][time].take().as_f64().unwrap());
    assert!((0.0..60.0).contains(&age) && (0.0..60.0).contains(&took), "{age} {took}");
    let failed =
        json!({"attempt": 1, "age_seconds": null, "took_seconds": null, "error": "the disk is full"});
    assert_eq!(failures, json!([failed]));
    let new = inbox(&file, &["show", "job-new", "--format", "json"]).await.json();
    assert_eq!((&new["failures"], &new["traceparent"]), (&json!([]), &json!(TRACEPARENT)));
    assert_eq!(inbox(&file, &["show", "job-expected", "--format", "json"]).await.json()["body"], Value::Null);
    let stats = inbox(&file, &["stats", "--format", "json"]).await.json();
    let [bytes, unfinished] = ["bytes", "unfinished_bytes"].map(|member| stats[member].as_u64().unwrap());
    assert!(0 < unfinished && unfinished < bytes && stats["oldest_overdue_seconds"].is_null(), "{stats}");
    assert!(stats["oldest_due_seconds"].as_f64().is_some() && stats["bytes"].as_u64() > Some(400), "{stats}");
    let counts =
        ["expected", "received", "running", "done", "dead"].map(|state| stats[state].as_u64().unwrap());
    assert_eq!((counts, stats.as_object().unwrap().len()), ([1, 2, 1, 1, 2], 9));
}

#[tokio::test]
async fn one_row_is_shown_with_its_body() {
    let folder = Folder::new();
    let file = filled(&folder).await;
    inbox(&file, &["show", "job-new"]).await.shows(
        0,
        r#"job  job-new
state  received
type  extract
status  completed
verified  no
trace  00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01
attempts  0
age  TIME
next  due
body  82 bytes
{
  "job_id": "job-new",
  "data": {
    "type": "extract",
    "status": "completed",
    "id": "job-new"
  }
}
"#,
        "",
    );
    let failed = inbox(&file, &["show", "job-dead"]).await;
    let attempt = failed.out.lines().find(|line| line.starts_with("failed ")).unwrap_or_default();
    assert!(attempt.starts_with("failed    attempt 1, ") && attempt.contains(" ago, after "), "{failed:?}");
    assert!(attempt.ends_with(": no such\\u{1b}[31m customer"), "{failed:?}");
    let raw = inbox(&file, &["show", "job-new", "--raw"]).await;
    assert_eq!(
        raw.out,
        r#"{"job_id":"job-new","data":{"type":"extract","status":"completed","id":"job-new"}}"#
    );
    inbox(&file, &["show", "job-nobody"]).await.shows(
        1,
        "",
        "error: the inbox has no row for the job job-nobody\n",
    );
    let expected = inbox(&file, &["show", "job-expected", "--raw"]).await;
    expected.shows(1, "", "error: the row has no body: the event has not arrived\n");
    let invalid = inbox(&file, &["show", "not a job"]).await;
    assert_eq!(invalid.code, Some(2), "{invalid:?}");
}

#[tokio::test]
async fn redacted_fields_are_not_shown_and_no_list_shows_a_body() {
    let folder = Folder::new();
    let file = folder.file("inbox.db");
    let body = r#"{"job_id":"job","data":{"id":"job","type":"extract","status":"completed","IBAN":"secret-1",
        "result":{"fields":{"iban":["secret-2"],"city":"Bonn"},"tables":["secret-3"]}}}"#;
    let store = SqliteInbox::open(&file).unwrap();
    store.receive(&Envelope::try_from(Bytes::from(body)).unwrap()).await.unwrap();
    let lease = store.lease(1, LEASE).await.unwrap().remove(0).lease;
    let _ = store.settle(&lease, &Outcome::Dead { error: "why".into() }).await.unwrap();

    let fields = "iban,/data/result/tables";
    for format in ["text", "json"] {
        let shown = inbox(&file, &["show", "job", "--redact", fields, "--format", format]).await;
        assert!(!shown.out.contains("secret") && shown.out.matches("[redacted]").count() == 3, "{shown:?}");
        assert!(shown.out.contains("Bonn") && shown.err.is_empty(), "{shown:?}");
        assert!(inbox(&file, &["show", "job", "--format", format]).await.out.contains("secret-3"));
    }
    let raw = inbox(&file, &["show", "job", "--redact", fields, "--raw"]).await;
    assert!(raw.code == Some(2) && raw.out.is_empty(), "{raw:?}");
    for args in [
        &["list"] as &[_],
        &["list", "--format", "json"],
        &["stats"],
        &["stats", "--format", "json"],
        &["replay", "--all", "--dry-run"],
        &["replay", "job", "--yes"],
    ] {
        let ran = inbox(&file, args).await;
        assert!(ran.code == Some(0) && !ran.out.is_empty(), "{ran:?}");
        assert!(!format!("{ran:?}").contains("secret") && !ran.out.contains("Bonn"), "{ran:?}");
    }
}

#[tokio::test]
async fn a_body_that_is_no_json_is_not_shown_when_fields_of_it_are_redacted() {
    let folder = Folder::new();
    let file = filled(&folder).await;
    let by_hand = "UPDATE inbox_body SET body = CAST('{\"iban\": \"secret\"' AS BLOB)";
    rusqlite::Connection::open(&file).unwrap().execute_batch(by_hand).unwrap();
    const NOTE: &str = "the body is not shown: it cannot be read as JSON, so --redact hides all of it\n";
    let text = inbox(&file, &["show", "job-new", "--redact", "iban"]).await;
    assert!(text.code == Some(0) && text.err == NOTE && !text.out.contains("secret"), "{text:?}");
    let json = inbox(&file, &["show", "job-new", "--redact", "iban", "--format", "json"]).await;
    assert_eq!((json.err.as_str(), &json.json()["body"]), (NOTE, &Value::Null));
    assert!(inbox(&file, &["show", "job-new"]).await.out.contains("secret"));
}

/// Fills pages of its own with the body of a dead letter, and overwrites one of them.
async fn with_a_damaged_body(folder: &Folder) -> String {
    const PAGE: usize = 4096;
    let file = filled(folder).await;
    let store = SqliteInbox::open(&file).unwrap();
    let data = json!({"id": "job-damaged", "type": "extract", "status": "completed"});
    let body = json!({"job_id": "job-damaged", "data": data, "padding": "x".repeat(10 * PAGE)}).to_string();
    store.receive(&Envelope::try_from(Bytes::from(body)).unwrap()).await.unwrap();
    for leased in store.lease(9, LEASE).await.unwrap() {
        let _ = store.settle(&leased.lease, &Outcome::Dead { error: "why".into() }).await.unwrap();
    }
    rusqlite::Connection::open(&file)
        .unwrap()
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        .unwrap();
    drop(store);
    let mut bytes = std::fs::read(&file).unwrap();
    let of_the_body = |page: &&mut [u8]| page[4..].iter().all(|byte| *byte == b'x');
    bytes.chunks_exact_mut(PAGE).find(of_the_body).expect("no page of the body").fill(0xff);
    std::fs::write(&file, bytes).unwrap();
    file
}

#[tokio::test]
async fn a_row_with_a_damaged_body_is_shown_replayed_and_discarded() {
    let folder = Folder::new();
    let file = with_a_damaged_body(&folder).await;
    const ERROR: &str = "the body cannot be read: the store is unavailable: database disk image is malformed";
    inbox(&file, &["show", "job-damaged"]).await.shows(
        1,
        "\
job  job-damaged
state  dead
type  extract
status  completed
verified  no
attempts  1
age  TIME
next  -
error  why
failed  attempt 1, TIME ago, after TIME: why
",
        &format!("error: {ERROR}\n"),
    );
    let shown = inbox(&file, &["show", "job-damaged", "--format", "json"]).await;
    assert_eq!((shown.code, shown.err.as_str()), (Some(1), &*format!("error: {ERROR}\n")));
    let json = shown.json();
    assert_eq!((&json["state"], &json["body"]), (&json!("dead"), &Value::Null));
    assert_eq!(json["failures"][0]["error"], json!("why"));
    inbox(&file, &["show", "job-damaged", "--raw"]).await.shows(1, "", &format!("error: {ERROR}\n"));

    let dead = |jobs: [&str; 2]| {
        let header = LIST.lines().next().unwrap();
        let rows = jobs.map(|job| match job {
            "job-damaged" => "job-damaged  dead  1  TIME  -  extract  completed  why",
            _ => LIST.lines().find(|line| line.starts_with(job)).unwrap(),
        });
        format!("{header}\n{}\n", rows.join("\n"))
    };
    inbox(&file, &["replay", "job-damaged", "job-odd", "--yes"]).await.shows(
        0,
        &format!("{}2 replayed\n", dead(["job-damaged", "job-odd"])),
        "",
    );
    let row = inbox(&file, &["show", "job-damaged", "--format", "json"]).await.json();
    assert_eq!(row["state"], json!("received"));
    // Finds that it cannot be read.
    let store = SqliteInbox::open(&file).unwrap();
    store.lease(9, LEASE).await.unwrap();
    drop(store);
    let discarded = inbox(&file, &["discard", "job-dead", "job-damaged", "--yes"]).await;
    assert!(discarded.code == Some(0) && discarded.out.ends_with("\n2 discarded\n"), "{discarded:?}");
    inbox(&file, &["show", "job-damaged"]).await.shows(
        1,
        "",
        "error: the inbox has no row for the job job-damaged\n",
    );
}

#[tokio::test]
async fn rows_are_counted_by_state() {
    let folder = Folder::new();
    let file = filled(&folder).await;
    inbox(&file, &["stats"]).await.shows(
        0,
        "\
expected  1
received  2  waiting for an attempt
running  1  leased to workers
done  1
dead  2  dead letters
                509  bytes in bodies
oldest due row: due for TIME
",
        "",
    );
}

#[tokio::test]
async fn dead_letters_are_replayed_after_a_dry_run() {
    let folder = Folder::new();
    let file = filled(&folder).await;
    let table = "\
JOB  STATE  ATTEMPTS  AGE  NEXT  TYPE  STATUS  LAST ERROR
job-dead  dead  1  TIME  -  fill_pdf  failed  no such\\u{1b}[31m customer
job-odd  dead  1  TIME  -  summarize  processing  an unknown type
";
    let dry = inbox(&file, &["replay", "--all", "--dry-run"]).await;
    dry.shows(0, &format!("{table}2 would be replayed\n"), "");
    inbox(&file, &["replay", "--all"]).await.shows(
        2,
        table,
        "error: Replay these 2 events in FOLDER/inbox.db?\n  \
            This question needs a terminal to answer on\n  \
            Give --yes to go on without it, or --dry-run to see the effect\n",
    );
    inbox(&file, &["list"]).await.shows(0, LIST, "");

    let one = inbox(&file, &["replay", "--all", "--status", "failed", "--yes", "--format", "json"]).await;
    let expected = json!({"replayed": 1, "not_replayed": {}, "more": false, "dry_run": false});
    assert_eq!((one.code, one.json()), (Some(0), expected), "dead is meant without a state");
    let row = inbox(&file, &["list", "--type", "fill_pdf", "--format", "json"]).await.json();
    let counts = (row["attempts"].as_u64(), row["earlier_attempts"].as_u64());
    assert_eq!((row["state"].as_str(), counts), (Some("received"), (Some(0), Some(1))));

    let all = inbox(&file, &["replay", "--all", "--state", "done", "--yes"]).await;
    assert!(all.code == Some(0) && all.out.ends_with("\n1 replayed\n"), "{all:?}");
    inbox(&file, &["replay", "--all", "--state", "running", "--yes"]).await.shows(
        2,
        "",
        "error: --state: running events cannot be replayed\n  Give --state dead or --state done\n",
    );
    let none = inbox(&file, &["replay", "--all", "--type", "nothing", "--yes"]).await;
    none.shows(0, "0 replayed\n", "");
}

#[tokio::test]
async fn dead_letters_are_discarded_after_a_dry_run() {
    let folder = Folder::new();
    let file = filled(&folder).await;
    let table = "\
JOB  STATE  ATTEMPTS  AGE  NEXT  TYPE  STATUS  LAST ERROR
job-dead  dead  1  TIME  -  fill_pdf  failed  no such\\u{1b}[31m customer
job-odd  dead  1  TIME  -  summarize  processing  an unknown type
";
    let dry = inbox(&file, &["discard", "--all", "--dry-run"]).await;
    dry.shows(0, &format!("{table}2 would be discarded\n"), "");
    let one = inbox(&file, &["discard", "--all", "--limit", "1", "--dry-run"]).await;
    assert!(one.out.ends_with("\n1 would be discarded\n") && one.err == "more rows match\n", "{one:?}");
    inbox(&file, &["discard", "--all"]).await.shows(
        2,
        table,
        "error: Discard these 2 dead letters in FOLDER/inbox.db?\n  \
            This question needs a terminal to answer on\n  \
            Give --yes to go on without it, or --dry-run to see the effect\n",
    );
    for (args, error) in [
        (
            &["--all", "--state", "done"] as &[_],
            "--state: done events cannot be discarded\n  Leave --state out",
        ),
        (
            &["--error", "no"],
            "no events selected\n  Give job ids, or --all with options such as --state dead",
        ),
    ] {
        let refused = inbox(&file, &[&["discard", "--yes"], args].concat()).await;
        refused.shows(2, "", &format!("error: {error}\n"));
    }
    inbox(&file, &["list"]).await.shows(0, LIST, "");

    let named =
        inbox(&file, &["discard", "job-odd", "job-done", "job-nobody", "--yes", "--format", "json"]).await;
    let expected = json!({
        "discarded": 1,
        "not_discarded": {"job-done": "the event is done", "job-nobody": "the inbox has no row for it"},
        "more": false,
        "dry_run": false,
    });
    assert_eq!((named.code, named.json()), (Some(1), expected));
    let all = inbox(&file, &["discard", "--all", "--job", "job-", "--yes"]).await;
    assert!(all.code == Some(0) && all.out.ends_with("\n1 discarded\n"), "{all:?}");
    let left: String =
        LIST.lines().filter(|line| !line.contains("dead  1")).map(|line| format!("{line}\n")).collect();
    inbox(&file, &["list"]).await.shows(0, &left, "");
    inbox(&file, &["discard", "--all", "--yes"]).await.shows(0, "0 discarded\n", "");
}

#[tokio::test]
async fn jobs_are_replayed_by_their_ids() {
    let folder = Folder::new();
    let file = filled(&folder).await;
    inbox(&file, &["replay", "job-dead", "job-running", "job-nobody", "--yes"]).await.shows(
        1,
        "\
JOB  STATE  ATTEMPTS  AGE  NEXT  TYPE  STATUS  LAST ERROR
job-dead  dead  1  TIME  -  fill_pdf  failed  no such\\u{1b}[31m customer
1 replayed
",
        "job-running not replayed: the event is running\njob-nobody not replayed: the inbox has no row for it\n",
    );
    let done = inbox(&file, &["replay", "job-done", "--yes", "--format", "json"]).await;
    assert_eq!((done.code, done.json()["replayed"].as_u64()), (Some(0), Some(1)));
    let both = inbox(&file, &["replay", "job-odd", "--state", "dead"]).await;
    assert_eq!(both.code, Some(2), "{both:?}");
}

const REFUSED: &str = "the store is unavailable: refused: Error code 1811: constraint failed";

/// Lets every change of the rows of these jobs fail.
fn refuse(file: &str, is_refused: &str) {
    let triggers = format!(
        "CREATE TRIGGER refuse_delete BEFORE DELETE ON inbox WHEN {is_refused} BEGIN SELECT RAISE(ABORT, 'refused'); END;
         CREATE TRIGGER refuse_update BEFORE UPDATE ON inbox WHEN {is_refused} BEGIN SELECT RAISE(ABORT, 'refused'); END;"
    );
    rusqlite::Connection::open(file)
        .unwrap()
        .execute_batch(&triggers.replace("job_id", "old.job_id"))
        .unwrap();
}

#[tokio::test]
async fn a_job_that_is_given_twice_is_replayed_once() {
    let folder = Folder::new();
    let file = filled(&folder).await;
    let twice = inbox(&file, &["replay", "job-odd", "job-odd", "job-none", "job-none", "--yes"]).await;
    let (header, row) = (LIST.lines().next().unwrap(), LIST.lines().nth(3).unwrap());
    let none = "job-none not replayed: the inbox has no row for it\n";
    twice.shows(1, &format!("{header}\n{row}\n1 replayed\n"), none);
    let twice = inbox(&file, &["discard", "job-dead", "job-dead", "--yes", "--format", "json"]).await;
    assert_eq!((twice.code, twice.json()["discarded"].as_u64()), (Some(0), Some(1)));
}

#[tokio::test]
async fn the_error_of_one_job_keeps_no_other_from_being_changed() {
    let folder = Folder::new();
    let file = filled(&folder).await;
    refuse(&file, "job_id = 'job-dead'");
    for (command, done) in [("replay", "replayed"), ("discard", "discarded")] {
        let reason = format!("the store did not confirm it: {REFUSED}");
        let ran = inbox(&file, &[command, "job-dead", "job-odd", "--yes", "--format", "json"]).await;
        let not_done = &ran.json()[format!("not_{done}")];
        assert_eq!((ran.code, ran.json()[done].as_u64()), (Some(1), Some(1)), "{ran:?}");
        assert_eq!(*not_done, json!({"job-dead": reason}));
        let dead = "UPDATE inbox SET state = 'dead', due_at = NULL WHERE job_id = 'job-odd'";
        rusqlite::Connection::open(&file).unwrap().execute_batch(dead).unwrap();
    }
}

#[tokio::test]
async fn a_store_that_refuses_three_jobs_is_not_tried_with_all_others() {
    let folder = Folder::new();
    let file = filled(&folder).await;
    let dead = "UPDATE inbox SET state = 'dead', due_at = NULL";
    rusqlite::Connection::open(&file).unwrap().execute_batch(dead).unwrap();
    refuse(&file, "job_id <> 'job-odd'");
    // One success among the errors.
    let jobs = ["job-again", "job-odd", "job-dead", "job-done", "job-expected", "job-new", "job-running"];
    let ran = inbox(&file, &[&["discard", "--yes"], &jobs[..]].concat()).await;
    let refused = &*format!("the store did not confirm it: {REFUSED}");
    let not_tried = "not tried, after three errors in a row";
    let reasons =
        [("job-again", refused), ("job-dead", refused), ("job-done", refused), ("job-expected", refused)];
    let reasons = reasons.into_iter().chain([("job-new", not_tried), ("job-running", not_tried)]);
    let errors: String = reasons.map(|(job, reason)| format!("{job} not discarded: {reason}\n")).collect();
    assert_eq!((ran.code, ran.err.as_str()), (Some(1), errors.as_str()));
    assert!(ran.out.ends_with("\n1 discarded\n"), "{ran:?}");
}

#[tokio::test]
async fn an_error_among_many_changes_says_what_was_changed_before_it() {
    let folder = Folder::new();
    let file = folder.file("inbox.db");
    drop(SqliteInbox::open(&file).unwrap());
    let by_hand = "WITH RECURSIVE numbers (number) AS
            (SELECT 1 UNION ALL SELECT number + 1 FROM numbers WHERE number < 1500)
        INSERT INTO inbox (job_id, state, received_at, ended_at)
        SELECT 'job-' || number, 'done', 1, number FROM numbers";
    rusqlite::Connection::open(&file).unwrap().execute_batch(by_hand).unwrap();
    refuse(&file, "job_id = 'job-1500'");
    inbox(&file, &["prune", "--yes"]).await.shows(
        1,
        "",
        &format!("error: {REFUSED}\n  At least 0 bodies and 1000 rows were deleted before the error\n"),
    );
    let dead = "DROP TRIGGER refuse_update; UPDATE inbox SET state = 'dead'";
    rusqlite::Connection::open(&file).unwrap().execute_batch(dead).unwrap();
    let discarded = inbox(&file, &["discard", "--all", "--yes", "--format", "json"]).await;
    discarded.shows(
        1,
        "",
        &format!("error: {REFUSED}\n  Some events may have been discarded before the error\n"),
    );
}

#[tokio::test]
async fn a_row_among_many_is_shown_before_its_change() {
    let folder = Folder::new();
    let file = folder.file("inbox.db");
    drop(SqliteInbox::open(&file).unwrap());
    let by_hand = "WITH RECURSIVE numbers (number) AS
            (SELECT 1 UNION ALL SELECT number + 1 FROM numbers WHERE number < 7000)
        INSERT INTO inbox (job_id, state, received_at, error)
        SELECT 'job-' || number, 'dead', 1, iif(number % 3500 = 0, 'wanted', 'another') FROM numbers";
    rusqlite::Connection::open(&file).unwrap().execute_batch(by_hand).unwrap();
    let discarded = inbox(&file, &["discard", "--all", "--error", "wanted", "--yes"]).await;
    let rows: Vec<_> = discarded.out.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(rows, ["JOB", "job-3500", "job-7000", "2"], "{discarded:?}");
}

#[tokio::test]
async fn a_job_that_died_without_an_event_is_expected_again() {
    let folder = Folder::new();
    let file = folder.file("inbox.db");
    let store = SqliteInbox::open(&file).unwrap();
    store.expect(&"job-none".parse().unwrap(), Duration::ZERO).await.unwrap();
    let lease = store.overdue(1, LEASE).await.unwrap().remove(0).lease;
    let disowned = Outcome::Rejected { error: "the API has no such job".into() };
    let _ = store.settle(&lease, &disowned).await.unwrap();
    let shown = inbox(&file, &["show", "job-none"]).await;
    assert!(shown.out.ends_with("\nbody      no event arrived, or the API rejected the job\n"), "{shown:?}");
    inbox(&file, &["replay", "job-none", "--yes"]).await.shows(
        0,
        "\
JOB  STATE  ATTEMPTS  AGE  NEXT  TYPE  STATUS  LAST ERROR
job-none  dead  0  TIME  -  -  -  the API has no such job
1 replayed
",
        "",
    );
    let row = inbox(&file, &["list", "--format", "json"]).await.json();
    assert_eq!((&row["state"], row["due_in_seconds"].as_f64()), (&json!("expected"), Some(0.0)));
}

#[tokio::test]
async fn many_events_are_replayed_each_once() {
    let folder = Folder::new();
    let file = folder.file("inbox.db");
    let store = SqliteInbox::open(&file).unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..2500 {
        let store = store.clone();
        tasks.spawn(async move {
            let id = format!("job-{number}");
            let body = json!({"job_id": id, "data": {"id": id, "type": "extract", "status": "failed"}});
            store.receive(&Envelope::try_from(Bytes::from(body.to_string())).unwrap()).await.unwrap();
        });
    }
    tasks.join_all().await;
    for leased in store.lease(2500, HOUR).await.unwrap() {
        let store = store.clone();
        tokio::spawn(async move { store.settle(&leased.lease, &Outcome::Dead { error: "no".into() }).await });
    }
    while store.contains(&"job-0".parse().unwrap()).await.unwrap()
        && qomplement_webhooks::inbox::InboxAdmin::stats(&store).await.unwrap().dead < 2500
    {
        tokio::task::yield_now().await;
    }
    let dry = inbox(&file, &["replay", "--all", "--dry-run"]).await;
    assert!(dry.out.ends_with("… and 2480 more\n2500 would be replayed\n"), "{dry:?}");
    assert_eq!(dry.out.lines().count(), 23, "the first 20 are shown");
    let some = inbox(&file, &["replay", "--all", "--limit", "1001", "--yes", "--format", "json"]).await;
    assert_eq!(some.json()["replayed"], json!(1001));
    let all = inbox(&file, &["replay", "--all", "--yes", "--format", "json"]).await;
    assert_eq!(all.json()["replayed"], json!(1499));
    let listed = inbox(&file, &["list", "--limit", "0"]).await;
    assert_eq!(listed.out.lines().count(), 2501, "one header and each row once");
}

#[tokio::test]
async fn done_events_are_pruned_and_dead_letters_only_if_that_is_wanted() {
    let folder = Folder::new();
    let file = filled(&folder).await;
    let prune = async |args: &[&str]| inbox(&file, &[&["prune"], args].concat()).await;
    prune(&["--dry-run"]).await.shows(0, "0 bodies and 0 rows would be deleted, at most\n", "");
    prune(&["--dry-run", "--bodies", "0s"]).await.shows(
        0,
        "1 body and 0 rows would be deleted, at most\n",
        "",
    );
    prune(&["--bodies", "0s"]).await.shows(
        2,
        "",
        "error: Delete bodies of events done for TIME, and rows for 30days, in FOLDER/inbox.db?\n  \
            At most 1 body and 0 rows\n  \
            This question needs a terminal to answer on\n  \
            Give --yes to go on without it, or --dry-run to see the effect\n",
    );
    prune(&["--bodies", "0s", "--yes"]).await.shows(0, "1 body and 0 rows deleted\n", "");
    inbox(&file, &["replay", "job-done", "--yes"]).await.shows(
        1,
        "0 replayed\n",
        "job-done not replayed: the event was pruned\n",
    );
    let rows = prune(&["--bodies", "0s", "--rows", "0s", "--yes", "--format", "json"]).await;
    assert_eq!(rows.json(), json!({"bodies": 0, "rows": 1, "dead": 0, "dry_run": false}));
    let left = LIST.replace("job-done  done  1  TIME  -  extract  completed\n", "");
    inbox(&file, &["list"]).await.shows(0, &left, "");

    prune(&["--dry-run", "--dead", "0s"]).await.shows(
        0,
        "0 bodies, 0 rows and 2 dead letters would be deleted, at most\n",
        "",
    );
    prune(&["--dead", "1h", "--yes"]).await.shows(0, "0 bodies, 0 rows and 0 dead letters deleted\n", "");
    let dead = prune(&["--dead", "0s", "--yes", "--format", "json"]).await;
    assert_eq!(dead.json(), json!({"bodies": 0, "rows": 0, "dead": 2, "dry_run": false}));
}

#[tokio::test]
async fn pruning_ends_beside_a_worker_that_finishes_events_meanwhile() {
    let folder = Folder::new();
    let file = filled(&folder).await;
    // Another event is done whenever one is deleted.
    let busy = "CREATE TRIGGER busy AFTER DELETE ON inbox BEGIN
        INSERT INTO inbox (job_id, state, received_at, ended_at)
        VALUES (hex(randomblob(8)), 'done', 1, unixepoch('subsec') * 1000000); END";
    rusqlite::Connection::open(&file).unwrap().execute_batch(busy).unwrap();
    let pruned = inbox(&file, &["prune", "--bodies", "0s", "--rows", "0s", "--yes"]).await;
    assert!(pruned.code == Some(0) && pruned.out.ends_with("deleted\n"), "{pruned:?}");
    let left = inbox(&file, &["list", "--state", "done"]).await;
    assert_eq!(left.out.lines().count(), 2, "a header and a row: {left:?}");
}

#[tokio::test]
async fn a_wrong_path_creates_and_changes_nothing() {
    let folder = Folder::new();
    let missing = folder.file("missing.db");
    let command = "list";
    inbox(&missing, &[command]).await.shows(
        1,
        "",
        "error: FOLDER/missing.db does not exist\n  \
            Check the folder: a server creates the file with `SqliteInbox::open`\n",
    );
    assert!(!std::path::Path::new(&missing).exists(), "a file was made");
    for (name, content, what) in [
        ("empty.db", "".as_bytes(), SqliteInboxError::NotAnInbox),
        ("text.db", &[b'x'; 5000], SqliteInboxError::NotADatabase),
    ] {
        let file = folder.write(name, content);
        let refused = inbox(&file, &[command]).await;
        refused.shows(
            1,
            "",
            &format!(
                "error: FOLDER/{name}: {what}\n  Check the name of the file; nothing in it was changed\n"
            ),
        );
        assert_eq!(std::fs::read(&file).unwrap(), content, "{name} was changed");
    }
    let other = folder.file("other.db");
    rusqlite::Connection::open(&other).unwrap().execute_batch("CREATE TABLE mine (id INTEGER)").unwrap();
    let refused = inbox(&other, &[command]).await;
    assert!(
        refused.code == Some(1) && refused.err.contains(&SqliteInboxError::NotAnInbox.to_string()),
        "{refused:?}"
    );
    let typo = inbox("postgres:/me:hidden-secret@host/db", &[command]).await;
    assert!(typo.code == Some(1) && !typo.err.contains("hidden-secret"), "{typo:?}");
    assert!(typo.err.contains("A URL begins with postgres://"), "{typo:?}");
    let folder_itself = folder.0.to_str().unwrap();
    let refused = inbox(folder_itself, &[command]).await;
    assert!(
        refused.code == Some(1) && refused.err.contains("is a folder\n  Give the file of the inbox in it"),
        "{refused:?}"
    );
    for scheme in ["sqlite:inbox.db", "sqlite://inbox.db", "file:inbox.db", "file:///inbox.db"] {
        let refused = inbox(scheme, &[command]).await;
        assert!(
            refused.err.contains("without a scheme") && refused.err.contains("--db inbox.db"),
            "{refused:?}"
        );
    }
    let table = inbox(&other, &[command, "--table", "a.b"]).await;
    table.shows(
        2,
        "",
        "error: --table needs a postgres:// URL: an SQLite file holds one inbox\n  Leave --table out\n",
    );
}

#[tokio::test]
async fn a_locked_file_is_read_and_a_write_says_that_it_is_locked() {
    let folder = Folder::new();
    let file = filled(&folder).await;
    let writer = rusqlite::Connection::open(&file).unwrap();
    writer.execute_batch("BEGIN IMMEDIATE").unwrap();
    inbox(&file, &["list"]).await.shows(0, LIST, "");
    inbox(&file, &["replay", "job-odd", "--yes", "--format", "json"]).await.shows(
        1,
        "",
        "error: the store is unavailable: database is locked\n  \
            Another program is writing to the file: try again when it has finished\n",
    );
    writer.execute_batch("ROLLBACK").unwrap();
    inbox(&file, &["list"]).await.shows(0, LIST, "");
}

#[tokio::test]
async fn the_database_is_taken_from_the_environment_too() {
    let folder = Folder::new();
    let file = filled(&folder).await;
    let listed = end(command(&["inbox", "list"]).env("DATABASE", &file).spawn().unwrap()).await;
    listed.shows(0, LIST, "");
    let other =
        end(command(&["inbox", "list", "--db", &file]).env("DATABASE", "other").spawn().unwrap()).await;
    other.shows(0, LIST, "");
    let empty = end(command(&["inbox", "list"]).env("DATABASE", "").spawn().unwrap()).await;
    empty.shows(2, "", "error: no inbox given\n  Give --db FILE or --db postgres://…, or set DATABASE\n");
    let odd = std::ffi::OsStr::from_bytes(b"hidden-\xff");
    let odd = end(command(&["inbox", "list"]).env("DATABASE", odd).spawn().unwrap()).await;
    odd.shows(2, "", "error: DATABASE is not valid UTF-8\n  Set it to an SQLite file or a postgres:// URL\n");
}

#[tokio::test]
async fn a_watch_in_a_pipe_prints_each_change() {
    use tokio::io::{AsyncBufReadExt, BufReader};

    let folder = Folder::new();
    let file = filled(&folder).await;
    let mut watch = Going::start(&mut command(&["inbox", "watch", "--db", &file, "--every", "50ms"]));
    let mut lines = BufReader::new(watch.child.stdout.take().unwrap()).lines();
    assert_eq!(
        lines.next_line().await.unwrap().unwrap(),
        "expected 1  received 2  running 1  done 1  dead 2"
    );
    inbox(&file, &["replay", "job-odd", "--yes"]).await;
    assert_eq!(
        lines.next_line().await.unwrap().unwrap(),
        "expected 1  received 3  running 1  done 1  dead 1"
    );
    watch.interrupt().await.shows(0, "", "");
    assert_eq!(lines.next_line().await.unwrap(), None);
}
