//! What every store shares.

use crate::error::BoxError;

/// Why a store could not do what it was asked.
///
/// The receiver answers 503 to all of them and the sender tries again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The store was not reached, or reported an error: whether it did anything is not known.
    #[error("the store is unavailable")]
    Unavailable(#[source] BoxError),
    /// The store has reached its bound and wrote nothing.
    #[error("the store is full")]
    Full,
}

impl StoreError {
    /// Wraps a driver's error.
    pub fn unavailable(error: impl Into<BoxError>) -> Self {
        Self::Unavailable(error.into())
    }
}

/// Whether a write by the holder of a claim took place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a stale write did nothing"]
pub enum Fenced {
    /// The write took place, or had taken place before with the same token.
    Applied,
    /// The token no longer owns the job, and nothing was written.
    Stale,
}
