//! The documented bodies, and the changes that a test makes to them.

use std::fmt;

use bytes::Bytes;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::event::{JobType, ParseError, WebhookEvent};

/// The body of a webhook. It begins as a documented body with a job id of its own; methods change it.
///
/// # Examples
///
/// ```
/// use qomplement_webhooks::sender::Payload;
/// use qomplement_webhooks::WebhookEvent;
///
/// let payload = Payload::extract_completed()
///     .job_id("job-7")
///     .set("/data/result/confidence", 40)
///     .remove("/data/result/language")
///     .reordered();
/// let WebhookEvent::ExtractCompleted { result, .. } = payload.event()? else { panic!() };
/// assert_eq!((result.confidence, result.language), (Some(40.0), None));
/// # Ok::<(), qomplement_webhooks::event::ParseError>(())
/// ```
///
/// `Debug` shows the size only: [`from_json`](Self::from_json) may have read a real document.
#[derive(Clone, PartialEq)]
pub struct Payload {
    body: Value,
    keys: KeyOrder,
}

/// The order in which the keys of every object are written.
#[derive(Debug, Clone, Copy, PartialEq)]
enum KeyOrder {
    Documented,
    Reversed,
}

/// All keys in the documented bodies, in their order there.
const KEYS: [&str; 20] = [
    "job_id",
    "data",
    "id",
    "type",
    "status",
    "result",
    "error",
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
    "code",
    "message",
];

impl Payload {
    /// A completed extraction: the documented invoice.
    #[must_use]
    pub fn extract_completed() -> Self {
        let result = json!({
            "model": "qomplement-OCR-v1",
            "document_type": "invoice",
            "language": "en",
            "confidence": 95,
            "fields": {
                "invoice_number": "INV-2025-001234",
                "total_amount": "1500.50",
                "vendor_name": "ABC Corp",
            },
            "tables": [],
            "pages_processed": 12,
            "processing_time_ms": 45000,
        });
        Self::new(&JobType::Extract, "completed", "result", result)
    }

    /// A completed PDF form.
    #[must_use]
    pub fn fill_pdf_completed() -> Self {
        Self::fill_completed(&JobType::FillPdf)
    }

    /// A completed Excel form.
    #[must_use]
    pub fn fill_excel_completed() -> Self {
        Self::fill_completed(&JobType::FillExcel)
    }

    /// A failed job of the given type.
    #[must_use]
    pub fn failed(job_type: &JobType) -> Self {
        let error = json!({"code": "processing_error", "message": "Could not extract text from document"});
        Self::new(job_type, "failed", "error", error)
    }

    /// A body of your own. It is written anew, with the keys in the documented order and without white space.
    ///
    /// # Errors
    ///
    /// Returns an error if `body` is not one JSON value, or is one that a `serde_json::Value` cannot hold: see
    /// [`RawJson::to_value`](crate::event::RawJson::to_value). In that case, deliver the bytes themselves.
    pub fn from_json(body: &[u8]) -> serde_json::Result<Self> {
        Ok(Self { body: serde_json::from_slice(body)?, keys: KeyOrder::Documented })
    }

    fn fill_completed(job_type: &JobType) -> Self {
        Self::new(job_type, "completed", "result", json!({"fields_filled": 8, "fields_total": 12}))
    }

    fn new(job_type: &JobType, status: &str, member: &str, content: Value) -> Self {
        let data = json!({"type": job_type.as_str(), "status": status, member: content});
        Self { body: json!({"data": data}), keys: KeyOrder::Documented }.job_id(Uuid::new_v4().to_string())
    }

    /// Sets the job's id, everywhere in the body.
    #[must_use]
    pub fn job_id(self, id: impl Into<String>) -> Self {
        let id = id.into();
        let is_fill = self.body.pointer("/data/result/fields_filled").is_some();
        let download_url = format!("/v1/jobs/{id}/download");
        let payload = self.set("/job_id", id.as_str()).set("/data/id", id);
        if is_fill { payload.set("/data/result/download_url", download_url) } else { payload }
    }

    /// Sets the value at a [JSON pointer](https://www.rfc-editor.org/rfc/rfc6901) such as
    /// `/data/result/fields/total_amount`. Missing objects on the way are created, and other values on the way are
    /// replaced by objects.
    #[must_use]
    pub fn set(mut self, pointer: &str, value: impl Into<Value>) -> Self {
        let mut place = &mut self.body;
        for key in keys(pointer) {
            if !place.is_object() {
                *place = Value::Object(Map::new());
            }
            place = &mut place[key];
        }
        *place = value.into();
        self
    }

    /// Removes the object member at a JSON pointer, if it exists.
    #[must_use]
    pub fn remove(mut self, pointer: &str) -> Self {
        if let Some((parent, _)) = pointer.rsplit_once('/')
            && let Some(object) = self.body.pointer_mut(parent).and_then(Value::as_object_mut)
            && let Some(key) = keys(pointer).last()
        {
            object.remove(&key);
        }
        self
    }

    /// Writes the keys of every object in the reverse of the documented order, so the result comes before the type.
    /// The order of keys is not documented, so a receiver must take any.
    #[must_use]
    pub fn reordered(mut self) -> Self {
        self.keys = KeyOrder::Reversed;
        self
    }

    /// The bytes of the body.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        let mut text = String::new();
        write(&self.body, self.keys, &mut text);
        text.into()
    }

    /// The event that a receiver reads from the body.
    ///
    /// # Errors
    ///
    /// Returns an error if the changes left no valid event.
    pub fn event(&self) -> Result<WebhookEvent, ParseError> {
        self.to_bytes().try_into()
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes)", self.to_bytes().len())
    }
}

impl From<Payload> for Bytes {
    fn from(payload: Payload) -> Self {
        payload.to_bytes()
    }
}

impl From<&Payload> for Bytes {
    fn from(payload: &Payload) -> Self {
        payload.to_bytes()
    }
}

/// The keys along a JSON pointer.
fn keys(pointer: &str) -> impl Iterator<Item = String> {
    pointer.split('/').skip(1).map(|key| key.replace("~1", "/").replace("~0", "~"))
}

/// Writes JSON with ordered keys. serde_json's own order depends on the features that other crates in the program
/// enable.
fn write(value: &Value, order: KeyOrder, text: &mut String) {
    match value {
        Value::Object(object) => {
            let mut members: Vec<_> = object.iter().collect();
            let rank = |key: &str| KEYS.iter().position(|known| *known == key).unwrap_or(KEYS.len());
            members.sort_by_key(|(key, _)| (rank(key), *key));
            if order == KeyOrder::Reversed {
                members.reverse();
            }
            separated(text, '{', '}', members, |(key, value), text| {
                *text += &Value::from(key.as_str()).to_string();
                text.push(':');
                write(value, order, text);
            });
        }
        Value::Array(items) => separated(text, '[', ']', items, |item, text| write(item, order, text)),
        scalar => *text += &scalar.to_string(),
    }
}

fn separated<T>(
    text: &mut String,
    open: char,
    close: char,
    items: impl IntoIterator<Item = T>,
    mut write: impl FnMut(T, &mut String),
) {
    text.push(open);
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        write(item, text);
    }
    text.push(close);
}
