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
//! # The promise
//!
//! *Inline* ([`WebhookReceiver::builder`]): a 2xx means that the handler finished. At most one delivery of a job runs
//! the handler at a time, over any number of processes that share a [`DedupStore`], as long as the store keeps the
//! writes that it acknowledged. After a success, no duplicate runs the handler until retention ends (with a
//! [`MemoryDedupStore`]: or until a restart, or until the store is full and needs the room). After a failure or a crash, the sender's next delivery runs the handler
//! again; there are three deliveries.
//!
//! *Durable* ([`WebhookReceiver::durable`]): a 2xx means that the event is committed to an [`InboxStore`]. An
//! [`InboxWorker`] then runs the handler at least once, until it succeeds or the event is a dead letter, even after
//! crashes.
//!
//! In both modes, a request that is not authenticated changes nothing and learns nothing.
//!
//! # Modules
//!
//! | module | contents |
//! |---|---|
//! | [`event`] | events, jobs and results: [`WebhookEvent`], [`Job`], [`ExtractResult`], [`FillResult`], [`JobError`] |
//! | [`handler`] | your code: [`WebhookHandler`], [`HandlerError`], [`handler_fn`] |
//! | [`receiver`] | [`WebhookReceiver`] and its settings |
//! | [`auth`] | [`SharedToken`], [`WebhookUrl`], [`Authenticator`](auth::Authenticator) |
//! | [`registry`] | the list of started jobs: [`JobRegistry`](registry::JobRegistry) |
//! | [`dedup`] | inline mode, claims: [`DedupStore`], [`MemoryDedupStore`], `RedisDedupStore`, `PostgresDedupStore` |
//! | [`inbox`] | durable mode, stored events: [`InboxStore`], [`MemoryInbox`], `SqliteInbox`, `PostgresInbox`, [`InboxAdmin`](inbox::InboxAdmin) |
//! | [`worker`] | [`InboxWorker`], which runs the handler for stored events |
//! | [`fetch`] | results fetched from the API: `JobsClient`, [`JobSource`](fetch::JobSource), [`Reconciler`] |
//! | `page` | `InboxPage`, which shows an inbox in a browser |
//! | [`store`] | the results that both kinds of store share |
//! | [`telemetry`] | names of spans, fields and metrics |
//! | `sender`, `conformance` | for tests (features of the same names) |
//!
//! # Features
//!
//! No feature is on by default.
//!
//! - `axum`: mounts the receiver in axum 0.8. Includes `tower`.
//! - `actix-web`: mounts the receiver in actix-web 4, with `web::to(receiver.clone())`.
//! - `warp`: mounts the receiver in warp 0.4, with `warp::webhook(receiver)`.
//! - `hyper`, `tower`: the receiver as a service of hyper 1 or of tower.
//! - `metrics`: counters, histograms and gauges through the `metrics` facade.
//! - `redis`: `RedisDedupStore`; `redis-tls`: `rediss://` URLs for it, which make `aws_lc_rs` the process's default provider of
//!   rustls, unless one is installed.
//! - `postgres`: `PostgresDedupStore` and `PostgresInbox`; `postgres-tls`: `sslmode=require` in their URLs.
//! - `sqlite`: `SqliteInbox`, in one file.
//! - `page`: `InboxPage`, which shows an inbox in a browser; mounted like the receiver.
//! - `client`: `JobsClient`, which fetches jobs and documents from the API.
//! - `sender`: the documented sender, for tests in one process; `sender-http`: deliveries to URLs.
//! - `conformance`: test suites for your own stores.
//!
//! # Guide
//!
//! The [`guide`] has a chapter for each task, from the choice of a mode to operation; begin with [modes](guide::modes).

#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod auth;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod dedup;
mod error;
pub mod event;
mod execution;
pub mod fetch;
pub mod handler;
pub mod inbox;
#[path = "../integrations/mod.rs"]
mod integrations;
#[cfg(feature = "page")]
pub mod page;
#[cfg(feature = "postgres")]
pub mod postgres;
mod random;
pub mod receiver;
pub mod registry;
#[cfg(feature = "sender")]
pub mod sender;
pub mod store;
pub mod telemetry;
pub mod worker;

/// The attribute for implementations of this crate's traits.
pub use async_trait::async_trait;

pub use self::auth::{SharedToken, WebhookUrl};
#[cfg(feature = "postgres")]
pub use self::dedup::PostgresDedupStore;
#[cfg(feature = "redis")]
pub use self::dedup::RedisDedupStore;
pub use self::dedup::{DedupStore, MemoryDedupStore};
pub use self::error::BoxError;
pub use self::event::{ExtractResult, FillResult, Job, JobError, JobId, JobStatus, JobType, WebhookEvent};
#[cfg(feature = "client")]
pub use self::fetch::JobsClient;
pub use self::fetch::Reconciler;
pub use self::handler::{HandlerError, WebhookHandler, handler_fn};
#[cfg(feature = "postgres")]
pub use self::inbox::PostgresInbox;
#[cfg(feature = "sqlite")]
pub use self::inbox::SqliteInbox;
pub use self::inbox::{InboxStore, MemoryInbox};
#[cfg(feature = "warp")]
pub use self::integrations::warp;
pub use self::receiver::WebhookReceiver;
pub use self::worker::{InboxWorker, Verification};

#[cfg(any(
    all(doc, not(doctest)),
    all(
        doctest,
        feature = "axum",
        feature = "client",
        feature = "conformance",
        feature = "page",
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
