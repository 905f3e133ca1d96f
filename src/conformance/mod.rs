//! The suites that any store must pass, yours too (feature `conformance`).
//!
//! Each check is a function of its own that takes a store and panics with what is wrong with it;
//! [`dedup_all`] and [`inbox_all`] run them all and name those that failed:
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
//! - The jobs' ids are new in each run, so that a store which keeps its rows can be used again. An inbox must
//!   be nobody else's while the suite runs, as it leases whatever is due.
//! - Use a runtime with several threads: calls then run in parallel, and otherwise only take turns where they
//!   wait.
//! - Leases are short, and waited for with tokio's clock. A store whose clock that is, too, can be run with
//!   paused time, and takes no time at all; any other needs real time, about ten seconds for each suite.
//! - A lease is never taken to have ended before the time that the calls themselves took is over, so a slow
//!   store or machine makes a check longer, and not wrong.

mod dedup;
mod harness;
mod inbox;
#[cfg(test)]
mod tests;

pub use self::dedup::*;
pub use self::inbox::*;
