//! x
#![allow(missing_docs)]
pub mod auth;
pub mod dedup;
mod event;
mod handler;
mod jobs;
mod store;
pub use async_trait::async_trait;
pub use auth::*;
pub use dedup::*;
pub use event::*;
pub use handler::*;
pub use jobs::*;
pub use store::*;
