//! `inbox watch`: follows the changes of an inbox.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use console::Term;
use qomplement_webhooks::inbox::{InboxAdmin, InboxCursor, InboxFilter, InboxState};
use qomplement_webhooks::store::StoreError;
use tokio::time::{MissedTickBehavior, interval};

use super::{rows, stats};
use crate::arguments::{number, time_from};
use crate::database::{DatabaseArgs, store_failure};
use crate::failure::Failure;
use crate::output::{self, Line};
use crate::stop::stop;

/// Follow the changes of an inbox in a table
#[derive(Args)]
#[command(after_help = "\
Examples:
  qomplement-webhooks inbox watch --db inbox.db
  qomplement-webhooks inbox watch --db inbox.db --limit 20 --every 500ms

On a terminal, the table updates in place until Ctrl-C. In a pipe, and with
TERM=dumb, each change of the counts prints one line. While the database does
not answer, the command shows the error and keeps trying.")]
pub(super) struct Watch {
    #[command(flatten)]
    database: DatabaseArgs,

    /// The time between two updates
    #[arg(long, value_name = "TIME", value_parser = every, default_value = "1s")]
    every: Duration,

    /// The most rows to show of each state: running, received and dead, the newest first; 0 shows the
    /// counts alone
    #[arg(long, default_value_t = 5, value_parser = |text: &str| number::<usize>(text, 0..))]
    limit: usize,
}

fn every(text: &str) -> Result<Duration, String> {
    time_from(text, Duration::from_millis(50))
}

impl Watch {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let inbox = self.database.open().await?;
        let mut stopped = std::pin::pin!(stop());
        let mut screen = Screen::new();
        let mut ticks = interval(self.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = &mut stopped => return Ok(ExitCode::SUCCESS),
                _ = ticks.tick() => {}
            }
            let lines = tokio::select! {
                () = &mut stopped => return Ok(ExitCode::SUCCESS),
                lines = self.read(&inbox, screen.terminal.is_some()) => lines,
            };
            match lines {
                Ok(lines) => screen.show(lines),
                Err(error) => {
                    let Failure::Failed(text) = store_failure(error) else { continue };
                    screen.fail(&text);
                }
            }
            if output::is_closed() {
                return Ok(ExitCode::SUCCESS);
            }
        }
    }

    async fn read(&self, inbox: &Arc<dyn InboxAdmin>, with_rows: bool) -> Result<Vec<Line>, StoreError> {
        let counts = inbox.stats().await?;
        if !with_rows {
            return Ok(vec![Line::from(format_args!(
                "expected {}  received {}  running {}  done {}  dead {}",
                counts.expected, counts.received, counts.running, counts.done, counts.dead
            ))]);
        }
        let mut lines = stats::lines(&counts);
        let mut shown = Vec::new();
        for state in [InboxState::Running, InboxState::Received, InboxState::Dead] {
            // One call each, which looks at a bounded number of rows.
            let filter = InboxFilter::default().state(state);
            shown.extend(inbox.list(&filter, InboxCursor::Newest, self.limit).await?.rows);
        }
        if !shown.is_empty() {
            lines.push(Line::default());
            lines.extend(rows::table(&shown).lines().cloned());
        }
        Ok(lines)
    }
}

/// Writes the table in place on a terminal, and each changed version otherwise.
struct Screen {
    terminal: Option<Term>,
    last: Vec<Line>,
}

impl Screen {
    fn new() -> Self {
        let in_place = output::is_terminal() && !console::is_dumb();
        let terminal = in_place.then(Term::buffered_stdout);
        if let Some(terminal) = &terminal {
            let _ = terminal.hide_cursor();
        }
        Self { terminal, last: Vec::new() }
    }

    fn show(&mut self, mut lines: Vec<Line>) {
        let Some(terminal) = &mut self.terminal else {
            if lines != self.last {
                output::lines(&lines);
                self.last = lines;
            }
            return;
        };
        // Lines that have scrolled off the screen cannot be overwritten.
        let (height, _) = terminal.size();
        lines.truncate(usize::from(height).saturating_sub(1));
        let written = (|| {
            if !self.last.is_empty() {
                terminal.move_cursor_up(self.last.len())?;
            }
            for line in &lines {
                terminal.clear_line()?;
                writeln!(terminal, "{}", rows::fit(line).as_str())?;
            }
            terminal.clear_to_end_of_screen()?;
            terminal.flush()
        })();
        self.last = lines;
        if let Err(error) = written {
            output::closed(error);
        }
    }

    /// Shows an error instead of the table.
    fn fail(&mut self, why: &str) {
        let lines: Vec<_> = why.lines().map(Line::from).collect();
        if self.terminal.is_some() {
            self.show(lines);
        } else if lines != self.last {
            output::error(why);
            self.last = lines;
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if let Some(terminal) = &self.terminal {
            // Below the `^C` that the terminal echoes.
            let _ = terminal.write_line("");
            let _ = terminal.show_cursor();
            let _ = terminal.flush();
        }
    }
}
