//! Finds the rows that a filter selects, in the order of arrival, a bounded number at a time.

use std::time::Duration;

use ::rusqlite::{Connection, params};

use super::{integer, now, reads};
use crate::inbox::filter::Prefix;
use crate::inbox::look::{Change, Look};
use crate::inbox::text::storable;
use crate::inbox::{InboxCursor, InboxFilter, InboxList, InboxState};

/// The rows that a filter selects. The state stands in the statements that need it for a partial index, too.
const MATCHES: &str = "(?2 IS NULL OR job_type = ?2) AND (?3 IS NULL OR status = ?3)
        AND (?4 IS NULL OR instr(lower(error), ?4) > 0)
        AND (?5 IS NULL OR received_at <= ?5) AND (?6 IS NULL OR received_at > ?6)
        AND (?7 IS NULL OR job_id >= ?7 AND job_id < ?8) AND (?9 IS NULL OR state = ?9)";

/// The jobs with a prefix, in the index of ids alone.
pub(super) const WITH_PREFIX: &str = "SELECT 1 FROM inbox WHERE job_id >= ?1 AND job_id < ?2 LIMIT ?3";

/// The numbers of rows, and the place where the search goes on.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) ids: Vec<i64>,
    pub(super) next: Option<InboxCursor>,
}

impl Look {
    /// The table, and the condition for the look's index.
    fn rows(self) -> &'static str {
        match self {
            Self::All => "inbox WHERE true",
            Self::Dead => "inbox INDEXED BY inbox_dead WHERE state = 'dead'",
            Self::Unfinished => "inbox INDEXED BY inbox_leasable WHERE state IN ('received', 'running')",
            Self::Expected => "inbox INDEXED BY inbox_expected WHERE state = 'expected'",
            Self::WithPrefix => "inbox WHERE job_id >= ?7 AND job_id < ?8",
        }
    }

    /// A statement that walks through the rows in the order of a list, and tells which are selected.
    fn walk(self, from: InboxCursor, change: Option<Change>) -> String {
        format!("SELECT id, {} FROM {} AND {}", selects(change), self.rows(), range(from))
            + if from.is_oldest_first() { " ORDER BY id" } else { " ORDER BY id DESC" }
    }

    /// A statement that returns all rows, in any order.
    fn gather(self, from: InboxCursor, change: Option<Change>) -> String {
        format!("SELECT id, {} AND {} FROM {}", selects(change), range(from), self.rows())
    }
}

/// The rows on one side of ?1.
fn range(from: InboxCursor) -> &'static str {
    if from.is_oldest_first() { "id >= ?1" } else { "id <= ?1" }
}

/// The rows that match and can be changed.
fn selects(change: Option<Change>) -> String {
    let can = match change {
        None => "true",
        Some(Change::Replay) => {
            "(state IN ('done', 'dead') AND bytes IS NOT NULL OR state = 'dead' AND status IS NULL)"
        }
        Some(Change::Discard) => "state = 'dead'",
    };
    format!("{can} AND {MATCHES}")
}

/// Lists up to `most` rows.
pub(super) fn list(
    connection: &Connection,
    filter: &InboxFilter,
    from: InboxCursor,
    most: usize,
) -> ::rusqlite::Result<InboxList> {
    // One snapshot for all statements. Ended by its drop.
    let _snapshot = connection.unchecked_transaction()?;
    let found = find(connection, filter, from, most, None)?;
    let now = now();
    let mut rows = Vec::with_capacity(found.ids.len());
    for id in found.ids {
        rows.extend(reads::numbered(connection, id, now)?);
    }
    Ok(InboxList::new(rows, found.next))
}

/// Finds up to `most` rows that match and, if a change is given, can be changed.
pub(super) fn find(
    connection: &Connection,
    filter: &InboxFilter,
    from: InboxCursor,
    most: usize,
    change: Option<Change>,
) -> ::rusqlite::Result<Found> {
    Search { connection, filter, from, most, change, bound: Look::most }.find()
}

struct Search<'a> {
    connection: &'a Connection,
    filter: &'a InboxFilter,
    from: InboxCursor,
    most: usize,
    change: Option<Change>,
    /// The most rows that a look looks at.
    bound: fn(Look) -> usize,
}

impl Search<'_> {
    fn find(&self) -> ::rusqlite::Result<Found> {
        for look in Look::of(self.filter, self.from, self.change) {
            if !look.is_sorted() {
                return self.walk(look);
            }
            if let Some(found) = self.sorted(look)? {
                return Ok(found);
            }
        }
        Ok(Found::default())
    }

    /// Walks through rows until enough are found, or enough were looked at.
    fn walk(&self, look: Look) -> ::rusqlite::Result<Found> {
        let (mut found, mut at, mut looked) = (Found::default(), self.from, 0);
        let bound = (self.bound)(look);
        self.each(&look.walk(self.from, self.change), |id, fits| {
            if looked == bound || found.ids.len() == self.most {
                found.next = Some(at);
                return false;
            }
            looked += 1;
            at = self.from.past(u64::try_from(id).unwrap_or(0));
            if fits {
                found.ids.push(id);
            }
            true
        })?;
        Ok(found)
    }

    /// Finds rows by an index, and sorts them. `None` if there are too many.
    fn sorted(&self, look: Look) -> ::rusqlite::Result<Option<Found>> {
        let bound = (self.bound)(look);
        if look == Look::WithPrefix && self.with_prefix(bound + 1)? > bound {
            return Ok(None);
        }
        let (mut ids, mut looked) = (Vec::new(), 0);
        self.each(&look.gather(self.from, self.change), |id, fits| {
            looked += 1;
            if fits {
                ids.push(id);
            }
            looked <= bound
        })?;
        if looked > bound {
            return Ok(None);
        }
        ids.sort_unstable();
        if !self.from.is_oldest_first() {
            ids.reverse();
        }
        let is_cut = ids.len() > self.most;
        ids.truncate(self.most);
        let last = ids.last().map_or(self.from, |id| self.from.past(u64::try_from(*id).unwrap_or(0)));
        Ok(Some(Found { ids, next: is_cut.then_some(last) }))
    }

    /// Counts the jobs with the prefix, up to `most`. Their rows are not looked at: each may lie on a page of its own.
    fn with_prefix(&self, most: usize) -> ::rusqlite::Result<usize> {
        let prefix = self.filter.job_prefix.as_deref().and_then(Prefix::new);
        let (first, end) = prefix.map(|prefix| (prefix.first, prefix.end)).unzip();
        let mut statement = self.connection.prepare_cached(WITH_PREFIX)?;
        let (mut rows, mut count) = (statement.query(params![first, end, integer(most)])?, 0);
        while rows.next()?.is_some() {
            count += 1;
        }
        Ok(count)
    }

    /// Calls `see` with the number of each row and whether it is selected, while that returns `true`.
    fn each(&self, statement: &str, mut see: impl FnMut(i64, bool) -> bool) -> ::rusqlite::Result<()> {
        let (filter, now) = (self.filter, now());
        let [job_type, status, error] =
            [&filter.job_type, &filter.status, &filter.error].map(|text| text.as_deref().map(storable));
        let received = |age: Option<Duration>| age.map(|age| now.before(age).0);
        let prefix = filter.job_prefix.as_deref().and_then(Prefix::new);
        let mut statement = self.connection.prepare_cached(statement)?;
        let mut rows = statement.query(params![
            self.from.bound(),
            job_type,
            status,
            error.as_deref().map(str::to_ascii_lowercase),
            received(filter.older_than),
            received(filter.newer_than),
            prefix.as_ref().map(|prefix| prefix.first),
            prefix.as_ref().map(|prefix| &prefix.end),
            filter.state.map(InboxState::as_str),
        ])?;
        while let Some(row) = rows.next()? {
            if !see(row.get(0)?, row.get::<_, Option<bool>>(1)?.unwrap_or(false)) {
                break;
            }
        }
        Ok(())
    }
}

/// All statements, for a test of how they are run.
#[cfg(test)]
pub(super) fn statements() -> Vec<String> {
    let mut statements = Vec::new();
    for change in [None, Some(Change::Replay), Some(Change::Discard)] {
        for from in [InboxCursor::Oldest, InboxCursor::Newest] {
            let walk = [Look::All, Look::Dead].map(|look| look.walk(from, change));
            let gather =
                [Look::Unfinished, Look::Expected, Look::WithPrefix].map(|look| look.gather(from, change));
            statements.extend(walk.into_iter().chain(gather));
        }
    }
    statements
}

#[cfg(test)]
mod tests {
    use InboxCursor::{After, Before, Newest, Oldest};

    use super::*;
    use crate::inbox::sqlite::tests::in_memory;

    #[test]
    fn a_list_sorts_what_an_index_finds_or_else_looks_at_a_bounded_number_of_rows() {
        let connection = in_memory();
        let insert = "INSERT INTO inbox (job_id, state, received_at) VALUES
            ('x1', 'done', 0), ('x2', 'done', 0), ('x3', 'done', 0),
            ('a4', 'received', 0), ('b5', 'expected', 0), ('a6', 'running', 0), ('b7', 'expected', 0),
            ('a8', 'running', 0), ('b9', 'expected', 0), ('b10', 'expected', 0)";
        connection.execute_batch(insert).unwrap();
        let any = InboxFilter::default;
        let (expected, running) = (any().state(InboxState::Expected), any().state(InboxState::Running));
        let (three, four) = (any().job_prefix("a"), any().job_prefix("b"));
        for (filter, from, most, ids, next) in [
            // As many as one look looks at, and no row after them.
            (&any(), After(7), 9, &[8, 9, 10][..], None),
            (&any(), Oldest, 9, &[1, 2, 3], Some(After(3))),
            (&any(), Newest, 9, &[10, 9, 8], Some(Before(8))),
            (&any(), Oldest, 2, &[1, 2], Some(After(2))),
            // Few enough to be sorted.
            (&three, Oldest, 9, &[4, 6, 8], None),
            (&three, Newest, 9, &[8, 6, 4], None),
            (&three, Oldest, 3, &[4, 6, 8], None),
            (&three, Oldest, 2, &[4, 6], Some(After(6))),
            (&three, After(6), 9, &[8], None),
            (&running, Oldest, 9, &[6, 8], None),
            // Too many: the first rows are looked at instead.
            (&four, Oldest, 9, &[], Some(After(3))),
            (&four, After(3), 9, &[5], Some(After(6))),
            (&expected, Oldest, 9, &[], Some(After(3))),
            (&expected, Newest, 9, &[10, 9], Some(Before(8))),
        ] {
            let search = Search { connection: &connection, filter, from, most, change: None, bound: |_| 3 };
            let found = search.find().unwrap();
            assert_eq!((&*found.ids, found.next), (ids, next), "{most} of {filter:?} from {from:?}");
        }
    }
}
