//! Rows: read page by page or by the id of the job, and formatted as JSON or as a table.

use std::fmt::Display;
use std::sync::Arc;

use bytes::Bytes;
use console::{Term, measure_text_width};
use qomplement_webhooks::JobId;
use qomplement_webhooks::event::TraceParent;
use qomplement_webhooks::inbox::{FailedAttempt, InboxAdmin, InboxCursor, InboxFilter, InboxRow, InboxState};
use qomplement_webhooks::store::StoreError;
use serde_json::{Value, json};

use crate::database::store_failure;
use crate::failure::Failure;
use crate::output::{Line, clean, cut, is_terminal};
use crate::time::short;

/// The rows that one query reads.
const PAGE: usize = 1000;

/// Reads rows page by page, in constant memory.
pub(super) struct Pages {
    inbox: Arc<dyn InboxAdmin>,
    filter: InboxFilter,
    from: Option<InboxCursor>,
    left: u64,
}

impl Pages {
    /// At most `most` rows.
    pub(super) fn new(
        inbox: &Arc<dyn InboxAdmin>,
        filter: InboxFilter,
        from: InboxCursor,
        most: u64,
    ) -> Self {
        Self { inbox: inbox.clone(), filter, from: Some(from), left: most }
    }

    /// The next page; empty after the last one.
    pub(super) async fn next(&mut self) -> Result<Vec<InboxRow>, Failure> {
        let most = PAGE.min(usize::try_from(self.left).unwrap_or(PAGE));
        while let Some(from) = self.from
            && most > 0
        {
            // Without rows, the store has looked at as many as it does at once, and goes on.
            let list = self.inbox.list(&self.filter, from, most).await.map_err(store_failure)?;
            self.from = list.next;
            self.left -= list.rows.len() as u64;
            if !list.rows.is_empty() {
                return Ok(list.rows);
            }
        }
        Ok(Vec::new())
    }

    /// The place of the rows that are left, if there may be any.
    pub(super) fn rest(&self) -> Option<InboxCursor> {
        self.from
    }
}

/// The body of a row, or the error of reading it.
pub(super) type Body = Result<Option<Bytes>, StoreError>;

/// Finds the row of a job, with its body or the error of reading it: a damaged body, or a text that the database
/// cannot return, does not keep the row from being listed.
///
/// # Errors
///
/// Returns an error if the row can be neither read nor listed.
pub(super) async fn find(
    inbox: &Arc<dyn InboxAdmin>,
    job: &JobId,
) -> Result<Option<(InboxRow, Body)>, StoreError> {
    let error = match inbox.get(job).await {
        Ok(found) => return Ok(found.map(|(row, body)| (row, Ok(body)))),
        Err(error) => error,
    };
    let filter = InboxFilter::default().job_prefix(job.to_string());
    let mut pages = Pages::new(inbox, filter, InboxCursor::Oldest, u64::MAX);
    while let Ok(page) = pages.next().await
        && !page.is_empty()
    {
        if let Some(row) = page.into_iter().find(|row| row.job_id == *job.as_str()) {
            return Ok(Some((row, Err(error))));
        }
    }
    Err(error)
}

/// The next step of a row.
pub(super) fn next(row: &InboxRow) -> String {
    let Some(due_in) = row.due_in else { return "-".to_owned() };
    match (row.state, due_in.is_zero()) {
        (InboxState::Expected, true) => "overdue".to_owned(),
        (InboxState::Expected, false) => format!("fetch due in {}", short(due_in)),
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
        "job_id": row.job_id,
        "state": row.state.as_str(),
        "type": row.job_type,
        "status": row.status,
        "verified": row.verified,
        "fetches": row.fetches,
        "attempts": row.attempts,
        "earlier_attempts": row.earlier_attempts,
        "error": row.error,
        "age_seconds": row.age.as_secs_f64(),
        "due_in_seconds": row.due_in.map(|due_in| due_in.as_secs_f64()),
    })
}

/// A failed attempt in words.
pub(super) fn failure(failed: &FailedAttempt) -> String {
    let FailedAttempt { number, age, took, error, .. } = failed;
    let after = took.map(|took| format!(", after {}", short(took))).unwrap_or_default();
    format!("attempt {number}, {} ago{after}: {error}", short(*age))
}

pub(super) fn json_with_details(row: &InboxRow) -> Value {
    let failures = row.failures.iter().map(|failed| {
        json!({
            "attempt": failed.number,
            "age_seconds": failed.age.as_secs_f64(),
            "took_seconds": failed.took.map(|took| took.as_secs_f64()),
            "error": failed.error,
        })
    });
    let mut details = json(row);
    details["traceparent"] = row.traceparent.as_ref().map(TraceParent::as_str).into();
    details["failures"] = failures.collect();
    details
}

/// Formats rows as a table. On a terminal too narrow for it, the columns of the event stand on a second line of each row.
pub(super) fn table(rows: &[InboxRow]) -> Table {
    let columns = [
        Column::new("JOB", rows, |row| clean(&row.job_id)),
        Column::new("STATE", rows, |row| row.state.to_string()),
        Column::new("ATTEMPTS", rows, attempts),
        Column::new("AGE", rows, |row| short(row.age)),
        Column::new("NEXT", rows, next),
    ];
    let event = [
        Column::new("TYPE", rows, |row| cut_or_dash(row.job_type.as_deref())),
        Column::new("STATUS", rows, |row| cut_or_dash(row.status.as_deref())),
        Column::new("LAST ERROR", rows, |row| row.error.as_deref().map(clean).unwrap_or_default()),
    ];
    let width: usize = columns.iter().chain(&event).map(|column| column.width + 2).sum();
    let is_narrow = terminal_width().is_some_and(|terminal| width - 2 > terminal);
    let cells = |row: Option<usize>| -> Vec<Line> {
        let all = [line(&columns, row), line(&event, row)];
        if is_narrow {
            let [columns, event] = all;
            vec![fit(&columns.into()), fit(&format!("    {event}").trim_end().into())]
        } else {
            let event_column = columns.iter().map(|column| column.width + 2).sum();
            let [columns, event] = all;
            vec![format!("{}{event}", padded(&columns, event_column)).trim_end().into()]
        }
    };
    let header =
        cells(None).into_iter().map(|line| Line::styled(line.as_str(), |line| line.bold())).collect();
    let lines = rows.iter().enumerate();
    let lines = lines.flat_map(|(number, row)| {
        cells(Some(number)).into_iter().map(|line| paint(row.state, line.as_str())).collect::<Vec<_>>()
    });
    Table { header, rows: lines.collect() }
}

/// The lines of a table.
pub(super) struct Table {
    pub(super) header: Vec<Line>,
    pub(super) rows: Vec<Line>,
}

impl Table {
    pub(super) fn lines(&self) -> impl Iterator<Item = &Line> {
        self.header.iter().chain(&self.rows)
    }
}

struct Column {
    header: &'static str,
    cells: Vec<String>,
    width: usize,
}

impl Column {
    fn new(header: &'static str, rows: &[InboxRow], cell: impl Fn(&InboxRow) -> String) -> Self {
        let cells: Vec<_> = rows.iter().map(cell).collect();
        let widths = cells.iter().map(|cell| measure_text_width(cell));
        let width = widths.chain([header.len()]).max().unwrap_or_default();
        Self { header, cells, width }
    }

    /// The cell of a row; the header for `None`.
    fn cell(&self, row: Option<usize>) -> &str {
        row.and_then(|row| self.cells.get(row)).map_or(self.header, String::as_str)
    }
}

/// The cells of a row. Each but the last is padded to the width of its column.
fn line(columns: &[Column], row: Option<usize>) -> String {
    let Some((last, others)) = columns.split_last() else { return String::new() };
    let others = others.iter().map(|column| padded(column.cell(row), column.width + 2));
    others.collect::<String>() + last.cell(row)
}

fn padded(text: &str, width: usize) -> String {
    format!("{text}{}", " ".repeat(width.saturating_sub(measure_text_width(text))))
}

/// A type or a status. Cut, since the widest one widens every row.
fn cut_or_dash(text: Option<&str>) -> String {
    const WIDEST: usize = 32;
    text.map_or_else(|| "-".to_owned(), |text| cut(text, WIDEST))
}

/// A text in the colour of a state.
pub(super) fn paint(state: InboxState, text: impl Display) -> Line {
    Line::styled(text, |text| match state {
        InboxState::Dead => text.red(),
        InboxState::Running => text.cyan(),
        InboxState::Done => text.green(),
        _ => text,
    })
}

/// Cuts a line off at the width of the terminal, if there is one.
pub(super) fn fit(line: &Line) -> Line {
    match terminal_width() {
        Some(width) => line.fit(width),
        None => line.clone(),
    }
}

fn terminal_width() -> Option<usize> {
    is_terminal().then(|| Term::stdout().size().1.into())
}
