//! How much is in each state, kept with every write: so that a limit costs no look at all rows.

use ::rusqlite::types::ValueRef;
use ::rusqlite::{Connection, params};

use crate::inbox::InboxState;

const STATES: [InboxState; 5] =
    [InboxState::Expected, InboxState::Received, InboxState::Running, InboxState::Done, InboxState::Dead];

const LOAD: &str = "SELECT state, rows, bytes FROM inbox_total";
const SAVE: &str = "UPDATE inbox_total SET rows = ?2, bytes = ?3 WHERE state = ?1";

/// What is in each state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Totals([Total; STATES.len()]);

/// So many rows, and the bytes of their bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Total {
    pub(super) rows: i64,
    pub(super) bytes: i64,
}

impl Totals {
    pub(super) fn load(connection: &Connection) -> ::rusqlite::Result<Self> {
        let mut totals = Self::default();
        let mut statement = connection.prepare_cached(LOAD)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let Some(state) = state(&row.get_ref(0)?) else { continue };
            *totals.of_mut(state) = Total { rows: row.get(1)?, bytes: row.get(2)? };
        }
        Ok(totals)
    }

    /// Writes what is no longer as it was.
    pub(super) fn save(&self, before: &Self, connection: &Connection) -> ::rusqlite::Result<()> {
        for state in STATES {
            let total = self.of(state);
            if total != before.of(state) {
                let mut statement = connection.prepare_cached(SAVE)?;
                statement.execute(params![state.as_str(), total.rows, total.bytes])?;
            }
        }
        Ok(())
    }

    pub(super) fn of(&self, state: InboxState) -> Total {
        self.0[index(state)]
    }

    fn of_mut(&mut self, state: InboxState) -> &mut Total {
        &mut self.0[index(state)]
    }

    /// What is neither done nor dead.
    pub(super) fn unfinished(&self) -> Total {
        [InboxState::Expected, InboxState::Received, InboxState::Running].into_iter().fold(
            Total::default(),
            |sum, state| {
                let total = self.of(state);
                Total {
                    rows: sum.rows.saturating_add(total.rows),
                    bytes: sum.bytes.saturating_add(total.bytes),
                }
            },
        )
    }

    pub(super) fn add(&mut self, state: InboxState, bytes: i64) {
        let total = self.of_mut(state);
        total.rows = total.rows.saturating_add(1);
        total.bytes = total.bytes.saturating_add(bytes);
    }

    pub(super) fn remove(&mut self, state: InboxState, bytes: i64) {
        let total = self.of_mut(state);
        total.rows = total.rows.saturating_sub(1);
        total.bytes = total.bytes.saturating_sub(bytes);
    }
}

fn index(state: InboxState) -> usize {
    match state {
        InboxState::Expected => 0,
        InboxState::Received => 1,
        InboxState::Running => 2,
        InboxState::Done => 3,
        InboxState::Dead => 4,
    }
}

/// The state with this name; `None` if there is no such state.
pub(super) fn state(name: &ValueRef<'_>) -> Option<InboxState> {
    let name = name.as_bytes_or_null().ok().flatten();
    STATES.into_iter().find(|state| Some(state.as_str().as_bytes()) == name)
}
