//! Mounts [`WebhookReceiver`](crate::WebhookReceiver) in web frameworks: each module translates, and
//! decides nothing. What an adapter owes is in the README beside this file.

#[cfg(feature = "actix-web")]
mod actix_web;
#[cfg(feature = "axum")]
mod axum;
#[cfg(any(feature = "actix-web", feature = "warp"))]
mod body;
#[cfg(feature = "hyper")]
mod hyper;
#[cfg(feature = "tower")]
mod tower;
#[cfg(feature = "warp")]
pub mod warp;
