//! `inbox`: what is received, running, waiting or dead, and why; and what people do about it.

mod list;
mod prune;
mod replay;
mod rows;
mod show;
mod stats;
mod watch;

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use qomplement_webhooks::inbox::{InboxFilter, InboxState};

use crate::failure::Failure;

/// Look into an inbox, replay and prune
#[derive(Args)]
#[command(after_help = "\
Examples:
  export DATABASE=inbox.db
  qomplement-webhooks inbox stats
  qomplement-webhooks inbox list --state dead
  qomplement-webhooks inbox replay --state dead --dry-run
  qomplement-webhooks inbox watch

An inbox can be looked into while servers and workers use it. Nothing creates
one: a file or a table that is not there is an error.")]
pub(crate) struct Inbox {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    List(list::List),
    Show(show::Show),
    Replay(replay::Replay),
    Prune(prune::Prune),
    Stats(stats::Stats),
    Watch(watch::Watch),
}

impl Inbox {
    pub(crate) async fn run(self) -> Result<ExitCode, Failure> {
        match self.command {
            Command::List(list) => list.run().await,
            Command::Show(show) => show.run().await,
            Command::Replay(replay) => replay.run().await,
            Command::Prune(prune) => prune.run().await,
            Command::Stats(stats) => stats.run().await,
            Command::Watch(watch) => watch.run().await,
        }
    }
}

/// Which rows are meant.
#[derive(Args)]
struct FilterArgs {
    /// Only rows in this state
    #[arg(long, value_enum)]
    state: Option<State>,

    /// Only events of this type, such as extract, fill_pdf or fill_excel
    #[arg(long = "type", value_name = "TYPE")]
    job_type: Option<String>,

    /// Only events with this status, such as completed or failed
    #[arg(long, value_name = "STATUS")]
    status: Option<String>,
}

impl FilterArgs {
    fn filter(&self) -> InboxFilter {
        let mut filter = InboxFilter::default();
        filter.state = self.state.map(State::into);
        filter.job_type.clone_from(&self.job_type);
        filter.status.clone_from(&self.status);
        filter
    }

    fn is_empty(&self) -> bool {
        self.state.is_none() && self.job_type.is_none() && self.status.is_none()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum State {
    /// The job was started, and its event has yet to come
    Expected,
    /// The event waits to be handled, for the first time or again
    Received,
    /// It is being handled, or its worker is gone
    Running,
    /// It was handled
    Done,
    /// It could not be handled
    Dead,
}

impl From<State> for InboxState {
    fn from(state: State) -> Self {
        match state {
            State::Expected => Self::Expected,
            State::Received => Self::Received,
            State::Running => Self::Running,
            State::Done => Self::Done,
            State::Dead => Self::Dead,
        }
    }
}
