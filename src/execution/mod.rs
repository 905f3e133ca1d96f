//! One run of the handler under a lease: renewal, isolation of panics, drain, and writes that are retried until the
//! lease ends.

pub(crate) mod backoff;
pub(crate) mod bounds;
pub(crate) mod drain;
pub(crate) mod isolation;
pub(crate) mod lease;
pub(crate) mod retry;
pub(crate) mod run;
