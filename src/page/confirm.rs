//! The question before an action: names it, and counts its rows.

use askama::Template;
use serde_json::json;

use super::InboxPage;
use super::filter::RowFilter;
use super::frame::{Frame, Visit, rows};
use super::problem::Problem;
use super::reply::Reply;
use super::route::{Action, Link, Target};
use super::rows::RowView;
use super::shown::{Shown, grouped};
use crate::inbox::{Bulk, Changed};

/// The most rows of one action.
pub(super) const MOST: u64 = 10_000;

impl InboxPage {
    pub(super) async fn confirm(
        &self,
        visit: &Visit,
        action: Action,
        target: Target,
    ) -> Result<Reply, Problem> {
        if !visit.may_act {
            return Err(Problem::ReadOnly);
        }
        let (row, changed) = match &target {
            Target::Job { job, back } => {
                let found = self.call(|| self.inbox.get(job)).await?;
                let (row, body) = found.ok_or(Problem::NoSuchJob)?;
                let can = action.applies_to_row(&row, body.is_some());
                let row = RowView::of(&row, visit.now, back, Shown::LINE);
                (Some(row), Changed::new(can.into(), false))
            }
            Target::Matching(filter) => (None, self.count(action, filter).await?),
        };
        if visit.as_json {
            let Changed { rows, more, .. } = changed;
            return Ok(Reply::json(
                &json!({"action": action.as_str(), "rows": rows, "more": more, "most": MOST}),
            ));
        }
        let conditions = match &target {
            Target::Job { .. } => Vec::new(),
            Target::Matching(filter) => filter.fields(),
        };
        let back = match &target {
            Target::Job { job, back } => Link::job(job, back),
            Target::Matching(filter) => Link::list(filter),
        };
        let mut hidden = conditions.clone();
        if let Target::Job { job, back } = &target {
            hidden = vec![("job", job.to_string()), ("back", back.to_query())];
        }
        hidden.push(("most", changed.rows.to_string()));
        Ok(Reply::html(&ConfirmPage {
            frame: visit.frame(None, false),
            verb: action.verb(),
            action: action.as_str(),
            effect: action.effect(),
            count: rows(changed.rows),
            rows: changed.rows,
            more: changed.more,
            most: grouped(MOST),
            is_one: row.is_some(),
            row,
            conditions,
            hidden,
            back: back.finish(),
        }))
    }

    /// The rows that an action on all that match would change.
    async fn count(&self, action: Action, filter: &RowFilter) -> Result<Changed, Problem> {
        if !action.applies_to(filter.state) {
            return Err(Problem::State);
        }
        let filter = filter.to_inbox();
        match action {
            Action::Discard => self.call(|| self.inbox.discard_all(&filter, MOST, Bulk::DryRun)).await,
            Action::Replay | Action::Fetch => {
                self.call(|| self.inbox.replay_all(&filter, MOST, Bulk::DryRun)).await
            }
        }
    }
}

impl Action {
    pub(super) fn verb(self) -> &'static str {
        match self {
            Self::Replay => "Replay",
            Self::Discard => "Discard",
            Self::Fetch => "Fetch",
        }
    }

    /// The effect on the rows.
    fn effect(self) -> &'static str {
        match self {
            Self::Replay => {
                "Each event is due at once: a worker runs the handler for it again, with a new count of attempts. What the handler did before may be done twice. A job without an event is expected again, and due for a fetch."
            }
            Self::Discard => {
                "Each row is deleted, with its event and its error. This cannot be undone, and an acknowledged webhook is not delivered again. If a copy comes all the same, or the job is fetched, that is a new event, and is handled."
            }
            Self::Fetch => "",
        }
    }
}

#[derive(Template)]
#[template(path = "confirm.html")]
struct ConfirmPage {
    frame: Frame,
    verb: &'static str,
    action: &'static str,
    effect: &'static str,
    count: String,
    rows: u64,
    more: bool,
    most: String,
    is_one: bool,
    row: Option<RowView>,
    conditions: Vec<(&'static str, String)>,
    hidden: Vec<(&'static str, String)>,
    back: String,
}
