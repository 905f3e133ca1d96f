//! How a command fails: what it says, and its exit status.

use std::error::Error;
use std::process::ExitCode;

use crate::output::{self, clean};

/// Why a command ends early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line or the environment is wrong, and nothing was done.
    Usage(String),
    /// What was asked for was not done, or not all of it.
    Failed(String),
    /// Ctrl-C.
    Interrupted,
}

impl Failure {
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }

    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::Failed(message.into())
    }

    /// Says what went wrong.
    pub(crate) fn report(self) -> ExitCode {
        match self {
            Self::Usage(message) => {
                output::error(&message);
                ExitCode::from(2)
            }
            Self::Failed(message) => {
                output::error(&message);
                ExitCode::FAILURE
            }
            Self::Interrupted => ExitCode::from(130),
        }
    }
}

/// An error with everything that caused it, in one line; a cause that only repeats the one before is left out.
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

/// What began it all: the last of an error's causes, in one line.
pub(crate) fn root_cause(error: &dyn Error) -> String {
    let mut last = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    one_line(&last.to_string())
}

/// Databases tell details and hints in further lines.
fn one_line(text: &str) -> String {
    clean(&text.replace('\n', "; "))
}
