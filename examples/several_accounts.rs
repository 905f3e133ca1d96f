//! Two accounts at Qomplement in one server: a receiver and a token for each, one inbox, one worker, and a source that
//! fetches each job with the client of its account.
//!
//! ```sh
//! cargo run --example several_accounts --features axum,client,sender-http,sqlite
//! ```
//!
//! The APIs are stand-ins on this machine, one for each account, and lose all webhooks: each job is fetched, which works
//! with the key of its account alone.

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::routing::any;
use qomplement_webhooks::fetch::{ApiKey, FetchError, Fetched, JobSource};
use qomplement_webhooks::{
    HandlerError, InboxStore, InboxWorker, JobId, JobsClient, SharedToken, SqliteInbox, Verification,
    WebhookEvent, WebhookReceiver, WebhookUrl, async_trait, handler_fn,
};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;

use self::api::Api;

#[path = "never_lose_a_result/api.rs"]
#[allow(dead_code)] // the other example uses the rest
mod api;

/// Fetches each job with the client of its account.
#[derive(Debug, Clone, Default)]
struct Accounts {
    clients: HashMap<&'static str, JobsClient>,
    /// The account of each job: in your application, a column in your table of jobs.
    jobs: Arc<Mutex<HashMap<JobId, &'static str>>>,
}

impl Accounts {
    fn of(&self, job: &JobId) -> Option<&'static str> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).get(job).copied()
    }

    fn add(&self, job: &JobId, account: &'static str) {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).insert(job.clone(), account);
    }
}

#[async_trait]
impl JobSource for Accounts {
    async fn fetch(&self, job: &JobId) -> Result<Fetched, FetchError> {
        match self.of(job).and_then(|account| self.clients.get(account)) {
            Some(client) => client.fetch(job).await,
            None => Ok(Fetched::NotFound), // no account started it
        }
    }

    fn is_one_account(&self) -> bool {
        false // a refused key of one account delays no job of another
    }
}

/// Submits a job as your application does, and returns its id.
async fn submit(api: &str, key: &str, webhook_url: &WebhookUrl) -> Result<JobId, Box<dyn Error>> {
    let request = reqwest::Client::new()
        .post(format!("{api}/v1/extract"))
        .query(&[("webhook_url", webhook_url.expose())])
        .bearer_auth(key)
        .body("the document");
    let answer: serde_json::Value =
        serde_json::from_slice(&request.send().await?.error_for_status()?.bytes().await?)?;
    Ok(answer["id"].as_str().unwrap_or_default().parse()?)
}

const NAMES: [&str; 2] = ["north", "south"];

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let file = std::env::temp_dir().join(format!("several-accounts-{}.db", std::process::id()));
    let inbox = SqliteInbox::open(&file)?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (mut app, mut accounts, mut submissions) = (Router::new(), Accounts::default(), Vec::new());
    let mut receivers = Vec::new();
    for name in NAMES {
        let key = format!("the-key-of-{name}");
        let (api, origin) = Api::start(&key).await?;
        api.lose_webhooks();
        accounts.clients.insert(name, JobsClient::builder(ApiKey::new(&key)?).origin(&origin).build()?);

        let token = SharedToken::generate()?;
        let webhook_url = WebhookUrl::new(&format!("http://{address}/webhooks/{name}"), &token)?;
        let receiver =
            WebhookReceiver::durable(inbox.clone()).token(token).known_jobs(inbox.clone()).build()?;
        app = app.route(&format!("/webhooks/{name}"), any(receiver.clone()));
        receivers.push(receiver);
        submissions.push((name, origin, key, webhook_url));
    }

    let (handled, mut done) = mpsc::unbounded_channel();
    let handler = {
        let accounts = accounts.clone();
        handler_fn(move |event: WebhookEvent| {
            let account = accounts.of(event.job().id()).unwrap_or("nobody");
            println!("    handler: a job of {account} is {}", event.job().status().as_str());
            let sent = handled.send(account).map_err(HandlerError::from);
            async { sent }
        })
    };
    // A webhook with the token of one account could be about a job of another: the worker believes the API alone.
    let worker = InboxWorker::new(inbox.clone(), handler, Verification::fetch(accounts.clone())).start();
    let server = tokio::spawn(axum::serve(listener, app).into_future());

    for (name, origin, key, webhook_url) in &submissions {
        let job = submit(origin, key, webhook_url).await?;
        accounts.add(&job, name);
        // A quarter of an hour is right for real jobs.
        inbox.expect(&job, Duration::from_secs(1)).await?;
        println!("submitted: a job of {name}");
    }
    for _ in &submissions {
        timeout(Duration::from_secs(30), done.recv()).await?;
    }

    for receiver in receivers {
        receiver.shutdown(Duration::from_secs(5)).await;
    }
    worker.shutdown(Duration::from_secs(5)).await;
    server.abort();
    drop((inbox, worker));
    for end in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{end}", file.display()));
    }
    Ok(())
}
