//! Finds the few faults that a broken promise needs.

use std::collections::HashSet;

use crate::faults::FaultId;
use crate::run::{Ended, Options, run};

/// The most runs for one failure.
const MOST_RUNS: usize = 400;

/// Leaves out as many faults of a failed run as it can, so that the run still fails. Returns the faults that are left out
/// and the end of that run, with its trace.
pub fn shrink(seed: u64, options: &Options, failed: Ended) -> (HashSet<FaultId>, Ended) {
    let (mut dropped, mut failed) = (options.dropped.clone(), failed);
    let mut part = failed.faults.len().div_ceil(2);
    let mut runs = 0;
    while part > 0 {
        let (mut from, before) = (0, failed.faults.len());
        while from < failed.faults.len() && runs < MOST_RUNS {
            runs += 1;
            let fewer: HashSet<_> = failed.faults.iter().skip(from).take(part).copied().collect();
            let fewer = &dropped | &fewer;
            let again = run(seed, &Options { dropped: fewer.clone(), ..options.clone() });
            if again.violation.is_some() {
                (dropped, failed) = (fewer, again);
            } else {
                from += part;
            }
        }
        // One by one until no single fault can be left out.
        part = if part == 1 && failed.faults.len() < before && runs < MOST_RUNS { 1 } else { part / 2 };
    }
    let ended = run(seed, &Options { dropped: dropped.clone(), keep_lines: true, ..options.clone() });
    (dropped, ended)
}
