//! The dashboard and the alert rules: every metric in them exists, with its labels and their values.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use qomplement_webhooks::telemetry::{METRICS, Metric, MetricKind};
use regex::Regex;
use serde_json::Value;

/// Labels that Prometheus adds.
const OF_PROMETHEUS: [&str; 3] = ["job", "instance", "le"];

fn read(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("dashboards").join(name)).unwrap()
}

/// The expressions of the dashboard's panels, by the panels' titles.
fn of_panels() -> Vec<(String, String)> {
    let dashboard: Value = serde_json::from_str(&read("grafana.json")).unwrap();
    let mut expressions = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        for target in panel["targets"].as_array().into_iter().flatten() {
            expressions.push((title.to_owned(), target["expr"].as_str().unwrap().to_owned()));
        }
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        if let Some(query) = variable["query"]["query"].as_str() {
            expressions.push((variable["name"].as_str().unwrap().to_owned(), query.to_owned()));
        }
    }
    expressions
}

/// The members of each rule.
fn rules() -> Vec<BTreeMap<String, String>> {
    let rules = read("alerts.yml");
    let rules = rules.split("- alert: ").skip(1).map(|rule| {
        let (name, rest) = rule.split_once('\n').unwrap();
        let member = Regex::new(r"(?m)^ {8,10}(\w+):(?: \|\n((?: {10,}.*\n)+)|[ \t]+(.+)\n)").unwrap();
        let members = member.captures_iter(rest).map(|found| {
            let value = found.get(2).or(found.get(3)).unwrap().as_str();
            (found[1].to_owned(), value.trim().to_owned())
        });
        members.chain([("alert".to_owned(), name.to_owned())]).collect()
    });
    rules.collect()
}

/// The faults in the metrics and labels of an expression, and the metrics.
fn faults(expression: &str) -> (Vec<String>, BTreeSet<&'static str>) {
    let (mut faults, mut used) = (Vec::new(), BTreeSet::new());
    let mut labels: BTreeSet<&str> = OF_PROMETHEUS.into();
    let selector = Regex::new(r"(qomplement_webhooks_\w+)(?:\{([^}]*)\})?").unwrap();
    let matcher = Regex::new(r#"(\w+)(=~|!~|!=|=)"([^"]*)""#).unwrap();
    for found in selector.captures_iter(expression) {
        let name = &found[1];
        let Some(metric) = METRICS.iter().find(|metric| names(metric).iter().any(|known| known == name))
        else {
            faults.push(format!("there is no {name}"));
            continue;
        };
        used.insert(metric.name);
        labels.extend(metric.label);
        for found in matcher.captures_iter(found.get(2).map_or("", |matchers| matchers.as_str())) {
            let label = &found[1];
            if metric.label == Some(label) {
                let unknown = found[3].split('|').filter(|value| !metric.values.contains(value));
                faults.extend(unknown.map(|value| format!("{label} of {name} is never {value}")));
            } else if !OF_PROMETHEUS.contains(&label) {
                faults.push(format!("{name} has no label {label}"));
            }
        }
    }
    let grouping = Regex::new(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)").unwrap();
    for found in grouping.captures_iter(expression) {
        let unknown = found[1].split(',').map(str::trim).filter(|label| !labels.contains(label));
        faults.extend(unknown.map(|label| format!("no metric here has the label {label}")));
    }
    (faults, used)
}

/// The names of a metric's series.
fn names(metric: &Metric) -> Vec<String> {
    match metric.kind {
        MetricKind::Histogram => {
            ["_bucket", "_sum", "_count"].map(|part| format!("{}{part}", metric.name)).into()
        }
        _ => vec![metric.name.to_owned()],
    }
}

#[test]
fn every_metric_of_the_dashboard_exists_and_every_metric_is_on_it() {
    let (mut wrong, mut used) = (Vec::new(), BTreeSet::new());
    for (title, expression) in of_panels() {
        let (faults, metrics) = faults(&expression);
        wrong.extend(faults.into_iter().map(|fault| format!("{title}: {fault}")));
        used.extend(metrics);
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let all: BTreeSet<_> = METRICS.iter().map(|metric| metric.name).collect();
    assert_eq!(all.difference(&used).collect::<Vec<_>>(), [&""; 0], "not on the dashboard");
}

#[test]
fn every_metric_of_the_alerts_exists_and_each_alert_has_a_heading_that_says_what_to_do() {
    let operating = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operating.md");
    let headings = crate::documents::anchors(&operating);
    let rules = rules();
    assert_eq!(rules.len(), 7, "{rules:?}");
    for rule in &rules {
        let (faults, metrics) = faults(&rule["expr"]);
        assert!(faults.is_empty() && !metrics.is_empty(), "{}: {faults:#?}", rule["alert"]);
        let anchor = rule["runbook"].strip_prefix("docs/operating.md#").unwrap();
        assert!(headings.contains(anchor), "{}: no heading {anchor}", rule["alert"]);
        assert!(["critical", "warning"].contains(&rule["severity"].as_str()), "{rule:?}");
        assert!(rule.contains_key("summary") && rule.contains_key("description"), "{rule:?}");
    }
    let tests = read("alerts_test.yml");
    for rule in &rules {
        assert!(tests.contains(&rule["alert"]), "{} is not tested", rule["alert"]);
    }
}

#[test]
fn an_expression_with_a_wrong_name_label_or_value_is_found() {
    let faults = |expression: &str| faults(expression).0;
    assert_eq!(
        faults(r#"sum by (job) (rate(qomplement_webhooks_requests_total{outcome="stored"}[5m]))"#),
        [""; 0]
    );
    for (expression, fault) in [
        ("qomplement_webhooks_request_total", "there is no qomplement_webhooks_request_total"),
        ("qomplement_webhooks_wait_seconds", "there is no qomplement_webhooks_wait_seconds"),
        (
            r#"qomplement_webhooks_requests_total{code="stored"}"#,
            "qomplement_webhooks_requests_total has no label code",
        ),
        (
            r#"qomplement_webhooks_requests_total{outcome=~"stored|lost"}"#,
            "outcome of qomplement_webhooks_requests_total is never lost",
        ),
        ("sum by (state) (qomplement_webhooks_requests_total)", "no metric here has the label state"),
    ] {
        assert_eq!(faults(expression), [fault]);
    }
}
