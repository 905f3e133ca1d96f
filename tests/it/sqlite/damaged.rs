//! Bodies whose pages are damaged: they keep no other event from being leased, stored or pruned.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use qomplement_webhooks::event::Envelope;
use qomplement_webhooks::inbox::{
    Bulk, InboxAdmin, InboxFilter, InboxState, Leased, Outcome, Receipt, Retention,
};
use qomplement_webhooks::store::{Fenced, StoreError};
use qomplement_webhooks::{InboxStore, InboxWorker, SqliteInbox, Verification};
use rusqlite::Connection;
use tokio::task::JoinSet;

use super::{Folder, HOUR, close, completed, lease_one, receive, settle};
use crate::support::inboxes::all_rows;
use crate::support::{Script, eventually, is_alone};

const PAGE: usize = 4096;

/// An event whose body is mostly this letter, and fills some pages.
fn large(job: &str, letter: &str) -> Envelope {
    large_with(job, "completed", letter)
}

fn large_with(job: &str, status: &str, letter: &str) -> Envelope {
    let data = serde_json::json!({"id": job, "type": "extract", "status": status, "result": {}});
    let body = serde_json::json!({"job_id": job, "data": data, "padding": letter.repeat(10 * PAGE)});
    Envelope::try_from(Bytes::from(body.to_string())).unwrap()
}

/// Overwrites the first page that is chosen, in a file that nobody has open.
fn overwrite(file: &Path, is_chosen: impl Fn(&[u8]) -> bool) {
    let mut bytes = std::fs::read(file).unwrap();
    let page = bytes.chunks_exact_mut(PAGE).find(|page| is_chosen(page)).expect("no page is chosen");
    page.fill(0xff);
    std::fs::write(file, bytes).unwrap();
}

/// Overwrites a page that the body with this letter fills.
fn damage(file: &Path, letter: &str) {
    let letter = letter.as_bytes()[0];
    overwrite(file, |page| page[4..].iter().all(|byte| *byte == letter));
}

fn jobs(leased: &[Leased]) -> Vec<String> {
    leased.iter().map(|leased| leased.lease.job().to_string()).collect()
}

async fn dead(inbox: &SqliteInbox) -> Vec<(String, String)> {
    let dead = all_rows(inbox, &InboxFilter::default().state(InboxState::Dead)).await;
    dead.into_iter().map(|row| (row.job_id, row.error.unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_with_a_damaged_body_is_dead_and_the_others_are_leased() {
    let folder = Folder::new();
    let inbox = SqliteInbox::open(folder.file()).unwrap();
    receive(&inbox, "first").await;
    inbox.receive(&large("damaged", "d")).await.unwrap();
    inbox.receive(&large("large", "l")).await.unwrap();
    receive(&inbox, "last").await;
    close(inbox, &folder).await;
    damage(&folder.file(), "d");

    let inbox = SqliteInbox::open(folder.file()).unwrap();
    let leased = inbox.lease(100, HOUR).await.unwrap();
    assert_eq!(jobs(&leased), ["first", "large", "last"]);
    assert_eq!(leased[1].body, *large("large", "l").body());
    for leased in &leased {
        settle(&inbox, &leased.lease, Outcome::Done).await;
    }
    let found = dead(&inbox).await;
    let [(job, error)] = &*found else { panic!("{found:?}") };
    assert!(
        job == "damaged" && error.contains("its body is damaged") && error.contains("SQLITE_CORRUPT"),
        "{error}"
    );
    let stats = inbox.stats().await.unwrap();
    assert_eq!((stats.dead, stats.done, stats.running), (1, 3, 0));
    // It can be replayed, in vain as long as it is damaged, and discarded.
    let job = job.parse().unwrap();
    assert!(inbox.replay(&job).await.unwrap());
    assert!(inbox.lease(100, HOUR).await.unwrap().is_empty());
    assert!(inbox.discard(&job).await.unwrap());
    assert_eq!(inbox.receive(&large("damaged", "d")).await.unwrap(), Receipt::Stored);
    assert_eq!(jobs(&inbox.lease(100, HOUR).await.unwrap()), ["damaged"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_handles_the_events_beside_a_damaged_one() {
    let folder = Folder::new();
    let inbox = SqliteInbox::open(folder.file()).unwrap();
    inbox.receive(&large("damaged", "d")).await.unwrap();
    for number in 0..20 {
        receive(&inbox, format!("job-{number}")).await;
    }
    close(inbox, &folder).await;
    damage(&folder.file(), "d");
    let inbox = SqliteInbox::open(folder.file()).unwrap();
    let script = Script::default();
    let worker = InboxWorker::new(inbox.clone(), script.handler(), Verification::Trust).start();
    script.until("the others are handled", |script| script.finished() == 20).await;
    eventually("they are recorded", async || inbox.stats().await.unwrap().done == 20).await;
    worker.shutdown(Duration::from_secs(5)).await;
    assert_eq!(dead(&inbox).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_bodies_keep_no_other_row_from_being_pruned_discarded_or_received() {
    let folder = Folder::new();
    let inbox = SqliteInbox::open(folder.file()).unwrap();
    let letters = ["a", "b", "c", "d"];
    for letter in letters {
        inbox.receive(&large(letter, letter)).await.unwrap();
    }
    for leased in inbox.lease(4, HOUR).await.unwrap() {
        let error = || "why".to_owned();
        let is_done = ["a", "b"].contains(&&*leased.lease.job().to_string());
        let outcome = if is_done { Outcome::Done } else { Outcome::Dead { error: error() } };
        settle(&inbox, &leased.lease, outcome).await;
    }
    close(inbox, &folder).await;
    for letter in ["a", "c"] {
        damage(&folder.file(), letter);
    }

    let inbox = SqliteInbox::open(folder.file()).unwrap();
    // Its duplicate cannot be compared, and takes no other event with it.
    let mut receives = JoinSet::new();
    for event in (0..20).map(completed).chain([large("c", "c")]) {
        let inbox = inbox.clone();
        receives.spawn(async move { (event.job().to_string(), inbox.receive(&event).await) });
    }
    for (job, received) in receives.join_all().await {
        assert_eq!(received.is_ok(), job != "c", "{job}: {received:?}");
    }
    let bodies = Retention::default().payload(Duration::ZERO).row(HOUR);
    let pruned = inbox.prune(&bodies).await.unwrap();
    assert_eq!((pruned.payloads, pruned.rows), (2, 0));
    // The damaged body that is left is no longer that of the row.
    assert_eq!(inbox.receive(&large("a", "a")).await.unwrap(), Receipt::Duplicate);
    assert!(matches!(inbox.get(&"a".parse().unwrap()).await.unwrap(), Some((_, None))));
    let all = bodies.row(Duration::ZERO);
    assert_eq!(inbox.prune(&all).await.unwrap().rows, 2);
    let discarded = inbox.discard_all(&InboxFilter::default(), 10, Bulk::Apply).await.unwrap();
    assert_eq!((discarded.rows, discarded.more), (2, false));
    let stats = inbox.stats().await.unwrap();
    assert_eq!((stats.dead, stats.done, stats.received), (0, 0, 20));
    check_counts(&folder, 24, 2);
}

/// Otherwise, the job's event would be refused until a backup is restored.
#[tokio::test]
async fn an_event_is_stored_where_a_damaged_body_was_left() {
    let folder = Folder::new();
    let inbox = SqliteInbox::open(folder.file()).unwrap();
    let job = "job".parse().unwrap();
    inbox.expect(&job, HOUR).await.unwrap();
    inbox.receive(&large_with("job", "processing", "d")).await.unwrap();
    let lease = lease_one(&inbox).await;
    close(inbox, &folder).await;
    damage(&folder.file(), "d");

    let inbox = SqliteInbox::open(folder.file()).unwrap();
    settle(&inbox, &lease, Outcome::Done).await;
    assert_eq!(inbox.stats().await.unwrap().expected, 1);
    let (row, body) = inbox.get(&job).await.unwrap().unwrap();
    assert_eq!((row.state, body), (InboxState::Expected, None));
    check_counts(&folder, 1, 0);
    let event = large("job", "e");
    assert_eq!(inbox.receive(&event).await.unwrap(), Receipt::Stored);
    assert_eq!(inbox.receive(&event).await.unwrap(), Receipt::Duplicate);
    let leased = inbox.lease(10, HOUR).await.unwrap().remove(0);
    assert!(leased.body == *event.body() && leased.lease.fence() > lease.fence());
    settle(&inbox, &leased.lease, Outcome::Done).await;
    check_counts(&folder, 2, 1);
}

#[tokio::test]
async fn a_fetched_event_is_stored_where_a_damaged_body_was_left() {
    let folder = Folder::new();
    let inbox = SqliteInbox::open(folder.file()).unwrap();
    inbox.expect(&"job".parse().unwrap(), Duration::ZERO).await.unwrap();
    inbox.receive(&large_with("job", "processing", "d")).await.unwrap();
    let lease = lease_one(&inbox).await;
    close(inbox, &folder).await;
    damage(&folder.file(), "d");

    let inbox = SqliteInbox::open(folder.file()).unwrap();
    settle(&inbox, &lease, Outcome::Done).await;
    let overdue = inbox.overdue(1, HOUR).await.unwrap().remove(0).lease;
    let event = large("job", "e");
    assert_eq!(inbox.verify(&overdue, &event).await.unwrap(), Fenced::Applied);
    let leased = inbox.lease(10, HOUR).await.unwrap().remove(0);
    assert!(leased.verified && leased.body == *event.body() && leased.lease.fence() > overdue.fence());
    check_counts(&folder, 2, 0);
}

#[tokio::test]
async fn a_final_event_takes_the_place_of_one_whose_body_is_damaged() {
    let folder = Folder::new();
    let inbox = SqliteInbox::open(folder.file()).unwrap();
    for (job, letter) in [("dead", "d"), ("running", "r"), ("received", "w")] {
        inbox.receive(&large_with(job, "processing", letter)).await.unwrap();
        match job {
            "dead" => {
                let lease = lease_one(&inbox).await;
                settle(&inbox, &lease, Outcome::Dead { error: "why".into() }).await;
            }
            "running" => assert_eq!(jobs(&inbox.lease(1, HOUR).await.unwrap()), ["running"]),
            _ => {}
        }
    }
    close(inbox, &folder).await;
    for letter in ["d", "r", "w"] {
        damage(&folder.file(), letter);
    }

    let inbox = SqliteInbox::open(folder.file()).unwrap();
    for job in ["dead", "running", "received"] {
        let event = large(job, "e");
        assert_eq!(inbox.receive(&event).await.unwrap(), Receipt::Stored, "{job}");
        let (row, body) = inbox.get(event.job()).await.unwrap().unwrap();
        assert_eq!((row.status.as_deref(), body.as_ref()), (Some("completed"), Some(event.body())), "{job}");
    }
    let stats = inbox.stats().await.unwrap();
    assert_eq!((stats.dead, stats.running, stats.received), (0, 1, 2));
    assert_eq!(jobs(&inbox.lease(10, HOUR).await.unwrap()), ["dead", "received"]);
    check_counts(&folder, 6, 0);
}

/// A new number would end the lease, under which the handler may run.
#[tokio::test]
async fn a_lease_goes_on_when_a_fetched_event_cannot_take_the_place_of_a_damaged_body() {
    let folder = Folder::new();
    let inbox = SqliteInbox::open(folder.file()).unwrap();
    inbox.receive(&large("job", "d")).await.unwrap();
    let lease = lease_one(&inbox).await;
    close(inbox, &folder).await;
    damage(&folder.file(), "d");

    let inbox = SqliteInbox::open(folder.file()).unwrap();
    // Of the same length, so that SQLite could overwrite the damaged pages, and those that they name.
    let refused = inbox.verify(&lease, &large("job", "e")).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    assert_eq!(inbox.renew(&lease, HOUR).await.unwrap(), Fenced::Applied);
    settle(&inbox, &lease, Outcome::Done).await;
    check_counts(&folder, 1, 1);
}

/// Collects the log.
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Transactions that are rolled back log nothing.
#[tokio::test]
async fn damage_is_logged_once() {
    if !is_alone("sqlite::damaged::damage_is_logged_once") {
        return;
    }
    let log = Arc::new(Mutex::new(Vec::new()));
    let lines = log.clone();
    tracing_subscriber::fmt().with_ansi(false).with_writer(move || Log(lines.clone())).init();
    let logged = |text: &str| {
        let log = String::from_utf8(log.lock().unwrap().clone()).unwrap();
        log.lines().filter(|line| line.contains(text)).map(str::to_owned).collect::<Vec<_>>()
    };
    let folder = Folder::new();
    let inbox = SqliteInbox::open(folder.file()).unwrap();
    let letters = ["a", "b", "c"];
    for letter in letters {
        inbox.receive(&large(letter, letter)).await.unwrap();
    }
    close(inbox, &folder).await;
    for letter in letters {
        damage(&folder.file(), letter);
    }
    let inbox = SqliteInbox::open(folder.file()).unwrap();
    assert!(inbox.lease(10, HOUR).await.unwrap().is_empty());
    assert_eq!(logged("it is dead now").len(), 3, "{:?}", logged(""));
    let discarded = inbox.discard_all(&InboxFilter::default(), 10, Bulk::Apply).await.unwrap();
    assert_eq!(discarded.rows, 3);
    let left = logged("cannot be deleted");
    assert!(left.len() == 1 && left[0].contains("bodies=3 ids=[1, 2, 3]"), "{left:?}");
}

/// Checks that the totals are what the rows add up to, and how many events were received and handled.
fn check_counts(folder: &Folder, received: i64, handled: i64) {
    let connection = Connection::open(folder.file()).unwrap();
    let numbers = "SELECT (SELECT count(*) FROM inbox_total WHERE (rows, bytes) <>
            (SELECT count(*), coalesce(sum(bytes), 0) FROM inbox WHERE inbox.state = inbox_total.state)),
        sum(received), sum(handled) FROM inbox_traffic";
    let found: (i64, i64, i64) =
        connection.query_row(numbers, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
    assert_eq!(found, (0, received, handled));
}

/// Overwrites the page of the table of bodies on which the small body of a job is.
fn damage_page_of(folder: &Folder, job: &str) {
    let id = format!("\"job_id\":\"{job}\"");
    let holds = |page: &[u8]| page.windows(id.len()).any(|part| part == id.as_bytes());
    overwrite(&folder.file(), |page| page[0] == 0x0d && holds(page));
}

async fn receive_small(inbox: &SqliteInbox) {
    for number in 10..50 {
        inbox.receive(&super::event(&format!("job-{number}"), "completed", 700)).await.unwrap();
    }
}

/// New events cannot be stored until a backup is restored, and those that were stored are handled.
#[tokio::test]
async fn rows_whose_bodies_begin_on_a_damaged_last_page_are_dead_and_the_others_are_leased() {
    let folder = Folder::new();
    let inbox = SqliteInbox::open(folder.file()).unwrap();
    receive_small(&inbox).await;
    close(inbox, &folder).await;
    damage_page_of(&folder, "job-49");

    let inbox = SqliteInbox::open(folder.file()).unwrap();
    inbox.receive(&completed("new")).await.unwrap_err();
    let leased = inbox.lease(100, HOUR).await.unwrap();
    let dead = dead(&inbox).await;
    assert_eq!(leased.len() + dead.len(), 40);
    assert!((1..8).contains(&dead.len()) && dead.iter().any(|(job, _)| job == "job-49"), "{dead:?}");
    inbox.receive(&completed("new")).await.unwrap_err();
    check_counts(&folder, 40, 0);
}

/// A page of the table of bodies, in which several begin.
#[tokio::test(flavor = "multi_thread")]
async fn rows_whose_bodies_begin_on_a_damaged_page_are_dead_and_the_others_are_leased() {
    let folder = Folder::new();
    let inbox = SqliteInbox::open(folder.file()).unwrap();
    receive_small(&inbox).await;
    close(inbox, &folder).await;
    damage_page_of(&folder, "job-20");

    let inbox = SqliteInbox::open(folder.file()).unwrap();
    let leased = inbox.lease(100, HOUR).await.unwrap();
    let dead = dead(&inbox).await;
    assert_eq!(leased.len() + dead.len(), 40);
    assert!((2..8).contains(&dead.len()), "{dead:?}");
    assert!(dead.iter().any(|(job, _)| job == "job-20"), "{dead:?}");
    assert_eq!(receive(&inbox, "new").await, Receipt::Stored);
    assert_eq!(
        inbox.prune(&Retention::default().dead(Duration::ZERO)).await.unwrap().dead,
        dead.len() as u64
    );
}

/// As new events could not be stored, either, nothing is wrong with a single event.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_table_of_bodies_makes_no_row_dead() {
    let folder = Folder::new();
    let inbox = SqliteInbox::open(folder.file()).unwrap();
    receive(&inbox, "job").await;
    close(inbox, &folder).await;
    // The only page of that table.
    let holds = |page: &[u8], text: &[u8]| page.windows(text.len()).any(|part| part == text);
    overwrite(&folder.file(), |page| page[0] == 0x0d && holds(page, br#""padding""#));
    let inbox = SqliteInbox::open(folder.file()).unwrap();
    let refused = inbox.lease(100, HOUR).await.unwrap_err();
    assert!(std::error::Error::source(&refused).unwrap().to_string().contains("malformed"), "{refused:?}");
    assert_eq!(inbox.stats().await.unwrap().dead, 0);
}
