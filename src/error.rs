//! Errors of code outside this crate, and their form in a log line.

use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The error of a store, a handler or another implementation that may stand outside this crate.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// Formats an error with its causes, for a log line: `error: cause: cause of the cause`.
///
/// The texts come from foreign code. One that panics must not end the call that has dealt with the error.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let text = || {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        text
    };
    catch_unwind(AssertUnwindSafe(text)).unwrap_or_else(|_| "(formatting the error panicked)".to_owned())
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use super::*;

    #[derive(Debug)]
    struct Panics;

    impl fmt::Display for Panics {
        fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
            panic!("no text");
        }
    }

    impl Error for Panics {}

    #[test]
    fn an_error_whose_text_panics_has_another_text() {
        assert_eq!(chain(&Panics), "(formatting the error panicked)");
        assert_eq!(chain(&std::io::Error::other(Panics)), "(formatting the error panicked)");
    }
}
