//! `inbox stats`: how much there is of what.

use std::process::ExitCode;

use clap::Args;
use qomplement_webhooks::inbox::{InboxState, InboxStats};
use serde_json::json;

use super::rows;
use crate::database::{DatabaseArgs, store};
use crate::failure::Failure;
use crate::output::{self, Format, Line};
use crate::time::short;

/// Count what is in an inbox
#[derive(Args)]
#[command(after_help = "\
Examples:
  qomplement-webhooks inbox stats --db inbox.db
  qomplement-webhooks inbox stats --db inbox.db --format json | jq .dead

--format json prints one object:
  expected, received, running, done, dead: how many rows
  bytes: of the bodies that are kept
  oldest_due_seconds: for how long the row that is due for longest has been;
    null if none is due")]
pub(super) struct Stats {
    #[command(flatten)]
    database: DatabaseArgs,

    /// How to print them
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

impl Stats {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let inbox = self.database.open().await?;
        let stats = inbox.stats().await.map_err(store)?;
        match self.format {
            Format::Text => output::lines(&lines(&stats)),
            Format::Json => output::json(&json!({
                "expected": stats.expected,
                "received": stats.received,
                "running": stats.running,
                "done": stats.done,
                "dead": stats.dead,
                "bytes": stats.bytes,
                "oldest_due_seconds": stats.oldest_due.map(|due| due.as_secs_f64()),
            })),
        }
        Ok(ExitCode::SUCCESS)
    }
}

pub(super) fn lines(stats: &InboxStats) -> Vec<Line> {
    let states = [
        (InboxState::Expected, stats.expected, ""),
        (InboxState::Received, stats.received, "wait to be handled"),
        (InboxState::Running, stats.running, "are being handled"),
        (InboxState::Done, stats.done, ""),
        (InboxState::Dead, stats.dead, "stay until they are replayed"),
    ];
    let mut lines: Vec<_> = states
        .into_iter()
        .map(|(state, count, what)| {
            let line = format!("{state:<9} {count:>9}  {what}");
            let line = line.trim_end();
            if count == 0 { line.into() } else { rows::paint(state, line) }
        })
        .collect();
    lines.push(format!("{:<9} {:>9}  bytes of bodies", "", stats.bytes).into());
    if let Some(due) = stats.oldest_due {
        lines.push(format!("the oldest that is due has been for {}", short(due)).into());
    }
    lines
}
