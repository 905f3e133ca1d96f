//! What came of a run.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use qomplement_webhooks::sender::{Attempt, AttemptError, Delivery};
use serde_json::{Value, json};

use crate::failure::root_cause;
use crate::output;
use crate::time::precise;

/// Counts deliveries; takes the same memory for any number of them.
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

impl Tally {
    pub(crate) fn new() -> Self {
        let latency = Histogram::new_with_bounds(1, 3_600_000_000, 3).ok();
        Self { acknowledged: 0, undeliverable: 0, attempts: 0, answers: BTreeMap::new(), latency }
    }

    pub(crate) fn count(&mut self, delivery: &Delivery) {
        *if delivery.is_delivered() { &mut self.acknowledged } else { &mut self.undeliverable } += 1;
        for attempt in &delivery.attempts {
            self.attempts += 1;
            let mut answer = answer(attempt);
            if self.answers.len() >= ANSWERS && !self.answers.contains_key(&answer) {
                answer = "other".to_owned();
            }
            *self.answers.entry(answer).or_default() += 1;
            if let (Ok(_), Some(latency)) = (&attempt.result, &mut self.latency) {
                latency.saturating_record(attempt.took.as_micros().try_into().unwrap_or(u64::MAX));
            }
        }
    }

    /// The times below which half of the answers, 99 of a hundred and all of them came.
    fn latency(&self) -> Option<[Duration; 3]> {
        let latency = self.latency.as_ref().filter(|latency| !latency.is_empty())?;
        let at = |quantile| Duration::from_micros(latency.value_at_quantile(quantile));
        Some([at(0.5), at(0.99), Duration::from_micros(latency.max())])
    }
}

/// What an attempt brought: a status, or what went wrong.
pub(crate) fn answer(attempt: &Attempt) -> String {
    match &attempt.result {
        Ok(answer) => answer.status.as_u16().to_string(),
        Err(AttemptError::Failed(error)) => root_cause(&**error),
        Err(error) => error.to_string(),
    }
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

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally { acknowledged, undeliverable, attempts, answers, .. } = self.tally;
        let copies = match self.deliveries / self.webhooks {
            1 => String::new(),
            copies => format!(", {copies} copies of each"),
        };
        let webhooks = output::count(self.webhooks, "webhook", "webhooks");
        writeln!(f, "{webhooks}{copies}, to {}", self.target)?;
        writeln!(f, "  acknowledged   {acknowledged}")?;
        writeln!(f, "  undeliverable  {undeliverable}")?;
        if self.unfinished() > 0 {
            writeln!(f, "  unfinished     {}", self.unfinished())?;
        }
        let answers: Vec<_> = answers.iter().map(|(answer, count)| format!("{answer}: {count}")).collect();
        let answers = if answers.is_empty() { String::new() } else { format!("  ({})", answers.join(", ")) };
        writeln!(f, "  attempts       {attempts}{answers}")?;
        if let Some([p50, p99, max]) = self.tally.latency() {
            writeln!(f, "  answered in    p50 {}, p99 {}, max {}", precise(p50), precise(p99), precise(max))?;
        }
        write!(f, "  took           {}, {:.0} deliveries/s", precise(self.took), self.per_second())
    }
}
