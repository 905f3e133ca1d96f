//! The metrics without the feature `metrics`: nothing is recorded.

use std::time::Duration;

use tokio::time::Instant;

use crate::inbox::Pruned;

pub(crate) fn attempt(_: &'static str) {}
pub(crate) fn request(_: &'static str, _: Instant) {}
pub(crate) fn handler_run(_: &'static str, _: Instant) {}
pub(crate) fn waited(_: Duration, _: Instant) {}
pub(crate) fn handled(_: Duration, _: Instant) {}
pub(crate) fn leased() {}
pub(crate) fn fetched(_: &'static str) {}
pub(crate) fn budget(_: bool) {}
pub(crate) fn store_error(_: &'static str) {}
pub(crate) fn pruned(_: &Pruned) {}
