//! The calls that write. Each finds rows, applies a transition, and stores the rows.

use std::time::Duration;

use ::rusqlite::Connection;
use bytes::Bytes;
use tracing::{error, warn};

use super::bodies::Bodies;
use super::rows::{self, Leasable, Lookup, StoredRow};
use super::{integer, now, reads, totals, traffic};
use crate::error::BoxError;
use crate::event::{Envelope, JobId};
use crate::inbox::limits::Limits;
use crate::inbox::look::Change;
use crate::inbox::row::{KeptEvent, Phase, Row};
use crate::inbox::timestamp::Timestamp;
use crate::inbox::totals::Totals;
use crate::inbox::traffic::Counts;
use crate::inbox::transition::{BodyChange, Remains};
use crate::inbox::{InboxFilter, Lease, Leased, Outcome, Overdue, Pruned, Receipt, Retention, read};
use crate::store::Fenced;

/// The most rows that one call prunes or leaves without a body, and the approximate bytes of the bodies that one
/// transaction frees: that takes time, and other writes wait.
const PRUNE_ROWS: usize = 1000;
pub(super) const PRUNE_BYTES: u64 = 64 << 20;

/// A transaction that writes.
pub(super) struct Transaction<'c> {
    sql: &'c Connection,
    limits: Limits,
    bodies: &'c Bodies,
    now: Timestamp,
    totals: Totals,
    totals_before: Totals,
    traffic: Counts,
    ended: Ended,
}

/// The results of a transaction beside those of its calls, for the time after its commit.
#[derive(Debug, Default)]
pub(super) struct Ended {
    /// The number of rows that became due.
    pub(super) arrived: usize,
    /// The unreadable rows that became dead, with the reason.
    unreadable: Vec<(i64, String)>,
    /// The rows whose bodies were left in the file, as they are damaged.
    left: Vec<i64>,
}

impl Ended {
    /// Logs what was committed: a transaction that is rolled back may be repeated.
    pub(super) fn log(&self) {
        for (id, reason) in &self.unreadable {
            error!(id, %reason, "a row in the inbox cannot be read; it is dead now");
        }
        if !self.left.is_empty() {
            let (bodies, ids) = (self.left.len(), &self.left);
            warn!(
                bodies,
                ?ids,
                "bodies on damaged pages, or beside them, cannot be deleted; their space is lost until a backup is restored"
            );
        }
    }
}

impl<'c> Transaction<'c> {
    /// Begins within a transaction of the connection that holds the write lock, so that the time is that of the write.
    pub(super) fn begin(sql: &'c Connection, limits: Limits, bodies: &'c Bodies) -> ::rusqlite::Result<Self> {
        let totals = totals::load(sql)?;
        let (traffic, ended) = (Counts::default(), Ended::default());
        Ok(Self { sql, limits, bodies, now: now(), totals, totals_before: totals, traffic, ended })
    }

    /// Writes the totals and the traffic.
    pub(super) fn end(self) -> ::rusqlite::Result<Ended> {
        totals::save(&self.totals, &self.totals_before, self.sql)?;
        traffic::save(self.traffic, self.now, self.sql)?;
        Ok(self.ended)
    }

    /// Whether the limits allow totals that a new event or job leads to. Totals that do not grow are always allowed.
    fn allows(&self, totals: &Totals) -> bool {
        let (before, after) = (self.totals.unfinished(), totals.unfinished());
        (after.rows <= before.rows || after.rows <= integer(self.limits.rows))
            && (after.bytes <= before.bytes || after.bytes <= integer(self.limits.bytes))
    }

    /// Inserts a row within the limits, unless the job has one. Most rows are new, so callers try this before they look
    /// for a row.
    fn insert(&mut self, job: &JobId, row: &Row, body: Option<&[u8]>) -> ::rusqlite::Result<bool> {
        let mut totals = self.totals;
        totals.add(row);
        if !self.allows(&totals) {
            return Ok(false);
        }
        let Some(id) = rows::insert(self.sql, job, row)? else { return Ok(false) };
        if let Some(body) = body {
            rows::store_body(self.sql, id, body)?;
        }
        self.totals = totals;
        self.traffic.add(Counts::of_new(row));
        self.ended.arrived += usize::from(row.has_become_due(None, self.now));
        Ok(true)
    }

    /// Stores a row after a transition.
    fn store(
        &mut self,
        before: &Row,
        after: &StoredRow,
        change: BodyChange,
        body: &[u8],
    ) -> ::rusqlite::Result<()> {
        match change {
            BodyChange::Keep if *before == after.row => return Ok(()),
            BodyChange::Keep => {}
            BodyChange::Replace => self.bodies.store(self.sql, after.id, body)?,
            BodyChange::Drop => self.delete_body(after.id)?,
        }
        rows::update(self.sql, after)?;
        self.totals.remove(before);
        self.totals.add(&after.row);
        self.traffic.add(Counts::of(before.phase, &after.row, change));
        self.ended.arrived += usize::from(after.row.has_become_due(Some(before.phase), self.now));
        Ok(())
    }

    /// Deletes the body of a row, or leaves it if it is damaged. No other row is given the number of the row, and the row
    /// itself gets another number before another body: see [`make_way`](Self::make_way).
    fn delete_body(&mut self, id: i64) -> ::rusqlite::Result<()> {
        if self.bodies.delete(self.sql, id)?.is_err() {
            self.ended.left.push(id);
        }
        Ok(())
    }

    /// Makes a row anew, with another number, if it is to get another body and SQLite cannot replace the damaged one.
    ///
    /// With the number, the fencing token grows. So this is not done under a lease that goes on.
    fn make_way(
        &mut self,
        job: &JobId,
        before: &Row,
        after: &mut StoredRow,
        change: BodyChange,
    ) -> ::rusqlite::Result<()> {
        let lease_goes_on =
            matches!(after.row.phase, Phase::Running { .. }) && after.row.fence == before.fence;
        if change != BodyChange::Replace || lease_goes_on || !self.bodies.is_damaged(after.id) {
            return Ok(());
        }
        self.delete_body(after.id)?;
        rows::delete(self.sql, after.id)?;
        after.id = rows::insert(self.sql, job, &after.row)?.ok_or(::rusqlite::Error::QueryReturnedNoRows)?;
        Ok(())
    }

    /// Applies a transition to the row of a lease. `body` is what [`BodyChange::Replace`] stores.
    fn write(
        &mut self,
        lease: &Lease,
        body: &[u8],
        transition: impl FnOnce(&mut Row, u64, Timestamp) -> (Fenced, BodyChange),
    ) -> ::rusqlite::Result<Fenced> {
        let Some(mut stored) = rows::find(self.sql, lease.job())? else { return Ok(Fenced::Stale) };
        let before = stored.row.clone();
        let (fenced, change) = transition(&mut stored.row, lease.fence(), self.now);
        self.make_way(lease.job(), &before, &mut stored, change)?;
        self.store(&before, &stored, change, body)?;
        Ok(fenced)
    }
}

impl Transaction<'_> {
    /// Stores an event; `None` at a limit.
    pub(super) fn receive(&mut self, event: &Envelope) -> ::rusqlite::Result<Option<Receipt>> {
        let (job, body) = (event.job(), event.body());
        if self.insert(job, &Row::received(KeptEvent::received(event), self.now), Some(body))? {
            return Ok(Some(Receipt::Stored));
        }
        let Some(mut stored) = rows::find(self.sql, job)? else { return Ok(None) };
        let before = stored.row.clone();
        // Only two final events can be in conflict. The body of another may be damaged, and one without its body may have
        // left a damaged one.
        let is_final = |event: &KeptEvent| event.status.is_final() && event.bytes.is_some();
        let event = KeptEvent::received(event);
        let differs = is_final(&event)
            && before.event.as_ref().is_some_and(is_final)
            && rows::differs(self.sql, stored.id, body)?;
        let (receipt, change) = stored.row.receive(event, differs, self.now);
        let stored = self.store_within_limits(job, &before, stored, change, body)?;
        Ok(stored.then_some(receipt))
    }

    /// Registers a job; `None` at a limit.
    pub(super) fn expect(&mut self, job: &JobId, deadline: Duration) -> ::rusqlite::Result<Option<()>> {
        if self.insert(job, &Row::expected(deadline, self.now), None)? {
            return Ok(Some(()));
        }
        let Some(mut stored) = rows::find(self.sql, job)? else { return Ok(None) };
        let before = stored.row.clone();
        let change = stored.row.expect(deadline, self.now);
        let stored = self.store_within_limits(job, &before, stored, change, &[])?;
        Ok(stored.then_some(()))
    }

    fn store_within_limits(
        &mut self,
        job: &JobId,
        before: &Row,
        mut after: StoredRow,
        change: BodyChange,
        body: &[u8],
    ) -> ::rusqlite::Result<bool> {
        let mut totals = self.totals;
        totals.remove(before);
        totals.add(&after.row);
        let is_allowed = self.allows(&totals);
        if is_allowed {
            self.make_way(job, before, &mut after, change)?;
            self.store(before, &after, change, body)?;
        }
        Ok(is_allowed)
    }

    pub(super) fn lease(&mut self, most: usize, length: Duration) -> ::rusqlite::Result<Vec<Leased>> {
        let now = self.now;
        self.lease_each(rows::LEASABLE, most, |row, job, body| {
            row.lease(job, body.ok_or(read::NO_BODY)?, length, now).ok_or_else(|| read::NO_EVENT.into())
        })
    }

    pub(super) fn overdue(&mut self, most: usize, length: Duration) -> ::rusqlite::Result<Vec<Overdue>> {
        let now = self.now;
        self.lease_each(rows::OVERDUE_JOBS, most, |row, job, _| {
            row.overdue(job, length, now).ok_or_else(|| read::NO_EVENT.into())
        })
    }

    /// Leases the rows that a lookup finds. An unreadable row becomes dead: otherwise every later call would find it
    /// again.
    fn lease_each<T>(
        &mut self,
        lookup: Lookup,
        most: usize,
        lease: impl Fn(&mut Row, JobId, Option<Bytes>) -> Result<T, BoxError>,
    ) -> ::rusqlite::Result<Vec<T>> {
        let now = self.now;
        let due = lookup.find(self.sql, now, most, self.bodies)?;
        let mut leased = Vec::with_capacity(due.len());
        for Leasable { mut stored, job, body } in due {
            // A damaged body is one, too: it may be restored.
            let (before, has_body) = (stored.row.clone(), !matches!(body, Ok(None)));
            let change = match job.and_then(|job| lease(&mut stored.row, job, body?)) {
                Ok(lease) => {
                    leased.push(lease);
                    BodyChange::Keep
                }
                Err(unreadable) => {
                    let reason = read::reason(&*unreadable);
                    let change = stored.row.set_aside(&reason, has_body, now);
                    self.ended.unreadable.push((stored.id, reason));
                    change
                }
            };
            self.store(&before, &stored, change, &[])?;
        }
        Ok(leased)
    }

    pub(super) fn note_begun(&mut self, lease: &Lease) -> ::rusqlite::Result<Fenced> {
        self.write(lease, &[], |row, fence, _| (row.begin(fence), BodyChange::Keep))
    }

    pub(super) fn renew(&mut self, lease: &Lease, length: Duration) -> ::rusqlite::Result<Fenced> {
        self.write(lease, &[], |row, fence, now| (row.renew(fence, length, now), BodyChange::Keep))
    }

    pub(super) fn verify(&mut self, lease: &Lease, event: &Envelope) -> ::rusqlite::Result<Fenced> {
        self.write(lease, event.body(), |row, fence, now| row.verify(fence, KeptEvent::fetched(event), now))
    }

    pub(super) fn settle(&mut self, lease: &Lease, outcome: &Outcome) -> ::rusqlite::Result<Fenced> {
        self.write(lease, &[], |row, _, now| row.settle(lease, outcome, now))
    }

    pub(super) fn replay(&mut self, job: &JobId) -> ::rusqlite::Result<bool> {
        self.change(rows::find(self.sql, job)?, Change::Replay)
    }

    pub(super) fn discard(&mut self, job: &JobId) -> ::rusqlite::Result<bool> {
        self.change(rows::find(self.sql, job)?, Change::Discard)
    }

    /// Changes those of these rows that match and can be changed, in order, until their bodies have `most_bytes`. Returns
    /// the number of changed rows, and the number of rows that it has come to.
    pub(super) fn change_each(
        &mut self,
        ids: &[i64],
        filter: &InboxFilter,
        change: Change,
        most_bytes: u64,
    ) -> ::rusqlite::Result<(u64, usize)> {
        let (mut found, mut bytes, mut seen) = (Vec::new(), 0, 0);
        for id in ids {
            if bytes >= most_bytes || self.bodies.end_before(*id) {
                break;
            }
            seen += 1;
            // It was found before this transaction.
            if !reads::numbered(self.sql, *id, self.now)?.is_some_and(|row| filter.matches(&row)) {
                continue;
            }
            if let Some(stored) = rows::find_numbered(self.sql, *id)? {
                bytes += stored.row.bytes();
                found.push(stored);
            }
        }
        if change == Change::Discard {
            self.bodies.examine(self.sql, found.iter().map(|stored| stored.id))?;
        }
        let mut changed = 0;
        for stored in found {
            changed += u64::from(self.change(Some(stored), change)?);
        }
        Ok((changed, seen))
    }

    fn change(&mut self, stored: Option<StoredRow>, change: Change) -> ::rusqlite::Result<bool> {
        let Some(mut stored) = stored else { return Ok(false) };
        let before = stored.row.clone();
        match change {
            Change::Replay => {
                let replayed = stored.row.replay(self.now);
                self.store(&before, &stored, BodyChange::Keep, &[])?;
                Ok(replayed)
            }
            Change::Discard if before.can_be_discarded() => {
                self.delete(stored.id, &before)?;
                Ok(true)
            }
            Change::Discard => Ok(false),
        }
    }

    fn delete(&mut self, id: i64, row: &Row) -> ::rusqlite::Result<()> {
        self.delete_body(id)?;
        rows::delete(self.sql, id)?;
        self.totals.remove(row);
        Ok(())
    }

    pub(super) fn prune(&mut self, retention: &Retention) -> ::rusqlite::Result<Pruned> {
        traffic::prune(self.now, self.sql)?;
        let (mut pruned, mut changed, mut freed) = (Pruned::default(), 0, 0);
        for (statement, kept) in [
            (rows::OLD_ROWS, Some(retention.row)),
            (rows::OLD_DEAD, retention.dead),
            (rows::OLD_BODIES, Some(retention.payload)),
        ] {
            let Some(kept) = kept else { continue };
            let (most, most_bytes) = (PRUNE_ROWS - changed, PRUNE_BYTES.saturating_sub(freed));
            let old = rows::old(self.sql, statement, self.now.before(kept), most, most_bytes)?;
            self.bodies.examine(self.sql, old.iter().map(|stored| stored.id))?;
            for mut stored in old {
                if self.bodies.end_before(stored.id) {
                    return Ok(pruned);
                }
                changed += 1;
                freed += stored.row.bytes();
                let before = stored.row.clone();
                match stored.row.prune(retention, self.now) {
                    Remains::Everything => {}
                    Remains::WithoutBody => {
                        self.store(&before, &stored, BodyChange::Drop, &[])?;
                        pruned.payloads += 1;
                    }
                    Remains::Nothing => {
                        self.delete(stored.id, &before)?;
                        *if before.can_be_discarded() { &mut pruned.dead } else { &mut pruned.rows } += 1;
                    }
                }
            }
        }
        Ok(pruned)
    }
}
