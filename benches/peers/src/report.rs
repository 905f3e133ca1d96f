//! Tables and pictures from the measured values.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use crate::chart::{Bar, Panel, Series, bars, lines, short};
use crate::contestants::{ALL, Database};
use crate::memory::STORES;

/// The values of one part, by contestant, x and metric; one for each round.
struct Part {
    /// How it was measured: date, state and machine.
    made: String,
    values: BTreeMap<(String, u64, String), BTreeMap<u64, f64>>,
}

/// The median, the least and the greatest.
#[derive(Clone, Copy)]
struct Spread(f64, f64, f64);

impl Part {
    fn read(folder: &Path, part: &str) -> Option<Self> {
        let text = fs::read_to_string(folder.join(format!("{part}.tsv"))).ok()?;
        let (mut made, mut values) = (String::new(), BTreeMap::new());
        for line in text.lines() {
            if let Some(comment) = line.strip_prefix("# ") {
                made = comment.to_owned();
                continue;
            }
            let fields: Vec<_> = line.split('\t').collect();
            let [contestant, x, round, metric, value] = fields[..] else { panic!("{part}: {line}") };
            let key = (contestant.to_owned(), x.parse().unwrap(), metric.to_owned());
            let rounds: &mut BTreeMap<u64, f64> = values.entry(key).or_default();
            rounds.insert(round.parse().unwrap(), value.parse().unwrap());
        }
        Some(Self { made, values })
    }

    fn rounds(&self, contestant: &str, x: u64, metric: &str) -> Option<&BTreeMap<u64, f64>> {
        self.values.get(&(contestant.to_owned(), x, metric.to_owned()))
    }

    fn get(&self, contestant: &str, x: u64, metric: &str) -> Option<Spread> {
        spread(self.rounds(contestant, x, metric)?.values().copied().collect())
    }

    /// The quotients of two values within each round.
    fn ratio(&self, above: &str, below: &str, x: u64, metric: &str) -> Option<Spread> {
        let below = self.rounds(below, x, metric)?;
        let above = self.rounds(above, x, metric)?;
        spread(above.iter().filter_map(|(round, value)| Some(value / below.get(round)?)).collect())
    }

    fn xs(&self) -> Vec<u64> {
        let mut xs: Vec<u64> = self.values.keys().map(|(_, x, _)| *x).collect();
        xs.sort_unstable();
        xs.dedup();
        xs
    }

    fn panel(&self, title: &str, x: &str, metric: &str) -> Panel {
        let series = ALL.iter().enumerate().filter_map(|(colour, one)| {
            let points: Vec<_> = self
                .xs()
                .into_iter()
                .filter_map(|x| Some((x as f64, self.get(one.name, x, metric)?.0)))
                .collect();
            let is_ours = one.name.starts_with("ours");
            (!points.is_empty()).then(|| Series { name: one.name.to_owned(), is_ours, colour, points })
        });
        Panel { title: title.to_owned(), x: x.to_owned(), series: series.collect() }
    }
}

fn spread(mut values: Vec<f64>) -> Option<Spread> {
    values.sort_by(f64::total_cmp);
    Some(Spread(*values.get(values.len() / 2)?, *values.first()?, *values.last()?))
}

/// A whole number with its thousands apart.
fn whole(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn rate(spread: Option<Spread>) -> String {
    spread.map_or_else(String::new, |Spread(middle, low, high)| {
        format!("{} ({} to {})", whole(middle), short(low), short(high))
    })
}

fn milliseconds(spread: Option<Spread>) -> String {
    spread.map_or_else(String::new, |Spread(middle, ..)| {
        let middle = middle * 1e3;
        if middle < 10.0 { format!("{middle:.2}") } else { format!("{middle:.0}") }
    })
}

fn microseconds(server: Option<Spread>, database: Option<Spread>) -> String {
    match (server, database) {
        (Some(server), Some(database)) => format!("{:.0} + {:.0}", server.0, database.0),
        (Some(server), None) => format!("{:.0}", server.0),
        _ => String::new(),
    }
}

fn bold(name: &str) -> String {
    if name.starts_with("ours") { format!("**{name}**") } else { name.to_owned() }
}

fn acknowledged(part: &Part) -> String {
    let mut table = "| | 64: acks a second | p50, p99 (ms) | CPU (µs) | 256: acks a second | p50, p99 (ms) | CPU (µs) |\n".to_owned();
    table += "|---|---|---|---|---|---|---|\n";
    for one in ALL {
        let cells = [64, 256].map(|x| {
            let get = |metric| part.get(one.name, x, metric);
            let times = format!("{}, {}", milliseconds(get("p50")), milliseconds(get("p99")));
            format!("{} | {times} | {}", rate(get("acks")), microseconds(get("cpu"), get("database cpu")))
        });
        writeln!(table, "| {} | {} |", bold(one.name), cells.join(" | ")).unwrap();
    }
    for name in ["raw batches, SQLite", "raw batches, PostgreSQL"] {
        let cells = [64, 256].map(|x| format!("{} | | ", rate(part.get(name, x, "acks"))));
        writeln!(table, "| {name} | {} |", cells.join(" | ")).unwrap();
    }
    table
}

fn handled(part: &Part) -> String {
    let mut table = "| | 64 at once: events a second | CPU of the worker (µs) | 256 at once: events a second | CPU (µs) |\n".to_owned();
    table += "|---|---|---|---|---|\n";
    for one in ALL.iter().filter(|one| one.database != Database::Nothing) {
        let cells = [64, 256].map(|x| {
            let database = part.get(one.name, x, "worker database cpu");
            let cpu = microseconds(part.get(one.name, x, "worker cpu"), database);
            format!("{} | {cpu}", rate(part.get(one.name, x, "handled")))
        });
        writeln!(table, "| {} | {} |", bold(one.name), cells.join(" | ")).unwrap();
    }
    table
}

/// What a webhook costs PostgreSQL.
fn costs(part: &Part) -> String {
    let mut table = "| 64 at once | log of an ack (bytes) | whole pages in it | log of a handled event | whole pages in it | updates of a row | of them HOT |\n".to_owned();
    table += "|---|---|---|---|---|---|---|\n";
    for one in ALL.iter().filter(|one| one.database == Database::Postgres) {
        let get = |metric| part.get(one.name, 64, metric).map_or(f64::NAN, |spread| spread.0);
        writeln!(
            table,
            "| {} | {} | {:.2} | {} | {:.2} | {:.2} | {:.2} |",
            bold(one.name),
            whole(get("ack wal")),
            get("ack full pages"),
            whole(get("event wal")),
            get("event full pages"),
            get("updates"),
            get("hot updates"),
        )
        .unwrap();
    }
    table
}

const MINUTE: f64 = 1e6 / 60.0;

/// The costs of ours in PostgreSQL, and those of a million webhooks a minute.
fn scaling(part: &Part, bytes_of_a_row: Option<f64>) -> Option<(String, String)> {
    let get = |metric| Some(part.get("ours, PostgreSQL", 64, metric)?.0);
    let (receiver, worker) = (get("cpu")?, get("worker cpu")?);
    let (ack, event) = (get("database cpu")?, get("worker database cpu")?);
    let (ack_log, event_log) = (get("ack wal")?, get("event wal")?);
    let (dead, hot) = (get("dead tuples")?, get("hot updates")? / get("updates")?);
    let row = bytes_of_a_row.map_or_else(String::new, |bytes| {
        format!("| disk: a done row with its body and indexes | {} bytes |\n", whole(bytes))
    });
    let costs = format!(
        "{}
| | |
|---|---|
| receiver: processor time to acknowledge one | {receiver:.0} µs |
| PostgreSQL: processor time to store one | {ack:.0} µs |
| worker: processor time to handle one | {worker:.0} µs |
| PostgreSQL: processor time to lease and settle one | {event:.0} µs |
| log to store one, with whole pages | {} bytes |
| log to lease and settle one, with whole pages | {} bytes |
{row}| dead versions of rows, before vacuum | {dead:.1}, with {:.0} % of the updates HOT |
",
        made(part),
        whole(ack_log),
        whole(event_log),
        hot * 100.0,
    );
    let cores = |microseconds: f64| format!("{:.1} cores", microseconds * MINUTE / 1e6);
    let disk = bytes_of_a_row.map_or_else(String::new, |bytes| {
        let hour = bytes * 1e6 * 60.0 / 1e9;
        format!("| disk for an hour of finished rows; for the default retention of bodies, 7 days | {hour:.0} GB; {:.1} TB |\n", hour * 24.0 * 7.0 / 1e3)
    });
    let million = format!(
        "| | |
|---|---|
| all receivers together | {} |
| all workers together, without the handlers' own work | {} |
| PostgreSQL | {} |
| its log | {:.0} MB a second |
{disk}",
        cores(receiver),
        cores(worker),
        cores(ack + event),
        (ack_log + event_log) * MINUTE / 1e6,
    );
    Some((costs, million))
}

/// The aims, and whether they are reached.
fn aims(part: &Part) -> String {
    let aims = [
        ("ours, SQLite", "sqlx, SQLite", 6.0),
        ("ours, SQLite", "raw batches, SQLite", 0.75),
        ("ours, PostgreSQL", "sqlx, PostgreSQL", 4.0),
        ("ours, PostgreSQL", "raw batches, PostgreSQL", 0.5),
    ];
    let mut table =
        "| acks a second | of | aim | at 64 connections | at 256 |\n|---|---|---|---|---|\n".to_owned();
    for (above, below, aim) in aims {
        let cells = [64, 256].map(|x| match part.ratio(above, below, x, "acks") {
            Some(Spread(middle, low, high)) => {
                let met = if middle >= aim { "met" } else { "**missed**" };
                format!("{middle:.2} ({low:.2} to {high:.2}), {met}")
            }
            None => String::new(),
        });
        writeln!(table, "| {above} | {below} | {aim} | {} |", cells.join(" | ")).unwrap();
    }
    table
}

/// A table of one metric: contestants down, x across.
fn grown(part: &Part, metric: &str, unit: &str) -> String {
    let xs = part.xs();
    let mut table = format!("| {unit} |");
    for x in &xs {
        write!(table, " {} |", short(*x as f64)).unwrap();
    }
    table = format!("{table}\n|---|{}\n", "---|".repeat(xs.len()));
    for one in ALL {
        let cells: Vec<_> = xs
            .iter()
            .map(|x| part.get(one.name, *x, metric).map_or_else(String::new, |spread| whole(spread.0)))
            .collect();
        if cells.iter().any(|cell| !cell.is_empty()) {
            writeln!(table, "| {} | {} |", bold(one.name), cells.join(" | ")).unwrap();
        }
    }
    table
}

fn memory(part: &Part) -> (String, String) {
    let mut table =
        "| bytes of memory for a job, of | 1k | 10k | 100k | 1M |\n|---|---|---|---|---|\n".to_owned();
    let mut series = Vec::new();
    for (index, store) in STORES.iter().enumerate() {
        let xs = part.xs();
        let each = |x: &u64| part.get(store, *x, "bytes").map_or(0.0, |bytes| bytes.0 / *x as f64);
        let cells: Vec<_> = xs.iter().map(|x| format!("{:.0}", each(x))).collect();
        writeln!(table, "| `{store}` | {} |", cells.join(" | ")).unwrap();
        let points = xs.iter().filter_map(|x| Some((*x as f64, part.get(store, *x, "bytes")?.0))).collect();
        let is_ours = index == 0;
        series.push(Series { name: (*store).to_owned(), is_ours, colour: [3, 5, 7][index], points });
    }
    let panel = Panel { title: "resident bytes".to_owned(), x: "remembered jobs".to_owned(), series };
    (table, lines("Memory against remembered jobs", &[panel]))
}

/// The bars of one metric at 64 connections, the highest first.
fn group(part: &Part, title: &str, metric: &str) -> (String, Vec<Bar>) {
    let mut bars: Vec<Bar> = ALL
        .iter()
        .enumerate()
        .filter(|(_, one)| one.database != Database::Nothing)
        .filter_map(|(colour, one)| {
            let Spread(value, low, high) = part.get(one.name, 64, metric)?;
            let is_ours = one.name.starts_with("ours");
            Some(Bar { name: one.name.to_owned(), is_ours, colour, value, spread: (low, high) })
        })
        .collect();
    bars.sort_by(|one, other| other.value.total_cmp(&one.value));
    (title.to_owned(), bars)
}

/// Replaces the text between `<!-- NAME -->` and `<!-- end of NAME -->`.
fn replace(text: &mut String, name: &str, new: &str) {
    let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- end of {name} -->"));
    let (Some(from), Some(to)) = (text.find(&begin), text.find(&end)) else {
        eprintln!("the document has no place for: {name}");
        return;
    };
    text.replace_range(from + begin.len()..to, &format!("\n{new}\n"));
}

fn made(part: &Part) -> String {
    format!("Measured {}.\n", part.made)
}

/// Writes the tables into the documents, and the pictures into their folder.
pub fn run(folder: &str, document: &str, guide: &str, pictures: &str) {
    let (folder, pictures) = (Path::new(folder), Path::new(pictures));
    let mut text = fs::read_to_string(document).unwrap();
    let save =
        |name: &str, picture: String| fs::write(pictures.join(format!("{name}.svg")), picture).unwrap();
    let queues = Part::read(folder, "queues");
    let finished = Part::read(folder, "finished");
    let row = finished.as_ref().and_then(|part| {
        let x = *part.xs().last()?;
        Some(part.get("ours, PostgreSQL", x, "bytes of a row")?.0)
    });
    if let Some((costs, million)) = queues.as_ref().and_then(|part| scaling(part, row)) {
        let mut text = fs::read_to_string(guide).unwrap();
        replace(&mut text, "costs", &costs);
        replace(&mut text, "million", &million);
        fs::write(guide, text).unwrap();
    }
    if let Some(part) = queues {
        let tables = [made(&part), acknowledged(&part), handled(&part), aims(&part), costs(&part)];
        replace(&mut text, "queues", &tables.join("\n"));
        let groups = [
            group(&part, "acknowledged webhooks a second, 64 connections", "acks"),
            group(&part, "handled events a second, 64 at once, empty handler", "handled"),
        ];
        save("queues", bars("Durable receivers and workers on one machine with two cores", &groups));
    }
    for (name, title, x) in [
        ("connections", "Speed against connections (and handlers at once)", "connections, handlers at once"),
        ("sizes", "Speed against the size of a body, 16 connections", "bytes of a body"),
        ("finished", "Speed beside finished rows, 64 connections", "finished rows"),
    ] {
        let Some(part) = Part::read(folder, name) else { continue };
        let panels = [
            part.panel("acknowledged webhooks a second", x, "acks"),
            part.panel("handled events a second", x, "handled"),
        ];
        save(name, lines(title, &panels));
        let mut tables = vec![
            made(&part),
            grown(&part, "acks", "acks a second"),
            grown(&part, "handled", "handled a second"),
        ];
        if name == "finished" {
            tables.push(grown(&part, "bytes of a row", "bytes on the disk for a row"));
        }
        replace(&mut text, name, &tables.join("\n"));
    }
    if let Some(part) = Part::read(folder, "memory") {
        let (table, picture) = memory(&part);
        replace(&mut text, "memory", &[made(&part), table].join("\n"));
        save("memory", picture);
    }
    fs::write(document, text).unwrap();
}
