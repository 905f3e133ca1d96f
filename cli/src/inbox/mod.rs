//! `inbox`: commands that show the rows of an inbox, replay, discard and prune them.

mod change;
mod discard;
mod filter;
mod list;
mod prune;
mod replay;
mod rows;
mod serve;
mod show;
mod stats;
mod watch;

use std::fmt::Display;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::failure::Failure;

/// Show, replay, discard and prune the rows of an inbox
#[derive(Args)]
#[command(after_help = "\
Examples:
  export DATABASE=inbox.db
  qomplement-webhooks inbox stats
  qomplement-webhooks inbox list --state dead
  qomplement-webhooks inbox replay --all --dry-run
  qomplement-webhooks inbox watch

Servers and workers can use the inbox at the same time. No command creates an
inbox: a missing file or table is an error.")]
pub(crate) struct Inbox {
    #[command(subcommand)]
    command: InboxCommand,
}

#[derive(Subcommand)]
enum InboxCommand {
    List(list::List),
    Show(show::Show),
    Replay(replay::Replay),
    Discard(discard::Discard),
    Prune(prune::Prune),
    Stats(stats::Stats),
    Watch(watch::Watch),
    Serve(serve::Serve),
}

impl Inbox {
    pub(crate) async fn run(self) -> Result<ExitCode, Failure> {
        match self.command {
            InboxCommand::List(list) => list.run().await,
            InboxCommand::Show(show) => show.run().await,
            InboxCommand::Replay(replay) => replay.run().await,
            InboxCommand::Discard(discard) => discard.run().await,
            InboxCommand::Prune(prune) => prune.run().await,
            InboxCommand::Stats(stats) => stats.run().await,
            InboxCommand::Watch(watch) => watch.run().await,
            InboxCommand::Serve(serve) => serve.run().await,
        }
    }
}

/// The failure of a change of many rows. `done` says how many were changed before it.
fn midway(failure: Failure, done: impl Display) -> Failure {
    match failure {
        Failure::Failed(text) => Failure::failed(format!("{text}\n  {done}")),
        failure => failure,
    }
}
