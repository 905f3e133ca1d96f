//! The event: the parsed content of a webhook.

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use super::job::Job;
use super::raw_json::same_json;
use super::results::{ExtractResult, FillResult, JobError};

/// The parsed content of one webhook.
///
/// Made from the bytes of a body with `TryFrom<Bytes>`, in one pass and in any order of keys.
///
/// Its serde form is its body (for JSON only), and two events are equal if their bodies hold the same
/// JSON value. A stored event can therefore be read by a newer version of this crate, which may
/// recognize more of it. A change to the public members of a result changes neither.
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
        /// The extracted data.
        result: ExtractResult,
    },
    /// A form has been filled; [`Job::job_type`] says whether PDF or Excel.
    FillCompleted {
        /// The job.
        job: Job,
        /// The filled document's address and the counts of its fields.
        result: FillResult,
    },
    /// A job of a known type has failed.
    JobFailed {
        /// The job.
        job: Job,
        /// The reason.
        error: JobError,
    },
    /// A webhook with a type or a [status](Job::status) that this version does not know, or with
    /// status `completed` and a `result` that is missing or not an object.
    Unrecognized {
        /// The job.
        job: Job,
    },
}

impl WebhookEvent {
    /// The job that the event is about.
    #[must_use]
    pub fn job(&self) -> &Job {
        match self {
            Self::ExtractCompleted { job, .. }
            | Self::FillCompleted { job, .. }
            | Self::JobFailed { job, .. }
            | Self::Unrecognized { job } => job,
        }
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

/// A webhook's job and content apart, as the methods of a handler get them: an event is large to move.
pub(crate) struct Event {
    pub(crate) job: Job,
    pub(crate) content: Content,
}

/// The content of an [`Event`], for one method of the handler each.
#[derive(Default)]
pub(crate) enum Content {
    Extracted(ExtractResult),
    Filled(FillResult),
    Failed(JobError),
    #[default]
    Unrecognized,
}

impl Event {
    /// Sets the attempt's number and its lease's fencing token.
    pub(crate) fn leased(mut self, attempt: u32, fence: u64) -> Self {
        (self.job.attempt, self.job.fence) = (attempt, fence);
        self
    }
}

impl Content {
    /// The name of the handler's method, as [`WebhookEvent::name`].
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Extracted(_) => "extract_completed",
            Self::Filled(_) => "fill_completed",
            Self::Failed(_) => "job_failed",
            Self::Unrecognized => "unrecognized",
        }
    }
}

impl PartialEq for WebhookEvent {
    fn eq(&self, other: &Self) -> bool {
        same_json(self.job().raw(), other.job().raw())
    }
}

impl Serialize for WebhookEvent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let body: &RawValue = serde_json::from_slice(self.job().raw()).map_err(serde::ser::Error::custom)?;
        body.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for WebhookEvent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let body = String::from(Box::<str>::from(Box::<RawValue>::deserialize(deserializer)?));
        Self::try_from(Bytes::from(body)).map_err(serde::de::Error::custom)
    }
}
