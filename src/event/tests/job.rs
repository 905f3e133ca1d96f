//! A job, its id and its envelope: the values, and the texts that are shown of them.

use std::hash::{DefaultHasher, Hash, Hasher};

use uuid::Uuid;

use super::{ID, documented};
use crate::event::{Envelope, Event, JobId, JobStatus, JobType, TraceParent};

const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1d";

fn hash(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

#[test]
fn an_envelope_has_its_members_and_the_body_and_shows_no_document() {
    let body = documented("extract_failed");
    let envelope = Envelope::try_from(body.clone()).unwrap();
    assert_eq!((envelope.job(), envelope.body()), (&ID.parse().unwrap(), &body));
    assert_eq!((envelope.job_type(), envelope.status()), (&JobType::Extract, &JobStatus::Failed));
    assert_eq!(envelope.traceparent(), None);
    let traceparent: TraceParent = TRACEPARENT.parse().unwrap();
    let envelope = envelope.with_traceparent(traceparent.clone());
    assert_eq!(envelope.traceparent(), Some(&traceparent));
    let shown = format!("{envelope:?}");
    let expected = format!(
        "Envelope {{ job: JobId({ID}), job_type: Extract, status: Failed, body: {} bytes, \
         traceparent: Some(TraceParent({TRACEPARENT})) }}",
        body.len()
    );
    assert_eq!(shown, expected);
}

#[test]
fn a_leased_event_has_its_attempt_and_its_fencing_token() {
    let body = documented("fill_pdf_completed");
    let job = Event::try_from(body.clone()).unwrap().leased(3, 8).job;
    assert_eq!((job.attempt(), job.fence()), (3, 8));
    let expected = format!(
        "Job {{ id: JobId({ID}), job_type: FillPdf, status: Completed, raw: {} bytes, attempt: 3, fence: 8, \
         traceparent: None }}",
        body.len()
    );
    assert_eq!(format!("{job:?}"), expected);
}

/// The headers that are accepted are in a table of `tests/it`.
#[test]
fn a_traceparent_is_its_text_and_its_parts() {
    let traceparent: TraceParent = TRACEPARENT.parse().unwrap();
    assert_eq!(traceparent.as_str(), TRACEPARENT);
    assert_eq!(format!("{traceparent:>57}"), format!("  {TRACEPARENT}"));
    let parts = (traceparent.trace_id(), traceparent.span_id(), traceparent.flags());
    assert_eq!(parts, ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", 0x1d));
    let refused = "s3cr3t".parse::<TraceParent>().unwrap_err();
    assert!(!format!("{refused:?} {refused}").contains("s3cr3t"));
    // Every position cut, and every byte another one; some of them in the middle of a character.
    for place in 0..TRACEPARENT.len() {
        assert!(TRACEPARENT[..place].parse::<TraceParent>().is_err());
        for other in ["é", "-", " ", "F"].iter().filter(|other| !TRACEPARENT[place..].starts_with(**other)) {
            let text = format!("{}{other}{}", &TRACEPARENT[..place], &TRACEPARENT[place + 1..]);
            assert!(text.parse::<TraceParent>().is_err(), "{text}");
        }
    }
}

#[test]
fn types_and_statuses_are_shown_as_the_sender_spells_them() {
    for text in ["extract", "fill_pdf", "fill_excel", "summarize"] {
        assert_eq!(format!("{:>12}", JobType::from(text)), format!("{text:>12}"));
    }
    for (text, is_final) in [("completed", true), ("failed", true), ("processing", false)] {
        let status = JobStatus::from(text);
        assert_eq!((format!("{status:>12}"), status.is_final()), (format!("{text:>12}"), is_final));
    }
}

#[test]
fn the_text_of_an_id_is_a_string_in_every_form() {
    for text in [ID, "job-7"] {
        let id: JobId = text.parse().unwrap();
        assert_eq!(id.as_str().as_ref(), text);
        assert_eq!(format!("{:?}", id.as_str()), format!("{text:?}"));
        assert_eq!(format!("{id:?}"), format!("JobId({text})"));
        assert_eq!(hash(&id), hash(text.parse::<JobId>().unwrap()));
    }
    assert_ne!(hash("job-7".parse::<JobId>().unwrap()), hash("job-8".parse::<JobId>().unwrap()));
}

#[test]
fn only_the_usual_spelling_of_a_uuid_is_kept_as_its_number() {
    let number = u128::from_ne_bytes(Uuid::parse_str(ID).unwrap().into_bytes());
    assert_eq!(hash(ID.parse::<JobId>().unwrap()), hash(number));
    // One, two and all letters in upper case.
    for other in [ID.replacen('e', "E", 1), ID.replace('e', "E"), ID.to_uppercase()] {
        let id: JobId = other.parse().unwrap();
        assert_ne!(hash(&id), hash(number), "{other}");
        assert_eq!((&*id.as_str(), id == *ID, id == ID), (&*other, false, false));
    }
}
