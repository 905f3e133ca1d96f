//! Asks before something is done.

use std::io::{self, IsTerminal};

use crate::failure::Failure;
use crate::output;

/// Asks whether to go on. `Ok(false)` is no. Without a terminal nobody can be asked, and nothing is done.
pub(crate) async fn confirm(question: &str) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(Failure::usage(format!(
            "{question}\n  There is no terminal to answer that on\n  Give --yes to do it, or --dry-run to look at it"
        )));
    }
    output::ask(format_args!("{question} [y/N]"));
    // Ctrl-C ends the process here: nothing was done.
    let answer = tokio::task::spawn_blocking(|| {
        let mut answer = String::new();
        io::stdin().read_line(&mut answer).map(|_| answer)
    });
    let answer = answer.await.ok().and_then(Result::ok).unwrap_or_default();
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}
