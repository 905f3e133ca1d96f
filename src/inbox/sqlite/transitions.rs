//! The transitions of a row: what the state machine in `row.rs` does, in SQL.

use std::time::Duration;

use ::rusqlite::types::FromSqlError;
use ::rusqlite::{Connection, OptionalExtension, Params, Row, params};
use bytes::Bytes;
use tracing::error;

use super::reads::{count, text};
use super::totals::{Totals, state};
use super::{Limits, between, integer, microseconds, now};
use crate::error::BoxError;
use crate::event::{Envelope, JobId, JobStatus};
use crate::inbox::text::storable;
use crate::inbox::{
    Asked, InboxState, Lease, Leased, Outcome, Overdue, Pruned, Receipt, Retention, Unfinished, read,
};
use crate::store::Fenced;

/// The state in a column of a row that is to be changed.
fn known_state(row: &Row<'_>, column: usize) -> ::rusqlite::Result<InboxState> {
    let name = row.get_ref(column)?;
    state(&name).ok_or_else(|| {
        let unknown: BoxError = "no version of this crate knows the row's state".into();
        FromSqlError::Other(unknown).into()
    })
}

/// The most rows that one call prunes, and the most bytes of bodies, about: to free them takes time, and writes
/// wait meanwhile.
const PRUNE_ROWS: i64 = 1000;
const PRUNE_BYTES: i64 = 64 << 20;

/// A transaction that writes.
pub(super) struct Transaction<'c> {
    sql: &'c Connection,
    limits: Limits,
    now: i64,
    totals: Totals,
    totals_before: Totals,
    /// How many rows have become due.
    arrived: usize,
}

/// A row that may be leased.
///
/// The statements are bounded, too: a number that somebody set to the greatest there is must not make one fail that
/// others are committed with.
struct Found {
    id: i64,
    state: InboxState,
    bytes: i64,
}

/// Why it cannot be.
type Unreadable = BoxError;

impl Found {
    /// The lease that it is about to get.
    fn lease(&self, row: &Row<'_>) -> Result<Lease, Unreadable> {
        let (job, sequence) = (row.get_ref(1)?.as_str()?, row.get::<_, i64>(2)?);
        Ok(Lease::new(read::job(job)?, read::sequence(sequence.saturating_add(1))?))
    }
}

/// What is known of the row of an event that arrives.
struct Kept {
    id: i64,
    state: InboxState,
    status: Option<JobStatus>,
    bytes: Option<i64>,
    differs: bool,
    has_deadline: bool,
}

impl<'c> Transaction<'c> {
    /// Begins with a transaction of the connection's that holds the lock, so that the time is that of the
    /// write.
    pub(super) fn begin(sql: &'c Connection, limits: Limits) -> ::rusqlite::Result<Self> {
        let totals = Totals::load(sql)?;
        Ok(Self { sql, limits, now: now(), totals, totals_before: totals, arrived: 0 })
    }

    /// Writes what the transitions add up to, and returns how many rows they have made due.
    pub(super) fn end(self) -> ::rusqlite::Result<usize> {
        self.totals.save(&self.totals_before, self.sql)?;
        Ok(self.arrived)
    }

    fn execute(&self, statement: &str, parameters: impl Params) -> ::rusqlite::Result<usize> {
        self.sql.prepare_cached(statement)?.execute(parameters)
    }

    fn after(&self, duration: Duration) -> i64 {
        self.now.saturating_add(microseconds(duration))
    }

    /// Whether the limits allow that many more unfinished rows and bytes.
    fn has_room(&self, rows: i64, bytes: i64) -> bool {
        let unfinished = self.totals.unfinished();
        (rows <= 0 || unfinished.rows.saturating_add(rows) <= self.limits.rows)
            && (bytes <= 0 || unfinished.bytes.saturating_add(bytes) <= self.limits.bytes)
    }
}

const RECEIVE: &str = "INSERT INTO inbox (job_id, state, due_at, job_type, status, bytes, received_at)
    VALUES (?1, 'received', ?5, ?2, ?3, ?4, ?5)
    ON CONFLICT (job_id) DO NOTHING";
const STORE_BODY: &str = "INSERT INTO inbox_body (id, body) VALUES (?1, ?2)";
const FIND: &str = "SELECT id, state, status, bytes, body IS NOT NULL AND body <> ?2, deadline_at IS NOT NULL
    FROM inbox LEFT JOIN inbox_body USING (id) WHERE job_id = ?1";
/// Who runs the old event, or asks for one, must not settle the new one; and the two must not run at once.
const TAKE: &str = "UPDATE inbox SET
        state = CASE state WHEN 'running' THEN 'running' ELSE 'received' END,
        due_at = CASE state WHEN 'running' THEN due_at ELSE ?5 END,
        sequence = min(sequence, 9223372036854775806) + (state IN ('expected', 'running')),
        asked = CASE WHEN state IN ('done', 'dead') THEN 0 ELSE asked END,
        not_found = CASE WHEN state IN ('done', 'dead') THEN 0 ELSE not_found END,
        ask_at = CASE WHEN state IN ('done', 'dead') THEN NULL ELSE ask_at END,
        unanswered_since = NULL,
        deadline_at = CASE WHEN state NOT IN ('done', 'dead') THEN deadline_at
            WHEN status IS NULL AND NOT ?6 THEN ?5 END,
        job_type = ?2, status = ?3, bytes = ?4, verified = 0, received_at = ?5, done_at = NULL,
        attempts = 0, earlier_attempts = 0, error = NULL
    WHERE id = ?1";
const REPLACE_BODY: &str = "INSERT INTO inbox_body (id, body) VALUES (?1, ?2)
    ON CONFLICT (id) DO UPDATE SET body = excluded.body";

impl Transaction<'_> {
    /// Stores an event; `None` when a limit is reached.
    pub(super) fn receive(&mut self, event: &Envelope) -> ::rusqlite::Result<Option<Receipt>> {
        let job = event.job().to_string();
        let (job_type, status) = (storable(event.job_type().as_str()), storable(event.status().as_str()));
        let (body, bytes) = (event.body().as_ref(), integer(event.body().len()));
        // Nearly every event is its job's first, so that is tried before anything is looked up.
        if self.has_room(1, bytes)
            && self.execute(RECEIVE, params![job, job_type, status, bytes, self.now])? == 1
        {
            self.execute(STORE_BODY, params![self.sql.last_insert_rowid(), body])?;
            self.totals.add(InboxState::Received, bytes);
            self.arrived += 1;
            return Ok(Some(Receipt::Stored));
        }
        let Some(kept) = self.find(&job, body)? else { return Ok(None) };
        let is_final = event.status().is_final();
        if kept.status.is_some_and(|status| status.is_final() || !is_final) {
            // Two reports of a job that has not ended may well differ.
            let conflicts = kept.differs && is_final;
            return Ok(Some(if conflicts { Receipt::Conflict } else { Receipt::Duplicate }));
        }
        let kept_bytes = kept.bytes.unwrap_or(0);
        let has_room = match kept.state {
            InboxState::Done | InboxState::Dead => self.has_room(1, bytes),
            _ => self.has_room(0, bytes - kept_bytes),
        };
        if !has_room {
            return Ok(None);
        }
        let state = match kept.state {
            InboxState::Running => InboxState::Running,
            _ => InboxState::Received,
        };
        self.execute(TAKE, params![kept.id, job_type, status, bytes, self.now, is_final])?;
        self.execute(REPLACE_BODY, params![kept.id, body])?;
        self.totals.remove(kept.state, kept_bytes);
        self.totals.add(state, bytes);
        self.arrived += 1;
        Ok(Some(Receipt::Stored))
    }

    fn find(&self, job: &str, body: &[u8]) -> ::rusqlite::Result<Option<Kept>> {
        let mut statement = self.sql.prepare_cached(FIND)?;
        let kept = statement.query_row(params![job, body], |row| {
            Ok(Kept {
                id: row.get(0)?,
                state: known_state(row, 1)?,
                status: text(row, 2)?.map(|status| JobStatus::from(&*status)),
                bytes: row.get(3)?,
                differs: row.get(4)?,
                has_deadline: row.get(5)?,
            })
        });
        kept.optional()
    }
}

const DUE: &str =
    "SELECT inbox.id, job_id, sequence, state = 'running', bytes, body, attempts, earlier_attempts,
        verified, received_at, asked, not_found, ask_at, unanswered_since,
        state = 'running' AND begun
    FROM inbox LEFT JOIN inbox_body USING (id)
    WHERE state IN ('received', 'running') AND asked <= 0 AND due_at <= ?1
    ORDER BY due_at, inbox.id LIMIT ?2";
const DUE_AGAIN: &str =
    "SELECT inbox.id, job_id, sequence, state = 'running', bytes, body, attempts, earlier_attempts,
        verified, received_at, asked, not_found, ask_at, unanswered_since,
        state = 'running' AND begun
    FROM inbox LEFT JOIN inbox_body USING (id)
    WHERE state IN ('received', 'running') AND asked > 0 AND due_at <= ?1
    ORDER BY asked, due_at, inbox.id LIMIT ?2";
const LEASE: &str =
    "UPDATE inbox SET state = 'running', due_at = ?2, sequence = sequence + 1, attempts = min(attempts, 4294967294) + 1,
        begun = 0
    WHERE id = ?1";
const BEGIN: &str = "UPDATE inbox SET begun = 1 WHERE job_id = ?1 AND sequence = ?2 AND state = 'running'";
const RENEW: &str = "UPDATE inbox SET due_at = ?3
    WHERE job_id = ?1 AND sequence = ?2 AND state IN ('expected', 'running')";

impl Transaction<'_> {
    pub(super) fn lease(&mut self, most: usize, length: Duration) -> ::rusqlite::Result<Vec<Leased>> {
        let mut due = self.due(DUE, most)?;
        if due.len() < most {
            due.extend(self.due(DUE_AGAIN, most - due.len())?);
        }
        let until = self.after(length);
        let mut leased = Vec::with_capacity(due.len());
        for (found, row) in due {
            if let Some(row) = self.readable(&found, row)? {
                self.execute(LEASE, params![found.id, until])?;
                self.totals.remove(found.state, found.bytes);
                self.totals.add(InboxState::Running, found.bytes);
                leased.push(row);
            }
        }
        Ok(leased)
    }

    /// Rows that one of the statements finds due, as they are when they are leased.
    fn due(
        &self,
        statement: &str,
        most: usize,
    ) -> ::rusqlite::Result<Vec<(Found, Result<Leased, Unreadable>)>> {
        self.rows(statement, params![self.now, integer(most)], |row, found| {
            Ok(Leased {
                lease: found.lease(row)?,
                body: Bytes::from(row.get::<_, Option<Vec<u8>>>(5)?.ok_or(read::NO_BODY)?),
                attempt: count(row, 6)?.saturating_add(1),
                earlier_attempts: count(row, 7)?,
                ran_out: found.state == InboxState::Running,
                begun: row.get(14)?,
                verified: row.get(8)?,
                age: between(row.get(9)?, self.now),
                asked: self.asked(row, 10)?,
            })
        })
    }

    /// Rows that begin with the columns of [`Found`].
    fn rows<T>(
        &self,
        statement: &str,
        parameters: impl Params,
        read: impl Fn(&Row<'_>, &Found) -> Result<T, Unreadable>,
    ) -> ::rusqlite::Result<Vec<(Found, Result<T, Unreadable>)>> {
        let mut statement = self.sql.prepare_cached(statement)?;
        let rows = statement.query_map(parameters, |row| {
            let state = if row.get(3)? { InboxState::Running } else { InboxState::Received };
            let bytes = row.get::<_, Option<i64>>(4)?.unwrap_or(0);
            let found = Found { id: row.get(0)?, state, bytes };
            let read = read(row, &found);
            Ok((found, read))
        })?;
        rows.collect()
    }

    /// What was read; if it could not be, something else wrote the row. It would be leased again and again in vain, so
    /// it is dead, and the others go on.
    fn readable<T>(&mut self, found: &Found, row: Result<T, Unreadable>) -> ::rusqlite::Result<Option<T>> {
        let reason = match row {
            Ok(row) => return Ok(Some(row)),
            Err(error) => read::reason(&*error),
        };
        error!(id = found.id, %reason, "a row in the inbox cannot be read: it is dead");
        self.execute(DEAD, params![found.id, reason])?;
        self.totals.remove(found.state, found.bytes);
        self.totals.add(InboxState::Dead, found.bytes);
        Ok(None)
    }

    pub(super) fn note_begun(&mut self, lease: &Lease) -> ::rusqlite::Result<Fenced> {
        let parameters = params![lease.job().to_string(), integer(lease.sequence())];
        Ok(if self.execute(BEGIN, parameters)? == 1 { Fenced::Applied } else { Fenced::Stale })
    }

    pub(super) fn renew(&mut self, lease: &Lease, length: Duration) -> ::rusqlite::Result<Fenced> {
        let parameters = params![lease.job().to_string(), integer(lease.sequence()), self.after(length)];
        Ok(if self.execute(RENEW, parameters)? == 1 { Fenced::Applied } else { Fenced::Stale })
    }
}

const LEASED: &str = "SELECT id, state, bytes, verified, not_found, status,
        max(deadline_at, coalesce(ask_at, deadline_at)) FROM inbox
    WHERE job_id = ?1 AND sequence = ?2";
const VERIFY: &str = "UPDATE inbox SET
        job_type = ?2, status = ?3, bytes = ?4, verified = 1, error = NULL,
        asked = 0, not_found = 0, ask_at = NULL, unanswered_since = NULL, deadline_at = NULL
    WHERE id = ?1";
const RECEIVE_VERIFIED: &str = "UPDATE inbox SET state = 'received', due_at = ?2, received_at = ?2,
        attempts = 0, earlier_attempts = 0
    WHERE id = ?1";
const DONE: &str = "UPDATE inbox SET state = 'done', due_at = NULL, done_at = ?2 WHERE id = ?1";
const RETRY: &str = "UPDATE inbox SET state = 'received', due_at = ?2, error = ?3 WHERE id = ?1";
const DEAD: &str = "UPDATE inbox SET state = 'dead', due_at = NULL, error = ?2 WHERE id = ?1";
const GIVE_BACK: &str =
    "UPDATE inbox SET state = 'received', due_at = ?2, attempts = attempts - 1 WHERE id = ?1";
/// What is expected has no lease of before.
const EXPECT_AGAIN: &str =
    "UPDATE inbox SET state = 'expected', due_at = ?2, sequence = min(sequence, 9223372036854775806) + 1,
        deadline_at = coalesce(deadline_at, ?3)
    WHERE id = ?1";
/// Drops an event that was no last word of an expected job.
const EXPECT_ANOTHER: &str = "UPDATE inbox SET
        state = 'expected', due_at = max(deadline_at, coalesce(ask_at, deadline_at)), sequence = min(sequence, 9223372036854775806) + 1,
        attempts = 0, earlier_attempts = 0, done_at = NULL,
        job_type = NULL, status = NULL, bytes = NULL, verified = 0
    WHERE id = ?1";
const NOTE_ASKED: &str =
    "UPDATE inbox SET asked = min(asked, 4294967294) + 1, not_found = ?2, ask_at = ?3, error = ?4,
        unanswered_since = CASE WHEN ?5 THEN coalesce(unanswered_since, ?6) END
    WHERE id = ?1";
const FORGET_EVENT: &str =
    "UPDATE inbox SET job_type = NULL, status = NULL, bytes = NULL, verified = 0 WHERE id = ?1";

/// What is known of a row whose lease's number is still its own.
struct Held {
    id: i64,
    state: InboxState,
    bytes: i64,
    verified: bool,
    not_found: u32,
    /// When the job is overdue, if it is expected, however a run for the event that it has ends.
    overdue_at: Option<i64>,
}

impl Transaction<'_> {
    pub(super) fn verify(&mut self, lease: &Lease, event: &Envelope) -> ::rusqlite::Result<Fenced> {
        let Some(held) = self.held(lease)? else { return Ok(Fenced::Stale) };
        let state = match held.state {
            InboxState::Expected => InboxState::Received,
            InboxState::Running => InboxState::Running,
            // The repetition of a write whose reply was lost.
            InboxState::Received if held.verified => return Ok(Fenced::Applied),
            _ => return Ok(Fenced::Stale),
        };
        let (job_type, status) = (storable(event.job_type().as_str()), storable(event.status().as_str()));
        let (body, bytes) = (event.body().as_ref(), integer(event.body().len()));
        self.execute(VERIFY, params![held.id, job_type, status, bytes])?;
        self.execute(REPLACE_BODY, params![held.id, body])?;
        if state == InboxState::Received {
            self.execute(RECEIVE_VERIFIED, params![held.id, self.now])?;
            self.arrived += 1;
        }
        self.totals.remove(held.state, held.bytes);
        self.totals.add(state, bytes);
        Ok(Fenced::Applied)
    }

    pub(super) fn settle(&mut self, lease: &Lease, outcome: &Outcome) -> ::rusqlite::Result<Fenced> {
        use InboxState::{Dead, Done, Expected, Received, Running};
        let Some(held) = self.held(lease)? else { return Ok(Fenced::Stale) };
        let Held { id, state, mut bytes, .. } = held;
        let becomes = match (outcome, state) {
            (Outcome::Done, Running) if held.overdue_at.is_some() => {
                bytes = self.expect_another(id)?;
                Expected
            }
            (Outcome::Done, Running) => {
                self.execute(DONE, params![id, self.now])?;
                Done
            }
            (Outcome::Retry { after, error }, Running) => {
                let due = self.after(*after);
                self.execute(RETRY, params![id, due, storable(error)])?;
                if held.overdue_at.is_some_and(|overdue_at| overdue_at <= due) {
                    bytes = self.expect_another(id)?;
                    Expected
                } else {
                    Received
                }
            }
            (Outcome::Dead { error }, Running | Expected) => {
                self.execute(DEAD, params![id, storable(error)])?;
                if held.overdue_at.is_some() {
                    bytes = self.expect_another(id)?;
                    Expected
                } else {
                    Dead
                }
            }
            (Outcome::Disowned { error }, Running | Expected) => {
                self.execute(DEAD, params![id, storable(error)])?;
                bytes = self.forget_event(id)?;
                Dead
            }
            (Outcome::GiveBack { after }, Running) => {
                self.execute(GIVE_BACK, params![id, self.after(*after)])?;
                Received
            }
            (Outcome::GiveBack { after }, Expected) => {
                self.execute(EXPECT_AGAIN, params![id, self.after(*after), self.now])?;
                Expected
            }
            (Outcome::AskAgain { after, answer }, Running | Expected) => {
                let due = self.after(*after);
                let not_found = answer.not_found_after(held.not_found);
                let failed = matches!(answer, Unfinished::Failed { .. });
                self.execute(
                    NOTE_ASKED,
                    params![id, not_found, due, answer.error().map(storable), failed, self.now],
                )?;
                if state == Running {
                    self.execute(GIVE_BACK, params![id, due])?;
                }
                if state == Running && *answer == Unfinished::Pending {
                    bytes = self.forget_event(id)?;
                }
                if state == Expected || *answer == Unfinished::Pending {
                    self.execute(EXPECT_AGAIN, params![id, due, self.now])?;
                    Expected
                } else {
                    Received
                }
            }
            // What has not ended is never received by this.
            (Outcome::AskAgain { answer: Unfinished::Pending, .. }, _) => return Ok(Fenced::Stale),
            // The repetition of a write whose reply was lost.
            (Outcome::Done, Done)
            | (Outcome::Dead { .. } | Outcome::Disowned { .. }, Dead)
            | (Outcome::Retry { .. } | Outcome::GiveBack { .. } | Outcome::AskAgain { .. }, Received) => {
                return Ok(Fenced::Applied);
            }
            _ => return Ok(Fenced::Stale),
        };
        self.totals.remove(state, held.bytes);
        self.totals.add(becomes, bytes);
        let after = match outcome {
            Outcome::Retry { after, .. } | Outcome::GiveBack { after } | Outcome::AskAgain { after, .. } => {
                Some(*after)
            }
            Outcome::Done | Outcome::Dead { .. } | Outcome::Disowned { .. } => None,
        };
        self.arrived += usize::from(becomes == Received && after == Some(Duration::ZERO));
        Ok(Fenced::Applied)
    }

    /// Drops a row's event, and returns how long its body is then.
    fn forget_event(&self, id: i64) -> ::rusqlite::Result<i64> {
        self.execute(FORGET_EVENT, [id])?;
        self.execute(DELETE_BODY, [id])?;
        Ok(0)
    }

    /// Expects another event than the one that a row has, and returns how long its body is then.
    fn expect_another(&self, id: i64) -> ::rusqlite::Result<i64> {
        self.execute(EXPECT_ANOTHER, [id])?;
        self.execute(DELETE_BODY, [id])?;
        Ok(0)
    }

    /// The row whose last lease this is.
    fn held(&self, lease: &Lease) -> ::rusqlite::Result<Option<Held>> {
        let mut statement = self.sql.prepare_cached(LEASED)?;
        let parameters = params![lease.job().to_string(), integer(lease.sequence())];
        let held = statement.query_row(parameters, |row| {
            Ok(Held {
                id: row.get(0)?,
                state: known_state(row, 1)?,
                bytes: row.get::<_, Option<i64>>(2)?.unwrap_or(0),
                verified: row.get(3)?,
                not_found: count(row, 4)?,
                overdue_at: match text(row, 5)? {
                    Some(status) if !JobStatus::from(&*status).is_final() => row.get(6)?,
                    _ => None,
                },
            })
        });
        held.optional()
    }

    /// How a job was asked for, in four columns from this one on.
    fn asked(&self, row: &Row<'_>, column: usize) -> ::rusqlite::Result<Asked> {
        let (ask_at, since): (Option<i64>, Option<i64>) = (row.get(column + 2)?, row.get(column + 3)?);
        Ok(Asked {
            times: count(row, column)?,
            not_found: count(row, column + 1)?,
            unanswered_for: since.map(|since| between(since, self.now)),
            again_in: ask_at.map_or(Duration::ZERO, |ask_at| between(self.now, ask_at)),
        })
    }
}

const EXPECT: &str = "INSERT INTO inbox (job_id, state, due_at, deadline_at, received_at)
    VALUES (?1, 'expected', ?2, ?2, ?3)
    ON CONFLICT (job_id) DO NOTHING";
const SET_DEADLINE: &str = "UPDATE inbox SET deadline_at = ?2 WHERE id = ?1";
const OVERDUE: &str = "SELECT id, job_id, sequence, false, bytes, coalesce(deadline_at, received_at),
        asked, not_found, ask_at, unanswered_since
    FROM inbox WHERE state = 'expected' AND asked <= 0 AND due_at <= ?1 ORDER BY due_at, id LIMIT ?2";
const OVERDUE_AGAIN: &str = "SELECT id, job_id, sequence, false, bytes, coalesce(deadline_at, received_at),
        asked, not_found, ask_at, unanswered_since
    FROM inbox WHERE state = 'expected' AND asked > 0 AND due_at <= ?1 ORDER BY asked, due_at, id LIMIT ?2";
const LEASE_OVERDUE: &str = "UPDATE inbox SET due_at = ?2, sequence = sequence + 1 WHERE id = ?1";
const REPLAY: &str = "UPDATE inbox SET state = 'received', due_at = ?2, done_at = NULL,
        earlier_attempts = max(min(earlier_attempts, 4294967295), 0) + max(min(attempts, 4294967295), 0),
        attempts = 0,
        asked = 0, not_found = 0, ask_at = NULL, unanswered_since = NULL, deadline_at = NULL
    WHERE id = ?1";
const REPLAY_EXPECTED: &str = "UPDATE inbox SET
        asked = 0, not_found = 0, ask_at = NULL, unanswered_since = NULL, deadline_at = ?2
    WHERE id = ?1";

impl Transaction<'_> {
    /// Registers a job; `None` when a limit is reached.
    pub(super) fn expect(&mut self, job: &JobId, deadline: Duration) -> ::rusqlite::Result<Option<()>> {
        let (job, deadline) = (job.to_string(), self.after(deadline));
        let has_room = self.has_room(1, 0);
        if has_room && self.execute(EXPECT, params![job, deadline, self.now])? == 1 {
            self.totals.add(InboxState::Expected, 0);
            return Ok(Some(()));
        }
        let Some(kept) = self.find(&job, &[])? else { return Ok(None) };
        if kept.has_deadline || kept.status.is_none_or(|status| status.is_final()) {
            return Ok(Some(()));
        }
        let has_ended = matches!(kept.state, InboxState::Done | InboxState::Dead);
        if has_ended && !has_room {
            return Ok(None);
        }
        self.execute(SET_DEADLINE, params![kept.id, deadline])?;
        if has_ended {
            self.totals.remove(kept.state, kept.bytes.unwrap_or(0));
            let bytes = self.expect_another(kept.id)?;
            self.totals.add(InboxState::Expected, bytes);
        }
        Ok(Some(()))
    }

    fn find_overdue(
        &self,
        statement: &str,
        most: usize,
    ) -> ::rusqlite::Result<Vec<(Found, Result<Overdue, Unreadable>)>> {
        self.rows(statement, params![self.now, integer(most)], |row, found| {
            let late = between(row.get(5)?, self.now);
            Ok(Overdue { lease: found.lease(row)?, late, asked: self.asked(row, 6)? })
        })
    }

    pub(super) fn overdue(&mut self, most: usize, length: Duration) -> ::rusqlite::Result<Vec<Overdue>> {
        let mut due = self.find_overdue(OVERDUE, most)?;
        if due.len() < most {
            due.extend(self.find_overdue(OVERDUE_AGAIN, most - due.len())?);
        }
        let until = self.after(length);
        let mut overdue = Vec::with_capacity(due.len());
        for (found, row) in due {
            let found = Found { state: InboxState::Expected, ..found };
            if let Some(row) = self.readable(&found, row)? {
                self.execute(LEASE_OVERDUE, params![found.id, until])?;
                overdue.push(row);
            }
        }
        Ok(overdue)
    }

    pub(super) fn replay(&mut self, job: &JobId) -> ::rusqlite::Result<bool> {
        let Some(kept) = self.find(&job.to_string(), &[])? else { return Ok(false) };
        let becomes = match (kept.state, kept.status, kept.bytes) {
            (InboxState::Done | InboxState::Dead, Some(_), Some(_)) => {
                self.execute(REPLAY, params![kept.id, self.now])?;
                self.arrived += 1;
                InboxState::Received
            }
            (InboxState::Dead, None, _) => {
                self.execute(REPLAY_EXPECTED, params![kept.id, self.now])?;
                self.execute(EXPECT_AGAIN, params![kept.id, self.now, self.now])?;
                InboxState::Expected
            }
            _ => return Ok(false),
        };
        let bytes = kept.bytes.unwrap_or(0);
        self.totals.remove(kept.state, bytes);
        self.totals.add(becomes, bytes);
        Ok(true)
    }
}

const OLD_ROWS: &str = "SELECT id, bytes FROM inbox WHERE state = 'done' AND bytes IS NULL AND done_at <= ?1
    UNION ALL
    SELECT id, bytes FROM inbox WHERE state = 'done' AND bytes IS NOT NULL AND done_at <= ?1
    LIMIT ?2";
const OLD_BODIES: &str =
    "SELECT id, bytes FROM inbox WHERE state = 'done' AND bytes IS NOT NULL AND done_at <= ?1
    ORDER BY done_at LIMIT ?2";
const DELETE_ROW: &str = "DELETE FROM inbox WHERE id = ?1";
const DELETE_BODY: &str = "DELETE FROM inbox_body WHERE id = ?1";
const FORGET_BODY: &str = "UPDATE inbox SET bytes = NULL WHERE id = ?1";

impl Transaction<'_> {
    pub(super) fn prune(&mut self, retention: &Retention) -> ::rusqlite::Result<Pruned> {
        let mut pruned = Pruned::default();
        for (id, bytes) in self.old(OLD_ROWS, retention.row)? {
            self.execute(DELETE_BODY, [id])?;
            self.execute(DELETE_ROW, [id])?;
            self.totals.remove(InboxState::Done, bytes);
            pruned.rows += 1;
        }
        for (id, bytes) in self.old(OLD_BODIES, retention.payload)? {
            self.execute(DELETE_BODY, [id])?;
            self.execute(FORGET_BODY, [id])?;
            self.totals.remove(InboxState::Done, bytes);
            self.totals.add(InboxState::Done, 0);
            pruned.payloads += 1;
        }
        Ok(pruned)
    }

    /// Rows that have been done for so long, with the lengths of their bodies; not too much at once.
    fn old(&self, statement: &str, retention: Duration) -> ::rusqlite::Result<Vec<(i64, i64)>> {
        let until = self.now.saturating_sub(microseconds(retention));
        let mut statement = self.sql.prepare_cached(statement)?;
        let mut rows = statement.query(params![until, PRUNE_ROWS])?;
        let (mut old, mut sum) = (Vec::new(), 0);
        while sum < PRUNE_BYTES {
            let Some(row) = rows.next()? else { break };
            let bytes = row.get::<_, Option<i64>>(1)?.unwrap_or(0);
            old.push((row.get(0)?, bytes));
            sum += bytes;
        }
        Ok(old)
    }
}

/// All statements, for a test of how they are run.
#[cfg(test)]
pub(super) const STATEMENTS: [&str; 32] = [
    RECEIVE,
    STORE_BODY,
    FIND,
    TAKE,
    REPLACE_BODY,
    DUE,
    DUE_AGAIN,
    LEASE,
    RENEW,
    LEASED,
    VERIFY,
    RECEIVE_VERIFIED,
    DONE,
    RETRY,
    DEAD,
    GIVE_BACK,
    EXPECT_AGAIN,
    EXPECT_ANOTHER,
    NOTE_ASKED,
    FORGET_EVENT,
    EXPECT,
    SET_DEADLINE,
    OVERDUE,
    OVERDUE_AGAIN,
    LEASE_OVERDUE,
    REPLAY,
    REPLAY_EXPECTED,
    OLD_ROWS,
    OLD_BODIES,
    DELETE_ROW,
    DELETE_BODY,
    FORGET_BODY,
];
