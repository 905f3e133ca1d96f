//! The event that a body means, worked out on a tree.

use qomplement_webhooks::WebhookEvent;
use qomplement_webhooks::event::ParseError;
use serde_json::Value;

use crate::tree::{self, Node};

/// The reason for which a body is refused.
#[derive(Debug)]
pub enum Refusal {
    NotUtf8,
    /// May also be refused for a key that is repeated before the text goes wrong.
    NotJson,
    /// Names one of these keys.
    Repeated(Vec<String>),
    Envelope(&'static str),
    Mismatch,
}

/// The members that every event has.
#[derive(Debug)]
pub struct Envelope {
    pub id: String,
    pub job_type: String,
    pub status: String,
}

const RESULT: [&str; 11] = [
    "model",
    "document_type",
    "language",
    "confidence",
    "fields",
    "tables",
    "pages_processed",
    "processing_time_ms",
    "download_url",
    "fields_filled",
    "fields_total",
];

/// The tree and the envelope of a body.
pub fn body(bytes: &[u8]) -> Result<(Node<'_>, Envelope), Refusal> {
    let text = std::str::from_utf8(bytes).map_err(|_| Refusal::NotUtf8)?;
    let root = tree::read(text).ok_or(Refusal::NotJson)?;
    let repeated = repeated(&root);
    if !repeated.is_empty() {
        return Err(Refusal::Repeated(repeated));
    }
    let data = root.first("data");
    let in_data = |key| data.and_then(|data| data.first(key)).and_then(Node::string);
    let outer = root.first("job_id").and_then(Node::string).ok_or(Refusal::Envelope("job_id"))?;
    let inner = in_data("id").ok_or(Refusal::Envelope("data.id"))?;
    if !is_job_id(outer) {
        return Err(Refusal::Envelope("job_id"));
    }
    if !is_job_id(inner) {
        return Err(Refusal::Envelope("data.id"));
    }
    if outer != inner {
        return Err(Refusal::Mismatch);
    }
    let envelope = Envelope {
        id: outer.to_owned(),
        job_type: in_data("type").ok_or(Refusal::Envelope("data.type"))?.to_owned(),
        status: in_data("status").ok_or(Refusal::Envelope("data.status"))?.to_owned(),
    };
    Ok((root, envelope))
}

/// The paths of the keys that are read and appear twice.
fn repeated(root: &Node<'_>) -> Vec<String> {
    let data = root.first("data");
    let in_data = |key| data.and_then(|data| data.first(key));
    let objects: [(&str, Option<&Node<'_>>, &[&str]); 4] = [
        ("", Some(root), &["job_id", "data"]),
        ("data.", data, &["id", "type", "status", "result", "error"]),
        ("data.result.", in_data("result"), &RESULT),
        ("data.error.", in_data("error"), &["code", "message"]),
    ];
    let mut repeated = Vec::new();
    for (path, object, keys) in objects {
        let Some(object) = object else { continue };
        let twice = keys.iter().filter(|key| object.all(key).len() > 1);
        repeated.extend(twice.map(|key| format!("{path}{key}")));
    }
    repeated
}

pub fn is_job_id(text: &str) -> bool {
    (1..=255).contains(&text.len()) && text.chars().all(|char| ('!'..='~').contains(&char))
}

/// Checks that an error is the one that the model names.
pub fn check_refusal(error: &ParseError, refusal: &Refusal) {
    let agrees = match (error, refusal) {
        (ParseError::NotUtf8(_), Refusal::NotUtf8)
        | (ParseError::NotJson(_) | ParseError::RepeatedKey(_), Refusal::NotJson)
        | (ParseError::JobIdMismatch, Refusal::Mismatch) => true,
        (ParseError::RepeatedKey(key), Refusal::Repeated(keys)) => keys.iter().any(|other| other == key),
        (ParseError::Envelope(path), Refusal::Envelope(other)) => path == other,
        _ => false,
    };
    assert!(agrees, "{error:?}, and the model says {refusal:?}");
}

/// Checks every value of an event.
pub fn check_event(event: &WebhookEvent, root: &Node<'_>, envelope: &Envelope) {
    let job = event.job();
    assert_eq!(*job.id(), envelope.id.as_str());
    assert_eq!(job.job_type().as_str(), envelope.job_type);
    assert_eq!(job.status().as_str(), envelope.status);

    let data = root.first("data");
    let result = data.and_then(|data| data.first("result")).filter(|result| result.members().is_some());
    let error = data.and_then(|data| data.first("error"));
    let in_result = |key| result.and_then(|result| result.first(key));
    let in_error = |key| error.and_then(|error| error.first(key)).and_then(Node::string);
    let string = |key| in_result(key).and_then(Node::string);
    let json = |key| in_result(key).map(|node| node.text).filter(|text| *text != "null");
    let integer = |key| -> Option<u64> { serde_json::from_str::<Value>(in_result(key)?.text).ok()?.as_u64() };
    let float =
        |key| -> Option<f64> { in_result(key)?.text.parse().ok().filter(|float: &f64| float.is_finite()) };
    let kind = match (envelope.job_type.as_str(), envelope.status.as_str()) {
        ("extract", "completed") if result.is_some() => "extract_completed",
        ("fill_pdf" | "fill_excel", "completed") if result.is_some() => "fill_completed",
        ("extract" | "fill_pdf" | "fill_excel", "failed") => "job_failed",
        _ => "unrecognized",
    };
    assert_eq!(event.name(), kind);
    match event {
        WebhookEvent::ExtractCompleted { result, .. } => {
            assert_eq!(result.model.as_deref(), string("model"));
            assert_eq!(result.document_type.as_deref(), string("document_type"));
            assert_eq!(result.language.as_deref(), string("language"));
            assert_eq!(result.confidence, float("confidence"));
            assert_eq!(result.fields.as_ref().map(|json| json.as_str()), json("fields"));
            assert_eq!(result.tables.as_ref().map(|json| json.as_str()), json("tables"));
            assert_eq!(result.pages_processed, integer("pages_processed"));
            assert_eq!(result.processing_time_ms, integer("processing_time_ms"));
        }
        WebhookEvent::FillCompleted { result, .. } => {
            assert_eq!(result.download_url.as_deref(), string("download_url"));
            assert_eq!(result.fields_filled, integer("fields_filled"));
            assert_eq!(result.fields_total, integer("fields_total"));
        }
        WebhookEvent::JobFailed { error, .. } => {
            assert_eq!(error.code.as_deref(), in_error("code"));
            assert_eq!(error.message.as_deref(), in_error("message"));
        }
        _ => {}
    }
}
