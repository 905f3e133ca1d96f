//! Stores and sources outside of the crate: everything that they return can be made with its public API.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use qomplement_webhooks::conformance::{DedupDifference, dedup_all, inbox_all};
use qomplement_webhooks::dedup::{Claim, ClaimToken};
use qomplement_webhooks::event::Envelope;
use qomplement_webhooks::fetch::{FetchError, Fetched, JobSource};
use qomplement_webhooks::inbox::{
    Bulk, Changed, FailedAttempt, FetchHistory, InboxAdmin, InboxCursor, InboxFilter, InboxList, InboxRow,
    InboxState, InboxStats, InboxTraffic, Lease, Leased, NoResult, Outcome, Overdue, Pruned, Receipt,
    Retention,
};
use qomplement_webhooks::sender::Payload;
use qomplement_webhooks::store::{Fenced, StoreError};
use qomplement_webhooks::{
    DedupStore, InboxStore, InboxWorker, JobId, JobType, MemoryDedupStore, MemoryInbox, Verification,
    async_trait, handler_fn,
};
use tokio::sync::mpsc;

/// Copies each result of another store member by member, as a store does that reads them from columns.
#[derive(Debug, Clone)]
struct Rebuilt<S>(S);

fn error(error: StoreError) -> StoreError {
    match error {
        StoreError::Full => StoreError::Full,
        error => StoreError::unavailable(error),
    }
}

fn fenced(fenced: Fenced) -> Fenced {
    if fenced == Fenced::Applied { Fenced::Applied } else { Fenced::Stale }
}

fn lease(lease: &Lease) -> Lease {
    Lease::new(lease.job().as_str().parse().unwrap(), lease.fence())
}

fn history(from: FetchHistory) -> FetchHistory {
    let mut history = FetchHistory::default();
    history.count = from.count;
    history.not_found = from.not_found;
    history.unanswered_for = from.unanswered_for;
    history.next_in = from.next_in;
    history
}

fn leased(from: &Leased) -> Leased {
    let body = Bytes::copy_from_slice(&from.body);
    let mut leased = Leased::new(lease(&from.lease), body, from.attempt);
    leased.traceparent = from.traceparent.as_ref().map(|traceparent| traceparent.as_str().parse().unwrap());
    leased.earlier_attempts = from.earlier_attempts;
    leased.expired = from.expired;
    leased.begun = from.begun;
    leased.verified = from.verified;
    leased.expected_again = from.expected_again;
    leased.age = from.age;
    leased.fetches = history(from.fetches);
    leased
}

fn overdue(from: &Overdue) -> Overdue {
    let mut overdue = Overdue::new(lease(&from.lease), from.by);
    overdue.fetches = history(from.fetches);
    overdue
}

fn state(from: InboxState) -> InboxState {
    match from.as_str() {
        "expected" => InboxState::Expected,
        "received" => InboxState::Received,
        "running" => InboxState::Running,
        "done" => InboxState::Done,
        _ => InboxState::Dead,
    }
}

fn failed_attempt(from: FailedAttempt) -> FailedAttempt {
    FailedAttempt::new(from.number, from.age, from.took, from.error)
}

fn row(from: InboxRow) -> InboxRow {
    let mut row = InboxRow::new(from.number, from.job_id, state(from.state), from.age);
    row.job_type = from.job_type;
    row.status = from.status;
    row.traceparent = from.traceparent;
    row.verified = from.verified;
    row.fetches = from.fetches;
    row.attempts = from.attempts;
    row.earlier_attempts = from.earlier_attempts;
    row.error = from.error;
    row.failures = from.failures.into_iter().map(failed_attempt).collect();
    row.due_in = from.due_in;
    row
}

fn stats(from: InboxStats) -> InboxStats {
    let mut stats = InboxStats::default();
    (stats.expected, stats.received, stats.running) = (from.expected, from.received, from.running);
    (stats.done, stats.dead) = (from.done, from.dead);
    (stats.bytes, stats.unfinished_bytes) = (from.bytes, from.unfinished_bytes);
    stats.max_unfinished_rows = from.max_unfinished_rows;
    stats.max_unfinished_bytes = from.max_unfinished_bytes;
    (stats.oldest_due, stats.oldest_overdue) = (from.oldest_due, from.oldest_overdue);
    stats
}

fn pruned(from: Pruned) -> Pruned {
    let mut pruned = Pruned::default();
    (pruned.payloads, pruned.rows, pruned.dead) = (from.payloads, from.rows, from.dead);
    pruned
}

fn copied(from: &InboxFilter) -> InboxFilter {
    let mut filter = InboxFilter::default();
    (filter.state, filter.job_prefix) = (from.state, from.job_prefix.clone());
    (filter.job_type, filter.status) = (from.job_type.clone(), from.status.clone());
    (filter.error, filter.older_than, filter.newer_than) =
        (from.error.clone(), from.older_than, from.newer_than);
    filter
}

#[async_trait]
impl InboxStore for Rebuilt<MemoryInbox> {
    async fn receive(&self, event: &Envelope) -> Result<Receipt, StoreError> {
        match self.0.receive(event).await {
            Ok(Receipt::Stored) => Ok(Receipt::Stored),
            Ok(Receipt::Duplicate) => Ok(Receipt::Duplicate),
            Ok(Receipt::Conflict) => Ok(Receipt::Conflict),
            Err(failure) => Err(error(failure)),
        }
    }

    async fn lease(&self, most: usize, length: Duration) -> Result<Vec<Leased>, StoreError> {
        let rows = self.0.lease(most, length).await.map_err(error)?;
        Ok(rows.iter().map(leased).collect())
    }

    async fn begin(&self, token: &Lease) -> Result<Fenced, StoreError> {
        self.0.begin(&lease(token)).await.map(fenced).map_err(error)
    }

    async fn renew(&self, token: &Lease, length: Duration) -> Result<Fenced, StoreError> {
        self.0.renew(&lease(token), length).await.map(fenced).map_err(error)
    }

    async fn verify(&self, token: &Lease, event: &Envelope) -> Result<Fenced, StoreError> {
        self.0.verify(&lease(token), event).await.map(fenced).map_err(error)
    }

    async fn settle(&self, token: &Lease, outcome: &Outcome) -> Result<Fenced, StoreError> {
        let outcome = match outcome.clone() {
            Outcome::Done => Outcome::Done,
            Outcome::Retry { after, error } => Outcome::Retry { after, error },
            Outcome::Dead { error } => Outcome::Dead { error },
            Outcome::Release { after } => Outcome::Release { after },
            Outcome::FetchAgain { after, answer } => {
                let answer = match answer {
                    NoResult::Pending => NoResult::Pending,
                    NoResult::NotFound => NoResult::NotFound,
                    NoResult::Failed { error } => NoResult::Failed { error },
                };
                Outcome::FetchAgain { after, answer }
            }
            Outcome::Rejected { error } => Outcome::Rejected { error },
        };
        // The very lease: another one would be held only from now on.
        self.0.settle(token, &outcome).await.map(fenced).map_err(error)
    }

    async fn expect(&self, job: &JobId, deadline: Duration) -> Result<(), StoreError> {
        self.0.expect(job, deadline).await.map_err(error)
    }

    async fn overdue(&self, most: usize, length: Duration) -> Result<Vec<Overdue>, StoreError> {
        let jobs = self.0.overdue(most, length).await.map_err(error)?;
        Ok(jobs.iter().map(overdue).collect())
    }

    async fn contains(&self, job: &JobId) -> Result<bool, StoreError> {
        self.0.contains(job).await.map_err(error)
    }

    async fn prune(&self, retention: &Retention) -> Result<Pruned, StoreError> {
        self.0.prune(retention).await.map(pruned).map_err(error)
    }

    fn admin(&self) -> Option<&dyn InboxAdmin> {
        Some(self)
    }
}

#[async_trait]
impl InboxAdmin for Rebuilt<MemoryInbox> {
    async fn list(
        &self,
        filter: &InboxFilter,
        from: InboxCursor,
        most: usize,
    ) -> Result<InboxList, StoreError> {
        let list = self.0.list(&InboxFilter::default(), from, most).await.map_err(error)?;
        // A store without a query language.
        let rows = list.rows.into_iter().map(row).filter(|row| filter.matches(row)).collect();
        Ok(InboxList::new(rows, list.next))
    }

    async fn get(&self, job: &JobId) -> Result<Option<(InboxRow, Option<Bytes>)>, StoreError> {
        let found = self.0.get(job).await.map_err(error)?;
        Ok(found.map(|(found, body)| (row(found), body)))
    }

    async fn replay(&self, job: &JobId) -> Result<bool, StoreError> {
        self.0.replay(job).await.map_err(error)
    }

    async fn discard(&self, job: &JobId) -> Result<bool, StoreError> {
        self.0.discard(job).await.map_err(error)
    }

    async fn replay_all(&self, filter: &InboxFilter, most: u64, bulk: Bulk) -> Result<Changed, StoreError> {
        let changed = self.0.replay_all(&copied(filter), most, bulk).await.map_err(error)?;
        Ok(Changed::new(changed.rows, changed.more))
    }

    async fn discard_all(&self, filter: &InboxFilter, most: u64, bulk: Bulk) -> Result<Changed, StoreError> {
        let changed = self.0.discard_all(&copied(filter), most, bulk).await.map_err(error)?;
        Ok(Changed::new(changed.rows, changed.more))
    }

    async fn stats(&self) -> Result<InboxStats, StoreError> {
        self.0.stats().await.map(stats).map_err(error)
    }

    async fn traffic(&self) -> Result<Vec<InboxTraffic>, StoreError> {
        let minutes = self.0.traffic().await.map_err(error)?;
        let rebuilt =
            |minute: InboxTraffic| InboxTraffic::new(minute.minutes_ago, minute.received, minute.handled);
        Ok(minutes.into_iter().map(rebuilt).collect())
    }
}

#[async_trait]
impl DedupStore for Rebuilt<Arc<MemoryDedupStore>> {
    async fn claim(&self, token: &ClaimToken, lease: Duration) -> Result<Claim, StoreError> {
        match self.0.claim(token, lease).await {
            Ok(Claim::Acquired) => Ok(Claim::Acquired),
            Ok(Claim::InProgress { retry_after }) => Ok(Claim::InProgress { retry_after }),
            Ok(Claim::Done) => Ok(Claim::Done),
            Err(failure) => Err(error(failure)),
        }
    }

    async fn renew(&self, token: &ClaimToken, lease: Duration) -> Result<Fenced, StoreError> {
        self.0.renew(token, lease).await.map(fenced).map_err(error)
    }

    async fn complete(&self, token: &ClaimToken, retention: Duration) -> Result<Fenced, StoreError> {
        self.0.complete(token, retention).await.map(fenced).map_err(error)
    }

    async fn release(&self, token: &ClaimToken) -> Result<Fenced, StoreError> {
        self.0.release(token).await.map(fenced).map_err(error)
    }
}

/// Knows no job at first, then fails in each way that concerns one job, and at last has the result.
#[derive(Debug, Default)]
struct Results(std::sync::atomic::AtomicUsize);

#[async_trait]
impl JobSource for Results {
    async fn fetch(&self, job: &JobId) -> Result<Fetched, FetchError> {
        match self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
            0 => Ok(Fetched::NotFound),
            1 => Ok(Fetched::Pending),
            2 => Err(FetchError::unavailable("HTTP 500")),
            3 => Err(FetchError::Refused("HTTP 403".into())),
            4 => Err(FetchError::Unreadable("no status".into())),
            5 => Err(FetchError::RateLimited { retry_after: Some(Duration::from_secs(2)) }),
            6 => Err(FetchError::unreachable("no connection")),
            7 => Err(FetchError::Unauthorized),
            _ => {
                let body = Payload::failed(&JobType::Extract).job_id(job.to_string()).to_bytes();
                Envelope::try_from(body)
                    .map(Fetched::Finished)
                    .map_err(|error| FetchError::Unreadable(error.into()))
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_inbox_outside_of_the_crate_can_keep_the_contract() {
    let inbox = Rebuilt(MemoryInbox::new());
    inbox_all(&inbox, &inbox.clone(), &[]).await;
}

#[tokio::test(start_paused = true)]
async fn a_dedup_store_outside_of_the_crate_can_keep_the_contract() {
    let store = Rebuilt(Arc::new(MemoryDedupStore::new()));
    dedup_all(&store, &store.clone(), &[DedupDifference::ForgetsOwnersOfFreeJobs]).await;
}

#[tokio::test(start_paused = true)]
async fn a_source_and_an_inbox_outside_of_the_crate_bring_an_expected_job_to_its_handler() {
    let (inbox, (handled, mut events)) = (Rebuilt(MemoryInbox::new()), mpsc::unbounded_channel());
    let handler = handler_fn(move |event| {
        let _ = handled.send((event.name(), event.job().id().clone()));
        std::future::ready(Ok(()))
    });
    let source = Arc::new(Results::default());
    let worker = InboxWorker::new(inbox.clone(), handler, Verification::fetch(source.clone())).start();
    let job: JobId = "a-job".parse().unwrap();
    inbox.expect(&job, Duration::from_secs(60)).await.unwrap();

    assert_eq!(events.recv().await.unwrap(), ("job_failed", job.clone()));
    assert_eq!(source.0.load(std::sync::atomic::Ordering::SeqCst), 9, "fetches");
    assert_eq!(worker.shutdown(Duration::from_secs(1)).await, 0);
    let (row, _) = inbox.get(&job).await.unwrap().unwrap();
    assert_eq!((row.state, row.verified), (InboxState::Done, true));
}

#[tokio::test(start_paused = true)]
async fn a_store_without_notifications_gives_no_hint() {
    let store = Rebuilt(MemoryInbox::new());
    let hint = tokio::time::timeout(Duration::from_secs(3600), store.wait());
    assert!(hint.await.is_err());
}
