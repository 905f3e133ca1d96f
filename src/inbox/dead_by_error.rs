//! Dead letters, counted by their error.

use std::collections::HashMap;

/// The newest dead letters, counted by their last error.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadByError {
    /// The errors, the most frequent first, each with the number of its rows. An empty text stands for no error.
    pub errors: Vec<(String, u64)>,
    /// Whether there may be older dead letters, which are not counted.
    pub more: bool,
}

impl DeadByError {
    /// Counts the errors of dead letters, for a store.
    #[must_use]
    pub fn new(errors: impl IntoIterator<Item = String>, more: bool) -> Self {
        let mut counts = HashMap::<String, u64>::new();
        for error in errors {
            *counts.entry(error).or_default() += 1;
        }
        let mut errors: Vec<_> = counts.into_iter().collect();
        errors.sort_unstable_by(|(error, count), (other, fewer)| fewer.cmp(count).then(error.cmp(other)));
        Self { errors, more }
    }
}
