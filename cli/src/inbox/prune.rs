//! `inbox prune`: deletes old bodies and rows of done events.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use humantime::format_duration;
use qomplement_webhooks::inbox::{InboxCursor, InboxFilter, InboxState, Pruned, Retention};
use serde_json::json;

use super::rows::Pages;
use crate::arguments::time;
use crate::confirm::confirm;
use crate::database::{DatabaseArgs, store_failure};
use crate::failure::Failure;
use crate::output::{self, Format};

/// Delete old bodies and rows of done events
#[derive(Args)]
#[command(after_help = "\
Examples:
  qomplement-webhooks inbox prune --db inbox.db --dry-run
  qomplement-webhooks inbox prune --db inbox.db --bodies 1d --rows 30d --yes

Dead letters and unfinished events stay. Workers prune, too, with the same
default times. A row without its body still rejects a duplicate; after the row
is deleted, a duplicate counts as a new event, and the handler runs again.

The command asks before it deletes. --yes skips the question, and is required
without a terminal.

--format json prints one object:
  bodies, rows: numbers of deletions; with --dry-run, their upper bounds
  dry_run: true or false")]
pub(super) struct Prune {
    #[command(flatten)]
    database: DatabaseArgs,

    /// How long to keep a body after its event is done
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "7d")]
    bodies: Duration,

    /// How long to keep a row after its event is done
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "30d")]
    rows: Duration,

    /// Count only; delete nothing
    #[arg(long)]
    dry_run: bool,

    /// Delete without a question
    #[arg(long, short)]
    yes: bool,

    /// The output format
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

impl Prune {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let inbox = self.database.open().await?;
        let mut pruned = Pruned::default();
        if self.dry_run || !self.yes {
            let filter = InboxFilter::default().state(InboxState::Done);
            let mut pages = Pages::new(&inbox, filter, InboxCursor::Oldest, u64::MAX);
            loop {
                let page = pages.next().await?;
                if page.is_empty() {
                    break;
                }
                // An upper bound: the age counts from the receipt, and retention from the end.
                let older = |than| page.iter().filter(|row| row.age >= than).count() as u64;
                pruned.rows += older(self.rows);
                pruned.payloads += older(self.bodies.min(self.rows));
            }
        }
        if self.dry_run {
            return self.print(pruned, "would be deleted, at most");
        }
        if !self.yes {
            let question = format!(
                "Delete bodies of events done for {}, and rows for {}?\n  At most {} and {}",
                format_duration(self.bodies),
                format_duration(self.rows),
                output::count(pruned.payloads, "body", "bodies"),
                output::count(pruned.rows, "row", "rows")
            );
            if !confirm(&question).await? {
                output::note("nothing was deleted");
                return Ok(ExitCode::FAILURE);
            }
        }
        let retention = Retention::default().payload(self.bodies).row(self.rows);
        let mut all = Pruned::default();
        loop {
            let pruned = inbox.prune(&retention).await.map_err(store_failure)?;
            if pruned == Pruned::default() {
                return self.print(all, "deleted");
            }
            all.payloads += pruned.payloads;
            all.rows += pruned.rows;
        }
    }

    fn print(&self, pruned: Pruned, what: &str) -> Result<ExitCode, Failure> {
        let Pruned { payloads, rows, .. } = pruned;
        match self.format {
            Format::Text => output::line(format_args!(
                "{} and {} {what}",
                output::count(payloads, "body", "bodies"),
                output::count(rows, "row", "rows")
            )),
            Format::Json => {
                output::json(&json!({"bodies": payloads, "rows": rows, "dry_run": self.dry_run}));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
