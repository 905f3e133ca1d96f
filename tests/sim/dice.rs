//! Random numbers that follow from a seed and a name, whatever else is drawn.

use std::ops::RangeInclusive;
use std::time::Duration;

/// A random number, and the source of further ones.
#[derive(Debug, Clone, Copy)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(mixed(seed))
    }

    /// The dice of this name and number: no other draw changes them.
    pub fn of(self, name: &str, number: u64) -> Self {
        let name = name.bytes().fold(0xcbf2_9ce4_8422_2325, hashed);
        Self(mixed(self.0 ^ name.wrapping_add(mixed(number))))
    }

    pub fn below(self, end: u64) -> u64 {
        (self.0 >> 16) % end
    }

    pub fn between(self, range: RangeInclusive<u64>) -> u64 {
        range.start() + self.below(range.end() - range.start() + 1)
    }

    pub fn millis(self, range: RangeInclusive<u64>) -> Duration {
        Duration::from_millis(self.between(range))
    }

    /// True in this many of a thousand cases.
    pub fn in_thousand(self, cases: u64) -> bool {
        self.below(1000) < cases
    }

    pub fn pick<T: Copy>(self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// One step of a hash (FNV-1a).
pub fn hashed(hash: u64, byte: u8) -> u64 {
    (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
}

fn mixed(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}
