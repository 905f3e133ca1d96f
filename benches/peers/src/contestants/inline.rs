//! Contestants without a database.

use axum::routing::{any, post, post_service};
use axum::{Json, Router};
use bytes::Bytes;
use octoevents::{
    Action, BoxError, Dispatcher, EventKind, EventMeta, Verifier, WebhookReceiverBuilder, WebhookSecret,
};
use qomplement_webhooks::{WebhookReceiver, handler_fn};

use crate::webhook::Webhook;
use crate::{ANSWER, SECRET};

pub fn router(name: &str) -> Option<Router> {
    let route = match name {
        "axum, reads the body" => post(|body: Bytes| async move {
            std::hint::black_box(body);
            ANSWER
        }),
        // No check for duplicates, no time limit.
        "axum, typed" => post(|Json(webhook): Json<Webhook>| async move {
            std::hint::black_box(webhook);
            ANSWER
        }),
        "octoevents" => {
            async fn opened(meta: EventMeta) -> Result<(), BoxError> {
                std::hint::black_box(meta);
                Ok(())
            }
            let dispatcher = Dispatcher::builder().on((EventKind::Issues, Action::Opened), opened).build();
            let verifier = Verifier::new(WebhookSecret::new(SECRET));
            return Some(
                Router::new()
                    .route("/webhook", post_service(WebhookReceiverBuilder::new(verifier).build(dispatcher))),
            );
        }
        "ours, inline" => {
            let handler = handler_fn(|event| async move {
                std::hint::black_box(event);
                Ok(())
            });
            any(WebhookReceiver::builder(handler).token(super::ours::token()).build().unwrap())
        }
        _ => return None,
    };
    Some(Router::new().route("/webhook", route))
}
