//! Your server, and the documented webhooks that arrive at it over HTTP.
//!
//! ```sh
//! cargo run --example quickstart --features axum,sender-http
//! ```
//!
//! The sender here keeps to Qomplement's schedule, with its waits shortened a hundredfold.

use std::error::Error;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::any;
use qomplement_webhooks::sender::{Payload, Report, Sender};
use qomplement_webhooks::{
    ExtractResult, FillResult, HandlerError, Job, JobError, JobType, SharedToken, WebhookHandler,
    WebhookReceiver, WebhookUrl, async_trait,
};
use tokio::net::TcpListener;

/// Your code. It fails the first time that a form is filled.
#[derive(Default)]
struct Office {
    filled: AtomicU32,
}

#[async_trait]
impl WebhookHandler for Office {
    async fn extract_completed(&self, job: &Job, result: ExtractResult) -> Result<(), HandlerError> {
        let fields = result.fields.ok_or_else(|| HandlerError::permanent("nothing was extracted"))?;
        let total: Option<String> = fields.get("total_amount")?;
        say(job, &format!("an invoice over {}", total.unwrap_or_default()));
        Ok(())
    }

    async fn fill_completed(&self, job: &Job, result: FillResult) -> Result<(), HandlerError> {
        if self.filled.fetch_add(1, Ordering::Relaxed) == 0 {
            say(job, "a filled form, but the disk is full: another time, please");
            return Err("the disk is full".into());
        }
        say(job, &format!("a filled form, {} fields", result.fields_filled.unwrap_or(0)));
        Ok(())
    }

    async fn job_failed(&self, job: &Job, error: JobError) -> Result<(), HandlerError> {
        say(job, &format!("no luck: {}", error.message.unwrap_or_default()));
        Ok(())
    }
}

fn say(job: &Job, what: &str) {
    println!("    handler: {} {what}", job.job_type());
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // Your server: one route.
    let token = SharedToken::generate()?; // SharedToken::from_env("WEBHOOK_TOKEN")? in a real one
    let receiver = WebhookReceiver::builder(Office::default()).token(token.clone()).build()?;
    let app = Router::new().route("/api/webhooks/qomplement", any(receiver.clone()));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let server = tokio::spawn(axum::serve(listener, app).into_future());

    // What you would give to Qomplement as `webhook_url` with each job.
    let url = WebhookUrl::new(&format!("http://{address}/api/webhooks/qomplement"), &token)?;
    println!("webhook_url: {url}");

    // Qomplement's part, played by the test sender.
    let delays = Sender::RETRY_DELAYS.map(|delay| delay / 100);
    let sender = Sender::to_url(url.expose())?.retry_delays(delays);

    println!("an extraction has finished");
    let extraction = Payload::extract_completed();
    print(&sender.deliver(&extraction).await);

    println!("the same webhook comes again, five times at once");
    sender.deliver_at_once(&extraction, 5).await.iter().for_each(print);

    println!("a PDF form has been filled, and your handler fails the first time");
    print(&sender.deliver(Payload::fill_pdf_completed()).await);

    println!("an Excel form has been filled");
    print(&sender.deliver(Payload::fill_excel_completed()).await);

    println!("an extraction has failed");
    print(&sender.deliver(Payload::failed(&JobType::Extract)).await);

    println!("somebody without the token posts a forged result");
    let forger = Sender::to_url(format!("http://{address}/api/webhooks/qomplement"))?.retry_delays(delays);
    print(&forger.deliver(&extraction).await);

    let unfinished = receiver.shutdown(Duration::from_secs(5)).await;
    server.abort();
    println!("stopped with {unfinished} handlers unfinished");
    Ok(())
}

fn print(report: &Report) {
    let verdict = if report.is_delivered() { "delivered" } else { "undeliverable" };
    let deliveries = report.deliveries.iter().map(|delivery| match &delivery.result {
        Ok(answer) => format!("{} at {} ms", answer.status().as_u16(), delivery.at.as_millis()),
        Err(error) => format!("{error} at {} ms", delivery.at.as_millis()),
    });
    println!("    sender:  {verdict} ({})", deliveries.collect::<Vec<_>>().join(", "));
}
