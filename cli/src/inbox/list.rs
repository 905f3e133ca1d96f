//! `inbox list`: the rows of an inbox.

use std::process::ExitCode;

use clap::Args;

use super::FilterArgs;
use super::rows::{self, Pages};
use crate::arguments::number;
use crate::database::DatabaseArgs;
use crate::failure::Failure;
use crate::output::{self, Format};

/// List what is in an inbox, in the order of arrival
#[derive(Args)]
#[command(after_help = "\
Examples:
  qomplement-webhooks inbox list --db inbox.db
  qomplement-webhooks inbox list --db inbox.db --state dead --limit 0
  qomplement-webhooks inbox list --db inbox.db --status failed --format json

ATTEMPTS are those since the event was received or last replayed, +those
before. NEXT says what a row waits for: due, waits 5s (for its next attempt),
leased 20s (a worker has it for so long, or longer if it renews), lease ended
(its worker is gone), overdue in 5m (its webhook is to come).

--format json prints one object a line:
  number, attempts, earlier_attempts: numbers
  fetches: how often the job was fetched, without a result so far
  verified: true if the event is what the API says
  job_id, state: texts
  type, status, error: texts, or null
  age_seconds: since it was received or registered
  due_in_seconds: until it is due, its lease ends or it is overdue, 0 if that
    is past; null if it waits for nothing")]
pub(super) struct List {
    #[command(flatten)]
    database: DatabaseArgs,

    #[command(flatten)]
    filter: FilterArgs,

    /// How many rows at most; 0 for all
    #[arg(long, default_value_t = 100, value_parser = |text: &str| number::<u64>(text, 0..))]
    limit: u64,

    /// Only rows after the one with this number
    #[arg(long, value_name = "NUMBER", value_parser = |text: &str| number::<u64>(text, 0..))]
    after: Option<u64>,

    /// How to print them
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

impl List {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let inbox = self.database.open().await?;
        let most = if self.limit == 0 { u64::MAX } else { self.limit };
        let mut pages = Pages::new(&inbox, self.filter.filter(), self.after, most);
        let (mut last, mut listed) = (None, 0);
        loop {
            let page = pages.next().await?;
            let Some(row) = page.last() else { break };
            last = Some(row.number);
            match self.format {
                Format::Json => page.iter().for_each(|row| output::json(&rows::json(row))),
                Format::Text => {
                    // The header once, though the columns of later pages may be wider.
                    let table = rows::table(&page);
                    let header = if listed == 0 { &table.header[..] } else { &[] };
                    output::lines(header.iter().chain(&table.rows));
                }
            }
            listed += page.len() as u64;
            if output::is_closed() {
                return Ok(ExitCode::SUCCESS);
            }
        }
        if listed == 0 && self.format == Format::Text {
            output::note(if self.filter.is_empty() { "the inbox is empty" } else { "no row is so" });
        }
        if listed == most
            && let Some(last) = last
        {
            let more =
                inbox.list(&self.filter.filter(), Some(last), 1).await.map_err(crate::database::store)?;
            if !more.is_empty() {
                output::note(format_args!("there are more: --after {last} shows the next, --limit 0 all"));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
