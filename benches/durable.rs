//! Durable acknowledgements over HTTP, beside the same rows written by hand.
//!
//! ```sh
//! cargo bench --all-features --bench durable                # or: -- sqlite, -- postgres
//! ```
//!
//! The server is this program once more; `wrk` (from the package of that name) posts webhooks of 393 bytes with
//! distinct ids over 64 connections. "By hand" is one thread that commits the same number of rows, 64 at a time, without
//! HTTP; the number matters, since rows get slower as a table grows. "Without a store" is a server that reads the body
//! and answers a static 200. `wrk`, the server and the database share the machine's cores.
//!
//! At half the load, webhooks come at a steady rate, and an answer's time counts from the time its webhook was due.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::{any, post};
use bytes::Bytes;
use qomplement_webhooks::event::Envelope;
use qomplement_webhooks::{PostgresInbox, SqliteInbox, WebhookReceiver};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_postgres::NoTls;

use self::by_hand::{Folder, events, middle};
use self::served::{Cores, Served};

#[path = "by_hand.rs"]
#[allow(dead_code)]
mod by_hand;
#[path = "served.rs"]
#[allow(dead_code)]
mod served;
#[path = "../tests/it/support/databases.rs"]
#[allow(dead_code)]
mod server;

const CONNECTIONS: usize = 64;
const ROUNDS: u64 = 5;
const SECONDS: u64 = 3;
const ANSWER: &str = r#"{"received":true}"#;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", database] => serve(database),
        ["--bench"] => {
            sqlite();
            postgres();
        }
        ["sqlite", "--bench"] => sqlite(),
        ["postgres", "--bench"] => postgres(),
        // `cargo test --benches` only checks that the program runs.
        [] => {}
        _ => panic!("usage: durable [sqlite|postgres]"),
    }
}

#[tokio::main]
async fn serve(database: &str) {
    // No worker runs, so the default limits would be reached.
    let route = match database {
        "nothing" => post(|body: Bytes| async move {
            std::hint::black_box(body);
            ANSWER
        }),
        url if url.contains("://") => {
            let inbox = PostgresInbox::from_url(url).unwrap().max_unfinished_rows(u64::MAX);
            inbox.migrate().await.unwrap();
            any(WebhookReceiver::durable(inbox).token(served::token()).build().unwrap())
        }
        file => {
            let inbox = SqliteInbox::builder(file).max_unfinished_rows(u64::MAX).open().unwrap();
            any(WebhookReceiver::durable(inbox).token(served::token()).build().unwrap())
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    axum::serve(listener, Router::new().route("/webhook", route)).await.unwrap();
}

fn sqlite() {
    let folder = Folder::new();
    let url = |round: u64| folder.file(&format!("http-{round}")).display().to_string();
    compare("SqliteInbox", url, |round, events| {
        let file = folder.file(&format!("hand-{round}"));
        drop(SqliteInbox::open(&file).unwrap());
        let began = Instant::now();
        by_hand::sqlite(&file, events);
        began.elapsed()
    });
}

fn postgres() {
    let server = server::Server::postgres(&["max_wal_size=4GB"], &[]);
    let runtime = Runtime::new().unwrap();
    let client = runtime.block_on(async {
        let inbox = PostgresInbox::from_url(&server.url()).unwrap().with_table("by_hand", "inbox").unwrap();
        inbox.migrate().await.unwrap();
        let (client, connection) = tokio_postgres::connect(&server.url(), NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    });
    compare(
        "PostgresInbox",
        |_| server.url(),
        |_, events| {
            let began = Instant::now();
            runtime.block_on(by_hand::postgres(&client, "by_hand.inbox", events));
            began.elapsed()
        },
    );
}

/// Measures a receiver, a server without a store and rows by hand in turns, since the machine's speed varies.
fn compare(store: &str, url: impl Fn(u64) -> String, by_hand: impl Fn(u64, &[Envelope]) -> Duration) {
    let (mut durable, mut bare, mut hand, mut times) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let server = Served::start(Cores::Shared, &[&url(round)]);
        durable.push(server.load(CONNECTIONS, SECONDS, false) / SECONDS as f64);
        times.extend(answer_times(server.address(), middle(durable.clone()) / 2.0, round));
        drop(server);
        let server = Served::start(Cores::Shared, &["nothing"]);
        bare.push(server.load(CONNECTIONS, SECONDS, false) / SECONDS as f64);
        drop(server);
        let rows = durable.last().map_or(0, |a_second| *a_second as u64 * SECONDS);
        let events = events(round << 32..(round << 32) + rows, 0);
        hand.push(rows as f64 / by_hand(round, &events).as_secs_f64());
    }
    times.sort();
    let at = |part: f64| times[(times.len() as f64 * part) as usize];
    let of = |rate: fn(f64, f64) -> f64| {
        let rates = bare.iter().zip(&hand).map(|(bare, hand)| rate(*bare, *hand));
        middle(durable.iter().zip(rates).map(|(durable, rate)| durable / rate).collect())
    };
    let (of_hand, of_both) = (of(|_, hand| hand), of(|bare, hand| 1.0 / (1.0 / bare + 1.0 / hand)));
    println!(
        "{store}, a second: durable {:.0}, by hand {:.0}, without a store {:.0}",
        middle(durable),
        middle(hand),
        middle(bare)
    );
    println!("    {of_hand:.2} of by hand, {of_both:.2} of these two one after the other");
    println!("    at half that load: p50 {:.2?}, p99 {:.2?}, p99.9 {:.2?}", at(0.5), at(0.99), at(0.999));
}

/// The times of the answers at a steady number of webhooks a second.
fn answer_times(address: SocketAddr, rate: f64, round: u64) -> Vec<Duration> {
    let each = Duration::from_secs_f64(CONNECTIONS as f64 / rate);
    let requests = SECONDS * rate as u64 / CONNECTIONS as u64;
    let requests: Vec<Vec<_>> = (0..CONNECTIONS as u64)
        .map(|connection| {
            let first = (1 + round * CONNECTIONS as u64 + connection) << 32;
            events(first..first + requests, 0).iter().map(request).collect()
        })
        .collect();
    // Threads, since tokio's timers have a resolution of one millisecond.
    let began = Instant::now() + Duration::from_millis(200);
    let threads: Vec<_> = requests
        .into_iter()
        .enumerate()
        .map(|(connection, requests)| {
            let mut due = began + each * connection as u32 / CONNECTIONS as u32;
            thread::spawn(move || {
                let mut stream = TcpStream::connect(address).unwrap();
                stream.set_nodelay(true).unwrap();
                let mut times = Vec::new();
                for request in requests {
                    thread::sleep(due.saturating_duration_since(Instant::now()));
                    stream.write_all(&request).unwrap();
                    read_answer(&mut stream);
                    times.push(due.elapsed());
                    due += each;
                }
                times
            })
        })
        .collect();
    threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
}

fn request(event: &Envelope) -> Vec<u8> {
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        served::path(),
        event.body().len()
    );
    [head.as_bytes(), event.body()].concat()
}

fn read_answer(stream: &mut TcpStream) {
    let (mut answer, mut read) = ([0; 512], 0);
    while !answer[..read].ends_with(ANSWER.as_bytes()) {
        let more = stream.read(&mut answer[read..]).unwrap();
        assert!(more > 0, "not acknowledged: {}", String::from_utf8_lossy(&answer[..read]));
        read += more;
    }
}
