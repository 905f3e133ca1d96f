//! The limits of an inbox in a database.

use super::InboxStats;

/// The most unfinished rows, and the most bytes that their bodies may have together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) rows: u64,
    pub(super) bytes: u64,
}

impl Limits {
    /// Writes the limits into statistics.
    pub(super) fn note(self, stats: &mut InboxStats) {
        let limit = |most| (most != u64::MAX).then_some(most);
        (stats.max_unfinished_rows, stats.max_unfinished_bytes) = (limit(self.rows), limit(self.bytes));
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { rows: 100_000, bytes: 10 << 30 }
    }
}
