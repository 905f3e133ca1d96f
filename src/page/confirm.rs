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
        let (row, has_event, changed) = match &target {
            Target::Job { job, back } => {
                let found = self.call(|| self.inbox.get(job)).await?;
                let (row, body) = found.ok_or(Problem::NoSuchJob)?;
                let can = action.applies_to_row(&row, body.is_some());
                let row = RowView::of(&row, visit.now, back, Shown::LINE);
                (Some(row), body.is_some(), Changed::new(can.into(), false))
            }
            Target::Matching(filter) => (None, true, self.count(action, filter).await?),
        };
        if visit.as_json {
            let Changed { rows, more, .. } = changed;
            return Ok(Reply::json(
                &json!({"action": action.as_str(), "rows": rows, "more": more, "most": MOST}),
            ));
        }
        let (conditions, mut hidden, cancel) = match &target {
            Target::Job { job, back } => {
                let hidden = vec![("job", job.to_string()), ("back", back.to_query())];
                (Vec::new(), hidden, Link::job(job, back))
            }
            Target::Matching(filter) => (filter.conditions(), filter.fields(), Link::list(filter)),
        };
        hidden.push(("most", changed.rows.to_string()));
        Ok(Reply::html(&ConfirmPage {
            frame: visit.frame(None, false),
            verb: action.verb(),
            action: action.as_str(),
            effect: action.effect(row.is_some(), has_event),
            count: rows(changed.rows),
            rows: changed.rows,
            more: changed.more,
            most: grouped(MOST),
            is_one: row.is_some(),
            row,
            conditions,
            hidden,
            cancel: cancel.finish(),
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

    /// The effect on one row, with or without an event, or on each of many.
    fn effect(self, is_one: bool, has_event: bool) -> &'static str {
        match (self, is_one) {
            (Self::Replay, true) if !has_event => {
                "The job has no event. It is expected again, and a fetch of it is due at once."
            }
            (Self::Replay, true) => {
                "The event is due at once: a worker runs the handler for it again, with a new count of attempts. Effects of earlier attempts may be repeated."
            }
            (Self::Replay, false) => {
                "Each event is due at once: a worker runs the handler for it again, with a new count of attempts. Effects of earlier attempts may be repeated. A job without an event is expected again, and a fetch of it is due at once."
            }
            (Self::Discard, true) => {
                "The row is deleted, with its event and its errors. This cannot be undone, and the sender does not deliver an acknowledged webhook again. If another delivery arrives all the same, or the job is fetched, that event is new, and is handled."
            }
            (Self::Discard, false) => {
                "Each row is deleted, with its event and its errors. This cannot be undone, and the sender does not deliver an acknowledged webhook again. If another delivery arrives all the same, or a job is fetched, that event is new, and is handled."
            }
            (Self::Fetch, _) => "",
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
    cancel: String,
}
