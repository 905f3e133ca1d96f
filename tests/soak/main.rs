//! A receiver, a worker and a fetcher under steady load with faults for a long time. Memory, file descriptors and the
//! database must not grow, and every job must be handled.
//!
//! ```sh
//! tests/soak.sh 60                # an hour of SQLite and PostgreSQL, side by side
//! tests/soak.sh 10 sqlite
//! ```
//!
//! The program under test is a process of its own. A tenth of the webhooks is lost, a tenth comes twice, a tenth is
//! preceded by a forged one; a fifth of the handlers fails, some panic or hang; the API is away for a while every
//! minute. The medians of the second half are compared with those of the first.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub)]

mod api;
mod database;
mod gauges;
mod load;
mod program;
#[path = "../it/support/databases.rs"]
#[allow(dead_code)]
mod server;

use std::process::ExitCode;
use std::time::Duration;

use self::database::Database;

#[tokio::main]
async fn main() -> ExitCode {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let args: Vec<_> = args.iter().map(String::as_str).filter(|arg| *arg != "--nocapture").collect();
    let (minutes, names) = match args.as_slice() {
        ["program", database, api] => {
            program::run(database, api).await;
            return ExitCode::SUCCESS;
        }
        [] => ("4", &["sqlite", "postgres"][..]),
        [minutes] => (*minutes, &["sqlite", "postgres"][..]),
        [minutes, names @ ..] => (*minutes, names),
    };
    let Some(length) = minutes.parse::<u64>().ok().filter(|minutes| *minutes >= 4) else {
        eprintln!("usage: soak [MINUTES, at least 4] [sqlite] [postgres]");
        return ExitCode::from(2);
    };
    let length = Duration::from_secs(60 * length);
    let mut runs = Vec::new();
    for name in names {
        let Some(database) = Database::start(name).await else {
            eprintln!("{name} is neither sqlite nor postgres");
            return ExitCode::from(2);
        };
        runs.push((*name, tokio::spawn(load::run(database, length))));
    }
    let (mut passed, mut failed) = (0, 0);
    for (name, run) in runs {
        let wrong = run.await.unwrap_or_else(|error| vec![error.to_string()]);
        wrong.iter().take(20).for_each(|wrong| println!("{name}: {wrong}"));
        *(if wrong.is_empty() { &mut passed } else { &mut failed }) += 1;
    }
    let result = if failed == 0 { "ok" } else { "FAILED" };
    println!("test result: {result}. {passed} passed; {failed} failed; in {minutes} minutes");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
