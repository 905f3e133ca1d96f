//! `fetch`, with an API and a receiver in the test's process.

use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::routing::any;
use qomplement_webhooks::fetch::{FetchError, JobsClientError};
use qomplement_webhooks::inbox::InboxAdmin;
use qomplement_webhooks::sender::Payload;
use qomplement_webhooks::{
    HandlerError, SharedToken, SqliteInbox, WebhookEvent, WebhookReceiver, handler_fn,
};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::{Folder, Going, Ran, command, finish};

const KEY: &str = "canary-key-4Kz0PhvXDXnKcQ9JvW5c8tqGpn7oYbRm";
const TOKEN: &str = "canary-token-8h2LpQv0sXw4RkYt7NfZc3JmB6Ga";

struct Api {
    origin: String,
    server: AbortHandle,
}

impl Drop for Api {
    fn drop(&mut self) {
        self.server.abort();
    }
}

static FETCHES_OF_SOON: AtomicUsize = AtomicUsize::new(0);

async fn answer(uri: Uri, headers: HeaderMap) -> (StatusCode, String) {
    if headers.get("authorization").is_none_or(|key| *key != format!("Bearer {KEY}")) {
        return (StatusCode::UNAUTHORIZED, String::new());
    }
    let job = uri.path().strip_prefix("/v1/jobs/").unwrap_or_default();
    let running = Payload::extract_completed().set("/data/status", "processing");
    let payload = match job {
        "ended" => Payload::failed(&qomplement_webhooks::JobType::Extract),
        "runs" => running,
        // Its third fetch finds it finished, and the first gets no answer.
        "soon" => match FETCHES_OF_SOON.fetch_add(1, Ordering::Relaxed) {
            0 => return (StatusCode::SERVICE_UNAVAILABLE, String::new()),
            1 => running,
            _ => Payload::fill_pdf_completed(),
        },
        _ => return (StatusCode::NOT_FOUND, String::new()),
    };
    let whole: Value = serde_json::from_slice(&payload.job_id(job).to_bytes()).unwrap();
    (StatusCode::OK, whole["data"].to_string())
}

async fn api() -> Api {
    serve(Router::new().fallback(answer)).await
}

async fn serve(app: Router) -> Api {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    Api { origin, server: tokio::spawn(axum::serve(listener, app).into_future()).abort_handle() }
}

async fn fetch(api: &Api, args: &[&str]) -> Ran {
    let mut command = command(&[&["fetch"], args, &["--origin", &api.origin]].concat());
    let ran = finish(command.env("QOMPLEMENT_API_KEY", KEY).env("WEBHOOK_TOKEN", TOKEN), "").await;
    assert!(!format!("{ran:?}").contains(KEY), "the key is shown: {ran:?}");
    assert!(!format!("{ran:?}").contains(TOKEN), "the token is shown: {ran:?}");
    ran
}

/// A receiver whose handler sends each event on, and fails the first attempts of the job `fails`.
async fn receiver(fails: &'static str, failures: usize) -> (Api, mpsc::UnboundedReceiver<String>) {
    let (events, received) = mpsc::unbounded_channel();
    let attempts = AtomicUsize::new(0);
    let handler = handler_fn(move |event: WebhookEvent| {
        let job = event.job().id().to_string();
        let is_failed = job == fails && attempts.fetch_add(1, Ordering::Relaxed) < failures;
        let events = events.clone();
        async move {
            if is_failed {
                return Err("not yet".into());
            }
            events.send(job).map_err(HandlerError::from)
        }
    });
    let token = SharedToken::new(TOKEN).unwrap();
    let receiver = WebhookReceiver::builder(handler).token(token).build().unwrap();
    let app = Router::new().route("/webhooks", any(receiver));
    (serve(app).await, received)
}

#[tokio::test]
async fn the_result_of_a_job_is_shown() {
    let api = api().await;
    fetch(&api, &["ended"]).await.shows(
        0,
        r#"ended  extract  failed
{
  "job_id": "ended",
  "data": {
    "error": {
      "code": "processing_error",
      "message": "Could not extract text from document"
    },
    "id": "ended",
    "status": "failed",
    "type": "extract"
  }
}
"#,
        "",
    );
    fetch(&api, &["runs"]).await.shows(1, "", "the job runs is not finished\n");
    fetch(&api, &["nothing"]).await.shows(1, "", "the API has no job nothing\n");
    let pending = fetch(&api, &["runs", "--format", "json"]).await;
    let expected = json!({
        "job_id": "runs", "fetched": "pending", "type": null, "status": null, "stored": null, "delivered": null,
        "answers": null, "body": null,
    });
    assert_eq!((pending.code, pending.json()), (Some(1), expected));
}

#[tokio::test]
async fn the_event_of_a_job_is_stored_once() {
    let (api, folder) = (api().await, Folder::new());
    let file = folder.file("inbox.db");
    let inbox = SqliteInbox::open(&file).unwrap();
    let stored = fetch(&api, &["ended", "--into", &file]).await;
    stored.shows(0, "ended  extract  failed\nstored; a worker handles it next\n", "");
    let (row, body) = inbox.get(&"ended".parse().unwrap()).await.unwrap().unwrap();
    assert_eq!((row.state.as_str(), row.status.as_deref()), ("received", Some("failed")));
    let again = fetch(&api, &["ended", "--into", &file, "--format", "json"]).await.json();
    assert_eq!((&again["stored"], &again["fetched"]), (&json!("duplicate"), &json!("finished")));
    assert_eq!(again["body"], serde_json::from_slice::<Value>(&body.unwrap()).unwrap());
    assert_eq!(fetch(&api, &["runs", "--into", &file]).await.code, Some(1));
    assert_eq!(inbox.stats().await.unwrap().received, 1, "what has not ended is stored");

    let unread_into = folder.file("unread.db");
    let unread = SqliteInbox::open(&unread_into).unwrap();
    let args = ["fetch", "ended", "--origin", &api.origin, "--into", &unread_into];
    let mut child = command(&args).env("QOMPLEMENT_API_KEY", KEY).spawn().unwrap();
    drop(child.stdout.take());
    let ran = super::end(child).await;
    assert_eq!((ran.code, unread.stats().await.unwrap().received), (Some(0), 1), "nobody reads: {ran:?}");

    let mut from_env = command(&["fetch", "ended", "--origin", &api.origin, "--into", "-"]);
    let ran = finish(from_env.env("QOMPLEMENT_API_KEY", KEY).env("DATABASE", &file), "").await;
    ran.shows(0, "ended  extract  failed\nduplicate; the inbox already has this event\n", "");
    let missing = fetch(&api, &["ended", "--into", &folder.file("missing.db")]).await;
    assert!(missing.code == Some(1) && missing.err.contains("missing.db does not exist"), "{missing:?}");
}

#[tokio::test]
async fn redacted_fields_are_stored_and_not_shown() {
    let (api, folder) = (api().await, Folder::new());
    let shown = fetch(&api, &["ended", "--redact", "/data/error"]).await;
    assert!(shown.code == Some(0) && shown.out.contains(r#""error": "[redacted]""#), "{shown:?}");
    let file = folder.file("inbox.db");
    drop(SqliteInbox::open(&file).unwrap());
    let args = ["ended", "--redact", "error", "--into", &file, "--format", "json"];
    assert_eq!(fetch(&api, &args).await.json()["body"]["data"]["error"], json!("[redacted]"));
    let (_, body) = SqliteInbox::open(&file).unwrap().get(&"ended".parse().unwrap()).await.unwrap().unwrap();
    let body: Value = serde_json::from_slice(&body.unwrap()).unwrap();
    assert!(body["data"]["error"]["code"].is_string(), "{body}");
}

#[tokio::test]
async fn an_error_shows_no_api_key() {
    let (api, folder) = (api().await, Folder::new());
    let keyless = finish(&mut command(&["fetch", "ended", "--origin", &api.origin]), "").await;
    keyless.shows(
        2,
        "",
        "error: no API key given\n  \
            Set the environment variable QOMPLEMENT_API_KEY, or give --api-key-file\n",
    );
    let wrong = folder.write("wrong.key", "hidden-secret");
    fetch(&api, &["ended", "--api-key-file", &wrong]).await.shows(
        1,
        "",
        &format!(
            "error: {}\n  Check that the API key belongs to the account that started the job\n",
            FetchError::Unauthorized
        ),
    );
    let right = folder.write("right.key", format!("{KEY}\n"));
    assert_eq!(fetch(&api, &["ended", "--api-key-file", &right]).await.code, Some(0));
    fetch(&api, &["a/../b"]).await.shows(
        1,
        "",
        "error: a/../b: the id has a character other than letters, digits, `-` and `_`, so no request was made\n",
    );
    let mut in_the_clear = command(&["fetch", "ended", "--origin", "http://example.com"]);
    finish(in_the_clear.env("QOMPLEMENT_API_KEY", KEY), "").await.shows(
        2,
        "",
        &format!("error: --origin: {}\n", JobsClientError::NotHttps),
    );
}

#[tokio::test]
async fn an_unreachable_api_is_an_error() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mut command =
        command(&["fetch", "ended", "--origin", &format!("http://{gone}"), "--timeout", "200ms"]);
    let ran = finish(command.env("QOMPLEMENT_API_KEY", KEY), "").await;
    assert!(ran.code == Some(1) && ran.err.starts_with("error: "), "{ran:?}");
    assert!(ran.err.ends_with("Check --origin and the network, then try again\n"), "{ran:?}");
}

#[tokio::test]
async fn the_events_of_jobs_are_delivered_like_their_webhooks() {
    let api = api().await;
    let (receiver, mut received) = receiver("ended", 1).await;
    let to = format!("{}/webhooks", receiver.origin);
    let delivered = fetch(&api, &["ended", "--to", &to, "--schedule", "fast"]).await;
    delivered.shows(
        0,
        "ended  extract  failed  acknowledged\n    503 handler_failed\n    200 after TIME\n",
        "",
    );
    assert_eq!(received.recv().await.unwrap(), "ended");

    let several = fetch(&api, &["runs", "nothing", "ended", "--to", &to, "--format", "json"]).await;
    let mut objects: Vec<Value> =
        several.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    objects.sort_by_key(|object| object["job_id"].to_string());
    let words: Vec<_> =
        objects.iter().map(|object| [&object["fetched"], &object["delivered"], &object["answers"]]).collect();
    let null = &Value::Null;
    assert_eq!(
        words,
        [
            [&json!("finished"), &json!("acknowledged"), &json!(["200"])],
            [&json!("not_found"), null, null],
            [&json!("pending"), null, null],
        ]
    );
    assert_eq!((several.code, &*several.err), (Some(1), ""));

    let no_route = fetch(&api, &["ended", "--to", &receiver.origin, "--schedule", "none"]).await;
    no_route.shows(1, "ended  extract  failed  undeliverable  404 Not Found\n", "");
}

#[tokio::test]
async fn a_watched_job_is_fetched_until_it_is_finished() {
    let (api, folder) = (api().await, Folder::new());
    let (receiver, mut received) = receiver("", 0).await;
    let to = format!("{}/webhooks", receiver.origin);
    let file = folder.file("inbox.db");
    let inbox = SqliteInbox::open(&file).unwrap();
    let watch = ["soon", "--to", &to, "--into", &file, "--watch", "--every", "100ms", "--timeout", "500ms"];
    fetch(&api, &watch).await.shows(
        0,
        "soon  fill_pdf  completed  acknowledged  200\nstored; a worker handles it next\n",
        "soon: the API failed for this job: the answer is 503 Service Unavailable; fetched again in TIME\n\
            soon: not finished; fetched again in TIME\n",
    );
    assert_eq!(received.recv().await.unwrap(), "soon");
    assert_eq!(inbox.stats().await.unwrap().received, 1);

    let args = ["fetch", "runs", "ended", "--origin", &api.origin, "--watch", "--every", "100ms"];
    let mut watch = Going::start(command(&args).env("QOMPLEMENT_API_KEY", KEY));
    assert_eq!(super::masked(&watch.next_err().await), "runs: not finished; fetched again in TIME");
    let ran = watch.interrupt().await;
    assert_eq!(ran.code, Some(130), "{ran:?}");

    let unknown = fetch(&api, &["nothing", "--watch", "--every", "100ms"]).await;
    let note = "nothing: unknown to the API; fetched again in TIME\n";
    unknown.shows(1, "", &format!("{note}the API has no job nothing\n"));
}

#[tokio::test]
async fn an_inbox_that_takes_no_event_fails_only_its_job_and_a_watched_one_is_stored_later() {
    let (api, folder) = (api().await, Folder::new());
    let file = folder.file("inbox.db");
    let inbox = SqliteInbox::open(&file).unwrap();
    let other = rusqlite::Connection::open(&file).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let both = fetch(&api, &["ended", "runs", "--into", &file]).await;
    assert!(both.code == Some(1) && both.err.contains("ended: the store is unavailable"), "{both:?}");
    assert!(both.err.contains("the job runs is not finished"), "{both:?}");

    let args = ["fetch", "ended", "--origin", &api.origin, "--into", &file, "--watch", "--every", "100ms"];
    let mut watch = Going::start(command(&args).env("QOMPLEMENT_API_KEY", KEY));
    assert!(watch.next_err().await.starts_with("ended: the store is unavailable"));
    other.execute_batch("ROLLBACK").unwrap();
    let ran = watch.end().await;
    assert_eq!((ran.code, ran.out.contains("stored; a worker handles it next")), (Some(0), true), "{ran:?}");
    assert_eq!(inbox.stats().await.unwrap().received, 1);
}

#[tokio::test]
async fn what_cannot_be_delivered_costs_no_request() {
    let origin = "http://127.0.0.1:1";
    for (args, error) in [
        (&["--token-file", "token"] as &[_], "a token is given, and no URL to deliver to\n  Give --to URL"),
        (
            &["--to", "localhost:3000"],
            "--to: localhost:3000 does not begin with http:// or https://\n  \
                Give a URL such as http://ADDRESS",
        ),
        (
            &["--to", "http://127.0.0.1:1", "--token-file", "-", "--api-key-file", "-"],
            "the API key and the token cannot both come from standard input\n  Read one of them from a file",
        ),
    ] {
        let mut fetch = command(&[&["fetch", "ended", "--origin", origin], args].concat());
        let ran = finish(fetch.env("QOMPLEMENT_API_KEY", KEY), "").await;
        ran.shows(2, "", &format!("error: {error}\n"));
    }
}
