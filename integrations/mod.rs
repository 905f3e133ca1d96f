//! Adapters: each mounts `WebhookReceiver` and `InboxPage` in one web framework.
//!
//! An adapter translates and holds no policy. The README beside this file lists its duties.

#[cfg(feature = "actix-web")]
mod actix_web;
#[cfg(feature = "axum")]
mod axum;
#[cfg(any(feature = "actix-web", feature = "warp"))]
mod body;
#[cfg(feature = "hyper")]
mod hyper;
#[cfg(any(feature = "actix-web", feature = "axum", feature = "hyper", feature = "tower", feature = "warp"))]
mod mountable;
#[cfg(feature = "tower")]
mod tower;
#[cfg(feature = "warp")]
pub mod warp;
