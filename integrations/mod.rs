//! Mounts [`WebhookReceiver`](crate::WebhookReceiver) in web frameworks: each module translates, and
//! decides nothing.

#[cfg(feature = "axum")]
mod axum;
#[cfg(feature = "tower")]
mod tower;
