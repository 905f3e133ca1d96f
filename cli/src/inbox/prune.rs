//! `inbox prune`: deletes what is no longer needed of what is done.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use humantime::format_duration;
use qomplement_webhooks::inbox::{InboxFilter, InboxState, Pruned, Retention};
use serde_json::json;

use super::rows::Pages;
use crate::arguments::time;
use crate::confirm::confirm;
use crate::database::{DatabaseArgs, store};
use crate::failure::Failure;
use crate::output::{self, Format};

/// Delete old bodies and rows of what is done
#[derive(Args)]
#[command(after_help = "\
Examples:
  qomplement-webhooks inbox prune --db inbox.db --dry-run
  qomplement-webhooks inbox prune --db inbox.db --bodies 1d --rows 30d --yes

Only what is done is pruned, never what is dead or unfinished. Workers do it
by themselves, too, with the same times. A row without its body still tells a
copy of its webhook from a new one; when the row is gone, a copy is handled
again.

It asks first, unless --yes is given; without a terminal, --yes is needed.

--format json prints one object: bodies, rows: how many were deleted, or with
--dry-run how many would be at most; dry_run: true or false.")]
pub(super) struct Prune {
    #[command(flatten)]
    database: DatabaseArgs,

    /// For how long bodies are kept after they were handled
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "7d")]
    bodies: Duration,

    /// For how long rows are
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "30d")]
    rows: Duration,

    /// Only count what could be pruned
    #[arg(long)]
    dry_run: bool,

    /// Do not ask
    #[arg(long, short)]
    yes: bool,

    /// How to print what was done
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

impl Prune {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let inbox = self.database.open().await?;
        let mut pruned = Pruned::default();
        if self.dry_run || !self.yes {
            let mut filter = InboxFilter::default();
            filter.state = Some(InboxState::Done);
            let mut pages = Pages::new(&inbox, filter, None, u64::MAX);
            loop {
                let page = pages.next().await?;
                if page.is_empty() {
                    break;
                }
                // What was received so long ago has been done for less.
                let older = |than| page.iter().filter(|row| row.age >= than).count() as u64;
                pruned.rows += older(self.rows);
                pruned.payloads += older(self.bodies.min(self.rows));
            }
        }
        if self.dry_run {
            return self.tell(pruned, "would be deleted, at most");
        }
        if !self.yes {
            let question = format!(
                "Delete bodies {} after they were handled, and rows {} after?\n  That is {} and {}, at most",
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
        let retention = Retention { payload: self.bodies, row: self.rows };
        let mut all = Pruned::default();
        loop {
            let pruned = inbox.prune(&retention).await.map_err(store)?;
            if pruned == Pruned::default() {
                return self.tell(all, "deleted");
            }
            all.payloads += pruned.payloads;
            all.rows += pruned.rows;
        }
    }

    fn tell(&self, pruned: Pruned, what: &str) -> Result<ExitCode, Failure> {
        let Pruned { payloads, rows } = pruned;
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
