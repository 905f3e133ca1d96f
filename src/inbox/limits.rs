//! The limits of an inbox in a database.

/// The most unfinished rows, and the most bytes that their bodies may have together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) rows: u64,
    pub(super) bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { rows: 100_000, bytes: 10 << 30 }
    }
}
