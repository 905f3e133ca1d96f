//! What a finished job produced.

use std::fmt;

use bytestring::ByteString;

use super::raw_json::RawJson;

/// The result of a finished extraction.
///
/// A member is `None` when the body does not have it, has `null`, or has something of another type
/// than documented; whatever the body held is still in [`Job::raw`](crate::Job::raw). Strings and
/// JSON are slices of the body and keep it in memory. `Debug` shows of a text how long it is.
///
/// Source of the members: the `extract` example in Qomplement's webhook documentation.
#[derive(Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct ExtractResult {
    /// The model that read the document, such as `qomplement-OCR-v1`.
    pub model: Option<ByteString>,
    /// The kind of document, such as `invoice`.
    pub document_type: Option<ByteString>,
    /// The document's language, such as `en`.
    pub language: Option<ByteString>,
    /// How sure the model is, from 0 to 100. Not checked to be in that range.
    pub confidence: Option<f64>,
    /// The extracted fields: documented as an object of any shape, kept whatever it is.
    pub fields: Option<RawJson>,
    /// The extracted tables: documented as an array of any shape, kept whatever it is.
    pub tables: Option<RawJson>,
    /// How many pages were read.
    pub pages_processed: Option<u64>,
    /// How long the job took, in milliseconds.
    pub processing_time_ms: Option<u64>,
}

/// The result of a finished PDF or Excel form.
///
/// A member is `None` under the same conditions as in [`ExtractResult`], whose `Debug` it shares.
///
/// Source of the members: the `fill_pdf` and `fill_excel` examples in Qomplement's webhook
/// documentation.
#[derive(Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct FillResult {
    /// Where the filled document is: a path relative to the API's origin,
    /// `https://developer-api.qomplement.com`.
    ///
    /// It comes from a request that is not signed: do not send your API key to wherever it points.
    /// The documented path can be built from [`Job::id`](crate::Job::id).
    pub download_url: Option<ByteString>,
    /// How many of the form's fields were filled.
    pub fields_filled: Option<u64>,
    /// How many fields the form has.
    pub fields_total: Option<u64>,
}

/// Why a job failed, as the sender tells it.
///
/// A member is `None` under the same conditions as in [`ExtractResult`], whose `Debug` it shares.
#[derive(Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct JobError {
    /// The kind of failure, such as `processing_error`.
    pub code: Option<ByteString>,
    /// A sentence for people.
    pub message: Option<ByteString>,
}

/// A text of the body in `Debug`: its length. The text is the user's document, or says something of it.
struct Hidden<'a>(&'a Option<ByteString>);

impl fmt::Debug for Hidden<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(text) => write!(f, "Some({} bytes)", text.len()),
            None => f.write_str("None"),
        }
    }
}

impl fmt::Debug for ExtractResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExtractResult")
            .field("model", &Hidden(&self.model))
            .field("document_type", &Hidden(&self.document_type))
            .field("language", &Hidden(&self.language))
            .field("confidence", &self.confidence)
            .field("fields", &self.fields)
            .field("tables", &self.tables)
            .field("pages_processed", &self.pages_processed)
            .field("processing_time_ms", &self.processing_time_ms)
            .finish()
    }
}

impl fmt::Debug for FillResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FillResult")
            .field("download_url", &Hidden(&self.download_url))
            .field("fields_filled", &self.fields_filled)
            .field("fields_total", &self.fields_total)
            .finish()
    }
}

impl fmt::Debug for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobError")
            .field("code", &Hidden(&self.code))
            .field("message", &Hidden(&self.message))
            .finish()
    }
}
