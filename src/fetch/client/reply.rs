//! Reads the API's reply about a job.

use std::borrow::Cow;

use bytes::Bytes;
use serde_json::value::RawValue;

use crate::event::cursor::{Cursor, Json, Malformed};
use crate::event::{Envelope, JobId, JobStatus};
use crate::fetch::{FetchError, Fetched};

/// The values of an object's members, as far as the client reads them. The last value of a repeated key counts; the
/// [`Envelope`] refuses a repeated key where that matters.
#[derive(Default)]
struct Members {
    job_id: Option<Json>,
    data: Option<Json>,
    id: Option<Json>,
    status: Option<Json>,
}

/// Reads a reply about a job: a webhook's `data` object, or a whole webhook.
pub(super) fn read(body: &Bytes, job: &JobId) -> Result<Fetched, FetchError> {
    let whole: &RawValue = serde_json::from_slice(body).map_err(unreadable)?;
    let whole = whole.get();
    let reply = members(whole)?;
    let (data, is_webhook) = match reply.data {
        Some(data) if reply.status.is_none() => (data.of(whole), reply.job_id.is_some()),
        _ => (whole, false),
    };
    let members = members(data)?;
    let status = text(data, "status", members.status)?
        .ok_or_else(|| FetchError::Unreadable("it has no status".into()))?;
    if !JobStatus::from(&*status).is_final() {
        // A job that still runs may lack its id, but must not have another one.
        return match text(data, "id", members.id)? {
            Some(id) if JobId::try_from(&*id).ok().as_ref() != Some(job) => Err(another()),
            _ => Ok(Fetched::Pending),
        };
    }
    // The API's own bytes, so that unknown members are kept.
    let event = if is_webhook { body.clone() } else { in_envelope(job, data) };
    let event = Envelope::try_from(event).map_err(|error| FetchError::Unreadable(error.into()))?;
    if event.job() == job { Ok(Fetched::Finished(event)) } else { Err(another()) }
}

fn members(json: &str) -> Result<Members, FetchError> {
    let mut members = Members::default();
    let mut cursor = Cursor::new(json);
    let read = cursor.members(|key, cursor| {
        let value = cursor.value()?;
        match key {
            b"job_id" => members.job_id = Some(value),
            b"data" => members.data = Some(value),
            b"id" => members.id = Some(value),
            b"status" => members.status = Some(value),
            _ => {}
        }
        Ok::<_, Malformed>(())
    });
    read.map_err(|_| unreadable(cursor.error()))?;
    Ok(members)
}

/// Reads a member that must be a string. The error is not serde's: that one would quote the value.
fn text<'a>(json: &'a str, name: &str, member: Option<Json>) -> Result<Option<Cow<'a, str>>, FetchError> {
    let not_a_string = || FetchError::Unreadable(format!("`{name}` is not a string").into());
    member.map(|value| value.string(json).ok_or_else(not_a_string)).transpose()
}

fn unreadable(error: serde_json::Error) -> FetchError {
    FetchError::Unreadable(error.into())
}

fn in_envelope(job: &JobId, data: &str) -> Bytes {
    // The characters of an id that can be fetched need no escapes.
    format!(r#"{{"job_id":"{job}","data":{data}}}"#).into()
}

fn another() -> FetchError {
    FetchError::Unreadable("it is about another job".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_not_valid_unicode_is_skipped() {
        let job: JobId = "j".parse().unwrap();
        let read = |body: &str| read(&Bytes::from(body.to_owned()), &job);
        for lone in [r"\ud83d", r"status\udc00", r"\udbff\u0041"] {
            let extra = format!(r#""{lone}":{{"{lone}":1}}"#);
            let data = format!(r#"{{{extra},"id":"j","type":"extract","status":"failed",{extra}}}"#);
            let webhook = format!(r#"{{{extra},"job_id":"j","data":{data}}}"#);
            for body in [data.clone(), format!(r#"{{{extra},"data":{data}}}"#), webhook] {
                let fetched = read(&body);
                assert!(matches!(fetched, Ok(Fetched::Finished(_))), "{body}: {fetched:?}");
            }
            let running = data.replace("failed", "processing");
            assert!(matches!(read(&running), Ok(Fetched::Pending)), "{running}");
            let other = running.replace(r#""id":"j""#, r#""id":"k""#);
            assert!(matches!(read(&other), Err(FetchError::Unreadable(_))), "{other}");
        }
        for unreadable in ["[]", "null", "{}", r#"{"status":7}"#, r#"{"status":"\ud800"}"#, r#"{"data":[]}"#]
        {
            assert!(matches!(read(unreadable), Err(FetchError::Unreadable(_))), "{unreadable}");
        }
    }
}
