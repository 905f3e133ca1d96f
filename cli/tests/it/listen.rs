//! `listen`.

use std::time::Duration;

use qomplement_webhooks::sender::{Payload, Sender};
use qomplement_webhooks::{JobType, SharedToken, WebhookReceiver};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{Folder, Going, Ran, command, end, run};
use crate::support::servers::{Framework, Server};
use crate::support::{Act, Script, TOKEN};

struct Listening {
    going: Going,
    url: String,
}

async fn listen(args: &[&str], token: Option<&str>) -> Listening {
    let mut command = command(&[&["listen", "--port", "0"], args].concat());
    if let Some(token) = token {
        command.env("WEBHOOK_TOKEN", token);
    }
    let mut going = Going::start(&mut command);
    let line = going.next_err().await;
    let url = line.strip_prefix("listening on ").unwrap_or_else(|| panic!("{line}")).to_owned();
    Listening { going, url }
}

impl Listening {
    fn sender(&self) -> Sender {
        Sender::to_url(&self.url).unwrap().retry_delays([])
    }

    async fn interrupt(self) -> Ran {
        self.going.interrupt().await
    }
}

#[tokio::test]
async fn webhooks_and_refused_requests_are_shown() {
    let listening = listen(&[], None).await;
    let sender = listening.sender();
    for payload in [
        Payload::extract_completed(),
        Payload::fill_pdf_completed(),
        Payload::failed(&JobType::FillExcel).job_id("job-7"),
        Payload::failed(&JobType::FillExcel).job_id("job-7"),
        Payload::extract_completed().set("/data/type", "\u{1b}[31m\u{9b}2J\n").job_id("odd"),
    ] {
        assert_eq!(sender.deliver(payload).await.statuses(), [Some(200)]);
    }
    let refused = sender.deliver("{").await;
    assert_eq!(refused.statuses(), [Some(400)]);
    let body = refused.deliveries[0].result.as_ref().unwrap().body();
    assert!(body.starts_with(br#"{"received":false,"error":{"code":"invalid_json""#), "{body:?}");
    assert_eq!(reqwest::get(format!("{}/a/path?token=hidden", listening.url)).await.unwrap().status(), 405);
    listening.interrupt().await.shows(
        0,
        "\
NOW  200  extract  completed  JOB
NOW  200  fill_pdf  completed  JOB
NOW  200  fill_excel  failed  job-7
NOW  200  fill_excel  failed  job-7  #2
NOW  200  \\u{1b}[31m\\u{9b}2J\\n  completed  odd
",
        "\
NOW  400  POST /  invalid_json
NOW  405  GET /a/path  method_not_allowed
5 webhooks, 2 requests refused
",
    );
}

#[tokio::test]
async fn filters_hide_webhooks_that_are_still_answered() {
    let listening = listen(&["--type", "extract,fill_pdf", "--status", "failed"], None).await;
    let sender = listening.sender();
    for payload in [
        Payload::extract_completed(),
        Payload::failed(&JobType::FillExcel),
        Payload::failed(&JobType::FillPdf),
        Payload::failed(&JobType::Extract),
    ] {
        assert_eq!(sender.deliver(payload).await.statuses(), [Some(200)]);
    }
    listening.interrupt().await.shows(
        0,
        "NOW  200  fill_pdf  failed  JOB\nNOW  200  extract  failed  JOB\n",
        "4 webhooks, 0 requests refused\n",
    );
}

#[tokio::test]
async fn a_whole_body_keeps_the_order_of_its_members() {
    let listening = listen(&["--whole"], None).await;
    let body =
        r#"{"data":{"id":"z","status":"failed","type":"extract","n":12345678901234567890.10},"job_id":"z"}"#;
    listening.sender().deliver(body).await;
    listening.interrupt().await.shows(
        0,
        r#"NOW  200  extract  failed  z
{
  "data": {
    "id": "z",
    "status": "failed",
    "type": "extract",
    "n": 12345678901234567890.10
  },
  "job_id": "z"
}
"#,
        "1 webhook, 0 requests refused\n",
    );
}

#[tokio::test]
async fn json_is_one_object_per_line_with_the_unchanged_body() {
    let listening = listen(&["--format", "json"], None).await;
    let body =
        "{\"job_id\":\"z\",\n\"data\":{\"id\":\"z\",\"status\":\"failed\",\"type\":\"extract\",\"n\":1.50}}";
    listening.sender().deliver(body).await;
    let ran = listening.interrupt().await;
    assert_eq!(ran.out.lines().count(), 1, "{ran:?}");
    let mut shown = ran.json();
    assert!(ran.out.contains(r#""n":1.50"#), "the body has changed: {ran:?}");
    let time = shown["time"].take();
    assert!(time.as_str().is_some_and(|time| time.ends_with('Z')), "{time}");
    let body: Value = serde_json::from_str(body).unwrap();
    let expected = json!({
        "time": null, "job_id": "z", "type": "extract", "status": "failed", "delivery": 1, "answer": 200,
        "forwarded": null, "body": body,
    });
    assert_eq!(shown, expected);
}

#[tokio::test]
async fn redacted_fields_are_forwarded_and_not_shown() {
    let script = Script::default();
    let receiver = WebhookReceiver::builder(script.handler()).token(SharedToken::new(TOKEN).unwrap()).build();
    let server = Server::start(Framework::Axum, receiver.unwrap()).await;
    for args in [&["--whole"] as &[_], &["--format", "json"]] {
        let forward = ["--redact", "/data/secret,name", "--forward", &server.url()];
        let listening = listen(&[args, &forward].concat(), Some(TOKEN)).await;
        let body = r#"{"job_id":"z","data":{"id":"z","status":"failed","type":"extract","secret":"hidden","name":{"x":"hidden"}}}"#;
        let sender = Sender::to_url(format!("{}?token={TOKEN}", listening.url)).unwrap().retry_delays([]);
        assert_eq!(sender.deliver(body).await.statuses(), [Some(200)]);
        let ran = listening.interrupt().await;
        assert!(!ran.out.contains("hidden") && ran.out.matches("[redacted]").count() == 2, "{ran:?}");
    }
    assert_eq!(script.runs(), 1, "the event was not forwarded");
}

#[tokio::test]
async fn the_first_deliveries_of_each_job_fail_with_fail_first() {
    let listening = listen(&["--fail-first", "2", "--delay", "20ms"], None).await;
    let delays = [std::time::Duration::ZERO; 2];
    let sender = listening.sender().retry_delays(delays);
    for _ in 0..2 {
        let report = sender.deliver(Payload::extract_completed()).await;
        assert_eq!(report.statuses(), [503, 503, 200].map(Some));
        for delivery in &report.deliveries {
            assert!(delivery.took.as_millis() >= 20, "not delayed: {delivery:?}");
        }
        let answer = report.deliveries[0].result.as_ref().unwrap();
        assert_eq!(answer.headers()["retry-after"], "5");
    }
    let ran = listening.interrupt().await;
    let once = "NOW  503  extract  completed  JOB\n\
        NOW  503  extract  completed  JOB  #2\n\
        NOW  200  extract  completed  JOB  #3\n";
    ran.shows(0, &once.repeat(2), "6 webhooks, 0 requests refused\n");
}

#[tokio::test]
async fn the_token_is_required_and_forwarded() {
    let script = Script::new([Act::Succeed, Act::Fail]);
    let token = SharedToken::new(TOKEN).unwrap();
    let receiver = WebhookReceiver::builder(script.handler()).token(token.clone()).build().unwrap();
    let target = Server::start(Framework::Axum, receiver).await;
    let listening = listen(&["--forward", &target.url()], Some(TOKEN)).await;
    let without = listening.sender();
    assert_eq!(without.deliver(Payload::extract_completed()).await.statuses(), [Some(401)]);
    let with = without.token(&token);
    assert_eq!(with.deliver(Payload::extract_completed()).await.statuses(), [Some(200)]);
    let failed = with.deliver(Payload::extract_completed()).await;
    assert_eq!(failed.statuses(), [Some(503)], "the answer of the other server is passed on");
    let body = failed.deliveries[0].result.as_ref().unwrap().body();
    assert!(body.starts_with(br#"{"received":false,"error":{"code":"handler_failed""#), "{body:?}");
    assert_eq!(script.runs(), 2);
    drop(target);
    let ran = listening.interrupt().await;
    assert!(!ran.out.contains(TOKEN) && !ran.err.contains(TOKEN), "the token is shown: {ran:?}");
    ran.shows(
        0,
        "\
NOW  200  extract  completed  JOB
    forwarded: 200
NOW  503  extract  completed  JOB
    forwarded: 503
",
        "\
NOW  401  POST /  unauthorized
2 webhooks, 1 request refused
",
    );
}

#[tokio::test]
async fn a_webhook_that_cannot_be_forwarded_is_not_acknowledged() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let listening = listen(&["--forward", &format!("http://{gone}/?token={TOKEN}")], None).await;
    assert_eq!(listening.sender().deliver(Payload::extract_completed()).await.statuses(), [Some(502)]);
    listening.interrupt().await.shows(
        0,
        "NOW  502  extract  completed  JOB\n    not forwarded: Connection refused (os error 111)\n",
        "1 webhook, 0 requests refused\n",
    );
}

#[tokio::test]
async fn an_answer_without_end_is_not_passed_on() {
    for (bytes, status) in [(16 << 20, 200), ((16 << 20) + 1, 502)] {
        let answer = move || async move { vec![b' '; bytes] };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let target = tokio::spawn(axum::serve(listener, axum::Router::new().fallback(answer)).into_future());
        let listening = listen(&["--forward", &url], None).await;
        let sender = listening.sender().delivery_timeout(Duration::from_secs(20));
        assert_eq!(sender.deliver(Payload::extract_completed()).await.statuses(), [Some(status)]);
        let ran = listening.interrupt().await;
        let told = "not forwarded: the answer has more than 16777216 bytes\n";
        assert_eq!(ran.out.ends_with(told), status == 502, "{ran:?}");
        target.abort();
    }
}

#[tokio::test]
async fn a_port_in_use_is_an_error() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    run(&["listen", "--port", &port]).await.shows(
        1,
        "",
        "error: cannot listen on ADDRESS: Address already in use (os error 98)\n  \
            Another program uses the port: stop it, or give another --port\n",
    );
    for url in ["not a url", "ftp://127.0.0.1/"] {
        assert_eq!(run(&["listen", "--forward", url]).await.code, Some(2), "{url}");
    }
}

#[tokio::test]
async fn listen_ends_when_its_output_is_closed() {
    let mut listening = listen(&[], None).await;
    drop(listening.going.child.stdout.take());
    let _ = listening.sender().deliver(Payload::extract_completed()).await;
    let ran = listening.going.end().await;
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{ran:?}");
}

#[tokio::test]
async fn every_answered_webhook_is_shown_before_the_end() {
    let listening = listen(&["--format", "json"], None).await;
    let sender = listening.sender();
    // More than a pipe holds: the others are answered, and wait to be shown.
    let large = Payload::extract_completed().set("/data/result/fields/text", "x".repeat(200 << 10));
    assert!(sender.deliver(large).await.is_delivered());
    for _ in 0..20 {
        assert!(sender.deliver(Payload::extract_completed()).await.is_delivered());
    }
    let ran = listening.interrupt().await;
    let shown = (ran.out.lines().count(), ran.err.as_str());
    assert_eq!(shown, (21, "21 webhooks, 0 requests refused\n"));
}

#[tokio::test]
async fn the_body_that_listen_shows_can_be_sent() {
    let folder = Folder::new();
    let listening = listen(&["--format", "json"], None).await;
    let sent = run(&["send", "fill-excel", "--to", &format!("{}/any/path", listening.url)]).await;
    assert_eq!(sent.code, Some(0));
    let shown = listening.interrupt().await.json();
    let file = folder.write("body.json", shown["body"].to_string());
    let listening = listen(&[], None).await;
    let again = end(command(&["send", &file, "--to", &listening.url]).spawn().unwrap()).await;
    assert!(again.out.contains(shown["job_id"].as_str().unwrap()), "{again:?}");
    listening.interrupt().await;
}
