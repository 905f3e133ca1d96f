//! Receivers in processes of their own, on one store, and their output.
//!
//! All processes print to one pipe, and write each line at once. So the lines are in the order of printing across
//! all processes: no clocks are compared, and a run that ended before another began stands before it, even if the
//! lines are read late.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, PipeWriter, Write};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use qomplement_webhooks::sender::Sender;
use tokio::process::Child;
use tokio::sync::{Notify, RwLock};

use crate::support::programs::{example, start};

/// The example servers, one of each framework.
pub const EXAMPLES: [&str; 4] = ["axum", "actix_web", "warp", "hyper"];

/// Held alone by a test that keeps every core busy, and shared by tests that measure seconds, which must not run beside
/// it.
pub static MACHINE: RwLock<()> = RwLock::const_new(());

pub struct Fleet {
    store: String,
    pipe: PipeWriter,
    printed: Arc<Printed>,
    marks: AtomicUsize,
}

#[derive(Default)]
struct Printed {
    lines: Mutex<Vec<Line>>,
    changed: Notify,
}

#[derive(Debug, Clone)]
pub struct Line {
    /// When the line was read.
    pub at: Instant,
    pub fact: Fact,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Fact {
    Began {
        job: String,
        process: u32,
    },
    Ended {
        job: String,
        end: End,
    },
    /// A process was killed and has ended.
    Killed(u32),
    /// The first 200 for a job has arrived.
    Acknowledged(String),
    /// A line of the test's own, among those of the processes.
    Noted(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Handled,
    Failed,
    Dropped,
    /// With the id of its process.
    Killed,
}

/// One run of a handler.
#[derive(Debug, Clone)]
pub struct Run {
    pub process: u32,
    pub began: Instant,
    /// `None` while the run goes on.
    pub ended: Option<(Instant, End)>,
}

impl Fact {
    fn read(line: &str) -> Self {
        let words: Vec<_> = line.split(' ').collect();
        let ended = |job: &str, end| Self::Ended { job: job.to_owned(), end };
        match words[..] {
            ["began", _, job, process] => {
                Self::Began { job: job.to_owned(), process: process.parse().unwrap() }
            }
            ["handled", _, job] => ended(job, End::Handled),
            ["failed", _, job] => ended(job, End::Failed),
            ["dropped", _, job] => ended(job, End::Dropped),
            ["killed", process] => Self::Killed(process.parse().unwrap()),
            ["acknowledged", job] => Self::Acknowledged(job.to_owned()),
            _ => Self::Noted(line.to_owned()),
        }
    }

    pub fn is_end(&self, of: &str, how: End) -> bool {
        matches!(self, Self::Ended { job, end } if job == of && *end == how)
    }

    pub fn is_begin(&self, of: &str) -> bool {
        matches!(self, Self::Began { job, .. } if job == of)
    }
}

impl Fleet {
    /// Makes a fleet of receivers that share the store at a URL.
    pub fn on(store: String) -> Self {
        let (reader, pipe) = std::io::pipe().unwrap();
        let printed = Arc::new(Printed::default());
        let reading = printed.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(reader).lines().map_while(Result::ok) {
                let line = Line { at: Instant::now(), fact: Fact::read(&line) };
                reading.lines.lock().unwrap().push(line);
                reading.changed.notify_waiters();
            }
        });
        Self { store, pipe, printed, marks: AtomicUsize::new(0) }
    }

    /// Starts an example server with settings.
    pub async fn start(&self, name: &str, settings: &[(&str, &str)]) -> Receiver {
        let mut command = example(name);
        command.env("DEDUP_URL", &self.store).envs(settings.iter().copied());
        let (child, url, _) = start(command.stdout(self.pipe.try_clone().unwrap())).await;
        let sender = Sender::to_url(&url).unwrap().retry_delays([]);
        Receiver { process: child.id().unwrap(), child, url, sender }
    }

    /// Kills a receiver as `kill -9` does.
    pub async fn kill(&self, receiver: &mut Receiver) {
        receiver.child.kill().await.unwrap();
        self.note(&format!("killed {}", receiver.process));
    }

    /// Puts a line of the test's own among those of the processes.
    pub fn note(&self, line: &str) {
        (&self.pipe).write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// Waits until the lines show something: while a line comes every two minutes, and for 15 minutes at most.
    pub async fn until<T>(&self, what: &str, shown: impl Fn(&[Line]) -> Option<T>) -> T {
        let end = Instant::now() + Duration::from_secs(900);
        loop {
            let mut changed = pin!(self.printed.changed.notified());
            changed.as_mut().enable();
            if let Some(shown) = shown(&self.printed.lines.lock().unwrap()) {
                return shown;
            }
            let left = end.saturating_duration_since(Instant::now()).min(Duration::from_secs(120));
            if tokio::time::timeout(left, changed).await.is_err() {
                panic!("waited for: {what}; printed: {:#?}", self.printed.lines.lock().unwrap());
            }
        }
    }

    /// Waits for a line.
    pub async fn line(&self, what: &str, is_it: impl Fn(&Fact) -> bool) -> Line {
        self.until(what, |lines| lines.iter().find(|line| is_it(&line.fact)).cloned()).await
    }

    /// All lines so far.
    pub async fn lines(&self) -> Vec<Line> {
        let mark = format!("mark {}", self.marks.fetch_add(1, Ordering::Relaxed));
        self.note(&mark);
        let is_mark = |line: &Line| line.fact == Fact::Noted(mark.clone());
        self.until("the mark", |lines| Some(lines[..lines.iter().position(is_mark)?].to_vec())).await
    }

    /// The runs of each job so far.
    pub async fn runs(&self) -> HashMap<String, Vec<Run>> {
        runs(&self.lines().await)
    }
}

/// The runs of each job, in order. Panics if two runs of one job overlap, or if a job was acknowledged before it was
/// handled.
pub fn runs(lines: &[Line]) -> HashMap<String, Vec<Run>> {
    let mut jobs: HashMap<String, Vec<Run>> = HashMap::new();
    for (number, line) in lines.iter().enumerate() {
        match &line.fact {
            Fact::Began { job, process } => {
                let runs = jobs.entry(job.clone()).or_default();
                let overlaps = runs.last().is_some_and(|last| last.ended.is_none());
                assert!(!overlaps, "line {number}: a second run of {job}, in {process}, beside {runs:?}");
                runs.push(Run { process: *process, began: line.at, ended: None });
            }
            Fact::Ended { job, end } => {
                let running = jobs.get_mut(job).and_then(|runs| runs.last_mut());
                let running = running.filter(|run| run.ended.is_none());
                running.expect("a run ends that did not begin").ended = Some((line.at, *end));
            }
            Fact::Killed(killed) => {
                let of_it = jobs.values_mut().flatten().filter(|run| run.process == *killed);
                for run in of_it.filter(|run| run.ended.is_none()) {
                    run.ended = Some((line.at, End::Killed));
                }
            }
            Fact::Acknowledged(job) => {
                let runs = jobs.get(job).map_or(&[][..], Vec::as_slice);
                assert!(
                    runs.iter().any(|run| run.was(End::Handled)),
                    "{job} was acknowledged before it was handled: {runs:?}"
                );
            }
            Fact::Noted(_) => {}
        }
    }
    jobs
}

impl Run {
    pub fn was(&self, end: End) -> bool {
        self.ended.is_some_and(|(_, how)| how == end)
    }
}

/// A receiver in a process.
pub struct Receiver {
    child: Child,
    pub process: u32,
    /// The URL for webhooks.
    pub url: String,
    /// A sender to that URL, without retries.
    pub sender: Sender,
}

impl Receiver {
    pub fn address(&self) -> SocketAddr {
        let address = self.url.strip_prefix("http://").and_then(|rest| rest.split('/').next());
        address.unwrap().parse().unwrap()
    }
}
