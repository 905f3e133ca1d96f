//! Times as rows keep them.

use std::time::Duration;

/// Microseconds since an epoch of the store's own choice. Arithmetic ends at the last time there is, about 292,000
/// years after the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Timestamp(pub(super) i64);

impl Timestamp {
    pub(super) const MIN: Self = Self(i64::MIN);
    #[cfg(feature = "sqlite")]
    pub(super) const MAX: Self = Self(i64::MAX);

    pub(super) fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(microseconds(duration)))
    }

    pub(super) fn before(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(microseconds(duration)))
    }

    /// The time that has passed since an earlier timestamp; zero if that one is later.
    pub(super) fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

fn microseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
