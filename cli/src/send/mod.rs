//! `send`: delivers webhooks as Qomplement does.

mod bodies;
mod edit;
mod summary;

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use qomplement_webhooks::sender::Sender;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use self::bodies::{Bodies, Setting};
use self::summary::{Summary, Tally};
use crate::arguments::{http_url, number, shown};
use crate::failure::{Failure, causes};
use crate::output::{self, Format};
use crate::secret::{self, TokenArgs};
use crate::stop::stop;
use crate::time::precise;

/// Deliver webhooks as Qomplement does
#[derive(Args)]
#[command(after_help = "\
Examples:
  qomplement-webhooks send --to http://127.0.0.1:3000/api/webhooks/qomplement
  qomplement-webhooks send failed --to URL --set data.error.code=out_of_credit
  qomplement-webhooks send invoice.json --to URL --schedule none
  qomplement-webhooks send fill-pdf --to URL --count 1000 --duplicates 2

An attempt has five seconds. Any 2xx acknowledges a webhook; after the last
attempt, it is undeliverable. Redirects are not followed. Each webhook is of a
new job, unless --set job_id=… says otherwise; a file that is sent once, and
nothing set in it, goes as it is, byte for byte.

The token is taken from WEBHOOK_TOKEN, --token-file or --token, unless the URL
has one.

--format json prints one object at the end:
  webhooks, deliveries, acknowledged, undeliverable, unfinished, attempts:
    numbers
  answers: how many attempts had which status, with the code or the reason that
    the server gave unless it is a success, or which error
  seconds, deliveries_per_second: numbers
  latency_ms: {p50, p99, max} of the attempts that were answered; null if none
    was")]
pub(crate) struct Send {
    /// A documented event (extract, fill-pdf, fill-excel, failed), or a file with a body; "-" is standard input
    #[arg(value_name = "EVENT|FILE", default_value = "extract")]
    what: String,

    /// Where to deliver to
    #[arg(long, value_name = "URL")]
    to: String,

    /// Set something in the body, as often as you like: data.result.confidence=40, job_id=my-job; or, with a
    /// JSON pointer, /data/id=other. The value is JSON, or else a text. All other bytes stay as they are
    #[arg(long = "set", value_name = "PATH=VALUE")]
    settings: Vec<Setting>,

    /// How many webhooks
    #[arg(long, default_value_t = 1, value_parser = |text: &str| number::<u64>(text, 1..))]
    count: u64,

    /// How many deliveries at once
    #[arg(long, default_value_t = 16, value_parser = |text: &str| number::<u64>(text, 1..=10_000))]
    concurrency: u64,

    /// How many more copies of each webhook, at the same time
    #[arg(long, value_name = "COPIES", default_value_t = 0, value_parser = |text: &str| number::<u64>(text, 0..))]
    duplicates: u64,

    /// When a delivery that failed is tried again
    #[arg(long, value_enum, default_value_t = Schedule::Documented)]
    schedule: Schedule,

    #[command(flatten)]
    token: TokenArgs,

    /// How to print the summary
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Schedule {
    /// After 5 s, and after 10 s more
    Documented,
    /// After 50 ms, and after 100 ms more
    Fast,
    /// Never
    None,
}

/// Up to how many deliveries are each worth a line.
const LINES: u64 = 20;

impl Send {
    pub(crate) async fn run(self) -> Result<ExitCode, Failure> {
        let target = self.target()?;
        let bodies = Bodies::new(&self.what, &self.settings, self.count > 1)?;
        let copies = self.duplicates.saturating_add(1);
        let Some(deliveries) = self.count.checked_mul(copies) else {
            return Err(Failure::usage("--count and --duplicates together are more than can be counted"));
        };
        // The retries are ours, so that attempts count as soon as they have ended.
        let sender = Sender::to_url(&target)
            .map_err(|error| Failure::usage(format!("--to: {}", causes(&error))))?
            .retry_delays([]);
        let progress = progress(deliveries);
        let run = Arc::new(Run {
            sender,
            delays: self.schedule.delays(),
            bodies,
            copies,
            deliveries,
            next: AtomicU64::new(0),
            tally: Mutex::new(Tally::new()),
            progress,
            lines: self.format == Format::Text && deliveries <= LINES,
        });

        let mut stopped = std::pin::pin!(stop());
        let began = Instant::now();
        let mut workers = JoinSet::new();
        for _ in 0..self.concurrency.min(deliveries) {
            workers.spawn(run.clone().work());
        }
        let ended = loop {
            tokio::select! {
                () = &mut stopped => break Err(Failure::Interrupted),
                worker = workers.join_next() => match worker {
                    None => break Ok(()),
                    Some(Ok(())) => {}
                    Some(Err(died)) => break Err(Failure::failed(format!("a bug: {died}"))),
                },
            }
        };
        workers.shutdown().await;
        run.progress.finish_and_clear();
        if let Err(failure @ Failure::Failed(_)) = ended {
            return Err(failure);
        }

        let summary = Summary {
            target: shown(&target),
            webhooks: self.count,
            deliveries,
            took: began.elapsed(),
            tally: &run.tally(),
        };
        match self.format {
            Format::Text => output::line(&summary),
            Format::Json => output::json(&summary.json()),
        }
        ended?;
        Ok(if summary.is_all_acknowledged() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// The URL, with the token in it.
    fn target(&self) -> Result<String, Failure> {
        if self.what == "-" && self.token.is_stdin() {
            return Err(Failure::usage("the body and the token cannot both come from standard input"));
        }
        http_url("--to", &self.to, "http://127.0.0.1:3000")?;
        let token = self.token.read()?;
        if secret::has_token(&self.to) && self.token.is_given() {
            return Err(Failure::usage("--to: the URL has a token, and another one was given"));
        }
        secret::url_with_token("--to", &self.to, token)
    }
}

/// What all workers share.
struct Run {
    sender: Sender,
    delays: Vec<Duration>,
    bodies: Bodies,
    copies: u64,
    deliveries: u64,
    next: AtomicU64,
    tally: Mutex<Tally>,
    progress: ProgressBar,
    lines: bool,
}

impl Run {
    async fn work(self: Arc<Self>) {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.deliveries {
                return;
            }
            let (job, body) = self.bodies.of(number / self.copies);
            let (is_acknowledged, attempts) = self.deliver(&body).await;
            self.tally().delivery(is_acknowledged);
            self.progress.inc(1);
            if self.lines {
                let told = told(&job, is_acknowledged, &attempts);
                self.progress.suspend(|| output::line(told));
            }
        }
    }

    /// Delivers a webhook as [`Sender::deliver`] does, and counts each attempt when it ends. Returns whether it was
    /// acknowledged, and what the attempts brought, if that is told.
    async fn deliver(&self, body: &Bytes) -> (bool, Vec<(Duration, String)>) {
        let began = Instant::now();
        let mut attempts = Vec::new();
        let mut delays = self.delays.iter();
        loop {
            let at = began.elapsed();
            let report = self.sender.deliver(body.clone()).await;
            for delivery in &report.deliveries {
                let answer = summary::answer(delivery);
                self.tally().attempt(delivery, &answer);
                if self.lines {
                    attempts.push((at, answer));
                }
            }
            match delays.next() {
                Some(delay) if !report.is_delivered() => sleep_until(began + at + *delay).await,
                _ => return (report.is_delivered(), attempts),
            }
        }
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What became of a delivery, in words.
fn told(job: &str, is_acknowledged: bool, attempts: &[(Duration, String)]) -> String {
    let verdict = if is_acknowledged { "acknowledged" } else { "undeliverable" };
    match attempts {
        [(_, answer)] if summary::fits(&[job, verdict, answer]) => format!("{job}  {verdict}  {answer}"),
        _ => {
            let attempts = attempts.iter().enumerate().map(|(number, (at, answer))| match number {
                0 => format!("\n    {answer}"),
                _ => format!("\n    {answer} after {}", precise(*at)),
            });
            format!("{job}  {verdict}{}", attempts.collect::<String>())
        }
    }
}

impl Schedule {
    fn delays(self) -> Vec<Duration> {
        match self {
            Self::Documented => Sender::RETRY_DELAYS.to_vec(),
            Self::Fast => Sender::RETRY_DELAYS.iter().map(|delay| *delay / 100).collect(),
            Self::None => Vec::new(),
        }
    }
}

/// A bar on standard error, if that is a terminal.
fn progress(deliveries: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len}  {per_sec}  {elapsed}, {eta} left");
    let bar = match style {
        Ok(style) => ProgressBar::new(deliveries).with_style(style),
        Err(_) => ProgressBar::new(deliveries),
    };
    if !bar.is_hidden() {
        // A retry is up to ten seconds away: the time shows that we are not stuck.
        bar.enable_steady_tick(Duration::from_millis(100));
    }
    bar
}
