//! `inbox show`: one row, and its event.

use std::process::ExitCode;

use clap::Args;
use qomplement_webhooks::JobId;
use qomplement_webhooks::inbox::InboxState;

use super::rows;
use crate::database::{DatabaseArgs, store};
use crate::failure::Failure;
use crate::output::{self, Format, Line, clean};
use crate::time::short;

/// Show a job's row, and its event
#[derive(Args)]
#[command(after_help = "\
Examples:
  qomplement-webhooks inbox show --db inbox.db JOB_ID
  qomplement-webhooks inbox show --db inbox.db JOB_ID --raw > body.json
  qomplement-webhooks send body.json --to URL

--format json prints what `inbox list` prints of a row, and body: the event,
or null if there is none.")]
pub(super) struct Show {
    /// The job
    #[arg(value_name = "JOB_ID")]
    job: JobId,

    #[command(flatten)]
    database: DatabaseArgs,

    /// Print the body of the event alone, byte for byte unless that is to a terminal
    #[arg(long, conflicts_with = "format")]
    raw: bool,

    /// How to print it
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

impl Show {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let inbox = self.database.open().await?;
        let Some((row, body)) = inbox.get(&self.job).await.map_err(store)? else {
            return Err(Failure::failed(format!("the inbox has no job {}", self.job)));
        };
        if self.raw {
            let Some(body) = body else {
                return Err(Failure::failed(format!("there is no body: {}", no_body(row.state))));
            };
            output::raw_body(&body);
            return Ok(ExitCode::SUCCESS);
        }
        if self.format == Format::Json {
            output::json_with_body(&rows::json(&row), body.as_deref());
            return Ok(ExitCode::SUCCESS);
        }
        let print = |name: &str, text: &str| output::line(format_args!("{name:<10}{}", clean(text)));
        print("job", &row.job_id);
        output::line(Line::from(format_args!("{:<10}", "state")).and(rows::paint(row.state, row.state)));
        for (name, text) in [("type", &row.job_type), ("status", &row.status)] {
            print(name, text.as_deref().unwrap_or("-"));
        }
        print("verified", if row.verified { "yes" } else { "no" });
        print("attempts", &rows::attempts(&row));
        print("age", &short(row.age));
        print("next", &rows::next(&row));
        if let Some(error) = &row.error {
            print("error", error);
        }
        let Some(body) = body else {
            print("body", no_body(row.state));
            return Ok(ExitCode::SUCCESS);
        };
        print("body", &format!("{} bytes", body.len()));
        output::body(&body, "--raw");
        Ok(ExitCode::SUCCESS)
    }
}

/// Why there is no event.
fn no_body(state: InboxState) -> &'static str {
    match state {
        InboxState::Done => "it was pruned",
        InboxState::Dead => "no event came, or the API disowned it",
        _ => "it has yet to come",
    }
}
