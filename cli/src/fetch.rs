//! `fetch`: asks the API for a job whose webhook did not come.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use qomplement_webhooks::fetch::{ApiKey, FetchError, Fetched, JobSource, JobsClientError};
use qomplement_webhooks::inbox::Receipt;
use qomplement_webhooks::{JobId, JobsClient};
use serde_json::json;

use crate::arguments::{http_url, time_from};
use crate::database::{self, store};
use crate::failure::{Failure, causes};
use crate::output::{self, Format, clean};
use crate::secret;

/// Ask the API for a job, and put what came of it into an inbox
#[derive(Args)]
#[command(after_help = "\
Examples:
  qomplement-webhooks fetch JOB_ID
  qomplement-webhooks fetch JOB_ID --into inbox.db
  qomplement-webhooks fetch JOB_ID --api-key-file api.key --format json

The API key is taken from QOMPLEMENT_API_KEY, or from a file. With --into, what
came of the job is stored as if its webhook had come, for a worker to handle;
what the inbox has already, it keeps.

The exit status is 1 if the job still runs, if there is no such job, or if the
API could not say.

--format json prints one object:
  job_id: text
  fetched: finished, pending or not_found
  type, status: texts, or null
  stored: stored, duplicate or conflict (another event of this job was stored
    before, and is kept); null without --into, or if the job has not ended
  body: the event in the form of a webhook, or null")]
pub(crate) struct Fetch {
    /// The job
    #[arg(value_name = "JOB_ID")]
    job: JobId,

    /// An inbox to put it into: an SQLite file, a postgres:// URL, or "-" for the one in the environment
    /// variable DATABASE
    #[arg(long, value_name = "FILE|URL")]
    into: Option<String>,

    /// The inbox's table in PostgreSQL, unless it is qomplement_inbox in the first schema of the search path
    #[arg(long, value_name = "SCHEMA.TABLE", requires = "into")]
    table: Option<String>,

    /// A file that holds the API key; "-" is standard input
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,

    /// Where the API is
    #[arg(long, value_name = "URL", default_value = JobsClient::ORIGIN)]
    origin: String,

    /// How long the API may take, with what is tried again
    #[arg(long, value_name = "TIME", value_parser = timeout, default_value = "10s")]
    timeout: Duration,

    /// How to print it
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
        // First, so that a mistyped inbox costs no request.
        let inbox = match &self.into {
            Some(database) => Some(database::open_given(database, self.table.as_deref()).await?),
            None => None,
        };
        let fetched = client.fetch(&self.job).await.map_err(|error| failed(&error))?;
        let receipt = match (&fetched, inbox) {
            (Fetched::Finished(event), Some(inbox)) => Some(inbox.receive(event).await.map_err(store)?),
            _ => None,
        };
        match self.format {
            Format::Text => self.tell(&fetched, receipt),
            Format::Json => self.tell_json(&fetched, receipt),
        }
        Ok(if matches!(fetched, Fetched::Finished(_)) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn api_key(&self) -> Result<ApiKey, Failure> {
        let (place, key) = match &self.api_key_file {
            Some(file) => (secret::name(file), ApiKey::new(secret::read(file)?.trim())),
            None if std::env::var_os(API_KEY).is_none() => {
                return Err(Failure::usage(format!(
                    "there is no API key\n  Put it into the environment variable {API_KEY}, or give --api-key-file"
                )));
            }
            None => (API_KEY.to_owned(), ApiKey::from_env(API_KEY)),
        };
        // Without its cause, which can be the key.
        key.map_err(|error| Failure::usage(format!("{place}: {error}")))
    }

    fn tell(&self, fetched: &Fetched, receipt: Option<Receipt>) {
        let event = match fetched {
            Fetched::Finished(event) => event,
            Fetched::NotFound => return output::note(format_args!("the API has no job {}", self.job)),
            _ => return output::note(format_args!("{} still runs", self.job)),
        };
        let (kind, status) = (clean(event.job_type().as_str()), clean(event.status().as_str()));
        output::line(format_args!("{}  {kind}  {status}", self.job));
        match receipt {
            Some(Receipt::Stored) => output::line("stored; a worker will handle it"),
            Some(Receipt::Duplicate) => output::line("the inbox has it already"),
            Some(Receipt::Conflict) => {
                output::line("the inbox has another event of this job already, and keeps that");
            }
            None => output::body(event.body(), "--format json"),
        }
    }

    fn tell_json(&self, fetched: &Fetched, receipt: Option<Receipt>) {
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

/// Why the API could not say.
fn failed(error: &FetchError) -> Failure {
    let tip = match error {
        FetchError::Unauthorized => format!("\n  Is {API_KEY} the key of the account that started the job?"),
        FetchError::RateLimited { .. } => "\n  Try again in a minute".to_owned(),
        FetchError::Refused(_) => format!("\n  Is {API_KEY} the key of the account that started the job?"),
        FetchError::Unreachable(_) | FetchError::Unavailable { .. } => {
            "\n  Is the API up, and reachable from here? Try again".to_owned()
        }
        FetchError::InvalidId => "\n  An id has letters, digits, `-` and `_`".to_owned(),
        _ => String::new(),
    };
    Failure::failed(format!("{}{tip}", causes(error)))
}
