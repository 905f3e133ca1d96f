//! The metrics of one thread, as Prometheus reads them.

use std::collections::BTreeMap;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::runtime::{Builder, Runtime};

/// The metrics that a runtime of one thread records.
pub struct Metrics(PrometheusHandle);

impl Metrics {
    /// Runs a test under paused time, with a recorder of its own.
    pub fn recorded(test: impl AsyncFnOnce(&Self)) {
        Self::recorded_on(&paused(), test);
    }

    pub fn recorded_on(runtime: &Runtime, test: impl AsyncFnOnce(&Self)) {
        let buckets = Matcher::Suffix("_seconds".to_owned());
        let recorder =
            PrometheusBuilder::new().set_buckets_for_metric(buckets, &[1.0]).unwrap().build_recorder();
        let metrics = Self(recorder.handle());
        metrics::with_local_recorder(&recorder, || runtime.block_on(test(&metrics)));
    }

    /// The text that Prometheus reads.
    pub fn text(&self) -> String {
        self.0.render()
    }

    /// All series, such as `name{label="value"}`, with their values.
    pub fn all(&self) -> BTreeMap<String, f64> {
        let text = self.text();
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let series = lines.map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            (series.to_owned(), value.parse().unwrap())
        });
        series.collect()
    }

    /// The value of a metric without a label; `None` before it is recorded.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.all().get(name).copied()
    }

    /// The value of a metric with this value of its label.
    pub fn of(&self, name: &str, label: &str, value: &str) -> Option<f64> {
        self.get(&format!("{name}{{{label}=\"{value}\"}}"))
    }

    /// The number and the sum of a histogram's values.
    pub fn measured(&self, name: &str) -> (u64, f64) {
        let [count, sum] =
            ["count", "sum"].map(|part| self.get(&format!("{name}_{part}")).unwrap_or_default());
        (count as u64, sum)
    }
}

pub fn paused() -> Runtime {
    Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}
