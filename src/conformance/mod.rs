//! Test suites for the contracts of [`DedupStore`](crate::DedupStore) and [`InboxStore`](crate::InboxStore), also for
//! stores of your own (feature `conformance`).
//!
//! [`dedup_all`] and [`inbox_all`] each run every check of a contract. They panic if a check fails, with a line for each
//! failed check: its name, which states the rule, and what the store did instead.
//!
//! ```
//! # use qomplement_webhooks::MemoryDedupStore as MyStore;
//! # fn main() {
//! #[tokio::main] // in your tests: #[tokio::test(flavor = "multi_thread")]
//! async fn my_store_conforms() {
//!     let store = MyStore::new();
//!     let differences = [qomplement_webhooks::conformance::DedupDifference::ForgetsOwnersOfFreeJobs];
//!     qomplement_webhooks::conformance::dedup_all(&store, &store, &differences).await;
//! }
//! # my_store_conforms() }
//! ```
//!
//! - Job ids are new in each run, so a store may keep its rows between runs; a dedup store has one done job of each run for
//!   a century. No other process may use an inbox during a run: the suite leases every row that is due.
//! - Use a runtime with several threads: calls then race in parallel. On one thread they only take turns at their waits.
//! - Leases are short, and the suite waits for their ends on tokio's clock. A store on that clock can run under paused
//!   time and then takes no time; any other store takes about ten seconds of real time for each suite.
//! - A slow store or machine makes a check longer, not wrong: the suite allows for the duration of the calls themselves
//!   before it takes a lease for ended.

mod dedup;
mod harness;
mod inbox;
#[cfg(test)]
mod tests;

pub use self::dedup::{DedupDifference, dedup_all};
pub use self::inbox::{InboxDifference, inbox_all};

/// Lets the pauses that this crate draws in this thread follow from a seed: for the simulation in `tests/sim`.
#[doc(hidden)]
pub fn seed_random_numbers(seed: u64) {
    crate::random::seeded::set(seed);
}
