//! One row: its timeline, its body on demand, and its actions.

use askama::Template;
use bytes::Bytes;
use serde_json::json;
use tracing::info;

use super::InboxPage;
use super::body::{MOST_SHOWN, curl, indented};
use super::frame::{Frame, Visit};
use super::moment::{Moment, measured};
use super::problem::Problem;
use super::reply::Reply;
use super::route::{Action, JobQuery, Link, Target};
use super::rows::{RowView, is_registered, json_of};
use super::shown::{Shown, Size};
use crate::JobId;
use crate::event::TraceParent;
use crate::inbox::{InboxRow, InboxState};

impl InboxPage {
    pub(super) async fn job(&self, visit: &Visit, query: &JobQuery) -> Result<Reply, Problem> {
        let JobQuery { job, back, .. } = query;
        let found = self.call(|| self.inbox.get(job)).await?;
        let (row, body) = found.ok_or(Problem::NoSuchJob)?;
        let size = body.as_ref().map(Bytes::len);
        let shown = match body.filter(|_| query.with_body) {
            Some(body) => {
                info!(who = ?visit.name, job_id = %job, "body shown on the inbox page");
                Some(self.redacted(body))
            }
            None => None,
        };
        if visit.as_json {
            let mut value = json_of(&row, visit.now);
            value["traceparent"] = json!(row.traceparent.as_ref().map(TraceParent::as_str));
            value["body_bytes"] = json!(size);
            return Ok(match shown.transpose()? {
                Some(body) => Reply::json_with_body(&value, &body),
                None => Reply::json(&value),
            });
        }
        let body = shown.map(|body| match body {
            Ok(body) => BodyView {
                text: Shown::block(&indented(&body), MOST_SHOWN),
                // A redacted body would be delivered with the placeholders as its values.
                curl: if self.redaction.is_none() { curl(&body) } else { None },
                problem: None,
            },
            Err(problem) => BodyView { text: Shown::default(), curl: None, problem: Some(problem.message()) },
        });
        let target = Target::Job { job: job.clone(), back: back.clone() };
        let confirm = |action: Action| {
            let can = visit.may_act && action.applies_to_row(&row, size.is_some());
            can.then(|| Link::confirm(action, &target).finish())
        };
        let mut shown_row = RowView::of(&row, visit.now, back, Shown::LINE);
        if row.state == InboxState::Dead && !Action::Replay.applies_to_row(&row, size.is_some()) {
            shown_row.next = Some(("discard", None));
        }
        Ok(Reply::html(&JobPage {
            frame: visit.frame(query.did, !query.with_body),
            timeline: timeline(&row, visit),
            traceparent: row.traceparent.clone(),
            replay: confirm(Action::Replay),
            discard: confirm(Action::Discard),
            can_fetch: visit.may_act && self.source.is_some(),
            list: Link::list(back).finish(),
            back: back.to_query(),
            show_body: Link::job(job, back).with("body", "1").finish(),
            hide_body: Link::job(job, back).finish(),
            download: Link::body(job).finish(),
            size: size.map(|size| Size(size as u64)),
            body,
            id: job.to_string(),
            is_expected: row.state == InboxState::Expected,
            row: shown_row,
        }))
    }

    /// The body as a file: byte for byte, unless there is a redaction.
    pub(super) async fn body(&self, visit: &Visit, job: &JobId) -> Result<Reply, Problem> {
        let found = self.call(|| self.inbox.get(job)).await?;
        let (_, body) = found.ok_or(Problem::NoSuchJob)?;
        let body = self.redacted(body.ok_or(Problem::NoBody)?)?;
        info!(who = ?visit.name, job_id = %job, "body downloaded from the inbox page");
        Ok(Reply::download(body))
    }
}

/// Something that happened to a row, or will.
struct Entry {
    what: String,
    at: Option<Moment>,
    text: Shown,
    is_bad: bool,
}

fn timeline(row: &InboxRow, visit: &Visit) -> Vec<Entry> {
    let entry = |what: &str, at| Entry { what: what.to_owned(), at, text: Shown::default(), is_bad: false };
    let since = if is_registered(row) { "Registered" } else { "Arrived" };
    let mut entries = vec![entry(since, Some(visit.now.ago(row.age)))];
    let mut replay = (row.earlier_attempts > 0)
        .then(|| entry(&format!("Replayed after attempt {}", row.earlier_attempts), None));
    for failure in &row.failures {
        if failure.number > row.earlier_attempts {
            entries.extend(replay.take());
        }
        let took = failure.took.map_or_else(
            || " ended with its lease,".to_owned(),
            |took| format!(" failed after {},", measured(took)),
        );
        entries.push(Entry {
            what: format!("Attempt {}{took}", failure.number),
            at: Some(visit.now.ago(failure.age)),
            text: Shown::line(&failure.error, Shown::LINE),
            is_bad: true,
        });
    }
    entries.extend(replay);
    let due = row.due_in.filter(|due_in| !due_in.is_zero()).map(|due_in| visit.now.after(due_in));
    entries.push(match row.state {
        InboxState::Expected if due.is_none() => {
            entry("Overdue: the webhook has not arrived, and a fetch is due", None)
        }
        InboxState::Expected => entry("The webhook has not arrived; a fetch is due", due),
        InboxState::Received if due.is_none() => entry("Waits for an attempt, which is due", None),
        InboxState::Received => entry("Waits for an attempt; due", due),
        InboxState::Running if due.is_none() => {
            entry("The worker is gone or late: its lease has ended", None)
        }
        InboxState::Running => entry("An attempt runs; its lease ends", due),
        InboxState::Done => entry("Done", None),
        InboxState::Dead => {
            Entry { is_bad: true, ..entry("Dead letter: no further attempt, unless it is replayed", None) }
        }
    });
    entries
}

struct BodyView {
    text: Shown,
    curl: Option<String>,
    problem: Option<String>,
}

#[derive(Template)]
#[template(path = "job.html")]
struct JobPage {
    frame: Frame,
    id: String,
    row: RowView,
    traceparent: Option<TraceParent>,
    timeline: Vec<Entry>,
    replay: Option<String>,
    discard: Option<String>,
    can_fetch: bool,
    list: String,
    back: String,
    show_body: String,
    hide_body: String,
    download: String,
    size: Option<Size>,
    is_expected: bool,
    body: Option<BodyView>,
}
