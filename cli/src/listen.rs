//! `listen`: a server that shows what arrives, and answers as it is told to.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use clap::Args;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use humantime::format_rfc3339_seconds;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use qomplement_webhooks::event::Envelope;
use qomplement_webhooks::{JobId, SharedToken, WebhookReceiver, handler_fn};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::arguments::{address, http_url, number, time};
use crate::failure::{Failure, causes, root_cause};
use crate::output::{self, COLUMNS, Format, Line, clean, cut};
use crate::secret::{self, TokenArgs};
use crate::stop::stop;

/// Show webhooks as they arrive, and answer as you are told to
#[derive(Args)]
#[command(after_help = "\
Examples:
  qomplement-webhooks listen
  qomplement-webhooks listen --whole --type extract --status failed
  qomplement-webhooks listen --fail-first 2 --delay 1s
  qomplement-webhooks listen --forward http://127.0.0.1:8080/webhooks

Every path is listened to. Webhooks are checked and answered as a server with
this library would: 401 without the token, 400 or 422 for what is none, 200
otherwise. With WEBHOOK_TOKEN, --token-file or --token the token is required,
and is added to the URL of --forward unless that has one; without, anyone may
deliver. Filters say what is shown; all webhooks are answered and forwarded.

Shown are: the time of day (UTC), the answer, type, status, job, and which try
of the job it is. Requests that are refused are shown on standard error.

--format json prints one object a line:
  time, job_id, type, status: texts
  try, answer: numbers
  forwarded: the status of the other's answer; null without --forward, or if
    it was not reached
  body: the event")]
pub(crate) struct Listen {
    /// The port; 0 for any that is free
    #[arg(long, short, default_value_t = 3000, value_parser = |text: &str| number::<u16>(text, 0..=65535))]
    port: u16,

    /// The address: 0.0.0.0 for all of this machine's
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST), value_parser = address)]
    host: IpAddr,

    #[command(flatten)]
    token: TokenArgs,

    /// Show the whole body of each
    #[arg(long, conflicts_with = "format")]
    whole: bool,

    /// Only show events of this type, such as extract, fill_pdf or fill_excel; several with commas
    #[arg(long = "type", value_name = "TYPE", value_delimiter = ',')]
    types: Vec<String>,

    /// Only show events with this status, such as completed or failed; several with commas
    #[arg(long = "status", value_name = "STATUS", value_delimiter = ',')]
    statuses: Vec<String>,

    /// Answer the first tries of each job with 503
    #[arg(long, value_name = "TRIES", default_value_t = 0, value_parser = |text: &str| number::<u32>(text, 0..))]
    fail_first: u32,

    /// Wait before each answer, such as 500ms or 6s
    #[arg(long, value_name = "TIME", value_parser = time)]
    delay: Option<Duration>,

    /// Deliver each webhook to another URL, too, and answer what that answers
    #[arg(long, value_name = "URL")]
    forward: Option<String>,

    /// How to print webhooks
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// How many answers may wait to be shown.
const UNSHOWN: usize = 1024;
/// For how many jobs tries are counted.
const JOBS: usize = 100_000;

impl Listen {
    pub(crate) async fn run(self) -> Result<ExitCode, Failure> {
        let token = self.token.read()?;
        let is_open = token.is_none();
        let address = SocketAddr::new(self.host, self.port);
        let forward = self.forward(token.clone())?;
        let receiver = WebhookReceiver::builder(handler_fn(|_| async { Ok(()) }).with_unrecognized());
        let receiver = match token {
            Some(token) => receiver.token(token),
            None => receiver.unauthenticated(),
        };
        let receiver = receiver.build().map_err(|error| Failure::failed(causes(&error)))?;
        let listener = TcpListener::bind(address).await.map_err(|error| {
            let tip = match error.kind() {
                io::ErrorKind::AddrInUse => "Is another program there? Try another --port",
                io::ErrorKind::PermissionDenied => {
                    "Ports below 1024 are not for everyone: try another --port"
                }
                io::ErrorKind::AddrNotAvailable => "This machine has no such address: try another --host",
                _ => "Try another --host or --port",
            };
            Failure::failed(format!("cannot listen on {address}: {error}\n  {tip}"))
        })?;
        let address = listener.local_addr().unwrap_or(address);
        let mut stopped = std::pin::pin!(stop());
        output::note(format_args!("listening on http://{address}"));
        if is_open && !self.host.is_loopback() {
            output::warning("others can reach this address, and no token is required");
        }

        let (shown, mut to_show) = mpsc::channel(UNSHOWN);
        let server = Arc::new(Server {
            receiver,
            fail_first: self.fail_first,
            delay: self.delay,
            forward,
            tries: Mutex::default(),
            shown,
        });
        let (mut webhooks, mut refused) = (0, 0);
        loop {
            tokio::select! {
                () = &mut stopped => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => drop(tokio::spawn(server.clone().serve(TokioIo::new(stream)))),
                    // Such as too many open files: it passes when connections end.
                    Err(error) => {
                        output::warning(format_args!("a connection cannot be accepted: {error}"));
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
                Some(arrival) = to_show.recv() => match arrival {
                    Arrival::Refused(line) => {
                        refused += 1;
                        output::note(line);
                    }
                    Arrival::Webhook(webhook) => {
                        webhooks += 1;
                        self.show(&webhook);
                        // Nobody sees what would be acknowledged from now on.
                        if output::is_closed() && self.forward.is_none() {
                            return Ok(ExitCode::SUCCESS);
                        }
                    }
                },
            }
        }
        output::note(format_args!(
            "{}, {} refused",
            output::count(webhooks, "webhook", "webhooks"),
            output::count(refused, "request", "requests")
        ));
        Ok(ExitCode::SUCCESS)
    }

    fn forward(&self, token: Option<SharedToken>) -> Result<Option<Forward>, Failure> {
        let Some(url) = &self.forward else { return Ok(None) };
        const EXAMPLE: &str = "http://127.0.0.1:8080/webhooks";
        http_url("--forward", url, EXAMPLE)?;
        let url = secret::url_with_token("--forward", url, token)?;
        let url = http_url("--forward", &url, EXAMPLE)?;
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .timeout(Duration::from_secs(30))
            .build();
        let client = client.map_err(|error| Failure::failed(causes(&error)))?;
        Ok(Some(Forward { client, url }))
    }

    fn show(&self, webhook: &Webhook) {
        let Webhook { event, try_number, answer, forwarded } = webhook;
        let (job_type, status) = (event.job_type().as_str(), event.status().as_str());
        let wanted = |only: &[String], found| only.is_empty() || only.iter().any(|only| only == found);
        if !wanted(&self.types, job_type) || !wanted(&self.statuses, status) {
            return;
        }
        if self.format == Format::Json {
            let members = json!({
                "time": format_rfc3339_seconds(SystemTime::now()).to_string(),
                "job_id": event.job().to_string(),
                "type": job_type,
                "status": status,
                "try": try_number,
                "answer": answer.as_u16(),
                "forwarded": forwarded.as_ref().and_then(|forwarded| forwarded.as_ref().ok()).map(StatusCode::as_u16),
            });
            return output::json_with_body(&members, Some(event.body()));
        }
        let painted = Line::styled(answer.as_u16(), |text| match answer.is_success() {
            true => text.green(),
            false => text.red(),
        });
        let event_shown =
            format!("  {}  {}  {}", clean(job_type), clean(status), clean(&event.job().to_string()));
        let mut line = Line::from(now()).and("  ").and(painted).and(event_shown);
        let nth = (*try_number > 1).then(|| format!("try {try_number}"));
        let forwarded = forwarded.as_ref().map(|forwarded| match forwarded {
            Ok(status) => format!("forwarded: {}", status.as_u16()),
            Err(error) => format!("not forwarded: {error}"),
        });
        for more in nth.into_iter().chain(forwarded) {
            let space = if line.width() + 2 + more.len() > COLUMNS { "\n    " } else { "  " };
            line = line.and(space).and(clean(&more));
        }
        output::line(line);
        if self.whole {
            output::body(event.body(), "--format json");
        }
    }
}

/// The time of day.
fn now() -> String {
    let time = format_rfc3339_seconds(SystemTime::now()).to_string();
    time.split_once('T').map_or(time.as_str(), |(_, time)| time).to_owned()
}

struct Forward {
    client: reqwest::Client,
    url: reqwest::Url,
}

/// A webhook that was answered.
struct Webhook {
    event: Envelope,
    try_number: u32,
    answer: StatusCode,
    /// What the other answered, if it was asked.
    forwarded: Option<Result<StatusCode, String>>,
}

enum Arrival {
    Webhook(Box<Webhook>),
    /// A request that is no webhook, or has not the token.
    Refused(Line),
}

struct Server {
    receiver: WebhookReceiver,
    fail_first: u32,
    delay: Option<Duration>,
    forward: Option<Forward>,
    tries: Mutex<HashMap<JobId, u32>>,
    shown: mpsc::Sender<Arrival>,
}

impl Server {
    async fn serve(self: Arc<Self>, connection: TokioIo<tokio::net::TcpStream>) {
        let service = service_fn(|request| async { Ok::<_, Infallible>(self.answer(request).await) });
        // An error is the client's, which has left, or sent what is no HTTP.
        let _ = http1::Builder::new().timer(TokioTimer::new()).serve_connection(connection, service).await;
    }

    /// Answers as a server with this library would, unless told otherwise.
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let what = format!("{} {}", request.method(), request.uri().path());
        let copy = Arc::new(Mutex::new(BytesMut::new()));
        let response = self.receiver.receive(request.map(|body| Copied { body, copy: copy.clone() })).await;
        let body = std::mem::take(&mut *copy.lock().unwrap_or_else(PoisonError::into_inner)).freeze();
        let event = match Envelope::try_from(body) {
            Ok(event) if response.status().is_success() => event,
            _ => return self.refuse(&what, response).await,
        };

        let try_number = self.count(event.job());
        let (response, forwarded) = match &self.forward {
            _ if try_number <= self.fail_first => {
                (failure(StatusCode::SERVICE_UNAVAILABLE, "handler_failed"), None)
            }
            None => (response, None),
            Some(forward) => match forward.deliver(event.body()).await {
                Ok(response) => {
                    let status = response.status();
                    (response, Some(Ok(status)))
                }
                Err(error) => (failure(StatusCode::BAD_GATEWAY, "not_forwarded"), Some(Err(error))),
            },
        };
        let webhook = Webhook { event, try_number, answer: response.status(), forwarded };
        self.show(Arrival::Webhook(Box::new(webhook))).await;
        if let Some(delay) = self.delay {
            tokio::time::sleep(delay).await;
        }
        response
    }

    async fn refuse(&self, what: &str, response: Response<Full<Bytes>>) -> Response<Full<Bytes>> {
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap_or_else(|never| match never {}).to_bytes();
        let reply: Value = serde_json::from_slice(&body).unwrap_or_default();
        let code = reply["error"]["code"].as_str().unwrap_or_default();
        let status = Line::styled(parts.status.as_u16(), |text| text.red().for_stderr());
        let line = Line::from(now()).and("  ").and(status).and(format_args!(
            "  {}  {}",
            cut(what, 200),
            clean(code)
        ));
        self.show(Arrival::Refused(line)).await;
        Response::from_parts(parts, Full::new(body))
    }

    async fn show(&self, arrival: Arrival) {
        // If nobody shows it, we are about to end.
        let _ = self.shown.send(arrival).await;
    }

    /// Which try of a job this is, counted from 1.
    fn count(&self, job: &JobId) -> u32 {
        let mut tries = self.tries.lock().unwrap_or_else(PoisonError::into_inner);
        if tries.len() >= JOBS && !tries.contains_key(job) {
            tries.clear();
        }
        let tries = tries.entry(job.clone()).or_default();
        *tries = tries.saturating_add(1);
        *tries
    }
}

impl Forward {
    /// Delivers a body as it came.
    async fn deliver(&self, body: &Bytes) -> Result<Response<Full<Bytes>>, String> {
        let request =
            self.client.post(self.url.clone()).header(CONTENT_TYPE, "application/json").body(body.clone());
        // A URL can hold a token: errors go without it.
        let failed = |error: reqwest::Error| root_cause(&error.without_url());
        let answer = request.send().await.map_err(failed)?;
        let status = answer.status();
        let content_type = answer.headers().get(CONTENT_TYPE).cloned();
        let mut response = Response::new(Full::new(answer.bytes().await.map_err(failed)?));
        *response.status_mut() = status;
        response.headers_mut().extend(content_type.map(|value| (CONTENT_TYPE, value)));
        Ok(response)
    }
}

/// An answer in the form of the library's.
fn failure(status: StatusCode, code: &str) -> Response<Full<Bytes>> {
    let body = json!({"received": false, "error": {"code": code, "message": "qomplement-webhooks listen was told so"}});
    let mut response = Response::new(Full::new(body.to_string().into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(RETRY_AFTER, HeaderValue::from_static("5"));
    response
}

/// A body, of which a copy is kept while it is read.
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
