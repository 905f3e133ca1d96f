//! The plan of a run: settings, jobs, and the times of crashes and jumps of the clock.

use std::time::Duration;

use bytes::Bytes;
use qomplement_webhooks::JobId;

use crate::dice::Dice;

/// How webhooks are received and handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Inline,
    /// Durable, and the handler gets the webhook's event.
    Trust,
    /// Durable, and the handler gets the fetched event.
    Fetch,
}

#[derive(Debug)]
pub struct Plan {
    pub dice: Dice,
    pub mode: Mode,
    pub processes: u64,
    pub jobs: Vec<PlannedJob>,
    /// Deliveries that somebody else makes, who knows the token.
    pub forgeries: Vec<Forgery>,
    /// From then on, there are no faults.
    pub calm: Duration,
    pub stops: Vec<Stop>,
    /// Jumps of the database's clock: when, and how far.
    pub jumps: Vec<(Duration, Duration)>,
    /// When all processes stand still, and for how long.
    pub stalls: Vec<(Duration, Duration)>,
    /// When somebody replays a job, and which.
    pub replays: Vec<(Duration, usize)>,
    /// The longest time that a request to the database takes, without a fault.
    pub latency: u64,
    /// Whether the receivers refuse jobs that are not registered.
    pub knows_jobs: bool,
    pub max_attempts: u32,
    pub max_handler_time: Duration,
}

#[derive(Debug)]
pub struct PlannedJob {
    pub id: JobId,
    pub number: u64,
    pub submitted: Duration,
    /// The deadline it is registered with; `None` for a job that is not registered.
    pub deadline: Option<Duration>,
    pub ends: Duration,
    /// When a delivery reports that the job goes on.
    pub early: Option<Duration>,
    /// When the webhook is delivered again, and whether with other bytes.
    pub again: Option<(Duration, bool)>,
}

#[derive(Debug)]
pub struct Forgery {
    pub at: Duration,
    pub body: Bytes,
}

/// The end of a process, and the time until it is started again.
#[derive(Debug)]
pub struct Stop {
    pub at: Duration,
    pub process: u64,
    /// The grace of a shutdown; `None` for a crash.
    pub grace: Option<Duration>,
    pub down: Duration,
}

impl Plan {
    pub fn new(dice: Dice) -> Self {
        let mode =
            dice.of("mode", 0).pick(&[Mode::Inline, Mode::Trust, Mode::Trust, Mode::Fetch, Mode::Fetch]);
        let calm = dice.of("calm", 0).millis(15_000..=60_000);
        let knows_jobs = mode == Mode::Trust && dice.of("knows jobs", 0).in_thousand(200);
        let jobs: Vec<_> = (1..=dice.of("jobs", 0).between(1..=4))
            .map(|number| PlannedJob::new(dice.of("job", number), number, mode, knows_jobs))
            .collect();
        let processes = dice.of("processes", 0).between(1..=3);
        let some = |name, chance, most| {
            if dice.of(name, 0).in_thousand(chance) { dice.of(name, 1).between(1..=most) } else { 0 }
        };
        let during = move |dice: Dice| dice.of("at", 0).millis(500..=calm.as_millis() as u64 - 5000);
        let stop = |number| {
            let dice = dice.of("stop", number);
            let grace = dice.of("grace", 0).in_thousand(400).then(|| dice.of("grace", 1).millis(0..=8000));
            let (process, down) =
                (dice.of("process", 0).below(processes), dice.of("down", 0).millis(100..=12_000));
            Stop { at: during(dice), process, grace, down }
        };
        let jump = |number| {
            let dice = dice.of("jump", number);
            (during(dice), dice.of("by", 0).millis(1000..=60_000))
        };
        let stall = |number| {
            let dice = dice.of("stall", number);
            (during(dice), dice.of("for", 0).millis(1000..=60_000))
        };
        let replay = |number| {
            let dice = dice.of("replay", number);
            (during(dice), dice.of("job", 0).below(jobs.len() as u64) as usize)
        };
        let replays = (0..some("replays", 200, 3)).map(replay).collect();
        let forgeries = if mode == Mode::Fetch { some("forgeries", 400, 4) } else { 0 };
        let forgeries = (0..forgeries).map(|number| Forgery::new(dice.of("forgery", number), number, &jobs));
        Self {
            dice,
            mode,
            processes,
            forgeries: forgeries.collect(),
            jobs,
            calm,
            stops: (0..some("stops", 600, 4)).map(stop).collect(),
            jumps: (0..some("jumps", 150, 2)).map(jump).collect(),
            stalls: (0..some("stalls", 100, 2)).map(stall).collect(),
            replays,
            latency: dice.of("latency", 0).pick(&[0, 0, 5, 300]),
            knows_jobs,
            max_attempts: dice.of("attempts", 0).between(1..=4) as u32,
            max_handler_time: dice.of("handler time", 0).millis(2000..=30_000),
        }
    }

    /// A setting of this name, in milliseconds.
    pub fn setting(&self, name: &str, range: std::ops::RangeInclusive<u64>) -> Duration {
        self.dice.of("setting", 0).of(name, 0).millis(range)
    }
}

impl PlannedJob {
    fn new(dice: Dice, number: u64, mode: Mode, is_registered: bool) -> Self {
        let submitted = dice.of("submitted", 0).millis(0..=5000);
        let ends = submitted + dice.of("ends", 0).millis(10..=10_000);
        let registered = mode != Mode::Inline && (is_registered || dice.of("registered", 0).in_thousand(500));
        Self {
            id: format!("job-{number}").parse().unwrap(),
            number,
            submitted,
            deadline: registered.then(|| dice.of("deadline", 0).millis(0..=20_000)),
            ends,
            early: dice.of("early", 0).in_thousand(200).then(|| submitted + (ends - submitted) / 2),
            again: dice
                .of("again", 0)
                .in_thousand(if mode == Mode::Inline { 800 } else { 300 })
                .then(|| (ends + dice.of("again", 1).millis(0..=8000), dice.of("again", 2).in_thousand(500))),
        }
    }

    /// The body of the webhook, and of the API's answer. Another `version` has other bytes.
    pub fn body(&self, version: u32) -> Bytes {
        let status = if self.number.is_multiple_of(3) { "failed" } else { "completed" };
        body(&self.id, status, version)
    }

    pub fn early_body(&self) -> Bytes {
        body(&self.id, "processing", 0)
    }
}

impl Forgery {
    fn new(dice: Dice, number: u64, jobs: &[PlannedJob]) -> Self {
        let unknown = || format!("forged-{number}").parse().unwrap();
        let job = jobs.get(dice.of("job", 0).below(jobs.len() as u64 * 2) as usize);
        let id: JobId = job.map_or_else(unknown, |job| job.id.clone());
        let status = dice.of("status", 0).pick(&["completed", "failed", "processing"]);
        Self { at: dice.of("at", 0).millis(0..=15_000), body: body(&id, status, 100 + number as u32) }
    }
}

/// The number of a job among the faults.
pub fn place(job: &JobId) -> u64 {
    let job = job.to_string();
    let number = job.rsplit_once('-').and_then(|(_, number)| number.parse().ok()).unwrap_or(0);
    if job.starts_with("job") { number } else { 100 + number }
}

fn body(job: &JobId, status: &str, version: u32) -> Bytes {
    format!(
        r#"{{"job_id":"{job}","data":{{"id":"{job}","type":"extract","status":"{status}"}},"v":{version}}}"#
    )
    .into()
}
