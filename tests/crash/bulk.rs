//! Rows are replayed and discarded by the thousand, beside workers that are killed.

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader, PipeWriter, Write};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use qomplement_webhooks::event::Envelope;
use qomplement_webhooks::inbox::{Bulk, InboxAdmin, InboxCursor, InboxFilter, InboxState, Receipt};
use qomplement_webhooks::sender::Payload;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::database::Database;
use crate::kills::random;
use crate::worker::SECOND_FAILURE;

/// The workers' processes.
const WORKERS: usize = 4;
/// How many events are received at once.
const AT_ONCE: usize = 256;

/// What the processes print, and what the test notes, in the order in which it happened: all write to one pipe.
struct Log {
    pipe: PipeWriter,
    reading: JoinHandle<Vec<String>>,
}

impl Log {
    fn new() -> Self {
        let (reader, pipe) = std::io::pipe().unwrap();
        let reading =
            std::thread::spawn(move || BufReader::new(reader).lines().map_while(Result::ok).collect());
        Self { pipe, reading }
    }

    fn end(self) -> Vec<String> {
        drop(self.pipe);
        self.reading.join().unwrap()
    }
}

fn note(mut pipe: &PipeWriter, line: &str) {
    pipe.write_all(format!("{line}\n").as_bytes()).unwrap();
}

/// How many rows were changed.
#[derive(Default)]
struct Counts {
    replayed: AtomicU64,
    discarded: AtomicU64,
    over: AtomicBool,
}

/// Handles events that fail at first, while all dead letters are replayed again and again, and those that failed twice
/// are discarded as well.
pub async fn run(name: &str, database: &Database) -> Vec<String> {
    let rows: usize = std::env::var("ROWS").map_or(2000, |rows| rows.parse().unwrap());
    let inbox: Arc<dyn InboxAdmin> = database.inbox().await.into();
    receive(&inbox, rows).await;
    let (began, log, counts) = (Instant::now(), Log::new(), Arc::new(Counts::default()));
    let mut changes = JoinSet::new();
    for _ in 0..2 {
        changes.spawn(replay(database.inbox().await.into(), counts.clone()));
        changes.spawn(discard(database.inbox().await.into(), counts.clone(), log.pipe.try_clone().unwrap()));
    }
    let mut workers: Vec<Child> = (0..WORKERS).map(|_| start(database, &log)).collect();
    let mut kills = 0;
    let left = async || {
        let stats = inbox.stats().await.unwrap();
        (stats.received + stats.dead, stats.running)
    };
    while left().await.0 > 0 {
        sleep(random(100, 600)).await;
        let mut killed = workers.remove(0);
        let process = killed.id().unwrap();
        killed.kill().await.unwrap();
        note(&log.pipe, &format!("killed {process}"));
        workers.push(start(database, &log));
        kills += 1;
    }
    let ended = timeout(Duration::from_secs(120), async {
        while left().await != (0, 0) {
            sleep(Duration::from_millis(100)).await;
        }
    });
    ended.await.expect("some events are still not handled");
    counts.over.store(true, Ordering::SeqCst);
    changes.join_all().await;
    for mut worker in workers {
        let pid = worker.id().unwrap().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().await.unwrap().success());
        assert!(worker.wait().await.unwrap().success());
    }
    let [replayed, discarded] =
        [&counts.replayed, &counts.discarded].map(|count| count.load(Ordering::SeqCst));
    println!(
        "{name}: {rows} rows, {replayed} replayed, {discarded} discarded, {kills} kills, in {:.1?}",
        began.elapsed()
    );
    let mut wrong = judge(&inbox, rows, discarded, log.end()).await;
    if replayed < rows as u64 / 2 || discarded < rows as u64 / 10 {
        wrong.push(format!("of {rows} rows, only {replayed} were replayed and {discarded} discarded"));
    }
    wrong.extend(database.damage());
    wrong
}

fn job(number: usize) -> String {
    format!("bulk-{number}")
}

async fn receive(inbox: &Arc<dyn InboxAdmin>, rows: usize) {
    let mut receiving = JoinSet::new();
    for number in 0..rows {
        let inbox = inbox.clone();
        receiving.spawn(async move {
            let body = Payload::extract_completed().job_id(job(number)).to_bytes();
            assert_eq!(inbox.receive(&Envelope::try_from(body).unwrap()).await.unwrap(), Receipt::Stored);
        });
        if receiving.len() >= AT_ONCE {
            receiving.join_next().await.unwrap().unwrap();
        }
    }
    receiving.join_all().await;
}

fn start(database: &Database, log: &Log) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["worker", &database.url()]).stdin(Stdio::null());
    command.stdout(log.pipe.try_clone().unwrap()).stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap()
}

fn dead() -> InboxFilter {
    InboxFilter::default().state(InboxState::Dead)
}

async fn replay(inbox: Arc<dyn InboxAdmin>, counts: Arc<Counts>) {
    while !counts.over.load(Ordering::SeqCst) {
        let replayed = inbox.replay_all(&dead(), most(), Bulk::Apply).await.unwrap();
        counts.replayed.fetch_add(replayed.rows, Ordering::SeqCst);
        sleep(random(1, 200)).await;
    }
}

async fn discard(inbox: Arc<dyn InboxAdmin>, counts: Arc<Counts>, pipe: PipeWriter) {
    let filter = dead().error(SECOND_FAILURE);
    while !counts.over.load(Ordering::SeqCst) {
        let before = inbox.list(&filter, InboxCursor::Oldest, 100).await.unwrap().rows;
        let discarded = inbox.discard_all(&filter, most(), Bulk::Apply).await.unwrap();
        counts.discarded.fetch_add(discarded.rows, Ordering::SeqCst);
        for job in before.iter().filter_map(|row| row.job()) {
            if !inbox.contains(&job).await.unwrap() {
                note(&pipe, &format!("discarded {job}"));
            }
        }
        sleep(random(1, 200)).await;
    }
}

/// How many rows one call changes at most.
fn most() -> u64 {
    random(1, 3000).as_millis().try_into().unwrap()
}

/// What is wrong with the rows and the log in the end.
async fn judge(inbox: &Arc<dyn InboxAdmin>, rows: usize, discarded: u64, log: Vec<String>) -> Vec<String> {
    let (mut wrong, mut states) = (Vec::new(), HashMap::new());
    let mut from = Some(InboxCursor::Oldest);
    while let Some(place) = from {
        let list = inbox.list(&InboxFilter::default(), place, 1000).await.unwrap();
        states.extend(list.rows.into_iter().map(|row| (row.job_id, row.state)));
        from = list.next;
    }
    // The process that runs a job's handler.
    let mut running: HashMap<&str, &str> = HashMap::new();
    let (mut handled, mut gone) = (HashSet::new(), HashSet::new());
    for line in &log {
        let words: Vec<_> = line.split(' ').collect();
        match words[..] {
            ["began", job, process] => {
                if let Some(other) = running.insert(job, process) {
                    wrong.push(format!("{job} was run by {process} and {other} at once"));
                }
                if gone.contains(job) {
                    wrong.push(format!("{job} was run after it was discarded"));
                }
            }
            ["handled", job, _] => {
                running.remove(job);
                handled.insert(job);
            }
            ["failed" | "dropped", job, _] => drop(running.remove(job)),
            ["killed", process] => running.retain(|_, runs| *runs != process),
            ["discarded", job] => {
                if running.contains_key(job) {
                    wrong.push(format!("{job} was discarded while it was run"));
                }
                gone.insert(job);
            }
            _ => wrong.push(format!("a process printed {line:?}")),
        }
    }
    for number in 0..rows {
        let job = job(number);
        let (state, handled) = (states.get(&job), handled.contains(&*job));
        match state {
            Some(InboxState::Done) if handled => {}
            None if !handled => {}
            None => wrong.push(format!("{job} was handled, and then discarded or lost")),
            Some(state) => wrong.push(format!("{job} is {state}, and was handled: {handled}")),
        }
    }
    if states.len() as u64 + discarded != rows as u64 {
        wrong.push(format!("of {rows} rows, {} are left and {discarded} were discarded", states.len()));
    }
    println!("{} discards were seen at once, {} lines were read", gone.len(), log.len());
    wrong
}
