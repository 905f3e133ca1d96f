//! The receiver: authenticates, reads, parses and deduplicates webhooks, and answers them.

mod authentication;
mod body;
mod builder;
mod claims;
mod delivery;
mod durable;
mod headers;
mod inline;
mod known;
mod pipeline;
mod reply;
mod work;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;

pub use self::builder::{BuildError, WebhookReceiverBuilder};
use self::pipeline::Pipeline;
use self::reply::BodyRead;
use crate::error::BoxError;

/// Receives webhooks and answers them.
///
/// Made by [`builder`](Self::builder) (inline) or [`durable`](Self::durable). Cheap to clone; all clones
/// are one receiver. Mount it with the integration of your web framework, for all methods of one path, or
/// pass requests to [`receive`](Self::receive).
///
/// The methods need a tokio runtime of either kind. Work that outlives its request, because the handler
/// takes longer than the ack deadline or the client has left, continues in that runtime: await
/// [`shutdown`](Self::shutdown) before the runtime ends.
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
    pipeline: Arc<Pipeline>,
}

impl WebhookReceiver {
    /// Answers one request, at the ack deadline at the latest. The [guide](crate::guide::answers) lists the
    /// answers.
    ///
    /// There is an answer even if the handler, the stores or the body's stream fail, hang or panic.
    ///
    /// If the request's head is refused or its body is too large, the rest of the body is read and dropped
    /// before the answer, up to 2 MiB and for up to 1 s, because many clients read no answer before they have
    /// written everything. Those bytes are neither kept nor counted. A client that still waits for
    /// `100 Continue` is answered at once.
    ///
    /// # Cancel safety
    ///
    /// Before the body has been read, a drop of the future ends the request without effect. After it, a drop
    /// stops nothing: the work continues in the runtime, and its outcome is recorded.
    pub async fn receive<B>(&self, request: Request<B>) -> Response<Full<Bytes>>
    where
        B: Body,
        B::Error: Into<BoxError>,
    {
        self.received(request, |response| response).await
    }

    /// [`receive`](Self::receive) for adapters, as a future that owns the receiver and makes the adapter's answer. An
    /// adapter boxes the future, so it holds nothing twice.
    pub(crate) fn received<B, T>(
        &self,
        request: Request<B>,
        answer: fn(Response<Full<Bytes>>) -> T,
    ) -> impl Future<Output = T> + use<B, T>
    where
        B: Body,
        B::Error: Into<BoxError>,
    {
        let (pipeline, (parts, body)) = (self.pipeline.clone(), request.into_parts());
        async move {
            let (reply, read) = pipeline.reply(&parts, body).await;
            answer(reply.response(parts.version, read))
        }
    }

    /// Checks the method and the authentication of a request before its body is read, for a framework that
    /// cannot pass the body as a stream. After `Ok`, read the body and call
    /// [`receive_parts`](Self::receive_parts).
    ///
    /// # Errors
    ///
    /// Returns the answer if the request may not deliver webhooks. Send it, and keep nothing of the body.
    ///
    /// A client that writes its whole request before it reads sees the answer only if the server reads the
    /// body. [`receive`](Self::receive) reads and drops up to 2 MiB of it, for up to 1 s, unless the request has
    /// `Expect: 100-continue`. Do the same before the answer closes the connection, or let the server do it.
    pub async fn authenticate(&self, parts: &Parts) -> Result<(), Response<Full<Bytes>>> {
        self.pipeline
            .authenticate(parts)
            .await
            .map_err(|refusal| refusal.response(parts.version, BodyRead::NotWhole))
    }

    /// Answers one request whose body has been read, like [`receive`](Self::receive), including the
    /// authentication. The ack deadline counts from this call.
    ///
    /// # Cancel safety
    ///
    /// As for [`receive`](Self::receive).
    pub async fn receive_parts(&self, parts: &Parts, body: Bytes) -> Response<Full<Bytes>> {
        let (reply, _) = self.pipeline.reply(parts, Full::new(body)).await;
        reply.response(parts.version, BodyRead::Whole)
    }

    /// Shuts the receiver down: answers new webhooks 503 and waits up to `grace` for those under way. Then
    /// drops the handlers that still run and releases their claims, so that the sender's next delivery can run
    /// them elsewhere at once. Returns the amount of work that had not ended after `grace`: webhooks in any step (with a
    /// handler that was dropped, waiting for a duplicate's handler, reading a body, committing), and claims whose
    /// release is repeated in the background.
    ///
    /// `grace` should be at least the ack deadline. The call takes up to 1 s longer than `grace`. Await it
    /// before the runtime ends; on a server that drops unfinished work when it stops, before the server stops.
    pub async fn shutdown(&self, grace: Duration) -> usize {
        self.pipeline.drain.finish(grace).await
    }
}

impl fmt::Debug for WebhookReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookReceiver")
            .field("authentication", &self.pipeline.authentication)
            .field("known_jobs", &self.pipeline.known_jobs.is_some())
            .field("ack_deadline", &self.pipeline.ack_time)
            .field("mode", &self.pipeline.mode)
            .finish_non_exhaustive()
    }
}
