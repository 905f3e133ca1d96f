//! The measurements. Each prints one line for a value: contestant, x, round, metric and value, separated by tabs.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use qomplement_webhooks::event::Envelope;
use tokio::runtime::Runtime;
use tokio_postgres::NoTls;

use crate::contestants::{ALL, Contestant, Database, queue};
use crate::memory::STORES;
use crate::process::{Served, cpu_of, cpu_with_children, numbers};
use crate::{by_hand, server};

/// The fewest events that a worker finds.
const EVENTS: u64 = 20_000;
const SMALL: u64 = 393;

/// What the options set.
struct Options {
    rounds: u64,
    seconds: f64,
    /// The most finished rows, as a power of ten, and the most of ours alone.
    finished: u32,
    finished_of_ours: u32,
    /// Only contestants whose name contains one of these; all if there are none.
    only: Vec<String>,
}

pub fn run(arguments: &[&str]) {
    let [part, rest @ ..] = arguments else { panic!("which part?") };
    let mut options = Options { rounds: 3, seconds: 3.0, finished: 6, finished_of_ours: 0, only: Vec::new() };
    for option in rest {
        match option.split_once('=') {
            Some(("--rounds", value)) => options.rounds = value.parse().unwrap(),
            Some(("--seconds", value)) => options.seconds = value.parse().unwrap(),
            Some(("--finished", value)) => options.finished = value.parse().unwrap(),
            Some(("--finished-of-ours", value)) => options.finished_of_ours = value.parse().unwrap(),
            Some(("--only", value)) => options.only = value.split(';').map(str::to_owned).collect(),
            _ => panic!("no such option: {option}"),
        }
    }
    let measure = Measure::new(options);
    match *part {
        "queues" => measure.queues(),
        "connections" => measure.connections(),
        "sizes" => measure.sizes(),
        "finished" => measure.finished(),
        "memory" => measure.memory(),
        other => panic!("no such part: {other}"),
    }
}

fn say(contestant: &str, x: u64, round: u64, metric: &str, value: f64) {
    println!("{contestant}\t{x}\t{round}\t{metric}\t{value}");
}

/// A place for a contestant's tables, empty at first, which is removed on drop.
struct Place<'a> {
    measure: &'a Measure,
    database: Database,
    name: String,
    text: String,
}

struct Measure {
    options: Options,
    runtime: Runtime,
    server: server::Server,
    /// The process id of the server.
    postmaster: u32,
    folder: PathBuf,
}

impl Drop for Measure {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        match self.database {
            Database::Nothing => {}
            Database::Sqlite => {
                for suffix in ["", "-wal", "-shm"] {
                    let _ = fs::remove_file(format!("{}{suffix}", self.text));
                }
            }
            Database::Postgres => {
                self.measure.sql("postgres", &format!("DROP DATABASE {} WITH (FORCE)", self.name));
            }
        }
    }
}

impl Measure {
    fn new(options: Options) -> Self {
        let folder = std::env::temp_dir().join(format!("qomplement-webhooks-peers-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        // Room for the table of the longest measurement, and no checkpoint within a load. Durability is the default's.
        let settings =
            ["shared_buffers=512MB", "max_wal_size=8GB", "checkpoint_timeout=30min", "max_connections=400"];
        let server = server::Server::postgres(&settings, &[]);
        let pid = fs::read_to_string(server.folder().join("data/postmaster.pid")).unwrap();
        let postmaster = pid.lines().next().unwrap().trim().parse().unwrap();
        Self { options, runtime: crate::runtime(), server, postmaster, folder }
    }

    fn contestants(&self) -> Vec<Contestant> {
        let only = &self.options.only;
        let is_asked =
            |one: &Contestant| only.is_empty() || only.iter().any(|name| one.name.contains(&**name));
        ALL.into_iter().filter(is_asked).collect()
    }

    fn url(&self, database: &str) -> String {
        format!("postgres://postgres:{}@127.0.0.1:{}/{database}", server::PASSWORD, self.server.port())
    }

    fn sql(&self, database: &str, statements: &str) {
        let (url, statements) = (self.url(database), statements.to_owned());
        self.runtime.block_on(async move {
            let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
            tokio::spawn(connection);
            client.batch_execute(&statements).await.unwrap();
        });
    }

    /// The numbers in the one row that a query returns.
    fn query(&self, database: &str, query: &str) -> Vec<f64> {
        let (url, query) = (self.url(database), query.to_owned());
        self.runtime.block_on(async move {
            let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
            tokio::spawn(connection);
            let row = client.query_one(&query, &[]).await.unwrap();
            (0..row.len()).map(|column| row.get(column)).collect()
        })
    }

    /// The bytes of the write-ahead log so far, and the pages in it that are written whole after a checkpoint.
    fn wal(&self, database: Database) -> [f64; 2] {
        if database != Database::Postgres {
            return [0.0; 2];
        }
        let query = "SELECT (pg_current_wal_insert_lsn() - '0/0')::float8, wal_fpi::float8 FROM pg_stat_wal";
        self.query("postgres", query).try_into().unwrap()
    }

    /// Says how much of the log each of some events took.
    fn say_wal(&self, one: &Contestant, before: [f64; 2], events: f64, x: u64, round: u64, of: &str) {
        if one.database == Database::Postgres {
            let after = self.wal(one.database);
            say(one.name, x, round, &format!("{of} wal"), (after[0] - before[0]) / events);
            say(one.name, x, round, &format!("{of} full pages"), (after[1] - before[1]) / events);
        }
    }

    fn place(&self, database: Database, name: &str) -> Place<'_> {
        let name: String =
            name.chars().map(|char| if char.is_ascii_alphanumeric() { char } else { '_' }).collect();
        let name = name.to_lowercase();
        let text = match database {
            Database::Nothing => "nothing".to_owned(),
            Database::Sqlite => self.folder.join(&name).display().to_string(),
            Database::Postgres => {
                self.sql("postgres", &format!("CREATE DATABASE {name}"));
                self.url(&name)
            }
        };
        Place { measure: self, database, name, text }
    }

    fn database_cpu(&self, database: Database) -> f64 {
        match database {
            Database::Postgres => cpu_with_children(self.postmaster),
            Database::Nothing | Database::Sqlite => 0.0,
        }
    }

    /// Posts webhooks for some time. Returns the number that were acknowledged.
    #[allow(clippy::too_many_arguments)]
    fn acknowledge(
        &self,
        one: &Contestant,
        place: &str,
        connections: u64,
        bytes: u64,
        x: u64,
        round: u64,
        first: u64,
    ) -> u64 {
        if one.database == Database::Postgres {
            self.sql("postgres", "CHECKPOINT");
        }
        let wal = self.wal(one.database);
        let served = Served::start(one.name, place);
        let before = (cpu_of(served.id()), self.database_cpu(one.database));
        let kind = if one.name == "octoevents" { "github" } else { "ours" };
        let load = numbers(&[
            "load",
            &served.address,
            &connections.to_string(),
            &self.options.seconds.to_string(),
            &bytes.to_string(),
            &first.to_string(),
            kind,
        ]);
        let after = (cpu_of(served.id()), self.database_cpu(one.database));
        drop(served);
        let Some([acknowledged, a_second, p50, p99, failed]) = load.as_deref() else {
            eprintln!("{}: the client failed", one.name);
            return 0;
        };
        say(one.name, x, round, "acks", *a_second);
        say(one.name, x, round, "p50", *p50);
        say(one.name, x, round, "p99", *p99);
        if *failed > 0.0 {
            say(one.name, x, round, "failed", *failed);
        }
        say(one.name, x, round, "cpu", (after.0 - before.0) / acknowledged);
        if one.database == Database::Postgres {
            say(one.name, x, round, "database cpu", (after.1 - before.1) / acknowledged);
        }
        self.say_wal(one, wal, *acknowledged, x, round, "ack");
        eprintln!("{} x={x} round {round}: {a_second:.0} acks/s", one.name);
        *acknowledged as u64
    }

    /// Runs a worker on what is stored. With small bodies, there are at least [`EVENTS`].
    #[allow(clippy::too_many_arguments)]
    fn handle(
        &self,
        one: &Contestant,
        place: &str,
        concurrency: u64,
        stored: u64,
        bytes: u64,
        x: u64,
        round: u64,
        first: u64,
    ) {
        let missing = if bytes > 4096 { 0 } else { EVENTS.saturating_sub(stored) };
        if missing > 0 {
            let stored = numbers(&[
                "store",
                one.name,
                place,
                &missing.to_string(),
                &bytes.to_string(),
                &first.to_string(),
            ]);
            assert!(stored.is_some(), "{} stores nothing", one.name);
        }
        let (wal, cpu_before) = (self.wal(one.database), self.database_cpu(one.database));
        let (concurrency, total) = (concurrency.to_string(), (stored + missing).to_string());
        let seconds = self.options.seconds.to_string();
        let worked = numbers(&["work", one.name, place, &concurrency, &total, &seconds]);
        let Some([rate, cpu, handled]) = worked.as_deref() else {
            eprintln!("{}: the worker failed", one.name);
            return;
        };
        say(one.name, x, round, "handled", *rate);
        say(one.name, x, round, "worker cpu", *cpu);
        if one.database == Database::Postgres {
            let database_cpu = self.database_cpu(one.database) - cpu_before;
            say(one.name, x, round, "worker database cpu", database_cpu / handled);
            let name = place.rsplit('/').next().unwrap();
            let query = "SELECT sum(n_tup_upd)::float8, sum(n_tup_hot_upd)::float8, sum(n_dead_tup)::float8 FROM pg_stat_user_tables";
            let [updates, hot, dead] = self.query(name, query).try_into().unwrap();
            say(one.name, x, round, "updates", updates / handled);
            say(one.name, x, round, "hot updates", hot / handled);
            say(one.name, x, round, "dead tuples", dead / handled);
        }
        self.say_wal(one, wal, *handled, x, round, "event");
        eprintln!("{} x={x} round {round}: {rate:.0} handled/s", one.name);
    }

    /// Rows by hand, 64 in a transaction of one thread, without HTTP: what the database can do at least.
    fn raw(&self, database: Database, rows: u64, x: u64, round: u64) {
        let place = self.place(database, &format!("raw_{x}_{round}"));
        // The tables of ours.
        let name = if database == Database::Sqlite { "ours, SQLite" } else { "ours, PostgreSQL" };
        drop(self.runtime.block_on(queue(name, &place.text)));
        let events: Vec<Envelope> = by_hand::events(0..rows, 0);
        let began = match database {
            Database::Sqlite => {
                let began = Instant::now();
                by_hand::sqlite(place.text.as_ref(), &events);
                began
            }
            _ => self.runtime.block_on(async {
                let (client, connection) = tokio_postgres::connect(&place.text, NoTls).await.unwrap();
                tokio::spawn(connection);
                let began = Instant::now();
                by_hand::postgres(&client, "qomplement_inbox", &events).await;
                began
            }),
        };
        let rate = rows as f64 / began.elapsed().as_secs_f64();
        let name =
            if database == Database::Sqlite { "raw batches, SQLite" } else { "raw batches, PostgreSQL" };
        say(name, x, round, "acks", rate);
        eprintln!("{name}: {rate:.0} a second");
    }

    /// All contestants in turns, at 64 and 256 connections; then their workers with as many handlers at once.
    fn queues(&self) {
        for round in 0..self.options.rounds {
            for connections in [64, 256] {
                for one in self.contestants() {
                    let place = self.place(one.database, &format!("{}_{connections}_{round}", one.name));
                    let stored =
                        self.acknowledge(&one, &place.text, connections, SMALL, connections, round, 0);
                    if one.database == Database::Nothing || stored == 0 {
                        continue;
                    }
                    self.handle(&one, &place.text, connections, stored, SMALL, connections, round, 0);
                    drop(place);
                    if one.name.starts_with("ours") {
                        self.raw(one.database, stored, connections, round);
                    }
                }
            }
        }
    }

    fn connections(&self) {
        for round in 0..self.options.rounds {
            for connections in [1, 4, 16, 64, 256, 1024] {
                for one in self.contestants() {
                    let place = self.place(one.database, &format!("{}_{connections}_{round}", one.name));
                    let stored =
                        self.acknowledge(&one, &place.text, connections, SMALL, connections, round, 0);
                    if one.database != Database::Nothing && stored > 0 {
                        self.handle(&one, &place.text, connections, stored, SMALL, connections, round, 0);
                    }
                }
            }
        }
    }

    fn sizes(&self) {
        for round in 0..self.options.rounds {
            for bytes in [SMALL, 4 << 10, 64 << 10, 1 << 20, 8 << 20] {
                for one in self.contestants() {
                    let place = self.place(one.database, &format!("{}_{bytes}_{round}", one.name));
                    let stored = self.acknowledge(&one, &place.text, 16, bytes, bytes, round, 0);
                    if one.database != Database::Nothing && stored > 0 {
                        self.handle(&one, &place.text, 16, stored, bytes, bytes, round, 0);
                    }
                }
            }
        }
    }

    /// 64 connections and 64 handlers beside more and more finished rows.
    fn finished(&self) {
        let contestants: Vec<_> = self.contestants().into_iter().filter(|one| one.keeps_rows).collect();
        let mut places: Vec<_> = contestants
            .iter()
            .map(|one| (one, self.place(one.database, &format!("{}_finished", one.name))))
            .collect();
        let mut rows = 0;
        for power in 3..=self.options.finished.max(self.options.finished_of_ours) {
            if power > self.options.finished {
                places.retain(|(one, _)| one.name.starts_with("ours"));
            }
            let wanted = 10u64.pow(power);
            for (one, place) in &places {
                let began = Instant::now();
                let before = self.bytes(place);
                self.finish(one, place, u64::from(power) * 1_000_000_000_000, wanted - rows);
                say(
                    one.name,
                    wanted,
                    0,
                    "bytes of a row",
                    (self.bytes(place) - before) / (wanted - rows) as f64,
                );
                eprintln!("{}: {wanted} finished rows after {:.0?}", one.name, began.elapsed());
            }
            for round in 0..self.options.rounds {
                for (one, place) in &places {
                    let first = (u64::from(power) << 36) + (round << 32);
                    let stored = self.acknowledge(one, &place.text, 64, SMALL, wanted, round, first);
                    self.handle(one, &place.text, 64, stored, SMALL, wanted, round, first);
                }
            }
            rows = wanted;
        }
    }

    /// Writes finished rows. Their numbers are greater than those of all rows before.
    fn finish(&self, one: &Contestant, place: &Place<'_>, from: u64, count: u64) {
        let to = from + count;
        let statements = self.runtime.block_on(queue(one.name, &place.text)).finished().unwrap();
        match one.database {
            Database::Sqlite => {
                let connection = rusqlite::Connection::open(&place.text).unwrap();
                connection.execute_batch("PRAGMA cache_size = -200000").unwrap();
                for first in (from..to).step_by(1_000_000) {
                    let last = (first + 1_000_000).min(to);
                    let batch = format!(
                        "CREATE TEMP TABLE generated AS
                            WITH RECURSIVE n (value) AS (SELECT {first} UNION ALL SELECT value + 1 FROM n WHERE value < {last} - 1)
                            SELECT value FROM n;
                        BEGIN IMMEDIATE; {statements}; COMMIT; DROP TABLE generated; PRAGMA wal_checkpoint(TRUNCATE)"
                    );
                    connection.execute_batch(&batch).unwrap();
                }
                connection.execute_batch("ANALYZE").unwrap();
            }
            _ => {
                let batch = format!(
                    "CREATE TEMP TABLE generated AS SELECT generate_series({from}::bigint, {to} - 1) AS value; {statements}"
                );
                self.sql(&place.name, &batch);
                self.sql(&place.name, "VACUUM ANALYZE");
            }
        }
    }

    /// The size of a database, in bytes.
    fn bytes(&self, place: &Place<'_>) -> f64 {
        match place.database {
            Database::Postgres => {
                self.query(&place.name, "SELECT pg_database_size(current_database())::float8")[0]
            }
            _ => fs::metadata(&place.text).map_or(0.0, |file| file.len() as f64),
        }
    }

    fn memory(&self) {
        for jobs in [1_000, 10_000, 100_000, 1_000_000] {
            for round in 0..self.options.rounds {
                for store in STORES {
                    let grown = numbers(&["remember", store, &jobs.to_string()]).unwrap()[0];
                    say(store, jobs, round, "bytes", grown);
                }
            }
        }
    }
}
