//! `inbox show`: shows the row and the event of one job.

use std::process::ExitCode;

use clap::Args;
use qomplement_webhooks::JobId;
use qomplement_webhooks::inbox::InboxState;

use super::rows;
use crate::causes::causes;
use crate::database::{DatabaseArgs, store_failure};
use crate::failure::Failure;
use crate::output::{self, Format, Line, clean};
use crate::redact::{REDACT, RedactArgs};
use crate::time::short;

/// Show the row and the event of a job
#[derive(Args)]
#[command(after_help = "\
Examples:
  qomplement-webhooks inbox show --db inbox.db JOB_ID
  qomplement-webhooks inbox show --db inbox.db JOB_ID --redact iban,name
  qomplement-webhooks inbox show --db inbox.db JOB_ID --raw > body.json
  qomplement-webhooks send body.json --to URL

`failed` lines are the last attempts that failed, at most 20, the oldest first.

--format json prints the object of `inbox list` with three more members:
  traceparent: the W3C trace context of the delivery that brought the event, or null
  failures: array of failed attempts, each an object of
    attempt: number
    age_seconds: time since it failed
    took_seconds: time from lease to failure, or null if the lease expired
    error: string, cut if it is long
  body: the event, or null if the row has none, it cannot be read, or --redact
    hides all of it")]
pub(super) struct Show {
    /// The id of the job
    #[arg(value_name = "JOB_ID")]
    job: JobId,

    #[command(flatten)]
    database: DatabaseArgs,

    /// Print the body of the event alone, byte for byte; a terminal gets escapes for control characters
    #[arg(long, conflicts_with_all = ["format", REDACT])]
    raw: bool,

    #[command(flatten)]
    redact: RedactArgs,

    /// The output format
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

impl Show {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let inbox = self.database.open().await?;
        let Some((row, body)) = rows::find(&inbox, &self.job).await.map_err(store_failure)? else {
            return Err(Failure::failed(format!("the inbox has no row for the job {}", self.job)));
        };
        let body =
            body.map_err(|error| Failure::failed(format!("the body cannot be read: {}", causes(&error))));
        if self.raw {
            let Some(body) = body? else {
                return Err(Failure::failed(format!("the row has no body: {}", no_body(row.state))));
            };
            output::raw_body(&body);
            return Ok(ExitCode::SUCCESS);
        }
        if self.format == Format::Json {
            let shown = body.as_ref().ok().and_then(Option::as_deref);
            let shown = shown.and_then(|body| self.redact.shown(body));
            output::json_with_body(&rows::json_with_details(&row), shown.as_deref());
            return body.map(|_| ExitCode::SUCCESS);
        }
        let print = |name: &str, text: &str| output::line(format_args!("{name:<10}{}", clean(text)));
        print("job", &row.job_id);
        output::line(Line::from(format_args!("{:<10}", "state")).and(rows::paint(row.state, row.state)));
        for (name, text) in [("type", &row.job_type), ("status", &row.status)] {
            print(name, text.as_deref().unwrap_or("-"));
        }
        print("verified", if row.verified { "yes" } else { "no" });
        if let Some(traceparent) = &row.traceparent {
            print("trace", traceparent.as_str());
        }
        print("attempts", &rows::attempts(&row));
        print("age", &short(row.age));
        print("next", &rows::next(&row));
        if let Some(error) = &row.error {
            print("error", error);
        }
        for failed in &row.failures {
            print("failed", &rows::failure(failed));
        }
        let Some(body) = body? else {
            print("body", no_body(row.state));
            return Ok(ExitCode::SUCCESS);
        };
        print("body", &format!("{} bytes", body.len()));
        if let Some(body) = self.redact.shown(&body) {
            output::body(&body, "--raw");
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The reason why a row has no body.
fn no_body(state: InboxState) -> &'static str {
    match state {
        InboxState::Done => "the body was pruned",
        InboxState::Dead => "no event arrived, or the API rejected the job",
        _ => "the event has not arrived",
    }
}
