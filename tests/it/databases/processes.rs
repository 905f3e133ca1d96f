//! Several processes on one store, some of which are killed while they hold a claim.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use qomplement_webhooks::sender::{Delivery, Payload, Sender};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::support::PATH;
use crate::support::databases::{Server, postgres, redis};
use crate::support::fleet::{EXAMPLES, End, Fact, Fleet, Line, MACHINE, Receiver, Run, runs};

const LEASE: Duration = Duration::from_secs(5);

const JOBS: usize = 200;
/// Of each job. A dozen of them race for each run; those that follow when the job is done only take time. The
/// environment variable `COPIES` sets another number, such as 1000.
static COPIES: LazyLock<usize> =
    LazyLock::new(|| std::env::var("COPIES").map_or(250, |copies| copies.parse().unwrap()));
/// Twice as many keep two cores busy with claims alone while they wait for the claims of a process that was killed.
const IN_FLIGHT: usize = 128;
/// The copies of so many jobs are sent at the same time, in turn.
const JOBS_AT_ONCE: usize = 10;
/// A receiver is killed at each of these moments.
const KILLS: [Moment; 6] =
    [Moment::Running, Moment::Running, Moment::Handled, Moment::Running, Moment::Running, Moment::Handled];
const HANDLERS: [(&str, &str); 2] = [("FAIL_PERCENT", "30"), ("WORK_MS", "200")];

/// Copies of many jobs, over several connections to each process.
struct Flood {
    fleet: Fleet,
    jobs: Vec<Copies>,
    sent: AtomicUsize,
    /// How often each answer came.
    answers: Mutex<BTreeMap<String, usize>>,
}

/// What the copies of a job's webhook have in common.
struct Copies {
    job: String,
    payload: Payload,
    /// The payload in an HTTP request.
    request: Vec<u8>,
    acknowledged: AtomicBool,
}

impl Flood {
    fn new(fleet: Fleet) -> Self {
        let job = |_| {
            let payload = Payload::extract_completed();
            let body = payload.to_bytes();
            let length = body.len();
            let mut request =
                format!("POST {PATH} HTTP/1.1\r\nhost: test\r\ncontent-length: {length}\r\n\r\n");
            request += std::str::from_utf8(&body).unwrap();
            let (job, request) = (id(&payload), request.into_bytes());
            Copies { job, payload, request, acknowledged: AtomicBool::new(false) }
        };
        Self {
            fleet,
            jobs: (0..JOBS).map(job).collect(),
            sent: AtomicUsize::new(0),
            answers: Mutex::default(),
        }
    }

    /// Sends copies one after another until all are sent, to whichever process is in one place.
    async fn send(self: Arc<Self>, mut place: watch::Receiver<SocketAddr>) {
        let mut connection = None;
        loop {
            let copy = self.sent.fetch_add(1, Ordering::Relaxed);
            if copy >= JOBS * *COPIES {
                return;
            }
            let job = copy / (JOBS_AT_ONCE * *COPIES) * JOBS_AT_ONCE + copy % JOBS_AT_ONCE;
            let job = &self.jobs[job];
            let mut stream = match connection.take() {
                Some(stream) => stream,
                None => connect(&mut place).await,
            };
            let answer = match exchange(&mut stream, &job.request).await {
                Some(answer) => {
                    connection = Some(stream);
                    if answer == "200" && !job.acknowledged.swap(true, Ordering::Relaxed) {
                        self.fleet.note(&format!("acknowledged {}", job.job));
                    }
                    answer
                }
                None => "none".to_owned(),
            };
            *self.answers.lock().unwrap().entry(answer).or_default() += 1;
        }
    }

    /// Kills the next receiver that comes to a moment of a run, and starts another in its place.
    async fn kill_one(&self, moment: Moment, places: &mut [Place]) {
        loop {
            let since = std::time::Instant::now();
            let is_it = |run: &Run| (run.began > since && moment.is_now(run)).then_some(run.process);
            let found = |lines: &[Line]| runs(lines).values().flatten().find_map(is_it);
            let process = self.fleet.until("a run to be killed", found).await;
            let place = places.iter_mut().find(|place| place.receiver.process == process).unwrap();
            self.fleet.kill(&mut place.receiver).await;
            let runs = self.fleet.runs().await;
            place.receiver = self.fleet.start(place.example, &HANDLERS).await;
            place.address.send_replace(place.receiver.address());
            let mut its_runs = runs.values().flatten().filter(|run| run.process == process);
            if moment == Moment::Handled || its_runs.any(|run| run.was(End::Killed)) {
                return;
            }
        }
    }
}

/// Where one receiver after another runs.
struct Place {
    example: &'static str,
    receiver: Receiver,
    address: watch::Sender<SocketAddr>,
}

/// When a receiver is killed.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Moment {
    /// While a handler runs.
    Running,
    /// When a handler has just ended, and the job may not have been recorded as done.
    Handled,
}

impl Moment {
    fn is_now(self, run: &Run) -> bool {
        match self {
            Self::Running => run.ended.is_none(),
            Self::Handled => run.was(End::Handled),
        }
    }
}

/// Connects to the receiver in a place; when there is none, to the next one.
async fn connect(place: &mut watch::Receiver<SocketAddr>) -> TcpStream {
    loop {
        let address = *place.borrow_and_update();
        if let Ok(stream) = TcpStream::connect(address).await {
            stream.set_nodelay(true).unwrap();
            return stream;
        }
        timeout(Duration::from_secs(60), place.changed()).await.expect("no receiver comes").unwrap();
    }
}

/// Sends a request; returns the code of the error in the answer, or the status when it is none. `None` when
/// the connection broke.
async fn exchange(stream: &mut TcpStream, request: &[u8]) -> Option<String> {
    stream.write_all(request).await.ok()?;
    let (mut buffer, mut read) = ([0; 2048], 0);
    loop {
        match stream.read(&mut buffer[read..]).await {
            Ok(bytes @ 1..) => read += bytes,
            _ => return None,
        }
        let text = std::str::from_utf8(&buffer[..read]).unwrap();
        if let Some((head, body)) = text.split_once("\r\n\r\n")
            && body.ends_with('}')
        {
            let status = head.split(' ').nth(1).unwrap();
            let code = body.split("\"code\":\"").nth(1).and_then(|rest| rest.split('"').next());
            return Some(code.unwrap_or(status).to_owned());
        }
    }
}

fn id(payload: &Payload) -> String {
    payload.event().unwrap().job().id().to_string()
}

fn handled(runs: &HashMap<String, Vec<Run>>) -> usize {
    runs.values().flatten().filter(|run| run.was(End::Handled)).count()
}

/// Whether the process was killed so soon after a run that it may not have recorded the job as done.
fn died_before_recording(run: &Run, lines: &[Line]) -> bool {
    let death = lines.iter().find(|line| line.fact == Fact::Killed(run.process));
    death.zip(run.ended).is_some_and(|(death, (ended, _))| death.at.duration_since(ended) < LEASE)
}

async fn every_job_is_handled_once(store: &Server) {
    let flood = Arc::new(Flood::new(Fleet::on(store.url())));
    let mut places = Vec::new();
    let mut sending = JoinSet::new();
    for example in EXAMPLES {
        let receiver = flood.fleet.start(example, &HANDLERS).await;
        let (address, place) = watch::channel(receiver.address());
        for _ in 0..IN_FLIGHT / EXAMPLES.len() {
            sending.spawn(flood.clone().send(place.clone()));
        }
        places.push(Place { example, receiver, address });
    }
    for (number, moment) in KILLS.into_iter().enumerate() {
        let enough = |lines: &[Line]| (handled(&runs(lines)) >= JOBS * number / 8).then_some(());
        flood.fleet.until("the next part of the jobs is handled", enough).await;
        flood.kill_one(moment, &mut places).await;
    }
    sending.join_all().await;
    let answers = flood.answers.lock().unwrap().clone();
    assert!(answers["200"] > JOBS * *COPIES / 2, "most copies come when their job is done: {answers:?}");

    let mut delivering = JoinSet::new();
    for (number, job) in flood.jobs.iter().enumerate() {
        let sender = places[number % places.len()].receiver.sender.clone();
        let sender = sender.retry_delays([Duration::from_millis(100); 100]);
        let payload = job.payload.clone();
        delivering.spawn(async move { sender.deliver(payload).await });
    }
    for delivery in delivering.join_all().await {
        assert!(delivery.is_delivered(), "a job is not done in the end: {delivery:?}");
    }

    let lines = flood.fleet.lines().await;
    let runs = runs(&lines);
    assert_eq!(runs.len(), JOBS);
    for (job, runs) in &runs {
        let (last, earlier) = runs.split_last().unwrap();
        assert!(last.was(End::Handled), "{job} was acknowledged, but is not handled: {runs:?}");
        for run in earlier.iter().filter(|run| run.was(End::Handled)) {
            let excused = died_before_recording(run, &lines);
            assert!(excused, "{job} was handled twice, and no process died in between: {runs:?}");
        }
    }
}

/// How many milliseconds after the beginning of a run its receiver is killed: at once; before and after the first
/// renewal; before the answer is due; and twice in the background, the last time just before the lease would
/// last until the third delivery.
const DEATHS: [u64; 5] = [0, 1000, 3000, 7000, 9500];

/// Delivers on the documented schedule: the first delivery to one receiver, and the others to another.
async fn deliver(first: Sender, other: Sender, payload: &Payload) -> Vec<Delivery> {
    let [second, third] = Sender::RETRY_DELAYS;
    let mut deliveries = Vec::new();
    let began = Instant::now();
    for (sender, at) in [(&first, Duration::ZERO), (&other, second), (&other, second + third)] {
        sleep_until(began + at).await;
        deliveries.extend(sender.deliver(payload).await.deliveries);
        if deliveries.last().is_some_and(Delivery::is_success) {
            break;
        }
    }
    deliveries
}

async fn the_schedule_outlasts_a_death(store: &Server) {
    let fleet = Arc::new(Fleet::on(store.url()));
    let other = fleet.start("hyper", &[("WORK_MS", "100")]).await;
    let mut deaths = JoinSet::new();
    for (number, death) in DEATHS.into_iter().enumerate() {
        let example = EXAMPLES[number % EXAMPLES.len()];
        let mut receiver = fleet.start(example, &[("WORK_MS", "60000")]).await;
        let (fleet, other) = (fleet.clone(), other.sender.clone());
        deaths.spawn(async move {
            let payloads: [_; 4] = std::array::from_fn(|_| Payload::extract_completed());
            let mut delivering = JoinSet::new();
            for payload in payloads.clone() {
                let (first, other) = (receiver.sender.clone(), other.clone());
                delivering.spawn(async move { deliver(first, other, &payload).await });
            }
            for payload in &payloads {
                let job = id(payload);
                fleet.line("the first delivery", |fact| fact.is_begin(&job)).await;
            }
            sleep_until(Instant::now() + Duration::from_millis(death)).await;
            fleet.kill(&mut receiver).await;
            for deliveries in delivering.join_all().await {
                assert!(deliveries.last().unwrap().is_success(), "dead after {death} ms: {deliveries:?}");
            }
            for payload in &payloads {
                let runs = &fleet.runs().await[&id(payload)];
                let ends: Vec<_> = runs.iter().filter_map(|run| run.ended).map(|(_, end)| end).collect();
                assert_eq!(ends, [End::Killed, End::Handled], "dead after {death} ms");
            }
        });
    }
    deaths.join_all().await;
}

#[tokio::test]
async fn the_third_delivery_at_the_latest_succeeds_when_the_process_dies_that_the_first_one_reached() {
    let _machine = MACHINE.read().await;
    tokio::join!(the_schedule_outlasts_a_death(redis()), the_schedule_outlasts_a_death(postgres()));
}

#[tokio::test]
async fn redis_lets_four_processes_handle_each_job_once_while_they_are_killed() {
    let _machine = MACHINE.write().await;
    every_job_is_handled_once(redis()).await;
}

#[tokio::test]
async fn postgres_lets_four_processes_handle_each_job_once_while_they_are_killed() {
    let _machine = MACHINE.write().await;
    every_job_is_handled_once(postgres()).await;
}
