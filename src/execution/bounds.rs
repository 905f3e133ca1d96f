//! The bounds of the durations in settings.

use std::time::Duration;

/// The longest duration of a setting. A longer one, such as [`Duration::MAX`] for "no limit", counts as this one, so
/// that the sum with an instant, in this process or in a store, cannot overflow.
pub(crate) const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// The shortest duration of a setting that must not be zero.
pub(crate) const MILLISECOND: Duration = Duration::from_millis(1);
