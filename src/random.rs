//! Random numbers for names and pauses. Secrets come straight from the operating system.

use std::hash::{BuildHasher, RandomState};

/// A number that no other process draws, for a name.
pub(crate) fn unique() -> u64 {
    // The second source is for an operating system whose first one fails.
    getrandom::u64().unwrap_or_else(|_| RandomState::new().hash_one(std::process::id()))
}

/// A random number, for a pause or a choice.
pub(crate) fn u64() -> u64 {
    #[cfg(feature = "conformance")]
    if let Some(number) = seeded::next() {
        return number;
    }
    unique()
}

/// Numbers that follow from a seed, for the simulation of this repository.
#[cfg(feature = "conformance")]
pub(crate) mod seeded {
    use std::cell::Cell;

    thread_local! {
        static STATE: Cell<Option<u64>> = const { Cell::new(None) };
    }

    /// Lets the pauses and choices of this thread follow from a seed.
    pub(crate) fn set(seed: u64) {
        STATE.set(Some(seed));
    }

    /// The next number of the seed (SplitMix64); `None` without a seed.
    pub(super) fn next() -> Option<u64> {
        let state = STATE.get()?.wrapping_add(0x9e37_79b9_7f4a_7c15);
        STATE.set(Some(state));
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Some(mixed ^ (mixed >> 31))
    }
}
