//! Servers under load are killed.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::block_in_place;
use tokio::time::{Instant, sleep};

use crate::app::App;
use crate::database::Database;
use crate::ledger::Ledger;
use crate::load::Load;

/// What is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// The web server.
    App,
    /// The database's server.
    Database,
}

/// Kills so often, and returns what is wrong in the end.
pub async fn run(name: &str, mut database: Database, victim: Victim, kills: usize) -> Vec<String> {
    let ledger = Arc::new(Ledger::default());
    let mut app = App::start(&database.url(), &ledger).await;
    let (url, urls) = watch::channel(app.url.clone());
    let load = Load::start(&urls, &ledger);

    let (mut while_receiving, mut while_handling) = (0, 0);
    for kill in 1..=kills {
        sleep(random(50, 600)).await;
        while_receiving += usize::from(load.in_flight.load(Ordering::SeqCst) > 0);
        while_handling += usize::from(ledger.running() > 0);
        match (victim, &mut database) {
            (Victim::Database, Database::Postgres(server)) => {
                block_in_place(|| server.kill());
                sleep(random(0, 300)).await;
                block_in_place(|| server.restart());
            }
            _ => {
                app.kill().await;
                ledger.next_life();
                app = App::start(&database.url(), &ledger).await;
                url.send_replace(app.url.clone());
            }
        }
        if kill % kills.div_ceil(10) == 0 {
            println!("{name}: {kill} of {kills} kills, {}", ledger.totals());
        }
    }
    load.stop().await;
    println!("{name}: {while_receiving} kills while receiving, {while_handling} while handling");

    let began = Instant::now();
    let rows = database.rows_when_all_have_ended().await;
    println!("{name}: all have ended after {:.0?}, {}", began.elapsed(), ledger.totals());
    // What it printed last may not have been read yet.
    let ended_well = app.stop().await;
    let mut wrong = ledger.compare(&rows, victim == Victim::Database);
    if !ended_well {
        wrong.push("the server did not stop well".to_owned());
    }
    wrong.extend(database.damage());
    wrong
}

/// A duration between two numbers of milliseconds.
pub fn random(least: u64, most: u64) -> Duration {
    Duration::from_millis(least + getrandom::u64().unwrap() % (most - least))
}
