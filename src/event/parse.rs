//! Bytes to event, in one pass and in any order of keys.
//!
//! The result may come before the type that says what it is, so it is read once into the text of
//! every member that any type knows, and the variant is chosen at the end.

use std::borrow::Cow;

use bytes::Bytes;
use bytestring::ByteString;
use serde::de::IgnoredAny;

use super::cursor::{Cursor, unquote};
use super::{
    Envelope, ExtractResult, FillResult, Job, JobError, JobId, JobStatus, JobType, RawJson, WebhookEvent,
};

/// Why a body is not an event.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// The body is not UTF-8.
    #[error("the body is not UTF-8")]
    NotUtf8(#[source] std::str::Utf8Error),
    /// The body is not one JSON value: it is cut off, something follows the value, or it starts
    /// with a byte-order mark.
    #[error("the body is not one JSON value")]
    NotJson(#[source] serde_json::Error),
    /// A key that is read from stands in its object twice, so that two readers could see two
    /// different events.
    #[error("the key `{0}` is repeated")]
    RepeatedKey(&'static str),
    /// A member of the envelope is missing or unreadable; the text says which.
    #[error("`{0}` is missing or unreadable")]
    Envelope(&'static str),
    /// `job_id` and `data.id` are two different jobs.
    #[error("`job_id` is not `data.id`")]
    JobIdMismatch,
}

pub(super) fn event(body: Bytes) -> Result<WebhookEvent, ParseError> {
    let body = checked(body)?;
    let Read { id, job_type, status, result, error } = Read::of(&body)?;
    let job = |body: ByteString, job_type| Job { id, job_type, raw: body.into_bytes(), attempt: 1, fence: 1 };
    Ok(match (&job_type, &status, result) {
        (JobType::Extract, JobStatus::Completed, Some(result)) => {
            WebhookEvent::ExtractCompleted { result: result.extract(&body), job: job(body, job_type) }
        }
        (JobType::FillPdf | JobType::FillExcel, JobStatus::Completed, Some(result)) => {
            WebhookEvent::FillCompleted { result: result.fill(&body), job: job(body, job_type) }
        }
        (JobType::Extract | JobType::FillPdf | JobType::FillExcel, JobStatus::Failed, _) => {
            WebhookEvent::JobFailed { error: error.error(&body), job: job(body, job_type) }
        }
        _ => WebhookEvent::Unrecognized { job: job(body, job_type), status },
    })
}

pub(super) fn envelope(body: Bytes) -> Result<Envelope, ParseError> {
    let body = checked(body)?;
    let Read { id, job_type, status, .. } = Read::of(&body)?;
    Ok(Envelope { job: id, job_type, status, body: body.into_bytes() })
}

/// Slices of a checked `ByteString` need no check of their own.
fn checked(body: Bytes) -> Result<ByteString, ParseError> {
    ByteString::try_from(body).map_err(ParseError::NotUtf8)
}

/// A body, checked as a whole, and taken apart.
struct Read<'a> {
    id: JobId,
    job_type: JobType,
    status: JobStatus,
    result: Option<ResultMembers<'a>>,
    error: ErrorMembers<'a>,
}

impl<'a> Read<'a> {
    fn of(body: &'a str) -> Result<Self, ParseError> {
        let Members { job_id, data } = Members::read(body).map_err(|error| match error {
            // What the cursor says counts from the place where it stood; a scan of the whole body says
            // where in the body the mistake is.
            ParseError::NotJson(error) => {
                ParseError::NotJson(serde_json::from_str::<IgnoredAny>(body).err().unwrap_or(error))
            }
            error => error,
        })?;
        let data = data.flatten().unwrap_or_default();
        Ok(Self {
            id: job_id_of_both(job_id, data.id)?,
            job_type: JobType::from(&*member("data.type", data.job_type)?),
            status: JobStatus::from(&*member("data.status", data.status)?),
            result: data.result.flatten(),
            error: data.error.flatten().unwrap_or_default(),
        })
    }
}

/// The JSON text of one member, if the object has it.
type Slot<'a> = Option<&'a str>;

/// The body's own members.
#[derive(Default)]
struct Members<'a> {
    job_id: Slot<'a>,
    data: Object<Data<'a>>,
}

/// The members of `data`.
#[derive(Default)]
struct Data<'a> {
    id: Slot<'a>,
    job_type: Slot<'a>,
    status: Slot<'a>,
    result: Object<ResultMembers<'a>>,
    error: Object<ErrorMembers<'a>>,
}

/// A member that should be an object; inside, `None` when it is something else.
type Object<T> = Option<Option<T>>;

/// The members of a `result`, whatever the type of the job.
#[derive(Default)]
struct ResultMembers<'a> {
    model: Slot<'a>,
    document_type: Slot<'a>,
    language: Slot<'a>,
    confidence: Slot<'a>,
    fields: Slot<'a>,
    tables: Slot<'a>,
    pages_processed: Slot<'a>,
    processing_time_ms: Slot<'a>,
    download_url: Slot<'a>,
    fields_filled: Slot<'a>,
    fields_total: Slot<'a>,
}

/// The members of an `error`.
#[derive(Default)]
struct ErrorMembers<'a> {
    code: Slot<'a>,
    message: Slot<'a>,
}

impl<'a> Members<'a> {
    fn read(body: &'a str) -> Result<Self, ParseError> {
        let mut cursor = Cursor::new(body);
        let mut root = None;
        read_object(&mut root, "", &mut cursor, |members: &mut Self, key, cursor| match key {
            "job_id" => set(&mut members.job_id, "job_id", cursor.value()?),
            "data" => read_object(&mut members.data, "data", cursor, Data::read),
            _ => skip(cursor),
        })?;
        cursor.end()?;
        // JSON that is not an object has none of the envelope's members.
        Ok(root.flatten().unwrap_or_default())
    }
}

impl<'a> Data<'a> {
    fn read(&mut self, key: &str, cursor: &mut Cursor<'a>) -> Result<(), ParseError> {
        match key {
            "id" => set(&mut self.id, "data.id", cursor.value()?),
            "type" => set(&mut self.job_type, "data.type", cursor.value()?),
            "status" => set(&mut self.status, "data.status", cursor.value()?),
            "result" => read_object(&mut self.result, "data.result", cursor, ResultMembers::read),
            "error" => read_object(&mut self.error, "data.error", cursor, ErrorMembers::read),
            _ => skip(cursor),
        }
    }
}

impl<'a> ResultMembers<'a> {
    fn read(&mut self, key: &str, cursor: &mut Cursor<'a>) -> Result<(), ParseError> {
        let (slot, path) = match key {
            "model" => (&mut self.model, "data.result.model"),
            "document_type" => (&mut self.document_type, "data.result.document_type"),
            "language" => (&mut self.language, "data.result.language"),
            "confidence" => (&mut self.confidence, "data.result.confidence"),
            "fields" => (&mut self.fields, "data.result.fields"),
            "tables" => (&mut self.tables, "data.result.tables"),
            "pages_processed" => (&mut self.pages_processed, "data.result.pages_processed"),
            "processing_time_ms" => (&mut self.processing_time_ms, "data.result.processing_time_ms"),
            "download_url" => (&mut self.download_url, "data.result.download_url"),
            "fields_filled" => (&mut self.fields_filled, "data.result.fields_filled"),
            "fields_total" => (&mut self.fields_total, "data.result.fields_total"),
            _ => return skip(cursor),
        };
        set(slot, path, cursor.value()?)
    }

    fn extract(&self, body: &ByteString) -> ExtractResult {
        ExtractResult {
            model: string(body, self.model),
            document_type: string(body, self.document_type),
            language: string(body, self.language),
            confidence: float(self.confidence),
            fields: json(body, self.fields),
            tables: json(body, self.tables),
            pages_processed: integer(self.pages_processed),
            processing_time_ms: integer(self.processing_time_ms),
        }
    }

    fn fill(&self, body: &ByteString) -> FillResult {
        FillResult {
            download_url: string(body, self.download_url),
            fields_filled: integer(self.fields_filled),
            fields_total: integer(self.fields_total),
        }
    }
}

impl<'a> ErrorMembers<'a> {
    fn read(&mut self, key: &str, cursor: &mut Cursor<'a>) -> Result<(), ParseError> {
        match key {
            "code" => set(&mut self.code, "data.error.code", cursor.value()?),
            "message" => set(&mut self.message, "data.error.message", cursor.value()?),
            _ => skip(cursor),
        }
    }

    fn error(&self, body: &ByteString) -> JobError {
        JobError { code: string(body, self.code), message: string(body, self.message) }
    }
}

/// Reads an object member by member into its slot, or skips a value that is none.
fn read_object<'a, T: Default>(
    slot: &mut Object<T>,
    path: &'static str,
    cursor: &mut Cursor<'a>,
    mut member: impl FnMut(&mut T, &str, &mut Cursor<'a>) -> Result<(), ParseError>,
) -> Result<(), ParseError> {
    set(slot, path, None)?;
    if cursor.peek() != Some(b'{') {
        return skip(cursor);
    }
    // In place: these objects are large to move.
    let object = slot.insert(None).insert(T::default());
    cursor.members(|key, cursor| member(object, key, cursor))
}

fn set<T>(slot: &mut Option<T>, path: &'static str, value: T) -> Result<(), ParseError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(ParseError::RepeatedKey(path)),
    }
}

fn skip(cursor: &mut Cursor<'_>) -> Result<(), ParseError> {
    cursor.value()?;
    Ok(())
}

/// A member of the envelope, which must be a string.
fn member<'a>(path: &'static str, slot: Slot<'a>) -> Result<Cow<'a, str>, ParseError> {
    slot.and_then(text).ok_or(ParseError::Envelope(path))
}

/// The job's id, which the envelope holds twice.
fn job_id_of_both(outer: Slot<'_>, inner: Slot<'_>) -> Result<JobId, ParseError> {
    let (outer, inner) = (member("job_id", outer)?, member("data.id", inner)?);
    let id: JobId = outer.parse().map_err(|_| ParseError::Envelope("job_id"))?;
    if outer == inner {
        return Ok(id);
    }
    inner.parse::<JobId>().map_err(|_| ParseError::Envelope("data.id"))?;
    Err(ParseError::JobIdMismatch)
}

fn text(json: &str) -> Option<Cow<'_, str>> {
    if json.starts_with('"') { unquote(json).ok() } else { None }
}

fn string(body: &ByteString, slot: Slot<'_>) -> Option<ByteString> {
    Some(match text(slot?)? {
        Cow::Borrowed(text) => body.slice_ref(text),
        Cow::Owned(text) => text.into(),
    })
}

fn json(body: &ByteString, slot: Slot<'_>) -> Option<RawJson> {
    let json = RawJson::from_checked(body.slice_ref(slot?));
    if json.is_null() { None } else { Some(json) }
}

/// The text is one JSON value, so what Rust reads as a number is a JSON number.
fn integer(slot: Slot<'_>) -> Option<u64> {
    slot?.parse().ok()
}

fn float(slot: Slot<'_>) -> Option<f64> {
    slot?.parse().ok().filter(|number: &f64| number.is_finite())
}

impl From<serde_json::Error> for ParseError {
    fn from(error: serde_json::Error) -> Self {
        Self::NotJson(error)
    }
}
