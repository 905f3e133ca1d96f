//! `fetch`, with an API in the test's process.

use axum::Router;
use axum::http::{HeaderMap, StatusCode, Uri};
use qomplement_webhooks::SqliteInbox;
use qomplement_webhooks::fetch::{FetchError, JobsClientError};
use qomplement_webhooks::inbox::InboxAdmin;
use qomplement_webhooks::sender::Payload;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

use super::{Folder, Ran, command, finish};

const KEY: &str = "canary-key-4Kz0PhvXDXnKcQ9JvW5c8tqGpn7oYbRm";

struct Api {
    origin: String,
    server: AbortHandle,
}

impl Drop for Api {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn answer(uri: Uri, headers: HeaderMap) -> (StatusCode, String) {
    if headers.get("authorization").is_none_or(|key| *key != format!("Bearer {KEY}")) {
        return (StatusCode::UNAUTHORIZED, String::new());
    }
    let job = uri.path().strip_prefix("/v1/jobs/").unwrap_or_default();
    let payload = match job {
        "ended" => Payload::failed(&qomplement_webhooks::JobType::Extract),
        "runs" => Payload::extract_completed().set("/data/status", "processing"),
        _ => return (StatusCode::NOT_FOUND, String::new()),
    };
    let whole: Value = serde_json::from_slice(&payload.job_id(job).to_bytes()).unwrap();
    (StatusCode::OK, whole["data"].to_string())
}

async fn api() -> Api {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    let app = Router::new().fallback(answer);
    Api { origin, server: tokio::spawn(axum::serve(listener, app).into_future()).abort_handle() }
}

async fn fetch(api: &Api, args: &[&str]) -> Ran {
    let mut command = command(&[&["fetch"], args, &["--origin", &api.origin]].concat());
    let ran = finish(command.env("QOMPLEMENT_API_KEY", KEY), "").await;
    assert!(!format!("{ran:?}").contains(KEY), "the key is shown: {ran:?}");
    ran
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
        "job_id": "runs", "fetched": "pending", "type": null, "status": null, "stored": null, "body": null,
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
        &format!("error: {}\n  An id consists of letters, digits, `-` and `_`\n", FetchError::InvalidId),
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
