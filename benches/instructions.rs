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
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub)]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use self::servers::{FRAMEWORKS, Kind};

#[path = "served.rs"]
#[allow(dead_code)]
mod served;
#[path = "servers.rs"]
mod servers;
#[path = "typed.rs"]
mod typed;

const ID: &str = "550e8400-e29b-41d4-a716-446655440000";
/// The numbers of webhooks of the two runs.
const FEW: u32 = 200;
const MANY: u32 = 1200;
/// Functions that cost less than this are not listed.
const LISTED: f64 = 60.0;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", framework, kind] => serve(framework, Kind::named(kind)),
        ["--bench"] => FRAMEWORKS.iter().for_each(|framework| compare(framework)),
        [framework, "--bench"] => compare(framework),
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

fn compare(framework: &str) {
    println!("{framework}: instructions for a webhook of {} bytes", body().len());
    let costs = [Kind::Bare, Kind::Typed, Kind::Event, Kind::Anyone, Kind::Receiver, Kind::Spans]
        .map(|kind| (kind, cost(framework, kind)));
    let of = |kind| costs.iter().find(|(other, _)| *other == kind).map(|(_, costs)| costs).unwrap();
    let bare = of(Kind::Bare);
    for (kind, costs) in &costs {
        println!("    {:26} {:7.0}  {:+7.0}", kind.name(), total(costs), total(costs) - total(bare));
    }
    let between = |more, less| total(of(more)) - total(of(less));
    println!("  of the receiver's:");
    println!("    {:26} {:7.0}", "parsing", between(Kind::Event, Kind::Bare));
    println!("    {:26} {:7.0}", "the token", between(Kind::Receiver, Kind::Anyone));
    println!("    {:26} {:7.0}", "everything else", between(Kind::Anyone, Kind::Event));
    println!("  by function, over the bare handler's:");
    let receiver = of(Kind::Receiver);
    let mut functions: Vec<_> = receiver
        .iter()
        .map(|(function, cost)| (cost - bare.get(function).copied().unwrap_or_default(), function))
        .filter(|(cost, _)| *cost >= LISTED)
        .collect();
    functions.sort_by(|(left, _), (right, _)| right.total_cmp(left));
    for (cost, function) in functions {
        println!("    {cost:7.0}  {function}");
    }
}

/// Instructions for one request, by function.
type Costs = HashMap<String, f64>;

fn total(costs: &Costs) -> f64 {
    costs.values().sum()
}

fn cost(framework: &str, kind: Kind) -> Costs {
    let few = profile(framework, kind, FEW);
    let mut costs = profile(framework, kind, MANY);
    for (function, cost) in few {
        *costs.entry(function).or_default() -= cost;
    }
    costs.values_mut().for_each(|cost| *cost /= f64::from(MANY - FEW));
    costs
}

/// The instructions of a server that answers a number of webhooks, by function.
fn profile(framework: &str, kind: Kind, webhooks: u32) -> Costs {
    let file: PathBuf = std::env::temp_dir().join(format!("instructions.{}", std::process::id()));
    let mut server = Command::new("valgrind")
        .args(["--quiet", "--tool=callgrind"])
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(std::env::current_exe().unwrap())
        .args(["serve", framework, kind.name()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("valgrind is needed: apt-get install valgrind");
    let mut address = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut address).unwrap();
    deliver(address.trim(), webhooks);
    drop(server.stdin.take());
    assert!(server.wait().unwrap().success(), "the server did not end well");
    let costs = by_function(&file);
    std::fs::remove_file(&file).unwrap();
    costs
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

/// Reads the functions' own costs from callgrind's file, without those of the functions that they call.
fn by_function(file: &Path) -> Costs {
    let text = std::fs::read_to_string(file).unwrap();
    let mut names = HashMap::new();
    let (mut costs, mut function, mut is_call) = (Costs::new(), String::new(), false);
    for line in text.lines() {
        // A name is written once, `fn=(7) name`, and then only its number.
        if let Some(name) = line.strip_prefix("fn=").or_else(|| line.strip_prefix("cfn=")) {
            let (number, name) = name.split_once(' ').unwrap_or((name, ""));
            if !name.is_empty() {
                names.insert(number, name);
            }
            if line.starts_with("fn=") {
                function = names.get(number).copied().unwrap_or(number).to_owned();
            }
        } else if line.starts_with("calls=") {
            is_call = true;
        } else if line.starts_with(|first: char| first.is_ascii_digit() || "+-*".contains(first)) {
            let cost = line.split(' ').nth(1).and_then(|cost| cost.parse::<f64>().ok()).unwrap_or_default();
            if !std::mem::take(&mut is_call) {
                *costs.entry(function.clone()).or_default() += cost;
            }
        }
    }
    costs
}
