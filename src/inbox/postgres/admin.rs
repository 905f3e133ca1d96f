//! The calls of administration.

use async_trait::async_trait;
use bytes::Bytes;
use tokio_postgres::types::Type;

use super::rows::{self, duration};
use super::statements::Statements;
use super::{Parameter, PostgresInbox, limit, tell};
use crate::event::JobId;
use crate::inbox::{InboxAdmin, InboxFilter, InboxRow, InboxState, InboxStats};
use crate::postgres::column;
use crate::store::StoreError;

#[async_trait]
impl InboxAdmin for PostgresInbox {
    async fn list(
        &self,
        filter: &InboxFilter,
        after: Option<u64>,
        most: usize,
    ) -> Result<Vec<InboxRow>, StoreError> {
        let after = after.map_or(-1, |after| i64::try_from(after).unwrap_or(i64::MAX));
        let (state, most) = (filter.state.map(InboxState::as_str), limit(most));
        let Statements { list, list_unfinished, list_expected, .. } = &self.inner.statements;
        let list = match filter.state {
            Some(InboxState::Received | InboxState::Running) => list_unfinished,
            Some(InboxState::Expected) => list_expected,
            Some(InboxState::Done | InboxState::Dead) | None => list,
        };
        let rows = loop {
            let texts = self.inner.texts();
            let [job_type, status] = [&filter.job_type, &filter.status]
                .map(|text| text.as_deref().map(|text| texts.storable(text)));
            let parameters: [Parameter<'_>; 5] = [
                (&after, Type::INT8),
                (&state, Type::TEXT),
                (&job_type, Type::TEXT),
                (&status, Type::TEXT),
                (&most, Type::INT8),
            ];
            match self.query_seldom(list, &parameters).await {
                Err(error) if self.inner.must_escape(texts, &error) => {}
                rows => break rows?,
            }
        };
        rows.iter().map(rows::view).collect()
    }

    async fn get(&self, job: &JobId) -> Result<Option<(InboxRow, Option<Bytes>)>, StoreError> {
        let rows = self.query_seldom(&self.inner.statements.get, &[(&job.to_string(), Type::TEXT)]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let body: Option<&[u8]> = column(row, "body")?;
        Ok(Some((rows::view(row)?, body.map(Bytes::copy_from_slice))))
    }

    async fn replay(&self, job: &JobId) -> Result<bool, StoreError> {
        let replayed =
            self.query_seldom(&self.inner.statements.replay, &[(&job.to_string(), Type::TEXT)]).await?;
        if !replayed.is_empty() {
            tell::arrived_now(&self.inner).await;
        }
        Ok(!replayed.is_empty())
    }

    async fn stats(&self) -> Result<InboxStats, StoreError> {
        let rows = self.query_seldom(&self.inner.statements.stats, &[]).await?;
        let Some(row) = rows.first() else { return Ok(InboxStats::default()) };
        let count = |name| column(row, name).map(i64::unsigned_abs);
        let time = |name| column::<Option<i64>>(row, name).map(|time| time.map(duration));
        let mut stats = InboxStats {
            expected: count("expected")?,
            received: count("received")?,
            running: count("running")?,
            done: count("done")?,
            dead: count("dead")?,
            bytes: count("bytes")?,
            unfinished_bytes: count("unfinished_bytes")?,
            oldest_due: time("oldest_due")?,
            oldest_overdue: time("oldest_overdue")?,
            ..InboxStats::default()
        };
        self.inner.room.limits().note(&mut stats);
        Ok(stats)
    }
}
