//! The question before a command changes or deletes rows.

use std::io::{self, IsTerminal};

use crate::failure::Failure;
use crate::output;

/// Asks a question; `Ok(false)` means no. Returns an error without a terminal to answer on.
pub(crate) async fn confirm(question: &str) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(Failure::usage(format!(
            "{question}\n  This question needs a terminal to answer on\n  Give --yes to go on without it, or --dry-run to see the effect"
        )));
    }
    output::ask(format_args!("{question} [y/N]"));
    // Ctrl-C ends the process here, before any change.
    let answer = tokio::task::spawn_blocking(|| {
        let mut answer = String::new();
        io::stdin().read_line(&mut answer).map(|_| answer)
    });
    let answer = answer.await.ok().and_then(Result::ok).unwrap_or_default();
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}
