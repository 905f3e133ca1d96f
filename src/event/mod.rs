//! What the sender tells us: events, and the jobs they are about.

pub(crate) mod cursor;
mod job_id;
mod parse;
mod raw_json;
mod results;
#[cfg(test)]
mod tests;

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

/// The strings in results: slices of the webhook's body.
pub use bytestring::ByteString;

pub use self::job_id::{InvalidJobId, JobId, JobIdStr};
pub use self::parse::ParseError;
pub use self::raw_json::{RawJson, RawJsonError};
pub use self::results::{ExtractResult, FillResult, JobError};

/// One webhook, read.
///
/// Made from the bytes of a body with `TryFrom<Bytes>`, in one pass and in any order of keys.
/// Its serde form is its body (for JSON only), and two events are equal when their bodies hold the
/// same JSON value, so an event survives being stored and read back by a newer version of this
/// crate that recognizes more. Changing the public members of a result changes neither.
///
/// # Examples
///
/// ```
/// use bytes::Bytes;
/// use qomplement_webhooks::WebhookEvent;
///
/// let body = Bytes::from_static(
///     br#"{"job_id": "job-7", "data": {"id": "job-7", "type": "extract", "status": "completed",
///          "result": {"document_type": "invoice", "fields": {"total": "1500.50"}}}}"#,
/// );
/// let WebhookEvent::ExtractCompleted { job, result } = WebhookEvent::try_from(body)? else {
///     panic!("another event");
/// };
/// assert_eq!(job.id(), &"job-7");
/// assert_eq!(result.document_type.as_deref(), Some("invoice"));
/// let total: Option<String> = result.fields.unwrap().get("total")?;
/// assert_eq!(total.as_deref(), Some("1500.50"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// `Debug` shows the job, numbers and sizes, and nothing else of the document.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum WebhookEvent {
    /// An extraction has finished.
    ExtractCompleted {
        /// The job.
        job: Job,
        /// What was extracted.
        result: ExtractResult,
    },
    /// A form has been filled; [`Job::job_type`] says whether PDF or Excel.
    FillCompleted {
        /// The job.
        job: Job,
        /// Where the filled document is.
        result: FillResult,
    },
    /// A job of a known type has failed.
    JobFailed {
        /// The job.
        job: Job,
        /// Why.
        error: JobError,
    },
    /// A type or a status that this version does not know, or a finished job whose `result` is
    /// missing or not an object.
    Unrecognized {
        /// The job.
        job: Job,
        /// What the body says about the job.
        status: JobStatus,
    },
}

/// The members that every webhook has, and the body that they stand in: what an
/// [inbox](crate::InboxStore) stores.
///
/// Made from the bytes of a body with `TryFrom<Bytes>`, which takes and refuses the same bodies as
/// [`WebhookEvent`]'s, and builds nothing of the result. Cheap to clone.
#[derive(Clone)]
pub struct Envelope {
    job: JobId,
    job_type: JobType,
    status: JobStatus,
    body: Bytes,
}

/// The job that a webhook is about. Cheap to clone.
#[derive(Clone)]
pub struct Job {
    id: JobId,
    job_type: JobType,
    raw: Bytes,
    attempt: u32,
    fence: u64,
}

/// The kind of work that a job does.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum JobType {
    /// `extract`: data out of a document.
    Extract,
    /// `fill_pdf`: a PDF form.
    FillPdf,
    /// `fill_excel`: an Excel form.
    FillExcel,
    /// A type that this version does not know.
    Other(String),
}

/// How a job stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum JobStatus {
    /// `completed`: it has a result.
    Completed,
    /// `failed`: it has an error.
    Failed,
    /// A status that this version does not know. It is never taken for the job's last word.
    Other(String),
}

impl WebhookEvent {
    /// The job that the event is about.
    #[must_use]
    pub fn job(&self) -> &Job {
        match self {
            Self::ExtractCompleted { job, .. }
            | Self::FillCompleted { job, .. }
            | Self::JobFailed { job, .. }
            | Self::Unrecognized { job, .. } => job,
        }
    }

    /// Says which attempt at handling it this is, and under which lease.
    pub(crate) fn leased(mut self, attempt: u32, fence: u64) -> Self {
        let (Self::ExtractCompleted { job, .. }
        | Self::FillCompleted { job, .. }
        | Self::JobFailed { job, .. }
        | Self::Unrecognized { job, .. }) = &mut self;
        (job.attempt, job.fence) = (attempt, fence);
        self
    }

    /// The name of the [`WebhookHandler`](crate::WebhookHandler) method that gets this event.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::ExtractCompleted { .. } => "extract_completed",
            Self::FillCompleted { .. } => "fill_completed",
            Self::JobFailed { .. } => "job_failed",
            Self::Unrecognized { .. } => "unrecognized",
        }
    }
}

impl Job {
    /// The job's id, which the sender repeats in every copy of the webhook.
    #[must_use]
    pub fn id(&self) -> &JobId {
        &self.id
    }

    /// What the job does.
    #[must_use]
    pub fn job_type(&self) -> &JobType {
        &self.job_type
    }

    /// The whole body of the webhook, as received.
    #[must_use]
    pub fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// Which attempt at handling this is, counted from 1. Always 1 in inline mode, where the sender
    /// repeats and nothing counts.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// A number that grows with every lease on the job, to fence your own writes with. Always 1 in
    /// inline mode.
    #[must_use]
    pub fn fence(&self) -> u64 {
        self.fence
    }
}

impl Envelope {
    /// The job that the webhook is about.
    #[must_use]
    pub fn job(&self) -> &JobId {
        &self.job
    }

    /// What the job does.
    #[must_use]
    pub fn job_type(&self) -> &JobType {
        &self.job_type
    }

    /// How the job stands.
    #[must_use]
    pub fn status(&self) -> &JobStatus {
        &self.status
    }

    /// The whole body, as received.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }
}

impl TryFrom<Bytes> for Envelope {
    type Error = ParseError;

    /// Reads the envelope of a body.
    ///
    /// # Errors
    ///
    /// When the bytes are no [`WebhookEvent`].
    fn try_from(body: Bytes) -> Result<Self, ParseError> {
        parse::envelope(body)
    }
}

impl fmt::Debug for Envelope {
    /// Leaves the body out: it is the user's document.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Envelope")
            .field("job", &self.job)
            .field("job_type", &self.job_type)
            .field("status", &self.status)
            .field("body", &format_args!("{} bytes", self.body.len()))
            .finish()
    }
}

impl fmt::Debug for Job {
    /// Leaves the body out: it is the user's document.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("id", &self.id)
            .field("job_type", &self.job_type)
            .field("raw", &format_args!("{} bytes", self.raw.len()))
            .field("attempt", &self.attempt)
            .field("fence", &self.fence)
            .finish()
    }
}

impl JobType {
    /// The type as the sender spells it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Extract => "extract",
            Self::FillPdf => "fill_pdf",
            Self::FillExcel => "fill_excel",
            Self::Other(other) => other,
        }
    }
}

impl From<&str> for JobType {
    fn from(text: &str) -> Self {
        match text {
            "extract" => Self::Extract,
            "fill_pdf" => Self::FillPdf,
            "fill_excel" => Self::FillExcel,
            other => Self::Other(other.to_owned()),
        }
    }
}

impl fmt::Display for JobType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl JobStatus {
    /// The status as the sender spells it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Other(other) => other,
        }
    }

    /// Whether it ends the job: `completed` and `failed` do. A status that this version does not know is
    /// never taken for the job's last word.
    #[must_use]
    pub fn is_final(&self) -> bool {
        !matches!(self, Self::Other(_))
    }
}

impl From<&str> for JobStatus {
    fn from(text: &str) -> Self {
        match text {
            "completed" => Self::Completed,
            "failed" => Self::Failed,
            other => Self::Other(other.to_owned()),
        }
    }
}

impl fmt::Display for JobStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl TryFrom<Bytes> for WebhookEvent {
    type Error = ParseError;

    /// Reads the body of a webhook.
    ///
    /// # Errors
    ///
    /// When the bytes are not one JSON value in UTF-8, or the value has no readable envelope
    /// (`job_id`, `data.id`, `data.type`, `data.status`). What else is missing or odd makes a
    /// member `None` or the event [`Unrecognized`](Self::Unrecognized).
    fn try_from(body: Bytes) -> Result<Self, ParseError> {
        parse::event(body)
    }
}

impl PartialEq for WebhookEvent {
    fn eq(&self, other: &Self) -> bool {
        raw_json::same_json(&self.job().raw, &other.job().raw)
    }
}

impl Serialize for WebhookEvent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let body: &RawValue = serde_json::from_slice(&self.job().raw).map_err(serde::ser::Error::custom)?;
        body.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for WebhookEvent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let body = String::from(Box::<str>::from(Box::<RawValue>::deserialize(deserializer)?));
        parse::event(body.into()).map_err(serde::de::Error::custom)
    }
}
