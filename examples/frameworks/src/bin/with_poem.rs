//! The receiver in poem.
//!
//! ```sh
//! WEBHOOK_TOKEN=… cargo run --bin with_poem
//! ```

use std::time::Duration;

use poem::endpoint::TowerCompatExt;
use poem::listener::TcpListener;
use poem::{Route, Server};
use qomplement_webhooks::{BoxError, SharedToken, WebhookEvent, WebhookReceiver, handler_fn};

pub fn app(receiver: WebhookReceiver) -> Route {
    Route::new().at("/api/webhooks/qomplement", receiver.compat())
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let handler = handler_fn(|event: WebhookEvent| async move {
        println!("{}: {}", event.job().id(), event.name());
        Ok(())
    });
    let token = SharedToken::from_env("WEBHOOK_TOKEN")?;
    let receiver = WebhookReceiver::builder(handler).token(token).build()?;

    let stop = async { drop(tokio::signal::ctrl_c().await) };
    let server = Server::new(TcpListener::bind("127.0.0.1:3000"));
    server.run_with_graceful_shutdown(app(receiver.clone()), stop, Some(Duration::from_secs(10))).await?;
    receiver.shutdown(Duration::from_secs(10)).await;
    Ok(())
}
