//! `send`.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use qomplement_webhooks::{WebhookEvent, WebhookReceiver, handler_fn};
use serde_json::{Value, json};

use super::{Folder, Going, command, finish, run};
use crate::support::servers::{Framework, Server};
use crate::support::{Act, Script};

async fn server(script: &Script) -> Server {
    let receiver = WebhookReceiver::builder(script.handler()).unauthenticated().build().unwrap();
    Server::start(Framework::Axum, receiver).await
}

/// A server that records the bodies it receives.
async fn noting() -> (Server, Arc<Mutex<Vec<Bytes>>>) {
    let bodies = Arc::new(Mutex::new(Vec::new()));
    let noted = bodies.clone();
    let handler = handler_fn(move |event: WebhookEvent| {
        noted.lock().unwrap().push(event.job().raw().clone());
        async { Ok(()) }
    });
    let receiver = WebhookReceiver::builder(handler).unauthenticated().build().unwrap();
    (Server::start(Framework::Axum, receiver).await, bodies)
}

fn free_url() -> String {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    format!("http://{free}/")
}

#[tokio::test]
async fn every_documented_event_is_sent_and_shown() {
    let (server, bodies) = noting().await;
    for (what, job_type, status) in [
        ("extract", "extract", "completed"),
        ("fill-pdf", "fill_pdf", "completed"),
        ("fill-excel", "fill_excel", "completed"),
        ("failed", "extract", "failed"),
    ] {
        let ran = run(&["send", what, "--to", &server.url()]).await;
        ran.shows(
            0,
            "\
JOB  acknowledged  200
1 webhook to http://ADDRESS/api/webhooks/qomplement
  acknowledged  1
  undeliverable  0
  deliveries  1  (200: 1)
  answered in  p50 TIME, p99 TIME, max TIME
  took  TIME, N deliveries/s
",
            "",
        );
        let body: Value = serde_json::from_slice(&bodies.lock().unwrap().pop().unwrap()).unwrap();
        assert_eq!((&body["data"]["type"], &body["data"]["status"]), (&json!(job_type), &json!(status)));
        assert!(ran.out.contains(body["job_id"].as_str().unwrap()), "another job is told of");
    }
}

#[tokio::test]
async fn a_failed_delivery_is_repeated_on_the_schedule() {
    let script = Script::new([Act::Fail, Act::FailAfter(std::time::Duration::ZERO), Act::Succeed]);
    let target = server(&script).await;
    run(&["send", "--to", &target.url(), "--schedule", "fast"]).await.shows(
        0,
        "\
JOB  acknowledged
    503 handler_failed
    503 handler_failed after TIME
    200 after TIME
1 webhook to http://ADDRESS/api/webhooks/qomplement
  acknowledged  1
  undeliverable  0
  deliveries  3  (200: 1, 503 handler_failed: 2)
  answered in  p50 TIME, p99 TIME, max TIME
  took  TIME, N deliveries/s
",
        "",
    );
    let script = Script::new([Act::Fail]);
    let target = server(&script).await;
    for (schedule, deliveries) in [("none", 1), ("fast", 3)] {
        let ran = run(&["send", "--to", &target.url(), "--schedule", schedule, "--format", "json"]).await;
        assert_eq!(ran.code, Some(1), "an undeliverable webhook");
        assert_eq!(ran.json()["answers"], json!({"503 handler_failed": deliveries}), "{schedule}");
    }
}

#[tokio::test]
async fn a_server_that_is_down_is_named_as_the_reason() {
    let url = free_url();
    run(&["send", "--to", &url, "--schedule", "fast"]).await.shows(
        1,
        "\
JOB  undeliverable
    Connection refused
    Connection refused after TIME
    Connection refused after TIME
1 webhook to http://ADDRESS/
  acknowledged  0
  undeliverable  1
  deliveries  3  (Connection refused: 3)
  took  TIME, N deliveries/s
",
        "",
    );
}

#[tokio::test]
async fn each_webhook_has_its_own_job_and_duplicates_share_it() {
    let script = Script::default();
    let target = server(&script).await;
    let args = ["--count", "300", "--duplicates", "2", "--concurrency", "32", "--format", "json"];
    let ran = run(&[&["send", "fill-pdf", "--to", &target.url()], &args[..]].concat()).await;
    assert_eq!(script.runs(), 300, "one run of the handler for each webhook");
    let summary = ran.json();
    let of = |name: &str| summary[name].as_u64();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(
        ["webhooks", "duplicates", "acknowledged", "undeliverable", "unfinished", "deliveries"].map(of),
        [300, 600, 900, 0, 0, 900].map(Some),
        "{summary}"
    );
    assert_eq!(summary["answers"], json!({"200": 900}));
    for number in ["seconds", "deliveries_per_second"] {
        assert!(summary[number].as_f64().is_some_and(|number| number > 0.0), "{summary}");
    }
    let latency = ["p50", "p99", "max"].map(|name| summary["latency_ms"][name].as_f64().unwrap());
    assert!(latency.is_sorted() && latency[0] > 0.0, "{summary}");
    assert_eq!(summary.as_object().unwrap().len(), 10, "another member: is it documented? {summary}");
    assert_eq!(ran.err, "", "a bar is drawn in a pipe");
}

#[tokio::test]
async fn values_in_the_body_can_be_set() {
    let (server, bodies) = noting().await;
    let url = server.url();
    let settings = ["job_id=order-7", "data.result.confidence=40", "data.result.language=null"]
        .into_iter()
        .chain([
            "data.result.fields.a~b=x=y",
            "/data/result/fields/total.amount=1.50",
            "data.new.0=[1,\"2\"]",
        ])
        .flat_map(|setting| ["--set", setting]);
    let args: Vec<_> = ["send", "--to", &url].into_iter().chain(settings).collect();
    assert_eq!(run(&args).await.code, Some(0));
    let body: Value = serde_json::from_slice(&bodies.lock().unwrap().pop().unwrap()).unwrap();
    assert_eq!((&body["job_id"], &body["data"]["id"]), (&json!("order-7"), &json!("order-7")));
    assert_eq!(body["data"]["result"]["confidence"], json!(40));
    assert_eq!(body["data"]["result"]["language"], Value::Null);
    assert_eq!(body["data"]["result"]["fields"]["a~b"], json!("x=y"));
    assert_eq!(body["data"]["result"]["fields"]["total.amount"], json!(1.5));
    assert_eq!(body["data"]["new"]["0"], json!([1, "2"]));

    for (given, id) in [("1e2", "1e2"), ("\"7\"", "7")] {
        assert_eq!(run(&["send", "--to", &url, "--set", &format!("job_id={given}")]).await.code, Some(0));
        let body: Value = serde_json::from_slice(&bodies.lock().unwrap().pop().unwrap()).unwrap();
        assert_eq!((&body["job_id"], &body["data"]["id"]), (&json!(id), &json!(id)));
    }

    let other = run(&["send", "--to", &server.url(), "--set", "/job_id=other", "--schedule", "none"]).await;
    assert!(
        other.out.contains("undeliverable  422 job_id_mismatch"),
        "one of the two ids alone: {}",
        other.out
    );
}

#[tokio::test]
async fn one_file_is_sent_unchanged_and_many_differ_in_their_ids() {
    let folder = Folder::new();
    let (server, bodies) = noting().await;
    let body = "{ \"data\" : {\"id\":\"x-1\",\n \"status\":\"failed\",\"type\":\"extract\", \"n\": 1.50},\"job_id\":\"x-1\"}\n";
    let file = folder.write("body.json", body);
    let url = server.url();
    assert_eq!(run(&["send", &file, "--to", &url]).await.code, Some(0));
    assert_eq!(bodies.lock().unwrap().drain(..).collect::<Vec<_>>(), [body]);
    let piped = finish(&mut command(&["send", "-", "--to", &url, "--format", "json"]), body).await;
    assert_eq!(piped.json()["acknowledged"], json!(1), "a duplicate, from standard input");

    assert_eq!(run(&["send", &file, "--to", &url, "--count", "3"]).await.code, Some(0));
    let mut many: Vec<_> = bodies.lock().unwrap().drain(..).collect();
    many.sort();
    many.dedup();
    assert_eq!(many.len(), 3, "three jobs");
    for sent in &many {
        let event = WebhookEvent::try_from(sent.clone()).unwrap();
        let job = event.job().id().to_string();
        assert_eq!(String::from_utf8_lossy(sent).replace(&job, "x-1"), body, "more than the id has changed");
    }

    let odd = folder.write("odd.json", "{\"no\": webhook");
    run(&["send", &odd, "--to", &url, "--schedule", "none"]).await.shows(
        1,
        "\
(no webhook)  undeliverable  400 invalid_json
1 webhook to http://ADDRESS/api/webhooks/qomplement
  acknowledged  0
  undeliverable  1
  deliveries  1  (400 invalid_json: 1)
  answered in  p50 TIME, p99 TIME, max TIME
  took  TIME, N deliveries/s
",
        "",
    );
    let set = run(&["send", &odd, "--to", &url, "--set", "a=1"]).await;
    set.shows(
        2,
        "",
        "error: --set needs JSON, and FOLDER/odd.json is not: expected value at line 1 column 8\n  Mend the file, or leave --set out\n",
    );
}

#[tokio::test]
async fn ctrl_c_ends_a_run_with_a_summary() {
    let script = Script::new([Act::Succeed, Act::Hang]);
    let target = server(&script).await;
    let args = ["send", "--to", &target.url(), "--count", "9", "--concurrency", "1"];
    let going = Going::start(&mut command(&args));
    script.until("a handler that hangs", |script| script.running() == 1 && script.runs() == 2).await;
    going.interrupt().await.shows(
        130,
        "\
JOB  acknowledged  200
9 webhooks to http://ADDRESS/api/webhooks/qomplement
  acknowledged  1
  undeliverable  0
  unfinished  8
  deliveries  1  (200: 1)
  answered in  p50 TIME, p99 TIME, max TIME
  took  TIME, N deliveries/s
",
        "",
    );

    let script = Script::new([Act::Hang]);
    let target = server(&script).await;
    let going = Going::start(&mut command(&["send", "--to", &target.url(), "--format", "json"]));
    script.until("a handler that hangs", |script| script.running() == 1).await;
    let ran = going.interrupt().await;
    assert_eq!((ran.code, ran.json()["unfinished"].as_u64()), (Some(130), Some(1)), "{ran:?}");
    assert_eq!(ran.json()["latency_ms"], Value::Null);
}

#[tokio::test]
async fn finished_deliveries_of_an_interrupted_run_count() {
    let script = Script::new([Act::Fail, Act::Hang]);
    let target = server(&script).await;
    let args = ["send", "--to", &target.url(), "--schedule", "fast", "--format", "json"];
    let going = Going::start(&mut command(&args));
    script.until("a second delivery that hangs", |script| script.running() == 1 && script.runs() == 2).await;
    let ran = going.interrupt().await;
    let summary = ran.json();
    assert_eq!((ran.code, &summary["deliveries"], &summary["unfinished"]), (Some(130), &json!(1), &json!(1)));
    assert_eq!(summary["answers"], json!({"503 handler_failed": 1}));
}

#[tokio::test]
async fn only_the_set_values_of_a_file_change() {
    let folder = Folder::new();
    let (server, bodies) = noting().await;
    let body = r#"{ "z": 1.0, "data": {"status":"\u0066ailed", "type":"extract","n":12345678901234567890.10,
        "d":1, "d":2e400, "id":"x-1" },  "job_id":"x\u002d1", "a":"\/" }"#;
    let file = folder.write("body.json", body);
    let url = server.url();
    let set = ["--set", "data.n=1.50", "--set", "new=1e999"];
    assert_eq!(run(&[&["send", &file, "--to", &url], &set[..]].concat()).await.code, Some(0));
    let expected =
        body.replace("12345678901234567890.10", "1.50").replace("\"\\/\"", "\"\\/\",\"new\":1e999");
    assert_eq!(bodies.lock().unwrap().drain(..).collect::<Vec<_>>(), [expected]);

    let renamed = run(&["send", &file, "--to", &url, "--set", "job_id=y"]).await;
    assert!(renamed.code == Some(0) && renamed.out.starts_with("y  acknowledged"), "{renamed:?}");
    let expected = body.replace("\"x-1\"", "\"y\"").replace("\"x\\u002d1\"", "\"y\"");
    assert_eq!(bodies.lock().unwrap().drain(..).collect::<Vec<_>>(), [expected]);

    assert_eq!(run(&["send", &file, "--to", &url, "--count", "3"]).await.code, Some(0));
    let sent: Vec<_> = bodies.lock().unwrap().drain(..).collect();
    let jobs: std::collections::HashSet<_> = sent
        .iter()
        .map(|sent| WebhookEvent::try_from(sent.clone()).unwrap().job().id().to_string())
        .collect();
    assert_eq!(jobs.len(), 3, "one job many times, since its id is escaped");
    let stuck = run(&["send", &file, "--to", &url, "--set", "z.x=1"]).await;
    stuck.shows(2, "", "error: --set: z is 1.0, which has no member x; set z itself\n");
}

/// A server with one answer to every request.
async fn answering(status: u16, body: String) -> (String, tokio::task::AbortHandle) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let answer = (axum::http::StatusCode::from_u16(status).unwrap(), body);
    let app = axum::Router::new().fallback(move || std::future::ready(answer.clone()));
    (url, tokio::spawn(axum::serve(listener, app).into_future()).abort_handle())
}

#[tokio::test]
async fn the_reason_for_each_failure_is_shown_and_fits() {
    let reason = "a reason that goes on and on, and on and on, and on and on, and on";
    for (status, body, expected) in [
        (422, r#"{"error":{"code":"invalid_payload"}}"#.to_owned(), "422 invalid_payload"),
        (500, r#"{"error":"boom"}"#.to_owned(), "500 boom"),
        (404, "not here".to_owned(), "404 Not Found"),
        (302, String::new(), "302 Found"),
        (599, String::new(), "599"),
        (
            500,
            json!({"error": reason}).to_string(),
            "500 a reason that goes on and on, and on and on, and on and …",
        ),
        (400, json!({"error": {"code": "\u{1b}[2J"}}).to_string(), "400 \\u{1b}[2J"),
    ] {
        let (url, server) = answering(status, body).await;
        let args = ["send", "--to", &url, "--schedule", "none", "--count", "2", "--duplicates", "1"];
        let ran = run(&args).await;
        server.abort();
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert_eq!(ran.out.matches(&format!("{expected}: 4")).count(), 1, "{ran:?}");
        assert_eq!(ran.out.matches(&format!("{expected}\n")).count(), 4, "each delivery's: {ran:?}");
        for line in ran.out.lines() {
            assert!(line.chars().count() <= 80, "{line:?}");
        }
    }
}
