//! The stores in databases, on real servers. `tests/run.sh --quick` leaves these tests out.

mod contract;
mod postgres;
mod proxy;
mod redis;
pub mod server;
