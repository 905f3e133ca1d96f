//! A job as its webhook describes it: id, type, status and body.

use std::fmt;

use bytes::Bytes;

use super::job_id::JobId;
use super::trace_parent::TraceParent;

/// The job that a webhook is about, with the webhook's body. Cheap to clone.
#[derive(Clone)]
pub struct Job {
    pub(super) id: JobId,
    pub(super) job_type: JobType,
    pub(super) status: JobStatus,
    pub(super) raw: Bytes,
    pub(super) attempt: u32,
    pub(super) fence: u64,
    pub(crate) traceparent: Option<TraceParent>,
}

/// The kind of work that a job does.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum JobType {
    /// `extract`: extracts data from a document.
    Extract,
    /// `fill_pdf`: fills a PDF form.
    FillPdf,
    /// `fill_excel`: fills an Excel form.
    FillExcel,
    /// A type that this version does not know.
    Other(String),
}

/// The status of a job.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum JobStatus {
    /// `completed`: the job has a result.
    Completed,
    /// `failed`: the job has an error.
    Failed,
    /// A status that this version does not know. It is never final.
    Other(String),
}

impl Job {
    /// The job's id: the same in every delivery of its webhook.
    #[must_use]
    pub fn id(&self) -> &JobId {
        &self.id
    }

    /// The kind of work that the job does.
    #[must_use]
    pub fn job_type(&self) -> &JobType {
        &self.job_type
    }

    /// The job's status, as the body says it.
    #[must_use]
    pub fn status(&self) -> &JobStatus {
        &self.status
    }

    /// The whole body of the webhook, as received.
    #[must_use]
    pub fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// The number of this attempt to handle the event, counted from 1; a replay does not start it anew. Always 1 in inline
    /// mode, where the sender repeats its deliveries and nothing counts the attempts.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The fencing token of this attempt: a number that grows with every lease on the job. Store it
    /// with your own writes, and refuse a write whose token is smaller than the stored one. Always 1
    /// in inline mode.
    #[must_use]
    pub fn fence(&self) -> u64 {
        self.fence
    }

    /// The `traceparent` of the delivery that brought the event, to [link](crate::guide::operating#traces) this attempt to
    /// the delivery's trace. In durable mode, it is kept with the event: it is the same in every attempt, in any process.
    ///
    /// `None` if the request had no valid `traceparent`, or more than one, and for the event of an expected job that was
    /// fetched.
    #[must_use]
    pub fn traceparent(&self) -> Option<&TraceParent> {
        self.traceparent.as_ref()
    }
}

impl fmt::Debug for Job {
    /// Leaves out the body, which is the user's document.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("id", &self.id)
            .field("job_type", &self.job_type)
            .field("status", &self.status)
            .field("raw", &format_args!("{} bytes", self.raw.len()))
            .field("attempt", &self.attempt)
            .field("fence", &self.fence)
            .field("traceparent", &self.traceparent)
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

    /// Whether the status ends the job: true for `completed` and `failed`. A status that this version
    /// does not know is never final, so that it cannot hide the `completed` that follows it.
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
