//! The results and errors of jobs.

use std::fmt;

use bytestring::ByteString;

use super::raw_json::RawJson;

/// The result of a finished extraction.
///
/// A member is `None` if the body lacks it, has `null`, or has a value of another type than documented;
/// [`Job::raw`](crate::Job::raw) still has the original. Strings and JSON are slices of the body and
/// keep it in memory. `Debug` shows the length of a text, not the text.
///
/// The members are those of the `extract` example in Qomplement's webhook documentation.
#[derive(Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct ExtractResult {
    /// The model that read the document, such as `qomplement-OCR-v1`.
    pub model: Option<ByteString>,
    /// The kind of document, such as `invoice`.
    pub document_type: Option<ByteString>,
    /// The document's language, such as `en`.
    pub language: Option<ByteString>,
    /// The model's confidence, documented as 0 to 100. The range is not checked.
    pub confidence: Option<f64>,
    /// The extracted fields, documented as an object of any shape. Any JSON value but `null` is kept.
    pub fields: Option<RawJson>,
    /// The extracted tables, documented as an array of any shape. Any JSON value but `null` is kept.
    pub tables: Option<RawJson>,
    /// The number of pages that were read.
    pub pages_processed: Option<u64>,
    /// The duration of the job, in milliseconds.
    pub processing_time_ms: Option<u64>,
}

/// The result of a filled PDF or Excel form.
///
/// `None` members and `Debug` are as in [`ExtractResult`].
///
/// The members are those of the `fill_pdf` and `fill_excel` examples in Qomplement's webhook
/// documentation.
#[derive(Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct FillResult {
    /// The path of the filled document, relative to the API's origin,
    /// `https://developer-api.qomplement.com`.
    ///
    /// Webhooks are not signed, so this value may be forged: never send your API key to an origin that
    /// it names. The documented path, `/v1/jobs/{id}/download`, needs only [`Job::id`](crate::Job::id).
    pub download_url: Option<ByteString>,
    /// The number of the form's fields that were filled.
    pub fields_filled: Option<u64>,
    /// The number of fields that the form has.
    pub fields_total: Option<u64>,
}

/// The sender's reason for the failure of a job.
///
/// `None` members and `Debug` are as in [`ExtractResult`].
#[derive(Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct JobError {
    /// The kind of failure, such as `processing_error`.
    pub code: Option<ByteString>,
    /// A description for people.
    pub message: Option<ByteString>,
}

/// Shows the length of a text instead of the text, which is the user's document or quotes it.
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
