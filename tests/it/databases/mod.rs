//! The stores in databases, on real servers. `tests/run.sh --quick` leaves these tests out.

mod clocks;
mod contract;
mod outages;
mod postgres;
mod postgres_hosts;
pub mod postgres_inbox;
mod postgres_pools;
mod postgres_tables;
mod postgres_transaction;
mod processes;
mod redis;
mod settings;
