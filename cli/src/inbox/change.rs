//! Replays and discards: of the given jobs, or of the rows that a filter selects, after a question.

mod filtered;

use std::collections::HashSet;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use qomplement_webhooks::JobId;
use qomplement_webhooks::inbox::{Bulk, Changed, InboxAdmin, InboxFilter, InboxRow, InboxState};
use qomplement_webhooks::store::StoreError;
use serde_json::json;

use super::filter::{FilterArgs, StateArg};
use super::rows;
use crate::arguments::number;
use crate::causes::causes;
use crate::confirm::confirm;
use crate::database::{DatabaseArgs, store_failure};
use crate::failure::Failure;
use crate::output::{self, Format};

/// The errors in a row after which the store is at fault, and not a row.
const ERRORS: u32 = 3;

/// The change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Replay,
    Discard,
}

/// The rows to change, and how.
#[derive(Args)]
pub(super) struct Selection {
    /// The ids of the jobs
    #[arg(
        value_name = "JOB_ID",
        conflicts_with_all = ["all", "state", "job_type", "status", "job_prefix", "error", "older_than", "newer_than", "limit"]
    )]
    jobs: Vec<JobId>,

    /// All rows that the following options select
    #[arg(long)]
    all: bool,

    #[command(flatten)]
    filter: FilterArgs,

    /// The most rows to change, the oldest first; without it, all are changed
    #[arg(long, value_name = "N", value_parser = |text: &str| number::<u64>(text, 1..))]
    limit: Option<u64>,

    #[command(flatten)]
    inbox: DatabaseArgs,

    /// Count only; change nothing
    #[arg(long)]
    dry_run: bool,

    /// Change without a question
    #[arg(long, short)]
    yes: bool,

    /// The output format
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// The result of the command.
#[derive(Default)]
struct Report {
    changed: u64,
    /// Whether rows may be left that match.
    more: bool,
    /// The rows that matched before the question, if they were counted.
    matched: Option<u64>,
    /// Those among them that have no valid id.
    without_id: u64,
    /// The given jobs that were not changed, and why.
    not_changed: Vec<(JobId, String)>,
}

impl Action {
    fn done(self) -> &'static str {
        match self {
            Self::Replay => "replayed",
            Self::Discard => "discarded",
        }
    }

    fn question(self, count: u64, inbox: &DatabaseArgs) -> String {
        let inbox = inbox.name();
        match (self, count) {
            (Self::Replay, 1) => format!("Replay this event in {inbox}?"),
            (Self::Replay, _) => format!("Replay these {count} events in {inbox}?"),
            (Self::Discard, 1) => format!("Discard this dead letter in {inbox}?"),
            (Self::Discard, _) => format!("Discard these {count} dead letters in {inbox}?"),
        }
    }

    /// The reason why a row cannot be changed, if there is one.
    fn objection(self, state: InboxState, has_body: bool) -> Option<String> {
        match (self, state) {
            (_, InboxState::Dead) => None,
            (Self::Replay, InboxState::Done) if has_body => None,
            (Self::Replay, InboxState::Done) => Some("the event was pruned".to_owned()),
            (_, state) => Some(format!("the event is {state}")),
        }
    }

    async fn change(self, inbox: &dyn InboxAdmin, job: &JobId) -> Result<bool, StoreError> {
        match self {
            Self::Replay => inbox.replay(job).await,
            Self::Discard => inbox.discard(job).await,
        }
    }

    async fn change_all(
        self,
        inbox: &dyn InboxAdmin,
        filter: &InboxFilter,
        most: u64,
        bulk: Bulk,
    ) -> Result<Changed, StoreError> {
        match self {
            Self::Replay => inbox.replay_all(filter, most, bulk).await,
            Self::Discard => inbox.discard_all(filter, most, bulk).await,
        }
    }
}

impl Selection {
    pub(super) async fn run(self, action: Action) -> Result<ExitCode, Failure> {
        self.check(action)?;
        let inbox = self.inbox.open().await?;
        let report =
            if self.all { self.by_filter(action, &inbox).await? } else { self.by_id(action, &inbox).await? };
        let Some(report) = report else {
            output::note(format_args!("nothing was {}", action.done()));
            return Ok(ExitCode::FAILURE);
        };
        self.print(action, &report);
        Ok(if report.not_changed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn check(&self, action: Action) -> Result<(), Failure> {
        if self.jobs.is_empty() && !self.all {
            return Err(Failure::usage(
                "no events selected\n  Give job ids, or --all with options such as --state dead",
            ));
        }
        match (action, self.filter.state) {
            (_, None | Some(StateArg::Dead)) | (Action::Replay, Some(StateArg::Done)) => Ok(()),
            (Action::Replay, Some(state)) => {
                let state = InboxState::from(state);
                Err(Failure::usage(format!(
                    "--state: {state} events cannot be replayed\n  Give --state dead or --state done"
                )))
            }
            (Action::Discard, Some(state)) => {
                let state = InboxState::from(state);
                Err(Failure::usage(format!(
                    "--state: {state} events cannot be discarded\n  Leave --state out"
                )))
            }
        }
    }

    fn print(&self, action: Action, report: &Report) {
        let Report { changed, more, .. } = report;
        let done = action.done();
        if self.format == Format::Json {
            let not_changed: serde_json::Map<_, _> =
                report.not_changed.iter().map(|(job, why)| (job.to_string(), json!(why))).collect();
            return output::json(&json!({
                done: changed,
                format!("not_{done}"): not_changed,
                "more": more,
                "dry_run": self.dry_run,
            }));
        }
        for (job, why) in &report.not_changed {
            output::note(format_args!("{job} not {done}: {why}"));
        }
        let is_cut = self.limit.is_some_and(|limit| report.matched.unwrap_or(*changed) >= limit);
        match (self.dry_run, report.matched) {
            (true, _) if *more && !is_cut => output::line(format_args!("at least {changed} would be {done}")),
            (true, _) => output::line(format_args!("{changed} would be {done}")),
            (false, Some(matched)) if matched > *changed => {
                let others = matched - changed;
                output::line(format_args!(
                    "{changed} {done}; {others} not: {}",
                    self.reasons(others, report)
                ));
            }
            (false, _) => output::line(format_args!("{changed} {done}")),
        }
        if *more && is_cut {
            output::note("more rows match");
        } else if *more && !self.dry_run {
            output::note(match self.filter.state {
                // Repeated, the command would run the handler once more for all that it has just replayed.
                Some(StateArg::Done) => "some rows were in use, and were not replayed",
                _ => "some rows were in use: repeat the command",
            });
        }
    }

    /// The reasons why rows that matched were not changed.
    fn reasons(&self, others: u64, report: &Report) -> String {
        let mut reasons = Vec::new();
        if others > report.without_id {
            reasons.push("changed meanwhile");
            if self.filter.state == Some(StateArg::Done) {
                reasons.push("pruned");
            }
        }
        if report.without_id > 0 {
            reasons.push("without a valid id (give --yes)");
        }
        reasons.join(", or ")
    }

    /// Changes the given jobs; `None` if the answer to the question was no.
    async fn by_id(&self, action: Action, inbox: &Arc<dyn InboxAdmin>) -> Result<Option<Report>, Failure> {
        let mut report = Report::default();
        let mut rows = Vec::new();
        let mut seen = HashSet::new();
        let jobs: Vec<_> = self.jobs.iter().filter(|job| seen.insert(*job)).collect();
        for job in &jobs {
            let why = match rows::find(inbox, job).await.map_err(store_failure)? {
                None => Some("the inbox has no row for it".to_owned()),
                Some((row, body)) => {
                    // A body that cannot be read is there.
                    let why = action.objection(row.state, !matches!(body, Ok(None)));
                    if why.is_none() {
                        rows.push(row);
                    }
                    why
                }
            };
            report.not_changed.extend(why.map(|why| (JobId::clone(job), why)));
        }
        if rows.is_empty() {
            return Ok(Some(report));
        }
        self.show(&rows);
        if self.dry_run {
            report.changed = rows.len() as u64;
            return Ok(Some(report));
        }
        if !self.yes && !confirm(&action.question(rows.len() as u64, &self.inbox)).await? {
            return Ok(None);
        }
        let is_alone = jobs.len() == 1;
        let mut errors_in_a_row = 0;
        for row in rows {
            let Some(job) = row.job() else { continue };
            if errors_in_a_row == ERRORS {
                report.not_changed.push((job, "not tried, after three errors in a row".to_owned()));
                continue;
            }
            let changed = change_same(action, inbox, &job, &row).await;
            errors_in_a_row = if changed.is_err() { errors_in_a_row + 1 } else { 0 };
            let why = match changed {
                Ok(true) => {
                    report.changed += 1;
                    continue;
                }
                Ok(false) => "the row changed meanwhile".to_owned(),
                Err(error) if is_alone => return Err(store_failure(error)),
                Err(error) => format!("the store did not confirm it: {}", causes(&error)),
            };
            report.not_changed.push((job, why));
        }
        Ok(Some(report))
    }

    fn show(&self, rows: &[InboxRow]) {
        if self.format == Format::Text && !rows.is_empty() {
            output::lines(rows::table(rows).lines());
        }
    }
}

/// Changes a row unless it has changed since it was read, as while the question waited for its answer.
async fn change_same(
    action: Action,
    inbox: &Arc<dyn InboxAdmin>,
    job: &JobId,
    row: &InboxRow,
) -> Result<bool, StoreError> {
    let now = rows::find(inbox, job).await?;
    let is_same = now.is_some_and(|(now, _)| (now.number, now.state) == (row.number, row.state));
    Ok(is_same && action.change(&**inbox, job).await?)
}
