//! What the crate promises, shown on real servers, or under paused time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub)]

mod alerts;
mod allocations;
mod answers;
mod bodies;
mod budget;
mod connections;
mod dashboards;
mod databases;
mod dead_letters;
mod documents;
mod durable;
mod examples;
mod faults;
mod hand_written;
mod handling;
mod jobs;
mod jobs_client;
mod leases;
mod metrics;
mod own_stores;
mod package;
mod races;
mod reconcile;
mod refusals;
mod secrets;
mod sender;
mod settings;
mod shutdown;
mod sqlite;
mod stopped;
mod support;
mod telemetry;
mod verify;
mod worker;
mod worker_faults;
