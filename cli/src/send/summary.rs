//! What came of a run.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use qomplement_webhooks::sender::{Delivery, DeliveryError};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::failure::root_cause;
use crate::output::{self, COLUMNS, Line, cut};
use crate::time::precise;

/// Counts attempts and deliveries; takes the same memory for any number of them.
#[derive(Debug)]
pub(crate) struct Tally {
    acknowledged: u64,
    undeliverable: u64,
    attempts: u64,
    answers: BTreeMap<String, u64>,
    /// Microseconds. `None` if that many cannot be counted, which the bounds below rule out.
    latency: Option<Histogram<u64>>,
}

/// How many different answers are told apart.
const ANSWERS: usize = 20;
/// How much of a reason is told.
const REASON: usize = 60;

impl Tally {
    pub(crate) fn new() -> Self {
        let latency = Histogram::new_with_bounds(1, 3_600_000_000, 3).ok();
        Self { acknowledged: 0, undeliverable: 0, attempts: 0, answers: BTreeMap::new(), latency }
    }

    /// Counts an attempt, which brought this.
    pub(crate) fn attempt(&mut self, delivery: &Delivery, answer: &str) {
        self.attempts += 1;
        let is_told = self.answers.len() < ANSWERS || self.answers.contains_key(answer);
        *self.answers.entry(if is_told { answer } else { "other" }.to_owned()).or_default() += 1;
        if let (Ok(_), Some(latency)) = (&delivery.result, &mut self.latency) {
            latency.saturating_record(delivery.took.as_micros().try_into().unwrap_or(u64::MAX));
        }
    }

    /// Counts a delivery that has ended.
    pub(crate) fn delivery(&mut self, is_acknowledged: bool) {
        *if is_acknowledged { &mut self.acknowledged } else { &mut self.undeliverable } += 1;
    }

    /// The times below which half of the answers, 99 of a hundred and all of them came.
    fn latency(&self) -> Option<[Duration; 3]> {
        let latency = self.latency.as_ref().filter(|latency| !latency.is_empty())?;
        let at = |quantile| Duration::from_micros(latency.value_at_quantile(quantile));
        Some([at(0.5), at(0.99), Duration::from_micros(latency.max())])
    }
}

/// What an attempt brought: a status, with the reason that the server gives unless it is a success, or what went
/// wrong.
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

/// The code of an error in an answer, as of this library's receivers.
fn code(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Reply {
        error: Error,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Error {
        Code { code: String },
        Text(String),
    }
    let reply: Reply = serde_json::from_slice(body).ok()?;
    let (Error::Code { code } | Error::Text(code)) = reply.error;
    (!code.is_empty()).then_some(code)
}

pub(crate) struct Summary<'a> {
    pub(crate) target: String,
    pub(crate) webhooks: u64,
    pub(crate) deliveries: u64,
    pub(crate) took: Duration,
    pub(crate) tally: &'a Tally,
}

impl Summary<'_> {
    pub(crate) fn is_all_acknowledged(&self) -> bool {
        self.tally.acknowledged == self.deliveries
    }

    fn unfinished(&self) -> u64 {
        self.deliveries - self.tally.acknowledged - self.tally.undeliverable
    }

    fn per_second(&self) -> f64 {
        (self.tally.acknowledged + self.tally.undeliverable) as f64 / self.took.as_secs_f64().max(1e-6)
    }

    pub(crate) fn json(&self) -> Value {
        let milliseconds = |time: Duration| time.as_micros() as f64 / 1000.0;
        let latency = self.tally.latency().map(|[p50, p99, max]| {
            json!({"p50": milliseconds(p50), "p99": milliseconds(p99), "max": milliseconds(max)})
        });
        json!({
            "webhooks": self.webhooks,
            "deliveries": self.deliveries,
            "acknowledged": self.tally.acknowledged,
            "undeliverable": self.tally.undeliverable,
            "unfinished": self.unfinished(),
            "attempts": self.tally.attempts,
            "answers": self.tally.answers,
            "seconds": self.took.as_secs_f64(),
            "deliveries_per_second": self.per_second(),
            "latency_ms": latency,
        })
    }
}

/// Whether texts fit beside each other.
pub(crate) fn fits(texts: &[&str]) -> bool {
    texts.iter().map(|text| Line::from(text).width() + 2).sum::<usize>() - 2 <= COLUMNS
}

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally { acknowledged, undeliverable, attempts, answers, .. } = self.tally;
        let copies = match self.deliveries / self.webhooks {
            1 => String::new(),
            copies => format!(", {copies} copies of each"),
        };
        let webhooks = output::count(self.webhooks, "webhook", "webhooks");
        let target = format!("to {}", self.target);
        let what = format!("{webhooks}{copies},");
        let space = if fits(&[&what, &target]) { " " } else { "\n  " };
        writeln!(f, "{what}{space}{target}")?;
        writeln!(f, "  acknowledged   {acknowledged}")?;
        writeln!(f, "  undeliverable  {undeliverable}")?;
        if self.unfinished() > 0 {
            writeln!(f, "  unfinished     {}", self.unfinished())?;
        }
        let answers: Vec<_> = answers.iter().map(|(answer, count)| format!("{answer}: {count}")).collect();
        let total = format!("  attempts       {attempts}");
        let in_one = format!("({})", answers.join(", "));
        match &answers[..] {
            [] => writeln!(f, "{total}")?,
            _ if fits(&[&total, &in_one]) => writeln!(f, "{total}  {in_one}")?,
            _ => {
                writeln!(f, "{total}")?;
                answers.iter().try_for_each(|answer| writeln!(f, "    {answer}"))?;
            }
        }
        if let Some([p50, p99, max]) = self.tally.latency() {
            writeln!(f, "  answered in    p50 {}, p99 {}, max {}", precise(p50), precise(p99), precise(max))?;
        }
        write!(f, "  took           {}, {:.0} deliveries/s", precise(self.took), self.per_second())
    }
}
