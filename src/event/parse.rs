//! Parses a body into an event, in one pass and in any order of keys.
//!
//! The result may stand before the type that says how to read it. The pass therefore keeps the place of
//! every member that any type knows, and chooses the variant at the end.

use std::borrow::Cow;

use bytes::Bytes;
use bytestring::ByteString;

use super::cursor::{Cursor, Json, Malformed};
use super::envelope::Envelope;
use super::job::{Job, JobStatus, JobType};
use super::job_id::JobId;
use super::raw_json::RawJson;
use super::results::{ExtractResult, FillResult, JobError};
use super::webhook_event::{Content, Event, WebhookEvent};

/// The reason why a body is not an event.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// The body is not UTF-8.
    #[error("the body is not UTF-8")]
    NotUtf8(#[source] std::str::Utf8Error),
    /// The body is not one JSON value: it is cut off, has something after the value, or starts with a
    /// byte-order mark.
    #[error("the body is not one JSON value")]
    NotJson(#[source] serde_json::Error),
    /// An object has a key twice that this crate reads: two readers could see two different events.
    #[error("the key `{0}` appears twice in its object")]
    RepeatedKey(&'static str),
    /// A member of the envelope (`job_id`, `data.id`, `data.type`, `data.status`) is missing, or is not
    /// a string of the documented kind. The text is its path.
    #[error("`{0}` is missing or unreadable")]
    Envelope(&'static str),
    /// `job_id` and `data.id` name two different jobs.
    #[error("`job_id` and `data.id` differ")]
    JobIdMismatch,
}

impl TryFrom<Bytes> for WebhookEvent {
    type Error = ParseError;

    /// Parses the body of a webhook.
    ///
    /// Beyond the envelope (`job_id`, `data.id`, `data.type`, `data.status`) nothing is required: a
    /// member of the result that is missing or of another type is `None`, and a missing result makes
    /// the event [`Unrecognized`](Self::Unrecognized).
    ///
    /// # Errors
    ///
    /// Returns an error if the bytes are not one JSON value in UTF-8 ([`ParseError::NotUtf8`],
    /// [`ParseError::NotJson`]), an object repeats a key that is read
    /// ([`ParseError::RepeatedKey`]), the envelope is incomplete ([`ParseError::Envelope`]), or its two
    /// ids differ ([`ParseError::JobIdMismatch`]).
    fn try_from(body: Bytes) -> Result<Self, ParseError> {
        let Event { job, content } = Event::try_from(body)?;
        Ok(match content {
            Content::Extracted(result) => Self::ExtractCompleted { job, result },
            Content::Filled(result) => Self::FillCompleted { job, result },
            Content::Failed(error) => Self::JobFailed { job, error },
            Content::Unrecognized => Self::Unrecognized { job },
        })
    }
}

impl TryFrom<Bytes> for Event {
    type Error = ParseError;

    fn try_from(body: Bytes) -> Result<Self, ParseError> {
        let body = checked(body)?;
        let mut members = BodyMembers::default();
        let (id, job_type, status) = members.read(&body)?;
        let data = &members.data.members;
        let content = match (&job_type, &status) {
            (JobType::Extract, JobStatus::Completed) if data.result.is_object => {
                Content::Extracted(data.result.members.extract(&body))
            }
            (JobType::FillPdf | JobType::FillExcel, JobStatus::Completed) if data.result.is_object => {
                Content::Filled(data.result.members.fill(&body))
            }
            (JobType::Extract | JobType::FillPdf | JobType::FillExcel, JobStatus::Failed) => {
                Content::Failed(data.error.members.error(&body))
            }
            _ => Content::Unrecognized,
        };
        let (raw, traceparent) = (body.into_bytes(), None);
        Ok(Self { job: Job { id, job_type, status, raw, attempt: 1, fence: 1, traceparent }, content })
    }
}

impl TryFrom<Bytes> for Envelope {
    type Error = ParseError;

    /// Parses the envelope of a body.
    ///
    /// # Errors
    ///
    /// Returns the error with which [`WebhookEvent`]'s `TryFrom<Bytes>` refuses the bytes.
    fn try_from(body: Bytes) -> Result<Self, ParseError> {
        let body = checked(body)?;
        let (job, job_type, status) = BodyMembers::default().read(&body)?;
        Ok(Self { job, job_type, status, body: body.into_bytes(), traceparent: None })
    }
}

/// Checks for UTF-8 once: slices of a `ByteString` need no check of their own.
fn checked(body: Bytes) -> Result<ByteString, ParseError> {
    ByteString::try_from(body).map_err(ParseError::NotUtf8)
}

/// The value of one member; `None` if the object does not have it.
type MemberValue = Option<Json>;

/// A member that should be an object.
#[derive(Default)]
struct Object<T> {
    is_present: bool,
    is_object: bool,
    /// Filled in place, because the structs are large to move.
    members: T,
}

/// The members of the body's root object.
#[derive(Default)]
struct BodyMembers {
    job_id: MemberValue,
    data: Object<DataMembers>,
}

/// The members of `data`.
#[derive(Default)]
struct DataMembers {
    id: MemberValue,
    job_type: MemberValue,
    status: MemberValue,
    result: Object<ResultMembers>,
    error: Object<ErrorMembers>,
}

/// The members of a `result` of any type of job.
#[derive(Default)]
struct ResultMembers {
    model: MemberValue,
    document_type: MemberValue,
    language: MemberValue,
    confidence: MemberValue,
    fields: MemberValue,
    tables: MemberValue,
    pages_processed: MemberValue,
    processing_time_ms: MemberValue,
    download_url: MemberValue,
    fields_filled: MemberValue,
    fields_total: MemberValue,
}

/// The members of an `error`.
#[derive(Default)]
struct ErrorMembers {
    code: MemberValue,
    message: MemberValue,
}

/// The reason why the members of a body cannot be read.
enum Flaw {
    Malformed,
    Repeated(&'static str),
}

impl From<Malformed> for Flaw {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

impl BodyMembers {
    /// Reads the members in place, because they are large to move, and returns the envelope.
    fn read(&mut self, body: &str) -> Result<(JobId, JobType, JobStatus), ParseError> {
        let mut cursor = Cursor::new(body);
        self.fill(&mut cursor).map_err(|flaw| match flaw {
            Flaw::Malformed => ParseError::NotJson(cursor.error()),
            Flaw::Repeated(path) => ParseError::RepeatedKey(path),
        })?;
        self.envelope(body)
    }

    /// Leaves the members empty for JSON that is not an object: it has none of the envelope's members.
    fn fill(&mut self, cursor: &mut Cursor<'_>) -> Result<(), Flaw> {
        if cursor.peek() == Some(b'{') {
            cursor.members(|key, cursor| match key {
                b"job_id" => set(&mut self.job_id, "job_id", cursor),
                b"data" => self.data.read("data", cursor, DataMembers::read),
                _ => skip(cursor),
            })?;
        } else {
            cursor.skip_value()?;
        }
        Ok(cursor.end()?)
    }

    fn envelope(&self, body: &str) -> Result<(JobId, JobType, JobStatus), ParseError> {
        let data = &self.data.members;
        let id = job_id_of_both(body, self.job_id, data.id)?;
        let job_type = JobType::from(&*string_of(body, "data.type", data.job_type)?);
        let status = JobStatus::from(&*string_of(body, "data.status", data.status)?);
        Ok((id, job_type, status))
    }
}

impl DataMembers {
    fn read(&mut self, key: &[u8], cursor: &mut Cursor<'_>) -> Result<(), Flaw> {
        let (slot, path) = match key {
            b"id" => (&mut self.id, "data.id"),
            b"type" => (&mut self.job_type, "data.type"),
            b"status" => (&mut self.status, "data.status"),
            b"result" => return self.result.read("data.result", cursor, ResultMembers::read),
            b"error" => return self.error.read("data.error", cursor, ErrorMembers::read),
            _ => return skip(cursor),
        };
        set(slot, path, cursor)
    }
}

impl ResultMembers {
    fn read(&mut self, key: &[u8], cursor: &mut Cursor<'_>) -> Result<(), Flaw> {
        let (slot, path) = match key {
            b"model" => (&mut self.model, "data.result.model"),
            b"document_type" => (&mut self.document_type, "data.result.document_type"),
            b"language" => (&mut self.language, "data.result.language"),
            b"confidence" => (&mut self.confidence, "data.result.confidence"),
            b"fields" => (&mut self.fields, "data.result.fields"),
            b"tables" => (&mut self.tables, "data.result.tables"),
            b"pages_processed" => (&mut self.pages_processed, "data.result.pages_processed"),
            b"processing_time_ms" => (&mut self.processing_time_ms, "data.result.processing_time_ms"),
            b"download_url" => (&mut self.download_url, "data.result.download_url"),
            b"fields_filled" => (&mut self.fields_filled, "data.result.fields_filled"),
            b"fields_total" => (&mut self.fields_total, "data.result.fields_total"),
            _ => return skip(cursor),
        };
        set(slot, path, cursor)
    }

    fn extract(&self, body: &ByteString) -> ExtractResult {
        ExtractResult {
            model: string(body, self.model),
            document_type: string(body, self.document_type),
            language: string(body, self.language),
            confidence: float(body, self.confidence),
            fields: json(body, self.fields),
            tables: json(body, self.tables),
            pages_processed: integer(body, self.pages_processed),
            processing_time_ms: integer(body, self.processing_time_ms),
        }
    }

    fn fill(&self, body: &ByteString) -> FillResult {
        FillResult {
            download_url: string(body, self.download_url),
            fields_filled: integer(body, self.fields_filled),
            fields_total: integer(body, self.fields_total),
        }
    }
}

impl ErrorMembers {
    fn read(&mut self, key: &[u8], cursor: &mut Cursor<'_>) -> Result<(), Flaw> {
        match key {
            b"code" => set(&mut self.code, "data.error.code", cursor),
            b"message" => set(&mut self.message, "data.error.message", cursor),
            _ => skip(cursor),
        }
    }

    fn error(&self, body: &ByteString) -> JobError {
        JobError { code: string(body, self.code), message: string(body, self.message) }
    }
}

impl<T> Object<T> {
    /// Reads the value member by member; skips a value that is not an object.
    fn read(
        &mut self,
        path: &'static str,
        cursor: &mut Cursor<'_>,
        mut member: impl FnMut(&mut T, &[u8], &mut Cursor<'_>) -> Result<(), Flaw>,
    ) -> Result<(), Flaw> {
        if self.is_present {
            return Err(Flaw::Repeated(path));
        }
        self.is_present = true;
        self.is_object = cursor.peek() == Some(b'{');
        if !self.is_object {
            return skip(cursor);
        }
        cursor.members(|key, cursor| member(&mut self.members, key, cursor))
    }
}

#[inline]
fn set(slot: &mut MemberValue, path: &'static str, cursor: &mut Cursor<'_>) -> Result<(), Flaw> {
    match slot.replace(cursor.value()?) {
        None => Ok(()),
        Some(_) => Err(Flaw::Repeated(path)),
    }
}

fn skip(cursor: &mut Cursor<'_>) -> Result<(), Flaw> {
    Ok(cursor.skip_value()?)
}

/// The string of an envelope's member.
fn string_of<'a>(body: &'a str, path: &'static str, slot: MemberValue) -> Result<Cow<'a, str>, ParseError> {
    slot.and_then(|json| json.string(body)).ok_or(ParseError::Envelope(path))
}

/// The job's id, which must be the same in `job_id` and `data.id`.
fn job_id_of_both(body: &str, outer: MemberValue, inner: MemberValue) -> Result<JobId, ParseError> {
    let (outer, inner) = (string_of(body, "job_id", outer)?, string_of(body, "data.id", inner)?);
    let id: JobId = outer.parse().map_err(|_| ParseError::Envelope("job_id"))?;
    if outer == inner {
        return Ok(id);
    }
    inner.parse::<JobId>().map_err(|_| ParseError::Envelope("data.id"))?;
    Err(ParseError::JobIdMismatch)
}

fn string(body: &ByteString, slot: MemberValue) -> Option<ByteString> {
    Some(match slot?.string(body)? {
        Cow::Borrowed(text) => body.slice_ref(text),
        Cow::Owned(text) => text.into(),
    })
}

fn json(body: &ByteString, slot: MemberValue) -> Option<RawJson> {
    let json = RawJson::from_checked(body.slice_ref(slot?.of(body)));
    if json.is_null() { None } else { Some(json) }
}

/// The text is known to be one JSON value, so Rust's parser accepts JSON numbers only.
fn integer(body: &ByteString, slot: MemberValue) -> Option<u64> {
    slot?.of(body).parse().ok()
}

fn float(body: &ByteString, slot: MemberValue) -> Option<f64> {
    slot?.of(body).parse().ok().filter(|number: &f64| number.is_finite())
}
