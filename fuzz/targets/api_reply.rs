//! The API's reply about a job is read as by the model. The first byte of the input picks the job.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use qomplement_webhooks::JobId;
use qomplement_webhooks_fuzz::model;
use qomplement_webhooks_fuzz::tree::{self, Node};

use crate::fetch::{FetchError, Fetched};

/// The library's own files, which are private to it, in the places that they name each other by.
#[allow(dead_code, reason = "the library uses more of the file")]
#[path = "../../src/event/cursor.rs"]
mod cursor;
#[path = "../../src/fetch/client/reply.rs"]
mod reply;

mod event {
    pub(crate) use qomplement_webhooks::event::{Envelope, JobId, JobStatus};

    pub(crate) use crate::cursor;
}

mod fetch {
    pub(crate) use qomplement_webhooks::fetch::{FetchError, Fetched};
}

/// The state in a reply: the body of an event, or `None` for a job that still runs. An error is an unreadable reply.
fn state(reply: &[u8], job: &str) -> Result<Option<Vec<u8>>, &'static str> {
    let whole = tree::read_bytes(reply).ok_or("no JSON")?;
    let (data, is_webhook) = match whole.last("data") {
        Some(data) if whole.last("status").is_none() => (data, whole.last("job_id").is_some()),
        _ => (&whole, false),
    };
    data.members().ok_or("no object")?;
    let status = data.last("status").and_then(Node::string).ok_or("no status")?;
    if !["completed", "failed"].contains(&status) {
        return match data.last("id").map(Node::string) {
            None => Ok(None),
            Some(Some(id)) if id == job => Ok(None),
            Some(_) => Err("another id"),
        };
    }
    let body = if is_webhook {
        reply.to_vec()
    } else {
        format!("{{\"job_id\":\"{job}\",\"data\":{}}}", data.text).into_bytes()
    };
    match model::body(&body) {
        Ok((_, envelope)) if envelope.id == job => {}
        Ok(_) => return Err("another id"),
        Err(_) => return Err("no webhook"),
    }
    Ok(Some(body))
}

fuzz_target!(|input: &[u8]| {
    let Some((pick, reply)) = input.split_first() else { return };
    let job = if pick.is_multiple_of(2) { "j" } else { "550e8400-e29b-41d4-a716-446655440000" };
    let read = reply::read(&Bytes::copy_from_slice(reply), &job.parse::<JobId>().unwrap());
    match (read, state(reply, job)) {
        (Ok(Fetched::Pending), Ok(None)) | (Err(FetchError::Unreadable(_)), Err(_)) => {}
        (Ok(Fetched::Finished(event)), Ok(Some(body))) => {
            assert_eq!(event.job(), &job);
            assert_eq!(event.body(), &body);
        }
        (read, model) => panic!("{read:?}, and the model says {model:?}"),
    }
});
