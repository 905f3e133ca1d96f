//! What the API says about a job.

use std::collections::HashMap;

use bytes::Bytes;
use serde_json::value::RawValue;

use crate::event::{Envelope, JobId, JobStatus};
use crate::jobs::{FetchError, Fetched};

type Object<'a> = HashMap<String, &'a RawValue>;

/// Reads a reply about a job: a webhook's `data` object, or a whole webhook.
pub(super) fn read(body: &Bytes, job: &JobId) -> Result<Fetched, FetchError> {
    let whole: &RawValue = serde_json::from_slice(body).map_err(unreadable)?;
    let reply: Object<'_> = object(whole)?;
    let (data, is_webhook) = match reply.get("data") {
        Some(data) if !reply.contains_key("status") => (*data, reply.contains_key("job_id")),
        _ => (whole, false),
    };
    let members = object(data)?;
    let status =
        text(&members, "status")?.ok_or_else(|| FetchError::Unreadable("it has no status".into()))?;
    if !JobStatus::from(&*status).is_final() {
        // Less need be said of a job that still runs; but not that it is another.
        return match text(&members, "id")? {
            Some(id) if JobId::try_from(&*id).ok().as_ref() != Some(job) => Err(another()),
            _ => Ok(Fetched::Pending),
        };
    }
    // As the API has it, so that members which are not known are kept.
    let event = if is_webhook { body.clone() } else { in_envelope(job, data) };
    let event = Envelope::try_from(event).map_err(|error| FetchError::Unreadable(error.into()))?;
    if event.job() == job { Ok(Fetched::Finished(event)) } else { Err(another()) }
}

fn object(json: &RawValue) -> Result<Object<'_>, FetchError> {
    serde_json::from_str(json.get()).map_err(unreadable)
}

fn text(members: &Object<'_>, name: &str) -> Result<Option<String>, FetchError> {
    members.get(name).map(|json| serde_json::from_str(json.get()).map_err(unreadable)).transpose()
}

fn unreadable(error: serde_json::Error) -> FetchError {
    FetchError::Unreadable(error.into())
}

fn in_envelope(job: &JobId, data: &RawValue) -> Bytes {
    // An id that may be asked for needs no escapes.
    format!(r#"{{"job_id":"{job}","data":{}}}"#, data.get()).into()
}

fn another() -> FetchError {
    FetchError::Unreadable("it is about another job".into())
}
