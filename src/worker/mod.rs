//! Handles what is in an inbox.

mod attempts;
mod verify;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use self::attempts::Worker;

use crate::execution::backoff::Backoff;
use crate::execution::bounds::{CENTURY, MILLISECOND};
use crate::execution::drain::Drain;
use crate::fetch::JobSource;
use crate::fetch::fetcher::Asker;
use crate::fetch::reconciler::Reconciling;
use crate::handler::WebhookHandler;
use crate::inbox::{InboxStore, Retention};

/// Leases events from an inbox and runs your [`WebhookHandler`] for them, until each is done or dead.
///
/// # What is guaranteed
///
/// - An event that was acknowledged is handled at least once, until the handler returns `Ok`, or the event is
///   dead: its attempts are used up, or the handler said that another one is useless. Dead events are kept,
///   with the error and what caused it, until they are replayed.
/// - Of all workers on one inbox, one at a time runs an event. Only a handler that outlives a lease that it
///   lost, because its process was stopped or could not reach the store, can overlap with the next run;
///   [`Job::fence`](crate::Job::fence) grows with every lease, to fence your own writes with.
/// - An attempt is counted when its event is leased, so that an event which kills its process is dead in the end. It
///   is not counted when a shutdown called it off. No event is dead before its handler began in the last attempt: not
///   because leases got lost on the way from the store, and not under a lower [`max_attempts`](Self::max_attempts)
///   than its attempts so far, which leaves it one more.
/// - A worker leases what it can run at once, and no more: events wait in the inbox, where any worker sees them.
/// - When a process dies, its events are free when their leases end, after 30 seconds unless
///   [`lease`](Self::lease) says otherwise. They are not tried again at once, but spread out like other retries,
///   so that an event which kills its process does not meet the same others each time.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use qomplement_webhooks::{handler_fn, InboxWorker, MemoryInbox, SharedToken, Verification, WebhookReceiver};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let inbox = MemoryInbox::new();
/// let handler = handler_fn(|event| async move {
///     println!("{} {}", event.name(), event.job().id());
///     Ok(())
/// });
/// let worker = InboxWorker::new(inbox.clone(), handler, Verification::Trust).concurrency(4).start();
/// let receiver = WebhookReceiver::durable(inbox).token(SharedToken::generate()?).build()?;
/// // … serve until the program is told to stop …
/// receiver.shutdown(Duration::from_secs(5)).await;
/// worker.shutdown(Duration::from_secs(10)).await;
/// # Ok(()) }
/// ```
#[must_use = "nothing is handled before `start`"]
pub struct InboxWorker {
    inbox: Arc<dyn InboxStore>,
    handler: Box<dyn WebhookHandler>,
    verification: Verification,
    concurrency: usize,
    max_attempts: u32,
    backoff: Backoff,
    max_handler_time: Duration,
    lease: Duration,
    poll: Duration,
    retention: Retention,
}

/// Whether the handler gets what a webhook says, or what the API does.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Verification {
    /// The stored body is handed to the handler as it came. Whoever learns the token can forge it.
    Trust,
    /// The API is asked for the job, and the handler gets what it says; of the webhook, only that it came is
    /// believed.
    ///
    /// What the API says is stored in the place of the webhook's body before the handler is called, and later
    /// attempts do not ask again. Otherwise no attempt is counted, and the handler is not called:
    ///
    /// - The job has not ended: it is expected again, and asked for after 2 to 60 seconds, twice as long each time.
    /// - The API does not know it: it is asked for again every two and a half minutes. When it did not know it
    ///   five times over ten minutes, the event is dead, and another webhook of the job begins anew.
    /// - There is no answer for it: it is asked for again after a second to five minutes, twice as long each time.
    ///   72 hours after the first fetch without an answer, the event is dead.
    /// - The API fails for all, as when it cannot be reached or refuses the key: nothing is asked for a while, which
    ///   [`RequestBudget`](crate::fetch::RequestBudget) describes; a source without a budget is treated the same.
    ///
    /// A worker that verifies is a [`Reconciler`](crate::Reconciler), too: expected jobs that are overdue are asked
    /// for.
    Fetch(Arc<dyn JobSource>),
}

impl Verification {
    /// The API is asked: [`Fetch`](Self::Fetch).
    pub fn fetch(source: impl JobSource) -> Self {
        Self::Fetch(Arc::new(source))
    }
}

/// A worker that was started. Dropping it does not stop it.
#[derive(Debug)]
pub struct RunningWorker {
    drain: Arc<Drain>,
}

/// Durations above a century count as a century.
impl InboxWorker {
    /// The greatest [`concurrency`](Self::concurrency): an inbox is asked for so many events at once.
    pub const MAX_CONCURRENCY: usize = 65_536;

    /// Configures a worker. An `inbox` may have any number of workers, in any number of processes.
    pub fn new(inbox: impl InboxStore, handler: impl WebhookHandler, verification: Verification) -> Self {
        Self {
            inbox: Arc::new(inbox),
            handler: Box::new(handler),
            verification,
            concurrency: 16,
            max_attempts: 12,
            backoff: Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(60 * 60) },
            max_handler_time: Duration::from_secs(5 * 60),
            lease: Duration::from_secs(30),
            poll: Duration::from_secs(1),
            retention: Retention::default(),
        }
    }

    /// How many events are handled at once. At least one, and at most [`MAX_CONCURRENCY`](Self::MAX_CONCURRENCY):
    /// another number counts as the nearest of these. Of these, at most 16 wait for the API under
    /// [`Verification::Fetch`]. Default: 16.
    pub fn concurrency(mut self, events: usize) -> Self {
        self.concurrency = events.clamp(1, Self::MAX_CONCURRENCY);
        self
    }

    /// After how many attempts an event is dead. At least one; default: 12.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = attempts.max(1);
        self
    }

    /// How long to wait before an event is tried again: a random time up to `first` after the first attempt,
    /// up to twice as long after each further one, and never above `longest`. Default: a second, and an hour.
    pub fn backoff(mut self, first: Duration, longest: Duration) -> Self {
        self.backoff = Backoff { first: first.min(CENTURY), longest: longest.min(CENTURY) };
        self
    }

    /// How long one run of the handler may take before it is dropped and counts as failed. At least a
    /// millisecond; default: 5 minutes.
    pub fn max_handler_time(mut self, time: Duration) -> Self {
        self.max_handler_time = time.clamp(MILLISECOND, CENTURY);
        self
    }

    /// For how long an event is leased; the lease of a running handler is renewed in time. So long does it
    /// take at least until the event of a process that died is free. At least a second; default: 30 seconds.
    pub fn lease(mut self, length: Duration) -> Self {
        self.lease = length.clamp(Duration::from_secs(1), CENTURY);
        self
    }

    /// How often the inbox is asked for events that are due when nothing says that there are any. At least a
    /// millisecond; default: a second.
    pub fn poll(mut self, every: Duration) -> Self {
        self.poll = every.clamp(MILLISECOND, CENTURY);
        self
    }

    /// How long the worker keeps events that are done. Default: bodies for a week, rows for thirty days.
    pub fn retention(mut self, retention: Retention) -> Self {
        let Retention { payload, row } = retention;
        self.retention = Retention { payload: payload.min(CENTURY), row: row.min(CENTURY) };
        self
    }

    /// Starts the worker on the current tokio runtime.
    ///
    /// # Panics
    ///
    /// When it is not called in a runtime.
    pub fn start(self) -> RunningWorker {
        let drain = Arc::new(Drain::default());
        let asker = match &self.verification {
            Verification::Trust => None,
            Verification::Fetch(source) => Some(Arc::new(Asker::new(source.clone()))),
        };
        if let Some(asker) = &asker {
            tokio::spawn(Reconciling::of_inbox(self.inbox.clone(), asker.clone(), drain.clone()).run());
        }
        let worker = Worker::new(self, asker, drain.clone());
        tokio::spawn(worker.clone().run());
        tokio::spawn(worker.prune());
        RunningWorker { drain }
    }
}

impl RunningWorker {
    /// Stops the worker: leases nothing more, waits up to `grace` for the handlers that run, then drops those
    /// that still do and gives their events back, uncounted, for another worker to lease at once. Returns how
    /// many were unfinished, a lease that the store has yet to answer included.
    ///
    /// It takes up to a second longer than `grace`. Await it before the runtime ends.
    pub async fn shutdown(&self, grace: Duration) -> usize {
        self.drain.finish(grace).await
    }
}

impl fmt::Debug for InboxWorker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InboxWorker")
            .field("inbox", &self.inbox)
            .field("verification", &self.verification)
            .field("concurrency", &self.concurrency)
            .field("max_attempts", &self.max_attempts)
            .field("backoff", &self.backoff)
            .field("max_handler_time", &self.max_handler_time)
            .field("lease", &self.lease)
            .field("poll", &self.poll)
            .field("retention", &self.retention)
            .finish_non_exhaustive()
    }
}
