//! The receiver with nothing but `http` types: for a framework without an adapter in this crate, or for a function in
//! another server, as on a serverless platform.
//!
//! ```sh
//! cargo run --example any_framework
//! ```

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use qomplement_webhooks::{SharedToken, WebhookEvent, WebhookReceiver, handler_fn};

/// The adapter, which such a framework calls with each request. It checks the head before it reads the body.
async fn function(receiver: &WebhookReceiver, request: Request<Full<Bytes>>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    if let Err(refused) = receiver.authenticate(&head).await {
        return refused;
    }
    // Read the body as your framework does, and limit its size.
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
