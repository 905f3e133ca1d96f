//! The receiver in salvo.
//!
//! ```sh
//! WEBHOOK_TOKEN=… cargo run --bin with_salvo
//! ```

use std::time::Duration;

use qomplement_webhooks::{BoxError, SharedToken, WebhookEvent, WebhookReceiver, handler_fn};
use salvo::conn::TcpListener;
use salvo::http::ReqBody;
use salvo::prelude::TowerServiceCompat;
use salvo::{Listener, Router, Server};

pub fn app(receiver: WebhookReceiver) -> Router {
    // The receiver takes any type of body, so the call names salvo's.
    let receiver = TowerServiceCompat::<ReqBody, _, _, _>::compat(receiver);
    Router::with_path("api/webhooks/qomplement").goal(receiver)
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let handler = handler_fn(|event: WebhookEvent| async move {
        println!("{}: {}", event.job().id(), event.name());
        Ok(())
    });
    let token = SharedToken::from_env("WEBHOOK_TOKEN")?;
    let receiver = WebhookReceiver::builder(handler).token(token).build()?;

    let server = Server::new(TcpListener::new("127.0.0.1:3000").bind().await);
    let handle = server.handle();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            handle.stop_graceful(Duration::from_secs(10));
        }
    });
    server.try_serve(app(receiver.clone())).await?;
    receiver.shutdown(Duration::from_secs(10)).await;
    Ok(())
}
