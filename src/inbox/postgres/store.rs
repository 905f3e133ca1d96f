//! The calls of receivers and workers.

use std::time::Duration;

use async_trait::async_trait;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use tracing::warn;

use super::leasing::Due;
use super::settling::Settled;
use super::statements::Statements;
use super::text::Texts;
use super::{
    Inner, Parameter, PostgresInbox, capacity, head, leasing, limit, received, renewing, rows, settling, tell,
};
use crate::error::chain;
use crate::event::{Envelope, JobId};
use crate::inbox::{
    InboxAdmin, InboxStore, Lease, Leased, NoResult, Outcome, Overdue, Pruned, Receipt, Retention, is_enough,
};
use crate::postgres::{column, microseconds};
use crate::store::{Fenced, StoreError};

/// The most rows that one transaction prunes, replays or discards, and the approximate bytes of their bodies: the rows are
/// locked meanwhile.
pub(super) const PRUNE_ROWS: i64 = 1000;
pub(super) const PRUNE_BYTES: i64 = 64 << 20;

#[async_trait]
impl InboxStore for PostgresInbox {
    async fn receive(&self, event: &Envelope) -> Result<Receipt, StoreError> {
        received::receive(&self.inner, event).await
    }

    async fn lease(&self, most: usize, length: Duration) -> Result<Vec<Leased>, StoreError> {
        let (length, from) = (microseconds(length), self.inner.head.from());
        let others: [Parameter<'_>; 2] = [(&length, Type::INT8), (&from, Type::INT8)];
        self.inner.database.reserve().await?;
        let (mut rows, values) = leasing::rows(&self.inner, Due::Events, limit(most), &others).await?;
        if let Some(row) = rows.first() {
            self.inner.head.seen(from, row);
        }
        head::look_at_all(&self.inner);
        // Without a leased row, the only one tells about the look.
        rows.retain(leasing::is_leased);
        let leased = leasing::readable(&self.inner, Due::Events, &rows, values, rows::leased).await;
        // More rows may be due than the bodies leave room for.
        let is_cut = is_enough(leased.iter().map(|leased| leased.body.len()).sum());
        self.inner.arrivals.leased(if is_cut { most } else { rows.len() }, most);
        Ok(leased)
    }

    async fn begin(&self, lease: &Lease) -> Result<Fenced, StoreError> {
        let begun = self.written(&self.inner.statements.begin, lease, &[]).await?;
        Ok(if begun.is_none() { Fenced::Stale } else { Fenced::Applied })
    }

    async fn renew(&self, lease: &Lease, length: Duration) -> Result<Fenced, StoreError> {
        renewing::renew(&self.inner, lease, length).await
    }

    async fn verify(&self, lease: &Lease, event: &Envelope) -> Result<Fenced, StoreError> {
        let body: &[u8] = event.body();
        let verified = loop {
            let texts = self.inner.texts();
            let (job_type, status) =
                (texts.storable(event.job_type().as_str()), texts.storable(event.status().as_str()));
            let others: [Parameter<'_>; 3] =
                [(&job_type, Type::TEXT), (&status, Type::TEXT), (&body, Type::BYTEA)];
            match self.written(&self.inner.statements.verify, lease, &others).await {
                Err(error) if self.inner.must_escape(texts, &error) => {}
                verified => break verified?,
            }
        };
        let Some(row) = verified else { return Ok(Fenced::Stale) };
        if column(&row, "is_received")? {
            tell::arrived(&self.inner, 1);
        }
        Ok(Fenced::Applied)
    }

    async fn settle(&self, lease: &Lease, outcome: &Outcome) -> Result<Fenced, StoreError> {
        let may_be_due = may_be_due_at_once(outcome);
        let is_due = match settling::settle(&self.inner, lease, outcome).await? {
            Settled::Applied => may_be_due,
            Settled::Alone => match self.settle_alone(lease, outcome).await? {
                Some(row) => may_be_due && column(&row, "is_received")?,
                None => return Ok(Fenced::Stale),
            },
        };
        // Before the reply: a process that releases events may end after it.
        if is_due {
            tell::arrived_now(&self.inner).await;
        }
        Ok(Fenced::Applied)
    }

    async fn expect(&self, job: &JobId, deadline: Duration) -> Result<(), StoreError> {
        let (job, deadline) = (job.to_string(), microseconds(deadline));
        let expect = || async {
            let has_room = capacity::has_room_to_expect(&self.inner).await;
            let parameters: [Parameter<'_>; 3] =
                [(&job, Type::TEXT), (&deadline, Type::INT8), (&has_room, Type::BOOL)];
            let rows = self.query(&self.inner.statements.expect, &parameters).await?;
            column(rows.first().ok_or(StoreError::Full)?, "expected")
        };
        if capacity::refuse_by_a_new_count(&self.inner, expect).await? {
            self.inner.room.expected();
        }
        Ok(())
    }

    async fn overdue(&self, most: usize, length: Duration) -> Result<Vec<Overdue>, StoreError> {
        let others: [Parameter<'_>; 1] = [(&microseconds(length), Type::INT8)];
        self.inner.database.reserve().await?;
        let (rows, values) = leasing::rows(&self.inner, Due::OverdueJobs, limit(most), &others).await?;
        Ok(leasing::readable(&self.inner, Due::OverdueJobs, &rows, values, rows::overdue).await)
    }

    async fn contains(&self, job: &JobId) -> Result<bool, StoreError> {
        let found = self.query(&self.inner.statements.contains, &[(&job.to_string(), Type::TEXT)]).await?;
        Ok(!found.is_empty())
    }

    /// Prunes at most 1000 rows, 1000 dead letters and 1000 bodies, each with about 64 MiB.
    async fn prune(&self, retention: &Retention) -> Result<Pruned, StoreError> {
        let Statements { prune_rows, prune_dead, prune_payloads, prune_traffic, .. } = &self.inner.statements;
        let prune = async |statement, older: Duration| {
            let older = microseconds(older);
            let parameters: [Parameter<'_>; 3] =
                [(&older, Type::INT8), (&PRUNE_ROWS, Type::INT8), (&PRUNE_BYTES, Type::INT8)];
            self.query_seldom(statement, &parameters).await.map(|pruned| pruned.len() as u64)
        };
        let rows = prune(prune_rows, retention.row).await?;
        let dead = match retention.dead {
            Some(dead) => prune(prune_dead, dead).await?,
            None => 0,
        };
        let payloads = prune(prune_payloads, retention.payload).await?;
        // The rows matter more.
        if let Err(error) = self.query_seldom(prune_traffic, &[]).await {
            warn!(error = %chain(&error), "the counts by minute were not pruned; the next pruning tries again");
        }
        Ok(Pruned { payloads, rows, dead })
    }

    async fn wait(&self) {
        let Inner { connector, listener, payload, arrivals, .. } = &*self.inner;
        if let Some(connector) = connector {
            listener.start(connector, payload, arrivals);
        }
        arrivals.wait().await;
    }

    fn admin(&self) -> Option<&dyn InboxAdmin> {
        Some(self)
    }
}

impl PostgresInbox {
    /// Runs a statement of the holder of a lease, and returns its row, if there is one.
    async fn written(
        &self,
        statement: &str,
        lease: &Lease,
        others: &[Parameter<'_>],
    ) -> Result<Option<Row>, StoreError> {
        let Ok(fence) = i64::try_from(lease.fence()) else { return Ok(None) };
        let job = lease.job().to_string();
        let mut parameters: Vec<Parameter<'_>> = vec![(&job, Type::TEXT), (&fence, Type::INT8)];
        parameters.extend_from_slice(others);
        Ok(self.query_leased(statement, &parameters).await?.into_iter().next())
    }

    /// Ends a lease by a statement of its own, and returns a row unless the lease is stale.
    async fn settle_alone(&self, lease: &Lease, outcome: &Outcome) -> Result<Option<Row>, StoreError> {
        loop {
            let texts = self.inner.texts();
            match self.settle_with(texts, lease, outcome).await {
                Err(error) if self.inner.must_escape(texts, &error) => {}
                settled => return settled,
            }
        }
    }

    async fn settle_with(
        &self,
        texts: Texts,
        lease: &Lease,
        outcome: &Outcome,
    ) -> Result<Option<Row>, StoreError> {
        let Statements { done, retry, dead, rejected, release, pending, not_found, failed, .. } =
            &self.inner.statements;
        let took = microseconds(lease.held_for());
        match outcome {
            Outcome::Done => self.written(done, lease, &[]).await,
            Outcome::Retry { after, error } => {
                let (after, error) = (microseconds(*after), texts.storable(error));
                let failure: [Parameter<'_>; 3] =
                    [(&after, Type::INT8), (&error, Type::TEXT), (&took, Type::INT8)];
                self.written(retry, lease, &failure).await
            }
            Outcome::Dead { error } => {
                let failure: [Parameter<'_>; 2] = [(&texts.storable(error), Type::TEXT), (&took, Type::INT8)];
                self.written(dead, lease, &failure).await
            }
            Outcome::Release { after } => {
                self.written(release, lease, &[(&microseconds(*after), Type::INT8)]).await
            }
            Outcome::Rejected { error } => {
                let failure: [Parameter<'_>; 2] = [(&texts.storable(error), Type::TEXT), (&took, Type::INT8)];
                self.written(rejected, lease, &failure).await
            }
            Outcome::FetchAgain { after, answer } => {
                let after = microseconds(*after);
                let error = answer.error().map(|error| texts.storable(error));
                let parameters: [Parameter<'_>; 2] = [(&after, Type::INT8), (&error, Type::TEXT)];
                match answer {
                    NoResult::Pending => self.written(pending, lease, &parameters[..1]).await,
                    NoResult::NotFound => self.written(not_found, lease, &parameters).await,
                    NoResult::Failed { .. } => self.written(failed, lease, &parameters).await,
                }
            }
        }
    }
}

/// Whether the row may be received and due at once after a lease that ends with this outcome.
fn may_be_due_at_once(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Retry { after, .. } | Outcome::Release { after } => after.is_zero(),
        Outcome::FetchAgain { after, answer } => after.is_zero() && *answer != NoResult::Pending,
        Outcome::Done | Outcome::Dead { .. } | Outcome::Rejected { .. } => false,
    }
}
