//! The results that dedup stores and inboxes share.

use crate::error::BoxError;

/// The error of a call to a store.
///
/// The receiver answers 503, and the sender delivers again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The store was not reached, or reported an error. The write may or may not have taken place.
    #[error("the store is unavailable")]
    Unavailable(#[source] BoxError),
    /// The store has reached its limit and wrote nothing.
    #[error("the store is full")]
    Full,
}

impl StoreError {
    /// Wraps a driver's error.
    pub fn unavailable(error: impl Into<BoxError>) -> Self {
        Self::Unavailable(error.into())
    }
}

/// Whether a write under a claim or a lease took place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a stale write did nothing"]
pub enum Fenced {
    /// The write took place, now or in an earlier call with the same token.
    Applied,
    /// The token no longer owns the job. Nothing was written.
    Stale,
}
