//! Actions: what a form of the page changes, and the line about it in the log.

use std::time::Duration;

use serde_json::json;
use tokio::runtime::Handle;
use tokio::time::timeout;
use tracing::{error, info, warn};

use super::InboxPage;
use super::confirm::MOST;
use super::filter::RowFilter;
use super::frame::Visit;
use super::problem::Problem;
use super::reply::Reply;
use super::route::{Action, Did, FetchedAs, Fields, Target};
use crate::JobId;
use crate::error::chain;
use crate::execution::isolation::call;
use crate::fetch::Fetched;
use crate::inbox::{Bulk, Changed, Receipt};
use crate::store::StoreError;

/// How long a request waits for its action.
const WAIT: Duration = Duration::from_secs(30);
/// The time limit of a fetch.
const FETCH_TIME: Duration = Duration::from_secs(60);

impl InboxPage {
    /// Carries an action out. A client that leaves does not stop it.
    pub(super) async fn carry_out(
        &self,
        visit: &Visit,
        action: Action,
        target: Target,
        fields: &Fields<'_>,
    ) -> Result<Reply, Problem> {
        // The count that was confirmed: rows that match since then are not meant.
        let most = fields.get("most").and_then(|most| most.parse().ok()).unwrap_or(MOST).min(MOST);
        if let Target::Matching(filter) = &target
            && !action.applies_to(filter.state)
        {
            return Err(Problem::State);
        }
        let runtime = Handle::try_current().map_err(|error| {
            error!(%error, "the inbox page was called outside a tokio runtime; answering 503");
            Problem::Unavailable
        })?;
        let (page, who, of) = (self.clone(), visit.name.clone(), target.clone());
        let work = runtime.spawn(async move {
            match (action, &of) {
                (Action::Fetch, Target::Job { job, .. }) => page.fetch(&who, job).await,
                (Action::Fetch, Target::Matching(_)) => Err(Problem::State),
                (_, Target::Job { job, .. }) => page.change(&who, action, job).await,
                (_, Target::Matching(filter)) => page.change_all(&who, action, filter, most).await,
            }
        });
        let did = match timeout(WAIT, work).await {
            Ok(Ok(did)) => did?,
            Ok(Err(error)) => {
                error!(%error, "an action on the inbox panicked");
                return Err(problem_of(action));
            }
            Err(_) => return Err(Problem::GoesOn),
        };
        Ok(if visit.as_json { Reply::json(&json_of(did)) } else { Reply::see(&target.after(did)) })
    }

    async fn change(&self, who: &str, action: Action, job: &JobId) -> Result<Did, Problem> {
        let changed = match action {
            Action::Discard => self.inbox.discard(job).await,
            Action::Replay | Action::Fetch => self.inbox.replay(job).await,
        };
        let changed = changed.map_err(|error| failed(who, action, &error))?;
        let rows = u64::from(changed);
        info!(?who, action = action.as_str(), job_id = %job, rows, "action on the inbox");
        Ok(Did::Changed { action, rows, more: false })
    }

    async fn change_all(
        &self,
        who: &str,
        action: Action,
        filter: &RowFilter,
        most: u64,
    ) -> Result<Did, Problem> {
        let selected = filter.to_inbox();
        // Some rows may be changed before an error: the beginning is on record.
        info!(?who, action = action.as_str(), filter = %filter.to_query(), most, "action on the inbox begins");
        let changed = match action {
            Action::Discard => self.inbox.discard_all(&selected, most, Bulk::Apply).await,
            Action::Replay | Action::Fetch => self.inbox.replay_all(&selected, most, Bulk::Apply).await,
        };
        let Changed { rows, more, .. } = changed.map_err(|error| failed(who, action, &error))?;
        info!(?who, action = action.as_str(), filter = %filter.to_query(), rows, more, "action on the inbox");
        Ok(Did::Changed { action, rows, more })
    }

    /// Fetches a job, and stores its event if it has ended.
    async fn fetch(&self, who: &str, job: &JobId) -> Result<Did, Problem> {
        let source = self.source.as_ref().ok_or(Problem::NoSuchPage)?;
        let late = || tokio::time::Instant::now() + FETCH_TIME;
        let answer = match call(late, || async { source.fetch(job).await?.checked(job) }).await {
            Ok(Fetched::Finished(event)) => match self.inbox.receive(&event).await {
                Ok(Receipt::Stored) => FetchedAs::Stored,
                Ok(Receipt::Duplicate | Receipt::Conflict) => FetchedAs::Known,
                Err(error) => return Err(failed(who, Action::Fetch, &error)),
            },
            Ok(Fetched::Pending) => FetchedAs::Pending,
            Ok(Fetched::NotFound) => FetchedAs::NotFound,
            Err(error) => {
                warn!(?who, job_id = %job, error = %chain(&error), "the fetch from the inbox page failed");
                FetchedAs::Failed
            }
        };
        info!(?who, action = "fetch", job_id = %job, answer = answer.as_str(), "action on the inbox");
        Ok(Did::Fetched(answer))
    }
}

fn failed(who: &str, action: Action, error: &StoreError) -> Problem {
    error!(?who, action = action.as_str(), error = %chain(error), "the action on the inbox failed");
    problem_of(action)
}

/// The problem of an action that failed after it began.
fn problem_of(action: Action) -> Problem {
    match action {
        // To store the same event again changes nothing.
        Action::Fetch => Problem::Unavailable,
        Action::Discard | Action::Replay => Problem::InDoubt,
    }
}

fn json_of(did: Did) -> serde_json::Value {
    match did {
        Did::Changed { action, rows, more } => json!({"action": action.as_str(), "rows": rows, "more": more}),
        Did::Fetched(answer) => json!({"action": "fetch", "answer": answer.as_str()}),
    }
}
