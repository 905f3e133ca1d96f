//! `inbox discard`: deletes dead letters.

use std::process::ExitCode;

use clap::Args;

use super::change::{Action, Selection};
use crate::failure::Failure;

/// Delete dead letters
#[derive(Args)]
#[command(after_help = "\
Examples:
  qomplement-webhooks inbox discard --db inbox.db JOB_ID
  qomplement-webhooks inbox discard --db inbox.db --all --older-than 90d
  qomplement-webhooks inbox discard --db inbox.db --all --job test- --yes

Give job ids, or --all with options that select dead letters. Their rows and
events are deleted, and cannot be restored. The inbox then knows nothing of the
jobs: another delivery of their webhooks is handled as a new event.

The command asks before it discards, and then discards the rows that matched
when it asked. --yes skips the question, and is required without a terminal.
The exit status is 1 if a given job was not discarded.

--format json prints one object:
  discarded: number; with --dry-run, of the rows that would be discarded
  not_discarded: {JOB_ID: reason}, of the given jobs
  more: true if rows may be left that match: more than --limit, more than a dry
    run counts, or rows in use
  dry_run: true or false")]
pub(super) struct Discard {
    #[command(flatten)]
    selection: Selection,
}

impl Discard {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        self.selection.run(Action::Discard).await
    }
}
