//! The server of `listen`: receives, forwards and answers requests.

use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use qomplement_webhooks::event::Envelope;
use qomplement_webhooks::{JobId, WebhookReceiver};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::causes::root_cause;

/// The most jobs whose deliveries are counted.
const JOBS: usize = 100_000;
/// The largest answer of the other server that is passed on.
const MOST_BYTES: usize = 16 << 20;

pub(super) struct Server {
    pub(super) receiver: WebhookReceiver,
    pub(super) fail_first: u32,
    pub(super) delay: Option<Duration>,
    pub(super) forwarder: Option<Forwarder>,
    pub(super) deliveries: Mutex<HashMap<JobId, u32>>,
    pub(super) arrivals: mpsc::Sender<Arrival>,
}

/// A request to show.
pub(super) enum Arrival {
    Webhook(Box<Webhook>),
    Refused(Refused),
}

/// A webhook with its answer.
pub(super) struct Webhook {
    pub(super) event: Envelope,
    /// The number of this delivery of the job's event, from 1.
    pub(super) delivery: u32,
    pub(super) answer: StatusCode,
    /// The answer to the forwarded webhook, or the error; `None` if it was not forwarded.
    pub(super) forwarded: Option<Result<StatusCode, String>>,
}

/// A request that is not a webhook, or has not the token.
pub(super) struct Refused {
    /// The method and the path, without the query, which can hold a token.
    pub(super) request: String,
    pub(super) answer: StatusCode,
    pub(super) code: String,
}

impl Server {
    pub(super) async fn serve(self: Arc<Self>, connection: TcpStream) {
        let service = service_fn(|request| async { Ok::<_, Infallible>(self.answer(request).await) });
        // An error comes from the client: it disconnected, or sent something other than HTTP.
        let connection = TokioIo::new(connection);
        let _ = http1::Builder::new().timer(TokioTimer::new()).serve_connection(connection, service).await;
    }

    /// Answers as the library's receiver does, unless `--fail-first` or `--forward` decides.
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let line = format!("{} {}", request.method(), request.uri().path());
        let copy = Arc::new(Mutex::new(BytesMut::new()));
        let response = self.receiver.receive(request.map(|body| Copied { body, copy: copy.clone() })).await;
        let body = std::mem::take(&mut *copy.lock().unwrap_or_else(PoisonError::into_inner)).freeze();
        let event = match Envelope::try_from(body) {
            Ok(event) if response.status().is_success() => event,
            _ => return self.refuse(line, response).await,
        };

        let delivery = self.count(event.job());
        let (response, forwarded) = match &self.forwarder {
            _ if delivery <= self.fail_first => {
                (error_response(StatusCode::SERVICE_UNAVAILABLE, "handler_failed", "--fail-first"), None)
            }
            None => (response, None),
            Some(forwarder) => match forwarder.deliver(event.body()).await {
                Ok(response) => {
                    let status = response.status();
                    (response, Some(Ok(status)))
                }
                Err(error) => {
                    let response = error_response(StatusCode::BAD_GATEWAY, "not_forwarded", "--forward");
                    (response, Some(Err(error)))
                }
            },
        };
        let webhook = Webhook { event, delivery, answer: response.status(), forwarded };
        self.show(Arrival::Webhook(Box::new(webhook))).await;
        if let Some(delay) = self.delay {
            tokio::time::sleep(delay).await;
        }
        response
    }

    async fn refuse(&self, request: String, response: Response<Full<Bytes>>) -> Response<Full<Bytes>> {
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap_or_else(|never| match never {}).to_bytes();
        let json: Value = serde_json::from_slice(&body).unwrap_or_default();
        let code = json["error"]["code"].as_str().unwrap_or_default().to_owned();
        self.show(Arrival::Refused(Refused { request, answer: parts.status, code })).await;
        Response::from_parts(parts, Full::new(body))
    }

    async fn show(&self, arrival: Arrival) {
        // The receiver is gone only when the command ends.
        let _ = self.arrivals.send(arrival).await;
    }

    /// Counts a delivery of a job's event. Returns its number, from 1.
    fn count(&self, job: &JobId) -> u32 {
        let mut deliveries = self.deliveries.lock().unwrap_or_else(PoisonError::into_inner);
        if deliveries.len() >= JOBS && !deliveries.contains_key(job) {
            deliveries.clear();
        }
        let count = deliveries.entry(job.clone()).or_default();
        *count = count.saturating_add(1);
        *count
    }
}

/// Delivers webhooks to another server.
pub(super) struct Forwarder {
    pub(super) client: reqwest::Client,
    pub(super) url: reqwest::Url,
}

impl Forwarder {
    /// Delivers a body unchanged, and returns the answer to pass on.
    async fn deliver(&self, body: &Bytes) -> Result<Response<Full<Bytes>>, String> {
        let request =
            self.client.post(self.url.clone()).header(CONTENT_TYPE, "application/json").body(body.clone());
        // Without the URL, which can hold a token.
        let cause = |error: reqwest::Error| root_cause(&error.without_url());
        let mut answer = request.send().await.map_err(cause)?;
        let status = answer.status();
        let content_type = answer.headers().get(CONTENT_TYPE).cloned();
        let mut body = BytesMut::new();
        while let Some(chunk) = answer.chunk().await.map_err(cause)? {
            if chunk.len() > MOST_BYTES - body.len() {
                return Err(format!("the answer has more than {MOST_BYTES} bytes"));
            }
            body.extend_from_slice(&chunk);
        }
        let mut response = Response::new(Full::new(body.freeze()));
        *response.status_mut() = status;
        response.headers_mut().extend(content_type.map(|value| (CONTENT_TYPE, value)));
        Ok(response)
    }
}

/// An answer in the library's form, because of an option.
fn error_response(status: StatusCode, code: &str, option: &str) -> Response<Full<Bytes>> {
    let message = format!("the answer of qomplement-webhooks listen {option}");
    let body = json!({"received": false, "error": {"code": code, "message": message}});
    let mut response = Response::new(Full::new(body.to_string().into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(RETRY_AFTER, HeaderValue::from_static("5"));
    response
}

/// A body that keeps a copy of all data read from it.
struct Copied {
    body: Incoming,
    copy: Arc<Mutex<BytesMut>>,
}

impl Body for Copied {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            self.copy.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(data);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
