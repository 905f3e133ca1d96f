//! The receiver's cost in instructions, beside the same framework's bare handler and beside a handler that derives the
//! types. Stable from run to run, unlike time.
//!
//! ```sh
//! cargo bench --all-features --bench instructions            # needs valgrind; or: -- hyper, for one framework
//! ```
//!
//! The server is this program once more, under callgrind, with one connection. This process is the client and posts
//! webhooks of 393 bytes with distinct ids. Two runs with different numbers of webhooks are subtracted, so that the
//! start and the end of the program do not count. Without the kernel's instructions.
//!
//! For each of this crate's files, a table has the instructions of its functions and of the other crates' functions
//! that they call. A framework's own instructions are in none.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use self::callgrind::Profile;
use self::servers::{FRAMEWORKS, Kind};

#[path = "callgrind.rs"]
mod callgrind;
#[path = "served.rs"]
#[allow(dead_code)]
mod served;
#[path = "servers.rs"]
mod servers;
#[path = "typed.rs"]
mod typed;

const ID: &str = "550e8400-e29b-41d4-a716-446655440000";
/// The numbers of webhooks of the two runs.
///
/// The number doubles, so that the growth of the memory store's tables counts as often as it happens in the long run. Among
/// the first thousand webhooks, about half would be the first of one of its 1,024 shards.
const FEW: u32 = 2000;
const MANY: u32 = 4000;
/// Files that cost less than this are not listed.
const LISTED: f64 = 50.0;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", framework, kind] => serve(framework, Kind::named(kind)),
        ["--bench"] => compare(&FRAMEWORKS),
        [framework, "--bench"] => compare(&[framework]),
        // `cargo test --benches` only checks that the program runs.
        [] => {}
        _ => panic!("usage: instructions [FRAMEWORK]"),
    }
}

/// Serves until the standard input ends.
fn serve(framework: &str, kind: Kind) {
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    // One thread: with more, the instructions depend on which of them is awake.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(servers::serve(framework, kind));
}

/// Prints the tables of `benches/README.md`.
fn compare(frameworks: &[&str]) {
    let measured: Vec<_> = frameworks.iter().map(|framework| Measured::of(framework)).collect();
    println!("| instructions for a webhook of {} bytes | {} |", body().len(), frameworks.join(" | "));
    println!("|---{}|", "|---".repeat(frameworks.len()));
    let row = |name: &str, value: &dyn Fn(&Measured) -> f64| {
        let cells: Vec<_> = measured.iter().map(|one| figure(value(one))).collect();
        println!("| {name} | {} |", cells.join(" | "));
    };
    row("the bare handler", &|one| one.total(Kind::Bare));
    row("**the receiver's more than that**", &|one| one.more(Kind::Receiver, Kind::Bare));
    row("of these, the event of the body", &|one| one.more(Kind::Event, Kind::Bare));
    row("of these, the token", &|one| one.more(Kind::Receiver, Kind::Anyone));
    row("of these, everything else", &|one| one.more(Kind::Anyone, Kind::Event));
    row("derived types, without deduplication: more than the bare handler", &|one| {
        one.more(Kind::Typed, Kind::Bare)
    });
    row("a subscriber that only keeps the spans: more than the receiver", &|one| {
        one.more(Kind::Layer, Kind::Receiver)
    });
    row("**a subscriber that writes text**: more than the receiver", &|one| {
        one.more(Kind::Spans, Kind::Receiver)
    });
    row("the same without colours", &|one| one.more(Kind::Plain, Kind::Receiver));

    println!("\n| instructions of the receiver, by file | {} |", frameworks.join(" | "));
    println!("|---{}|", "|---".repeat(frameworks.len()));
    list(measured.iter().map(|one| one.profile(Kind::Receiver).by_file()).collect());

    println!("\n| more with a subscriber that writes text, by file | {} |", frameworks.join(" | "));
    println!("|---{}|", "|---".repeat(frameworks.len()));
    list(measured.iter().map(Measured::by_file_of_text).collect());
}

/// The profiles of a webhook in one framework.
struct Measured(Vec<(Kind, Profile)>);

impl Measured {
    fn of(framework: &str) -> Self {
        let kinds = Kind::ALL.into_iter().filter(|kind| *kind != Kind::Scan);
        Self(kinds.map(|kind| (kind, profile(framework, kind))).collect())
    }

    fn profile(&self, kind: Kind) -> &Profile {
        self.0.iter().find(|(other, _)| *other == kind).map(|(_, profile)| profile).unwrap()
    }

    fn total(&self, kind: Kind) -> f64 {
        self.profile(kind).total()
    }

    fn more(&self, more: Kind, less: Kind) -> f64 {
        self.total(more) - self.total(less)
    }

    fn by_file_of_text(&self) -> BTreeMap<String, f64> {
        let mut by_file = self.profile(Kind::Spans).by_file();
        for (file, less) in self.profile(Kind::Receiver).by_file() {
            *by_file.entry(file).or_default() -= less;
        }
        by_file
    }
}

/// Prints the rows of the files that cost anything in any framework, the most costly first.
fn list(frameworks: Vec<BTreeMap<String, f64>>) {
    let files: BTreeSet<&String> = frameworks.iter().flat_map(BTreeMap::keys).collect();
    let costs = |file: &String| -> Vec<f64> {
        frameworks.iter().map(|by_file| by_file.get(file).copied().unwrap_or_default()).collect()
    };
    let mut rows: Vec<(f64, &String)> =
        files.into_iter().map(|file| (costs(file).into_iter().fold(0.0, f64::max), file)).collect();
    rows.retain(|(most, _)| *most >= LISTED);
    rows.sort_by(|(left, _), (right, _)| right.total_cmp(left));
    for (_, file) in rows {
        let cells: Vec<_> = costs(file).into_iter().map(figure).collect();
        println!("| `{file}` | {} |", cells.join(" | "));
    }
}

/// A number with commas between its thousands.
fn figure(number: f64) -> String {
    let number = number.round() as i64;
    match number / 1000 {
        0 => number.to_string(),
        thousands => format!("{thousands},{:03}", (number % 1000).abs()),
    }
}

/// The profile of one webhook.
fn profile(framework: &str, kind: Kind) -> Profile {
    let [few, many] = [FEW, MANY].map(|webhooks| {
        let mut running = callgrind::start(&["serve", framework, kind.name()]);
        let mut address = String::new();
        BufReader::new(running.child.stdout.take().unwrap()).read_line(&mut address).unwrap();
        deliver(address.trim(), webhooks);
        running.profile()
    });
    many.of_one_more(few, MANY - FEW)
}

fn body() -> String {
    format!(
        concat!(
            r#"{{"job_id":"{id}","data":{{"id":"{id}","type":"extract","status":"completed","result":{{"#,
            r#""model":"qomplement-OCR-v1","document_type":"invoice","language":"en","confidence":95,"fields":{{"#,
            r#""invoice_number":"INV-2025-001234","total_amount":"1500.50","vendor_name":"ABC Corp"}},"tables":[],"#,
            r#""pages_processed":12,"processing_time_ms":45000}}}}}}"#,
        ),
        id = ID
    )
}

/// Posts webhooks one after another over one connection. All must be acknowledged.
fn deliver(address: &str, webhooks: u32) {
    let body = body();
    let mut request = format!(
        "POST {} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         user-agent: qomplement\r\naccept: */*\r\n\r\n{body}",
        served::path(),
        body.len(),
    );
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut last = ID.to_owned();
    let mut answer = [0; 4096];
    for number in 0..webhooks {
        // The ids differ in their first digits too, and are not in order.
        let id = format!("{:08x}{}", number.wrapping_mul(0x9e37_79b1), &ID[8..]);
        request = request.replace(&last, &id);
        last = id;
        stream.write_all(request.as_bytes()).unwrap();
        let mut length = 0;
        while !answer[..length].ends_with(b"}") {
            let read = stream.read(&mut answer[length..]).unwrap();
            assert!(read > 0, "the connection ended: {}", String::from_utf8_lossy(&answer[..length]));
            length += read;
        }
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer[..length]));
    }
}
