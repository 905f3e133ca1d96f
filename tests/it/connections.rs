//! Connections that stall, break off, are used again, or speak HTTP/2.

use std::time::Duration;

use http::{HeaderMap, HeaderValue};

use crate::answers::{RECEIVED, body, builder, expected};
use crate::support::http::{Connection, post};
use crate::support::servers::{Framework, Server};
use crate::support::{Call, FaultyStore, Script, TOKEN};

#[tokio::test]
async fn a_connection_serves_many_requests_and_closes_after_an_unread_body() {
    for framework in Framework::ALL {
        eprintln!("{framework:?}");
        let script = Script::default();
        let server = Server::start(framework, builder(&script).build().unwrap()).await;
        let mut connection = Connection::open(server.address).await;
        // Pipelined: all are written before the first is answered.
        let mut requests = Vec::new();
        for _ in 0..3 {
            let (request, body) = (body(), body());
            requests.extend_from_slice(post(&request).head().as_bytes());
            requests.extend_from_slice(&request);
            requests.extend_from_slice(
                post(&body)
                    .query("")
                    .head()
                    .replace("POST", "GET")
                    .replace("content-length", "x-length")
                    .as_bytes(),
            );
        }
        connection.write(&requests).await;
        for _ in 0..3 {
            assert_eq!(connection.read("POST").await, expected(200, "", true));
            assert_eq!(connection.read("GET").await, expected(405, "method_not_allowed", true));
        }
        assert_eq!(script.runs(), 3);
        // What is left of an unread body must not be taken for the next request.
        let smuggled = post(body());
        connection.write(post(smuggled.head()).query("").head().as_bytes()).await;
        connection.write(smuggled.head().as_bytes()).await;
        assert_eq!(connection.read("POST").await, expected(401, "unauthorized", false));
        assert_eq!(connection.closed().await, b"", "the rest of the body was answered");
        assert_eq!(script.runs(), 3);
    }
}

#[tokio::test]
async fn a_100_continue_is_sent_only_when_the_body_is_wanted() {
    for framework in Framework::ALL {
        eprintln!("{framework:?}");
        let script = Script::default();
        let server = Server::start(framework, builder(&script).build().unwrap()).await;
        let content = body();
        let request = post(&content).header("expect", "100-continue");
        let mut connection = Connection::open(server.address).await;
        connection.write(request.head().as_bytes()).await;
        assert_eq!(connection.read("POST").await.status, 100);
        connection.write(&content).await;
        assert_eq!(connection.read("POST").await, expected(200, "", true));

        let mut connection = Connection::open(server.address).await;
        connection.write(request.query("?token=wrong").head().as_bytes()).await;
        if framework == Framework::ActixWeb {
            // Says so to everyone by itself, before any handler is called. The body is not read.
            assert_eq!(connection.read("POST").await.status, 100);
        }
        assert_eq!(
            connection.read("POST").await,
            expected(401, "unauthorized", false),
            "the body was asked for"
        );
    }
}

#[tokio::test]
async fn a_body_that_stalls_or_breaks_off_is_answered_and_handled_by_nobody() {
    for framework in Framework::ALL {
        eprintln!("{framework:?}");
        let (script, store) = (Script::default(), FaultyStore::new());
        let deadline = Duration::from_millis(450);
        let receiver = builder(&script).dedup_store(store.clone()).ack_deadline(deadline).build().unwrap();
        let server = Server::start(framework, receiver).await;
        let content = body();
        let mut stalled = Connection::open(server.address).await;
        stalled.write(post(&content).head().as_bytes()).await;
        stalled.write(&content[..100]).await;
        assert_eq!(stalled.read("POST").await, expected(408, "body_timeout", false));
        assert_eq!(stalled.closed().await, b"", "more than the answer came");

        // Cut off by the client: between two chunks, or before the declared length.
        let chunked = post("").undeclared().header("transfer-encoding", "chunked");
        let beginning = [format!("{:x}\r\n", content.len()).as_bytes(), &content, b"\r\n"].concat();
        for (head, sent) in [(post(&content).head(), &content[..100]), (chunked.head(), &beginning[..])] {
            let mut broken = Connection::open(server.address).await;
            broken.write(head.as_bytes()).await;
            broken.write(sent).await;
            broken.finish().await;
            let rest = String::from_utf8_lossy(&broken.closed().await).into_owned();
            assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 400"), "{rest}");
        }

        let garbled = post(b"zz\r\n").undeclared().header("transfer-encoding", "chunked");
        assert_eq!(garbled.send(server.address).await, expected(400, "invalid_json", false));
        assert_eq!((script.runs(), store.calls(Call::Claim)), (0, 0), "half a body was handled");
        assert_eq!(
            post(content).send(server.address).await,
            expected(200, "", true),
            "the server has survived"
        );
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_before_it_has_come() {
    for framework in Framework::ALL {
        eprintln!("{framework:?}");
        let script = Script::default();
        let server = Server::start(framework, builder(&script).build().unwrap()).await;
        let mut declared = Connection::open(server.address).await;
        declared.write(post(vec![b' '; 2001]).head().as_bytes()).await;
        assert_eq!(
            declared.read("POST").await,
            expected(413, "body_too_large", false),
            "declared, and not yet sent"
        );

        let mut streamed = Connection::open(server.address).await;
        streamed.write(post("").undeclared().header("transfer-encoding", "chunked").head().as_bytes()).await;
        streamed.write(format!("bb8\r\n{}\r\n", " ".repeat(3000)).as_bytes()).await;
        assert_eq!(
            streamed.read("POST").await,
            expected(413, "body_too_large", false),
            "streamed, and not at its end"
        );
    }
}

#[tokio::test]
async fn over_http2_the_answer_is_the_same_without_a_connection_header() {
    for framework in Framework::ALL {
        eprintln!("{framework:?}");
        let script = Script::default();
        let server = Server::start(framework, builder(&script).build().unwrap()).await;
        let client = reqwest::Client::builder().http2_prior_knowledge().no_proxy().build().unwrap();
        let url = server.url();
        let good = client.post(format!("{url}?token={TOKEN}")).body(body()).send().await.unwrap();
        assert_eq!((good.version(), good.status().as_u16()), (http::Version::HTTP_2, 200));
        assert_eq!(good.text().await.unwrap(), RECEIVED);
        let refused = client.post(&url).body(body()).send().await.unwrap();
        assert_eq!(refused.status(), 401);
        assert!(!refused.headers().contains_key("connection"));
        assert_eq!(refused.text().await.unwrap(), expected(401, "unauthorized", false).body);
    }
}

/// actix-web takes up to 16 MiB of headers. hyper, which serves the others, refuses more than 16 KiB by itself.
#[tokio::test]
async fn over_http2_more_headers_than_a_map_of_http_holds_are_refused_by_actix_web() {
    let script = Script::default();
    let server = Server::start(Framework::ActixWeb, builder(&script).build().unwrap()).await;
    // One for each request: actix-web may close a connection after such an answer.
    let client = || reqwest::Client::builder().http2_prior_knowledge().no_proxy().build().unwrap();
    let url = format!("{}?token={TOKEN}", server.url());
    let mut headers = HeaderMap::new();
    for _ in 0..24_577 {
        headers.append("x", HeaderValue::from_static("1"));
    }
    let refused = client().post(&url).headers(headers).send().await.unwrap();
    assert_eq!((refused.status().as_u16(), script.runs()), (431, 0));
    let good = client().post(&url).body(body()).send().await.unwrap();
    assert_eq!((good.status().as_u16(), script.runs()), (200, 1));
}

/// actix-web closes the connection too, and leaves the header out: to close is the default of HTTP/1.0.
#[tokio::test]
async fn over_http1_0_an_unread_body_closes_the_connection_and_actix_web_does_not_say_so() {
    for framework in Framework::ALL {
        eprintln!("{framework:?}");
        let server = Server::start(framework, builder(&Script::default()).build().unwrap()).await;
        let request = post(body()).query("");
        let keeping = request.clone().header("connection", "keep-alive");
        let mut replies = Vec::new();
        for request in [request, keeping] {
            let mut connection = Connection::open(server.address).await;
            connection.write(request.head().replace("HTTP/1.1", "HTTP/1.0").as_bytes()).await;
            connection.write(request.body()).await;
            replies.push(connection.read("POST").await);
            assert_eq!(connection.closed().await, b"", "the connection was kept");
        }
        let mut answer = expected(401, "unauthorized", false);
        if framework == Framework::ActixWeb {
            answer.headers.remove("connection");
        }
        assert_eq!(replies[0], answer);
        assert_eq!(
            (replies[1].status, &replies[1].body),
            (401, &answer.body),
            "it wants to keep the connection"
        );
    }
}
