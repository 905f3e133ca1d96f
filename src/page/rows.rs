//! A row as the list and the detail show it, and as JSON.

use serde_json::{Value, json};

use super::filter::RowFilter;
use super::moment::{Moment, Now};
use super::route::Link;
use super::shown::Shown;
use crate::inbox::{InboxRow, InboxState};

/// A row's fields, ready for a template.
pub(super) struct RowView {
    /// The link to the detail; `None` if the id is not one that this crate accepts.
    pub(super) link: Option<String>,
    pub(super) number: u64,
    pub(super) job: Shown,
    pub(super) state: InboxState,
    pub(super) job_type: Shown,
    pub(super) status: Shown,
    pub(super) verified: bool,
    /// The attempts since the row was received or last replayed.
    pub(super) attempts: u32,
    pub(super) earlier_attempts: u32,
    pub(super) fetches: u32,
    pub(super) error: Shown,
    /// Whether [`since`](Self::since) is the time of the job's registration: no event has arrived.
    pub(super) is_registered: bool,
    /// The time at which the event arrived, or the job was registered.
    pub(super) since: Moment,
    /// The next step of the row, and its time.
    pub(super) next: Option<(&'static str, Option<Moment>)>,
}

impl RowView {
    /// `most` is the length of the longest text.
    pub(super) fn of(row: &InboxRow, now: Now, back: &RowFilter, most: usize) -> Self {
        let text = |text: &Option<String>| Shown::line(text.as_deref().unwrap_or_default(), most);
        Self {
            link: row.job().map(|job| Link::job(&job, back).finish()),
            number: row.number,
            job: Shown::line(&row.job_id, most),
            state: row.state,
            job_type: text(&row.job_type),
            status: text(&row.status),
            verified: row.verified,
            attempts: row.attempts,
            earlier_attempts: row.earlier_attempts,
            fetches: row.fetches,
            error: text(&row.error),
            is_registered: is_registered(row),
            since: now.ago(row.age),
            next: next(row, now),
        }
    }
}

/// Whether no event of the job has arrived since it was registered. A job whose event was rejected has an attempt.
pub(super) fn is_registered(row: &InboxRow) -> bool {
    match row.state {
        InboxState::Expected => true,
        InboxState::Dead => row.status.is_none() && row.failures.is_empty(),
        InboxState::Received | InboxState::Running | InboxState::Done => false,
    }
}

/// The next step of a row, and its time. A row does not tell when its lease ended, or since when it is due.
fn next(row: &InboxRow, now: Now) -> Option<(&'static str, Option<Moment>)> {
    if row.state == InboxState::Dead {
        return Some(("replay or discard", None));
    }
    let due_in = row.due_in?;
    let (what, later) = match row.state {
        InboxState::Expected => ("fetch due (overdue)", "fetch due"),
        InboxState::Running => ("lease ended", "lease ends"),
        InboxState::Received => ("attempt due", "attempt due"),
        InboxState::Done | InboxState::Dead => return None,
    };
    Some(if due_in.is_zero() { (what, None) } else { (later, Some(now.after(due_in))) })
}

/// A row in JSON, with the names of the command line.
pub(super) fn json_of(row: &InboxRow, now: Now) -> Value {
    json!({
        "number": row.number,
        "job_id": row.job_id,
        "state": row.state.as_str(),
        "type": row.job_type,
        "status": row.status,
        "verified": row.verified,
        "fetches": row.fetches,
        "attempts": row.attempts,
        "earlier_attempts": row.earlier_attempts,
        "error": row.error,
        "failures": row.failures.iter().map(|failure| json!({
            "number": failure.number,
            "at": now.ago(failure.age).exact(),
            "took_seconds": failure.took.map(|took| took.as_secs_f64()),
            "error": failure.error,
        })).collect::<Vec<_>>(),
        "arrived": (!is_registered(row)).then(|| now.ago(row.age).exact()),
        "registered": is_registered(row).then(|| now.ago(row.age).exact()),
        "age_seconds": row.age.as_secs_f64(),
        "due_in_seconds": row.due_in.map(|due_in| due_in.as_secs_f64()),
    })
}
