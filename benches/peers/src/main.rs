//! Measures this crate beside job queues, statements by hand and another receiver, and draws what was measured.
//! `benches/run.sh` runs it; `benches/README.md` shows the figures.
//!
//! Server, client and worker are this program once more, each in a process of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

use std::time::{Duration, Instant};

use axum::extract::DefaultBodyLimit;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

#[path = "../../by_hand.rs"]
#[allow(dead_code)]
mod by_hand;
mod chart;
mod contestants;
mod load;
mod measure;
mod memory;
mod process;
mod report;
#[path = "../../../tests/it/support/databases.rs"]
#[allow(dead_code)]
mod server;
mod webhook;

/// The path of the webhook, with our token. The peers' routes ignore it.
const PATH: &str = "/webhook?token=4Kz0PhvXDXnKcQ9JvW5c8tqGpn7oYbRm2sLd1aTfEuI";
const TOKEN: &str = "4Kz0PhvXDXnKcQ9JvW5c8tqGpn7oYbRm2sLd1aTfEuI";
/// The secret of octoevents' signatures.
const SECRET: &str = TOKEN;
const ANSWER: &str = r#"{"received":true}"#;
/// The number of the first webhook that is stored and not posted, after that of the first posted one.
const STORED: u64 = 1 << 31;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |text: &str| text.parse::<u64>().unwrap_or_else(|_| panic!("{text} is no number"));
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["measure", ref options @ ..] => measure::run(options),
        ["report", folder, readme, guide, pictures] => report::run(folder, readme, guide, pictures),
        ["serve", name, place] => runtime().block_on(serve(name, place)),
        ["load", address, connections, seconds, bytes, first, kind] => load::run(
            address,
            number(connections),
            seconds.parse().unwrap(),
            number(bytes) as usize,
            number(first),
            kind == "github",
        ),
        ["store", name, place, count, bytes, first] => {
            runtime().block_on(store(name, place, number(count), number(bytes) as usize, number(first)));
        }
        ["work", name, place, concurrency, total, seconds] => runtime().block_on(work(
            name,
            place,
            number(concurrency) as usize,
            number(total),
            Duration::from_secs_f64(seconds.parse().unwrap()),
        )),
        ["remember", name, jobs] => memory::remember(name, number(jobs)),
        _ => {
            eprintln!("usage: benches/run.sh [PART…]");
            std::process::exit(2);
        }
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap()
}

/// Serves until it is killed. The first line is the address.
async fn serve(name: &str, place: &str) {
    let router = contestants::router(name, place).await.layer(DefaultBodyLimit::disable());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    axum::serve(listener, router).await.unwrap();
}

async fn store(name: &str, place: &str, count: u64, bytes: usize, first: u64) {
    let (queue, bodies) = (contestants::queue(name, place).await, webhook::Bodies::new(bytes));
    let (first, end) = (first + STORED, first + STORED + count);
    for batch in (first..end).step_by(1000) {
        queue.store(bodies.webhooks(batch..(batch + 1000).min(end))).await;
    }
}

/// Runs a worker until it has handled nearly all events, or for some time. Prints the events a second, the microseconds
/// of CPU time for each, and their number.
async fn work(name: &str, place: &str, concurrency: usize, total: u64, time: Duration) {
    let queue = contestants::queue(name, place).await;
    let before = process::cpu_of(std::process::id());
    let started = Instant::now();
    tokio::spawn(async move { queue.work(concurrency).await });
    // The last events of some workers wait for a batch or a poll.
    let enough = total - total / 50;
    loop {
        tokio::time::sleep(Duration::from_millis(2)).await;
        let (handled, first) = contestants::progress();
        match first {
            Some(first) if handled >= enough || first.elapsed() >= time => {
                let rate = handled as f64 / first.elapsed().as_secs_f64();
                println!(
                    "{rate} {} {handled}",
                    (process::cpu_of(std::process::id()) - before) / handled as f64
                );
                // Some workers panic when their runtime is shut down under them.
                std::process::exit(0);
            }
            None if started.elapsed() > Duration::from_secs(30) => panic!("{name} handles nothing"),
            _ => {}
        }
    }
}
