//! The receiver with nothing but `http` types: for a framework that this crate does not know, or for a
//! function that somebody else's server calls.
//!
//! ```sh
//! cargo run --example any_framework
//! ```

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use qomplement_webhooks::{SharedToken, WebhookEvent, WebhookReceiver, handler_fn};

/// What such a framework calls with a whole request. This is the adapter: the head is checked before
/// the body is even asked for.
async fn function(receiver: &WebhookReceiver, request: Request<Full<Bytes>>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    if let Err(refused) = receiver.authenticate(&head).await {
        return refused;
    }
    // Here: however the framework reads a body, and its own limit on it.
    let body = match body.collect().await {
        Ok(body) => body.to_bytes(),
        Err(never) => match never {},
    };
    receiver.receive_parts(&head, body).await
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let token = SharedToken::generate()?;
    let handler = handler_fn(|event: WebhookEvent| async move {
        println!("handled {} {}", event.name(), event.job().id());
        Ok(())
    });
    let receiver = WebhookReceiver::builder(handler).token(token.clone()).build()?;

    let body = r#"{"job_id": "job-7", "data": {"id": "job-7", "type": "fill_pdf", "status": "failed"}}"#;
    for query in [format!("?token={}", token.expose()), "?token=guessed".to_owned()] {
        let request = Request::post(format!("/webhook{query}")).body(Full::from(body))?;
        let reply = function(&receiver, request).await;
        println!(
            "{} {}",
            reply.status(),
            String::from_utf8_lossy(&reply.into_body().collect().await?.to_bytes())
        );
    }
    Ok(())
}
