//! Leased rows, one of which may be unreadable.
//!
//! The server itself may be unable to read a row's body, if that is damaged, or to convert a text that another program
//! wrote. The statement that leases then fails, and no row is leased. Another statement only withholds some rows from other
//! calls, and leaves such values. Then each row is leased and read by itself: one row's value keeps no other row from being
//! leased, and an attempt counts only if its event was read.

use std::error::Error;
use std::time::Duration;

use tokio::time::sleep;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use tracing::{debug, error, warn};

use super::batch::is_caused_by_a_row;
use super::rows::{Unreadable, number_and_fence};
use super::statements::{Statements, Values};
use super::{Inner, Parameter};
use crate::error::{BoxError, chain};
use crate::postgres::{self, code, column};
use crate::store::StoreError;

/// The most rows that one call reads by themselves: it must end long before their leases do.
const MOST_ALONE: i64 = 100;
/// The most further looks for rows after a statement that failed, and the pause before each: the server tells of the failure
/// before it unlocks the rows.
const LOOKS_AGAIN: u32 = 5;
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// The server has refused to return a row's values.
#[derive(Debug, thiserror::Error)]
#[error("the database cannot return its values, which are damaged or not valid in the database's encoding")]
pub(super) struct NotReturned(#[source] pub(super) BoxError);

/// The rows that a call leases.
#[derive(Debug, Clone, Copy)]
pub(super) enum Due {
    Events,
    OverdueJobs,
}

/// Leases up to `most` rows by a statement that returns their values, or by one that leaves them.
pub(super) async fn rows(
    inner: &Inner,
    due: Due,
    most: i64,
    others: &[Parameter<'_>],
) -> Result<(Vec<Row>, Values), StoreError> {
    let Statements { lease, lease_unread, overdue, overdue_unread, .. } = &inner.statements;
    let (whole, unread) = match due {
        Due::Events => (lease, lease_unread),
        Due::OverdueJobs => (overdue, overdue_unread),
    };
    let run = async |statement, most: i64| {
        let mut parameters: Vec<Parameter<'_>> = vec![(&most, Type::INT8)];
        parameters.extend_from_slice(others);
        postgres::query_leased(&inner.database, statement, &parameters).await
    };
    match run(whole, most).await {
        Err(StoreError::Unavailable(cause)) if may_be_caused_by_a_row(&*cause) => {
            debug!(error = %chain(&*cause), "the database cannot return all due rows; leasing and reading them one by one");
        }
        rows => return Ok((rows?, Values::Returned)),
    }
    let mut looks_left = LOOKS_AGAIN;
    loop {
        let rows = run(unread, most.min(MOST_ALONE)).await?;
        if looks_left == 0 || rows.iter().any(is_leased) {
            return Ok((rows, Values::Left));
        }
        looks_left -= 1;
        sleep(LOOK_PAUSE).await;
    }
}

/// Whether a row of the statement is one that it leased.
pub(super) fn is_leased(row: &Row) -> bool {
    matches!(row.try_get::<_, Option<i64>>("number"), Ok(Some(_)))
}

/// Returns the readable rows. An unreadable one becomes dead, now or after its lease: otherwise every later call would
/// lease it again.
pub(super) async fn readable<T>(
    inner: &Inner,
    due: Due,
    rows: &[Row],
    values: Values,
    read: impl Fn(&Row, &Row) -> Result<T, Unreadable>,
) -> Vec<T> {
    let mut readable = Vec::with_capacity(rows.len());
    for row in rows {
        let read = match values {
            Values::Returned => read(row, row),
            Values::Left => match values_of(inner, due, row).await {
                Ok(Some(values)) => read(row, &values),
                // The row has changed meanwhile.
                Ok(None) => continue,
                Err(StoreError::Unavailable(cause)) if is_damage(&*cause) => {
                    Err(Unreadable::new(row, &NotReturned(cause)))
                }
                Err(error) => {
                    let (number, _) = number_and_fence(row);
                    warn!(number, error = %chain(&error), "a row could not be read; trying again when its lease would end");
                    // Without a connection, each further row would take as long.
                    if is_of_the_server(&error) {
                        continue;
                    }
                    break;
                }
            },
        };
        match read {
            Ok(row) => readable.push(row),
            // At once: the caller may leave before the last row.
            Err(row) => set_aside(inner, row).await,
        }
    }
    readable
}

/// Reads the values of a row, and leases it if it has an event; `None` if it has changed.
async fn values_of(inner: &Inner, due: Due, row: &Row) -> Result<Option<Row>, StoreError> {
    let Statements { read, read_overdue, .. } = &inner.statements;
    let (number, fence) = number_and_fence(row);
    let mut parameters: Vec<Parameter<'_>> = vec![(&number, Type::INT8), (&fence, Type::INT8)];
    let rows = match due {
        Due::Events => {
            let expired: bool = column(row, "expired")?;
            let (expired_at, attempts): (i64, i32) = (column(row, "expired_at")?, column(row, "attempts")?);
            parameters.extend_from_slice(&[
                (&expired, Type::BOOL),
                (&expired_at, Type::INT8),
                (&attempts, Type::INT4),
            ]);
            postgres::query_leased(&inner.database, read, &parameters).await?
        }
        Due::OverdueJobs => postgres::query_leased(&inner.database, read_overdue, &parameters).await?,
    };
    Ok(rows.into_iter().next())
}

/// Whether a statement may have failed because of one row. Errors of the disk and internal ones may pass, so the row that
/// they concern is not dead: it is leased again later, and the others go on meanwhile.
pub(super) fn may_be_caused_by_a_row(cause: &(dyn Error + 'static)) -> bool {
    is_caused_by_a_row(cause) || has_class(cause, &["58", "XX"])
}

/// Whether the server has found a value damaged, or invalid in its encoding: nothing that passes.
fn is_damage(cause: &(dyn Error + 'static)) -> bool {
    has_class(cause, &["22", "XX001"])
}

fn has_class(cause: &(dyn Error + 'static), classes: &[&str]) -> bool {
    code(cause).is_some_and(|code| classes.iter().any(|class| code.code().starts_with(class)))
}

fn is_of_the_server(error: &StoreError) -> bool {
    error.source().is_some_and(|cause| code(cause).is_some())
}

/// Makes an unreadable row dead.
async fn set_aside(inner: &Inner, Unreadable { number, fence, reason }: Unreadable) {
    error!(number, %reason, "a row in the inbox cannot be read; it is dead now");
    let set_aside = loop {
        let texts = inner.texts();
        let reason = texts.storable(&reason);
        let parameters: [Parameter<'_>; 3] =
            [(&number, Type::INT8), (&fence, Type::INT8), (&reason, Type::TEXT)];
        match postgres::query_leased(&inner.database, &inner.statements.set_aside, &parameters).await {
            Err(error) if inner.must_escape(texts, &error) => {}
            set_aside => break set_aside,
        }
    };
    if let Err(error) = set_aside {
        error!(number, error = %chain(&error), "the row cannot be set aside; trying again when its lease ends");
    }
}
