//! The test sender keeps to the documented schedule.

use std::time::Duration;

use http::{Request, Response};
use http_body_util::Full;
use qomplement_webhooks::sender::{DeliveryError, Payload, Sender, SenderError};
use qomplement_webhooks::{JobType, SharedToken, WebhookEvent, WebhookReceiver};

use crate::support::servers::{Framework, Server};
use crate::support::{Act, Script, TOKEN};

fn receiver(script: &Script) -> WebhookReceiver {
    WebhookReceiver::builder(script.handler()).unauthenticated().build().unwrap()
}

fn seconds(report: &qomplement_webhooks::sender::Report) -> Vec<Duration> {
    report.deliveries.iter().map(|delivery| delivery.at).collect()
}

#[tokio::test(start_paused = true)]
async fn deliveries_come_at_0_5_and_15_seconds_and_there_is_no_fourth() {
    let script = Script::new([Act::Fail]);
    let report = Sender::to_service(receiver(&script)).deliver(Payload::extract_completed()).await;
    assert_eq!(seconds(&report), [0, 5, 15].map(Duration::from_secs));
    assert_eq!(report.statuses(), [Some(503); 3]);
    assert!(!report.is_delivered());
    tokio::time::advance(Duration::from_secs(3600)).await;
    assert_eq!(script.runs(), 3, "there was a fourth delivery");
}

#[tokio::test(start_paused = true)]
async fn a_slow_answer_does_not_move_the_schedule() {
    let script = Script::new([Act::Hang]);
    let report = Sender::to_service(receiver(&script)).deliver(Payload::extract_completed()).await;
    assert_eq!(seconds(&report), [0, 5, 15].map(Duration::from_secs));
    assert!(
        report.deliveries.iter().all(|delivery| delivery.took == Duration::from_millis(4500)),
        "{report:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_success_ends_the_schedule() {
    let script = Script::new([Act::Fail, Act::Succeed]);
    let report = Sender::to_service(receiver(&script)).deliver(Payload::extract_completed()).await;
    assert_eq!(seconds(&report), [0, 5].map(Duration::from_secs));
    assert!(report.is_delivered());
    assert_eq!(report.deliveries[1].result.as_ref().unwrap().body(), r#"{"received":true}"#);
}

#[derive(Clone)]
struct Never;

impl tower_service::Service<Request<Full<bytes::Bytes>>> for Never {
    type Response = Response<Full<bytes::Bytes>>;
    type Error = std::convert::Infallible;
    type Future = std::future::Pending<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Full<bytes::Bytes>>) -> Self::Future {
        std::future::pending()
    }
}

#[tokio::test(start_paused = true)]
async fn a_delivery_without_an_answer_ends_in_time() {
    let sender = Sender::to_service(Never).delivery_timeout(Duration::from_secs(8));
    let report = sender.deliver(Payload::extract_completed()).await;
    // The second delivery is due while the first still waits, and follows it at once.
    assert_eq!(seconds(&report), [0, 8, 18].map(Duration::from_secs));
    for delivery in &report.deliveries {
        assert!(matches!(delivery.result, Err(DeliveryError::Timeout)), "{delivery:?}");
        assert_eq!(delivery.took, Duration::from_secs(8));
    }
}

#[tokio::test]
async fn it_delivers_every_documented_event_to_a_url_with_its_token() {
    let script = Script::default();
    let token = SharedToken::new(TOKEN).unwrap();
    let receiver = WebhookReceiver::builder(script.handler()).token(token.clone()).build().unwrap();
    let server = Server::start(Framework::Axum, receiver).await;
    let without = Sender::to_url(server.url()).unwrap().retry_delays([]);
    let sender = without.clone().token(&token);
    let payloads = [
        Payload::extract_completed(),
        Payload::fill_pdf_completed(),
        Payload::fill_excel_completed(),
        Payload::failed(&JobType::Extract),
        Payload::failed(&JobType::FillPdf),
        Payload::failed(&JobType::FillExcel),
    ];
    for payload in &payloads {
        assert_eq!(without.deliver(payload).await.statuses(), [Some(401)]);
        assert_eq!(sender.deliver(payload).await.statuses(), [Some(200)]);
        // The same job in other bytes is the same job.
        assert_eq!(sender.deliver(payload.clone().reordered()).await.statuses(), [Some(200)]);
        for copy in sender.deliver_in_turn(payload, 2).await {
            assert_eq!(copy.statuses(), [Some(200)]);
        }
    }
    assert_eq!(script.runs(), payloads.len(), "each job once");
}

#[tokio::test]
async fn a_token_is_sent_whatever_the_url_ends_with() {
    let script = Script::default();
    let token = SharedToken::new(TOKEN).unwrap();
    let receiver = WebhookReceiver::builder(script.handler()).token(token.clone()).build().unwrap();
    let server = Server::start(Framework::Axum, receiver).await;
    for end in ["", "?", "?a=b", "#part", "?a=b#part", "#part?a=b"] {
        let sender = Sender::to_url(format!("{}{end}", server.url())).unwrap().retry_delays([]).token(&token);
        assert_eq!(sender.deliver(Payload::extract_completed()).await.statuses(), [Some(200)], "{end}");
    }
}

#[tokio::test]
async fn an_answer_without_end_is_not_read_into_memory() {
    for (bytes, is_read) in [(16 << 20, true), ((16 << 20) + 1, false)] {
        let answer = move || async move { vec![b' '; bytes] };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(axum::serve(listener, axum::Router::new().fallback(answer)).into_future());
        let sender = Sender::to_url(url).unwrap().retry_delays([]).delivery_timeout(Duration::from_secs(60));
        let report = sender.deliver(Payload::extract_completed()).await;
        match &report.deliveries[0].result {
            Ok(answer) => {
                assert!(is_read && answer.body().len() == bytes, "{bytes}: {}", answer.body().len());
            }
            Err(error) => {
                let cause = std::error::Error::source(error).unwrap().to_string();
                assert!(!is_read && cause == "the answer has more than 16777216 bytes", "{bytes}: {cause}");
            }
        }
        server.abort();
    }
}

#[tokio::test]
async fn a_target_that_is_not_there_is_reported_without_its_url() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let sender = Sender::to_url(format!("http://{free}/?token={TOKEN}")).unwrap().retry_delays([]);
    let report = sender.deliver(Payload::extract_completed()).await;
    assert!(matches!(report.deliveries[0].result, Err(DeliveryError::Failed(_))), "{report:?}");
    assert!(!format!("{report:?} {sender:?}").contains(TOKEN), "the token is shown");
    for url in ["", "/path", "ftp://example.com/", "example.com"] {
        assert!(matches!(Sender::to_url(url), Err(SenderError::Url(_))), "{url}");
    }
}

#[test]
fn payloads_are_the_documented_bodies_in_the_documented_order() {
    let documented: [(&[u8], Payload); 4] = [
        (include_bytes!("../payloads/extract_completed.json"), Payload::extract_completed()),
        (include_bytes!("../payloads/extract_failed.json"), Payload::failed(&JobType::Extract)),
        (include_bytes!("../payloads/fill_excel_completed.json"), Payload::fill_excel_completed()),
        (include_bytes!("../payloads/fill_pdf_completed.json"), Payload::fill_pdf_completed()),
    ];
    for (documented, payload) in documented {
        let payload = payload.job_id("550e8400-e29b-41d4-a716-446655440000");
        let compact: String = String::from_utf8_lossy(documented)
            .lines()
            .map(|line| line.trim().replacen("\": ", "\":", 1))
            .collect();
        assert_eq!(payload.to_bytes(), compact);
        let reordered = payload.clone().reordered().to_bytes();
        assert!(reordered.starts_with(br#"{"data":{""#), "{reordered:?}");
        assert_ne!(reordered, payload.to_bytes());
        assert_eq!(WebhookEvent::try_from(reordered).unwrap(), payload.event().unwrap());
    }
}

#[test]
fn anything_in_a_payload_can_be_set_and_removed() {
    let payload = Payload::extract_completed()
        .set("/data/status", "processing")
        .set("/data/result/a~1b/deep", 1)
        .set("/data/result/fields/invoice_number/now_an_object", true)
        .remove("/data/result/tables")
        .remove("/data/nothing/there");
    let body: serde_json::Value = serde_json::from_slice(&payload.to_bytes()).unwrap();
    assert_eq!(body["data"]["status"], "processing");
    assert_eq!(body["data"]["result"]["a/b"]["deep"], 1);
    assert_eq!(body["data"]["result"]["fields"]["invoice_number"]["now_an_object"], true);
    assert!(body["data"]["result"].get("tables").is_none());
}
