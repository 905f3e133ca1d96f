//! A sender for tests: it delivers webhooks on Qomplement's documented schedule.
//!
//! A [`Sender`] posts a [`Payload`] straight to a receiver (or any other tower service) in the same process or,
//! with the feature `sender-http`, to a URL. It delivers as Qomplement does: at 0, 5 and 15 seconds, until a delivery
//! is answered 2xx. After the third, the webhook is undeliverable.
//!
//! # Which clock
//!
//! All times are measured by tokio's clock.
//!
//! - **Nothing outside the process** (a memory store, a handler that waits for timers only): pause the
//!   clock with `#[tokio::test(start_paused = true)]`. The schedule of 15 seconds then takes no time.
//! - **A database, Redis, a file or a server**: let the clock run. A paused clock jumps to the next timer
//!   whenever all tasks wait, also when they wait for a socket: every call of the store would time out before
//!   its reply can arrive, and the receiver would answer 503. Shorten the schedule instead, with
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
//!     let reports = Sender::to_service(receiver).deliver_at_once(&invoice, 3).await;
//!
//!     assert!(reports.iter().all(|report| report.is_delivered()), "{reports:?}");
//!     Ok(()) // here, check your database
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
use http::{Request, Response, StatusCode};
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
/// Sends a request to the target, and returns its response.
type Post = dyn Fn(Request<Full<Bytes>>) -> BoxFuture<Result<Response<Bytes>, BoxError>> + Send + Sync;

/// Delivers webhooks as Qomplement does. Cheap to clone.
///
/// The schedule is that of Qomplement's webhook documentation, which leaves two things open. This sender ends a
/// delivery after five seconds without an answer, and counts each wait from the beginning of the delivery before;
/// a delivery that takes longer than the wait is followed by the next at once.
#[derive(Clone)]
pub struct Sender {
    post: Arc<Post>,
    /// A URL, or the path within a service.
    url: String,
    retry_delays: Arc<[Duration]>,
    delivery_timeout: Duration,
}

/// The deliveries of one webhook.
#[derive(Debug)]
#[non_exhaustive]
pub struct Report {
    /// All deliveries, in order. Only the last can have succeeded.
    pub deliveries: Vec<Delivery>,
}

/// One HTTP request that carried a webhook.
#[derive(Debug)]
#[non_exhaustive]
pub struct Delivery {
    /// When the delivery began, counted from the beginning of the webhook's first delivery.
    pub at: Duration,
    /// How long the delivery took.
    pub took: Duration,
    /// The receiver's answer. Any 2xx is success.
    pub result: Result<Response<Bytes>, DeliveryError>,
}

/// Why a delivery has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeliveryError {
    /// No complete answer arrived within [the delivery's time](Sender::delivery_timeout).
    #[error("no answer in time")]
    Timeout,
    /// The target was not reached, or the connection broke.
    #[error("the webhook was not delivered")]
    Failed(#[source] BoxError),
}

impl Sender {
    /// The documented waits between deliveries.
    pub const RETRY_DELAYS: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(10)];
    /// How long a delivery may take by default: the documented time within which a receiver should answer.
    pub const DELIVERY_TIMEOUT: Duration = Duration::from_secs(5);

    /// Makes a sender that delivers to a [`WebhookReceiver`](crate::WebhookReceiver), or any other tower service, in
    /// this process.
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
        Self { post, url, retry_delays: Self::RETRY_DELAYS.into(), delivery_timeout: Self::DELIVERY_TIMEOUT }
    }

    /// Adds a token to the target's query, as [`WebhookUrl`](crate::WebhookUrl) does.
    #[must_use]
    pub fn token(mut self, token: &SharedToken) -> Self {
        let separator = if self.url.contains('?') { '&' } else { '?' };
        self.url = format!("{}{separator}token={}", self.url, token.expose());
        self
    }

    /// Sets the waits between deliveries; after each wait comes one more delivery. Default:
    /// [`RETRY_DELAYS`](Self::RETRY_DELAYS). More than a century counts as a century.
    #[must_use]
    pub fn retry_delays(mut self, delays: impl IntoIterator<Item = Duration>) -> Self {
        self.retry_delays = delays.into_iter().map(|delay| delay.min(CENTURY)).collect();
        self
    }

    /// Sets how long a delivery may take. Default: [`DELIVERY_TIMEOUT`](Self::DELIVERY_TIMEOUT). More than a century
    /// counts as a century.
    #[must_use]
    pub fn delivery_timeout(mut self, timeout: Duration) -> Self {
        self.delivery_timeout = timeout.min(CENTURY);
        self
    }

    /// Delivers a webhook until a delivery succeeds or no wait is left.
    pub async fn deliver(&self, payload: impl Into<Bytes>) -> Report {
        let payload = payload.into();
        let began = Instant::now();
        let mut deliveries = vec![self.deliver_once(began, payload.clone()).await];
        for delay in &*self.retry_delays {
            let Some(last) = deliveries.last().filter(|last| !last.is_success()) else { break };
            sleep_until(began + last.at + *delay).await;
            deliveries.push(self.deliver_once(began, payload.clone()).await);
        }
        Report { deliveries }
    }

    /// Delivers a webhook several times, each time on the whole schedule, one after another.
    pub async fn deliver_in_turn(&self, payload: impl Into<Bytes>, times: usize) -> Vec<Report> {
        let payload = payload.into();
        let mut reports = Vec::new();
        for _ in 0..times {
            reports.push(self.deliver(payload.clone()).await);
        }
        reports
    }

    /// Delivers a webhook several times at once, each time on the whole schedule and in a task of its own.
    ///
    /// # Panics
    ///
    /// Panics if a service in this process panics.
    pub async fn deliver_at_once(&self, payload: impl Into<Bytes>, times: usize) -> Vec<Report> {
        let payload = payload.into();
        let start = |_| {
            let (sender, payload) = (self.clone(), payload.clone());
            tokio::spawn(async move { sender.deliver(payload).await })
        };
        let tasks: Vec<_> = (0..times).map(start).collect();
        let mut reports = Vec::with_capacity(times);
        for task in tasks {
            match task.await {
                Ok(report) => reports.push(report),
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        }
        reports
    }

    async fn deliver_once(&self, began: Instant, payload: Bytes) -> Delivery {
        let at = began.elapsed();
        let posted = timeout(self.delivery_timeout, async {
            let request =
                Request::post(&self.url).header(CONTENT_TYPE, "application/json").body(Full::new(payload))?;
            (self.post)(request).await
        });
        let result = match posted.await {
            Ok(answered) => answered.map_err(DeliveryError::Failed),
            Err(_) => Err(DeliveryError::Timeout),
        };
        Delivery { at, took: began.elapsed() - at, result }
    }
}

impl Report {
    /// Whether the last delivery succeeded; otherwise the webhook is undeliverable.
    #[must_use]
    pub fn is_delivered(&self) -> bool {
        self.deliveries.last().is_some_and(Delivery::is_success)
    }

    /// The status of each delivery's answer, in order; `None` for a delivery without an answer.
    #[must_use]
    pub fn statuses(&self) -> Vec<Option<u16>> {
        self.deliveries.iter().map(|delivery| delivery.status().map(|status| status.as_u16())).collect()
    }
}

impl Delivery {
    /// Whether the answer was a 2xx.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.status().is_some_and(|status| status.is_success())
    }

    /// The status of the answer, if there was an answer.
    #[must_use]
    pub fn status(&self) -> Option<StatusCode> {
        self.result.as_ref().ok().map(Response::status)
    }
}

impl fmt::Debug for Sender {
    /// Omits the URL, which can hold a token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender")
            .field("retry_delays", &self.retry_delays)
            .field("delivery_timeout", &self.delivery_timeout)
            .finish_non_exhaustive()
    }
}
