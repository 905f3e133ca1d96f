//! The faults of a run: which strike follows from the seed, and each can be left out.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use crate::dice::Dice;

/// The name of one fault: the `number`th chance of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FaultId {
    pub kind: &'static str,
    /// The process or the job.
    pub of: u64,
    pub number: u64,
}

/// The faults of one run.
#[derive(Debug)]
pub struct Faults {
    dice: Dice,
    /// Faults that are left out, to find those that matter.
    dropped: HashSet<FaultId>,
    /// No fault strikes after this time.
    until: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    chances: HashMap<(&'static str, u64), u64>,
    struck: Vec<FaultId>,
}

impl Faults {
    pub fn new(dice: Dice, dropped: HashSet<FaultId>, until: Duration) -> Self {
        Self { dice, dropped, until, state: Mutex::default() }
    }

    /// Whether a fault of this kind strikes now, with the dice that say which.
    ///
    /// A seed draws how many of a thousand chances of a kind strike, often none: runs differ more in that way than with
    /// one rate for all.
    pub fn strikes(&self, now: Duration, kind: &'static str, of: u64) -> Option<Dice> {
        let number = {
            let mut state = self.state.lock().unwrap();
            let number = state.chances.entry((kind, of)).or_default();
            *number += 1;
            *number
        };
        let rate = self.dice.of("rate", 0).of(kind, 0).pick(&[0, 0, 0, 20, 60, 200, 400]);
        let dice = self.dice.of(kind, of).of("strike", number);
        let strikes = now < self.until && dice.in_thousand(rate);
        (strikes && self.happens(FaultId { kind, of, number })).then(|| dice.of("which", 0))
    }

    /// Whether a planned fault happens: it is not left out.
    pub fn happens(&self, fault: FaultId) -> bool {
        let happens = !self.dropped.contains(&fault);
        if happens {
            self.state.lock().unwrap().struck.push(fault);
        }
        happens
    }

    /// The faults so far.
    pub fn struck(&self) -> Vec<FaultId> {
        self.state.lock().unwrap().struck.clone()
    }
}

impl fmt::Display for FaultId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}#{}", self.kind, self.of, self.number)
    }
}
