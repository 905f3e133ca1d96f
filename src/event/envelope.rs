//! The part of an event that an inbox needs.

use std::fmt;

use bytes::Bytes;

use super::job::{JobStatus, JobType};
use super::job_id::JobId;
use super::trace_parent::TraceParent;

/// The members that every webhook has, with the whole body: the form in which an
/// [inbox](crate::InboxStore) stores an event.
///
/// Made from the bytes of a body with `TryFrom<Bytes>`, which accepts the same bodies as
/// [`WebhookEvent`](crate::WebhookEvent)'s and builds nothing of the result. Cheap to clone.
#[derive(Clone)]
pub struct Envelope {
    pub(super) job: JobId,
    pub(super) job_type: JobType,
    pub(super) status: JobStatus,
    pub(super) body: Bytes,
    pub(crate) traceparent: Option<TraceParent>,
}

impl Envelope {
    /// The id of the job that the webhook is about.
    #[must_use]
    pub fn job(&self) -> &JobId {
        &self.job
    }

    /// The kind of work that the job does.
    #[must_use]
    pub fn job_type(&self) -> &JobType {
        &self.job_type
    }

    /// The job's status.
    #[must_use]
    pub fn status(&self) -> &JobStatus {
        &self.status
    }

    /// The whole body, as received.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The `traceparent` of the delivery; `None` if the request had none, and for a fetched event. An inbox keeps it with
    /// the event.
    #[must_use]
    pub fn traceparent(&self) -> Option<&TraceParent> {
        self.traceparent.as_ref()
    }

    /// Sets the `traceparent` of the delivery, which is no part of the body.
    #[must_use]
    pub fn with_traceparent(self, traceparent: TraceParent) -> Self {
        Self { traceparent: Some(traceparent), ..self }
    }
}

impl fmt::Debug for Envelope {
    /// Leaves out the body, which is the user's document.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Envelope")
            .field("job", &self.job)
            .field("job_type", &self.job_type)
            .field("status", &self.status)
            .field("body", &format_args!("{} bytes", self.body.len()))
            .field("traceparent", &self.traceparent)
            .finish()
    }
}
