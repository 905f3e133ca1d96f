//! The counts by minute in the file.

use ::rusqlite::{Connection, params};

use super::{integer, now, reads};
use crate::inbox::InboxTraffic;
use crate::inbox::timestamp::Timestamp;
use crate::inbox::traffic::{self, Counts, KEPT_MINUTES};

// A sum beyond the largest number would be none of STRICT's integers.
const COUNT: &str = "INSERT INTO inbox_traffic (minute, received, handled) VALUES (?1, ?2, ?3)
    ON CONFLICT (minute) DO UPDATE SET
        received = min(max(received, 0), 9223372036854775807 - excluded.received) + excluded.received,
        handled = min(max(handled, 0), 9223372036854775807 - excluded.handled) + excluded.handled";
const FORGET: &str = "DELETE FROM inbox_traffic WHERE minute <= ?1";
pub(super) const TRAFFIC: &str =
    "SELECT minute, received, handled FROM inbox_traffic WHERE minute > ?1 ORDER BY minute DESC";

/// Adds the counts of a transaction.
pub(super) fn save(counts: Counts, now: Timestamp, connection: &Connection) -> ::rusqlite::Result<()> {
    if counts.is_zero() {
        return Ok(());
    }
    let mut statement = connection.prepare_cached(COUNT)?;
    statement.execute(params![traffic::minute(now), integer(counts.received), integer(counts.handled)])?;
    Ok(())
}

/// Deletes the minutes that are no longer kept.
pub(super) fn prune(now: Timestamp, connection: &Connection) -> ::rusqlite::Result<()> {
    connection.prepare_cached(FORGET)?.execute([forgotten(now)])?;
    Ok(())
}

pub(super) fn traffic(connection: &Connection) -> ::rusqlite::Result<Vec<InboxTraffic>> {
    let now = now();
    let mut statement = connection.prepare_cached(TRAFFIC)?;
    let mut rows = statement.query([forgotten(now)])?;
    let mut minutes = Vec::new();
    while let Some(row) = rows.next()? {
        let counts = Counts { received: reads::number(row, 1)?, handled: reads::number(row, 2)? };
        minutes.extend(traffic::traffic(row.get(0)?, counts, now));
    }
    Ok(minutes)
}

/// The newest minute that is no longer kept.
fn forgotten(now: Timestamp) -> i64 {
    traffic::minute(now) - i64::from(KEPT_MINUTES)
}
