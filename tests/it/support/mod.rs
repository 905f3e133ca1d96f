//! The tests' helpers: handlers, stores and APIs that misbehave, and real servers.

mod alone;
pub mod answers;
pub mod api;
pub mod certificate;
pub mod chromium;
pub mod databases;
mod dedup_stores;
pub mod faketime;
mod faults;
pub mod fleet;
pub mod http;
pub mod inboxes;
pub mod metrics;
pub mod model;
pub mod programs;
pub mod proxy;
mod requests;
mod script;
pub mod servers;

use std::time::Duration;

pub use self::alone::is_alone;
pub use self::dedup_stores::{FaultyStore, StandingStore};
pub use self::faults::{Call, FAULTS, Fault, Faults};
pub use self::requests::{PATH, TOKEN, request};
pub use self::script::{Act, Gate, Script};

/// Polls a condition until it is true, where no notification exists.
pub async fn eventually(what: &str, is_so: impl AsyncFn() -> bool) {
    let asks = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), asks).await.unwrap_or_else(|_| panic!("never so: {what}"));
}
