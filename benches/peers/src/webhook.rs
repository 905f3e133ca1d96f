//! The webhook that all contestants receive: the documented extraction, made larger if asked.

use std::ops::Range;

use qomplement_webhooks::sender::Payload;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The body as one would declare it for a typed axum handler. Fields and tables stay text, which is the cheapest way,
/// and the one of our own results.
#[derive(Clone, Debug, Serialize, Deserialize, awa::JobArgs)]
pub struct Webhook {
    pub job_id: String,
    pub data: Data,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Data {
    pub id: String,
    #[serde(rename = "type")]
    pub kind: Kind,
    pub status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<Extraction>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Extract,
    FillPdf,
    FillExcel,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Completed,
    Failed,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Extraction {
    pub model: String,
    pub document_type: String,
    pub language: String,
    pub confidence: f64,
    pub fields: Box<RawValue>,
    pub tables: Box<RawValue>,
    pub pages_processed: u32,
    pub processing_time_ms: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failure {
    pub code: String,
    pub message: String,
}

/// The bodies of one size. They differ in the job's id alone.
pub struct Bodies {
    head: String,
    middle: String,
    tail: String,
}

const MARK: &str = "00000000-0000-0000-0000-000000000000";

impl Bodies {
    /// Bodies of about this size. The documented one, of 393 bytes, is the smallest.
    pub fn new(bytes: usize) -> Self {
        let documented = Payload::extract_completed().job_id(MARK);
        let missing = bytes.saturating_sub(documented.to_bytes().len());
        let row = r#"{"position":7,"description":"Part no. 7, galvanised, with two washers","quantity":3,"taxable":false}"#;
        let rows = vec![serde_json::from_str::<serde_json::Value>(row).unwrap(); missing / (row.len() + 1)];
        let body = documented.set("/data/result/tables", rows).to_bytes();
        let mut parts = str::from_utf8(&body).unwrap().splitn(3, MARK).map(str::to_owned);
        let mut part = || parts.next().unwrap();
        Self { head: part(), middle: part(), tail: part() }
    }

    pub fn len(&self) -> usize {
        self.head.len() + self.middle.len() + self.tail.len() + 2 * MARK.len()
    }

    /// The beginning of a body, with both ids; the rest is the same for all jobs.
    pub fn start(&self, id: &str) -> String {
        [&self.head, id, &self.middle, id].concat()
    }

    pub fn rest(&self) -> &str {
        &self.tail
    }

    /// Typed webhooks.
    pub fn webhooks(&self, numbers: Range<u64>) -> Vec<Webhook> {
        let body = |number| self.start(&id(number)) + &self.tail;
        numbers.map(|number| serde_json::from_str(&body(number)).unwrap()).collect()
    }
}

/// A UUID. As with the ids of jobs, its order is not that of arrival.
pub fn id(number: u64) -> String {
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    format!("{:08x}-41d4-4716-a716-{number:012x}", mixed >> 32)
}

/// A body of GitHub's, a push, of the same size as ours.
pub fn github(bytes: usize) -> String {
    let start = r#"{"ref":"refs/heads/main","action":"opened","repository":{"id":1296269,"name":"hello","full_name":"octo/hello","owner":{"login":"octo","id":1}},"sender":{"login":"octo","id":1},"installation":{"id":1},"commits":[{"message":""#;
    let end = r#""}]}"#;
    [start, &"x".repeat(bytes.saturating_sub(start.len() + end.len())), end].concat()
}
