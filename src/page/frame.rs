//! The surroundings of every view: the visitor, and the outcome of the action before.

use super::csrf::FormToken;
use super::moment::Now;
use super::route::{Action, Did, FetchedAs};
use super::shown::{Shown, grouped};

/// A request that was let in.
pub(super) struct Visit {
    /// The name for the log.
    pub(super) name: String,
    pub(super) may_act: bool,
    pub(super) token: FormToken,
    pub(super) as_json: bool,
    pub(super) now: Now,
}

/// The parts of a page that all views share.
pub(super) struct Frame {
    pub(super) who: Shown,
    pub(super) may_act: bool,
    pub(super) token: String,
    pub(super) notice: Option<Notice>,
    /// The server's time. The script measures all times by it, not by the browser's clock.
    pub(super) clock: String,
    /// Whether the script reads the page again every few seconds.
    pub(super) is_live: bool,
}

/// The outcome of the action before.
pub(super) struct Notice {
    pub(super) text: String,
    pub(super) is_good: bool,
}

impl Visit {
    pub(super) fn frame(&self, did: Option<Did>, is_live: bool) -> Frame {
        Frame {
            who: Shown::line(&self.name, 100),
            may_act: self.may_act,
            token: self.token.for_form().to_owned(),
            notice: did.map(Notice::of),
            clock: self.now.exact(),
            is_live,
        }
    }
}

/// A number of rows, in words.
pub(super) fn rows(count: u64) -> String {
    match count {
        1 => "1 row".to_owned(),
        _ => format!("{} rows", grouped(count)),
    }
}

impl Notice {
    fn of(did: Did) -> Self {
        let (text, is_good) = match did {
            Did::Changed { action, rows: 0, .. } => (
                format!("Nothing was {}: the rows have changed meanwhile, or are gone.", past(action)),
                false,
            ),
            Did::Changed { action, rows: count, more } => {
                let more = if more { " More rows may match: repeat the action for them." } else { "" };
                (format!("{} {}.{more}", rows(count), past(action)), true)
            }
            Did::Fetched(FetchedAs::Stored) => {
                ("The job has ended. Its event is stored, and a worker will handle it.".to_owned(), true)
            }
            Did::Fetched(FetchedAs::Known) => {
                ("The job has ended. Its event was stored before, and is kept.".to_owned(), true)
            }
            Did::Fetched(FetchedAs::Pending) => {
                ("The job has not ended. Nothing was changed.".to_owned(), true)
            }
            Did::Fetched(FetchedAs::NotFound) => {
                ("The API knows no such job. Nothing was changed.".to_owned(), false)
            }
            Did::Fetched(FetchedAs::Failed) => {
                ("The fetch failed; the server's log has the cause. Nothing was changed.".to_owned(), false)
            }
        };
        Self { text, is_good }
    }
}

fn past(action: Action) -> &'static str {
    match action {
        Action::Replay => "replayed",
        Action::Discard => "discarded",
        Action::Fetch => "fetched",
    }
}
