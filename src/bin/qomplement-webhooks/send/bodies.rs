//! What is sent: one body, or many that differ in their job's id.

use std::fs;
use std::io::{self, Read};
use std::str::FromStr;

use bytes::Bytes;
use qomplement_webhooks::sender::Payload;
use qomplement_webhooks::{Envelope, JobType};
use serde_json::Value;
use uuid::Uuid;

use crate::failure::Failure;

/// `PATH=VALUE`, of `--set`.
#[derive(Debug, Clone)]
pub(crate) enum Setting {
    /// The job's id, wherever it stands.
    JobId(String),
    /// What a JSON pointer points to.
    At(String, Value),
}

impl FromStr for Setting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (path, value) =
            text.split_once('=').ok_or("a PATH=VALUE is needed, such as data.status=failed")?;
        let pointer = match path {
            "" => return Err("the path is empty".to_owned()),
            // An id is a text, also one that looks like a number.
            "job_id" => {
                return Ok(Self::JobId(serde_json::from_str(value).unwrap_or_else(|_| value.to_owned())));
            }
            _ if path.starts_with('/') => path.to_owned(),
            _ => format!("/{}", path.replace('~', "~0").replace('/', "~1").replace('.', "/")),
        };
        let json = serde_json::from_str(value);
        Ok(Self::At(pointer, json.unwrap_or_else(|_| Value::from(value))))
    }
}

/// The bodies of a run.
#[derive(Debug)]
pub(crate) struct Bodies {
    /// What stands between the places of the job's id; all of it, if that does not change.
    pieces: Vec<Bytes>,
    /// The id, if it does not change.
    job: Option<String>,
    /// Where the ids that are made begin.
    first: u128,
}

impl Bodies {
    /// Of a documented event, or of a file. In a file that is sent as it is, the job's id changes only if there are
    /// to be many webhooks.
    pub(crate) fn new(what: &str, settings: &[Setting], many: bool) -> Result<Self, Failure> {
        let documented = match what {
            "extract" => Some(Payload::extract_completed()),
            "fill-pdf" => Some(Payload::fill_pdf_completed()),
            "fill-excel" => Some(Payload::fill_excel_completed()),
            "failed" => Some(Payload::failed(&JobType::Extract)),
            _ => None,
        };
        match documented {
            Some(payload) => Ok(Self::varying(set(payload, settings).to_bytes(), !fixes_id(settings))),
            None => {
                let body = read(what)?;
                if settings.is_empty() {
                    return Ok(Self::varying(body, many));
                }
                let payload = Payload::from_json(&body).map_err(|error| {
                    Failure::usage(format!("{what} is not JSON, so nothing can be set in it: {error}"))
                })?;
                Ok(Self::varying(set(payload, settings).to_bytes(), many && !fixes_id(settings)))
            }
        }
    }

    fn varying(body: Bytes, varies: bool) -> Self {
        let first = Uuid::new_v4().as_u128();
        let Ok(envelope) = Envelope::try_from(body.clone()) else {
            return Self { pieces: vec![body], job: Some("(no webhook)".to_owned()), first };
        };
        let job = envelope.job().to_string();
        if !varies {
            return Self { pieces: vec![body], job: Some(job), first };
        }
        let mut pieces = Vec::new();
        let mut rest = 0;
        // As a text, or as a part of a path.
        let is_alone = |place: &usize| {
            let around = (body.get(place.wrapping_sub(1)), body.get(place + job.len()));
            matches!(around, (Some(b'"' | b'/'), Some(b'"' | b'/')))
        };
        for place in memchr::memmem::find_iter(&body, &job).filter(is_alone) {
            pieces.push(body.slice(rest..place));
            rest = place + job.len();
        }
        pieces.push(body.slice(rest..));
        let job = (pieces.len() == 1).then_some(job);
        Self { pieces, job, first }
    }

    /// The job and the body of one webhook.
    pub(crate) fn of(&self, number: u64) -> (String, Bytes) {
        if let (Some(job), [body, ..]) = (&self.job, &self.pieces[..]) {
            return (job.clone(), body.clone());
        }
        // One draw of randomness, and then one number after the other: all differ.
        let random = self.first.wrapping_add(number.into()).to_be_bytes();
        let job = uuid::Builder::from_random_bytes(random).into_uuid().to_string();
        let body = self.pieces.join(job.as_bytes());
        (job, body.into())
    }
}

fn fixes_id(settings: &[Setting]) -> bool {
    settings.iter().any(|setting| matches!(setting, Setting::JobId(_)))
}

fn set(payload: Payload, settings: &[Setting]) -> Payload {
    settings.iter().cloned().fold(payload, |payload, setting| match setting {
        Setting::JobId(id) => payload.job_id(id),
        Setting::At(pointer, value) => payload.set(&pointer, value),
    })
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
            "there is no file {file}, and no event of that name: extract, fill-pdf, fill-excel or failed"
        ))),
        Err(error) => Err(Failure::usage(format!("{file} cannot be read: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::Bodies;

    #[test]
    fn nothing_but_the_id_of_the_job_changes() {
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
}
