//! Counts of rows and bytes by state, kept with every write, so that neither a limit nor statistics need a look at all
//! rows.

use super::InboxState;
use super::row::Row;

/// The rows and bytes of each state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Totals([Total; InboxState::ALL.len()]);

/// The number of rows, and the bytes of their bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Total {
    pub(super) rows: i64,
    pub(super) bytes: i64,
}

impl Totals {
    pub(super) fn of(&self, state: InboxState) -> Total {
        self.0[index(state)]
    }

    pub(super) fn of_mut(&mut self, state: InboxState) -> &mut Total {
        &mut self.0[index(state)]
    }

    /// The rows that are neither done nor dead.
    pub(super) fn unfinished(&self) -> Total {
        let states =
            [InboxState::Expected, InboxState::Received, InboxState::Running].map(|state| self.of(state));
        states.into_iter().fold(Total::default(), |sum, total| Total {
            rows: sum.rows.saturating_add(total.rows),
            bytes: sum.bytes.saturating_add(total.bytes),
        })
    }

    pub(super) fn add(&mut self, row: &Row) {
        self.change(row.state(), 1, integer(row.bytes()));
    }

    pub(super) fn remove(&mut self, row: &Row) {
        self.change(row.state(), -1, integer(row.bytes()).saturating_neg());
    }

    pub(super) fn change(&mut self, state: InboxState, rows: i64, bytes: i64) {
        let total = self.of_mut(state);
        total.rows = total.rows.saturating_add(rows);
        total.bytes = total.bytes.saturating_add(bytes);
    }
}

fn integer(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
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
