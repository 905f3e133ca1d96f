//! x
mod auth;
mod dedup;
mod event;
mod handler;
#[path = "../integrations/mod.rs"]
mod integrations;
mod jobs;
mod receiver;
#[cfg(feature = "sender")]
pub mod sender;
mod store;
pub mod telemetry;

pub use async_trait::async_trait;
pub use bytestring::ByteString;

pub use self::auth::{Access, Authenticator, SharedToken, TokenError, WebhookUrl, WebhookUrlError};
pub use self::dedup::{Claim, ClaimToken, DedupStore, MemoryDedupStore};
pub use self::event::{
    ExtractResult, FillResult, InvalidJobId, Job, JobError, JobId, JobStatus, JobType, ParseError, RawJson,
    WebhookEvent,
};
pub use self::handler::{HandlerError, HandlerFn, WebhookHandler, handler_fn};
pub use self::jobs::{JobRegistry, MemoryJobRegistry};
pub use self::receiver::{BuildError, WebhookReceiver, WebhookReceiverBuilder};
pub use self::store::{Fenced, StoreError};
