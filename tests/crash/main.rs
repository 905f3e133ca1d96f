//! Kills servers at random moments, and checks that nothing which they acknowledged is lost.
//!
//! ```sh
//! cargo test --all-features --test crash                        # 20 kills of each
//! cargo test --all-features --test crash -- --kills 1000        # takes a quarter of an hour
//! cargo test --all-features --test crash -- --only sqlite       # one scenario
//! ```
//!
//! The example server `durable_inbox` takes webhooks from a sender that keeps a ledger of what was
//! acknowledged. The server is killed (`kill -9`) while it receives, commits, leases, handles and records, and
//! started again; in `postgres-server` it lives, and its PostgreSQL server is killed. In the end every
//! acknowledged job must have one row, done or dead, as its runs say. Other scenarios have a handler that aborts
//! its process, a worker that is stopped past its lease, workers whose clocks are two hours apart, a PostgreSQL primary
//! that is killed while its synchronous replica is promoted, one that turns read-only and back, and disks under SQLite
//! that are full or turn read-only. In `bulk-sqlite` and `bulk-postgres`, `ROWS` rows (2000) are replayed and discarded
//! beside workers that are killed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub)]

mod app;
mod bulk;
mod database;
mod disk;
mod failover;
#[path = "../it/support/faketime.rs"]
mod faketime;
mod kills;
mod ledger;
mod load;
mod pair;
mod scenario;
#[path = "../it/support/databases.rs"]
#[allow(dead_code)]
mod server;
mod worker;
mod workers;

use std::process::ExitCode;
use std::time::Instant;

use self::scenario::Scenario;

/// What the command line asks for.
struct Options {
    kills: usize,
    only: Option<Scenario>,
}

impl Options {
    fn read(args: Vec<String>) -> Result<Self, String> {
        let mut options = Self { kills: 20, only: None };
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or(format!("{arg} takes a value"));
            match &*arg {
                "--kills" => {
                    let value = value()?;
                    options.kills = value.parse().map_err(|error| format!("--kills {value}: {error}"))?;
                }
                "--only" => options.only = Some(value()?.parse()?),
                // What `cargo test` gives to every test program.
                "--nocapture" | "--show-output" | "--quiet" => {}
                _ => return Err(format!("usage: crash [--kills N] [--only SCENARIO], not {arg}")),
            }
        }
        Ok(options)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let args: Vec<_> = std::env::args().skip(1).collect();
    if let [mode, database] = &*args
        && mode == "worker"
    {
        worker::run(database).await;
        return ExitCode::SUCCESS;
    }
    if let [mode, disk, folder] = &*args
        && mode == "disk"
    {
        disk::check(disk, folder.as_ref()).await;
        return ExitCode::SUCCESS;
    }
    let options = match Options::read(args) {
        Ok(options) => options,
        Err(usage) => {
            eprintln!("{usage}");
            return ExitCode::from(2);
        }
    };
    let began = Instant::now();
    let (mut passed, mut failed, mut impossible) = (0, 0, 0);
    let mut chosen = Vec::new();
    for scenario in
        Scenario::ALL.into_iter().filter(|scenario| options.only.is_none_or(|only| only == *scenario))
    {
        match scenario.obstacle().await {
            None => chosen.push(scenario),
            Some(obstacle) => {
                println!("{scenario}: not run, impossible here: {obstacle}");
                impossible += 1;
            }
        }
    }
    // Leases of seconds do not go well with a machine that is busy with the kills.
    let (kills, others): (Vec<_>, Vec<_>) = chosen.into_iter().partition(|scenario| scenario.is_load());
    for together in [kills, others] {
        let running: Vec<_> = together
            .into_iter()
            .map(|scenario| (scenario, tokio::spawn(scenario.run(options.kills))))
            .collect();
        for (scenario, running) in running {
            let wrong = running.await.unwrap_or_else(|error| vec![error.to_string()]);
            wrong.iter().take(20).for_each(|wrong| println!("{scenario}: {wrong}"));
            *(if wrong.is_empty() { &mut passed } else { &mut failed }) += 1;
        }
    }
    let result = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "test result: {result}. {passed} passed; {failed} failed; {impossible} not run, impossible here; finished in {:.0?}",
        began.elapsed()
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
