//! The options that select rows.

use std::time::Duration;

use clap::{Args, ValueEnum};
use qomplement_webhooks::inbox::{InboxFilter, InboxState};

use crate::arguments::time;

#[derive(Args)]
pub(super) struct FilterArgs {
    /// Only rows in this state
    #[arg(long, value_enum)]
    pub(super) state: Option<StateArg>,

    /// Only events of this type, such as extract, fill_pdf or fill_excel
    #[arg(long = "type", value_name = "TYPE", value_parser = text)]
    job_type: Option<String>,

    /// Only events with this status, such as completed or failed
    #[arg(long, value_name = "STATUS", value_parser = text)]
    status: Option<String>,

    /// Only jobs whose id begins with this text
    #[arg(long = "job", value_name = "PREFIX", value_parser = text)]
    job_prefix: Option<String>,

    /// Only rows whose last error contains this text; ASCII letters match in either case
    #[arg(long, value_name = "TEXT", value_parser = text)]
    error: Option<String>,

    /// Only rows of at least this age
    #[arg(long, value_name = "TIME", value_parser = time)]
    older_than: Option<Duration>,

    /// Only rows of less than this age
    #[arg(long, value_name = "TIME", value_parser = time)]
    newer_than: Option<Duration>,
}

/// Parses a text. An empty one, as of a shell variable that is not set, would select all rows.
fn text(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("expected a text; leave the option out to select all rows".to_owned());
    }
    Ok(text.to_owned())
}

impl FilterArgs {
    pub(super) fn filter(&self) -> InboxFilter {
        let mut filter = InboxFilter::default();
        filter.state = self.state.map(StateArg::into);
        filter.job_type.clone_from(&self.job_type);
        filter.status.clone_from(&self.status);
        filter.job_prefix.clone_from(&self.job_prefix);
        filter.error.clone_from(&self.error);
        (filter.older_than, filter.newer_than) = (self.older_than, self.newer_than);
        filter
    }

    pub(super) fn is_empty(&self) -> bool {
        self.filter() == InboxFilter::default()
    }
}

/// An [`InboxState`] as an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum StateArg {
    /// Registered; the event has not arrived
    Expected,
    /// The event waits for its first or next attempt
    Received,
    /// An attempt is under way, or its lease has ended
    Running,
    /// The handler succeeded
    Done,
    /// A dead letter: no attempt is left
    Dead,
}

impl From<StateArg> for InboxState {
    fn from(state: StateArg) -> Self {
        match state {
            StateArg::Expected => Self::Expected,
            StateArg::Received => Self::Received,
            StateArg::Running => Self::Running,
            StateArg::Done => Self::Done,
            StateArg::Dead => Self::Dead,
        }
    }
}
