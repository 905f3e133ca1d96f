//! How `send` and `fetch` deliver a webhook, and how they show the answers.

use std::time::Duration;

use clap::ValueEnum;
use qomplement_webhooks::sender::{Delivery, DeliveryError, Sender};
use serde::Deserialize;

use crate::causes::root_cause;
use crate::output::{COLUMNS, Line, cut};
use crate::time::precise;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Schedule {
    /// 5 s, then 10 s
    Documented,
    /// 50 ms, then 100 ms
    Fast,
    /// One delivery only
    None,
}

/// The most characters of a reason.
const REASON: usize = 60;

impl Schedule {
    pub(crate) fn delays(self) -> Vec<Duration> {
        match self {
            Self::Documented => Sender::RETRY_DELAYS.to_vec(),
            Self::Fast => Sender::RETRY_DELAYS.iter().map(|delay| *delay / 100).collect(),
            Self::None => Vec::new(),
        }
    }
}

/// The result of a webhook after its `head`, with the start and the answer of each delivery.
pub(crate) fn result_text(head: &str, is_acknowledged: bool, deliveries: &[(Duration, String)]) -> String {
    let verdict = verdict(is_acknowledged);
    match deliveries {
        [(_, answer)] if fits(&[head, verdict, answer]) => format!("{head}  {verdict}  {answer}"),
        _ => {
            let answers = deliveries.iter().enumerate().map(|(number, (at, answer))| match number {
                0 => format!("\n    {answer}"),
                _ => format!("\n    {answer} after {}", precise(*at)),
            });
            format!("{head}  {verdict}{}", answers.collect::<String>())
        }
    }
}

pub(crate) fn verdict(is_acknowledged: bool) -> &'static str {
    if is_acknowledged { "acknowledged" } else { "undeliverable" }
}

/// Whether texts fit beside each other in one line.
pub(crate) fn fits(texts: &[&str]) -> bool {
    texts.iter().map(|text| Line::from(text).width() + 2).sum::<usize>() - 2 <= COLUMNS
}

/// The answer to a delivery: its status, with the error code or reason unless it is 2xx; or the transport error.
pub(crate) fn answer(delivery: &Delivery) -> String {
    let reason = match &delivery.result {
        Ok(answer) if answer.status().is_success() => return answer.status().as_u16().to_string(),
        Ok(answer) => {
            let code = code(answer.body()).or_else(|| answer.status().canonical_reason().map(str::to_owned));
            format!("{} {}", answer.status().as_u16(), code.unwrap_or_default())
        }
        Err(DeliveryError::Failed(error)) => {
            let cause = root_cause(&**error);
            cause.split_once(" (os error").map_or(cause.as_str(), |(cause, _)| cause).to_owned()
        }
        Err(error) => error.to_string(),
    };
    cut(reason.trim_end(), REASON)
}

/// The error code in an answer: `error.code` as this library's receivers write it, or a string `error`.
fn code(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct ErrorBody {
        error: ErrorMember,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum ErrorMember {
        Code { code: String },
        Text(String),
    }
    let body: ErrorBody = serde_json::from_slice(body).ok()?;
    let (ErrorMember::Code { code } | ErrorMember::Text(code)) = body.error;
    (!code.is_empty()).then_some(code)
}
