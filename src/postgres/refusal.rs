//! The errors of statements.

use std::error::Error;

use tokio_postgres::error::SqlState;

use crate::store::StoreError;

/// The classes of errors whose detail quotes the row: a constraint, and the check of a view.
const QUOTE_THE_ROW: [&str; 2] = ["23", "44"];

/// The database refused a row. The driver's error is not kept: its detail quotes the row, and with it the user's
/// document.
#[derive(Debug, thiserror::Error)]
#[error("{message} (SQLSTATE {})", code.code())]
struct RowRefused {
    code: SqlState,
    message: String,
}

/// Makes a store's error of a statement's.
pub(crate) fn statement_error(error: tokio_postgres::Error) -> StoreError {
    match error.as_db_error() {
        Some(refusal) if QUOTE_THE_ROW.iter().any(|class| refusal.code().code().starts_with(class)) => {
            let (code, message) = (refusal.code().clone(), refusal.message().to_owned());
            StoreError::unavailable(RowRefused { code, message })
        }
        _ => StoreError::unavailable(error),
    }
}

/// The code of the statement's error that caused a store's error.
pub(crate) fn code<'a>(cause: &'a (dyn Error + 'static)) -> Option<&'a SqlState> {
    match cause.downcast_ref::<RowRefused>() {
        Some(refused) => Some(&refused.code),
        None => cause.downcast_ref::<tokio_postgres::Error>()?.code(),
    }
}
