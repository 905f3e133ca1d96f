//! The whole circle on one machine: your server submits jobs, expects their webhooks, verifies them with the API and
//! downloads the filled forms; then the same with every webhook lost.
//!
//! ```sh
//! cargo run --example never_lose_a_result --features axum,client,sender-http,sqlite
//! ```
//!
//! The API is a stand-in on this machine; the webhooks are delivered on the documented schedule.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::any;
use qomplement_webhooks::fetch::ApiKey;
use qomplement_webhooks::sender::{Payload, Sender};
use qomplement_webhooks::{
    ExtractResult, FillResult, HandlerError, InboxStore, InboxWorker, Job, JobError, JobId, JobType,
    JobsClient, SharedToken, SqliteInbox, Verification, WebhookHandler, WebhookReceiver, WebhookUrl,
    async_trait,
};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use self::api::Api;

mod api;

/// Your code, which handles the results.
struct Office {
    client: JobsClient,
    /// A permit for each handled result, so that this example knows when all are handled.
    handled: Arc<Semaphore>,
}

#[async_trait]
impl WebhookHandler for Office {
    async fn extract_completed(&self, job: &Job, result: ExtractResult) -> Result<(), HandlerError> {
        let fields = result.fields.ok_or_else(|| HandlerError::permanent("nothing was extracted"))?;
        let total: Option<String> = fields.get("total_amount")?;
        self.say(job, &format!("an invoice over {}", total.unwrap_or_default()));
        Ok(())
    }

    async fn fill_completed(&self, job: &Job, result: FillResult) -> Result<(), HandlerError> {
        let (mut download, mut bytes) = (self.client.download(job.id()).await?, 0);
        while let Some(chunk) = download.chunk().await? {
            bytes += chunk.len(); // write it to a file, or on to your storage
        }
        self.say(job, &format!("{} fields filled, {bytes} bytes", result.fields_filled.unwrap_or(0)));
        Ok(())
    }

    async fn job_failed(&self, job: &Job, error: JobError) -> Result<(), HandlerError> {
        self.say(job, &format!("no luck: {}", error.message.unwrap_or_default()));
        Ok(())
    }
}

impl Office {
    fn say(&self, job: &Job, what: &str) {
        println!("    handler: {} {what}", job.job_type());
        self.handled.add_permits(1);
    }
}

/// Submits a job as your application does, and registers it.
async fn submit(
    what: &str,
    api: &str,
    webhook_url: &WebhookUrl,
    inbox: &SqliteInbox,
    deadline: Duration,
) -> Result<JobId, Box<dyn Error>> {
    let request = reqwest::Client::new()
        .post(format!("{api}/v1/{what}"))
        .query(&[("webhook_url", webhook_url.expose())])
        .bearer_auth(API_KEY)
        .body("the document");
    let answer: serde_json::Value =
        serde_json::from_slice(&request.send().await?.error_for_status()?.bytes().await?)?;
    let job: JobId = answer["id"].as_str().unwrap_or_default().parse()?;
    inbox.expect(&job, deadline).await?;
    Ok(job)
}

const API_KEY: &str = "the-key-of-the-stand-in";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (api, origin) = Api::start(API_KEY).await?;
    let file = std::env::temp_dir().join(format!("never-lose-a-result-{}.db", std::process::id()));

    // Your server.
    let client = JobsClient::builder(ApiKey::new(API_KEY)?).origin(&origin).build()?;
    let token = SharedToken::generate()?;
    let inbox = SqliteInbox::open(&file)?;
    let receiver =
        WebhookReceiver::durable(inbox.clone()).token(token.clone()).known_jobs(inbox.clone()).build()?;
    let handled = Arc::new(Semaphore::new(0));
    let office = Office { client: client.clone(), handled: handled.clone() };
    let worker = InboxWorker::new(inbox.clone(), office, Verification::fetch(client)).start();
    let app = Router::new().route("/api/webhooks/qomplement", any(receiver.clone()));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/api/webhooks/qomplement", listener.local_addr()?);
    let webhook_url = WebhookUrl::new(&url, &token)?;
    let server = tokio::spawn(axum::serve(listener, app).into_future());

    for lost in [false, true] {
        if lost {
            println!("the same, and every webhook is lost");
            api.lose_webhooks();
        } else {
            println!("three jobs, and their webhooks");
        }
        // When a webhook should have come by. A quarter of an hour is right for real jobs.
        let deadline = if lost { Duration::from_secs(2) } else { Duration::from_secs(15 * 60) };
        let before = api.requests();
        for what in ["extract", "fill-pdf", "fill-excel"] {
            let job = submit(what, &origin, &webhook_url, &inbox, deadline).await?;
            println!("    submitted: {what}");
            if what == "extract" && !lost {
                // The token has leaked. The forged webhook is acknowledged, and the handler gets the API's result.
                let forged = Payload::failed(&JobType::Extract).job_id(job.to_string());
                let report = Sender::to_url(webhook_url.expose())?.deliver(forged).await;
                println!("    forged: a failure, delivered: {}", report.is_delivered());
            }
        }
        timeout(Duration::from_secs(60), handled.acquire_many(3)).await??.forget();
        println!("    the API got {} requests", api.requests() - before);
    }

    receiver.shutdown(Duration::from_secs(5)).await;
    let unfinished = worker.shutdown(Duration::from_secs(5)).await;
    server.abort();
    drop((inbox, worker));
    println!("stopped with {unfinished} handlers unfinished");
    for end in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{end}", file.display()));
    }
    Ok(())
}
