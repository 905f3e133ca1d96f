//! `fetch`: fetches jobs from the API, as for webhooks that never arrived, and prints, stores or delivers their events.

mod result;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use qomplement_webhooks::event::Envelope;
use qomplement_webhooks::fetch::{ApiKey, FetchError, Fetched, JobSource, JobsClientError};
use qomplement_webhooks::inbox::{InboxAdmin, Receipt};
use qomplement_webhooks::sender::Sender;
use qomplement_webhooks::store::StoreError;
use qomplement_webhooks::{JobId, JobsClient};
use tokio::task::JoinSet;
use tokio::time::sleep;

use self::result::{Delivered, FetchResult};
use crate::arguments::{http_url, time_from};
use crate::causes::causes;
use crate::database::{self, store_error};
use crate::delivery::{Schedule, answer};
use crate::failure::Failure;
use crate::output::{self, Format};
use crate::redact::RedactArgs;
use crate::secret::{self, TokenArgs};
use crate::stop::stop;

/// Fetch jobs from the API, and print, store or deliver their events
#[derive(Args)]
#[command(after_help = "\
Examples:
  qomplement-webhooks fetch JOB_ID
  qomplement-webhooks fetch JOB_ID JOB_ID --into inbox.db
  qomplement-webhooks fetch JOB_ID --to http://127.0.0.1:3000/webhooks --watch
  qomplement-webhooks fetch JOB_ID --api-key-file api.key --format json

The API key comes from QOMPLEMENT_API_KEY or from --api-key-file.

With --into, the event of a finished job is stored like a webhook, for a worker
to handle. An event that the inbox already has stays.

With --to, the event of a finished job is delivered like its webhook: real
results reach a server on your machine without a tunnel. The token comes from
WEBHOOK_TOKEN, --token-file or --token, unless the URL has one.

With --watch, jobs that are not finished are fetched again until they are, and
so are jobs whose fetch failed for a cause that can pass. A job that the API
does not know is fetched five times. Ctrl-C ends it.

The exit status is 1 if a job is not finished, if it does not exist, if its
fetch fails, or if its webhook is undeliverable.

--format json prints one object for each job, as soon as it is fetched:
  job_id: string
  fetched: finished, pending or not_found
  type, status: strings, or null
  stored: stored, duplicate, or conflict (the inbox already has another event
    of this job, and keeps it); null without --into or a finished job
  delivered: acknowledged or undeliverable; null without --to or a finished job
  answers: the answer to each delivery, as in `send`; null like delivered
  body: the event as its webhook would carry it, or null

--redact hides fields of events that are shown. Events are stored and delivered
whole.")]
pub(crate) struct Fetch {
    /// The ids of the jobs
    #[arg(value_name = "JOB_ID", required = true)]
    jobs: Vec<JobId>,

    /// The inbox to store the events in: an SQLite file, a postgres:// URL, or "-" for the one in the
    /// environment variable DATABASE
    #[arg(long, value_name = "FILE|URL")]
    into: Option<String>,

    /// The table in PostgreSQL; by default qomplement_inbox in the first schema of the search path
    #[arg(long, value_name = "SCHEMA.TABLE", requires = "into")]
    table: Option<String>,

    /// The URL to deliver the events to
    #[arg(long, value_name = "URL")]
    to: Option<String>,

    /// The waits between the deliveries of a webhook that is not acknowledged
    #[arg(long, value_enum, default_value_t = Schedule::Documented, requires = "to")]
    schedule: Schedule,

    #[command(flatten)]
    token: TokenArgs,

    /// Fetch jobs that are not finished again, until they are
    #[arg(long)]
    watch: bool,

    /// The time between two fetches of a job, with --watch
    #[arg(long, value_name = "TIME", value_parser = every, default_value = "5s", requires = "watch")]
    every: Duration,

    /// A file with the API key; "-" reads standard input
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,

    /// The origin of the API
    #[arg(long, value_name = "URL", default_value = JobsClient::ORIGIN)]
    origin: String,

    /// The longest time for each fetch, with its retries
    #[arg(long, value_name = "TIME", value_parser = timeout, default_value = "10s")]
    timeout: Duration,

    #[command(flatten)]
    redact: RedactArgs,

    /// The output format
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

fn timeout(text: &str) -> Result<Duration, String> {
    time_from(text, Duration::from_millis(1))
}

fn every(text: &str) -> Result<Duration, String> {
    time_from(text, Duration::from_millis(100))
}

/// The number of fetches, with `--watch`, of a job that the API does not know.
const MOST_NOT_FOUND: u32 = 5;
/// The longest pause that the API may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(60 * 60);
/// The environment variable that holds the API key.
const API_KEY: &str = "QOMPLEMENT_API_KEY";

/// The state that the tasks of all jobs share.
struct Fetching {
    client: JobsClient,
    /// The pause between two fetches of a job, with `--watch`.
    every: Option<Duration>,
    inbox: Option<Arc<dyn InboxAdmin>>,
    sender: Option<Sender>,
}

impl Fetch {
    pub(crate) async fn run(self) -> Result<ExitCode, Failure> {
        let fetching = Arc::new(self.fetching().await?);
        let stopped = stop();
        let mut jobs = JoinSet::new();
        for job in self.jobs {
            jobs.spawn(fetching.clone().complete(job));
        }
        let mut is_complete = true;
        // Here, so that the lines of two jobs do not mix.
        let print = |result: Option<FetchResult>| match result {
            Some(result) => {
                result.print(self.format, &self.redact);
                is_complete &= result.is_complete();
            }
            None => is_complete = false,
        };
        show_all(jobs, stopped, print).await?;
        Ok(if is_complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// Checks all options before the first request, so that a mistyped one costs none.
    async fn fetching(&self) -> Result<Fetching, Failure> {
        http_url("--origin", &self.origin, JobsClient::ORIGIN)?;
        let client = JobsClient::builder(self.api_key()?).origin(&self.origin).timeout(self.timeout).build();
        let client = client.map_err(|error| match error {
            JobsClientError::Client(_) => Failure::failed(causes(&error)),
            _ => Failure::usage(format!("--origin: {}", causes(&error))),
        })?;
        let inbox = match &self.into {
            Some(database) => Some(database::open_given(database, self.table.as_deref()).await?),
            None => None,
        };
        let every = self.watch.then_some(self.every);
        Ok(Fetching { client, every, inbox, sender: self.sender()? })
    }

    fn sender(&self) -> Result<Option<Sender>, Failure> {
        let Some(url) = &self.to else {
            return if self.token.is_given() {
                Err(Failure::usage("a token is given, and no URL to deliver to\n  Give --to URL"))
            } else {
                Ok(None)
            };
        };
        let sender = Sender::to_url(&self.token.url("--to", url)?)
            .map_err(|error| Failure::usage(format!("--to: {}", causes(&error))))?;
        Ok(Some(sender.retry_delays(self.schedule.delays())))
    }

    fn api_key(&self) -> Result<ApiKey, Failure> {
        let is_stdin = self.api_key_file.as_deref() == Some(Path::new("-"));
        if is_stdin && self.token.is_stdin() {
            return Err(Failure::usage(
                "the API key and the token cannot both come from standard input\n  Read one of them from a file",
            ));
        }
        let (place, key) = match &self.api_key_file {
            Some(file) => (secret::name(file), ApiKey::new(secret::read(file)?.trim())),
            None if std::env::var_os(API_KEY).is_none() => {
                return Err(Failure::usage(format!(
                    "no API key given\n  Set the environment variable {API_KEY}, or give --api-key-file"
                )));
            }
            None => (API_KEY.to_owned(), ApiKey::from_env(API_KEY)),
        };
        // Without the cause, which can show the key.
        key.map_err(|error| Failure::usage(format!("{place}: {error}")))
    }
}

impl Fetching {
    /// Fetches a job, and stores and delivers its event. If the fetch or the inbox fails, prints the error and returns
    /// nothing.
    async fn complete(self: Arc<Self>, job: JobId) -> Result<Option<FetchResult>, Failure> {
        let fetched = match self.fetch(&job).await {
            Ok(fetched) => fetched,
            // Every other job would fail in the same way.
            Err(error @ FetchError::Unauthorized) => return Err(Failure::failed(fetch_failure(&error))),
            Err(error) => {
                output::error(format_args!("{job}: {}", fetch_failure(&error)));
                return Ok(None);
            }
        };
        let mut result = FetchResult { job, fetched, stored: None, delivered: None };
        if let Fetched::Finished(event) = &result.fetched {
            // Stored before it is delivered: the schedule of an undeliverable webhook takes 15 seconds.
            if let Some(inbox) = &self.inbox {
                match self.store(&**inbox, event).await {
                    Ok(receipt) => result.stored = Some(receipt),
                    Err(error) => {
                        output::error(format_args!("{}: {}", result.job, store_error(&error)));
                        return Ok(None);
                    }
                }
            }
            if let Some(sender) = &self.sender {
                let report = sender.deliver(event.body().clone()).await;
                let answers =
                    report.deliveries.iter().map(|delivery| (delivery.at, answer(delivery))).collect();
                result.delivered = Some(Delivered { is_acknowledged: report.is_delivered(), answers });
            }
        }
        Ok(Some(result))
    }

    /// Stores a job's event; with `--watch`, until the inbox takes it.
    async fn store(&self, inbox: &dyn InboxAdmin, event: &Envelope) -> Result<Receipt, StoreError> {
        let mut is_noted = false;
        loop {
            match (inbox.receive(event).await, self.every) {
                (Err(error), Some(every)) => {
                    if !is_noted {
                        let (job, error) = (event.job(), store_error(&error));
                        output::note(format_args!("{job}: {error}\n  Stored as soon as the inbox takes it"));
                    }
                    is_noted = true;
                    sleep(every).await;
                }
                (received, _) => return received,
            }
        }
    }

    /// Fetches a job; with `--watch`, until it has ended or no later fetch can succeed.
    async fn fetch(&self, job: &JobId) -> Result<Fetched, FetchError> {
        let mut last_note = None;
        let mut not_found = 0;
        loop {
            let fetched = self.client.fetch(job).await;
            let Some(every) = self.every else { return fetched };
            let (note, pause) = match &fetched {
                Ok(Fetched::Pending) => ("not finished".to_owned(), every),
                // The API may not know a new job yet.
                Ok(Fetched::NotFound) if not_found + 1 < MOST_NOT_FOUND => {
                    not_found += 1;
                    ("unknown to the API".to_owned(), every)
                }
                Err(error) if can_pass(error) => {
                    // Without the time that is left, so that one closing of the budget is one note.
                    let why = match error {
                        FetchError::BudgetClosed(_) => "fetches are paused after failures".to_owned(),
                        error => causes(error),
                    };
                    (why, every.max(error.retry_after().unwrap_or_default().min(LONGEST_PAUSE)))
                }
                _ => return fetched,
            };
            if last_note.as_ref() != Some(&note) {
                let pause = Duration::from_millis(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX));
                let pause = humantime::format_duration(pause);
                output::note(format_args!("{job}: {note}; fetched again in {pause}"));
                last_note = Some(note);
            }
            sleep(pause).await;
        }
    }
}

/// Shows the result of each job as soon as it has one, until one fails for all or the command is stopped. The jobs that have
/// their results by then, and may be stored or delivered, are shown too.
async fn show_all<T: 'static>(
    mut jobs: JoinSet<Result<T, Failure>>,
    stopped: impl Future<Output = ()>,
    mut show: impl FnMut(T),
) -> Result<(), Failure> {
    let mut stopped = std::pin::pin!(stopped);
    let failure = loop {
        let job = tokio::select! {
            job = jobs.join_next() => job,
            () = &mut stopped => break Failure::Interrupted,
        };
        match job {
            None => return Ok(()),
            Some(Ok(Ok(result))) => show(result),
            Some(Ok(Err(failure))) => break failure,
            Some(Err(died)) => break Failure::failed(format!("a task panicked, which is a bug: {died}")),
        }
    };
    while let Some(job) = jobs.try_join_next() {
        if let Ok(Ok(result)) = job {
            show(result);
        }
    }
    Err(failure)
}

/// Whether a later fetch of the job can succeed.
fn can_pass(error: &FetchError) -> bool {
    matches!(
        error,
        FetchError::RateLimited { .. }
            | FetchError::Unreachable(_)
            | FetchError::Unavailable { .. }
            | FetchError::BudgetClosed(_)
    )
}

/// The text of a failed fetch, with what to do.
fn fetch_failure(error: &FetchError) -> String {
    let tip = match error {
        FetchError::Unauthorized | FetchError::Refused(_) => {
            "\n  Check that the API key belongs to the account that started the job"
        }
        FetchError::RateLimited { .. } | FetchError::BudgetClosed(_) => {
            "\n  Try again in a minute, or give --watch"
        }
        FetchError::Unreachable(_) | FetchError::Unavailable { .. } => {
            "\n  Check --origin and the network, then try again"
        }
        _ => "",
    };
    format!("{}{tip}", causes(error))
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::task::{JoinSet, yield_now};

    use super::{Failure, show_all};

    /// Jobs of which the first fails for all, if `fails`; the second has a result, and the third has none yet.
    async fn jobs(fails: bool) -> JoinSet<Result<&'static str, Failure>> {
        let mut jobs = JoinSet::new();
        if fails {
            jobs.spawn(ready(Err(Failure::failed("the API key was refused"))));
        }
        jobs.spawn(ready(Ok("stored")));
        jobs.spawn(pending());
        // On one thread, the tasks run before this one goes on.
        yield_now().await;
        jobs
    }

    #[tokio::test]
    async fn results_that_are_there_are_shown_when_the_command_ends_early() {
        for _ in 0..20 {
            let mut shown = Vec::new();
            let ended = show_all(jobs(false).await, ready(()), |result| shown.push(result)).await;
            assert!(matches!(ended, Err(Failure::Interrupted)) && shown == ["stored"], "{shown:?}");
        }
        let mut shown = Vec::new();
        let ended = show_all(jobs(true).await, pending(), |result| shown.push(result)).await;
        assert!(matches!(ended, Err(Failure::Failed(_))) && shown == ["stored"], "{shown:?}");
    }
}
