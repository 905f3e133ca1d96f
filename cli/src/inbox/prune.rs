//! `inbox prune`: deletes old bodies and rows of done events, and old dead letters.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use humantime::format_duration;
use qomplement_webhooks::inbox::{InboxAdmin, InboxCursor, InboxFilter, InboxState, Pruned, Retention};
use serde_json::json;

use super::midway;
use super::rows::Pages;
use crate::arguments::time;
use crate::confirm::confirm;
use crate::database::{DatabaseArgs, store_failure};
use crate::failure::Failure;
use crate::output::{self, Format};

/// Delete old bodies and rows of done events, and old dead letters
#[derive(Args)]
#[command(after_help = "\
Examples:
  qomplement-webhooks inbox prune --db inbox.db --dry-run
  qomplement-webhooks inbox prune --db inbox.db --bodies 1d --rows 30d --yes
  qomplement-webhooks inbox prune --db inbox.db --dead 90d

Dead letters stay unless --dead is given; unfinished events always stay.
Workers prune, too, with the same default times. A row without its body still
rejects a duplicate; after the row is deleted, a duplicate counts as a new
event, and the handler runs again.

The command asks before it deletes. --yes skips the question, and is required
without a terminal.

--format json prints one object:
  bodies, rows, dead: numbers of deleted bodies, rows and dead letters; with
    --dry-run, their upper bounds
  dry_run: true or false")]
pub(super) struct Prune {
    #[command(flatten)]
    inbox: DatabaseArgs,

    /// How long to keep a body after its event is done
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "7d")]
    bodies: Duration,

    /// How long to keep a row after its event is done
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "30d")]
    rows: Duration,

    /// How long to keep a dead letter, counted from when it became one; without it, all are kept
    #[arg(long, value_name = "TIME", value_parser = time)]
    dead: Option<Duration>,

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
        let start = Instant::now();
        let inbox = self.inbox.open().await?;
        let pruned = if self.dry_run || !self.yes { self.count(&inbox).await? } else { Pruned::default() };
        if self.dry_run {
            return self.print(pruned, "would be deleted, at most");
        }
        if !self.yes {
            let [bodies, rows] = [self.bodies, self.rows].map(format_duration);
            let dead = self.dead.map(format_duration);
            let dead = dead.map(|dead| format!(", and dead letters for {dead}")).unwrap_or_default();
            let question = format!(
                "Delete bodies of events done for {bodies}, and rows for {rows}{dead}, in {}?\n  At most {}",
                self.inbox.name(),
                self.counts(&pruned)
            );
            if !confirm(&question).await? {
                output::note("nothing was deleted");
                return Ok(ExitCode::FAILURE);
            }
        }
        let mut all = Pruned::default();
        loop {
            // Keeps what has become old enough since the start: a busy worker would make it more without end.
            let waited = start.elapsed();
            let mut retention = Retention::default().payload(self.bodies + waited).row(self.rows + waited);
            retention.dead = self.dead.map(|dead| dead + waited);
            let pruned = inbox.prune(&retention).await.map_err(|error| {
                let done = format!("At least {} were deleted before the error", self.counts(&all));
                midway(store_failure(error), done)
            })?;
            if pruned == Pruned::default() {
                return self.print(all, "deleted");
            }
            all.payloads += pruned.payloads;
            all.rows += pruned.rows;
            all.dead += pruned.dead;
        }
    }

    /// Counts what would be deleted, at most: the age of a row counts from its receipt, and retention from its end.
    async fn count(&self, inbox: &Arc<dyn InboxAdmin>) -> Result<Pruned, Failure> {
        let mut pruned = Pruned::default();
        for (state, kept) in
            [(InboxState::Done, Some(self.bodies.min(self.rows))), (InboxState::Dead, self.dead)]
        {
            let Some(kept) = kept else { continue };
            let filter = InboxFilter::default().state(state).older_than(kept);
            let mut pages = Pages::new(inbox, filter, InboxCursor::Oldest, u64::MAX);
            loop {
                let page = pages.next().await?;
                if page.is_empty() {
                    break;
                }
                let count = page.len() as u64;
                if state == InboxState::Dead {
                    pruned.dead += count;
                } else {
                    pruned.payloads += count;
                    pruned.rows += page.iter().filter(|row| row.age >= self.rows).count() as u64;
                }
            }
        }
        Ok(pruned)
    }

    fn counts(&self, pruned: &Pruned) -> String {
        let bodies = output::count(pruned.payloads, "body", "bodies");
        let rows = output::count(pruned.rows, "row", "rows");
        match self.dead {
            Some(_) => {
                let dead = output::count(pruned.dead, "dead letter", "dead letters");
                format!("{bodies}, {rows} and {dead}")
            }
            None => format!("{bodies} and {rows}"),
        }
    }

    fn print(&self, pruned: Pruned, what: &str) -> Result<ExitCode, Failure> {
        match self.format {
            Format::Text => output::line(format_args!("{} {what}", self.counts(&pruned))),
            Format::Json => output::json(&json!({
                "bodies": pruned.payloads,
                "rows": pruned.rows,
                "dead": pruned.dead,
                "dry_run": self.dry_run,
            })),
        }
        Ok(ExitCode::SUCCESS)
    }
}
