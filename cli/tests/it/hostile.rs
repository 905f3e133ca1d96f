//! Characters that a terminal obeys or hides, from every source.

use axum::Router;
use axum::http::StatusCode;
use bytes::Bytes;
use qomplement_webhooks::event::Envelope;
use qomplement_webhooks::inbox::Outcome;
use qomplement_webhooks::sender::Sender;
use qomplement_webhooks::{InboxStore, SqliteInbox};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::net::TcpListener;

use super::{Folder, Going, Ran, command, finish, run};

/// Controls, characters that change the direction of text, line ends and invisible characters.
const HOSTILE: &str = "\u{1}\u{7}\u{8}\t\n\r\u{1b}[31m\u{7f}\u{85}\u{9b}2J\u{ad}\u{61c}\u{200b}\u{200e}\u{200f}\u{202a}\u{202e}\
    \u{2066}\u{2069}\u{2028}\u{2029}\u{2060}\u{feff}\u{fff9}\u{e0041}";

/// Whether a character may be printed. Independent of the program's own list.
fn may_be_printed(char: char) -> bool {
    char == '\n'
        || (!char.is_control()
            && !matches!(char, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{2069}' | '\u{feff}' | '\u{fff9}' | '\u{e0000}'..='\u{e0fff}'))
}

/// The output has no hostile character, and at least `times` escapes of each.
#[track_caller]
fn is_escaped(what: &str, ran: &Ran, times: usize) {
    let shown = format!("{}{}", ran.out, ran.err);
    let hostile = shown.chars().find(|char| !may_be_printed(*char));
    assert!(hostile.is_none(), "{what}: {hostile:?} in {ran:?}");
    for escaped in ["202e", "2028", "feff", "[31m", "2J"] {
        assert!(shown.matches(escaped).count() >= times, "{what}: {escaped} is left out: {ran:?}");
    }
    assert!(shown.contains("e0041") || shown.contains("udb40\\udc41"), "{what}: {ran:?}");
}

fn body(job: &str) -> String {
    json!({"job_id": job, "data": {"id": job, "type": HOSTILE, "status": HOSTILE, HOSTILE: HOSTILE}})
        .to_string()
}

async fn filled(folder: &Folder) -> String {
    let file = folder.file("inbox.db");
    let inbox = SqliteInbox::open(&file).unwrap();
    inbox.receive(&Envelope::try_from(Bytes::from(body("job"))).unwrap()).await.unwrap();
    let lease = inbox.lease(1, Duration::from_secs(60)).await.unwrap().remove(0).lease;
    let _ = inbox.settle(&lease, &Outcome::Dead { error: HOSTILE.into() }).await.unwrap();
    file
}

#[tokio::test]
async fn text_from_an_inbox_is_escaped() {
    let folder = Folder::new();
    let file = filled(&folder).await;
    for (args, times) in [
        (&["list"] as &[_], 1),
        (&["list", "--format", "json"], 3),
        (&["show", "job"], 5),
        (&["show", "job", "--format", "json"], 7),
        (&["replay", "--all", "--dry-run"], 1),
        (&["replay", "job", "--dry-run"], 1),
        (&["replay", "--all"], 1),
    ] {
        let ran = run(&[&["inbox", args[0], "--db", &file], &args[1..]].concat()).await;
        is_escaped(&format!("{args:?}"), &ran, times);
        assert!(!ran.out.contains("\n["), "a line of another's making: {ran:?}");
    }
    let listed = run(&["inbox", "list", "--db", &file]).await;
    assert_eq!(listed.out.lines().count(), 2, "a line of another's making: {listed:?}");
    let row = run(&["inbox", "list", "--db", &file, "--format", "json"]).await.json();
    assert_eq!([&row["type"], &row["status"], &row["error"]], [HOSTILE; 3]);
    let shown = run(&["inbox", "show", "job", "--db", &file, "--format", "json"]).await.json();
    assert_eq!(shown["body"], serde_json::from_str::<Value>(&body("job")).unwrap());
    let raw = run(&["inbox", "show", "job", "--db", &file, "--raw"]).await;
    assert_eq!(raw.out, body("job"), "byte for byte, into a pipe");
}

#[tokio::test]
async fn text_from_webhooks_is_escaped() {
    for args in [&[] as &[_], &["--whole"], &["--format", "json"]] {
        let mut going = Going::start(&mut command(&[&["listen", "--port", "0"], args].concat()));
        let url = going.next_err().await.strip_prefix("listening on ").unwrap().to_owned();
        let sender = Sender::to_url(&url).unwrap().retry_delays([]);
        assert!(sender.deliver(body("job")).await.is_delivered());
        let ran = going.interrupt().await;
        is_escaped(&format!("listen {args:?}"), &ran, 1);
        if args.last() == Some(&"json") {
            assert_eq!(ran.json()["body"], serde_json::from_str::<Value>(&body("job")).unwrap());
        }
    }
}

#[tokio::test]
async fn text_from_a_server_or_the_api_is_escaped() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    let app = Router::new().fallback(|uri: axum::http::Uri| async move {
        if uri.path().starts_with("/v1/jobs/") {
            let body: Value = serde_json::from_str(&body("job")).unwrap();
            let mut data = body["data"].clone();
            data["status"] = json!("failed");
            return (StatusCode::OK, data.to_string());
        }
        (StatusCode::BAD_REQUEST, json!({"error": {"code": HOSTILE}}).to_string())
    });
    let server = tokio::spawn(axum::serve(listener, app).into_future());
    for format in ["text", "json"] {
        let sent = run(&["send", "--to", &origin, "--schedule", "none", "--format", format]).await;
        is_escaped("send", &sent, 1);
        let mut fetch = command(&["fetch", "job", "--origin", &origin, "--format", format]);
        let fetched = finish(fetch.env("QOMPLEMENT_API_KEY", "key"), "").await;
        assert_eq!(fetched.code, Some(0), "{fetched:?}");
        is_escaped("fetch", &fetched, 2);
        let delivered = ["fetch", "job", "--origin", &origin, "--to", &origin, "--schedule", "none"];
        let delivered = finish(command(&delivered).env("QOMPLEMENT_API_KEY", "key"), "").await;
        assert_eq!(delivered.code, Some(1), "{delivered:?}");
        is_escaped("fetch --to", &delivered, 1);
    }
    server.abort();
}

#[tokio::test]
async fn text_from_the_command_line_is_escaped() {
    let folder = Folder::new();
    // A file name can hold all of these: only NUL and the slash are excluded.
    let named = folder.write(HOSTILE, "no JSON");
    let missing = folder.file(&format!("missing{HOSTILE}"));
    for args in [
        &["inbox", "list", "--db", &named] as &[_],
        &["inbox", "list", "--db", &missing],
        &["inbox", "list", "--state", HOSTILE],
        &["inbox", "list", "--state", "\u{1b}[2J\u{1b}[31m202e2028feffe0041"],
        &["inbox", "list", "--db", &format!("{HOSTILE}://host")],
        &["send", &missing, "--to", "http://127.0.0.1:1"],
        &["send", &named, "--to", "http://127.0.0.1:1", "--set", "a=1"],
        &["send", "--to", HOSTILE],
        &["send", "--to", &format!("ftp://{HOSTILE}")],
        &["send", "--to", "http://127.0.0.1:1", "--set", HOSTILE],
        &["listen", "--token-file", &missing],
        &["listen", "--token-file", &named],
        &["listen", "--forward", HOSTILE],
        &["fetch", "job", "--api-key-file", &missing],
        &["token", "--save", &named],
        &["token", "--url", HOSTILE],
        &[HOSTILE],
    ] {
        let ran = run(args).await;
        assert!(matches!(ran.code, Some(1 | 2)), "{args:?}: {ran:?}");
        is_escaped(&format!("{args:?}"), &ran, 1);
    }
}

#[tokio::test]
async fn a_body_that_is_nested_deeply_is_shown_in_a_few_times_its_size() {
    let folder = Folder::new();
    let file = folder.file("inbox.db");
    let inbox = SqliteInbox::open(&file).unwrap();
    let brackets = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
    let body = format!(
        r#"{{"job_id":"job","data":{{"id":"job","type":"extract","status":"failed","x":{brackets}}}}}"#
    );
    inbox.receive(&Envelope::try_from(Bytes::from(body.clone())).unwrap()).await.unwrap();
    let shown = run(&["inbox", "show", "job", "--db", &file]).await;
    assert_eq!(shown.err, "the body is nested too deeply to indent all of it\n  --raw prints it unchanged\n");
    assert!(shown.out.len() < 5 * body.len() + (64 << 10), "{} bytes", shown.out.len());
    let (_, printed) = shown.out.split_once(" bytes\n").unwrap();
    assert_eq!(printed.replace(['\n', ' '], ""), body, "something is left out");
    assert_eq!(run(&["inbox", "show", "job", "--db", &file, "--raw"]).await.out, body);

    let mut going = Going::start(&mut command(&["listen", "--port", "0", "--whole"]));
    let url = going.next_err().await.strip_prefix("listening on ").unwrap().to_owned();
    assert!(Sender::to_url(&url).unwrap().deliver(body.clone()).await.is_delivered());
    let ran = going.interrupt().await;
    assert!(ran.out.len() < 5 * body.len() + (64 << 10), "{} bytes", ran.out.len());
}
