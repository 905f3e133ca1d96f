//! The bodies to send: one, or many with different job ids.

use std::fs;
use std::io::{self, Read};
use std::str::FromStr;

use bytes::Bytes;
use qomplement_webhooks::JobType;
use qomplement_webhooks::event::Envelope;
use qomplement_webhooks::sender::Payload;
use serde::de::IgnoredAny;
use uuid::Uuid;

use super::edit;
use crate::failure::Failure;
use crate::output::clean;

/// A `PATH=VALUE` of `--set`.
#[derive(Debug, Clone)]
pub(crate) enum Setting {
    /// The job id, in all its places.
    JobId(String),
    /// A JSON text, at the end of the keys.
    At(Vec<String>, String),
}

impl FromStr for Setting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (path, value) = text.split_once('=').ok_or("expected PATH=VALUE, such as data.status=failed")?;
        let keys = match path {
            "" => {
                return Err("the path before the `=` is empty; give one, such as data.status".to_owned());
            }
            // A job id is a string, even if it looks like a number.
            "job_id" => {
                return Ok(Self::JobId(serde_json::from_str(value).unwrap_or_else(|_| value.to_owned())));
            }
            _ => match path.strip_prefix('/') {
                Some(pointer) => {
                    pointer.split('/').map(|key| key.replace("~1", "/").replace("~0", "~")).collect()
                }
                None => path.split('.').map(str::to_owned).collect(),
            },
        };
        let is_json = serde_json::from_str::<IgnoredAny>(value).is_ok();
        let value = if is_json { value.trim().to_owned() } else { edit::quoted(value) };
        Ok(Self::At(keys, value))
    }
}

/// Makes the body of each webhook.
#[derive(Debug)]
pub(crate) struct Bodies {
    /// The text between the places of the job id; the whole body if the id is fixed.
    pieces: Vec<Bytes>,
    /// The fixed id, if there is one.
    job: Option<String>,
    /// The first generated id.
    first: u128,
}

impl Bodies {
    /// Reads a documented event or a file. The job id of a file changes only if there are `many` webhooks.
    pub(crate) fn new(what: &str, settings: &[Setting], many: bool) -> Result<Self, Failure> {
        let documented = match what {
            "extract" => Some(Payload::extract_completed()),
            "fill-pdf" => Some(Payload::fill_pdf_completed()),
            "fill-excel" => Some(Payload::fill_excel_completed()),
            "failed" => Some(Payload::failed(&JobType::Extract)),
            _ => None,
        };
        let (body, varies) = match documented {
            Some(payload) => (payload.to_bytes(), true),
            None => (read(what)?, many),
        };
        if settings.is_empty() {
            return Ok(Self::varying(body, varies));
        }
        let body = set(what, &body, settings)?;
        Ok(Self::varying(body.into(), varies && !fixes_id(settings)))
    }

    fn varying(body: Bytes, varies: bool) -> Self {
        let first = Uuid::new_v4().as_u128();
        let Some((job, text)) = webhook(&body) else {
            return Self { pieces: vec![body], job: Some("(no webhook)".to_owned()), first };
        };
        if !varies {
            return Self { pieces: vec![body], job: Some(job), first };
        }
        let mut pieces = Vec::new();
        let mut rest = 0;
        for place in edit::places_of(text, &job) {
            pieces.push(body.slice(rest..place.start));
            rest = place.end;
        }
        pieces.push(body.slice(rest..));
        let job = (pieces.len() == 1).then_some(job);
        Self { pieces, job, first }
    }

    /// The job id and the body of one webhook.
    pub(crate) fn of(&self, number: u64) -> (String, Bytes) {
        if let (Some(job), [body, ..]) = (&self.job, &self.pieces[..]) {
            return (job.clone(), body.clone());
        }
        // One random number, then its successors: no two ids are equal.
        let random = self.first.wrapping_add(number.into()).to_be_bytes();
        let job = uuid::Builder::from_random_bytes(random).into_uuid().to_string();
        let body = self.pieces.join(job.as_bytes());
        (job, body.into())
    }
}

fn fixes_id(settings: &[Setting]) -> bool {
    settings.iter().any(|setting| match setting {
        Setting::JobId(_) => true,
        Setting::At(keys, _) => {
            matches!(&keys.iter().map(String::as_str).collect::<Vec<_>>()[..], ["job_id"] | ["data", "id"])
        }
    })
}

/// The job id and the text of a body; `None` if the body is not a webhook.
fn webhook(body: &Bytes) -> Option<(String, &str)> {
    let envelope = Envelope::try_from(body.clone()).ok()?;
    Some((envelope.job().to_string(), std::str::from_utf8(body).ok()?))
}

/// Applies the settings to a body, and keeps all other bytes.
fn set(what: &str, body: &Bytes, settings: &[Setting]) -> Result<String, Failure> {
    let is_json =
        |body: &Bytes| serde_json::from_slice::<IgnoredAny>(body).map_err(|error| error.to_string());
    let text = std::str::from_utf8(body).map_err(|error| error.to_string());
    let text = text.and_then(|text| is_json(body).map(|_| text)).map_err(|error| {
        Failure::usage(format!(
            "--set needs JSON, and {} is not: {error}\n  Mend the file, or leave --set out",
            clean(what)
        ))
    })?;
    let mut text = text.to_owned();
    for setting in settings {
        text = match setting {
            Setting::At(keys, value) => edit::set(&text, keys, value),
            Setting::JobId(id) => set_id(&text, id),
        }
        .map_err(|error| Failure::usage(format!("--set: {error}")))?;
    }
    Ok(text)
}

fn set_id(text: &str, id: &str) -> Result<String, String> {
    let id = edit::quoted(id);
    if let Some((job, _)) = webhook(&Bytes::from(text.to_owned())) {
        let within_quotes = &id[1..id.len() - 1];
        return Ok(edit::replaced(text, &edit::places_of(text, &job), within_quotes));
    }
    let text = edit::set(text, &["job_id".to_owned()], &id)?;
    edit::set(&text, &["data".to_owned(), "id".to_owned()], &id)
}

fn read(file: &str) -> Result<Bytes, Failure> {
    let body = if file == "-" {
        let mut body = Vec::new();
        io::stdin().read_to_end(&mut body).map(|_| body)
    } else {
        fs::read(file)
    };
    match body {
        Ok(body) => Ok(body.into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Failure::usage(format!(
            "{} is neither an event nor an existing file\n  The events are extract, fill-pdf, fill-excel and failed",
            clean(file)
        ))),
        Err(error) => Err(Failure::usage(format!("{} cannot be read: {error}", clean(file)))),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{Bodies, Setting};

    #[test]
    fn only_the_job_id_changes() {
        let body = r#"{"job_id":"12","data":{"id":"12","type":"extract","status":"completed",
            "result":{"pages":12,"file_url":"/v1/files/12/download","name":"a12","n":112}}}"#;
        let file = std::env::temp_dir().join(format!("qomplement-webhooks-bodies-{}", std::process::id()));
        fs::write(&file, body).unwrap();
        let bodies = Bodies::new(file.to_str().unwrap(), &[], true);
        fs::remove_file(&file).unwrap();
        let (job, sent) = bodies.unwrap().of(7);
        let expected = body.replace("\"12\"", &format!("\"{job}\"")).replace("/12/", &format!("/{job}/"));
        assert_eq!(String::from_utf8_lossy(&sent), expected);
    }

    #[test]
    fn the_job_id_is_set_in_all_its_places_however_it_is_escaped() {
        let body = r#"{"data":{"type":"extract","status":"failed","id":"\u0061b","u":"\/jobs\/ab"},"n":1.0,"job_id":"ab"}"#;
        let id = "a\"b\\";
        let set = super::set("file", &body.into(), &[Setting::JobId(id.to_owned())]).unwrap();
        let expected = r#"{"data":{"type":"extract","status":"failed","id":"a\"b\\","u":"\/jobs\/a\"b\\"},"n":1.0,"job_id":"a\"b\\"}"#;
        assert_eq!(set, expected);
        let none = super::set("file", &"{ }".into(), &[Setting::JobId("x".to_owned())]).unwrap();
        assert_eq!(none, r#"{"job_id":"x","data":{"id":"x"} }"#);
    }

    #[test]
    fn an_id_that_was_set_is_kept_however_its_path_is_written() {
        for path in ["job_id=x", "/job_id=\"x\"", "data.id=x", "/data/id=x"] {
            let (_, sent) = Bodies::new("extract", &[path.parse().unwrap()], true).unwrap().of(1);
            assert!(String::from_utf8_lossy(&sent).contains(r#""x""#), "{path}");
        }
    }
}
