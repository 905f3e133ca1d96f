//! How a receiver is configured.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use tokio::sync::Semaphore;
use tracing::warn;

use super::body::BodyLimits;
use super::claims::Claims;
use super::durable::Durable;
use super::inline::{Inline, LEASE, Renewals};
use super::{Authentication, Inner, Mode, WebhookReceiver};
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
/// [`unauthenticated`](Self::unauthenticated) is required; of several, the last counts. Everything
/// else has a default.
#[must_use = "nothing is received before `build`"]
pub struct WebhookReceiverBuilder {
    target: Target,
    store: Option<Arc<dyn DedupStore>>,
    authentication: Option<Authentication>,
    known_jobs: Option<Box<dyn JobRegistry>>,
    max_body_bytes: usize,
    max_body_bytes_in_flight: usize,
    max_handlers_in_flight: usize,
    ack_deadline: Duration,
    retention: Duration,
    max_handler_time: Duration,
    /// What was set that says something about handlers.
    inline_only: Option<&'static str>,
}

/// Where events go.
enum Target {
    Handler(Box<dyn WebhookHandler>),
    Inbox(Box<dyn InboxStore>),
}

/// Why a receiver was not built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// Nothing says who may deliver webhooks.
    #[error(
        "nothing says who may deliver webhooks: call `token` or `authenticator`, or `unauthenticated` if anyone may"
    )]
    NoAuthentication,
    /// The ack deadline is zero, or so long that the sender's last try could still meet the claim of a
    /// process that died during the first.
    #[error("the ack deadline must be above zero and at most {max:?}, but is {0:?}", max = WebhookReceiverBuilder::MAX_ACK_DEADLINE)]
    AckDeadline(Duration),
    /// The retention is shorter than the sender's schedule, so that its last try could run the handler
    /// again.
    #[error("the retention must be at least {min:?}, but is {0:?}", min = WebhookReceiverBuilder::MIN_RETENTION)]
    Retention(Duration),
    /// The handler is given no time.
    #[error("the handler's time must be above zero")]
    HandlerTime,
    /// A limit lets nothing through; the text says which.
    #[error("`{0}` must be above zero")]
    Limit(&'static str),
    /// A setting says how handlers are run, and this receiver runs none; the text says which.
    #[error("`{0}` has no meaning for a durable receiver, which runs no handler: its worker does")]
    InlineOnly(&'static str),
    /// Not even one body of the greatest length would be let in.
    #[error("`max_body_bytes_in_flight` must be at least `max_body_bytes`")]
    BodyLimits,
}

/// The ack deadline and the lease end together before the sender's third try: 10 s after its second.
const THIRD_TRY: Duration = Duration::from_secs(10);

impl WebhookReceiverBuilder {
    /// The longest [`ack_deadline`](Self::ack_deadline): 5 seconds, as the sender waits no longer.
    pub const MAX_ACK_DEADLINE: Duration = THIRD_TRY.saturating_sub(LEASE);
    /// The shortest [`retention`](Self::retention): 15 seconds, when the sender's last try comes.
    pub const MIN_RETENTION: Duration = Duration::from_secs(15);

    pub(super) fn inline(handler: Box<dyn WebhookHandler>) -> Self {
        Self::new(Target::Handler(handler))
    }

    pub(super) fn durable(inbox: Box<dyn InboxStore>) -> Self {
        Self::new(Target::Inbox(inbox))
    }

    fn new(target: Target) -> Self {
        Self {
            target,
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

    /// Takes webhooks that carry this token.
    pub fn token(mut self, token: SharedToken) -> Self {
        self.authentication = Some(Authentication::Token(token));
        self
    }

    /// Takes webhooks that this authenticator grants access.
    pub fn authenticator(mut self, authenticator: impl Authenticator) -> Self {
        self.authentication = Some(Authentication::Custom(Box::new(authenticator)));
        self
    }

    /// Takes webhooks from anyone: only for trying things out, or behind something that authenticates.
    pub fn unauthenticated(mut self) -> Self {
        self.authentication = Some(Authentication::Anyone);
        self
    }

    /// Where receivers agree on who handles a job. Default: a [`MemoryDedupStore`] of its own. Inline only.
    pub fn dedup_store(mut self, store: impl DedupStore) -> Self {
        self.store = Some(Arc::new(store));
        self.inline_only = Some("dedup_store");
        self
    }

    /// Refuses webhooks for jobs that this registry does not know. Default: every job is taken.
    pub fn known_jobs(mut self, registry: impl JobRegistry) -> Self {
        self.known_jobs = Some(Box::new(registry));
        self
    }

    /// The longest body, in bytes, at least 1. Memory is taken for what has come, whatever length was
    /// declared. Default: 16 MiB.
    pub fn max_body_bytes(mut self, bytes: usize) -> Self {
        self.max_body_bytes = bytes;
        self
    }

    /// How many bytes all bodies may take that are being read or handled; above it, the answer is 503.
    /// Default: 256 MiB.
    pub fn max_body_bytes_in_flight(mut self, bytes: usize) -> Self {
        self.max_body_bytes_in_flight = bytes;
        self
    }

    /// How many handlers may run at once, at least 1; further webhooks wait until the ack deadline. A duplicate of
    /// a finished job does not wait. Default: 256. Inline only.
    pub fn max_handlers_in_flight(mut self, handlers: usize) -> Self {
        self.max_handlers_in_flight = handlers;
        self.inline_only = Some("max_handlers_in_flight");
        self
    }

    /// When the answer is due, counted from the entry of [`receive`](WebhookReceiver::receive); the body
    /// must be complete after seven ninths of it. Above zero, at most 5 s. Default: 4.5 s.
    pub fn ack_deadline(mut self, deadline: Duration) -> Self {
        self.ack_deadline = deadline;
        self
    }

    /// How long a finished job is remembered, so that copies of its webhook do not run the handler. At
    /// least 15 s; more than a century counts as a century. Default: 7 days. Inline only.
    pub fn retention(mut self, retention: Duration) -> Self {
        self.retention = retention.min(CENTURY);
        self.inline_only = Some("retention");
        self
    }

    /// How long one run of the handler may take before it is dropped and counts as failed. Above zero; more
    /// than a century counts as a century. Default: 5 minutes. Inline only.
    pub fn max_handler_time(mut self, time: Duration) -> Self {
        self.max_handler_time = time.min(CENTURY);
        self.inline_only = Some("max_handler_time");
        self
    }

    /// Builds the receiver.
    ///
    /// # Errors
    ///
    /// When nothing says who may deliver webhooks, or a setting would break what the crate promises.
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
            return Err(BuildError::BodyLimits);
        }
        if let (Target::Inbox(_), Some(setting)) = (&self.target, self.inline_only) {
            return Err(BuildError::InlineOnly(setting));
        }
        if matches!(authentication, Authentication::Anyone) {
            warn!(
                "webhooks are taken from anyone: set a token before the server can be reached from outside"
            );
        }
        let drain = Arc::new(Drain::default());
        let mode = match self.target {
            Target::Inbox(inbox) => Mode::Durable(Arc::new(Durable { inbox })),
            Target::Handler(handler) => {
                let store = self.store.unwrap_or_else(|| Arc::new(MemoryDedupStore::new()));
                let most = self.max_handlers_in_flight.min(Semaphore::MAX_PERMITS);
                Mode::Inline(Arc::new(Inline {
                    handler,
                    claims: Claims::new(store, drain.clone()),
                    leases: Renewals::leases(),
                    handlers: Arc::new(Semaphore::new(most)),
                    retention: self.retention,
                    runs: Runs::new(drain.clone(), self.max_handler_time),
                    max_handler_time: self.max_handler_time,
                    drain: drain.clone(),
                }))
            }
        };
        Ok(WebhookReceiver {
            inner: Arc::new(Inner {
                authentication,
                body_limits: BodyLimits {
                    max_bytes: self.max_body_bytes,
                    max_bytes_in_flight: self.max_body_bytes_in_flight,
                    in_flight: Arc::default(),
                    discarding: AtomicUsize::new(0),
                },
                known_jobs: self.known_jobs,
                ack_deadline: self.ack_deadline,
                drain,
                mode,
            }),
        })
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
