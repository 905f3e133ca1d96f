//! Errors of code outside this crate, and their form in a log line.

use std::error::Error;

/// The error of a store, a handler or another implementation that may stand outside this crate.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// Formats an error with its causes, for a log line: `error: cause: cause of the cause`.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
