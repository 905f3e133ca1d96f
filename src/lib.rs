//! Receives Qomplement's webhooks in your own web application.
//!
//! Implement [`WebhookHandler`], build a [`WebhookReceiver`], and mount it for all methods of one path:
//!
//! ```
//! # #[cfg(feature = "axum")] fn app() -> Result<axum::Router, Box<dyn std::error::Error>> {
//! use axum::{Router, routing::any};
//! use qomplement_webhooks::{SharedToken, WebhookEvent, WebhookReceiver, handler_fn};
//!
//! let handler = handler_fn(|event: WebhookEvent| async move {
//!     println!("{} {}", event.name(), event.job().id());
//!     Ok(())
//! });
//! let receiver = WebhookReceiver::builder(handler).token(SharedToken::from_env("WEBHOOK_TOKEN")?).build()?;
//! let app: Router = Router::new().route("/api/webhooks/qomplement", any(receiver));
//! # Ok(app) }
//! ```
//!
//! # What is promised
//!
//! *Inline* ([`WebhookReceiver::builder`]): a 2xx means that the handler finished. Of any number of duplicates of a
//! job's webhook, over any number of processes that share a [`DedupStore`], at most one runs the handler at a time, as
//! long as the store keeps the writes that it acknowledged. After a success none runs it until retention ends (in a
//! [`MemoryDedupStore`], also until a restart). After a failure or a crash, the sender's next delivery runs it again; a
//! failure of the sender's third delivery is final. A status other than 2xx does not tell whether the handler ran.
//!
//! *Durable* ([`WebhookReceiver::durable`]): a 2xx means that the event is committed to an [`InboxStore`]. An
//! [`InboxWorker`] then runs the handler at least once, until it succeeds or the event is a dead letter, whatever
//! crashes.
//!
//! In both modes, a request that is not authenticated changes nothing and learns nothing.
//!
//! # Where to look
//!
//! | for | see |
//! |---|---|
//! | events and their results | [`WebhookEvent`], [`Job`], [`ExtractResult`], [`FillResult`], [`JobError`], [`RawJson`] |
//! | your code | [`WebhookHandler`], [`HandlerError`], [`handler_fn`] |
//! | receiving, and its limits | [`WebhookReceiver`], [`WebhookReceiverBuilder`] |
//! | authentication | [`SharedToken`], [`WebhookUrl`], [`Authenticator`], [`JobRegistry`] |
//! | one run per job, inline | [`DedupStore`], [`MemoryDedupStore`], `RedisDedupStore`, `PostgresDedupStore` |
//! | stored events | [`InboxStore`], `SqliteInbox`, `PostgresInbox`, [`MemoryInbox`], [`InboxWorker`], [`InboxAdmin`] |
//! | fetching from the API | [`JobSource`], `JobsClient`, [`Reconciler`], [`Verification`] |
//! | logs and metrics | [`telemetry`] |
//! | tests | `sender`, `conformance` (features of the same names) |
//!
//! # Features
//!
//! - `axum`: mounts the receiver in axum 0.8. Includes `tower`.
//! - `actix-web`: mounts it in actix-web 4, with `web::to(receiver.clone())`.
//! - `warp`: mounts it in warp 0.4, with `warp::webhook(receiver)`.
//! - `hyper`: the receiver as a service of hyper 1.
//! - `tower`: the receiver as a tower service.
//! - `metrics`: counters and histograms through the `metrics` facade.
//! - `sender`: the documented sender, for tests in one process; `sender-http`: deliver to URLs.
//! - `redis`: `RedisDedupStore`, shared by processes; `redis-tls`: `rediss://` URLs for it.
//! - `postgres`: `PostgresDedupStore` and `PostgresInbox`, shared by processes; `postgres-tls`:
//!   `sslmode=require` in URLs for them.
//! - `sqlite`: `SqliteInbox`, in one file.
//! - `client`: `JobsClient`, which asks the API for jobs and downloads documents.
//! - `cli`: the program `qomplement-webhooks`, which sends, listens, and looks into inboxes; nothing in this
//!   library. Unix.
//! - `conformance`: the suites that any store must pass.
//!
//! None is on by default.
//!
//! # The guide
//!
//! [`guide`] has the chapters: [modes](guide::modes), [durable](guide::durable),
//! [never lose a result](guide::never_lose_a_result), [dedup stores](guide::dedup_stores), the
//! [answer to every request](guide::answers), [security](guide::security), [operating](guide::operating), the
//! [command line](guide::command_line), [testing](guide::testing) and the [glossary](guide::glossary).

#![cfg_attr(docsrs, feature(doc_cfg))]

mod auth;
#[cfg(feature = "conformance")]
pub mod conformance;
mod dedup;
mod error;
mod event;
mod execution;
mod fetch;
mod handler;
mod inbox;
#[path = "../integrations/mod.rs"]
mod integrations;
#[cfg(feature = "postgres")]
mod postgres;
mod receiver;
mod registry;
#[cfg(feature = "sender")]
pub mod sender;
mod store;
pub mod telemetry;
mod worker;

/// What the methods of this crate's traits are written with.
pub use async_trait::async_trait;
/// The strings in results: slices of the webhook's body.
pub use bytestring::ByteString;

pub use self::auth::{Access, Authenticator, SharedToken, TokenError, WebhookUrl, WebhookUrlError};
#[cfg(feature = "postgres")]
pub use self::dedup::PostgresDedupStore;
pub use self::dedup::{Claim, ClaimToken, DedupStore, MemoryDedupStore};
#[cfg(feature = "redis")]
pub use self::dedup::{RedisDedupStore, RedisStoreError};
pub use self::error::BoxError;
pub use self::event::{
    Envelope, ExtractResult, FillResult, InvalidJobId, Job, JobError, JobId, JobIdStr, JobStatus, JobType,
    ParseError, RawJson, WebhookEvent,
};
#[cfg(feature = "client")]
pub use self::fetch::{
    ApiKey, ApiKeyError, Download, DownloadError, JobsClient, JobsClientBuilder, JobsClientError,
};
pub use self::fetch::{
    BudgetClosed, FetchError, Fetched, JobSource, Reconciler, RequestBudget, RequestPermit, RunningReconciler,
};
pub use self::handler::{HandlerError, HandlerFn, WebhookHandler, handler_fn};
pub use self::inbox::{
    Asked, InboxAdmin, InboxFilter, InboxRow, InboxState, InboxStats, InboxStore, Lease, Leased, MemoryInbox,
    Outcome, Overdue, Pruned, Receipt, Retention, Unfinished,
};
#[cfg(feature = "postgres")]
pub use self::inbox::{CompleteError, PostgresInbox};
#[cfg(feature = "sqlite")]
pub use self::inbox::{SqliteInbox, SqliteInboxBuilder, SqliteInboxError};
#[cfg(feature = "warp")]
pub use self::integrations::warp;
#[cfg(feature = "postgres")]
pub use self::postgres::{PostgresStoreError, PostgresTableError};
pub use self::receiver::{BuildError, WebhookReceiver, WebhookReceiverBuilder};
pub use self::registry::{JobRegistry, MemoryJobRegistry};
pub use self::store::{Fenced, StoreError};
pub use self::worker::{InboxWorker, RunningWorker, Verification};

#[cfg(any(
    all(doc, not(doctest)),
    all(
        doctest,
        feature = "axum",
        feature = "client",
        feature = "conformance",
        feature = "postgres",
        feature = "redis",
        feature = "sender",
        feature = "sqlite"
    )
))]
pub mod guide;

#[cfg(all(doctest, feature = "axum"))]
#[doc = include_str!("../README.md")]
mod readme {}
