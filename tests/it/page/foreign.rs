//! An inbox that holds what it should not, and fails when it should not.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use qomplement_webhooks::event::Envelope;
use qomplement_webhooks::inbox::{
    Bulk, Changed, FailedAttempt, InboxAdmin, InboxCursor, InboxFilter, InboxList, InboxRow, InboxState,
    InboxStats, InboxTraffic, Lease, Leased, Outcome, Overdue, Pruned, Receipt, Retention,
};
use qomplement_webhooks::store::{Fenced, StoreError};
use qomplement_webhooks::{InboxStore, JobId, async_trait};

/// An inbox all of whose texts are one: as if another program had written its table.
#[derive(Clone)]
pub struct Foreign {
    pub text: String,
    /// Whether the text is the id, too.
    pub ids: bool,
    /// Whether the row has a body.
    pub body: bool,
    pub state: InboxState,
    pub fault: Option<Fault>,
}

/// What a call does instead of an answer.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    Error,
    Hang,
    Panic,
}

impl fmt::Debug for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Foreign")
    }
}

impl Foreign {
    pub fn new(text: &str, state: InboxState) -> Self {
        Self { text: text.to_owned(), ids: false, body: true, state, fault: None }
    }

    async fn answer<T>(&self, answer: T) -> Result<T, StoreError> {
        match self.fault {
            None => Ok(answer),
            Some(Fault::Error) => Err(StoreError::unavailable("s3cr3t")),
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Panic) => panic!("s3cr3t"),
        }
    }

    fn row(&self) -> InboxRow {
        let id = if self.ids { self.text.clone() } else { "job-7".to_owned() };
        let mut row = InboxRow::new(1, id, self.state, Duration::from_secs(60));
        row.job_type = Some(self.text.clone());
        row.status = Some(self.text.clone());
        row.error = Some(self.text.clone());
        let took = Some(Duration::from_millis(1500));
        row.failures = vec![FailedAttempt::new(1, Duration::from_secs(9), took, self.text.clone())];
        row.due_in = (self.state == InboxState::Received).then_some(Duration::from_secs(5));
        row
    }
}

#[async_trait]
impl InboxStore for Foreign {
    async fn receive(&self, _: &Envelope) -> Result<Receipt, StoreError> {
        unreachable!()
    }
    async fn lease(&self, _: usize, _: Duration) -> Result<Vec<Leased>, StoreError> {
        unreachable!()
    }
    async fn begin(&self, _: &Lease) -> Result<Fenced, StoreError> {
        unreachable!()
    }
    async fn renew(&self, _: &Lease, _: Duration) -> Result<Fenced, StoreError> {
        unreachable!()
    }
    async fn verify(&self, _: &Lease, _: &Envelope) -> Result<Fenced, StoreError> {
        unreachable!()
    }
    async fn settle(&self, _: &Lease, _: &Outcome) -> Result<Fenced, StoreError> {
        unreachable!()
    }
    async fn expect(&self, _: &JobId, _: Duration) -> Result<(), StoreError> {
        unreachable!()
    }
    async fn overdue(&self, _: usize, _: Duration) -> Result<Vec<Overdue>, StoreError> {
        unreachable!()
    }
    async fn contains(&self, _: &JobId) -> Result<bool, StoreError> {
        unreachable!()
    }
    async fn prune(&self, _: &Retention) -> Result<Pruned, StoreError> {
        unreachable!()
    }
}

#[async_trait]
impl InboxAdmin for Foreign {
    async fn list(&self, _: &InboxFilter, _: InboxCursor, _: usize) -> Result<InboxList, StoreError> {
        self.answer(InboxList::new(vec![self.row()], None)).await
    }
    async fn get(&self, _: &JobId) -> Result<Option<(InboxRow, Option<Bytes>)>, StoreError> {
        let body = self.body.then(|| Bytes::copy_from_slice(self.text.as_bytes()));
        self.answer(Some((self.row(), body))).await
    }
    async fn replay(&self, _: &JobId) -> Result<bool, StoreError> {
        self.answer(true).await
    }
    async fn discard(&self, _: &JobId) -> Result<bool, StoreError> {
        self.answer(true).await
    }
    async fn replay_all(&self, _: &InboxFilter, _: u64, _: Bulk) -> Result<Changed, StoreError> {
        self.answer(Changed::new(1, true)).await
    }
    async fn discard_all(&self, _: &InboxFilter, _: u64, _: Bulk) -> Result<Changed, StoreError> {
        self.answer(Changed::new(1, true)).await
    }
    async fn stats(&self) -> Result<InboxStats, StoreError> {
        self.answer(InboxStats::default()).await
    }
    async fn traffic(&self) -> Result<Vec<InboxTraffic>, StoreError> {
        self.answer(vec![InboxTraffic::new(u32::MAX, u64::MAX, u64::MAX)]).await
    }
}
