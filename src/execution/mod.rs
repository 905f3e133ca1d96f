//! One run of the handler under a claim or a lease, and what both modes need for it.

pub(crate) mod backoff;
pub(crate) mod bounds;
pub(crate) mod drain;
pub(crate) mod isolation;
pub(crate) mod lease;
pub(crate) mod run;
