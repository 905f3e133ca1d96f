//! Requests as bytes, so that a test can send requests that no client would.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{PATH, TOKEN};

/// A request to a server.
#[derive(Clone)]
pub struct Draft {
    method: &'static str,
    target: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// Whether to declare the body's length.
    declared: bool,
}

/// The answer to a request.
#[derive(Debug, PartialEq)]
pub struct Reply {
    pub status: u16,
    /// All headers but the date, which is the server's.
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

/// A POST with the token, of JSON.
pub fn post(body: impl AsRef<[u8]>) -> Draft {
    Draft {
        method: "POST",
        target: format!("{PATH}?token={TOKEN}"),
        headers: vec![("content-type".into(), "application/json".into())],
        body: body.as_ref().to_vec(),
        declared: true,
    }
}

impl Draft {
    pub fn method(mut self, method: &'static str) -> Self {
        self.method = method;
        self
    }

    pub fn target(mut self, target: impl Into<String>) -> Self {
        self.target = target.into();
        self
    }

    pub fn query(self, query: &str) -> Self {
        self.target(format!("{PATH}{query}"))
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(other, _)| other != name);
        self
    }

    /// Omits the body's length; the test's own headers declare it.
    pub fn undeclared(mut self) -> Self {
        self.declared = false;
        self
    }

    pub fn head(&self) -> String {
        let mut head = format!("{} {} HTTP/1.1\r\nhost: test\r\n", self.method, self.target);
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        if self.declared && !self.body.is_empty() {
            head += &format!("content-length: {}\r\n", self.body.len());
        }
        head + "\r\n"
    }

    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The same request without a network, with another body.
    pub fn with_body<B>(&self, body: B) -> http::Request<B> {
        let mut request = http::Request::builder().method(self.method).uri(&self.target);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        request.body(body).unwrap()
    }

    pub async fn send(&self, address: SocketAddr) -> Reply {
        let mut connection = Connection::open(address).await;
        connection.write(self.head().as_bytes()).await;
        connection.write(&self.body).await;
        connection.read(self.method).await
    }
}

/// The body in chunks of a fixed size.
pub fn chunked(body: &[u8], size: usize) -> Vec<u8> {
    let mut text = Vec::new();
    for chunk in body.chunks(size) {
        text.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        text.extend_from_slice(chunk);
        text.extend_from_slice(b"\r\n");
    }
    text.extend_from_slice(b"0\r\n\r\n");
    text
}

pub struct Connection {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Connection {
    pub fn of(stream: TcpStream) -> Self {
        Self { stream, unread: Vec::new() }
    }

    pub async fn open(address: SocketAddr) -> Self {
        Self::of(TcpStream::connect(address).await.unwrap())
    }

    /// Writes as much as the server takes, which may have closed its side.
    pub async fn write(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
    }

    /// Closes our side for writing.
    pub async fn finish(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// Reads up to the end of the part that `found` finds, or to the end of the connection.
    async fn fill(&mut self, found: impl Fn(&[u8]) -> bool) -> bool {
        while !found(&self.unread) {
            let mut buffer = [0; 4096];
            let read = timeout(Duration::from_secs(20), self.stream.read(&mut buffer)).await;
            match read.expect("no answer for 20 seconds") {
                Ok(0) | Err(_) => return false,
                Ok(count) => self.unread.extend_from_slice(&buffer[..count]),
            }
        }
        true
    }

    /// Reads the next reply.
    pub async fn read(&mut self, method: &str) -> Reply {
        let end_of_head = |bytes: &[u8]| bytes.windows(4).position(|window| window == b"\r\n\r\n");
        assert!(
            self.fill(|bytes| end_of_head(bytes).is_some()).await,
            "the connection ended: {:?}",
            self.unread
        );
        let end = end_of_head(&self.unread).unwrap() + 4;
        let head = String::from_utf8(self.unread.drain(..end).collect()).unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: BTreeMap<String, String> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .filter(|(name, _)| name != "date")
            .collect();
        let length = match headers.get("content-length") {
            Some(length) if method != "HEAD" => length.parse().unwrap(),
            _ => 0,
        };
        assert!(self.fill(|bytes| bytes.len() >= length).await, "the body broke off");
        let body = String::from_utf8(self.unread.drain(..length).collect()).unwrap();
        Reply { status, headers, body }
    }

    /// Waits until the server has closed the connection, and returns the bytes that it still sent.
    pub async fn closed(&mut self) -> Vec<u8> {
        assert!(!self.fill(|_| false).await);
        std::mem::take(&mut self.unread)
    }
}
