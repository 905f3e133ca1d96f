//! `inbox replay`: makes dead or done events due again.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use qomplement_webhooks::JobId;
use qomplement_webhooks::inbox::{InboxAdmin, InboxCursor, InboxFilter, InboxState};
use serde_json::json;
use tokio::task::JoinSet;

use super::filter::{FilterArgs, StateArg};
use super::rows::{self, Pages};
use crate::arguments::number;
use crate::confirm::confirm;
use crate::database::{DatabaseArgs, store_failure};
use crate::failure::Failure;
use crate::output::{self, Format};

/// Make dead or done events due again
#[derive(Args)]
#[command(after_help = "\
Examples:
  qomplement-webhooks inbox replay --db inbox.db JOB_ID
  qomplement-webhooks inbox replay --db inbox.db --state dead --dry-run
  qomplement-webhooks inbox replay --db inbox.db --type extract --yes

Give job ids or a filter. A filter without --state selects dead letters;
--state done runs the handler again for events it has finished. A worker
handles each replayed event, and counts its attempts from 1 again. A dead row
without an event becomes expected and overdue, and is fetched.

The command asks before it replays. --yes skips the question, and is required
without a terminal. The exit status is 1 if a given job was not replayed.

--format json prints one object:
  matched, replayed: numbers
  not_replayed: {JOB_ID: reason}, of the given jobs
  dry_run: true or false")]
pub(super) struct Replay {
    /// The ids of the jobs
    #[arg(value_name = "JOB_ID", conflicts_with_all = ["state", "job_type", "status", "limit"])]
    jobs: Vec<JobId>,

    #[command(flatten)]
    database: DatabaseArgs,

    #[command(flatten)]
    filter: FilterArgs,

    /// The most events to replay, the oldest first; 0 replays all
    #[arg(long, default_value_t = 0, value_parser = |text: &str| number::<u64>(text, 0..))]
    limit: u64,

    /// Show the selected events only; replay nothing
    #[arg(long)]
    dry_run: bool,

    /// Replay without a question
    #[arg(long, short)]
    yes: bool,

    /// The output format
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// The replays under way at once: a store commits them together.
const AT_ONCE: usize = 64;
/// The rows shown before the question.
const SHOWN: usize = 20;

/// The result of the command.
#[derive(Default)]
struct ReplayReport {
    matched: u64,
    replayed: u64,
    not_replayed: Vec<(JobId, String)>,
}

impl Replay {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        if self.jobs.is_empty() && self.filter.is_empty() {
            return Err(Failure::usage(
                "no events selected\n  Give job ids, or a filter such as --state dead",
            ));
        }
        if let Some(state @ (StateArg::Expected | StateArg::Received | StateArg::Running)) = self.filter.state
        {
            let state = InboxState::from(state);
            return Err(Failure::usage(format!(
                "--state: {state} events cannot be replayed\n  Give --state dead or --state done"
            )));
        }
        let inbox = self.database.open().await?;
        let replayed =
            if self.jobs.is_empty() { self.by_filter(&inbox).await? } else { self.by_id(&inbox).await? };
        let Some(replayed) = replayed else {
            output::note("nothing was replayed");
            return Ok(ExitCode::FAILURE);
        };
        self.print(&replayed);
        Ok(if replayed.not_replayed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn print(&self, replayed: &ReplayReport) {
        if self.format == Format::Json {
            let not_replayed: serde_json::Map<_, _> =
                replayed.not_replayed.iter().map(|(job, why)| (job.to_string(), json!(why))).collect();
            return output::json(&json!({
                "matched": replayed.matched,
                "replayed": replayed.replayed,
                "not_replayed": not_replayed,
                "dry_run": self.dry_run,
            }));
        }
        for (job, why) in &replayed.not_replayed {
            output::note(format_args!("{job} not replayed: {why}"));
        }
        match (self.dry_run, replayed.matched) {
            (true, matched) => output::line(format_args!("{matched} would be replayed")),
            (false, matched) if matched > replayed.replayed && self.jobs.is_empty() => {
                output::line(format_args!(
                    "{} replayed; {} not: changed meanwhile, or without a valid id",
                    replayed.replayed,
                    matched - replayed.replayed
                ));
            }
            (false, _) => output::line(format_args!("{} replayed", replayed.replayed)),
        }
    }

    /// Replays the given jobs; `None` if the answer to the question was no.
    async fn by_id(&self, inbox: &Arc<dyn InboxAdmin>) -> Result<Option<ReplayReport>, Failure> {
        let mut replayed = ReplayReport::default();
        let mut rows = Vec::new();
        for job in &self.jobs {
            match inbox.get(job).await.map_err(store_failure)? {
                None => replayed.not_replayed.push((job.clone(), "the inbox has no row for it".to_owned())),
                Some((row, body)) => match (row.state, body) {
                    (InboxState::Dead, _) | (InboxState::Done, Some(_)) => rows.push(row),
                    (InboxState::Done, None) => {
                        replayed.not_replayed.push((job.clone(), "the event was pruned".to_owned()));
                    }
                    (state, _) => replayed.not_replayed.push((job.clone(), format!("the event is {state}"))),
                },
            }
        }
        replayed.matched = rows.len() as u64;
        if rows.is_empty() {
            return Ok(Some(replayed));
        }
        if self.format == Format::Text {
            output::lines(rows::table(&rows).lines());
        }
        if self.dry_run {
            return Ok(Some(replayed));
        }
        if !self.yes && !confirm(&question(replayed.matched)).await? {
            return Ok(None);
        }
        for row in rows {
            let Some(job) = row.job() else { continue };
            // The row can have changed while the question waited for its answer.
            let now = inbox.get(&job).await.map_err(store_failure)?;
            let is_same = now.is_some_and(|(now, _)| (now.number, now.state) == (row.number, row.state));
            if is_same && inbox.replay(&job).await.map_err(store_failure)? {
                replayed.replayed += 1;
            } else {
                replayed.not_replayed.push((job, "the row changed meanwhile".to_owned()));
            }
        }
        Ok(Some(replayed))
    }

    /// Replays the rows that match the filter; `None` if the answer to the question was no.
    async fn by_filter(&self, inbox: &Arc<dyn InboxAdmin>) -> Result<Option<ReplayReport>, Failure> {
        let mut filter = self.filter.filter();
        filter.state.get_or_insert(InboxState::Dead);
        let most = if self.limit == 0 { u64::MAX } else { self.limit };
        let mut replayed = ReplayReport::default();
        let mut numbers = Vec::new();
        let mut pages = Pages::new(inbox, filter.clone(), InboxCursor::Oldest, most);
        loop {
            let page = pages.next().await?;
            if page.is_empty() {
                break;
            }
            if replayed.matched == 0 && self.format == Format::Text {
                output::lines(rows::table(&page[..page.len().min(SHOWN)]).lines());
            }
            numbers.extend(page.iter().map(|row| row.number));
            replayed.matched += page.len() as u64;
        }
        if replayed.matched > SHOWN as u64 && self.format == Format::Text {
            output::line(format_args!("… and {} more", replayed.matched - SHOWN as u64));
        }
        if self.dry_run || replayed.matched == 0 {
            return Ok(Some(replayed));
        }
        if !self.yes && !confirm(&question(replayed.matched)).await? {
            return Ok(None);
        }
        replayed.replayed = replay_all(inbox, filter, &numbers).await?;
        Ok(Some(replayed))
    }
}

/// Replays the rows with these numbers that still match the filter, and none that matched only after the question.
/// `numbers` is sorted.
async fn replay_all(
    inbox: &Arc<dyn InboxAdmin>,
    filter: InboxFilter,
    numbers: &[u64],
) -> Result<u64, Failure> {
    let Some(last) = numbers.last() else { return Ok(0) };
    let mut count = 0;
    let mut under_way = JoinSet::new();
    let mut pages = Pages::new(inbox, filter, InboxCursor::Oldest, u64::MAX);
    loop {
        let page = pages.next().await?;
        if page.first().is_none_or(|row| row.number > *last) {
            break;
        }
        for row in page.into_iter().filter(|row| numbers.binary_search(&row.number).is_ok()) {
            if under_way.len() >= AT_ONCE {
                count += joined_count(under_way.join_next().await, count)?;
            }
            // A row with an invalid id cannot be replayed.
            let Some(job) = row.job() else { continue };
            let inbox = inbox.clone();
            under_way.spawn(async move { inbox.replay(&job).await });
        }
    }
    while !under_way.is_empty() {
        count += joined_count(under_way.join_next().await, count)?;
    }
    Ok(count)
}

type Joined = Option<Result<Result<bool, qomplement_webhooks::store::StoreError>, tokio::task::JoinError>>;

/// The number of rows that a task replayed, 0 or 1. An error says how many were replayed `before`.
fn joined_count(joined: Joined, before: u64) -> Result<u64, Failure> {
    match joined {
        Some(Ok(Ok(replayed))) => Ok(replayed.into()),
        Some(Ok(Err(error))) => match store_failure(error) {
            Failure::Failed(text) => {
                Err(Failure::failed(format!("{text}\n  At least {before} were replayed before the error")))
            }
            failure => Err(failure),
        },
        Some(Err(died)) => Err(Failure::failed(format!("a task panicked, which is a bug: {died}"))),
        None => Ok(0),
    }
}

fn question(count: u64) -> String {
    match count {
        1 => "Replay this event?".to_owned(),
        _ => format!("Replay these {count} events?"),
    }
}
