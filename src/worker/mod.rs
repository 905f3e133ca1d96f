//! Leases events from an inbox, verifies and handles them, and prunes finished rows.

mod attempts;
mod heartbeats;
mod leasing;
mod prune;
#[cfg(feature = "metrics")]
mod sampling;
mod verify;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use self::leasing::Leasing;
use self::prune::prune;
use crate::error::BoxError;
use crate::execution::backoff::Backoff;
use crate::execution::bounds::{CENTURY, MILLISECOND};
use crate::execution::drain::Drain;
use crate::fetch::JobSource;
use crate::fetch::fetcher::Fetcher;
use crate::fetch::reconciler::Reconciling;
use crate::handler::WebhookHandler;
use crate::inbox::{DeadLetter, DeadLetterHook, InboxStore, Retention};

/// Leases events from an inbox and runs your [`WebhookHandler`] for them, until each is done or a dead letter.
///
/// # Guarantees
///
/// - An acknowledged event is handled at least once, until the handler returns `Ok` or the event becomes a dead letter:
///   after its last attempt, after a permanent failure, if this version cannot read it, or if the fetches of
///   [`Verification::Fetch`] find no result. A dead letter keeps its error and the error's causes until it is replayed.
/// - Of all workers on one inbox, one at a time runs an event. Only a handler that outlives its lost lease, because its
///   process was stopped, could not reach the store, or the inbox's clock was set forward, can overlap with the next run.
///   Use the fencing token [`Job::fence`](crate::Job::fence), which grows with every lease, for your own writes.
/// - An attempt is counted when its event is leased, so that an event which kills its process becomes a dead letter in the
///   end. An attempt that a shutdown ended is not counted. Transient failures make an event a dead letter only after its
///   handler has started in the last allowed attempt. Lost store replies do not change this. If
///   [`max_attempts`](Self::max_attempts) is lowered below the attempts that an event has had, the event gets one more. The
///   inbox notes the start just before: a process that dies, stands still or loses the inbox between the note and the
///   handler's start counts as one whose handler has started.
/// - A worker leases no more events than it can handle at once: the others wait in the inbox, where any worker sees them.
/// - The events of a crashed process can be leased again when their leases end, after 30 seconds unless
///   [`lease`](Self::lease) says otherwise. They are then spread out like other retries, so that an event which kills its
///   process does not take the same other events with it each time.
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
#[must_use = "no event is handled before `start`"]
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
    on_dead_letter: DeadLetterHook,
}

/// Whether the handler gets the event of the webhook, or the event fetched from the API.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Verification {
    /// The handler gets the event of the webhook. An attacker who knows the token can forge it.
    Trust,
    /// The job is fetched from the API, and the handler gets the fetched event. The webhook is only the reason to fetch.
    ///
    /// The fetched event replaces the webhook's in the inbox before the handler is called; later attempts do not fetch
    /// again. Without a fetched event, the handler is not called, no attempt is counted, and the job is fetched again or
    /// given up, as [`Reconciler`](crate::Reconciler) describes.
    ///
    /// The worker also fetches overdue jobs, like a `Reconciler` with the default
    /// [`horizon`](crate::Reconciler::horizon).
    Fetch(Arc<dyn JobSource>),
}

impl Verification {
    /// Makes [`Fetch`](Self::Fetch) with this source.
    pub fn fetch(source: impl JobSource) -> Self {
        Self::Fetch(Arc::new(source))
    }
}

/// A started worker. Dropping it does not stop the worker.
#[derive(Debug)]
#[must_use = "a worker that nobody shuts down drops its handlers when the runtime ends"]
pub struct RunningWorker {
    drain: Arc<Drain>,
}

/// Durations above a century count as a century.
impl InboxWorker {
    /// The largest [`concurrency`](Self::concurrency): the most events that one call leases.
    pub const MAX_CONCURRENCY: usize = 65_536;

    /// Configures a worker. An inbox may have any number of workers, in any number of processes.
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
            on_dead_letter: DeadLetterHook::default(),
        }
    }

    /// Sets the number of events handled at once, between one and [`MAX_CONCURRENCY`](Self::MAX_CONCURRENCY); another
    /// number counts as the nearest of these. Up to as many more may wait for their outcomes to be recorded. Under
    /// [`Verification::Fetch`], at most 16 wait for the API. Default: 16.
    pub fn concurrency(mut self, events: usize) -> Self {
        self.concurrency = events.clamp(1, Self::MAX_CONCURRENCY);
        self
    }

    /// Sets the number of attempts after which an event becomes a dead letter. At least one; default: 12.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = attempts.max(1);
        self
    }

    /// Sets the pause between two attempts: a random time up to `first` after the first attempt, up to twice as long
    /// after each further one, and at most `longest`. Default: a second, and an hour.
    pub fn backoff(mut self, first: Duration, longest: Duration) -> Self {
        self.backoff = Backoff { first: first.min(CENTURY), longest: longest.min(CENTURY) };
        self
    }

    /// Limits the time of one attempt: then the handler is dropped, and the attempt has failed. At least a millisecond;
    /// default: 5 minutes.
    pub fn max_handler_time(mut self, time: Duration) -> Self {
        self.max_handler_time = time.clamp(MILLISECOND, CENTURY);
        self
    }

    /// Sets the length of a lease. The lease of a running handler is renewed in time. Also the shortest time until a
    /// crashed process's event is leased again. At least a second; default: 30 seconds.
    pub fn lease(mut self, length: Duration) -> Self {
        self.lease = length.clamp(Duration::from_secs(1), CENTURY);
        self
    }

    /// Sets the longest pause between two looks for due events, without a hint from the inbox. At least a millisecond;
    /// default: a second.
    pub fn poll(mut self, every: Duration) -> Self {
        self.poll = every.clamp(MILLISECOND, CENTURY);
        self
    }

    /// Sets how long done events and dead letters are kept before the worker prunes them. Default: bodies for a week, done
    /// rows for thirty days, dead letters without end.
    pub fn retention(mut self, retention: Retention) -> Self {
        let Retention { payload, row, dead } = retention;
        self.retention = Retention {
            payload: payload.min(CENTURY),
            row: row.min(CENTURY),
            dead: dead.map(|dead| dead.min(CENTURY)),
        };
        self
    }

    /// Calls a closure for each dead letter, after the row is committed: to tell somebody, for example.
    ///
    /// Only a hint. The worker that settles the row calls the closure once, and nobody calls it again. It is not called if
    /// the process ends before, if the reply to the write is lost until the lease ends, as in an outage of the store, if the
    /// row is settled after the grace of a shutdown, or for a row that cannot be read, and so cannot be leased. It is also
    /// called, although the row is not dead, for an event without a final status whose job is registered during its last
    /// attempt: that job is expected again. So watch [`InboxStats::dead`](crate::inbox::InboxStats::dead), too.
    ///
    /// - Whatever made the dead letter, the closure is called: a permanent failure, the last attempt, also one that did
    ///   not end, an event that this version cannot read, or fetches without a result. Under [`Verification::Fetch`], that
    ///   includes expected jobs that are given up. A [`Reconciler`](crate::Reconciler) of your own has
    ///   [a closure of its own](crate::Reconciler::on_dead_letter).
    /// - An error or a panic of the closure is logged, and does not change the row.
    /// - The closure has 10 seconds, then it is dropped at its next await. Until it returns, the event still counts as one
    ///   that is [handled at once](Self::concurrency) or fetched, of which there are few: hand slow work to a task. A
    ///   shutdown waits for it, and counts it as unfinished if it does not return within the grace.
    /// - A replayed event that dies again is another dead letter.
    ///
    /// # Examples
    ///
    /// ```
    /// use qomplement_webhooks::inbox::DeadLetter;
    /// use qomplement_webhooks::{BoxError, InboxWorker};
    ///
    /// async fn send_mail(text: String) -> Result<(), BoxError> {
    ///     // …
    /// #   drop(text);
    ///     Ok(())
    /// }
    ///
    /// # fn app(worker: InboxWorker) -> InboxWorker {
    /// worker.on_dead_letter(|letter: DeadLetter| send_mail(format!("{}: {}", letter.job, letter.error)))
    /// # }
    /// ```
    pub fn on_dead_letter<F, Fut>(mut self, closure: F) -> Self
    where
        F: Fn(DeadLetter) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        self.on_dead_letter = DeadLetterHook::new(closure);
        self
    }

    /// Starts the worker on the current tokio runtime.
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime.
    pub fn start(self) -> RunningWorker {
        let drain = Arc::new(Drain::default());
        let fetcher = match &self.verification {
            Verification::Trust => None,
            Verification::Fetch(source) => Some(Arc::new(Fetcher::new(source.clone()))),
        };
        if let Some(fetcher) = &fetcher {
            let (inbox, hook) = (self.inbox.clone(), self.on_dead_letter.clone());
            tokio::spawn(Reconciling::of_inbox(inbox, fetcher.clone(), hook, drain.clone()).run());
        }
        tokio::spawn(prune(self.inbox.clone(), self.retention, drain.clone()));
        let leasing = Leasing::new(self, fetcher, drain.clone());
        #[cfg(feature = "metrics")]
        tokio::spawn(sampling::sample(leasing.clone(), drain.clone()));
        tokio::spawn(leasing.run());
        RunningWorker { drain }
    }
}

impl RunningWorker {
    /// Stops the worker: leases no more events, waits up to `grace` for the handlers that run, then drops the rest and
    /// releases their events, for another worker to lease at once. Their attempts are not counted. Returns the number of
    /// unfinished events; a call that leases events and got no answer yet counts as one.
    ///
    /// Takes up to a second longer than `grace`. Await it before the runtime ends.
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
            .field("on_dead_letter", &self.on_dead_letter)
            .finish_non_exhaustive()
    }
}
