//! The calls of administration.

use async_trait::async_trait;
use bytes::Bytes;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::leasing::{NotReturned, may_be_caused_by_a_row};
use super::rows::{self, duration};
use super::statements::{Statements, Values, search};
use super::store::{PRUNE_BYTES, PRUNE_ROWS};
use super::{Parameter, PostgresInbox, limit, tell};
use crate::event::JobId;
use crate::inbox::filter::Prefix;
use crate::inbox::look::{Change, Look};
use crate::inbox::{
    Bulk, Changed, DeadByError, InboxAdmin, InboxCursor, InboxFilter, InboxList, InboxRow, InboxState,
    InboxStats, InboxTraffic, read,
};
use crate::postgres::{column, microseconds};
use crate::store::StoreError;

impl PostgresInbox {
    /// Runs a statement of [`search`]. One that makes a change is not repeated when its reply is lost.
    async fn search(
        &self,
        statement: &str,
        filter: &InboxFilter,
        from: InboxCursor,
        look: Look,
        most: i64,
        is_change: bool,
    ) -> Result<Vec<Row>, StoreError> {
        let (from, look, state) = (from.bound(), limit(look.most()), filter.state.map(InboxState::as_str));
        let [older, newer] = [filter.older_than, filter.newer_than].map(|age| age.map(microseconds));
        let prefix = filter.job_prefix.as_deref().and_then(Prefix::new);
        let (first, end) = prefix.map(|prefix| (prefix.first, prefix.end)).unzip();
        loop {
            let texts = self.inner.texts();
            let [job_type, status, error] = [&filter.job_type, &filter.status, &filter.error]
                .map(|text| text.as_deref().map(|text| texts.storable(text)));
            let parameters: [Parameter<'_>; 12] = [
                (&from, Type::INT8),
                (&state, Type::TEXT),
                (&job_type, Type::TEXT),
                (&status, Type::TEXT),
                (&error, Type::TEXT),
                (&older, Type::INT8),
                (&newer, Type::INT8),
                (&first, Type::TEXT),
                (&end, Type::TEXT),
                (&look, Type::INT8),
                (&most, Type::INT8),
                (&PRUNE_BYTES, Type::INT8),
            ];
            let rows = match is_change {
                false => self.query_seldom(statement, &parameters).await,
                true => self.query_once(statement, &parameters).await,
            };
            match rows {
                Err(error) if self.inner.must_escape(texts, &error) => {}
                rows => return rows,
            }
        }
    }

    /// Lists rows by a look; `None` if it finds too many to sort.
    async fn list_by(
        &self,
        look: Look,
        filter: &InboxFilter,
        from: InboxCursor,
        most: usize,
    ) -> Result<Option<InboxList>, StoreError> {
        let table = self.inner.database.schema().table();
        let one_more = limit(most).saturating_add(1);
        let list = async |values| {
            self.search(&search::list(table, look, from, values), filter, from, look, one_more, false).await
        };
        let (found, values) = match list(Values::Returned).await {
            Err(StoreError::Unavailable(cause)) if may_be_caused_by_a_row(&*cause) => {
                (list(Values::Left).await?, Values::Left)
            }
            found => (found?, Values::Returned),
        };
        let Some(first) = found.first() else { return Ok(Some(InboxList::default())) };
        if column::<i64>(first, "looked")? > limit(look.most()) {
            return Ok(None);
        }
        let looked_to: Option<i64> = column(first, "looked_to")?;
        let mut rows = Vec::new();
        for row in &found {
            if column::<Option<i64>>(row, "number")?.is_some() {
                rows.push(match values {
                    Values::Returned => rows::view(row)?,
                    Values::Left => self.view_alone(row).await?,
                });
            }
        }
        let last = if rows.len() > most {
            rows.truncate(most);
            Some(rows.last().map_or(from, |last| from.past(last.number)))
        } else {
            looked_to.map(|number| from.past(u64::try_from(number).unwrap_or(0)))
        };
        Ok(Some(InboxList::new(rows, last)))
    }

    /// Reads the texts of one row of a list. If the server cannot return them, the row's error says so.
    async fn view_alone(&self, row: &Row) -> Result<InboxRow, StoreError> {
        let Statements { listed, job, .. } = &self.inner.statements;
        let number: i64 = column(row, "number")?;
        let look_up = async |statement| self.query_seldom(statement, &[(&number, Type::INT8)]).await;
        match look_up(listed).await {
            Err(StoreError::Unavailable(cause)) if may_be_caused_by_a_row(&*cause) => {
                let mut view = rows::view(row)?;
                view.error = Some(read::reason(&NotReturned(cause)));
                if let Some(found) = look_up(job).await.ok().and_then(|found| found.into_iter().next()) {
                    view.job_id = rows::text(&found, "job_id")?.unwrap_or_default();
                }
                Ok(view)
            }
            found => rows::view(found?.first().unwrap_or(row)),
        }
    }

    /// Changes the rows that match, step by step, or counts them: by the first look that does not find too many.
    async fn change_all(
        &self,
        filter: &InboxFilter,
        most: u64,
        bulk: Bulk,
        change: Change,
    ) -> Result<Changed, StoreError> {
        let (mut changed, mut from, mut skipped) = (0, InboxCursor::Oldest, false);
        'looks: for look in Look::of(filter, from, Some(change)) {
            loop {
                let left = most - changed;
                let is_counted = bulk == Bulk::DryRun || left == 0;
                let step = self.step(look, filter, from, left, change, is_counted).await?;
                if look.is_sorted() && step.looked > look.most() as u64 {
                    continue 'looks;
                }
                let looked_all = look.is_sorted() || step.looked < look.most() as u64;
                if is_counted {
                    let more = skipped || step.fitting > left || !looked_all;
                    return Ok(Changed::new(changed + step.fitting.min(left), more));
                }
                changed += step.changed;
                skipped |= step.changed < step.chosen;
                from = match step.chosen_to.filter(|_| step.fitting > step.chosen) {
                    Some(number) => from.past(number),
                    None if looked_all => return Ok(Changed::new(changed, skipped)),
                    None => step.looked_to.map_or(from, |number| from.past(number)),
                };
            }
        }
        Ok(Changed::default())
    }

    /// Changes some rows, or counts them.
    async fn step(
        &self,
        look: Look,
        filter: &InboxFilter,
        from: InboxCursor,
        most: u64,
        change: Change,
        is_counted: bool,
    ) -> Result<Step, StoreError> {
        let table = self.inner.database.schema().table();
        let statement = match is_counted {
            true => search::count(table, look, change),
            false => search::change(table, look, change),
        };
        let most = i64::try_from(most).map_or(PRUNE_ROWS, |most| most.min(PRUNE_ROWS));
        let rows = self.search(&statement, filter, from, look, most, !is_counted).await?;
        let row = rows.first().ok_or_else(|| StoreError::unavailable("the database returned no counts"))?;
        let number = |name| Ok::<_, StoreError>(column::<Option<i64>>(row, name)?.map(i64::unsigned_abs));
        let count = |name| Ok::<_, StoreError>(number(name)?.unwrap_or(0));
        let mut step = Step {
            looked: count("looked")?,
            looked_to: number("looked_to")?,
            fitting: count("fitting")?,
            ..Step::default()
        };
        if !is_counted {
            (step.chosen, step.chosen_to) = (count("chosen")?, number("chosen_to")?);
            step.changed = count("changed")?;
        }
        if change == Change::Replay {
            tell::arrived(&self.inner, usize::try_from(step.changed).unwrap_or(0));
        }
        Ok(step)
    }
}

/// The counts that a statement of [`search`] returns: see there.
#[derive(Debug, Default)]
struct Step {
    looked: u64,
    looked_to: Option<u64>,
    fitting: u64,
    chosen: u64,
    chosen_to: Option<u64>,
    changed: u64,
}

#[async_trait]
impl InboxAdmin for PostgresInbox {
    async fn list(
        &self,
        filter: &InboxFilter,
        from: InboxCursor,
        most: usize,
    ) -> Result<InboxList, StoreError> {
        for look in Look::of(filter, from, None) {
            if let Some(list) = self.list_by(look, filter, from, most).await? {
                return Ok(list);
            }
        }
        Ok(InboxList::default())
    }

    async fn get(&self, job: &JobId) -> Result<Option<(InboxRow, Option<Bytes>)>, StoreError> {
        let rows = self.query_seldom(&self.inner.statements.get, &[(&job.to_string(), Type::TEXT)]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let body: Option<&[u8]> = column(row, "body")?;
        Ok(Some((rows::view(row)?, body.map(Bytes::copy_from_slice))))
    }

    async fn replay(&self, job: &JobId) -> Result<bool, StoreError> {
        let replayed =
            self.query_once(&self.inner.statements.replay, &[(&job.to_string(), Type::TEXT)]).await?;
        if !replayed.is_empty() {
            tell::arrived_now(&self.inner).await;
        }
        Ok(!replayed.is_empty())
    }

    async fn discard(&self, job: &JobId) -> Result<bool, StoreError> {
        let discarded =
            self.query_once(&self.inner.statements.discard, &[(&job.to_string(), Type::TEXT)]).await?;
        Ok(!discarded.is_empty())
    }

    async fn replay_all(&self, filter: &InboxFilter, most: u64, bulk: Bulk) -> Result<Changed, StoreError> {
        let replayed = self.change_all(filter, most, bulk, Change::Replay).await?;
        if bulk == Bulk::Apply && replayed.rows > 0 {
            tell::arrived_now(&self.inner).await;
        }
        Ok(replayed)
    }

    async fn discard_all(&self, filter: &InboxFilter, most: u64, bulk: Bulk) -> Result<Changed, StoreError> {
        self.change_all(filter, most, bulk, Change::Discard).await
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

    async fn traffic(&self) -> Result<Vec<InboxTraffic>, StoreError> {
        let rows = self.query_seldom(&self.inner.statements.traffic, &[]).await?;
        let minutes = rows.iter().map(|row| {
            let count = |name| column(row, name).map(|count: i64| u64::try_from(count).unwrap_or(0));
            let minutes_ago = column::<i32>(row, "minutes_ago")?.unsigned_abs();
            Ok(InboxTraffic { minutes_ago, received: count("received")?, handled: count("handled")? })
        });
        minutes.collect()
    }

    async fn dead_by_error(&self, most: usize) -> Result<DeadByError, StoreError> {
        let one_more = limit(most).saturating_add(1);
        let rows = self.query_seldom(&self.inner.statements.dead_errors, &[(&one_more, Type::INT8)]).await?;
        let errors = rows.iter().take(most).map(|row| Ok(rows::text(row, "error")?.unwrap_or_default()));
        Ok(DeadByError::new(errors.collect::<Result<Vec<_>, StoreError>>()?, rows.len() > most))
    }
}
