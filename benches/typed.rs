//! The types that a user would derive without this crate: an internally tagged enum.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
#[allow(dead_code)]
pub struct Envelope {
    job_id: String,
    data: Data,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[allow(dead_code)]
enum Data {
    Extract { id: String, status: String, result: Option<Extract> },
    FillPdf { id: String, status: String, result: Option<Fill> },
    FillExcel { id: String, status: String, result: Option<Fill> },
}

#[derive(Deserialize)]
#[allow(dead_code)]
struct Extract {
    model: String,
    document_type: String,
    language: String,
    confidence: f64,
    fields: HashMap<String, Value>,
    tables: Vec<Value>,
    pages_processed: u64,
    processing_time_ms: u64,
}

#[derive(Deserialize)]
#[allow(dead_code)]
struct Fill {
    download_url: String,
    fields_filled: u64,
    fields_total: u64,
}

pub fn read(body: &[u8]) -> Envelope {
    serde_json::from_slice(body).unwrap()
}
