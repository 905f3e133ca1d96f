//! The overview: rows by state, the oldest due one, traffic, and dead letters by error.

use askama::Template;
use serde_json::json;

use super::InboxPage;
use super::filter::RowFilter;
use super::frame::{Frame, Visit, rows};
use super::hidden::is_hidden;
use super::moment::Moment;
use super::problem::Problem;
use super::reply::Reply;
use super::route::Link;
use super::shown::{Shown, Size, grouped};
use super::traffic::{self, Chart};
use crate::inbox::{InboxState, InboxStats};

/// The dead letters that are grouped, the newest.
const GROUPED: usize = 500;
/// The groups that are shown, the largest.
const GROUPS: usize = 10;
/// The most bytes of an error that a group's filter has.
const MOST_OF_ERROR: usize = 200;

impl InboxPage {
    pub(super) async fn overview(&self, visit: &Visit) -> Result<Reply, Problem> {
        let stats = self.call(|| self.inbox.stats()).await?;
        let minutes = self.call(|| self.inbox.traffic()).await?;
        let dead = self.call(|| self.inbox.dead_by_error(GROUPED)).await?;
        let counted: u64 = dead.errors.iter().map(|(_, count)| count).sum();
        let by_error = &dead.errors[..dead.errors.len().min(GROUPS)];
        let others = counted - by_error.iter().map(|(_, count)| count).sum::<u64>();
        if visit.as_json {
            let groups = by_error.iter().map(|(error, count)| json!({"error": error, "rows": count}));
            return Ok(Reply::json(&json!({
                "rows": InboxState::ALL.map(|state| (state.as_str().to_owned(), rows_of(&stats, state).into()))
                    .into_iter().collect::<serde_json::Map<_, _>>(),
                "bytes": stats.bytes,
                "unfinished_bytes": stats.unfinished_bytes,
                "max_unfinished_rows": stats.max_unfinished_rows,
                "max_unfinished_bytes": stats.max_unfinished_bytes,
                "oldest_due_seconds": stats.oldest_due.map(|due| due.as_secs_f64()),
                "oldest_overdue_seconds": stats.oldest_overdue.map(|overdue| overdue.as_secs_f64()),
                "budget": self.budget.as_ref().map(|budget| match budget.closed() {
                    None => json!({"open": true}),
                    Some(closed) => json!({
                        "open": false,
                        "retry_after_seconds": closed.retry_after.as_secs_f64(),
                        "why": closed.why,
                    }),
                }),
                "traffic": traffic::as_json(&minutes),
                "dead_by_error": groups.collect::<Vec<_>>(),
                "dead_by_other_errors": others,
            })));
        }
        Ok(Reply::html(&OverviewPage {
            frame: visit.frame(None, true),
            states: InboxState::ALL.map(|state| StateView {
                state,
                meaning: meaning(state),
                count: grouped(rows_of(&stats, state)),
                link: Link::list(&RowFilter::state(state)).finish(),
            }),
            bytes: Size(stats.bytes),
            unfinished_rows: unfinished_rows(&stats),
            unfinished_bytes: Size(stats.unfinished_bytes),
            max_unfinished_bytes: stats.max_unfinished_bytes.map(Size),
            oldest_due: stats.oldest_due.map(|due| visit.now.ago(due)),
            oldest_overdue: stats.oldest_overdue.map(|overdue| visit.now.ago(overdue)),
            budget: self.budget.as_ref().map(|budget| match budget.closed() {
                None => (Shown::line("open", Shown::CELL), None),
                Some(closed) => {
                    let reopens = visit.now.after(closed.retry_after);
                    (Shown::line(&closed.why, Shown::LINE), Some(reopens))
                }
            }),
            charts: traffic::charts(&minutes),
            groups: by_error.iter().map(|(error, count)| group(error, *count)).collect(),
            others: (others > 0).then(|| grouped(others)),
            all_grouped: !dead.more,
            grouped: grouped(counted),
        }))
    }
}

fn rows_of(stats: &InboxStats, state: InboxState) -> u64 {
    let mut stats = *stats;
    *stats.rows_mut(state)
}

/// The unfinished rows, with the limit at which the inbox is full.
fn unfinished_rows(stats: &InboxStats) -> String {
    let limit = stats.max_unfinished_rows.map(|limit| format!(" of {}", grouped(limit)));
    rows(stats.expected + stats.received + stats.running) + &limit.unwrap_or_default()
}

fn meaning(state: InboxState) -> &'static str {
    match state {
        InboxState::Expected => "registered, no event yet",
        InboxState::Received => "waiting for an attempt",
        InboxState::Running => "leased to a worker",
        InboxState::Done => "handled",
        InboxState::Dead => "dead letters: no further attempt",
    }
}

fn group(error: &str, count: u64) -> Group {
    let part = visible_part(error);
    let filter = RowFilter { error: part.to_owned(), ..RowFilter::state(InboxState::Dead) };
    Group {
        error: Shown::line(error, Shown::CELL),
        count: grouped(count),
        // Without a text, the filter would select all dead letters.
        link: (!part.is_empty()).then(|| Link::list(&filter).finish()),
    }
}

/// The part of an error that a filter can hold: the longest one without a character that nobody can type.
fn visible_part(error: &str) -> &str {
    let part = error.split(is_hidden).map(str::trim).max_by_key(|part| part.len()).unwrap_or_default();
    let most = part.len().min(MOST_OF_ERROR);
    let end = (0..=most).rev().find(|end| part.is_char_boundary(*end)).unwrap_or(0);
    part[..end].trim_end()
}

struct StateView {
    state: InboxState,
    meaning: &'static str,
    count: String,
    link: String,
}

/// Dead letters with the same error.
struct Group {
    error: Shown,
    count: String,
    link: Option<String>,
}

#[derive(Template)]
#[template(path = "overview.html")]
struct OverviewPage {
    frame: Frame,
    states: [StateView; 5],
    bytes: Size,
    unfinished_rows: String,
    unfinished_bytes: Size,
    max_unfinished_bytes: Option<Size>,
    oldest_due: Option<Moment>,
    oldest_overdue: Option<Moment>,
    /// Why the budget is closed, and its end; or that it is open.
    budget: Option<(Shown, Option<Moment>)>,
    charts: [Chart; 2],
    groups: Vec<Group>,
    /// The number of dead letters in further groups.
    others: Option<String>,
    all_grouped: bool,
    grouped: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_link_of_an_error_selects_dead_letters_with_a_part_of_it() {
        for (error, part) in [
            ("connection refused", "connection refused"),
            ("\u{1b}[31mconnection refused\u{1b}[0m", "[31mconnection refused"),
            ("first\nsecond line", "second line"),
            ("  é", "é"),
        ] {
            assert_eq!(visible_part(error), part);
            assert!(group(error, 3).link.is_some(), "{error:?}");
        }
        let long = format!("{}é", "x".repeat(MOST_OF_ERROR - 1));
        assert_eq!(visible_part(&long), &long[..MOST_OF_ERROR - 1]);
        for error in ["", " ", "\u{1b}\n\u{202e}"] {
            assert_eq!(group(error, 3).link, None, "{error:?}");
        }
    }
}
