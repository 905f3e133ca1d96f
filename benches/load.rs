//! What the receiver adds to the cost of a server: its CPU time per request beside that of a bare axum
//! handler that reads the body and answers a static 200.
//!
//! ```sh
//! cargo bench --features axum --bench load
//! ```
//!
//! The server is this program once more, on one core; `wrk` (from the package of that name) is on the
//! other, and posts webhooks with distinct ids over loopback. CPU time is read from `/proc`. The servers
//! take turns, so that what disturbs one disturbs all, and the ratio is that of the medians.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use axum::Router;
use axum::routing::{any, post};
use bytes::Bytes;
use qomplement_webhooks::{SharedToken, WebhookReceiver, handler_fn};

const TOKEN: &str = "4Kz0PhvXDXnKcQ9JvW5c8tqGpn7oYbRm2sLd1aTfEuI";
const ROUNDS: usize = 5;
const SECONDS: &str = "4s";
/// What a tick of `/proc/PID/stat` is on Linux, in microseconds.
const TICK: f64 = 10_000.0;

const SERVERS: [(&str, &str); 3] = [
    ("bare", "reads the body, answers a static 200"),
    ("receiver", "token, parsing, deduplication, handler"),
    ("receiver+spans", "the same, with a tracing subscriber at INFO"),
];

fn main() {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("serve") => serve(&arguments.next().unwrap()),
        // `cargo test --benches` asks whether it runs at all.
        Some("--test") => {}
        _ => compare(),
    }
}

#[tokio::main]
async fn serve(kind: &str) {
    let app = match kind {
        "bare" => Router::new().route("/webhook", post(|_: Bytes| async { r#"{"received":true}"# })),
        _ => Router::new().route("/webhook", any(receiver())),
    };
    if kind == "receiver+spans" {
        tracing_subscriber::fmt().with_writer(std::io::sink).init();
    }
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    axum::serve(listener, app).await.unwrap();
}

fn receiver() -> WebhookReceiver {
    let handler = handler_fn(|event| async move {
        std::hint::black_box(event);
        Ok(())
    });
    WebhookReceiver::builder(handler).token(SharedToken::new(TOKEN).unwrap()).build().unwrap()
}

/// A server process; killed when it is dropped.
struct Server(Child, String);

impl Server {
    fn start(kind: &str) -> Self {
        let mut command = Command::new("taskset");
        command.args(["-c", "0"]).arg(std::env::current_exe().unwrap()).args(["serve", kind]);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("taskset (util-linux) is needed");
        let mut address = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut address).unwrap();
        Self(child, address.trim().to_owned())
    }

    /// CPU time so far, user and system, in microseconds.
    fn cpu(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) * TICK
    }

    /// Puts load on the server, and returns its CPU time per request in microseconds.
    fn load(&self) -> f64 {
        let before = self.cpu();
        let output = Command::new("taskset")
            .args(["-c", "1", "wrk", "-t1", "-c16", "-d", SECONDS, "-s"])
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/load.lua"))
            .arg(format!("http://{}/webhook?token={TOKEN}", self.1))
            .output()
            .expect("wrk is needed: apt-get install wrk");
        let spent = self.cpu() - before;
        let output = String::from_utf8_lossy(&output.stdout);
        let number = |name| {
            let line = output.lines().find_map(|line: &str| line.strip_prefix(name));
            line.unwrap_or_else(|| panic!("wrk says: {output}")).trim().parse::<f64>().unwrap()
        };
        assert_eq!(number("failed "), 0.0, "not every webhook was acknowledged: {output}");
        spent / number("requests ")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn compare() {
    let mut samples = SERVERS.map(|_| Vec::new());
    for round in 0..=ROUNDS {
        for (index, (kind, _)) in SERVERS.iter().enumerate() {
            let cost = Server::start(kind).load();
            // The first round warms up.
            if round > 0 {
                samples[index].push(cost);
            }
        }
    }
    println!("CPU time of the server per request, {ROUNDS} rounds of {SECONDS} each:");
    let mut bare = 0.0;
    for ((kind, what), samples) in SERVERS.iter().zip(&mut samples) {
        samples.sort_by(f64::total_cmp);
        let median = samples[samples.len() / 2];
        if bare == 0.0 {
            bare = median;
        }
        let (least, most) = (samples[0], samples[samples.len() - 1]);
        println!("{kind:16} {median:6.2} µs ({least:.2}..{most:.2})  {:.3} x  {what}", median / bare);
    }
}
