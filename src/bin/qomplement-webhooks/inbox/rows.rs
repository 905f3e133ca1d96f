//! How rows are shown, and how all of them are gone through.

use std::sync::Arc;

use console::{Term, measure_text_width, style, truncate_str};
use qomplement_webhooks::{InboxAdmin, InboxFilter, InboxRow, InboxState};
use serde_json::{Value, json};

use crate::database::store;
use crate::failure::Failure;
use crate::output::{clean, is_terminal};
use crate::time::short;

/// How many rows are asked for at once.
const PAGE: usize = 1000;

/// Rows page by page: it takes no more memory for more of them.
pub(super) struct Pages {
    inbox: Arc<dyn InboxAdmin>,
    filter: InboxFilter,
    after: Option<u64>,
    left: u64,
}

impl Pages {
    /// At most `most` rows, from the one after `after` on.
    pub(super) fn new(
        inbox: &Arc<dyn InboxAdmin>,
        filter: InboxFilter,
        after: Option<u64>,
        most: u64,
    ) -> Self {
        Self { inbox: inbox.clone(), filter, after, left: most }
    }

    /// The next page, empty when there is none.
    pub(super) async fn next(&mut self) -> Result<Vec<InboxRow>, Failure> {
        let most = PAGE.min(usize::try_from(self.left).unwrap_or(PAGE));
        if most == 0 {
            return Ok(Vec::new());
        }
        let rows = self.inbox.list(&self.filter, self.after, most).await.map_err(store)?;
        if let Some(last) = rows.last() {
            self.after = Some(last.number);
        }
        self.left -= rows.len() as u64;
        Ok(rows)
    }
}

/// What happens with a row next.
pub(super) fn next(row: &InboxRow) -> String {
    let Some(due_in) = row.due_in else { return "-".to_owned() };
    match (row.state, due_in.is_zero()) {
        (InboxState::Expected, true) => "overdue".to_owned(),
        (InboxState::Expected, false) => format!("overdue in {}", short(due_in)),
        (InboxState::Running, true) => "lease ended".to_owned(),
        (InboxState::Running, false) => format!("leased {}", short(due_in)),
        (_, true) => "due".to_owned(),
        (_, false) => format!("waits {}", short(due_in)),
    }
}

pub(super) fn attempts(row: &InboxRow) -> String {
    match row.earlier_attempts {
        0 => row.attempts.to_string(),
        earlier => format!("{}+{earlier}", row.attempts),
    }
}

pub(super) fn json(row: &InboxRow) -> Value {
    json!({
        "number": row.number,
        "job_id": row.job.to_string(),
        "state": row.state.as_str(),
        "type": row.job_type,
        "status": row.status,
        "attempts": row.attempts,
        "earlier_attempts": row.earlier_attempts,
        "error": row.error,
        "age_seconds": row.age.as_secs_f64(),
        "due_in_seconds": row.due_in.map(|due_in| due_in.as_secs_f64()),
    })
}

/// A table of rows: its header, and a line for each. On a terminal no line is longer than it is wide.
pub(super) fn table(rows: &[InboxRow]) -> Vec<String> {
    const HEADER: [&str; 8] = ["JOB", "STATE", "TYPE", "STATUS", "ATTEMPTS", "AGE", "NEXT", "LAST ERROR"];
    let or_dash = |text: &Option<String>| text.as_deref().map_or_else(|| "-".to_owned(), clean);
    let cells: Vec<[String; 8]> = rows
        .iter()
        .map(|row| {
            [
                row.job.to_string(),
                row.state.to_string(),
                or_dash(&row.job_type),
                or_dash(&row.status),
                attempts(row),
                short(row.age),
                next(row),
                row.error.as_deref().map(clean).unwrap_or_default(),
            ]
        })
        .collect();
    let widths: [usize; 8] = std::array::from_fn(|column| {
        let longest = cells.iter().map(|cells| measure_text_width(&cells[column])).max();
        longest.unwrap_or_default().max(HEADER[column].len())
    });
    let line = |cells: [&str; 8]| {
        let mut line = String::new();
        for (cell, width) in cells.iter().zip(widths) {
            line += cell;
            line += &" ".repeat(width.saturating_sub(measure_text_width(cell)) + 2);
        }
        fit(line.trim_end())
    };
    let mut lines = vec![style(line(HEADER)).bold().to_string()];
    lines.extend(rows.iter().zip(&cells).map(|(row, cells)| {
        let line = line(cells.each_ref().map(String::as_str));
        paint(row.state, line)
    }));
    lines
}

/// In the colour of a state, on a terminal.
pub(super) fn paint(state: InboxState, text: impl Into<String>) -> String {
    let text = style(text.into());
    match state {
        InboxState::Dead => text.red(),
        InboxState::Running => text.cyan(),
        InboxState::Done => text.green(),
        _ => text,
    }
    .to_string()
}

/// No longer than the terminal is wide, if there is one.
pub(super) fn fit(line: &str) -> String {
    if !is_terminal() {
        return line.to_owned();
    }
    let (_, width) = Term::stdout().size();
    truncate_str(line, width.into(), "…").into_owned()
}
