//! The jobs, their webhooks, and the comparison in the end.

use std::collections::HashMap;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use qomplement_webhooks::sender::Payload;
use qomplement_webhooks::{InboxStore, JobId};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use uuid::Uuid;

use crate::api::Api;
use crate::database::Database;
use crate::gauges::Gauges;
use crate::program::TOKEN;

/// The time between two jobs.
const JOB_EVERY: Duration = Duration::from_millis(50);
const SAMPLE_EVERY: Duration = Duration::from_secs(5);
/// Until rows are pruned as fast as they come.
const WARM_UP: Duration = Duration::from_secs(100);
/// How long the last jobs may take.
const SETTLE_TIME: Duration = Duration::from_secs(120);

/// The jobs that are not handled yet, since when they are there, and everything that went wrong.
#[derive(Default)]
struct Book {
    waiting: HashMap<String, Instant>,
    submitted: usize,
    handled: usize,
    wrong: Vec<String>,
}

impl Book {
    fn note(&mut self, line: &str) {
        match line.split_once(' ') {
            Some(("handled", job)) => {
                self.handled += 1;
                self.waiting.remove(job);
            }
            _ => self.wrong.push(format!("the program printed: {line}")),
        }
    }
}

/// Runs for a time, and returns what is wrong.
pub async fn run(database: Database, length: Duration) -> Vec<String> {
    let name = database.name();
    let (api, origin) = Api::start().await;
    let program = std::env::current_exe().unwrap();
    let mut command = Command::new(program);
    command.args(["program", &database.url(), &origin]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let listening = timeout(Duration::from_secs(60), lines.next_line()).await.unwrap().unwrap().unwrap();
    let url = format!("{}?token={TOKEN}", listening.strip_prefix("listening ").unwrap());
    let book = Arc::new(Mutex::new(Book::default()));
    let reading = tokio::spawn({
        let book = book.clone();
        async move {
            while let Ok(Some(line)) = lines.next_line().await {
                book.lock().unwrap().note(&line);
            }
        }
    });
    let pid = child.id().unwrap();
    let (store, admin) = database.inbox();
    let sender = Sender { client: reqwest::Client::new(), url, store, book: book.clone() };

    let (began, mut gauges) = (Instant::now(), Gauges::default());
    let (mut jobs, mut samples) = (interval(JOB_EVERY), interval(SAMPLE_EVERY));
    jobs.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut number = 0_u64;
    while began.elapsed() < length {
        tokio::select! {
            _ = jobs.tick() => {
                number += 1;
                // Away for five seconds in a minute.
                api.is_away(began.elapsed().as_secs() % 60 < 5);
                tokio::spawn(sender.clone().submit(number));
            }
            _ = samples.tick() => {
                if began.elapsed() < WARM_UP {
                    continue;
                }
                let (table, log) = database.sizes().await;
                let stats = admin.stats().await.unwrap();
                let rows = stats.expected + stats.received + stats.running + stats.done + stats.dead;
                gauges.sample(pid, table, log, rows);
            }
        }
    }
    api.is_away(false);
    let ended = Instant::now();
    while !book.lock().unwrap().waiting.is_empty() && ended.elapsed() < SETTLE_TIME {
        sleep(Duration::from_millis(200)).await;
    }
    let mut wrong = gauges.compare(name);
    let dead = admin.stats().await.unwrap().dead;
    if dead > 0 {
        wrong.push(format!("{dead} dead letters"));
    }
    let pid = pid.to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().await.unwrap().success());
    let stopped = timeout(Duration::from_secs(60), child.wait()).await;
    if !stopped.is_ok_and(|status| status.unwrap().success()) {
        wrong.push("the program did not stop well".to_owned());
    }
    reading.await.unwrap();
    let book = book.lock().unwrap();
    println!("{name}: {} jobs, {} runs that succeeded", book.submitted, book.handled);
    wrong.extend(book.wrong.iter().take(10).cloned());
    wrong.extend(book.waiting.keys().take(10).map(|job| format!("{job} was never handled")));
    wrong
}

#[derive(Clone)]
struct Sender {
    client: reqwest::Client,
    url: String,
    store: Arc<dyn InboxStore>,
    book: Arc<Mutex<Book>>,
}

impl Sender {
    /// Registers a job, and delivers its webhook: or not, or twice, or after a forged one.
    async fn submit(self, number: u64) {
        let payload = Payload::extract_completed().job_id(Uuid::new_v4());
        let job: JobId = payload.event().unwrap().job().id().clone();
        let is_lost = number.is_multiple_of(10);
        let deadline = Duration::from_secs(if is_lost { 2 } else { 60 });
        // As a program does that shares the database with another: a registration that fails is repeated.
        let mut repetitions = 0;
        while let Err(error) = self.store.expect(&job, deadline).await {
            repetitions += 1;
            if repetitions > 5 {
                return self.wrong(format!("{job} could not be registered: {error:?}"));
            }
        }
        {
            let mut book = self.book.lock().unwrap();
            book.submitted += 1;
            book.waiting.insert(job.to_string(), Instant::now());
        }
        if is_lost {
            return;
        }
        let body = payload.to_bytes();
        let forged = payload.clone().set("/data/result/language", "xx").to_bytes();
        match number % 10 {
            1 => self.post(&self.url, forged, 200).await,
            2 => self.post(&self.url.replace("token=a", "token=b"), forged, 401).await,
            3 => self.post(&self.url, body.clone(), 200).await,
            4 => self.post(&self.url, payload.clone().job_id(Uuid::new_v4()).to_bytes(), 404).await,
            5 => self.post(&self.url, body.slice(..body.len() / 2), 400).await,
            _ => {}
        }
        self.post(&self.url, body, 200).await;
    }

    async fn post(&self, url: &str, body: bytes::Bytes, expected: u16) {
        let request = self.client.post(url).header("content-type", "application/json").body(body);
        match request.send().await {
            Ok(answer) if answer.status() == expected => {}
            other => {
                let answer = other.map(|answer| answer.status());
                self.wrong(format!("a webhook that should be answered with {expected}: {answer:?}"));
            }
        }
    }

    fn wrong(&self, wrong: String) {
        self.book.lock().unwrap().wrong.push(wrong);
    }
}
