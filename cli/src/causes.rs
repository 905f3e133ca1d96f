//! Formats errors with their causes, in one line that is safe to print.

use std::error::Error;

use crate::output::clean;

/// Formats an error with its causes: `error: cause: cause of the cause`. Leaves out a cause that repeats the text
/// before it.
pub(crate) fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut last = text.clone();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !next.ends_with(&last) {
            text += &format!(": {next}");
            last = next;
        }
        cause = error.source();
    }
    one_line(&text)
}

/// Formats the last cause of an error alone.
pub(crate) fn root_cause(error: &dyn Error) -> String {
    let mut last = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    one_line(&last.to_string())
}

/// Joins lines: databases put details and hints on lines of their own.
fn one_line(text: &str) -> String {
    clean(&text.replace('\n', "; "))
}
