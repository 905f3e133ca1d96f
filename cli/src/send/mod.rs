//! `send`: delivers webhooks on the schedule of Qomplement.

mod bodies;
mod edit;
mod summary;

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use qomplement_webhooks::sender::Sender;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use self::bodies::{Bodies, Setting};
use self::summary::{Summary, Tally};
use crate::arguments::{number, redacted};
use crate::causes::causes;
use crate::delivery::{Schedule, answer, result_text};
use crate::failure::Failure;
use crate::output::{self, Format};
use crate::secret::TokenArgs;
use crate::stop::stop;

/// Deliver webhooks on the schedule of Qomplement
#[derive(Args)]
#[command(after_help = "\
Examples:
  qomplement-webhooks send --to http://127.0.0.1:3000/api/webhooks/qomplement
  qomplement-webhooks send failed --to URL --set data.error.code=out_of_credit
  qomplement-webhooks send invoice.json --to URL --schedule none
  qomplement-webhooks send fill-pdf --to URL --count 1000 --duplicates 2

A delivery waits five seconds for its answer. Any 2xx acknowledges the webhook;
after the last delivery without one, it is undeliverable. Redirects are not
followed. Each webhook has a new job id, unless --set job_id=… sets one; a
single file without --set goes out unchanged, byte for byte.

The token comes from WEBHOOK_TOKEN, --token-file or --token, unless the URL has
one.

--format json prints one object at the end:
  webhooks, duplicates: numbers, as requested
  acknowledged, undeliverable, unfinished: numbers of webhooks and duplicates
  deliveries: number of HTTP requests
  answers: number of deliveries for each status, with the error code or reason
    unless it is 2xx, and for each transport error
  seconds, deliveries_per_second: numbers
  latency_ms: {p50, p99, max} of the answered deliveries; null without any")]
pub(crate) struct Send {
    /// A documented event (extract, fill-pdf, fill-excel, failed), or a file with a body; "-" reads standard
    /// input
    #[arg(value_name = "EVENT|FILE", default_value = "extract")]
    what: String,

    /// The URL to deliver to
    #[arg(long, value_name = "URL")]
    to: String,

    /// Set a value in the body, such as data.result.confidence=40, job_id=my-job or, with a JSON pointer,
    /// /data/id=other. A value that is not JSON is a string. All other bytes stay the same. Can be repeated
    #[arg(long = "set", value_name = "PATH=VALUE")]
    settings: Vec<Setting>,

    /// The number of webhooks
    #[arg(long, default_value_t = 1, value_parser = |text: &str| number::<u64>(text, 1..))]
    count: u64,

    /// The most deliveries at once
    #[arg(long, default_value_t = 16, value_parser = |text: &str| number::<u64>(text, 1..=10_000))]
    concurrency: u64,

    /// The number of duplicates of each webhook, delivered at the same time
    #[arg(long, value_name = "COUNT", default_value_t = 0, value_parser = |text: &str| number::<u64>(text, 0..))]
    duplicates: u64,

    /// The waits between the deliveries of a webhook that is not acknowledged
    #[arg(long, value_enum, default_value_t = Schedule::Documented)]
    schedule: Schedule,

    #[command(flatten)]
    token: TokenArgs,

    /// The output format of the summary
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// The most webhooks and duplicates that get a line each.
const LINES: u64 = 20;

impl Send {
    pub(crate) async fn run(self) -> Result<ExitCode, Failure> {
        let target = self.target()?;
        let bodies = Bodies::new(&self.what, &self.settings, self.count > 1)?;
        let each = self.duplicates.saturating_add(1);
        let Some(total) = self.count.checked_mul(each) else {
            return Err(Failure::usage(
                "--count times --duplicates exceeds the largest number of webhooks\n  Give smaller numbers",
            ));
        };
        // The retries happen in `Sending`, which counts each delivery as soon as it ends.
        let sender = Sender::to_url(&target)
            .map_err(|error| Failure::usage(format!("--to: {}", causes(&error))))?
            .retry_delays([]);
        let progress = progress(total);
        let sending = Arc::new(Sending {
            sender,
            delays: self.schedule.delays(),
            bodies,
            each,
            total,
            next: AtomicU64::new(0),
            tally: Mutex::new(Tally::new()),
            progress,
            lines: self.format == Format::Text && total <= LINES,
        });

        let mut stopped = std::pin::pin!(stop());
        let began = Instant::now();
        let mut workers = JoinSet::new();
        for _ in 0..self.concurrency.min(total) {
            workers.spawn(sending.clone().work());
        }
        let ended = loop {
            tokio::select! {
                () = &mut stopped => break Err(Failure::Interrupted),
                worker = workers.join_next() => match worker {
                    None => break Ok(()),
                    Some(Ok(())) => {}
                    Some(Err(died)) => break Err(Failure::failed(format!("a task panicked, which is a bug: {died}"))),
                },
            }
        };
        workers.shutdown().await;
        sending.progress.finish_and_clear();
        if let Err(failure @ Failure::Failed(_)) = ended {
            return Err(failure);
        }

        let summary = Summary {
            target: redacted(&target),
            webhooks: self.count,
            duplicates: total - self.count,
            took: began.elapsed(),
            tally: &sending.tally(),
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
            return Err(Failure::usage(
                "the body and the token cannot both come from standard input\n  Read one of them from a file",
            ));
        }
        self.token.url("--to", &self.to)
    }
}

/// The state that all workers share.
struct Sending {
    sender: Sender,
    delays: Vec<Duration>,
    bodies: Bodies,
    /// The webhook and its duplicates.
    each: u64,
    /// All webhooks and duplicates.
    total: u64,
    next: AtomicU64,
    tally: Mutex<Tally>,
    progress: ProgressBar,
    lines: bool,
}

impl Sending {
    async fn work(self: Arc<Self>) {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.total {
                return;
            }
            let (job, body) = self.bodies.of(number / self.each);
            let (is_acknowledged, deliveries) = self.deliver(&body).await;
            self.tally().webhook(is_acknowledged);
            self.progress.inc(1);
            if self.lines {
                let result = result_text(&job, is_acknowledged, &deliveries);
                self.progress.suspend(|| output::line(result));
            }
        }
    }

    /// Delivers a webhook on the schedule, and counts each delivery when it ends. Returns whether the webhook was
    /// acknowledged, and the start and answer of each delivery if they get a line.
    async fn deliver(&self, body: &Bytes) -> (bool, Vec<(Duration, String)>) {
        let began = Instant::now();
        let mut deliveries = Vec::new();
        let mut delays = self.delays.iter();
        loop {
            let at = began.elapsed();
            let report = self.sender.deliver(body.clone()).await;
            for delivery in &report.deliveries {
                let answer = answer(delivery);
                self.tally().delivery(delivery, &answer);
                if self.lines {
                    deliveries.push((at, answer));
                }
            }
            match delays.next() {
                Some(delay) if !report.is_delivered() => sleep_until(began + at + *delay).await,
                _ => return (report.is_delivered(), deliveries),
            }
        }
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A progress bar on standard error, if that is a terminal.
fn progress(total: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len}  {per_sec}  {elapsed}, {eta} left");
    let bar = match style {
        Ok(style) => ProgressBar::new(total).with_style(style),
        Err(_) => ProgressBar::new(total),
    };
    if !bar.is_hidden() {
        // A retry can be ten seconds away: the running time shows that the command is alive.
        bar.enable_steady_tick(Duration::from_millis(100));
    }
    bar
}
