//! The pipeline: what happens to a request, in order.

mod body;
mod builder;
mod claims;
mod detach;
mod durable;
mod inline;
mod known;
mod reply;

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request, Response};
use http_body::Body;
use http_body_util::Full;
use tokio::runtime::Handle;
use tokio::time::Instant;
use tracing::{Instrument, Span, debug, error, field, warn};

use self::body::{BodyLimits, ReadBody};
pub use self::builder::{BuildError, WebhookReceiverBuilder};
use self::detach::{Answer, Detachable};
use self::durable::Durable;
use self::inline::Inline;
use self::reply::{BodyRead, Reply};
use crate::auth::{Access, Authenticator, SharedToken};
use crate::error::{BoxError, chain};
use crate::event::{Envelope, JobId, ParseError, WebhookEvent};
use crate::execution::drain::{Drain, UnderWay};
use crate::execution::isolation::{call, isolate};
use crate::handler::WebhookHandler;
use crate::inbox::InboxStore;
use crate::registry::JobRegistry;
use crate::telemetry;

/// Receives webhooks: authenticates, reads, parses, deduplicates, runs your handler, and answers.
///
/// Cheap to clone; all clones are one receiver. Mount it with the integration of your web framework,
/// for all methods of one path, or hand it requests yourself with [`receive`](Self::receive).
///
/// It needs a tokio runtime, of either kind, when a request comes in. What outlives its request, because
/// the handler takes longer than the ack deadline or the client has left, goes on in that runtime:
/// await [`shutdown`](Self::shutdown) before the runtime ends.
///
/// # Examples
///
/// ```
/// use qomplement_webhooks::{handler_fn, SharedToken, WebhookEvent, WebhookReceiver};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let token = SharedToken::generate()?;
/// let receiver = WebhookReceiver::builder(handler_fn(|event: WebhookEvent| async move {
///     println!("{} {}", event.name(), event.job().id());
///     Ok(())
/// }))
/// .token(token.clone())
/// .build()?;
///
/// let body = r#"{"job_id": "job-7", "data": {"id": "job-7", "type": "extract", "status": "failed"}}"#;
/// let request = http::Request::post(format!("/webhook?token={}", token.expose())).body(body.to_owned())?;
/// assert_eq!(receiver.receive(request).await.status(), 200);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct WebhookReceiver {
    inner: Arc<Inner>,
}

struct Inner {
    authentication: Authentication,
    body_limits: BodyLimits,
    known_jobs: Option<Box<dyn JobRegistry>>,
    ack_deadline: Duration,
    drain: Arc<Drain>,
    mode: Mode,
}

/// What an acknowledgement says.
#[derive(Debug)]
enum Mode {
    /// The handler has finished.
    Inline(Arc<Inline>),
    /// The event is stored.
    Durable(Arc<Durable>),
}

/// What is to be done with a body that was read.
enum Work {
    Handle(Arc<Inline>, Box<WebhookEvent>),
    Store(Arc<Durable>, Envelope),
}

/// Who may deliver webhooks.
enum Authentication {
    Token(SharedToken),
    Custom(Box<dyn Authenticator>),
    Anyone,
}

/// The times that belong to one request.
#[derive(Clone, Copy)]
struct Deadlines {
    entered: Instant,
    body: Instant,
    ack: Instant,
}

impl WebhookReceiver {
    /// Starts to configure a receiver that answers when the handler has finished.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # use qomplement_webhooks::auth::TokenError;
    /// # use qomplement_webhooks::receiver::BuildError;
    /// # use qomplement_webhooks::{handler_fn, SharedToken, WebhookReceiver};
    /// # fn configure() -> Result<WebhookReceiver, Box<dyn std::error::Error>> {
    /// # let handler = handler_fn(|_| async { Ok(()) });
    /// let receiver = WebhookReceiver::builder(handler)
    ///     .token(SharedToken::from_env("WEBHOOK_TOKEN")?)
    ///     .max_handler_time(Duration::from_secs(60))
    ///     .build()?;
    /// # Ok(receiver) }
    /// ```
    pub fn builder(handler: impl WebhookHandler) -> WebhookReceiverBuilder {
        WebhookReceiverBuilder::inline(Box::new(handler))
    }

    /// Starts to configure a receiver that answers when the event is stored; an
    /// [`InboxWorker`](crate::InboxWorker) handles it.
    ///
    /// # Examples
    ///
    /// ```
    /// # use qomplement_webhooks::{handler_fn, InboxWorker, MemoryInbox, SharedToken, Verification, WebhookReceiver};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let handler = handler_fn(|_| async { Ok(()) });
    /// # let token = SharedToken::generate()?;
    /// let inbox = MemoryInbox::new(); // for tests; `SqliteInbox` and `PostgresInbox` keep what they acknowledge
    /// let receiver = WebhookReceiver::durable(inbox.clone()).token(token).build()?;
    /// let worker = InboxWorker::new(inbox, handler, Verification::Trust).start();
    /// # worker.shutdown(std::time::Duration::ZERO).await;
    /// # Ok(()) }
    /// ```
    pub fn durable(inbox: impl InboxStore) -> WebhookReceiverBuilder {
        WebhookReceiverBuilder::durable(Box::new(inbox))
    }

    /// Answers one request.
    ///
    /// Total: whatever the request, the handler, the stores or the body's stream do, there is an
    /// answer, at the ack deadline at the latest. The [guide](crate::guide::answers) lists the answers.
    ///
    /// Of the body of a request that is refused by its head, and of a body that is too large, what still comes
    /// is taken and discarded before the answer, up to 2 MiB and for up to a second, since many clients read
    /// no answer before they have written all. Nothing of it is kept or counted. A client that waits for `100
    /// Continue` has its answer at once.
    ///
    /// # Cancel safety
    ///
    /// Once the body has been read, dropping the future stops nothing: the remainder goes on in the
    /// runtime, and its outcome is recorded. Before, nothing has been done.
    pub async fn receive<B>(&self, request: Request<B>) -> Response<Full<Bytes>>
    where
        B: Body,
        B::Error: Into<BoxError>,
    {
        let (parts, body) = request.into_parts();
        let (reply, read) = self.reply(&parts, body).await;
        reply.response(parts.version, read)
    }

    /// Checks the method and the authentication of a request whose body has yet to be read: for a
    /// framework that cannot hand over the body as a stream. On an error, send the response and keep
    /// nothing of the body; otherwise read the body and call [`receive_parts`](Self::receive_parts).
    ///
    /// A client that writes its whole request before it reads sees the response only if the server takes what
    /// it writes: [`receive`](Self::receive) discards up to 2 MiB of a refused body, for up to a second, unless
    /// the request has `Expect: 100-continue`. Do the same, or leave it to the server, before the response
    /// closes the connection.
    ///
    /// # Errors
    ///
    /// The answer, when the request may not deliver webhooks.
    pub async fn authenticate(&self, parts: &Parts) -> Result<(), Response<Full<Bytes>>> {
        let deadlines = self.deadlines();
        match self.admit(parts, deadlines).await {
            Ok(_) => Ok(()),
            Err(refusal) => {
                let reply = answered(deadlines, std::future::ready(Err(refusal))).await;
                Err(reply.response(parts.version, BodyRead::NotWhole))
            }
        }
    }

    /// Answers one request whose body has been read: what [`receive`](Self::receive) does, the
    /// authentication included. The ack deadline counts from here.
    ///
    /// # Cancel safety
    ///
    /// As with [`receive`](Self::receive).
    pub async fn receive_parts(&self, parts: &Parts, body: Bytes) -> Response<Full<Bytes>> {
        let (reply, _) = self.reply(parts, Full::new(body)).await;
        reply.response(parts.version, BodyRead::Whole)
    }

    /// Shuts the receiver down: refuses new webhooks with 503, waits up to `grace` for those under way,
    /// then drops the handlers that still run and releases their claims, so that the sender's next try
    /// runs them elsewhere at once. Returns how many were dropped.
    ///
    /// Give it at least the ack deadline. It takes up to a second longer than `grace`. Await it before
    /// the runtime ends; on a server that drops unfinished work when it stops, before the server stops.
    pub async fn shutdown(&self, grace: Duration) -> usize {
        self.inner.drain.finish(grace).await
    }

    fn deadlines(&self) -> Deadlines {
        let entered = Instant::now();
        let ack = self.inner.ack_deadline;
        Deadlines { entered, body: entered + ack * 7 / 9, ack: entered + ack }
    }

    /// The pipeline: each step has its answers, and the first that has one ends it.
    async fn reply<B>(&self, parts: &Parts, body: B) -> (Reply, BodyRead)
    where
        B: Body,
        B::Error: Into<BoxError>,
    {
        let mut read = if body.is_end_stream() { BodyRead::Whole } else { BodyRead::NotWhole };
        let mut body = pin!(body);
        let deadlines = self.deadlines();
        let limits = &self.inner.body_limits;
        let reply = async {
            let under_way = self.admit(parts, deadlines).await?;
            body::check_headers(&parts.headers, limits)?;
            // Also if it panics. A body that has failed is not looked into again.
            read = BodyRead::Broken;
            let whole = pin!(body::read(body.as_mut(), limits, deadlines.body));
            // A body that came after the shutdown would have its handler begin then.
            let whole = self.inner.drain.unless_aborted(whole).await.unwrap_or(Err(Reply::Unavailable));
            let whole = whole.inspect_err(|refusal| {
                if matches!(refusal, Reply::BodyTooLarge | Reply::Unavailable) {
                    read = BodyRead::NotWhole;
                }
            })?;
            read = BodyRead::Whole;
            self.work(whole, under_way, deadlines).await
        };
        let reply = answered(deadlines, pin!(reply)).await;
        if read == BodyRead::NotWhole {
            body::discard(body, &parts.headers, limits, deadlines.ack).await;
        }
        (reply, read)
    }

    /// Lets a request in that may deliver webhooks.
    async fn admit(&self, parts: &Parts, deadlines: Deadlines) -> Result<UnderWay, Reply> {
        if parts.method != Method::POST {
            return Err(Reply::MethodNotAllowed);
        }
        let access = match &self.inner.authentication {
            Authentication::Anyone => Access::Granted,
            Authentication::Token(token) => token.check(parts),
            Authentication::Custom(authenticator) => {
                call(|| deadlines.ack, authenticator.authenticate(parts)).await.map_err(|error| {
                    error!(error = %chain(&error), "the request cannot be authenticated");
                    Reply::Unavailable
                })?
            }
        };
        match access {
            Access::Denied => Err(Reply::Unauthorized),
            Access::Granted => self.inner.drain.enter().ok_or(Reply::Unavailable),
        }
    }

    /// Does what outlives the request: everything after its body was read.
    async fn work(&self, body: ReadBody, under_way: UnderWay, deadlines: Deadlines) -> Result<Reply, Reply> {
        let work = self.inner.mode.read(body.bytes).map_err(|error| {
            warn!(error = %chain(&error), "the body is no webhook");
            Reply::from(&error)
        })?;
        let span = Span::current();
        span.record(telemetry::JOB_ID, field::display(work.job()));
        if let Work::Handle(_, event) = &work {
            span.record(telemetry::EVENT, event.name());
        }
        let runtime = Handle::try_current().map_err(|error| {
            error!(%error, "webhooks can only be handled in a tokio runtime");
            Reply::Unavailable
        })?;

        let inner = self.inner.clone();
        let answer = Answer::due_at(deadlines.ack);
        let detachable = Detachable::new(answer.clone(), runtime, async move {
            let reply = inner.finish(work, &answer).await;
            drop((body.room, under_way));
            reply
        });
        Ok(detachable.await)
    }
}

impl Mode {
    /// Reads a body as far as is needed.
    fn read(&self, body: Bytes) -> Result<Work, ParseError> {
        Ok(match self {
            Self::Inline(inline) => Work::Handle(inline.clone(), Box::new(WebhookEvent::try_from(body)?)),
            Self::Durable(durable) => Work::Store(durable.clone(), Envelope::try_from(body)?),
        })
    }
}

impl Work {
    fn job(&self) -> &JobId {
        match self {
            Self::Handle(_, event) => event.job().id(),
            Self::Store(_, event) => event.job(),
        }
    }
}

impl Inner {
    async fn finish(&self, work: Work, answer: &Answer) -> Reply {
        if let Some(registry) = &self.known_jobs {
            let known = pin!(known::check(&**registry, work.job(), answer.deadline()));
            match self.drain.unless_aborted(known).await {
                Some(Ok(())) => {}
                Some(Err(reply)) => return reply,
                None => return Reply::Unavailable,
            }
        }
        match work {
            Work::Handle(inline, event) => inline.handle(event, answer).await,
            Work::Store(durable, event) => durable.store(&event, answer).await,
        }
    }
}

/// Runs a request to its answer, in its span, and reports it.
async fn answered(deadlines: Deadlines, reply: impl Future<Output = Result<Reply, Reply>> + Unpin) -> Reply {
    let span = telemetry::span();
    async {
        let reply = isolate(reply).await.unwrap_or_else(|panicked| {
            error!(%panicked, "the request was not received to the end");
            Err(Reply::Unavailable)
        });
        let (Ok(reply) | Err(reply)) = reply;
        let (outcome, status) = (reply.outcome(), reply.status().as_u16());
        let span = Span::current();
        span.record(telemetry::OUTCOME, outcome);
        span.record(telemetry::STATUS, status);
        if reply.status().is_success() {
            debug!("webhook acknowledged");
        } else {
            warn!("webhook not acknowledged");
        }
        telemetry::request(outcome, deadlines.entered);
        reply
    }
    .instrument(span)
    .await
}

impl fmt::Debug for WebhookReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookReceiver")
            .field("authentication", &self.inner.authentication)
            .field("known_jobs", &self.inner.known_jobs.is_some())
            .field("ack_deadline", &self.inner.ack_deadline)
            .field("mode", &self.inner.mode)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Authentication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Token(_) => "token",
            Self::Custom(_) => "authenticator",
            Self::Anyone => "unauthenticated",
        })
    }
}
