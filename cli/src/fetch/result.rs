//! The result of one job, and how it is printed.

use std::time::Duration;

use qomplement_webhooks::JobId;
use qomplement_webhooks::fetch::Fetched;
use qomplement_webhooks::inbox::Receipt;
use serde_json::json;

use crate::delivery::{result_text, verdict};
use crate::output::{self, Format, clean};
use crate::redact::RedactArgs;

/// The API's answer about a job, and the outcome for its event.
pub(super) struct FetchResult {
    pub(super) job: JobId,
    pub(super) fetched: Fetched,
    pub(super) stored: Option<Receipt>,
    pub(super) delivered: Option<Delivered>,
}

/// The delivery of an event.
pub(super) struct Delivered {
    pub(super) is_acknowledged: bool,
    /// The start of each delivery, and its answer.
    pub(super) answers: Vec<(Duration, String)>,
}

impl FetchResult {
    /// Whether the job is finished, and its webhook is not undeliverable.
    pub(super) fn is_complete(&self) -> bool {
        let is_delivered = self.delivered.as_ref().is_none_or(|delivered| delivered.is_acknowledged);
        is_delivered && matches!(self.fetched, Fetched::Finished(_))
    }

    pub(super) fn print(&self, format: Format, redact: &RedactArgs) {
        match format {
            Format::Text => self.print_text(redact),
            Format::Json => self.print_json(redact),
        }
    }

    fn print_text(&self, redact: &RedactArgs) {
        let job = &self.job;
        let event = match &self.fetched {
            Fetched::Finished(event) => event,
            Fetched::NotFound => return output::note(format_args!("the API has no job {job}")),
            _ => return output::note(format_args!("the job {job} is not finished")),
        };
        let (kind, status) = (clean(event.job_type().as_str()), clean(event.status().as_str()));
        let head = format!("{job}  {kind}  {status}");
        output::line(match &self.delivered {
            Some(Delivered { is_acknowledged, answers }) => result_text(&head, *is_acknowledged, answers),
            None => head,
        });
        match self.stored {
            Some(Receipt::Stored) => output::line("stored; a worker handles it next"),
            Some(Receipt::Duplicate) => output::line("duplicate; the inbox already has this event"),
            Some(Receipt::Conflict) => {
                output::line("conflict; the inbox keeps the other event of this job that it already has");
            }
            None if self.delivered.is_none() => {
                if let Some(body) = redact.shown(event.body()) {
                    output::body(&body, "--format json");
                }
            }
            None => {}
        }
    }

    fn print_json(&self, redact: &RedactArgs) {
        let (word, event) = match &self.fetched {
            Fetched::Finished(event) => ("finished", Some(event)),
            Fetched::NotFound => ("not_found", None),
            _ => ("pending", None),
        };
        let answers = |delivered: &Delivered| -> Vec<_> {
            delivered.answers.iter().map(|(_, answer)| answer.clone()).collect()
        };
        let members = json!({
            "job_id": self.job.to_string(),
            "fetched": word,
            "type": event.map(|event| event.job_type().as_str()),
            "status": event.map(|event| event.status().as_str()),
            "stored": self.stored.map(|receipt| match receipt {
                Receipt::Stored => "stored",
                Receipt::Duplicate => "duplicate",
                Receipt::Conflict => "conflict",
            }),
            "delivered": self.delivered.as_ref().map(|delivered| verdict(delivered.is_acknowledged)),
            "answers": self.delivered.as_ref().map(answers),
        });
        let body = event.and_then(|event| redact.shown(event.body()));
        output::json_with_body(&members, body.as_deref());
    }
}
