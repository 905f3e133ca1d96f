//! The ways a command fails, each with its exit status.

use std::process::ExitCode;

use crate::output;

/// The reason why a command ends early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line or the environment is wrong, and nothing was done.
    Usage(String),
    /// The command did not do its work, or only a part of it.
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

    /// Prints the message, and returns the exit status.
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
