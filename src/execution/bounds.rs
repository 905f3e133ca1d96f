//! The bounds of the durations that settings give.

use std::time::Duration;

/// The longest duration of a setting. A longer one, such as [`Duration::MAX`] for "no limit", counts as this,
/// so that adding it to an instant, or storing when it ends, cannot fail.
pub(crate) const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// The shortest time of something that is given time at all.
pub(crate) const MILLISECOND: Duration = Duration::from_millis(1);
