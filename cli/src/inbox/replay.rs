//! `inbox replay`: makes dead or done events due again.

use std::process::ExitCode;

use clap::Args;

use super::change::{Action, Selection};
use crate::failure::Failure;

/// Make dead or done events due again
#[derive(Args)]
#[command(after_help = "\
Examples:
  qomplement-webhooks inbox replay --db inbox.db JOB_ID
  qomplement-webhooks inbox replay --db inbox.db --all --dry-run
  qomplement-webhooks inbox replay --db inbox.db --all --error timeout --yes

Give job ids, or --all with options that select rows. Without --state, these
are dead letters; --state done runs the handler again for events it has
finished. A worker handles each replayed event, and counts its attempts from 1
again. A dead row without an event becomes expected and overdue, and is fetched.

The command asks before it replays, and then replays the rows that matched when
it asked. --yes skips the question, and is required without a terminal. The
exit status is 1 if a given job was not replayed.

--format json prints one object:
  replayed: number; with --dry-run, of the events that would be replayed
  not_replayed: {JOB_ID: reason}, of the given jobs
  more: true if rows may be left that match: more than --limit, more than a dry
    run counts, or rows in use
  dry_run: true or false")]
pub(super) struct Replay {
    #[command(flatten)]
    selection: Selection,
}

impl Replay {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        self.selection.run(Action::Replay).await
    }
}
