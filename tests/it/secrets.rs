//! What `Debug`, `Display` and causes never show: the user's document, the token and the key.

use std::collections::HashMap;
use std::error::Error;
use std::ffi::OsStr;
use std::fmt::Debug;
use std::net::IpAddr;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use qomplement_webhooks::event::{Envelope, RawJson};
use qomplement_webhooks::fetch::{ApiKey, Fetched, RequestBudget};
use qomplement_webhooks::inbox::InboxFilter;
use qomplement_webhooks::sender::{Payload, Sender};
use qomplement_webhooks::{
    InboxStore, InboxWorker, JobsClient, MemoryDedupStore, MemoryInbox, Reconciler, SharedToken,
    Verification, WebhookEvent, WebhookReceiver, WebhookUrl,
};
use serde::de::DeserializeOwned;

use crate::support::Script;
use crate::support::api::{Api, Says};
use crate::support::inboxes::all_rows;

const CANARY: &str = "s3cr3t-content";
/// Set in the process that a test below starts.
const VARIABLE: &str = "QOMPLEMENT_WEBHOOKS_TEST_SECRET";
const LONG_CANARY: &str = "s3cr3t-content-of-more-than-32-characters";

fn shows_nothing(what: &str, value: &dyn Debug) -> String {
    let (line, lines) = (format!("{value:?}"), format!("{value:#?}"));
    assert!(!line.is_empty(), "{what} shows nothing at all");
    for text in [&line, &lines] {
        assert!(!text.contains("s3cr3t"), "{what} shows the secret: {text}");
        assert!(!text.contains("115, 51, 99"), "{what} shows the secret's bytes: {text}");
    }
    line
}

/// Every documented webhook, with the canary in every text but the envelope's, and in new members.
fn events() -> Vec<WebhookEvent> {
    let result = |payload: Payload| {
        ["model", "document_type", "language", "download_url", "new"]
            .iter()
            .fold(payload, |payload, member| payload.set(&format!("/data/result/{member}"), CANARY))
            .set("/data/result/fields/name", CANARY)
            .set("/data/result/tables", vec![CANARY])
            .set("/new", CANARY)
    };
    let failed = Payload::failed(&"extract".into());
    let payloads = [
        result(Payload::extract_completed()),
        result(Payload::extract_completed()).set("/data/result/fields", CANARY),
        result(Payload::fill_pdf_completed()),
        failed.set("/data/error/code", CANARY).set("/data/error/message", CANARY),
        result(Payload::extract_completed()).set("/data/status", "processing"),
    ];
    payloads.iter().map(|payload| payload.event().unwrap()).collect()
}

#[tokio::test]
async fn the_document_is_shown_by_no_debug() {
    for event in events() {
        let text = shows_nothing("an event", &event);
        assert!(text.contains(&event.job().id().to_string()), "which job it was is not said: {text}");
        let body = event.job().raw().clone();
        shows_nothing("a job", event.job());
        match &event {
            WebhookEvent::ExtractCompleted { result, .. } => {
                let text = shows_nothing("a result", result);
                assert!(text.contains("confidence: Some(95.0)") && text.contains("bytes"), "{text}");
                shows_nothing("fields", &result.fields);
            }
            WebhookEvent::FillCompleted { result, .. } => {
                let text = shows_nothing("a result", result);
                assert!(text.contains("fields_filled: Some(8)"), "{text}");
            }
            WebhookEvent::JobFailed { error, .. } => {
                shows_nothing("an error", error);
            }
            _ => assert!(text.contains("processing"), "the status is not said: {text}"),
        }
        for kind in [&body, &Bytes::from(format!("\"{CANARY}\"")), &Bytes::from(format!("[\"{CANARY}\"]"))] {
            shows_nothing("JSON", &RawJson::try_from(kind.clone()).unwrap());
        }
        shows_nothing("a payload", &Payload::from_json(&body).unwrap());
        let envelope = Envelope::try_from(body).unwrap();
        shows_nothing("an envelope", &envelope);
        shows_nothing("what was fetched", &Fetched::Finished(envelope.clone()));

        let inbox = MemoryInbox::new();
        inbox.receive(&envelope).await.unwrap();
        shows_nothing("an inbox", &inbox);
        shows_nothing("rows", &all_rows(&inbox, &InboxFilter::default()).await);
        let leased = inbox.lease(1, Duration::from_secs(60)).await.unwrap();
        assert!(shows_nothing("what was leased", &leased).contains("bytes"), "the body's size is not said");
    }
}

#[test]
fn the_token_and_the_key_are_shown_by_no_debug() {
    let token = SharedToken::new(LONG_CANARY).unwrap();
    let url = WebhookUrl::new("https://example.com/x", &token).unwrap();
    let key = ApiKey::new(LONG_CANARY).unwrap();
    let client = JobsClient::builder(key.clone());
    let receiver = || WebhookReceiver::builder(Script::default().handler()).token(token.clone());
    shows_nothing("a token", &token);
    shows_nothing("a URL", &url);
    shows_nothing("a key", &key);
    shows_nothing("a client's builder", &client);
    shows_nothing("a client", &client.build().unwrap());
    shows_nothing("a receiver's builder", &receiver());
    shows_nothing("a receiver", &receiver().build().unwrap());
    shows_nothing("a sender", &Sender::to_url("http://127.0.0.1/").unwrap().token(&token));
    for bad in
        [LONG_CANARY.to_owned() + " ", CANARY.into(), LONG_CANARY.repeat(9), LONG_CANARY.to_owned() + "\n"]
    {
        if let Err(error) = SharedToken::new(&bad) {
            told("a token that is none", &error);
        }
        if let Err(error) = ApiKey::new(&bad) {
            told("a key that is none", &error);
        }
    }
}

#[tokio::test]
async fn debug_says_what_a_thing_is_and_how_it_is_set_up() {
    let script = Script::default();
    let handler = || script.handler();
    let inbox = MemoryInbox::new();
    for payload in [Payload::extract_completed(), Payload::fill_pdf_completed()] {
        inbox.receive(&Envelope::try_from(payload.to_bytes()).unwrap()).await.unwrap();
    }
    let builder =
        || WebhookReceiver::builder(handler()).dedup_store(MemoryDedupStore::new()).unauthenticated();
    let durable = WebhookReceiver::durable(inbox.clone()).unauthenticated();
    let budget = RequestBudget::new(2.0, 3);
    let key = ApiKey::new(LONG_CANARY).unwrap();
    let things: [(String, &[&str]); 9] = [
        (format!("{key:?}"), &["ApiKey([redacted])"]),
        (
            format!("{:?}", JobsClient::builder(key).build().unwrap()),
            &["JobsClient {", "origin: \"https://", "budget: RequestBudget {", "timeout: 10s"],
        ),
        (
            format!("{:?}", builder()),
            &[
                "WebhookReceiverBuilder {",
                "authentication: Some(unauthenticated)",
                "store: Some(MemoryDedupStore",
            ],
        ),
        (
            format!("{:?}", builder().build().unwrap()),
            &[
                "WebhookReceiver {",
                "authentication: unauthenticated",
                "ack_deadline: ",
                "store: MemoryDedupStore {",
            ],
        ),
        (format!("{:?}", durable.build().unwrap()), &["WebhookReceiver {", "inbox: MemoryInbox { rows: 2 }"]),
        (
            format!("{:?}", InboxWorker::new(inbox.clone(), handler(), Verification::Trust)),
            &["InboxWorker {", "inbox: MemoryInbox", "verification: Trust", "on_dead_letter: None"],
        ),
        (
            format!("{:?}", Reconciler::new(inbox.clone(), Api::new(Says::Pending))),
            &["Reconciler {", "inbox: MemoryInbox", "source: "],
        ),
        (format!("{budget:?}"), &["RequestBudget {", "interval: 500ms", "at_once: 3"]),
        (format!("{:?}", budget.acquire().await.unwrap()), &["RequestPermit"]),
    ];
    for (shown, parts) in things {
        for part in parts {
            assert!(shown.contains(part), "no {part} in {shown}");
        }
    }
}

/// Parses a value, and a member, into a type that it does not fit.
fn misfit<T: DeserializeOwned + Debug>(json: &str) -> String {
    let value: RawJson = json.parse().unwrap();
    let object: RawJson = format!("{{\"key\": {json}}}").parse().unwrap();
    let error = value.parse::<T>().unwrap_err();
    assert_eq!(object.get::<T>("key").unwrap_err(), error);
    let text = told("an error of JSON", &error);
    assert!(text.contains(std::any::type_name::<T>()) && text.contains("line 1, column "), "{text}");
    text
}

#[test]
fn a_value_is_not_shown_by_the_error_of_a_type_that_it_does_not_fit() {
    let text = format!("\"{CANARY}\"");
    assert!(misfit::<u64>(&text).contains("column 16"));
    misfit::<Vec<String>>(&text);
    misfit::<IpAddr>(&text);
    // An enum and a struct: serde tells which variant or field is unknown.
    misfit::<Result<u8, u8>>(&text);
    misfit::<Range<u8>>(&format!("{{{text}: 2}}"));
    misfit::<Range<u8>>(&format!("{{\"start\": {text}}}"));
    misfit::<HashMap<u8, u8>>(&format!("{{{text}: 1}}"));
    let half = format!("\"{CANARY}\\ud800\"");
    misfit::<String>(&half);
    told("a tree", &half.parse::<RawJson>().unwrap().to_value().unwrap_err());
}

/// An error with all its causes, which show nothing.
fn told(what: &str, error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        shows_nothing(what, &error);
        shows_nothing(what, &error.to_string());
        text = format!("{text}{error}; {error:?}; ");
        next = error.source();
    }
    text
}

/// Runs in a process of its own, whose environment is set.
#[test]
#[ignore = "a process that another test starts"]
fn a_process_with_a_secret_that_is_not_unicode() {
    let value = std::env::var_os(VARIABLE).expect("started by no other test");
    assert!(value.to_str().is_none(), "the environment is not as it should be");
    for error in [
        Box::new(SharedToken::from_env(VARIABLE).unwrap_err()) as Box<dyn Error>,
        Box::new(ApiKey::from_env(VARIABLE).unwrap_err()),
    ] {
        let text = told("the environment's error", &*error);
        assert!(text.contains(VARIABLE) && text.contains("not Unicode"), "{text}");
    }
}

#[test]
fn an_environment_variable_that_is_not_unicode_is_not_shown() {
    let secret = OsStr::from_bytes(b"s3cr3t-content-of-more-than-32-characters\xff");
    let test = "secrets::a_process_with_a_secret_that_is_not_unicode";
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", test])
        .env(VARIABLE, secret)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");

    let missing = SharedToken::from_env("QOMPLEMENT_WEBHOOKS_TEST_NOT_SET").unwrap_err();
    assert!(missing.to_string().ends_with("is not set"), "{missing}");
    let missing = ApiKey::from_env("QOMPLEMENT_WEBHOOKS_TEST_NOT_SET").unwrap_err();
    assert!(missing.to_string().ends_with("is not set"), "{missing}");
}
