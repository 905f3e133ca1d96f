//! The alert rules in a real Prometheus, with shorter times: they fire, and they end.

use std::future::IntoFuture;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusBuilder;
use qomplement_webhooks::{InboxStore, InboxWorker, JobId, MemoryInbox, Verification, worker::RunningWorker};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use crate::support::Script;
use crate::support::api::{Api, Says};

/// The times of the rules, and the shorter ones of the test.
const TIMES: [(&str, &str); 6] = [
    ("> 120", "> 4"),
    ("for: 1m", "for: 1s"),
    ("for: 10m", "for: 3s"),
    ("_closed[5m]", "_closed[5s]"),
    ("[5m]", "[10s]"),
    ("[15m]", "[1m]"),
];
const NO_LEASE: &str = "QomplementWebhooksNoLease";
const BUDGET_CLOSED: &str = "QomplementWebhooksBudgetClosed";

/// A Prometheus that reads an address every second.
struct Prometheus {
    url: String,
    client: reqwest::Client,
    child: Child,
}

impl Prometheus {
    async fn start(folder: &Path, target: &str) -> Self {
        let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("dashboards/alerts.yml");
        let mut rules = std::fs::read_to_string(rules).unwrap();
        for (time, shorter) in TIMES {
            assert!(rules.contains(time), "no rule has {time}");
            rules = rules.replace(time, shorter);
        }
        std::fs::write(folder.join("alerts.yml"), rules).unwrap();
        let config = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n\
            rule_files: [alerts.yml]\n\
            scrape_configs: [{{job_name: app, static_configs: [{{targets: ['{target}']}}]}}]\n"
        );
        std::fs::write(folder.join("prometheus.yml"), config).unwrap();
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let child = Command::new("prometheus")
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data", "--log.level=error"])
            .arg(format!("--web.listen-address={free}"))
            .current_dir(folder)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("`prometheus` does not start: Debian's package has it");
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { url: format!("http://{free}/api/v1"), client, child }
    }

    /// The answer to a query of the API; `None` while there is none.
    async fn get(&self, path: &str) -> Option<Value> {
        let answer = self.client.get(format!("{}/{path}", self.url)).send().await.ok()?;
        serde_json::from_slice(&answer.bytes().await.ok()?).ok()
    }

    /// The alerts that fire; `None` before Prometheus answers.
    async fn firing(&self) -> Option<Vec<String>> {
        let answer = self.get("alerts").await?;
        let alerts = answer["data"]["alerts"].as_array()?.iter();
        let firing = alerts.filter(|alert| alert["state"] == "firing");
        Some(firing.map(|alert| alert["labels"]["alertname"].as_str().unwrap().to_owned()).collect())
    }

    /// The value of the only series of an expression.
    async fn value(&self, expression: &str) -> Option<f64> {
        let answer = self.get(&format!("query?query={expression}")).await?;
        answer["data"]["result"][0]["value"][1].as_str()?.parse().ok()
    }

    /// Waits until exactly these alerts fire.
    async fn until(&self, expected: &[&str]) {
        let began = Instant::now();
        loop {
            let firing = self.firing().await;
            if firing
                .as_ref()
                .is_some_and(|firing| firing.iter().map(String::as_str).eq(expected.iter().copied()))
            {
                return;
            }
            assert!(began.elapsed() < Duration::from_secs(90), "firing: {firing:?} instead of {expected:?}");
            sleep(Duration::from_millis(100)).await;
        }
    }
}

fn worker(inbox: &MemoryInbox, api: &Api) -> RunningWorker {
    let verification = Verification::fetch(api.clone());
    InboxWorker::new(inbox.clone(), Script::default().handler(), verification).start()
}

#[test]
fn alerts_fire_when_the_api_is_down_or_a_worker_is_stopped_and_end_afterwards() {
    let folder = std::env::temp_dir().join(format!("qomplement-webhooks-alerts-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let recorder = PrometheusBuilder::new().build_recorder();
    let metrics = recorder.handle();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let test = async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap().to_string();
        let app = Router::new().route("/metrics", get(move || async move { metrics.render() }));
        tokio::spawn(axum::serve(listener, app).into_future());

        let (inbox, api) = (MemoryInbox::new(), Api::new(Says::Down));
        let running = worker(&inbox, &api);
        let mut prometheus = Prometheus::start(&folder, &target).await;
        prometheus.until(&[]).await;
        super::support::eventually("the metrics are read", async || {
            prometheus.value("up").await == Some(1.0)
        })
        .await;

        let jobs = ["a", "b", "c", "d"].map(|id| id.parse::<JobId>().unwrap());
        for job in &jobs {
            inbox.expect(job, Duration::ZERO).await.unwrap();
        }
        prometheus.until(&[BUDGET_CLOSED]).await;
        jobs.iter().for_each(|job| drop(api.finish(job)));
        prometheus.until(&[]).await;

        running.shutdown(Duration::from_secs(1)).await;
        prometheus.until(&[NO_LEASE]).await;
        let running = worker(&inbox, &api);
        prometheus.until(&[]).await;
        running.shutdown(Duration::from_secs(1)).await;
        prometheus.child.kill().await.unwrap();
    };
    metrics::with_local_recorder(&recorder, || runtime.block_on(test));
    std::fs::remove_dir_all(folder).unwrap();
}
