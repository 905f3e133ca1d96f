//! The inbox in a browser: what arrived, why events died, and a button to replay them.
//!
//! ```sh
//! cargo run --example inbox_page --features axum,page,sender
//! ```

use axum::Router;
use axum::routing::any;
use qomplement_webhooks::page::{InboxPage, PageAccess};
use qomplement_webhooks::sender::{Payload, Sender};
use qomplement_webhooks::{
    BoxError, HandlerError, InboxWorker, JobType, MemoryInbox, Verification, WebhookEvent, WebhookReceiver,
    handler_fn,
};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let inbox = MemoryInbox::new(); // `SqliteInbox` or `PostgresInbox` in production
    let receiver = WebhookReceiver::durable(inbox.clone()).unauthenticated().build()?;
    let handler = handler_fn(|event: WebhookEvent| async move {
        match event {
            WebhookEvent::FillCompleted { .. } => Err(HandlerError::permanent("no such customer")),
            _ => Ok(()),
        }
    });
    let _worker = InboxWorker::new(inbox.clone(), handler, Verification::Trust).start();

    // Only this machine reaches the address below. Otherwise, decide by the request's session, or by a header that your
    // proxy sets, who may look and who may act.
    let page = InboxPage::new(inbox, |_head| async { PageAccess::full("me") });
    let app = Router::new().route("/admin/inbox", any(page));

    // Some events to look at.
    let sender = Sender::to_service(receiver.clone());
    let payloads =
        [Payload::extract_completed(), Payload::fill_pdf_completed(), Payload::failed(&JobType::Extract)];
    for payload in payloads {
        sender.deliver(payload).await;
    }
    let app = app.route("/api/webhooks/qomplement", any(receiver));
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    println!("open http://127.0.0.1:3000/admin/inbox");
    axum::serve(listener, app).await?;
    Ok(())
}
