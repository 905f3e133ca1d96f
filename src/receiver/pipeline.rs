//! The steps from a request to its reply.

use std::future::{poll_fn, ready};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use http::request::Parts;
use http_body::Body;
use tokio::runtime::Handle;
use tokio::time::Instant;
use tracing::{Span, debug, error, warn};

use super::authentication::Authentication;
use super::body::{self, BodyLimits, ReadBody};
use super::delivery::{Delivery, Detachable};
use super::reply::{BodyRead, WebhookReply};
use super::work::{Mode, Work};
use super::{headers, known};
use crate::auth::Access;
use crate::error::{BoxError, chain};
use crate::event::TraceParent;
use crate::execution::drain::{Drain, UnderWay};
use crate::execution::isolation::isolate;
use crate::registry::JobRegistry;
use crate::telemetry;

/// The settings and shared state of one receiver.
pub(super) struct Pipeline {
    pub(super) authentication: Authentication,
    pub(super) body_limits: BodyLimits,
    pub(super) known_jobs: Option<Box<dyn JobRegistry>>,
    /// The longest time from a request's entry to the end of its body.
    pub(super) body_time: Duration,
    /// The longest time from a request's entry to its answer.
    pub(super) ack_time: Duration,
    pub(super) drain: Arc<Drain>,
    pub(super) mode: Mode,
}

/// The times of one request.
#[derive(Clone, Copy)]
struct Deadlines {
    entered: Instant,
    body: Instant,
    ack: Instant,
}

impl Pipeline {
    fn deadlines(&self) -> Deadlines {
        let entered = Instant::now();
        Deadlines { entered, body: entered + self.body_time, ack: entered + self.ack_time }
    }

    /// Checks a request's head, and reports the request only if it is refused.
    pub(super) async fn authenticate(&self, parts: &Parts) -> Result<(), WebhookReply> {
        let deadlines = self.deadlines();
        match self.admit(parts, deadlines.ack).await {
            Ok(_) => Ok(()),
            Err(refusal) => Err(reported(&telemetry::span(), deadlines.entered, ready(Err(refusal))).await),
        }
    }

    /// Runs a request through all steps. A step that refuses the request ends the pipeline.
    pub(super) async fn reply<B>(self: &Arc<Self>, parts: &Parts, body: B) -> (WebhookReply, BodyRead)
    where
        B: Body,
        B::Error: Into<BoxError>,
    {
        // Set before each call of the body, so that it holds after a panic too. A failed body is not polled again.
        let mut read = BodyRead::Broken;
        let mut has_begun = false;
        let mut body = pin!(body);
        let (deadlines, span) = (self.deadlines(), telemetry::span());
        let limits = &self.body_limits;
        let reply = async {
            read = if body.is_end_stream() { BodyRead::Whole } else { BodyRead::NotWhole };
            let under_way = self.admit(parts, deadlines.ack).await?;
            let traceparent = headers::read(&parts.headers, limits.max_bytes)?;
            (read, has_begun) = (BodyRead::Broken, true);
            let whole = body::read(body.as_mut(), limits, deadlines.body, &self.drain).await;
            let whole = whole.inspect_err(|refusal| {
                if matches!(refusal, WebhookReply::BodyTooLarge | WebhookReply::Unavailable) {
                    read = BodyRead::NotWhole;
                }
            })?;
            read = BodyRead::Whole;
            Ok(self.process(traceparent, whole, under_way, deadlines.ack, &span)?.await)
        };
        let reply = reported(&span, deadlines.entered, pin!(reply)).await;
        // A client that waits for `100 Continue` sends nothing before the first read, which makes the server send that.
        if read == BodyRead::NotWhole && (has_begun || !headers::waits_for_continue(&parts.headers)) {
            body::discard(body, limits, deadlines.ack).await;
        }
        (reply, read)
    }

    /// Checks the method and the authentication, and counts the request as under way.
    async fn admit(&self, parts: &Parts, deadline: Instant) -> Result<UnderWay, WebhookReply> {
        if parts.method != Method::POST {
            return Err(WebhookReply::MethodNotAllowed);
        }
        match self.authentication.check(parts, deadline).await {
            Ok(Access::Granted) => self.drain.enter().ok_or(WebhookReply::Unavailable),
            Ok(Access::Denied) => Err(WebhookReply::Unauthorized),
            Err(error) => {
                error!(error = %chain(&error), "the authenticator failed; answering 503");
                Err(WebhookReply::Unavailable)
            }
        }
    }

    /// Parses the body, and returns its work, which outlives the request if necessary.
    fn process(
        self: &Arc<Self>,
        traceparent: Option<TraceParent>,
        body: ReadBody,
        under_way: UnderWay,
        deadline: Instant,
        span: &Span,
    ) -> Result<Detachable, WebhookReply> {
        let mut work = self.mode.parse(body.bytes).map_err(|error| {
            warn!(error = %chain(&error), "the body is not a webhook");
            WebhookReply::from(&error)
        })?;
        telemetry::record_event(span, work.job(), work.event_name(), traceparent.as_ref());
        work.set_traceparent(traceparent);
        let runtime = Handle::try_current().map_err(|error| {
            error!(%error, "the receiver was called outside a tokio runtime; answering 503");
            WebhookReply::Unavailable
        })?;

        let (claim, span) = (work.claim(), span.clone());
        let delivery = Arc::new(Delivery::new(claim, deadline, runtime, span, body.in_flight, under_way));
        let (pipeline, shared) = (self.clone(), delivery.clone());
        let work = async move {
            if let Some(registry) = &pipeline.known_jobs {
                let known = pin!(known::check(&**registry, work.job(), delivery.deadline));
                match pipeline.drain.unless_aborted(known).await {
                    Some(Ok(())) => {}
                    Some(Err(reply)) => return reply,
                    None => return WebhookReply::Unavailable,
                }
            }
            // By reference: an event is large to move from future to future.
            match &mut work {
                Work::Handle(inline, event) => inline.handle(event, &delivery).await,
                Work::Store(durable, event) => durable.store(event, &delivery).await,
            }
        };
        Ok(Detachable::new(shared, work))
    }
}

/// Runs a request to its reply inside the request's span, and reports it to log and metrics.
async fn reported(
    span: &Span,
    entered: Instant,
    reply: impl Future<Output = Result<WebhookReply, WebhookReply>> + Unpin,
) -> WebhookReply {
    let mut reply = isolate(reply);
    poll_fn(move |context| {
        // Not `Instrumented`, which enters the span once more when it is dropped.
        let _within = span.enter();
        Pin::new(&mut reply).poll(context).map(|reply| {
            let (Ok(reply) | Err(reply)) = reply.unwrap_or_else(|panicked| {
                error!(%panicked, "receiving the request panicked; answering 503");
                Err(WebhookReply::Unavailable)
            });
            let (outcome, status) = (reply.outcome(), reply.status());
            telemetry::record_answer(span, outcome, status.as_u16());
            if status.is_success() {
                debug!("webhook acknowledged");
            } else {
                warn!("webhook not acknowledged");
            }
            telemetry::request(outcome, entered);
            reply
        })
    })
    .await
}
