//! What AWS runs around a function: a gateway that makes events of requests, and the API from which the function takes
//! them.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use poem::http::StatusCode;
use poem::listener::TcpAcceptor;
use poem::{Request, Response};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

/// A function's process. It ends on drop.
pub struct Function(Child);

impl Drop for Function {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Gateway {
    events: mpsc::UnboundedSender<Value>,
    unhandled: tokio::sync::Mutex<mpsc::UnboundedReceiver<Value>>,
    /// The requests whose answers are awaited, by the ids of their events.
    waiting: Mutex<HashMap<String, oneshot::Sender<Value>>>,
    last: AtomicU64,
}

/// Starts the gateway and the function.
pub fn serve(listener: TcpListener, address: SocketAddr) -> Function {
    let (events, unhandled) = mpsc::unbounded_channel();
    let gateway =
        Gateway { events, unhandled: unhandled.into(), waiting: Mutex::default(), last: AtomicU64::new(1) };
    let gateway = Arc::new(gateway);
    let app = poem::endpoint::make(move |request| {
        let gateway = gateway.clone();
        async move { gateway.answer(request).await }
    });
    let acceptor = TcpAcceptor::from_tokio(listener).unwrap();
    tokio::spawn(poem::Server::new_with_acceptor(acceptor).run(app));
    let function = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "function", "--ignored"])
        .env("AWS_LAMBDA_RUNTIME_API", address.to_string())
        .env("AWS_LAMBDA_FUNCTION_NAME", "function")
        .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128")
        .env("AWS_LAMBDA_FUNCTION_VERSION", "1")
        .stdout(Stdio::null())
        .spawn();
    Function(function.unwrap())
}

impl Gateway {
    async fn answer(&self, request: Request) -> Response {
        match request.uri().path().strip_prefix("/2018-06-01/runtime/invocation/") {
            Some("next") => self.next().await,
            Some(path) => {
                self.handled(path.strip_suffix("/response").unwrap_or(path).to_owned(), request).await
            }
            None => self.forward(request).await,
        }
    }

    /// The function asks for an event.
    async fn next(&self) -> Response {
        let event = self.unhandled.lock().await.recv().await.unwrap();
        Response::builder()
            .header("lambda-runtime-aws-request-id", event["requestContext"]["requestId"].as_str().unwrap())
            .header("lambda-runtime-deadline-ms", "4102444800000")
            .header("lambda-runtime-invoked-function-arn", "arn:aws:lambda:eu-central-1:1:function:function")
            .body(event.to_string())
    }

    /// The function has handled an event.
    async fn handled(&self, id: String, request: Request) -> Response {
        let answer = request.into_body().into_bytes().await.unwrap();
        let waiting = self.waiting.lock().unwrap().remove(&id).unwrap();
        let _ = waiting.send(serde_json::from_slice(&answer).unwrap());
        Response::builder().status(StatusCode::ACCEPTED).finish()
    }

    /// A client sends a request.
    async fn forward(&self, request: Request) -> Response {
        let (parts, body) = request.into_parts();
        let body = body.into_bytes().await.unwrap();
        let mut headers: BTreeMap<String, String> = BTreeMap::new();
        for (name, value) in parts.headers.iter().filter(|(name, _)| *name != "transfer-encoding") {
            let value = value.to_str().unwrap();
            // A gateway sends one text for each name.
            headers
                .entry(name.to_string())
                .and_modify(|joined| *joined += &format!(",{value}"))
                .or_insert(value.into());
        }
        let (waiting, answer) = oneshot::channel();
        let id = self.last.fetch_add(1, Ordering::Relaxed).to_string();
        self.waiting.lock().unwrap().insert(id.clone(), waiting);
        let event = json!({
            "version": "2.0", "routeKey": "$default", "isBase64Encoded": true, "headers": headers,
            "rawPath": parts.uri.path(), "rawQueryString": parts.uri.query().unwrap_or_default(),
            "body": (!body.is_empty()).then(|| BASE64_STANDARD.encode(&body)),
            "requestContext": {
                "accountId": "1", "apiId": "api", "domainName": "api.test", "domainPrefix": "api",
                "http": {
                    "method": parts.method.as_str(), "path": parts.uri.path(), "protocol": "HTTP/1.1",
                    "sourceIp": "127.0.0.1", "userAgent": "",
                },
                "requestId": id, "routeKey": "$default", "stage": "$default",
                "time": "28/Nov/2026:20:00:00 +0000", "timeEpoch": 1_795_896_000_000_u64,
            },
        });
        self.events.send(event).unwrap();
        let answer = answer.await.unwrap();
        let mut response = Response::builder().status(
            StatusCode::from_u16(answer["statusCode"].as_u64().unwrap().try_into().unwrap()).unwrap(),
        );
        for (name, value) in answer["headers"].as_object().unwrap() {
            response = response.header(name, value.as_str().unwrap());
        }
        assert_eq!(answer["isBase64Encoded"], json!(false), "JSON is sent as text");
        response.body(answer["body"].as_str().unwrap_or_default().to_owned())
    }
}
