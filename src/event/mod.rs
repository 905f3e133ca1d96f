//! Events, the jobs that they are about, and the results in them.

pub(crate) mod cursor;
mod envelope;
mod job;
mod job_id;
mod parse;
mod raw_json;
mod results;
mod trace_parent;
mod webhook_event;

#[cfg(test)]
mod tests;

/// The strings in results: slices of the webhook's body.
pub use bytestring::ByteString;

pub use self::envelope::Envelope;
pub use self::job::{Job, JobStatus, JobType};
pub use self::job_id::{InvalidJobId, JobId, JobIdStr};
pub use self::parse::ParseError;
pub use self::raw_json::{RawJson, RawJsonError};
pub use self::results::{ExtractResult, FillResult, JobError};
pub use self::trace_parent::{InvalidTraceParent, TraceParent};
pub use self::webhook_event::WebhookEvent;
pub(crate) use self::webhook_event::{Content, Event};
