//! `inbox watch`: an inbox as it changes.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use console::Term;
use humantime::parse_duration;
use qomplement_webhooks::{InboxAdmin, InboxFilter, InboxState, StoreError};
use tokio::time::{MissedTickBehavior, interval};

use super::{rows, stats};
use crate::database::{DatabaseArgs, store};
use crate::failure::Failure;
use crate::output;
use crate::stop::stop;

/// Watch an inbox: a table that follows what happens
#[derive(Args)]
#[command(after_help = "\
Examples:
  qomplement-webhooks inbox watch --db inbox.db
  qomplement-webhooks inbox watch --db inbox.db --rows 20 --every 500ms

On a terminal, the table is written again in its place; Ctrl-C ends it. In a
pipe, the counts are printed whenever they have changed. A database that goes
away is told of and waited for.")]
pub(super) struct Watch {
    #[command(flatten)]
    database: DatabaseArgs,

    /// How often to look
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "1s")]
    every: Duration,

    /// How many rows to show of what is running, waits or is dead, the oldest of each
    #[arg(long, default_value_t = 5)]
    rows: usize,
}

fn time(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(time) if time < Duration::from_millis(50) => Err("50ms at least".to_owned()),
        time => time.map_err(|error| error.to_string()),
    }
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
                lines = self.look(&inbox, screen.terminal.is_some()) => lines,
            };
            match lines {
                Ok(lines) => screen.show(lines)?,
                Err(error) => {
                    let Failure::Failed(text) = store(error) else { continue };
                    screen.fail(&text)?;
                }
            }
        }
    }

    async fn look(&self, inbox: &Arc<dyn InboxAdmin>, with_rows: bool) -> Result<Vec<String>, StoreError> {
        let counts = inbox.stats().await?;
        if !with_rows {
            return Ok(vec![format!(
                "expected {}  received {}  running {}  done {}  dead {}",
                counts.expected, counts.received, counts.running, counts.done, counts.dead
            )]);
        }
        let mut lines = stats::lines(&counts);
        let mut shown = Vec::new();
        for state in [InboxState::Running, InboxState::Received, InboxState::Dead] {
            let mut filter = InboxFilter::default();
            filter.state = Some(state);
            shown.extend(inbox.list(&filter, None, self.rows).await?);
        }
        if !shown.is_empty() {
            lines.push(String::new());
            lines.extend(rows::table(&shown).lines().cloned());
        }
        Ok(lines)
    }
}

/// Where the table is written: in its place on a terminal, and one after the other otherwise.
struct Screen {
    terminal: Option<Term>,
    last: Vec<String>,
}

impl Screen {
    fn new() -> Self {
        let terminal = output::is_terminal().then(Term::buffered_stdout);
        if let Some(terminal) = &terminal {
            let _ = terminal.hide_cursor();
        }
        Self { terminal, last: Vec::new() }
    }

    fn show(&mut self, mut lines: Vec<String>) -> Result<(), Failure> {
        let Some(terminal) = &mut self.terminal else {
            if lines != self.last {
                lines.iter().try_for_each(output::line)?;
                self.last = lines;
            }
            return Ok(());
        };
        // What has scrolled off the screen cannot be written again.
        let (height, _) = terminal.size();
        lines.truncate(usize::from(height).saturating_sub(1));
        let written = (|| {
            if !self.last.is_empty() {
                terminal.move_cursor_up(self.last.len())?;
            }
            for line in &lines {
                terminal.clear_line()?;
                writeln!(terminal, "{}", rows::fit(line))?;
            }
            terminal.clear_to_end_of_screen()?;
            terminal.flush()
        })();
        self.last = lines;
        written.map_err(|error| Failure::output(&error))
    }

    /// Shows why there is no table now.
    fn fail(&mut self, why: &str) -> Result<(), Failure> {
        let lines: Vec<_> = why.lines().map(str::to_owned).collect();
        if self.terminal.is_some() {
            self.show(lines)?;
        } else if lines != self.last {
            output::error(why);
            self.last = lines;
        }
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if let Some(terminal) = &self.terminal {
            // Below what Ctrl-C was shown as.
            let _ = terminal.write_line("");
            let _ = terminal.show_cursor();
            let _ = terminal.flush();
        }
    }
}
