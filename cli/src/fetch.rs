//! `fetch`: fetches a job from the API, as for a webhook that never arrived.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use qomplement_webhooks::fetch::{ApiKey, FetchError, Fetched, JobSource, JobsClientError};
use qomplement_webhooks::inbox::Receipt;
use qomplement_webhooks::{JobId, JobsClient};
use serde_json::json;

use crate::arguments::{http_url, time_from};
use crate::causes::causes;
use crate::database::{self, store_failure};
use crate::failure::Failure;
use crate::output::{self, Format, clean};
use crate::secret;

/// Fetch a job from the API, and print or store its event
#[derive(Args)]
#[command(after_help = "\
Examples:
  qomplement-webhooks fetch JOB_ID
  qomplement-webhooks fetch JOB_ID --into inbox.db
  qomplement-webhooks fetch JOB_ID --api-key-file api.key --format json

The API key comes from QOMPLEMENT_API_KEY or from --api-key-file. With --into,
the event of a finished job is stored like a webhook, for a worker to handle.
An event that the inbox already has stays.

The exit status is 1 if the job is not finished, if it does not exist, or if
the fetch fails.

--format json prints one object:
  job_id: string
  fetched: finished, pending or not_found
  type, status: strings, or null
  stored: stored, duplicate, or conflict (the inbox already has another event
    of this job, and keeps it); null without --into or a finished job
  body: the event as its webhook would carry it, or null")]
pub(crate) struct Fetch {
    /// The id of the job
    #[arg(value_name = "JOB_ID")]
    job: JobId,

    /// The inbox to store the event in: an SQLite file, a postgres:// URL, or "-" for the one in the
    /// environment variable DATABASE
    #[arg(long, value_name = "FILE|URL")]
    into: Option<String>,

    /// The table in PostgreSQL; by default qomplement_inbox in the first schema of the search path
    #[arg(long, value_name = "SCHEMA.TABLE", requires = "into")]
    table: Option<String>,

    /// A file with the API key; "-" reads standard input
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,

    /// The origin of the API
    #[arg(long, value_name = "URL", default_value = JobsClient::ORIGIN)]
    origin: String,

    /// The longest time for the fetch, with its retries
    #[arg(long, value_name = "TIME", value_parser = timeout, default_value = "10s")]
    timeout: Duration,

    /// The output format
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

fn timeout(text: &str) -> Result<Duration, String> {
    time_from(text, Duration::from_millis(1))
}

/// The environment variable that holds the API key.
const API_KEY: &str = "QOMPLEMENT_API_KEY";

impl Fetch {
    pub(crate) async fn run(self) -> Result<ExitCode, Failure> {
        http_url("--origin", &self.origin, JobsClient::ORIGIN)?;
        let client = JobsClient::builder(self.api_key()?).origin(&self.origin).timeout(self.timeout).build();
        let client = client.map_err(|error| match error {
            JobsClientError::Client(_) => Failure::failed(causes(&error)),
            _ => Failure::usage(format!("--origin: {}", causes(&error))),
        })?;
        // Before the fetch, so that a mistyped inbox costs no request.
        let inbox = match &self.into {
            Some(database) => Some(database::open_given(database, self.table.as_deref()).await?),
            None => None,
        };
        let fetched = client.fetch(&self.job).await.map_err(|error| fetch_failure(&error))?;
        let receipt = match (&fetched, inbox) {
            (Fetched::Finished(event), Some(inbox)) => {
                Some(inbox.receive(event).await.map_err(store_failure)?)
            }
            _ => None,
        };
        match self.format {
            Format::Text => self.print_text(&fetched, receipt),
            Format::Json => self.print_json(&fetched, receipt),
        }
        Ok(if matches!(fetched, Fetched::Finished(_)) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn api_key(&self) -> Result<ApiKey, Failure> {
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

    fn print_text(&self, fetched: &Fetched, receipt: Option<Receipt>) {
        let event = match fetched {
            Fetched::Finished(event) => event,
            Fetched::NotFound => return output::note(format_args!("the API has no job {}", self.job)),
            _ => return output::note(format_args!("the job {} is not finished", self.job)),
        };
        let (kind, status) = (clean(event.job_type().as_str()), clean(event.status().as_str()));
        output::line(format_args!("{}  {kind}  {status}", self.job));
        match receipt {
            Some(Receipt::Stored) => output::line("stored; a worker handles it next"),
            Some(Receipt::Duplicate) => output::line("duplicate; the inbox already has this event"),
            Some(Receipt::Conflict) => {
                output::line("conflict; the inbox keeps the other event of this job that it already has");
            }
            None => output::body(event.body(), "--format json"),
        }
    }

    fn print_json(&self, fetched: &Fetched, receipt: Option<Receipt>) {
        let (word, event) = match fetched {
            Fetched::Finished(event) => ("finished", Some(event)),
            Fetched::NotFound => ("not_found", None),
            _ => ("pending", None),
        };
        let members = json!({
            "job_id": self.job.to_string(),
            "fetched": word,
            "type": event.map(|event| event.job_type().as_str()),
            "status": event.map(|event| event.status().as_str()),
            "stored": receipt.map(|receipt| match receipt {
                Receipt::Stored => "stored",
                Receipt::Duplicate => "duplicate",
                Receipt::Conflict => "conflict",
            }),
        });
        output::json_with_body(&members, event.map(|event| &event.body()[..]));
    }
}

/// The failure for a fetch without an answer.
fn fetch_failure(error: &FetchError) -> Failure {
    let tip = match error {
        FetchError::Unauthorized | FetchError::Refused(_) => {
            "\n  Check that the API key belongs to the account that started the job"
        }
        FetchError::RateLimited { .. } => "\n  Try again in a minute",
        FetchError::Unreachable(_) | FetchError::Unavailable { .. } => {
            "\n  Check --origin and the network, then try again"
        }
        FetchError::InvalidId => "\n  An id consists of letters, digits, `-` and `_`",
        _ => "",
    };
    Failure::failed(format!("{}{tip}", causes(error)))
}
