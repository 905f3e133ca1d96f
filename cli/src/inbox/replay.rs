//! `inbox replay`: lets events be handled again.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use qomplement_webhooks::JobId;
use qomplement_webhooks::inbox::{InboxAdmin, InboxFilter, InboxState};
use serde_json::json;
use tokio::task::JoinSet;

use super::rows::{self, Pages};
use super::{FilterArgs, State};
use crate::arguments::number;
use crate::confirm::confirm;
use crate::database::{DatabaseArgs, store};
use crate::failure::Failure;
use crate::output::{self, Format};

/// Let events that are dead or done be handled again
#[derive(Args)]
#[command(after_help = "\
Examples:
  qomplement-webhooks inbox replay --db inbox.db JOB_ID
  qomplement-webhooks inbox replay --db inbox.db --state dead --dry-run
  qomplement-webhooks inbox replay --db inbox.db --type extract --yes

Give job ids, or a filter. A filter without --state means what is dead;
--state done handles again what was handled already. Other states are not
replayed: those events will be handled anyway. A worker handles what is
replayed, and counts its attempts anew; a job that died without an event is
expected again, and asked for.

It asks first, unless --yes is given; without a terminal, --yes is needed. The
exit status is 1 if a job that was named was not replayed.

--format json prints one object: matched, replayed: numbers; not_replayed:
{JOB_ID: reason} of the jobs that were named; dry_run: true or false.")]
pub(super) struct Replay {
    /// The jobs
    #[arg(value_name = "JOB_ID", conflicts_with_all = ["state", "job_type", "status", "limit"])]
    jobs: Vec<JobId>,

    #[command(flatten)]
    database: DatabaseArgs,

    #[command(flatten)]
    filter: FilterArgs,

    /// How many at most, the oldest first; 0 for all
    #[arg(long, default_value_t = 0, value_parser = |text: &str| number::<u64>(text, 0..))]
    limit: u64,

    /// Only show what would be replayed
    #[arg(long)]
    dry_run: bool,

    /// Do not ask
    #[arg(long, short)]
    yes: bool,

    /// How to print what was done
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// How many are replayed at once: a store commits them together.
const AT_ONCE: usize = 64;
/// How many a question shows.
const SHOWN: usize = 20;

/// What came of it.
#[derive(Default)]
struct Replayed {
    matched: u64,
    replayed: u64,
    not_replayed: Vec<(JobId, String)>,
}

impl Replay {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        if self.jobs.is_empty() && self.filter.is_empty() {
            return Err(Failure::usage("replay what? Give job ids, or a filter such as --state dead"));
        }
        if let Some(state @ (State::Expected | State::Received | State::Running)) = self.filter.state {
            let state = InboxState::from(state);
            return Err(Failure::usage(format!("what is {state} cannot be replayed: only dead or done")));
        }
        let inbox = self.database.open().await?;
        let replayed =
            if self.jobs.is_empty() { self.by_filter(&inbox).await? } else { self.by_id(&inbox).await? };
        let Some(replayed) = replayed else {
            output::note("nothing was replayed");
            return Ok(ExitCode::FAILURE);
        };
        self.tell(&replayed);
        Ok(if replayed.not_replayed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn tell(&self, replayed: &Replayed) {
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
            output::note(format_args!("{job} is not replayed: {why}"));
        }
        match (self.dry_run, replayed.matched) {
            (true, matched) => output::line(format_args!("{matched} would be replayed")),
            (false, matched) if matched > replayed.replayed && self.jobs.is_empty() => {
                output::line(format_args!(
                    "{} replayed; {} had changed meanwhile, or cannot be replayed",
                    replayed.replayed,
                    matched - replayed.replayed
                ));
            }
            (false, _) => output::line(format_args!("{} replayed", replayed.replayed)),
        }
    }

    /// `None` if the answer was no.
    async fn by_id(&self, inbox: &Arc<dyn InboxAdmin>) -> Result<Option<Replayed>, Failure> {
        let mut replayed = Replayed::default();
        let mut rows = Vec::new();
        for job in &self.jobs {
            match inbox.get(job).await.map_err(store)? {
                None => replayed.not_replayed.push((job.clone(), "the inbox has no such job".to_owned())),
                Some((row, body)) => match (row.state, body) {
                    (InboxState::Dead, _) | (InboxState::Done, Some(_)) => rows.push(row),
                    (InboxState::Done, None) => {
                        replayed.not_replayed.push((job.clone(), "its event was pruned".to_owned()));
                    }
                    (state, _) => replayed.not_replayed.push((job.clone(), format!("it is {state}"))),
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
            // A question may have waited long for its answer.
            let now = inbox.get(&job).await.map_err(store)?;
            let is_same = now.is_some_and(|(now, _)| (now.number, now.state) == (row.number, row.state));
            if is_same && inbox.replay(&job).await.map_err(store)? {
                replayed.replayed += 1;
            } else {
                replayed.not_replayed.push((job, "it has changed meanwhile".to_owned()));
            }
        }
        Ok(Some(replayed))
    }

    /// `None` if the answer was no.
    async fn by_filter(&self, inbox: &Arc<dyn InboxAdmin>) -> Result<Option<Replayed>, Failure> {
        let mut filter = self.filter.filter();
        filter.state.get_or_insert(InboxState::Dead);
        let most = if self.limit == 0 { u64::MAX } else { self.limit };
        let mut replayed = Replayed::default();
        let mut numbers = Vec::new();
        let mut pages = Pages::new(inbox, filter.clone(), None, most);
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

/// Replays the rows that were counted, by their numbers in order, if they are still so: nothing that came, or died,
/// after the question was asked.
async fn replay_all(
    inbox: &Arc<dyn InboxAdmin>,
    filter: InboxFilter,
    numbers: &[u64],
) -> Result<u64, Failure> {
    let Some(last) = numbers.last() else { return Ok(0) };
    let mut count = 0;
    let mut under_way = JoinSet::new();
    let mut pages = Pages::new(inbox, filter, None, u64::MAX);
    loop {
        let page = pages.next().await?;
        if page.first().is_none_or(|row| row.number > *last) {
            break;
        }
        for row in page.into_iter().filter(|row| numbers.binary_search(&row.number).is_ok()) {
            if under_way.len() >= AT_ONCE {
                count += replayed(under_way.join_next().await, count)?;
            }
            // What no version accepts as an id cannot be replayed.
            let Some(job) = row.job() else { continue };
            let inbox = inbox.clone();
            under_way.spawn(async move { inbox.replay(&job).await });
        }
    }
    while !under_way.is_empty() {
        count += replayed(under_way.join_next().await, count)?;
    }
    Ok(count)
}

type Joined = Option<Result<Result<bool, qomplement_webhooks::store::StoreError>, tokio::task::JoinError>>;

/// Whether one more was replayed, after so many.
fn replayed(joined: Joined, before: u64) -> Result<u64, Failure> {
    match joined {
        Some(Ok(Ok(replayed))) => Ok(replayed.into()),
        Some(Ok(Err(error))) => match store(error) {
            Failure::Failed(text) => {
                Err(Failure::failed(format!("{text}\n  {before} or more were replayed before")))
            }
            failure => Err(failure),
        },
        Some(Err(died)) => Err(Failure::failed(format!("a bug: {died}"))),
        None => Ok(0),
    }
}

fn question(count: u64) -> String {
    match count {
        1 => "Replay this event?".to_owned(),
        _ => format!("Replay these {count} events?"),
    }
}
