//! An inbox that injects faults and records every call.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use qomplement_webhooks::event::Envelope;
use qomplement_webhooks::inbox::{
    Bulk, Changed, InboxAdmin, InboxCursor, InboxFilter, InboxList, InboxRow, InboxState, InboxStats,
    InboxTraffic, Lease, Leased, Outcome, Overdue, Pruned, Receipt, Retention,
};
use qomplement_webhooks::sender::Payload;
use qomplement_webhooks::store::{Fenced, StoreError};
use qomplement_webhooks::{InboxStore, InboxWorker, JobId, MemoryInbox, Verification, async_trait};
use tokio::time::{Instant, sleep};

use crate::support::{Call, Fault, Faults, Script};

/// A memory inbox that injects faults and records every call. All clones are one.
#[derive(Debug, Clone, Default)]
pub struct FaultyInbox {
    pub rows: MemoryInbox,
    pub faults: Arc<Faults>,
    notes: Arc<Notes>,
    /// Whether [`InboxStore::wait`] returns at once.
    hints: bool,
    /// Whether a lease returns bodies that cannot be read.
    spoils: bool,
    /// The most rows of one list, if there is a limit.
    page: Option<usize>,
}

#[derive(Debug, Default)]
struct Notes {
    outcomes: Mutex<Vec<Outcome>>,
    leases: Mutex<Vec<Lease>>,
    most_leased: AtomicU64,
}

impl FaultyInbox {
    /// Lets the next calls of a kind fail.
    pub fn fail(self, call: Call, faults: impl IntoIterator<Item = Option<Fault>>) -> Self {
        self.faults.fail(call, faults);
        self
    }

    /// Hints all the time that there is an event to lease.
    pub fn hinting(self) -> Self {
        Self { hints: true, ..self }
    }

    /// Lists at most this many rows at once.
    pub fn in_pages_of(self, rows: usize) -> Self {
        Self { page: Some(rows), ..self }
    }

    /// Leases bodies that cannot be read.
    pub fn spoiling(self) -> Self {
        Self { spoils: true, ..self }
    }

    pub fn calls(&self, call: Call) -> usize {
        self.faults.calls(call)
    }

    /// The outcomes that workers settled, repetitions included.
    pub fn outcomes(&self) -> Vec<Outcome> {
        self.notes.outcomes.lock().unwrap().clone()
    }

    /// The leases that workers had of rows, also those of which the store's reply was lost.
    pub fn leases(&self) -> Vec<Lease> {
        self.notes.leases.lock().unwrap().clone()
    }

    /// The most rows that were running at one time.
    pub fn most_leased(&self) -> u64 {
        self.notes.most_leased.load(Ordering::SeqCst)
    }

    /// Stores a webhook, as a receiver would.
    pub async fn add(&self, payload: &Payload) -> JobId {
        let event = Envelope::try_from(payload.to_bytes()).unwrap();
        assert_eq!(self.rows.receive(&event).await.unwrap(), Receipt::Stored);
        event.job().clone()
    }

    pub async fn add_new(&self) -> JobId {
        self.add(&Payload::extract_completed()).await
    }

    pub async fn row(&self, job: &JobId) -> InboxRow {
        self.rows.get(job).await.unwrap().expect("the row is lost").0
    }

    /// Waits until a row is in a state, for at most a day by tokio's clock.
    pub async fn until(&self, job: &JobId, state: InboxState) -> InboxRow {
        let began = Instant::now();
        loop {
            let row = self.row(job).await;
            if row.state == state {
                return row;
            }
            let waited = began.elapsed();
            assert!(waited < Duration::from_secs(24 * 60 * 60), "never {state}: {row:?}");
            // Precise enough for any time, and hours of paused time are a few thousand looks.
            sleep((waited / 2000).max(Duration::from_millis(20))).await;
        }
    }

    /// A worker on this inbox, to be started.
    pub fn worker(&self, script: &Script) -> InboxWorker {
        InboxWorker::new(self.clone(), script.handler(), Verification::Trust)
    }
}

#[async_trait]
impl InboxStore for FaultyInbox {
    async fn receive(&self, event: &Envelope) -> Result<Receipt, StoreError> {
        self.faults.call(Call::Receive, self.rows.receive(event)).await
    }

    async fn lease(&self, most: usize, length: Duration) -> Result<Vec<Leased>, StoreError> {
        self.faults.given(length);
        let lease = async {
            let leased = self.rows.lease(most, length).await?;
            let leases = leased.iter().map(|leased| leased.lease.clone());
            self.notes.leases.lock().unwrap().extend(leases);
            Ok(leased)
        };
        let mut leased = self.faults.call(Call::Lease, lease).await;
        for leased in leased.iter_mut().flatten().filter(|_| self.spoils) {
            leased.body = Bytes::from_static(b"{");
        }
        let running = self.rows.stats().await?.running;
        self.notes.most_leased.fetch_max(running, Ordering::SeqCst);
        leased
    }

    async fn begin(&self, lease: &Lease) -> Result<Fenced, StoreError> {
        self.faults.call(Call::Begin, self.rows.begin(lease)).await
    }

    async fn renew(&self, lease: &Lease, length: Duration) -> Result<Fenced, StoreError> {
        self.faults.given(length);
        self.faults.call(Call::Renew, self.rows.renew(lease, length)).await
    }

    async fn verify(&self, lease: &Lease, event: &Envelope) -> Result<Fenced, StoreError> {
        self.faults.call(Call::Verify, self.rows.verify(lease, event)).await
    }

    async fn settle(&self, lease: &Lease, outcome: &Outcome) -> Result<Fenced, StoreError> {
        self.notes.outcomes.lock().unwrap().push(outcome.clone());
        if let Outcome::Retry { after, .. } = outcome {
            self.faults.given(*after);
        }
        self.faults.call(Call::Settle, self.rows.settle(lease, outcome)).await
    }

    async fn expect(&self, job: &JobId, deadline: Duration) -> Result<(), StoreError> {
        self.rows.expect(job, deadline).await
    }

    async fn overdue(&self, most: usize, length: Duration) -> Result<Vec<Overdue>, StoreError> {
        self.faults.call(Call::Overdue, self.rows.overdue(most, length)).await
    }

    async fn contains(&self, job: &JobId) -> Result<bool, StoreError> {
        self.rows.contains(job).await
    }

    async fn prune(&self, retention: &Retention) -> Result<Pruned, StoreError> {
        self.faults.given(retention.payload.max(retention.row).max(retention.dead.unwrap_or_default()));
        self.faults.call(Call::Prune, self.rows.prune(retention)).await
    }

    async fn wait(&self) {
        if self.hints {
            return;
        }
        let wait = async {
            self.rows.wait().await;
            Ok(())
        };
        if self.faults.call(Call::Wait, wait).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    fn admin(&self) -> Option<&dyn InboxAdmin> {
        Some(self)
    }
}

#[async_trait]
impl InboxAdmin for FaultyInbox {
    async fn list(
        &self,
        filter: &InboxFilter,
        from: InboxCursor,
        most: usize,
    ) -> Result<InboxList, StoreError> {
        let most = self.page.map_or(most, |page| page.min(most));
        self.faults.call(Call::List, self.rows.list(filter, from, most)).await
    }

    async fn get(&self, job: &JobId) -> Result<Option<(InboxRow, Option<Bytes>)>, StoreError> {
        self.rows.get(job).await
    }

    async fn replay(&self, job: &JobId) -> Result<bool, StoreError> {
        self.rows.replay(job).await
    }

    async fn discard(&self, job: &JobId) -> Result<bool, StoreError> {
        self.rows.discard(job).await
    }

    async fn replay_all(&self, filter: &InboxFilter, most: u64, bulk: Bulk) -> Result<Changed, StoreError> {
        self.rows.replay_all(filter, most, bulk).await
    }

    async fn discard_all(&self, filter: &InboxFilter, most: u64, bulk: Bulk) -> Result<Changed, StoreError> {
        self.rows.discard_all(filter, most, bulk).await
    }

    async fn stats(&self) -> Result<InboxStats, StoreError> {
        self.faults.call(Call::Stats, self.rows.stats()).await
    }

    async fn traffic(&self) -> Result<Vec<InboxTraffic>, StoreError> {
        self.rows.traffic().await
    }
}

/// All rows that a filter selects, the oldest first.
pub async fn all_rows(inbox: &dyn InboxAdmin, filter: &InboxFilter) -> Vec<InboxRow> {
    let (mut rows, mut from) = (Vec::new(), InboxCursor::Oldest);
    loop {
        let list = inbox.list(filter, from, 1000).await.unwrap();
        rows.extend(list.rows);
        let Some(next) = list.next else { return rows };
        from = next;
    }
}

/// Checks that an empty inbox says whether it counted all dead letters by their error.
pub async fn dead_letters_are_all_counted_or_there_are_more(inbox: &impl InboxAdmin) {
    for number in 0..3 {
        let job: JobId = format!("job-{number}").parse().unwrap();
        let event = Payload::extract_completed().job_id(job.to_string()).to_bytes();
        inbox.receive(&event.try_into().unwrap()).await.unwrap();
        let leased = inbox.lease(1, Duration::from_secs(60)).await.unwrap().remove(0);
        let outcome = if number == 2 { Outcome::Done } else { Outcome::Dead { error: "no".to_owned() } };
        let _ = inbox.settle(&leased.lease, &outcome).await.unwrap();
    }
    for (most, rows, more) in
        [(0, 0, true), (1, 1, true), (2, 2, false), (3, 2, false), (usize::MAX, 2, false)]
    {
        let counted = inbox.dead_by_error(most).await.unwrap();
        let errors = if rows == 0 { vec![] } else { vec![("no".to_owned(), rows)] };
        assert_eq!((counted.errors, counted.more), (errors, more), "{most}");
    }
}

/// Checks that an inbox with room for one unfinished row registers exactly those jobs whose row is counted.
pub async fn a_full_inbox_registers_what_it_counts(inbox: &impl InboxAdmin) {
    let (day, job) = (Duration::from_secs(24 * 60 * 60), |id: &str| id.parse::<JobId>().unwrap());
    let report = |id: &str| {
        let payload = Payload::extract_completed().job_id(id).set("/data/status", "processing");
        Envelope::try_from(payload.to_bytes()).unwrap()
    };
    let done = async || {
        let lease = inbox.lease(1, day).await.unwrap().remove(0).lease;
        assert_eq!(inbox.settle(&lease, &Outcome::Done).await.unwrap(), Fenced::Applied);
    };
    let state = async |id: &str| inbox.get(&job(id)).await.unwrap().unwrap().0.state;
    assert_eq!(inbox.receive(&report("waits")).await.unwrap(), Receipt::Stored);
    let new = inbox.expect(&job("new"), day).await;
    assert!(matches!(new, Err(StoreError::Full)), "a new job: {new:?}");
    inbox.expect(&job("waits"), day).await.unwrap();
    done().await;
    assert_eq!(state("waits").await, InboxState::Expected, "it was registered without its deadline");

    let last = Envelope::try_from(Payload::extract_completed().job_id("waits").to_bytes()).unwrap();
    let received = async |event: &Envelope| matches!(inbox.receive(event).await, Ok(Receipt::Stored));
    super::eventually("there is room", async || received(&last).await).await;
    done().await;
    super::eventually("there is room", async || received(&report("done")).await).await;
    done().await;
    super::eventually("there is room", async || received(&report("fills")).await).await;
    let again = inbox.expect(&job("done"), day).await;
    assert!(matches!(again, Err(StoreError::Full)), "a done job that would be expected again: {again:?}");
    assert_eq!(state("done").await, InboxState::Done);
    inbox.expect(&job("waits"), day).await.unwrap();
    done().await;
    super::eventually("there is room", async || inbox.expect(&job("done"), day).await.is_ok()).await;
    assert_eq!(state("done").await, InboxState::Expected);
}

/// The body of a webhook in other bytes with the same meaning.
pub fn other_bytes(payload: &Payload) -> Bytes {
    let mut bytes = payload.to_bytes().to_vec();
    bytes.push(b' ');
    bytes.into()
}

/// Checks that one call leases no more large bodies than it can transfer.
pub async fn a_lease_ends_with_the_row_with_which_its_bodies_have_64_mib(inbox: &impl InboxStore) {
    let hour = Duration::from_secs(60 * 60);
    for number in 0..3 {
        let note = "x".repeat(if number < 2 { 33 << 20 } else { 1 });
        let payload = Payload::extract_completed().job_id(format!("large-{number}")).set("/note", &*note);
        assert_eq!(
            inbox.receive(&Envelope::try_from(payload.to_bytes()).unwrap()).await.unwrap(),
            Receipt::Stored
        );
    }
    for expected in [&["large-0", "large-1"][..], &["large-2"], &[]] {
        let leased = inbox.lease(100, hour).await.unwrap();
        let jobs: Vec<_> = leased.iter().map(|leased| leased.lease.job().to_string()).collect();
        assert_eq!(jobs, expected);
    }
}
