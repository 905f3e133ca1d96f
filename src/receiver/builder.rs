//! The configuration of a receiver.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use tokio::sync::Semaphore;
use tracing::warn;

use super::WebhookReceiver;
use super::authentication::Authentication;
use super::body::BodyLimits;
use super::claims::Claims;
use super::durable::Durable;
use super::inline::{Inline, LEASE, Renewals};
use super::pipeline::Pipeline;
use super::work::Mode;
use crate::auth::{Authenticator, SharedToken};
use crate::dedup::{DedupStore, MemoryDedupStore};
use crate::execution::bounds::CENTURY;
use crate::execution::drain::Drain;
use crate::execution::run::Runs;
use crate::handler::WebhookHandler;
use crate::inbox::InboxStore;
use crate::registry::JobRegistry;

/// Configures a [`WebhookReceiver`]; made by [`WebhookReceiver::builder`] or [`WebhookReceiver::durable`].
///
/// One of [`token`](Self::token), [`authenticator`](Self::authenticator) and
/// [`unauthenticated`](Self::unauthenticated) is required; the last call counts. Every other setting
/// has a default.
#[must_use = "the builder makes no receiver before `build`"]
pub struct WebhookReceiverBuilder {
    destination: Destination,
    store: Option<Arc<dyn DedupStore>>,
    authentication: Option<Authentication>,
    known_jobs: Option<Box<dyn JobRegistry>>,
    max_body_bytes: usize,
    max_body_bytes_in_flight: usize,
    max_handlers_in_flight: usize,
    ack_deadline: Duration,
    retention: Duration,
    max_handler_time: Duration,
    /// The last call of a setting that only inline receivers have.
    inline_only: Option<&'static str>,
}

/// The place where events go.
enum Destination {
    Handler(Box<dyn WebhookHandler>),
    Inbox(Box<dyn InboxStore>),
}

/// The error of a configuration that makes no receiver.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// No authentication was chosen.
    #[error(
        "no authentication was chosen: call `token` or `authenticator`, or `unauthenticated` if anyone may deliver"
    )]
    NoAuthentication,
    /// The ack deadline is zero, or so long that the sender's last delivery could still meet the claim of a
    /// process that crashed during an earlier one.
    #[error("the ack deadline must be above zero and at most {max:?}, but is {0:?}", max = WebhookReceiverBuilder::MAX_ACK_DEADLINE)]
    AckDeadline(Duration),
    /// The retention is shorter than the sender's schedule at its slowest: the last delivery could run the handler again.
    #[error("the retention must be at least {min:?}, but is {0:?}", min = WebhookReceiverBuilder::MIN_RETENTION)]
    Retention(Duration),
    /// `max_handler_time` is zero.
    #[error("`max_handler_time` must be above zero")]
    HandlerTime,
    /// A limit is zero; the text is its name.
    #[error("`{0}` must be above zero")]
    Limit(&'static str),
    /// A durable receiver has a setting that only inline receivers have; the text is its name.
    #[error("`{0}` is a setting for inline receivers only: {advice}", advice = advice(.0))]
    InlineOnly(&'static str),
    /// One body of the greatest length would exceed the limit for all bodies.
    #[error(
        "`max_body_bytes_in_flight` must be at least `max_body_bytes`, {max_body_bytes}, but is {max_body_bytes_in_flight}"
    )]
    BodyLimits {
        /// The limit of one body.
        max_body_bytes: usize,
        /// The limit of all bodies.
        max_body_bytes_in_flight: usize,
    },
}

/// The place of an inline setting when the receiver is durable.
fn advice(inline_setting: &str) -> &'static str {
    match inline_setting {
        "max_handlers_in_flight" => "set `InboxWorker::concurrency` instead",
        "retention" => "set `InboxWorker::retention` instead",
        "max_handler_time" => "set `InboxWorker::max_handler_time` instead",
        // `dedup_store`
        _ => "leave it out, as the inbox recognizes duplicates",
    }
}

/// The time between the sender's second and third delivery, in which the ack deadline and the lease must end.
const THIRD_DELIVERY: Duration = Duration::from_secs(10);

impl WebhookReceiverBuilder {
    /// The longest [`ack_deadline`](Self::ack_deadline): 5 s. The sender waits no longer.
    pub const MAX_ACK_DEADLINE: Duration = THIRD_DELIVERY.saturating_sub(LEASE);
    /// The shortest [`retention`](Self::retention): 30 s. The sender's third delivery begins up to 25 s after the first,
    /// if the two before it ran into the sender's time limit of 5 s, and claims the job within another 5 s.
    pub const MIN_RETENTION: Duration = Duration::from_secs(30);

    fn new(destination: Destination) -> Self {
        Self {
            destination,
            store: None,
            authentication: None,
            known_jobs: None,
            max_body_bytes: 16 << 20,
            max_body_bytes_in_flight: 256 << 20,
            max_handlers_in_flight: 256,
            ack_deadline: Duration::from_millis(4500),
            retention: Duration::from_secs(7 * 24 * 60 * 60),
            max_handler_time: Duration::from_secs(5 * 60),
            inline_only: None,
        }
    }

    /// Accepts requests that carry this token.
    pub fn token(mut self, token: SharedToken) -> Self {
        self.authentication = Some(Authentication::Token(token));
        self
    }

    /// Accepts requests that this authenticator grants access.
    pub fn authenticator(mut self, authenticator: impl Authenticator) -> Self {
        self.authentication = Some(Authentication::Custom(Box::new(authenticator)));
        self
    }

    /// Accepts requests from anyone. Use this only for experiments, or behind a proxy that authenticates.
    pub fn unauthenticated(mut self) -> Self {
        self.authentication = Some(Authentication::Anyone);
        self
    }

    /// Sets the store in which receivers claim jobs. Default: a [`MemoryDedupStore`] of this receiver's own.
    /// Inline only.
    pub fn dedup_store(mut self, store: impl DedupStore) -> Self {
        self.store = Some(Arc::new(store));
        self.inline_only = Some("dedup_store");
        self
    }

    /// Answers 404 to the webhook of a job that this registry does not know. Default: no job is refused.
    pub fn known_jobs(mut self, registry: impl JobRegistry) -> Self {
        self.known_jobs = Some(Box::new(registry));
        self
    }

    /// Sets the length of the longest body, in bytes, at least 1. Memory is used for received bytes only, not
    /// for the declared length. Default: 16 MiB.
    pub fn max_body_bytes(mut self, bytes: usize) -> Self {
        self.max_body_bytes = bytes;
        self
    }

    /// Sets the most bytes of all bodies that are being read or handled, at least
    /// [`max_body_bytes`](Self::max_body_bytes). A body that exceeds it is answered 503. Default: 256 MiB.
    pub fn max_body_bytes_in_flight(mut self, bytes: usize) -> Self {
        self.max_body_bytes_in_flight = bytes;
        self
    }

    /// Sets the most handlers that run at a time, at least 1. Further webhooks wait until the ack deadline;
    /// duplicates of finished jobs do not wait. Default: 256. Inline only.
    pub fn max_handlers_in_flight(mut self, handlers: usize) -> Self {
        self.max_handlers_in_flight = handlers;
        self.inline_only = Some("max_handlers_in_flight");
        self
    }

    /// Sets the time for the answer, counted from the call of [`receive`](WebhookReceiver::receive). The body
    /// must be complete after seven ninths of it. Above zero, at most 5 s. Default: 4.5 s.
    pub fn ack_deadline(mut self, deadline: Duration) -> Self {
        self.ack_deadline = deadline;
        self
    }

    /// Sets the time for which a finished job is kept in the dedup store, so that duplicates do not run the
    /// handler. At least 30 s; more than a century counts as a century. Default: 7 days. Inline only.
    pub fn retention(mut self, retention: Duration) -> Self {
        self.retention = retention.min(CENTURY);
        self.inline_only = Some("retention");
        self
    }

    /// Sets the longest time for one run of the handler. A longer run is dropped and counts as failed. Above
    /// zero; more than a century counts as a century. Default: 5 minutes. Inline only.
    pub fn max_handler_time(mut self, time: Duration) -> Self {
        self.max_handler_time = time.min(CENTURY);
        self.inline_only = Some("max_handler_time");
        self
    }

    /// Builds the receiver.
    ///
    /// # Errors
    ///
    /// Returns an error if no authentication was chosen ([`BuildError::NoAuthentication`]), a duration is out
    /// of range ([`BuildError::AckDeadline`], [`BuildError::Retention`], [`BuildError::HandlerTime`]), a limit
    /// is zero or the two body limits contradict each other ([`BuildError::Limit`],
    /// [`BuildError::BodyLimits`]), or a durable receiver has an inline setting ([`BuildError::InlineOnly`]).
    pub fn build(self) -> Result<WebhookReceiver, BuildError> {
        let authentication = self.authentication.ok_or(BuildError::NoAuthentication)?;
        if self.ack_deadline.is_zero() || self.ack_deadline > Self::MAX_ACK_DEADLINE {
            return Err(BuildError::AckDeadline(self.ack_deadline));
        }
        if self.retention < Self::MIN_RETENTION {
            return Err(BuildError::Retention(self.retention));
        }
        if self.max_handler_time.is_zero() {
            return Err(BuildError::HandlerTime);
        }
        if self.max_handlers_in_flight == 0 {
            return Err(BuildError::Limit("max_handlers_in_flight"));
        }
        if self.max_body_bytes == 0 {
            return Err(BuildError::Limit("max_body_bytes"));
        }
        if self.max_body_bytes > self.max_body_bytes_in_flight {
            return Err(BuildError::BodyLimits {
                max_body_bytes: self.max_body_bytes,
                max_body_bytes_in_flight: self.max_body_bytes_in_flight,
            });
        }
        if let (Destination::Inbox(_), Some(setting)) = (&self.destination, self.inline_only) {
            return Err(BuildError::InlineOnly(setting));
        }
        if matches!(authentication, Authentication::Anyone) {
            warn!("anyone may deliver webhooks: set a token before the server can be reached from outside");
        }
        let drain = Arc::new(Drain::default());
        let mode = match self.destination {
            Destination::Inbox(inbox) => Mode::Durable(Arc::new(Durable { inbox })),
            Destination::Handler(handler) => {
                let store = self.store.unwrap_or_else(|| Arc::new(MemoryDedupStore::new()));
                let most = self.max_handlers_in_flight.min(Semaphore::MAX_PERMITS);
                Mode::Inline(Arc::new(Inline {
                    handler,
                    claims: Claims::new(store, drain.clone()),
                    leases: Renewals::leases(),
                    handlers: Semaphore::new(most),
                    retention: self.retention,
                    runs: Runs::new(drain.clone(), self.max_handler_time),
                    max_handler_time: self.max_handler_time,
                    drain: drain.clone(),
                }))
            }
        };
        Ok(WebhookReceiver {
            pipeline: Arc::new(Pipeline {
                authentication,
                body_limits: BodyLimits {
                    max_bytes: self.max_body_bytes,
                    max_bytes_in_flight: self.max_body_bytes_in_flight,
                    in_flight: Arc::default(),
                    discarding: AtomicUsize::new(0),
                },
                known_jobs: self.known_jobs,
                body_time: self.ack_deadline * 7 / 9,
                ack_time: self.ack_deadline,
                drain,
                mode,
            }),
        })
    }
}

impl WebhookReceiver {
    /// Configures an inline receiver, which acknowledges a webhook after the handler has finished.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use std::time::Duration;
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
        WebhookReceiverBuilder::new(Destination::Handler(Box::new(handler)))
    }

    /// Configures a durable receiver, which acknowledges a webhook after its event is committed. An
    /// [`InboxWorker`](crate::InboxWorker) handles the event.
    ///
    /// # Examples
    ///
    /// ```
    /// # use qomplement_webhooks::{handler_fn, InboxWorker, MemoryInbox, SharedToken, Verification, WebhookReceiver};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let handler = handler_fn(|_| async { Ok(()) });
    /// # let token = SharedToken::generate()?;
    /// let inbox = MemoryInbox::new(); // for tests; `SqliteInbox` and `PostgresInbox` survive a restart
    /// let receiver = WebhookReceiver::durable(inbox.clone()).token(token).build()?;
    /// let worker = InboxWorker::new(inbox, handler, Verification::Trust).start();
    /// # worker.shutdown(std::time::Duration::ZERO).await;
    /// # Ok(()) }
    /// ```
    pub fn durable(inbox: impl InboxStore) -> WebhookReceiverBuilder {
        WebhookReceiverBuilder::new(Destination::Inbox(Box::new(inbox)))
    }
}

impl fmt::Debug for WebhookReceiverBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookReceiverBuilder")
            .field("authentication", &self.authentication)
            .field("store", &self.store)
            .field("known_jobs", &self.known_jobs.is_some())
            .field("max_body_bytes", &self.max_body_bytes)
            .field("max_body_bytes_in_flight", &self.max_body_bytes_in_flight)
            .field("max_handlers_in_flight", &self.max_handlers_in_flight)
            .field("ack_deadline", &self.ack_deadline)
            .field("retention", &self.retention)
            .field("max_handler_time", &self.max_handler_time)
            .finish_non_exhaustive()
    }
}
