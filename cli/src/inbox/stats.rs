//! `inbox stats`: counts the rows of an inbox by state.

use std::process::ExitCode;

use clap::Args;
use qomplement_webhooks::inbox::{InboxState, InboxStats};
use serde_json::json;

use super::rows;
use crate::database::{DatabaseArgs, store_failure};
use crate::failure::Failure;
use crate::output::{self, Format, Line};
use crate::time::short;

/// Count the rows of an inbox by state
#[derive(Args)]
#[command(after_help = "\
Examples:
  qomplement-webhooks inbox stats --db inbox.db
  qomplement-webhooks inbox stats --db inbox.db --format json | jq .dead

--format json prints one object:
  expected, received, running, done, dead: numbers of rows
  bytes: size of all kept bodies
  unfinished_bytes: size of the bodies of received and running rows
  oldest_due_seconds: time since the oldest due row became due; null if no row
    is due
  oldest_overdue_seconds: time for which the oldest overdue job could have been
    fetched; null if no job is overdue")]
pub(super) struct Stats {
    #[command(flatten)]
    database: DatabaseArgs,

    /// The output format
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

impl Stats {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let inbox = self.database.open().await?;
        let stats = inbox.stats().await.map_err(store_failure)?;
        match self.format {
            Format::Text => output::lines(&lines(&stats)),
            Format::Json => output::json(&json!({
                "expected": stats.expected,
                "received": stats.received,
                "running": stats.running,
                "done": stats.done,
                "dead": stats.dead,
                "bytes": stats.bytes,
                "unfinished_bytes": stats.unfinished_bytes,
                "oldest_due_seconds": stats.oldest_due.map(|due| due.as_secs_f64()),
                "oldest_overdue_seconds": stats.oldest_overdue.map(|overdue| overdue.as_secs_f64()),
            })),
        }
        Ok(ExitCode::SUCCESS)
    }
}

pub(super) fn lines(stats: &InboxStats) -> Vec<Line> {
    let states = [
        (InboxState::Expected, stats.expected, ""),
        (InboxState::Received, stats.received, "waiting for an attempt"),
        (InboxState::Running, stats.running, "leased to workers"),
        (InboxState::Done, stats.done, ""),
        (InboxState::Dead, stats.dead, "dead letters"),
    ];
    let mut lines: Vec<_> = states
        .into_iter()
        .map(|(state, count, what)| {
            let line = format!("{state:<9} {count:>9}  {what}");
            let line = line.trim_end();
            if count == 0 { line.into() } else { rows::paint(state, line) }
        })
        .collect();
    lines.push(format!("{:<9} {:>9}  bytes in bodies", "", stats.bytes).into());
    if let Some(due) = stats.oldest_due {
        lines.push(format!("oldest due row: due for {}", short(due)).into());
    }
    if let Some(overdue) = stats.oldest_overdue {
        lines.push(format!("oldest overdue job: overdue for {}", short(overdue)).into());
    }
    lines
}
