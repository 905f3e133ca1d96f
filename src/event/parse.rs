//! Parses a body into an event, in one pass and in any order of keys.
//!
//! The result may stand before the type that says how to read it. The pass therefore keeps the text of
//! every member that any type knows, and chooses the variant at the end.

use std::borrow::Cow;

use bytes::Bytes;
use bytestring::ByteString;

use super::cursor::{Cursor, Json};
use super::envelope::Envelope;
use super::job::{Job, JobStatus, JobType};
use super::job_id::JobId;
use super::raw_json::RawJson;
use super::results::{ExtractResult, FillResult, JobError};
use super::webhook_event::WebhookEvent;

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
        let body = checked(body)?;
        let ParsedBody { id, job_type, status, result, error } = ParsedBody::parse(&body)?;
        let job = Job { id, job_type, status, raw: body.as_bytes().clone(), attempt: 1, fence: 1 };
        Ok(match (&job.job_type, &job.status, result) {
            (JobType::Extract, JobStatus::Completed, Some(result)) => {
                Self::ExtractCompleted { job, result: result.extract(&body) }
            }
            (JobType::FillPdf | JobType::FillExcel, JobStatus::Completed, Some(result)) => {
                Self::FillCompleted { job, result: result.fill(&body) }
            }
            (JobType::Extract | JobType::FillPdf | JobType::FillExcel, JobStatus::Failed, _) => {
                Self::JobFailed { job, error: error.error(&body) }
            }
            _ => Self::Unrecognized { job },
        })
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
        let ParsedBody { id, job_type, status, .. } = ParsedBody::parse(&body)?;
        Ok(Self { job: id, job_type, status, body: body.into_bytes() })
    }
}

/// Checks for UTF-8 once: slices of a `ByteString` need no check of their own.
fn checked(body: Bytes) -> Result<ByteString, ParseError> {
    ByteString::try_from(body).map_err(ParseError::NotUtf8)
}

/// The envelope of a body, and the texts of the other members that any event has.
struct ParsedBody<'a> {
    id: JobId,
    job_type: JobType,
    status: JobStatus,
    result: Option<ResultMembers<'a>>,
    error: ErrorMembers<'a>,
}

impl<'a> ParsedBody<'a> {
    fn parse(body: &'a str) -> Result<Self, ParseError> {
        let BodyMembers { job_id, data } = BodyMembers::read(body)?;
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

/// The value of one member; `None` if the object does not have it.
type MemberValue<'a> = Option<Json<'a>>;

/// The members of the body's root object.
#[derive(Default)]
struct BodyMembers<'a> {
    job_id: MemberValue<'a>,
    data: Object<DataMembers<'a>>,
}

/// The members of `data`.
#[derive(Default)]
struct DataMembers<'a> {
    id: MemberValue<'a>,
    job_type: MemberValue<'a>,
    status: MemberValue<'a>,
    result: Object<ResultMembers<'a>>,
    error: Object<ErrorMembers<'a>>,
}

/// A member that should be an object. The inner `Option` is `None` if the value is something else.
type Object<T> = Option<Option<T>>;

/// The members of a `result` of any type of job.
#[derive(Default)]
struct ResultMembers<'a> {
    model: MemberValue<'a>,
    document_type: MemberValue<'a>,
    language: MemberValue<'a>,
    confidence: MemberValue<'a>,
    fields: MemberValue<'a>,
    tables: MemberValue<'a>,
    pages_processed: MemberValue<'a>,
    processing_time_ms: MemberValue<'a>,
    download_url: MemberValue<'a>,
    fields_filled: MemberValue<'a>,
    fields_total: MemberValue<'a>,
}

/// The members of an `error`.
#[derive(Default)]
struct ErrorMembers<'a> {
    code: MemberValue<'a>,
    message: MemberValue<'a>,
}

impl<'a> BodyMembers<'a> {
    fn read(body: &'a str) -> Result<Self, ParseError> {
        let mut cursor = Cursor::new(body);
        let mut root = None;
        read_object(&mut root, "", &mut cursor, |members: &mut Self, key, cursor| match key {
            "job_id" => set(&mut members.job_id, "job_id", cursor.value()?),
            "data" => read_object(&mut members.data, "data", cursor, DataMembers::read),
            _ => skip(cursor),
        })?;
        cursor.end()?;
        // JSON that is not an object has none of the envelope's members.
        Ok(root.flatten().unwrap_or_default())
    }
}

impl<'a> DataMembers<'a> {
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

/// Reads an object member by member into its slot; skips a value that is not an object.
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
    // Filled in place, because these structs are large to move.
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

/// The string of an envelope's member.
fn member<'a>(path: &'static str, slot: MemberValue<'a>) -> Result<Cow<'a, str>, ParseError> {
    slot.and_then(Json::string).ok_or(ParseError::Envelope(path))
}

/// The job's id, which must be the same in `job_id` and `data.id`.
fn job_id_of_both(outer: MemberValue<'_>, inner: MemberValue<'_>) -> Result<JobId, ParseError> {
    let (outer, inner) = (member("job_id", outer)?, member("data.id", inner)?);
    let id: JobId = outer.parse().map_err(|_| ParseError::Envelope("job_id"))?;
    if outer == inner {
        return Ok(id);
    }
    inner.parse::<JobId>().map_err(|_| ParseError::Envelope("data.id"))?;
    Err(ParseError::JobIdMismatch)
}

fn string(body: &ByteString, slot: MemberValue<'_>) -> Option<ByteString> {
    Some(match slot?.string()? {
        Cow::Borrowed(text) => body.slice_ref(text),
        Cow::Owned(text) => text.into(),
    })
}

fn json(body: &ByteString, slot: MemberValue<'_>) -> Option<RawJson> {
    let json = RawJson::from_checked(body.slice_ref(slot?.as_str()));
    if json.is_null() { None } else { Some(json) }
}

/// The text is known to be one JSON value, so Rust's parser accepts JSON numbers only.
fn integer(slot: MemberValue<'_>) -> Option<u64> {
    slot?.as_str().parse().ok()
}

fn float(slot: MemberValue<'_>) -> Option<f64> {
    slot?.as_str().parse().ok().filter(|number: &f64| number.is_finite())
}

impl From<serde_json::Error> for ParseError {
    fn from(error: serde_json::Error) -> Self {
        Self::NotJson(error)
    }
}
