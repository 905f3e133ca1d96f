//! PostgreSQL servers that stop taking writes under load: a primary that is killed while its synchronous replica is
//! promoted, and one that turns read-only and back.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::app::App;
use crate::database::Database;
use crate::kills::random;
use crate::ledger::Ledger;
use crate::load::{Load, Probe};
use crate::pair::execute;

/// The sender waits five seconds for an answer; a busy machine may take longer.
const IN_TIME: Duration = Duration::from_secs(10);

/// The least, the median and the most of some times.
struct Times(Vec<Duration>);

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut times = self.0.clone();
        times.sort();
        let (Some(least), Some(most)) = (times.first(), times.last()) else { return f.write_str("no time") };
        write!(f, "{} / {} / {} ms", least.as_millis(), times[times.len() / 2].as_millis(), most.as_millis())
    }
}

/// The program, its senders, and a sender that is asked for answers at any moment.
struct Traffic {
    app: App,
    load: Load,
    probe: Probe,
    ledger: Arc<Ledger>,
}

impl Traffic {
    async fn start(database: &Database) -> Self {
        let ledger = Arc::new(Ledger::default());
        let app = App::start(&database.url(), &ledger).await;
        // The program is not started again: its address stays.
        let (_, url) = watch::channel(app.url.clone());
        Self { load: Load::start(&url, &ledger), probe: Probe::new(&url, &ledger), app, ledger }
    }

    /// Delivers new webhooks one after another until one is acknowledged. Returns the time that took, and the wrong
    /// answers.
    async fn until_acknowledged(&self, since: Instant) -> (Duration, Vec<String>) {
        let mut wrong = Vec::new();
        loop {
            let sent = Instant::now();
            let status = self.probe.deliver().await;
            if status == Some(200) {
                return (since.elapsed(), wrong);
            }
            if status != Some(503) || sent.elapsed() > IN_TIME {
                wrong.push(format!("a webhook was answered with {status:?} after {:?}", sent.elapsed()));
            }
            assert!(since.elapsed() < Duration::from_secs(120), "no webhook is acknowledged any more");
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Ends the load, and compares all that was acknowledged with the rows.
    async fn end(self, name: &str, database: &Database) -> Vec<String> {
        self.load.stop().await;
        let rows = database.rows_when_all_have_ended().await;
        // What it printed last may not have been read yet.
        let ended_well = self.app.stop().await;
        let lost = self.ledger.lost(&rows);
        println!("{name}: {}, {lost} lost", self.ledger.totals());
        let mut wrong = self.ledger.compare(&rows, true);
        if !ended_well {
            wrong.push("the server did not stop well".to_owned());
        }
        wrong
    }
}

/// Kills the primary and promotes its replica, in each round.
pub async fn promote(name: &str, mut database: Database, rounds: usize) -> Vec<String> {
    let traffic = Traffic::start(&database).await;
    let (mut wrong, mut away, mut promoted) = (Vec::new(), Times(Vec::new()), Times(Vec::new()));
    for round in 1..=rounds {
        sleep(random(200, 1000)).await;
        let Database::Pair(pair) = &mut database else { unreachable!("a pair of servers") };
        // In every other round the replica lacks the last moments of the primary.
        if round % 2 == 0 {
            pair.cut_off().await;
            sleep(random(20, 300)).await;
        }
        let killed = Instant::now();
        let (took, (until, answers)) = tokio::join!(pair.fail_over(random(0, 100)), async {
            sleep(Duration::from_millis(1)).await;
            traffic.until_acknowledged(killed).await
        });
        promoted.0.push(took);
        away.0.push(until);
        wrong.extend(answers);
        pair.replace_replica().await;
        if round % rounds.div_ceil(10) == 0 {
            println!("{name}: {round} of {rounds} failovers, {}", traffic.ledger.totals());
        }
    }
    println!(
        "{name}: from the kill until 200 again: {away} (least / median / most), of that promotion: {promoted}"
    );
    wrong.extend(traffic.end(name, &database).await);
    wrong
}

/// Makes the server read-only for a while, in each round.
pub async fn read_only(name: &str, database: Database, rounds: usize) -> Vec<String> {
    let traffic = Traffic::start(&database).await;
    let Database::Postgres(server) = &database else { unreachable!("one server") };
    let (mut wrong, mut back) = (Vec::new(), Times(Vec::new()));
    for _ in 0..rounds {
        sleep(random(100, 500)).await;
        execute(server, "ALTER SYSTEM SET default_transaction_read_only = on").await;
        execute(server, "SELECT pg_reload_conf()").await;
        let began = Instant::now();
        // Connections read the setting one after another.
        let refused = loop {
            match traffic.probe.deliver().await {
                Some(200) => {
                    assert!(began.elapsed() < Duration::from_secs(60), "a read-only server is written to");
                }
                refused => break refused,
            }
        };
        if refused != Some(503) {
            wrong.push(format!(
                "a webhook that a read-only server cannot store was answered with {refused:?}"
            ));
        }
        sleep(random(100, 500)).await;
        execute(server, "ALTER SYSTEM RESET default_transaction_read_only").await;
        execute(server, "SELECT pg_reload_conf()").await;
        let (until, answers) = traffic.until_acknowledged(Instant::now()).await;
        back.0.push(until);
        wrong.extend(answers);
    }
    println!("{name}: from writable until 200 again: {back} (least / median / most)");
    wrong.extend(traffic.end(name, &database).await);
    wrong
}
