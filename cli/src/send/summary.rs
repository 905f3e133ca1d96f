//! Counts deliveries and webhooks, and formats the summary.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use qomplement_webhooks::sender::Delivery;
use serde_json::{Value, json};

use crate::delivery::fits;
use crate::output;
use crate::time::precise;

/// Counts webhooks and deliveries, in constant memory.
#[derive(Debug)]
pub(crate) struct Tally {
    acknowledged: u64,
    undeliverable: u64,
    deliveries: u64,
    answers: BTreeMap<String, u64>,
    /// In microseconds. `None` if the histogram refuses its bounds, which are constant and valid.
    latency: Option<Histogram<u64>>,
}

/// The most different answers counted one by one.
const ANSWERS: usize = 20;

impl Tally {
    pub(crate) fn new() -> Self {
        let latency = Histogram::new_with_bounds(1, 3_600_000_000, 3).ok();
        Self { acknowledged: 0, undeliverable: 0, deliveries: 0, answers: BTreeMap::new(), latency }
    }

    /// Counts a delivery with its answer.
    pub(crate) fn delivery(&mut self, delivery: &Delivery, answer: &str) {
        self.deliveries += 1;
        let is_listed = self.answers.len() < ANSWERS || self.answers.contains_key(answer);
        *self.answers.entry(if is_listed { answer } else { "other" }.to_owned()).or_default() += 1;
        if let (Ok(_), Some(latency)) = (&delivery.result, &mut self.latency) {
            latency.saturating_record(delivery.took.as_micros().try_into().unwrap_or(u64::MAX));
        }
    }

    /// Counts a webhook or duplicate that was acknowledged, or is undeliverable.
    pub(crate) fn webhook(&mut self, is_acknowledged: bool) {
        *if is_acknowledged { &mut self.acknowledged } else { &mut self.undeliverable } += 1;
    }

    /// The latency of the answers: median, 99th percentile and maximum.
    fn latency(&self) -> Option<[Duration; 3]> {
        let latency = self.latency.as_ref().filter(|latency| !latency.is_empty())?;
        let at = |quantile| Duration::from_micros(latency.value_at_quantile(quantile));
        Some([at(0.5), at(0.99), Duration::from_micros(latency.max())])
    }
}

/// The result of all webhooks.
pub(crate) struct Summary<'a> {
    pub(crate) target: String,
    pub(crate) webhooks: u64,
    pub(crate) duplicates: u64,
    pub(crate) took: Duration,
    pub(crate) tally: &'a Tally,
}

impl Summary<'_> {
    pub(crate) fn is_all_acknowledged(&self) -> bool {
        self.tally.acknowledged == self.webhooks + self.duplicates
    }

    fn unfinished(&self) -> u64 {
        self.webhooks + self.duplicates - self.tally.acknowledged - self.tally.undeliverable
    }

    fn per_second(&self) -> f64 {
        self.tally.deliveries as f64 / self.took.as_secs_f64().max(1e-6)
    }

    pub(crate) fn json(&self) -> Value {
        let milliseconds = |time: Duration| time.as_micros() as f64 / 1000.0;
        let latency = self.tally.latency().map(|[p50, p99, max]| {
            json!({"p50": milliseconds(p50), "p99": milliseconds(p99), "max": milliseconds(max)})
        });
        json!({
            "webhooks": self.webhooks,
            "duplicates": self.duplicates,
            "acknowledged": self.tally.acknowledged,
            "undeliverable": self.tally.undeliverable,
            "unfinished": self.unfinished(),
            "deliveries": self.tally.deliveries,
            "answers": self.tally.answers,
            "seconds": self.took.as_secs_f64(),
            "deliveries_per_second": self.per_second(),
            "latency_ms": latency,
        })
    }
}

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally { acknowledged, undeliverable, deliveries, answers, .. } = self.tally;
        let mut webhooks = output::count(self.webhooks, "webhook", "webhooks");
        if self.duplicates > 0 {
            webhooks = format!("{webhooks}, {}", output::count(self.duplicates, "duplicate", "duplicates"));
        }
        let target = format!("to {}", self.target);
        let space = if fits(&[&webhooks, &target]) { " " } else { "\n  " };
        writeln!(f, "{webhooks}{space}{target}")?;
        writeln!(f, "  acknowledged   {acknowledged}")?;
        writeln!(f, "  undeliverable  {undeliverable}")?;
        if self.unfinished() > 0 {
            writeln!(f, "  unfinished     {}", self.unfinished())?;
        }
        let answers: Vec<_> = answers.iter().map(|(answer, count)| format!("{answer}: {count}")).collect();
        let total = format!("  deliveries     {deliveries}");
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
