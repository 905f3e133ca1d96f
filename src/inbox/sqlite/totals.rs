//! The totals in the file.

use ::rusqlite::types::ValueRef;
use ::rusqlite::{Connection, params};

use crate::inbox::InboxState;
use crate::inbox::totals::{Total, Totals};

const LOAD: &str = "SELECT state, rows, bytes FROM inbox_total";
const SAVE: &str = "UPDATE inbox_total SET rows = ?2, bytes = ?3 WHERE state = ?1";

pub(super) fn load(connection: &Connection) -> ::rusqlite::Result<Totals> {
    let mut totals = Totals::default();
    let mut statement = connection.prepare_cached(LOAD)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let Some(state) = state(&row.get_ref(0)?) else { continue };
        *totals.of_mut(state) = Total { rows: row.get(1)?, bytes: row.get(2)? };
    }
    Ok(totals)
}

/// Writes the totals that have changed.
pub(super) fn save(totals: &Totals, before: &Totals, connection: &Connection) -> ::rusqlite::Result<()> {
    for state in InboxState::ALL {
        let total = totals.of(state);
        if total != before.of(state) {
            let mut statement = connection.prepare_cached(SAVE)?;
            statement.execute(params![state.as_str(), total.rows, total.bytes])?;
        }
    }
    Ok(())
}

/// The state with this name; `None` if there is no such state.
pub(super) fn state(name: &ValueRef<'_>) -> Option<InboxState> {
    let name = name.as_bytes_or_null().ok().flatten();
    InboxState::ALL.into_iter().find(|state| Some(state.as_str().as_bytes()) == name)
}
