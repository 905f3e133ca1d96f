//! Leased rows, one of which may be unreadable.
//!
//! The server itself may be unable to read a row's body, if that is damaged, or to convert a text that another program
//! wrote. The statement that leases then fails, and no row is leased. Another statement leases the rows without such
//! values, which are then read row by row: so one row's value keeps no other row from being leased.

use std::error::Error;
use std::time::Duration;

use tokio::time::sleep;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use tracing::{debug, error, warn};

use super::batch::is_caused_by_a_row;
use super::rows::{Unreadable, number_and_fence};
use super::statements::Values;
use super::{Inner, Parameter};
use crate::error::{BoxError, chain};
use crate::postgres::{self, code, column};
use crate::store::StoreError;

/// The number of further leases without values that find no row, and the pause before each: the server tells the failure
/// of the statement before it unlocks the rows.
const LOCKED_TRIES: u32 = 5;
const LOCKED_AGAIN: Duration = Duration::from_millis(20);

/// The server has refused to return a row's values.
#[derive(Debug, thiserror::Error)]
#[error("the database cannot return its values, which are damaged or not valid in the database's encoding")]
pub(super) struct NotReturned(#[source] pub(super) BoxError);

/// Leases rows by a statement that returns their values, or by one that leaves them.
pub(super) async fn rows(
    inner: &Inner,
    [whole, unread]: [&str; 2],
    parameters: &[Parameter<'_>],
) -> Result<(Vec<Row>, Values), StoreError> {
    let lease = async |statement| postgres::query_leased(&inner.database, statement, parameters).await;
    match lease(whole).await {
        Err(StoreError::Unavailable(cause)) if may_be_caused_by_a_row(&*cause) => {
            debug!(error = %chain(&*cause), "the database cannot return all due rows; leasing and reading them one by one");
        }
        rows => return Ok((rows?, Values::Returned)),
    }
    let mut tries_left = LOCKED_TRIES;
    loop {
        let rows = lease(unread).await?;
        if tries_left == 0 || rows.iter().any(is_leased) {
            return Ok((rows, Values::Left));
        }
        tries_left -= 1;
        sleep(LOCKED_AGAIN).await;
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
    rows: &[Row],
    values: Values,
    read: impl Fn(&Row, &Row) -> Result<T, Unreadable>,
) -> Vec<T> {
    let mut readable = Vec::with_capacity(rows.len());
    let mut unreadable = Vec::new();
    for row in rows {
        let read = match values {
            Values::Returned => read(row, row),
            Values::Left => match values_of(inner, row).await {
                Ok(Some(values)) => read(row, &values),
                // An event took the place of the row's event meanwhile: the lease is stale.
                Ok(None) => continue,
                Err(StoreError::Unavailable(cause)) if is_caused_by_a_row(&*cause) => {
                    Err(Unreadable::new(row, &NotReturned(cause)))
                }
                Err(error) => {
                    let (number, _) = number_and_fence(row);
                    warn!(number, error = %chain(&error), "a leased row could not be read; trying again when its lease ends");
                    // Without a connection, each further row would take as long.
                    match is_of_the_server(&error) {
                        true => continue,
                        false => break,
                    }
                }
            },
        };
        match read {
            Ok(row) => readable.push(row),
            Err(row) => unreadable.push(row),
        }
    }
    for row in unreadable {
        set_aside(inner, row).await;
    }
    readable
}

/// Reads the values of a leased row; `None` if the lease is stale.
async fn values_of(inner: &Inner, row: &Row) -> Result<Option<Row>, StoreError> {
    let (number, fence) = number_and_fence(row);
    let (expired, expired_at) = (column::<bool>(row, "expired")?, column::<i64>(row, "expired_at")?);
    let parameters: [Parameter<'_>; 4] =
        [(&number, Type::INT8), (&fence, Type::INT8), (&expired, Type::BOOL), (&expired_at, Type::INT8)];
    let rows = postgres::query_leased(&inner.database, &inner.statements.read, &parameters).await?;
    Ok(rows.into_iter().next())
}

/// Whether a statement may have failed because of one row. Errors of the disk and internal ones may pass, so the row that
/// they concern is not dead: it is leased again when its lease ends, and the others go on meanwhile.
fn may_be_caused_by_a_row(cause: &(dyn Error + 'static)) -> bool {
    const CLASSES: [&str; 2] = ["58", "XX"];
    is_caused_by_a_row(cause)
        || code(cause).is_some_and(|code| CLASSES.iter().any(|class| code.code().starts_with(class)))
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
