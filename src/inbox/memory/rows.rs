//! Rows in the orders in which calls look for them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;

use crate::event::JobId;
use crate::inbox::InboxCursor;
use crate::inbox::row::{Phase, Row, first_fence};
use crate::inbox::timestamp::Timestamp;
use crate::inbox::totals::Totals;
use crate::inbox::traffic::{Counts, Minutes};
use crate::inbox::transition::BodyChange;

/// All rows. Every write keeps the orders and the totals, so that no call looks at rows that it does not need.
#[derive(Debug, Default)]
pub(super) struct Rows {
    /// In the order of their arrival.
    by_number: BTreeMap<u64, JobRow>,
    numbers: HashMap<JobId, u64>,
    positions: BTreeSet<Position>,
    totals: Totals,
    traffic: Minutes,
    last_number: u64,
}

#[derive(Debug)]
pub(super) struct JobRow {
    pub(super) number: u64,
    pub(super) job: JobId,
    pub(super) row: Row,
    pub(super) body: Option<Bytes>,
}

/// Rows that one kind of call looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lookup {
    Leasable,
    Expected,
    DoneWithBody,
    DoneWithoutBody,
    Dead,
}

/// The position of a row in its lookup: jobs fetched least often come first, then the longest due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Position {
    lookup: Lookup,
    fetches: u32,
    at: Timestamp,
    number: u64,
}

impl Position {
    fn of(number: u64, row: &Row) -> Self {
        let place = |lookup, fetches, at| Self { lookup, fetches, at, number };
        match row.phase {
            Phase::Expected { overdue_at } => place(Lookup::Expected, row.fetches.count, overdue_at),
            Phase::Received { due_at: at } | Phase::Running { until: at } => {
                place(Lookup::Leasable, row.fetches.count, at)
            }
            Phase::Done { done_at } => {
                let has_body = row.event.as_ref().is_some_and(|event| event.bytes.is_some());
                place(if has_body { Lookup::DoneWithBody } else { Lookup::DoneWithoutBody }, 0, done_at)
            }
            Phase::Dead { dead_at } => place(Lookup::Dead, 0, dead_at),
        }
    }

    /// The first position of rows with this number of fetches.
    fn first(lookup: Lookup, fetches: u32) -> Self {
        Self { lookup, fetches, at: Timestamp::MIN, number: 0 }
    }
}

impl Rows {
    pub(super) fn totals(&self) -> &Totals {
        &self.totals
    }

    pub(super) fn traffic(&self) -> &Minutes {
        &self.traffic
    }

    pub(super) fn len(&self) -> usize {
        self.by_number.len()
    }

    pub(super) fn get(&self, job: &JobId) -> Option<&JobRow> {
        self.by_number.get(self.numbers.get(job)?)
    }

    /// Rows in the order of their arrival, or in reverse.
    pub(super) fn list(&self, from: InboxCursor) -> Box<dyn Iterator<Item = &JobRow> + '_> {
        let rows = match from {
            InboxCursor::Oldest | InboxCursor::Newest => self.by_number.range(..),
            InboxCursor::After(number) => self.by_number.range(number.saturating_add(1)..),
            InboxCursor::Before(number) => self.by_number.range(..number),
        };
        let rows = rows.map(|(_, entry)| entry);
        if from.is_oldest_first() { Box::new(rows) } else { Box::new(rows.rev()) }
    }

    pub(super) fn insert(&mut self, job: JobId, mut row: Row, body: Option<Bytes>) {
        self.last_number += 1;
        let number = self.last_number;
        row.fence = first_fence(number);
        self.totals.add(&row);
        self.traffic.count(Counts::of_new(&row), row.received_at);
        self.positions.insert(Position::of(number, &row));
        self.numbers.insert(job.clone(), number);
        self.by_number.insert(number, JobRow { number, job, row, body });
    }

    /// Applies a transition to the row of a job, if there is one. `body` is what [`BodyChange::Replace`] stores.
    pub(super) fn change<T>(
        &mut self,
        job: &JobId,
        body: Option<&Bytes>,
        now: Timestamp,
        transition: impl FnOnce(&mut JobRow) -> (T, BodyChange),
    ) -> Option<T> {
        let number = *self.numbers.get(job)?;
        self.change_numbered(number, body, now, transition)
    }

    pub(super) fn change_numbered<T>(
        &mut self,
        number: u64,
        body: Option<&Bytes>,
        now: Timestamp,
        transition: impl FnOnce(&mut JobRow) -> (T, BodyChange),
    ) -> Option<T> {
        let entry = self.by_number.get_mut(&number)?;
        self.totals.remove(&entry.row);
        self.positions.remove(&Position::of(number, &entry.row));
        let before = entry.row.phase;
        let (result, change) = transition(entry);
        match change {
            BodyChange::Keep => {}
            BodyChange::Replace => entry.body = body.cloned(),
            BodyChange::Drop => entry.body = None,
        }
        self.totals.add(&entry.row);
        self.traffic.count(Counts::of(before, &entry.row, change), now);
        self.positions.insert(Position::of(number, &entry.row));
        Some(result)
    }

    pub(super) fn remove(&mut self, number: u64) {
        if let Some(JobRow { job, row, .. }) = self.by_number.remove(&number) {
            self.numbers.remove(&job);
            self.totals.remove(&row);
            self.positions.remove(&Position::of(number, &row));
        }
    }

    /// Up to `most` rows of a lookup whose time is not after `until`, in order.
    pub(super) fn first(&self, lookup: Lookup, until: Timestamp, most: usize) -> Vec<u64> {
        let mut found = Vec::new();
        let mut from = Position::first(lookup, 0);
        while found.len() < most {
            let Some(next) = self.next(from) else { break };
            if next.at <= until {
                found.push(next.number);
                from = Position { number: next.number + 1, ..next };
            } else if let Some(fetches) = next.fetches.checked_add(1) {
                from = Position::first(lookup, fetches);
            } else {
                break;
            }
        }
        found
    }

    /// The earliest time of a lookup.
    pub(super) fn earliest(&self, lookup: Lookup) -> Option<Timestamp> {
        let firsts = std::iter::successors(self.next(Position::first(lookup, 0)), |place| {
            self.next(Position::first(lookup, place.fetches.checked_add(1)?))
        });
        firsts.map(|place| place.at).min()
    }

    fn next(&self, from: Position) -> Option<Position> {
        self.positions.range(from..).next().copied().filter(|place| place.lookup == from.lookup)
    }
}
