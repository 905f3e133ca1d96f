//! Races in the crate's own sources, which `build.rs` copies, under shuttle.
//!
//! Shuttle has no time: a time limit passes only when a test says so. A wake-up that is missed is a deadlock, which
//! shuttle reports with the order that led to it.
#![cfg(test)]
// The races need parts of the sources only.
#![allow(dead_code)]

mod dedup;
mod drain;
mod map;
mod queue;

/// How many orders of each race are run.
const ORDERS: usize = 2_000;

/// Runs a race in many random orders, and in many with few switches between its threads.
fn race(race: impl Fn() + Send + Sync + Clone + 'static) {
    let orders = std::env::var("ORDERS").map_or(ORDERS, |text| text.parse().expect("ORDERS is a number"));
    shuttle::check_random(race.clone(), orders);
    shuttle::check_pct(race, orders, 3);
}

// The paths that the copied sources name.
mod error {
    pub(crate) use qomplement_webhooks::BoxError;
}
mod event {
    pub(crate) use qomplement_webhooks::JobId;
}
mod store {
    pub(crate) use qomplement_webhooks::store::{Fenced, StoreError};
}
mod execution {
    pub(crate) mod isolation {
        include!(concat!(env!("OUT_DIR"), "/isolation.rs"));
    }
}
