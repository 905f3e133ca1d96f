//! Reading of rows, also of rows that another program wrote.
//!
//! A call reads many rows at once, and an unreadable one must not fail the others.

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, Type};

use crate::error::BoxError;
use crate::event::TraceParent;
use crate::inbox::failed_attempts::FailedAttempts;
use crate::inbox::timestamp::Timestamp;
use crate::inbox::{FetchHistory, InboxRow, Lease, Leased, Overdue, read};
use crate::postgres::column;
use crate::store::StoreError;

/// A leased row that cannot be read.
pub(super) struct Unreadable {
    pub(super) number: i64,
    pub(super) fence: i64,
    pub(super) reason: String,
}

/// A text, whatever its bytes are: a database without an encoding holds any.
struct Text(String);

impl<'a> FromSql<'a> for Text {
    fn from_sql(_: &Type, bytes: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(String::from_utf8_lossy(bytes).into_owned()))
    }

    fn accepts(kind: &Type) -> bool {
        <&str>::accepts(kind)
    }
}

/// Reads a leased row. `values` is the row that has its values: the same one, unless they were returned apart.
pub(super) fn leased(row: &Row, values: &Row) -> Result<Leased, Unreadable> {
    readable(row, values, |lease| {
        Ok(Leased {
            lease,
            body: column::<Option<&[u8]>>(values, "body")?
                .map(Bytes::copy_from_slice)
                .ok_or(read::NO_BODY)?,
            traceparent: traceparent(values)?,
            attempt: count(values, "attempts")?.max(1),
            earlier_attempts: count(row, "earlier_attempts")?,
            expired: column(row, "expired")?,
            begun: column::<Option<bool>>(row, "was_begun")?.unwrap_or_default(),
            verified: column::<Option<bool>>(row, "verified")?.unwrap_or_default(),
            expected_again: column::<Option<bool>>(row, "expected_again")?.unwrap_or_default(),
            age: column::<Option<i64>>(row, "age")?.map(duration).unwrap_or_default(),
            fetches: history(row)?,
        })
    })
}

/// Likewise.
pub(super) fn overdue(row: &Row, values: &Row) -> Result<Overdue, Unreadable> {
    readable(row, values, |lease| {
        let by = column::<Option<i64>>(row, "overdue_by")?.map(duration).unwrap_or_default();
        Ok(Overdue { lease, by, fetches: history(row)? })
    })
}

fn readable<T>(
    row: &Row,
    values: &Row,
    read: impl FnOnce(Lease) -> Result<T, BoxError>,
) -> Result<T, Unreadable> {
    let (_, fence) = number_and_fence(row);
    let lease = || {
        let Text(job) = column(values, "job_id")?;
        Ok(Lease::new(read::job(&job)?, read::fence(fence)?))
    };
    lease().and_then(read).map_err(|error| Unreadable::new(row, &*error))
}

impl Unreadable {
    pub(super) fn new(row: &Row, error: &(dyn Error + 'static)) -> Self {
        let (number, fence) = number_and_fence(row);
        Self { number, fence, reason: read::reason(error) }
    }
}

/// The number and the fencing token of a leased row. To read them cannot fail: no other value fits into their columns.
pub(super) fn number_and_fence(row: &Row) -> (i64, i64) {
    (row.try_get("number").unwrap_or(0), row.try_get("fence").unwrap_or(0))
}

fn history(row: &Row) -> Result<FetchHistory, StoreError> {
    Ok(FetchHistory {
        count: count(row, "fetches")?,
        not_found: count(row, "not_found")?,
        unanswered_for: column::<Option<i64>>(row, "unanswered_for")?.map(duration),
        next_in: column::<Option<i64>>(row, "next_fetch_in")?.map(duration).unwrap_or_default(),
    })
}

/// A text for people, whatever its bytes are.
pub(super) fn text(row: &Row, name: &str) -> Result<Option<String>, StoreError> {
    Ok(column::<Option<Text>>(row, name)?.map(|Text(text)| text))
}

/// A row for people, whatever its content.
pub(super) fn view(row: &Row) -> Result<InboxRow, StoreError> {
    let text = |name| text(row, name);
    let (state, error) = read::state(&text("state")?.unwrap_or_default(), text("error")?);
    let failures = FailedAttempts::from_column(text("failures")?.as_deref());
    Ok(InboxRow {
        number: u64::try_from(column::<i64>(row, "number")?).unwrap_or(0),
        job_id: text("job_id")?.unwrap_or_default(),
        state,
        job_type: text("job_type")?,
        status: text("status")?,
        traceparent: traceparent(row)?,
        verified: column::<Option<bool>>(row, "verified")?.unwrap_or_default(),
        fetches: count(row, "fetches")?,
        attempts: count(row, "attempts")?,
        earlier_attempts: count(row, "earlier_attempts")?,
        error,
        failures: failures.view(Timestamp(column(row, "now")?)),
        age: column::<Option<i64>>(row, "age")?.map(duration).unwrap_or_default(),
        due_in: column::<Option<i64>>(row, "due_in")?.map(duration),
    })
}

fn traceparent(row: &Row) -> Result<Option<TraceParent>, StoreError> {
    Ok(read::traceparent(column::<Option<Text>>(row, "traceparent")?.map(|Text(text)| text)))
}

/// A count, zero if it is missing or negative.
fn count(row: &Row, name: &str) -> Result<u32, StoreError> {
    Ok(column::<Option<i32>>(row, name)?.and_then(|count| u32::try_from(count).ok()).unwrap_or(0))
}

/// A duration, zero if it is negative.
pub(super) fn duration(microseconds: i64) -> Duration {
    Duration::from_micros(u64::try_from(microseconds).unwrap_or(0))
}
