//! The receiver's cost in a server: CPU time per request, beside that of the same framework's bare handler, which
//! reads the body and answers a static 200.
//!
//! ```sh
//! cargo bench --features axum,actix-web,warp,hyper --bench load            # or: -- axum, for one framework
//! ```
//!
//! The server is this program once more, on one core; `wrk` (from the package of that name) is on the
//! other, and posts webhooks with distinct ids over loopback: of 393 bytes, and of a megabyte, where a
//! third server skips over the body with serde_json. CPU time is read from `/proc`. The servers take
//! turns, so that a disturbance hits all of them. Ratios are of medians.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub)]

use self::served::{Cores, Served};
use self::servers::{FRAMEWORKS, Kind};

#[path = "served.rs"]
#[allow(dead_code)]
mod served;
#[path = "servers.rs"]
mod servers;
#[path = "typed.rs"]
mod typed;

const ROUNDS: usize = 3;
const CONNECTIONS: usize = 16;
const SECONDS: u64 = 4;
/// A tick of `/proc/PID/stat` on Linux, in microseconds.
const TICK: f64 = 10_000.0;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", framework, kind] => serve(framework, Kind::named(kind)),
        ["--bench"] => FRAMEWORKS.iter().for_each(|framework| compare(framework)),
        [framework, "--bench"] => compare(framework),
        // `cargo test --benches` only checks that the program runs.
        [] => {}
        _ => panic!("usage: load [FRAMEWORK]"),
    }
}

#[tokio::main]
async fn serve(framework: &str, kind: Kind) {
    servers::serve(framework, kind).await;
}

/// The CPU time of a process so far, user and system, in microseconds.
fn cpu(process: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) * TICK
}

/// The CPU time of a server per request, in microseconds.
fn cost(framework: &str, kind: Kind, is_large: bool) -> f64 {
    let server = Served::start(Cores::OneEach, &[framework, kind.name()]);
    let before = cpu(server.id());
    let requests = server.load(CONNECTIONS, SECONDS, is_large);
    (cpu(server.id()) - before) / requests
}

fn compare(framework: &str) {
    let small = [Kind::Bare, Kind::Receiver, Kind::Spans];
    let large = [Kind::Scan, Kind::Bare, Kind::Receiver];
    for (size, kinds, is_large) in [("393 B", small, false), ("1 MiB", large, true)] {
        let mut samples = kinds.map(|_| Vec::new());
        for round in 0..=ROUNDS {
            for (kind, samples) in kinds.iter().zip(&mut samples) {
                let cost = cost(framework, *kind, is_large);
                // The first round warms up.
                if round > 0 {
                    samples.push(cost);
                }
            }
        }
        println!("{framework}, {size}: CPU time of the server per request");
        let mut first = None;
        for (kind, samples) in kinds.iter().zip(&mut samples) {
            samples.sort_by(f64::total_cmp);
            let (least, median, most) = (samples[0], samples[ROUNDS / 2], samples[ROUNDS - 1]);
            let ratio = median / *first.get_or_insert(median);
            println!("    {:20} {median:8.2} µs ({least:.2}..{most:.2})  {ratio:.3} x", kind.name());
        }
    }
}
