//! `inbox list`: lists the rows of an inbox.

use std::process::ExitCode;

use clap::Args;
use qomplement_webhooks::inbox::InboxCursor;

use super::filter::FilterArgs;
use super::rows::{self, Pages};
use crate::arguments::number;
use crate::database::{DatabaseArgs, store_failure};
use crate::failure::Failure;
use crate::output::{self, Format};

/// List the rows of an inbox, the oldest or the newest first
#[derive(Args)]
#[command(after_help = "\
Examples:
  qomplement-webhooks inbox list --db inbox.db
  qomplement-webhooks inbox list --db inbox.db --state dead --limit 0
  qomplement-webhooks inbox list --db inbox.db --newest --error timeout
  qomplement-webhooks inbox list --db inbox.db --status failed --format json

ATTEMPTS counts since receipt or the last replay, +N the attempts before it.
NEXT is the next step of a row: due, waits 5s (until its next attempt), leased
20s (to a worker, which can renew the lease), lease ended (the worker crashed
or hangs), fetch due in 5m (unless its webhook arrives), overdue.

--format json prints one object per line:
  number, attempts, earlier_attempts: numbers
  fetches: number of fetches without a result so far
  verified: true if the event was fetched from the API
  job_id, state: strings
  type, status, error: strings, or null
  age_seconds: time since receipt or registration
  due_in_seconds: time until the row is due, its lease ends or it is overdue;
    0 if that time is past, null if the row has no next step")]
pub(super) struct List {
    #[command(flatten)]
    database: DatabaseArgs,

    #[command(flatten)]
    filter: FilterArgs,

    /// The most rows to list; 0 lists all
    #[arg(long, default_value_t = 100, value_parser = |text: &str| number::<u64>(text, 0..))]
    limit: u64,

    /// List the newest rows first
    #[arg(long)]
    newest: bool,

    /// Only rows behind the row with this number in the list
    #[arg(long, value_name = "NUMBER", value_parser = |text: &str| number::<u64>(text, 0..))]
    after: Option<u64>,

    /// The output format
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

impl List {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let inbox = self.database.open().await?;
        let most = if self.limit == 0 { u64::MAX } else { self.limit };
        let from = match (self.newest, self.after) {
            (false, None) => InboxCursor::Oldest,
            (false, Some(number)) => InboxCursor::After(number),
            (true, None) => InboxCursor::Newest,
            (true, Some(number)) => InboxCursor::Before(number),
        };
        let mut pages = Pages::new(&inbox, self.filter.filter(), from, most);
        let (mut last, mut listed) = (None, 0);
        loop {
            let page = pages.next().await?;
            let Some(row) = page.last() else { break };
            last = Some(row.number);
            match self.format {
                Format::Json => page.iter().for_each(|row| output::json(&rows::json(row))),
                Format::Text => {
                    // Only once, although the columns of later pages can be wider.
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
            output::note(if self.filter.is_empty() {
                "the inbox is empty"
            } else {
                "no row matches the filter"
            });
        }
        if listed == most
            && let (Some(last), Some(rest)) = (last, pages.rest())
        {
            let more = inbox.list(&self.filter.filter(), rest, 1).await.map_err(store_failure)?;
            if !more.rows.is_empty() || more.next.is_some() {
                output::note(format_args!(
                    "more rows follow: --after {last} lists the next, --limit 0 lists all"
                ));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
