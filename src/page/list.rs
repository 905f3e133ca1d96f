//! The list of rows: newest first, filtered, a page at a time.

use std::time::Duration;

use askama::Template;
use serde_json::json;
use tokio::time::Instant;

use super::InboxPage;
use super::filter::RowFilter;
use super::frame::{Frame, Visit};
use super::problem::Problem;
use super::reply::Reply;
use super::route::{Action, Did, Link, ListQuery, Target};
use super::rows::{RowView, json_of};
use super::shown::Shown;
use crate::inbox::{InboxCursor, InboxRow, InboxState};

/// The rows of a page.
const ROWS: usize = 50;
/// The most calls of the inbox for one page: each looks at a bounded number of rows.
const CALLS: usize = 5;
/// The time after which no further call begins.
const CALLS_TIME: Duration = Duration::from_millis(40);

/// Some rows that match, newest first.
struct Found {
    rows: Vec<InboxRow>,
    /// The place to go on from; `None` after the oldest row.
    before: Option<u64>,
}

impl InboxPage {
    /// Lists rows that match. A filter that matches little, or a slow inbox, may leave the page short, with older rows to
    /// come.
    async fn find(&self, filter: &RowFilter, before: Option<u64>) -> Result<Found, Problem> {
        let (filter, began) = (filter.to_inbox(), Instant::now());
        let mut rows = Vec::new();
        let mut next = Some(before.map_or(InboxCursor::Newest, InboxCursor::Before));
        for calls in 0..CALLS {
            let is_late = calls > 0 && began.elapsed() >= CALLS_TIME;
            let Some(from) = next.filter(|_| rows.len() < ROWS && !is_late) else { break };
            let left = ROWS - rows.len();
            let list = self.call(|| self.inbox.list(&filter, from, left)).await?;
            rows.extend(list.rows);
            next = list.next;
        }
        let before = match next {
            Some(InboxCursor::Before(number)) => Some(number),
            // A store goes on in the direction that it was given.
            _ => None,
        };
        Ok(Found { rows, before })
    }

    pub(super) async fn list(&self, visit: &Visit, query: &ListQuery) -> Result<Reply, Problem> {
        let filter = &query.filter;
        let found = self.find(filter, query.before).await?;
        if visit.as_json {
            let rows: Vec<_> = found.rows.iter().map(|row| json_of(row, visit.now)).collect();
            return Ok(Reply::json(&json!({"rows": rows, "before": found.before})));
        }
        let row = |row: &InboxRow| RowView::of(row, visit.now, filter, Shown::CELL);
        let bulk = |action: Action| {
            let may = visit.may_act && action.applies_to(filter.state);
            may.then(|| Link::confirm(action, &Target::Matching(filter.clone())).finish())
        };
        Ok(Reply::html(&ListPage {
            frame: visit.frame(query.did, true),
            states: InboxState::ALL.map(|state| (state, filter.state == Some(state))),
            older: found.before.map(|before| Link::list(filter).with("before", &before.to_string()).finish()),
            newest: query.before.map(|_| Link::list(filter).finish()),
            replay: bulk(Action::Replay),
            discard: bulk(Action::Discard),
            title: match filter.state {
                Some(InboxState::Dead) => "Dead letters",
                Some(InboxState::Expected) => "Expected jobs",
                _ => "Events",
            },
            is_dead: filter.state == Some(InboxState::Dead),
            is_expected: filter.state == Some(InboxState::Expected),
            is_unknown_job: is_unknown_job(filter, &found),
            is_filtered: *filter != RowFilter::default(),
            older_than: filter.older.map(|age| age.to_text()).unwrap_or_default(),
            newer_than: filter.newer.map(|age| age.to_text()).unwrap_or_default(),
            filter: filter.clone(),
            rows: found.rows.iter().map(row).collect(),
        }))
    }
}

fn is_unknown_job(filter: &RowFilter, found: &Found) -> bool {
    let only_prefix = RowFilter { prefix: filter.prefix.clone(), ..RowFilter::default() };
    found.rows.is_empty() && found.before.is_none() && !filter.prefix.is_empty() && *filter == only_prefix
}

impl Action {
    /// Whether the action applies to all rows of a state. Without a state, none does: a replay would run finished events
    /// again.
    pub(super) fn applies_to(self, state: Option<InboxState>) -> bool {
        match self {
            Self::Replay => matches!(state, Some(InboxState::Dead | InboxState::Done)),
            Self::Discard => state == Some(InboxState::Dead),
            Self::Fetch => false,
        }
    }

    /// Whether the action changes a row.
    pub(super) fn applies_to_row(self, row: &InboxRow, has_body: bool) -> bool {
        match (self, row.state) {
            // Without an event, the job is expected again.
            (Self::Replay, InboxState::Dead) => has_body || row.status.is_none(),
            (Self::Replay, InboxState::Done) => has_body,
            (Self::Discard, InboxState::Dead) => true,
            _ => false,
        }
    }
}

impl Target {
    /// The view that shows the outcome of an action.
    pub(super) fn after(&self, did: Did) -> String {
        let link = match (self, did) {
            // The row is gone.
            (Self::Job { back, .. }, Did::Changed { action: Action::Discard, rows: 1.., .. }) => {
                Link::list(back)
            }
            (Self::Job { job, back }, _) => Link::job(job, back),
            (Self::Matching(filter), _) => Link::list(filter),
        };
        link.did(did).finish()
    }
}

#[derive(Template)]
#[template(path = "list.html")]
struct ListPage {
    frame: Frame,
    filter: RowFilter,
    older_than: String,
    newer_than: String,
    is_filtered: bool,
    title: &'static str,
    is_dead: bool,
    is_expected: bool,
    /// Whether a job id was typed that no row has.
    is_unknown_job: bool,
    /// Each state, and whether it is selected.
    states: [(InboxState, bool); 5],
    rows: Vec<RowView>,
    older: Option<String>,
    newest: Option<String>,
    replay: Option<String>,
    discard: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_is_offered_for_the_rows_that_it_changes() {
        use InboxState::*;
        let row = |state, status: Option<&str>| {
            let mut row = InboxRow::new(1, "job-1", state, Duration::ZERO);
            row.status = status.map(str::to_owned);
            row
        };
        for (state, status, has_body, replayed, discarded) in [
            (Dead, Some("failed"), true, true, true),
            // Rejected: the job is expected again.
            (Dead, None, false, true, true),
            // Written by another program: there is nothing to run again.
            (Dead, Some("failed"), false, false, true),
            (Done, Some("completed"), true, true, false),
            (Done, Some("completed"), false, false, false),
            (Running, Some("completed"), true, false, false),
            (Received, Some("completed"), true, false, false),
            (Expected, None, false, false, false),
        ] {
            let row = row(state, status);
            let offered = [Action::Replay, Action::Discard, Action::Fetch]
                .map(|action| action.applies_to_row(&row, has_body));
            assert_eq!(offered, [replayed, discarded, false], "{state} {status:?} {has_body}");
        }
    }
}
