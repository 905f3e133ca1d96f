//! How long to wait, and that it is at random.

use std::time::Duration;

/// How long to wait between attempts: a bound that doubles with each.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backoff {
    pub(crate) first: Duration,
    pub(crate) longest: Duration,
}

impl Backoff {
    /// How long to wait after so many attempts: somewhere from nothing to the bound, so that what failed together
    /// is not tried together.
    pub(crate) fn after(self, attempts: u32) -> Duration {
        random_part(self.bound(attempts))
    }

    /// The same, but never much less than the bound: for what must not be asked more often than that.
    pub(crate) fn at_least(self, attempts: u32) -> Duration {
        let bound = self.bound(attempts);
        bound + random_part(bound / 4)
    }

    fn bound(self, attempts: u32) -> Duration {
        let doubled = 1u32.checked_shl(attempts.saturating_sub(1)).unwrap_or(u32::MAX);
        self.first.saturating_mul(doubled).min(self.longest)
    }
}

/// Somewhere between nothing and a duration.
fn random_part(whole: Duration) -> Duration {
    // Without randomness, the middle: late is better than at once.
    let random = getrandom::u32().unwrap_or(u32::MAX / 2) >> 16;
    whole / (1 << 16) * random
}

/// A duration, or up to a quarter less: what starts together should not stay together.
pub(crate) fn jittered(whole: Duration) -> Duration {
    whole - random_part(whole / 4)
}
