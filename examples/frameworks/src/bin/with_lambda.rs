//! The receiver as an AWS Lambda function behind an API Gateway or a function URL: it stores events in PostgreSQL before
//! it acknowledges them, and an `InboxWorker` in a program that runs all the time handles them.
//!
//! AWS stops a function between two requests. So it keeps no handler that goes on after its request, and no worker.
//!
//! ```sh
//! cargo lambda build --release --bin with_lambda     # https://www.cargo-lambda.info
//! cargo lambda deploy with_lambda --enable-function-url --env-var WEBHOOK_TOKEN=… --env-var DATABASE_URL=postgres://…
//! ```

use qomplement_webhooks::{BoxError, PostgresInbox, SharedToken, WebhookReceiver};

pub async fn run(receiver: WebhookReceiver) -> Result<(), BoxError> {
    lambda_http::run(receiver).await
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let inbox = PostgresInbox::from_url(&std::env::var("DATABASE_URL")?)?;
    let token = SharedToken::from_env("WEBHOOK_TOKEN")?;
    run(WebhookReceiver::durable(inbox).token(token).build()?).await
}
