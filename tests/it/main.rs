//! What the crate promises, shown on real servers, or under paused time.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;
