//! Workers whose processes end, stop, or have another idea of the time.

use std::process::Stdio;
use std::time::Duration;

use qomplement_webhooks::event::Envelope;
use qomplement_webhooks::inbox::{InboxRow, InboxState, Receipt};
use qomplement_webhooks::sender::Payload;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::database::Database;
use crate::faketime;
use crate::worker::{LATE, LEASE, MAX_ATTEMPTS};

/// A worker's process, and what its handler prints.
struct Worker {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Worker {
    fn start(database: &Database) -> Self {
        Self::start_in(database, [])
    }

    /// Starts it with more in its environment.
    fn start_in(database: &Database, environment: impl IntoIterator<Item = (&'static str, String)>) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["worker", &database.url()]).envs(environment);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// The next line; `None` when the process has ended.
    async fn line(&mut self) -> Option<String> {
        let line = timeout(Duration::from_secs(120), self.lines.next_line()).await;
        line.expect("a worker prints nothing").unwrap()
    }

    async fn until(&mut self, wanted: &str) -> String {
        while let Some(line) = self.line().await {
            if line.starts_with(wanted) {
                return line;
            }
        }
        panic!("the worker ended before it printed `{wanted}`");
    }

    async fn signal(&self, signal: &str) {
        let pid = self.child.id().unwrap().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().await.unwrap().success());
    }

    /// Stops it as an operator would; what it printed before.
    async fn stop(mut self) -> Vec<String> {
        self.signal("-TERM").await;
        let mut said = Vec::new();
        while let Some(line) = self.line().await {
            said.push(line);
        }
        assert!(self.child.wait().await.unwrap().success());
        said
    }
}

async fn receive(database: &Database, jobs: &[String]) {
    let inbox = database.inbox().await;
    for job in jobs {
        let body = Payload::extract_completed().job_id(job).to_bytes();
        let receipt = inbox.receive(&Envelope::try_from(body).unwrap()).await.unwrap();
        assert_eq!(receipt, Receipt::Stored);
    }
}

fn row<'a>(rows: &'a [InboxRow], job: &str) -> &'a InboxRow {
    rows.iter().find(|row| row.job_id == job).unwrap()
}

/// An event that kills its process is dead in the end, and takes no other with it.
pub async fn abort(database: &Database) -> Vec<String> {
    let innocent: Vec<_> = (0..100).map(|number| format!("innocent-{number}")).collect();
    receive(database, &innocent[..50]).await;
    receive(database, &["abort".to_owned()]).await;
    receive(database, &innocent[50..]).await;
    let mut deaths = 0;
    let keep_alive = async {
        loop {
            let mut worker = Worker::start(database);
            while worker.line().await.is_some() {}
            deaths += 1;
        }
    };
    let rows = tokio::select! {
        () = keep_alive => unreachable!(),
        rows = database.rows_when_all_have_ended() => rows,
    };
    let mut wrong = Vec::new();
    let dead = row(&rows, "abort");
    if dead.state != InboxState::Dead
        || dead.error.as_ref().is_none_or(|error| !error.contains("did not end"))
    {
        wrong.push(format!("the event that kills its process is not dead of it: {dead:?}"));
    }
    if deaths != MAX_ATTEMPTS {
        wrong.push(format!("{MAX_ATTEMPTS} attempts killed {deaths} processes"));
    }
    let taken = rows.iter().filter(|row| row.job_id != dead.job_id && row.state != InboxState::Done);
    wrong.extend(taken.map(|row| format!("an innocent event was taken along: {row:?}")));
    wrong
}

/// A worker that is stopped for longer than its lease, and goes on, writes nothing any more.
pub async fn stop(database: &Database) -> Vec<String> {
    receive(database, &["late".to_owned()]).await;
    let mut stopped = Worker::start(database);
    let first = stopped.until("began late").await;
    stopped.signal("-STOP").await;
    let mut next = Worker::start(database);
    let began = next.until("began late").await;
    stopped.signal("-CONT").await;
    let handled = next.until("handled late").await;

    let rows = database.rows_when_all_have_ended().await;
    let late = stopped.stop().await;
    let mut wrong = Vec::new();
    let fence = |line: &str| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap();
    if fence(&began) <= fence(&first) || fence(&began) != fence(&handled) {
        wrong.push(format!("the fence does not grow: {first}, {began}, {handled}"));
    }
    if late.iter().any(|line| line.starts_with("handled") || line.starts_with("began")) {
        wrong.push(format!("the late worker handled what another had: {late:?}"));
    }
    if row(&rows, "late").state != InboxState::Done || row(&rows, "late").error.is_some() {
        wrong.push(format!("the late worker wrote something: {:?}", row(&rows, "late")));
    }
    next.stop().await;
    wrong
}

/// Two workers whose clocks are two hours apart take nothing from each other, and neither waits.
pub async fn clocks(database: &Database) -> Vec<String> {
    let jobs: Vec<_> = (0..16).map(|number| format!("late-{number}")).collect();
    let mut wrong = Vec::new();
    receive(database, &jobs).await;
    let (mut early, mut ahead) = (
        Worker::start_in(database, faketime::environment("-1h")),
        Worker::start_in(database, faketime::environment("+1h")),
    );
    let began = std::time::Instant::now();
    let mut said = Vec::new();
    let count = |said: &[String], what: &str| said.iter().filter(|line| line.starts_with(what)).count();
    while count(&said, "handled") < jobs.len() {
        let line = tokio::select! {
            line = early.line() => line,
            line = ahead.line() => line,
        };
        said.push(line.expect("a worker ended"));
    }
    // The first run of each fails, and the second one succeeds: a lease that is taken from its holder makes more.
    if (count(&said, "began"), count(&said, "failed")) != (jobs.len() * 2, jobs.len()) {
        wrong.push(format!("leases were taken from their holders: {said:?}"));
    }
    if began.elapsed() > LATE * 2 + LEASE * 5 {
        wrong.push(format!("retries came late: {:?}", began.elapsed()));
    }
    let rows = database.rows_when_all_have_ended().await;
    let not_done = rows.iter().filter(|row| row.state != InboxState::Done);
    wrong.extend(not_done.map(|row| format!("not done: {row:?}")));
    early.stop().await;
    ahead.stop().await;
    wrong
}
