//! Random pauses between attempts, under a bound that doubles.

use std::time::Duration;

use crate::random;

/// The pauses between attempts: each is bounded, and the bound doubles with every attempt.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backoff {
    pub(crate) first: Duration,
    pub(crate) longest: Duration,
}

impl Backoff {
    /// A pause between zero and the bound, so that attempts which failed together are not repeated together.
    pub(crate) fn after(self, attempts: u32) -> Duration {
        random_part(self.bound(attempts))
    }

    /// A pause between the bound and a quarter more, for calls that must not come more often than the bound.
    pub(crate) fn at_least(self, attempts: u32) -> Duration {
        let bound = self.bound(attempts);
        bound + random_part(bound / 4)
    }

    /// The longest pause after this number of attempts.
    pub(crate) fn bound(self, attempts: u32) -> Duration {
        let doubled = 1u32.checked_shl(attempts.saturating_sub(1)).unwrap_or(u32::MAX);
        self.first.saturating_mul(doubled).min(self.longest)
    }
}

/// A random duration between zero and `whole`.
fn random_part(whole: Duration) -> Duration {
    whole / (1 << 16) * u32::from(random::u64() as u16)
}

/// A duration shortened by a random part of up to a quarter, so that processes that start together drift apart.
pub(crate) fn jittered(whole: Duration) -> Duration {
    whole - random_part(whole / 4)
}
