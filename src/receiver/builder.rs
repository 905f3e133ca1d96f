//! How a receiver is configured.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tracing::warn;

use super::body::BodyLimits;
use super::drain::Drain;
use super::inline::Inline;
use super::lease::{LEASE, Leases};
use super::{Authentication, Inner, WebhookReceiver};
use crate::auth::{Authenticator, SharedToken};
use crate::dedup::{DedupStore, MemoryDedupStore};
use crate::handler::WebhookHandler;
use crate::jobs::JobRegistry;

/// Configures a [`WebhookReceiver`]; made by [`WebhookReceiver::builder`].
///
/// One of [`token`](Self::token), [`authenticator`](Self::authenticator) and
/// [`unauthenticated`](Self::unauthenticated) is required; of several, the last counts. Everything
/// else has a default.
#[must_use = "nothing is received before `build`"]
pub struct WebhookReceiverBuilder {
    handler: Box<dyn WebhookHandler>,
    store: Option<Arc<dyn DedupStore>>,
    authentication: Option<Authentication>,
    known_jobs: Option<Box<dyn JobRegistry>>,
    max_body_bytes: usize,
    max_body_bytes_in_flight: usize,
    max_handlers_in_flight: usize,
    ack_deadline: Duration,
    retention: Duration,
    max_handler_time: Duration,
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

    pub(super) fn new(handler: Box<dyn WebhookHandler>) -> Self {
        Self {
            handler,
            store: None,
            authentication: None,
            known_jobs: None,
            max_body_bytes: 16 << 20,
            max_body_bytes_in_flight: 256 << 20,
            max_handlers_in_flight: 256,
            ack_deadline: Duration::from_millis(4500),
            retention: Duration::from_secs(7 * 24 * 60 * 60),
            max_handler_time: Duration::from_secs(5 * 60),
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

    /// Where receivers agree on who handles a job. Default: a [`MemoryDedupStore`] of its own.
    pub fn dedup_store(mut self, store: impl DedupStore) -> Self {
        self.store = Some(Arc::new(store));
        self
    }

    /// Refuses webhooks for jobs that this registry does not know. Default: every job is taken.
    pub fn known_jobs(mut self, registry: impl JobRegistry) -> Self {
        self.known_jobs = Some(Box::new(registry));
        self
    }

    /// The longest body, in bytes. Default: 16 MiB.
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

    /// How many handlers may run at once; further webhooks wait until the ack deadline. Default: 256.
    pub fn max_handlers_in_flight(mut self, handlers: usize) -> Self {
        self.max_handlers_in_flight = handlers;
        self
    }

    /// When the answer is due, counted from the entry of [`receive`](WebhookReceiver::receive); the body
    /// must be complete after seven ninths of it. Above zero, at most 5 s. Default: 4.5 s.
    pub fn ack_deadline(mut self, deadline: Duration) -> Self {
        self.ack_deadline = deadline;
        self
    }

    /// How long a finished job is remembered, so that copies of its webhook do not run the handler. At
    /// least 15 s. Default: 7 days.
    pub fn retention(mut self, retention: Duration) -> Self {
        self.retention = retention;
        self
    }

    /// How long one run of the handler may take before it is dropped and counts as failed. Default: 5
    /// minutes.
    pub fn max_handler_time(mut self, time: Duration) -> Self {
        self.max_handler_time = time;
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
        if matches!(authentication, Authentication::Anyone) {
            warn!(
                "webhooks are taken from anyone: set a token before the server can be reached from outside"
            );
        }
        let store = self.store.unwrap_or_else(|| Arc::new(MemoryDedupStore::new()));
        let drain = Arc::new(Drain::default());
        Ok(WebhookReceiver {
            inner: Arc::new(Inner {
                authentication,
                body_limits: BodyLimits {
                    max_bytes: self.max_body_bytes,
                    max_bytes_in_flight: self.max_body_bytes_in_flight,
                    in_flight: Arc::default(),
                },
                known_jobs: self.known_jobs,
                ack_deadline: self.ack_deadline,
                drain: drain.clone(),
                inline: Inline {
                    handler: self.handler,
                    leases: Leases::new(store.clone()),
                    store,
                    handlers: Arc::new(Semaphore::new(
                        self.max_handlers_in_flight.min(Semaphore::MAX_PERMITS),
                    )),
                    retention: self.retention,
                    max_handler_time: self.max_handler_time,
                    drain,
                },
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
