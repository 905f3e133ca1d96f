//! The client: posts webhooks over a number of connections, each as soon as the one before it was answered.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use octoevents::{Verifier, WebhookSecret};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::webhook::{Bodies, github, id};
use crate::{PATH, SECRET};

/// The time before answers count.
const WARM_UP: Duration = Duration::from_millis(500);

struct Requests {
    head: String,
    bodies: Option<Bodies>,
    rest: String,
}

impl Requests {
    fn new(github_body: bool, bytes: usize) -> Self {
        if github_body {
            let body = github(bytes);
            let signature = Verifier::new(WebhookSecret::new(SECRET)).sign(body.as_bytes());
            let head = format!(
                "POST /webhook HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
                 x-github-event: issues\r\nx-hub-signature-256: {signature}\r\nx-github-delivery: ",
                body.len()
            );
            return Self { head, bodies: None, rest: format!("\r\n\r\n{body}") };
        }
        let bodies = Bodies::new(bytes);
        let head = format!(
            "POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            bodies.len()
        );
        Self { head, rest: bodies.rest().to_owned(), bodies: Some(bodies) }
    }

    async fn send(&self, stream: &mut TcpStream, id: &str) -> io::Result<()> {
        let start = match &self.bodies {
            Some(bodies) => bodies.start(id),
            None => id.to_owned(),
        };
        if self.rest.len() < 64 << 10 {
            return stream.write_all([&self.head, &start, &*self.rest].concat().as_bytes()).await;
        }
        stream.write_all([&*self.head, &start].concat().as_bytes()).await?;
        stream.write_all(self.rest.as_bytes()).await
    }
}

/// Reads an answer, and returns whether it acknowledges.
async fn answer(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<bool> {
    buffer.clear();
    loop {
        if stream.read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = str::from_utf8(&buffer[..end]).unwrap();
        let body = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .map_or(0, |length| length.parse::<usize>().unwrap());
        if buffer.len() >= end + 4 + body {
            return Ok(head.starts_with("HTTP/1.1 2"));
        }
    }
}

/// Posts for some seconds. Prints the number of acknowledged webhooks, those of the warm-up too, then those a second, p50 and
/// p99 in seconds, and the number that were not acknowledged.
#[tokio::main(flavor = "current_thread")]
pub async fn run(address: &str, connections: u64, seconds: f64, bytes: usize, first: u64, github_body: bool) {
    let requests: &'static Requests = Box::leak(Box::new(Requests::new(github_body, bytes)));
    let began = Instant::now();
    let counted = began + WARM_UP;
    let end = counted + Duration::from_secs_f64(seconds);
    let tasks: Vec<_> = (0..connections)
        .map(|connection| {
            let address = address.to_owned();
            tokio::spawn(async move {
                let (mut times, mut acknowledged, mut failed) = (Vec::<u32>::new(), 0u64, 0u64);
                let mut stream = TcpStream::connect(address).await.unwrap();
                stream.set_nodelay(true).unwrap();
                let mut buffer = Vec::with_capacity(1024);
                let mut number = first + connection;
                loop {
                    let asked = Instant::now();
                    if asked >= end {
                        break (times, acknowledged, failed);
                    }
                    requests.send(&mut stream, &id(number)).await.unwrap();
                    let is_acknowledged = answer(&mut stream, &mut buffer).await.unwrap();
                    let answered = Instant::now();
                    number += connections;
                    if !is_acknowledged {
                        if failed == 0 {
                            let _ = io::stderr().write_all(&buffer);
                        }
                        failed += 1;
                        continue;
                    }
                    acknowledged += 1;
                    if (counted..end).contains(&answered) {
                        times.push((answered - asked).as_micros() as u32);
                    }
                }
            })
        })
        .collect();
    let (mut times, mut acknowledged, mut failed) = (Vec::new(), 0, 0);
    for task in tasks {
        let of_task = task.await.unwrap();
        times.extend(of_task.0);
        acknowledged += of_task.1;
        failed += of_task.2;
    }
    times.sort_unstable();
    let at =
        |part: f64| times.get((times.len() as f64 * part) as usize).map_or(0.0, |&time| time as f64 / 1e6);
    let a_second = times.len() as f64 / seconds;
    println!("{acknowledged} {a_second} {} {} {failed}", at(0.5), at(0.99));
}
