//! The sender's side, for tests: webhooks delivered on the documented schedule.
//!
//! A [`Sender`] posts a [`Payload`] straight to a receiver (or any tower service) in the same process, or,
//! with the feature `sender-http`, to a URL, and tries again as Qomplement does: attempts at 0, 5 and 15
//! seconds, any 2xx is success, and then the webhook is undeliverable.
//!
//! # Which clock
//!
//! All times are tokio's.
//!
//! - **Nothing outside of the process** (a memory store, a handler that waits for timers only): pause the
//!   clock, with `#[tokio::test(start_paused = true)]`. A schedule of 15 seconds then takes no time.
//! - **A database, Redis, a file or a server**: leave the clock alone. A paused clock jumps to the next timer
//!   whenever all tasks wait, also when they wait for a socket: every call of the store is out of time before
//!   its reply can come, and the receiver answers 503. Make the schedule short instead, with
//!   `Sender::to_service(receiver).retry_delays([Duration::from_millis(10); 2])`.
//!
//! # Test your handler in ten lines
//!
//! ```
//! use qomplement_webhooks::sender::{Payload, Sender};
//! use qomplement_webhooks::{handler_fn, HandlerError, WebhookEvent, WebhookReceiver};
//!
//! # async fn book(event: WebhookEvent) -> Result<(), HandlerError> { Ok(()) }
//! #[tokio::test(start_paused = true)]
//! # async fn hidden() {}
//! # #[tokio::main(flavor = "current_thread")]
//! async fn an_invoice_without_fields_is_booked() -> Result<(), Box<dyn std::error::Error>> {
//!     let receiver = WebhookReceiver::builder(handler_fn(book)).unauthenticated().build()?;
//!     let invoice = Payload::extract_completed().remove("/data/result/fields");
//!
//!     let deliveries = Sender::to_service(receiver).deliver_at_once(&invoice, 3).await;
//!
//!     assert!(deliveries.iter().all(|delivery| delivery.is_delivered()), "{deliveries:?}");
//!     Ok(()) // and here: look into your database
//! }
//! # an_invoice_without_fields_is_booked().unwrap();
//! ```

mod payload;
#[cfg(feature = "sender-http")]
mod url;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use tokio::time::{Instant, sleep_until, timeout};
use tower_service::Service;

pub use self::payload::Payload;
#[cfg(feature = "sender-http")]
pub use self::url::SenderError;
use crate::auth::SharedToken;
use crate::error::BoxError;
use crate::execution::bounds::CENTURY;

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;
/// Posts a body to a target's path and query.
type Post = dyn Fn(Request<Full<Bytes>>) -> BoxFuture<Result<Response<Bytes>, BoxError>> + Send + Sync;

/// Delivers webhooks as Qomplement does. Cheap to clone.
///
/// Source of the schedule: Qomplement's webhook documentation. That an attempt is given up after five
/// seconds, and that the waits count from the beginning of the attempt before, is this tool's reading
/// of it; an attempt that takes longer than the wait is followed by the next at once.
#[derive(Clone)]
pub struct Sender {
    post: Arc<Post>,
    /// What is posted to: a URL, or the path within a service.
    url: String,
    retry_delays: Arc<[Duration]>,
    attempt_timeout: Duration,
}

/// What became of one webhook.
#[derive(Debug)]
#[non_exhaustive]
pub struct Delivery {
    /// Every attempt, in order. Only the last one can have succeeded.
    pub attempts: Vec<Attempt>,
}

/// One attempt to deliver a webhook.
#[derive(Debug)]
#[non_exhaustive]
pub struct Attempt {
    /// When it began, counted from the beginning of the delivery.
    pub at: Duration,
    /// How long it took.
    pub took: Duration,
    /// What came back.
    pub result: Result<Answer, AttemptError>,
}

/// What a receiver answered.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Answer {
    /// The status; any 2xx is success.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// Why an attempt has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttemptError {
    /// No whole answer within the attempt's time.
    #[error("no answer in time")]
    Timeout,
    /// The target was not reached, or broke off.
    #[error("the webhook was not delivered")]
    Failed(#[source] BoxError),
}

impl Sender {
    /// The documented waits between attempts.
    pub const RETRY_DELAYS: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(10)];
    /// How long an attempt may take unless told otherwise: the documented time within which a receiver
    /// should answer.
    pub const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);

    /// Delivers straight to a [`WebhookReceiver`](crate::WebhookReceiver), or any other tower service,
    /// in this process.
    pub fn to_service<S, B>(service: S) -> Self
    where
        S: Service<Request<Full<Bytes>>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
        B: Body + Send,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        let post = move |request: Request<Full<Bytes>>| -> BoxFuture<_> {
            let mut service = service.clone();
            Box::pin(async move {
                std::future::poll_fn(|context| service.poll_ready(context)).await.map_err(Into::into)?;
                let (parts, body) = service.call(request).await.map_err(Into::into)?.into_parts();
                Ok(Response::from_parts(parts, body.collect().await.map_err(Into::into)?.to_bytes()))
            })
        };
        Self::new("/".to_owned(), Arc::new(post))
    }

    fn new(url: String, post: Arc<Post>) -> Self {
        Self { post, url, retry_delays: Self::RETRY_DELAYS.into(), attempt_timeout: Self::ATTEMPT_TIMEOUT }
    }

    /// Adds a token to what is posted to, as [`WebhookUrl`](crate::WebhookUrl) does.
    #[must_use]
    pub fn token(mut self, token: &SharedToken) -> Self {
        let separator = if self.url.contains('?') { '&' } else { '?' };
        self.url = format!("{}{separator}token={}", self.url, token.expose());
        self
    }

    /// Replaces the waits between attempts: as many as there are retries. More than a century counts as a
    /// century.
    #[must_use]
    pub fn retry_delays(mut self, delays: impl IntoIterator<Item = Duration>) -> Self {
        self.retry_delays = delays.into_iter().map(|delay| delay.min(CENTURY)).collect();
        self
    }

    /// Replaces the time that an attempt may take. More than a century counts as a century.
    #[must_use]
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.attempt_timeout = timeout.min(CENTURY);
        self
    }

    /// Delivers a webhook: until an attempt succeeds, or none is left.
    pub async fn deliver(&self, payload: impl Into<Bytes>) -> Delivery {
        let payload = payload.into();
        let began = Instant::now();
        let mut attempts = vec![self.attempt(began, payload.clone()).await];
        for delay in &*self.retry_delays {
            let Some(last) = attempts.last().filter(|last| !last.is_success()) else { break };
            sleep_until(began + last.at + *delay).await;
            attempts.push(self.attempt(began, payload.clone()).await);
        }
        Delivery { attempts }
    }

    /// Delivers copies of a webhook, each after the one before has been delivered or given up.
    pub async fn deliver_in_turn(&self, payload: impl Into<Bytes>, copies: usize) -> Vec<Delivery> {
        let payload = payload.into();
        let mut deliveries = Vec::new();
        for _ in 0..copies {
            deliveries.push(self.deliver(payload.clone()).await);
        }
        deliveries
    }

    /// Delivers copies of a webhook all at once, each in a task of its own.
    ///
    /// # Panics
    ///
    /// When a service in this process panics.
    pub async fn deliver_at_once(&self, payload: impl Into<Bytes>, copies: usize) -> Vec<Delivery> {
        let payload = payload.into();
        let start = |_| {
            let (sender, payload) = (self.clone(), payload.clone());
            tokio::spawn(async move { sender.deliver(payload).await })
        };
        let tasks: Vec<_> = (0..copies).map(start).collect();
        let mut deliveries = Vec::with_capacity(copies);
        for task in tasks {
            match task.await {
                Ok(delivery) => deliveries.push(delivery),
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        }
        deliveries
    }

    async fn attempt(&self, began: Instant, payload: Bytes) -> Attempt {
        let at = began.elapsed();
        let posted = timeout(self.attempt_timeout, async {
            let request =
                Request::post(&self.url).header(CONTENT_TYPE, "application/json").body(Full::new(payload))?;
            (self.post)(request).await
        });
        let result = match posted.await {
            Ok(Ok(response)) => {
                let (parts, body) = response.into_parts();
                Ok(Answer { status: parts.status, headers: parts.headers, body })
            }
            Ok(Err(error)) => Err(AttemptError::Failed(error)),
            Err(_) => Err(AttemptError::Timeout),
        };
        Attempt { at, took: began.elapsed() - at, result }
    }
}

impl Delivery {
    /// Whether the last attempt succeeded; otherwise the webhook is undeliverable.
    #[must_use]
    pub fn is_delivered(&self) -> bool {
        self.attempts.last().is_some_and(Attempt::is_success)
    }

    /// The status of each attempt, `None` for one without an answer.
    #[must_use]
    pub fn statuses(&self) -> Vec<Option<u16>> {
        self.attempts.iter().map(|attempt| attempt.status().map(|status| status.as_u16())).collect()
    }
}

impl Attempt {
    /// Whether the answer was a 2xx.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.status().is_some_and(|status| status.is_success())
    }

    /// The status of the answer, if there was one.
    #[must_use]
    pub fn status(&self) -> Option<StatusCode> {
        self.result.as_ref().ok().map(|answer| answer.status)
    }
}

impl fmt::Debug for Sender {
    /// Leaves the URL out: it can hold a token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender")
            .field("retry_delays", &self.retry_delays)
            .field("attempt_timeout", &self.attempt_timeout)
            .finish_non_exhaustive()
    }
}
