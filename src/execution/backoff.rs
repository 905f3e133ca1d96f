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

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_random_pause_stays_within_its_bounds() {
        let backoff = Backoff { first: SECOND, longest: SECOND * 6 };
        for (attempts, bound) in [(0, 1), (1, 1), (2, 2), (3, 4), (4, 6), (33, 6), (u32::MAX, 6)] {
            let bound = SECOND * bound;
            let pauses = |pause: &dyn Fn() -> Duration| [(); 1000].map(|()| pause());
            let (after, at_least) =
                (pauses(&|| backoff.after(attempts)), pauses(&|| backoff.at_least(attempts)));
            let shortened = pauses(&|| jittered(bound));
            assert!(after.iter().all(|pause| *pause < bound), "{after:?}");
            assert!(at_least.iter().all(|pause| (bound..bound + bound / 4).contains(pause)), "{at_least:?}");
            assert!(
                shortened.iter().all(|pause| (bound - bound / 4..=bound).contains(pause)),
                "{shortened:?}"
            );
            // They use all of the room: a thousand of them leave out a tenth of it once in 10⁴⁵ times.
            let tenth = bound / 10;
            assert!(
                after.iter().any(|pause| *pause < tenth) && after.iter().any(|pause| *pause > bound - tenth)
            );
            assert!(at_least.iter().any(|pause| *pause > bound + bound / 5));
            assert!(shortened.iter().any(|pause| *pause < bound - bound / 5));
        }
    }
}
