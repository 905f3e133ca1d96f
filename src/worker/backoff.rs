//! How long to wait, and that it is at random.

use std::time::Duration;

/// How long to wait between attempts: somewhere from nothing to a bound that doubles with each, so that what
/// failed together is not tried together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Backoff {
    pub(super) first: Duration,
    pub(super) longest: Duration,
}

impl Backoff {
    /// How long to wait after so many attempts.
    pub(super) fn after(self, attempts: u32) -> Duration {
        let doubled = 1u32.checked_shl(attempts.saturating_sub(1)).unwrap_or(u32::MAX);
        random_part(self.first.saturating_mul(doubled).min(self.longest))
    }
}

/// Somewhere between nothing and a duration.
fn random_part(whole: Duration) -> Duration {
    // Without randomness, the middle: late is better than at once.
    let random = getrandom::u32().unwrap_or(u32::MAX / 2) >> 16;
    whole / (1 << 16) * random
}

/// A duration, or up to a quarter less: what starts together should not stay together.
pub(super) fn jittered(whole: Duration) -> Duration {
    whole - random_part(whole / 4)
}
