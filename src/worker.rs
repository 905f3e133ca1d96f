//! Handles what is in an inbox.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep};
use tracing::{Instrument, Span, debug, error, info, warn};

use crate::drain::{Drain, UnderWay};
use crate::event::WebhookEvent;
use crate::guard::{call, chain, isolate};
use crate::handler::{WebhookHandler, dispatch};
use crate::inbox::{InboxStore, Lease, Leased, Outcome, Retention};
use crate::lease::{HeldLease, Leases, Renew, Times};
use crate::run::Run;
use crate::store::{Fenced, StoreError};
use crate::telemetry;

/// How often finished rows are pruned.
const PRUNE_EVERY: Duration = Duration::from_secs(60);
/// How long the store is left alone after it failed; it doubles up to the longest.
const STORE_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_STORE_PAUSE: Duration = Duration::from_secs(5);
/// The pause before recording an outcome again; it doubles.
const RECORD_AGAIN: Duration = Duration::from_millis(100);

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
/// - An attempt is counted when it begins, so that an event which kills its process is dead in the end. It is
///   not counted when a shutdown called it off.
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
    concurrency: usize,
    max_attempts: u32,
    backoff: Backoff,
    max_handler_time: Duration,
    lease: Duration,
    poll: Duration,
    retention: Retention,
}

/// Whether the handler gets what a webhook says, or what the API does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verification {
    /// The stored body is handed to the handler as it came. Whoever learns the token can forge it.
    Trust,
}

/// A worker that was started. Dropping it does not stop it.
#[derive(Debug)]
pub struct RunningWorker {
    drain: Arc<Drain>,
}

/// How long to wait between attempts: somewhere from nothing to a bound that doubles with each, so that what
/// failed together is not tried together.
#[derive(Debug, Clone, Copy)]
struct Backoff {
    first: Duration,
    longest: Duration,
}

impl InboxWorker {
    /// Configures a worker. An `inbox` may have any number of workers, in any number of processes.
    pub fn new(inbox: impl InboxStore, handler: impl WebhookHandler, verification: Verification) -> Self {
        let Verification::Trust = verification;
        Self {
            inbox: Arc::new(inbox),
            handler: Box::new(handler),
            concurrency: 16,
            max_attempts: 12,
            backoff: Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(60 * 60) },
            max_handler_time: Duration::from_secs(5 * 60),
            lease: Duration::from_secs(30),
            poll: Duration::from_secs(1),
            retention: Retention::default(),
        }
    }

    /// How many events are handled at once. At least one; default: 16.
    pub fn concurrency(mut self, events: usize) -> Self {
        self.concurrency = events.clamp(1, Semaphore::MAX_PERMITS);
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
        self.backoff = Backoff { first, longest };
        self
    }

    /// How long one run of the handler may take before it is dropped and counts as failed. Default: 5
    /// minutes.
    pub fn max_handler_time(mut self, time: Duration) -> Self {
        self.max_handler_time = time;
        self
    }

    /// For how long an event is leased; the lease of a running handler is renewed in time. So long does it
    /// take at least until the event of a process that died is free. At least a second; default: 30 seconds.
    pub fn lease(mut self, length: Duration) -> Self {
        self.lease = length.max(Duration::from_secs(1));
        self
    }

    /// How often the inbox is asked for events that are due when nothing says that there are any. At least a
    /// millisecond; default: a second.
    pub fn poll(mut self, every: Duration) -> Self {
        self.poll = every.max(Duration::from_millis(1));
        self
    }

    /// How long the worker keeps events that are done. Default: bodies for a week, rows for thirty days.
    pub fn retention(mut self, retention: Retention) -> Self {
        self.retention = retention;
        self
    }

    /// Starts the worker on the current tokio runtime.
    ///
    /// # Panics
    ///
    /// When it is not called in a runtime.
    pub fn start(self) -> RunningWorker {
        let drain = Arc::new(Drain::default());
        let heartbeats = Heartbeats { inbox: self.inbox.clone(), lease: self.lease };
        let times = Times {
            lease: self.lease,
            renew_every: self.lease / 3,
            call: self.lease / 3,
            tick: self.lease / 20,
        };
        let worker = Arc::new(Worker {
            leases: Leases::new(heartbeats, times),
            room: Arc::new(Semaphore::new(self.concurrency)),
            drain: drain.clone(),
            settings: self,
        });
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

struct Worker {
    settings: InboxWorker,
    leases: Arc<Leases<Heartbeats>>,
    /// One permit per event that may be handled.
    room: Arc<Semaphore>,
    drain: Arc<Drain>,
}

/// What a worker does after it has leased.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    /// There may be more.
    Lease,
    /// There was no more.
    Wait,
    /// The store failed.
    Pause,
}

/// Renews the leases of running handlers.
#[derive(Debug)]
struct Heartbeats {
    inbox: Arc<dyn InboxStore>,
    lease: Duration,
}

#[async_trait]
impl Renew for Heartbeats {
    type Token = Lease;

    async fn renew(&self, lease: &Lease) -> Result<Fenced, StoreError> {
        self.inbox.renew(lease, self.lease).await
    }
}

impl Worker {
    /// Leases what there is room for, until the shutdown.
    async fn run(self: Arc<Self>) {
        let mut pause = STORE_PAUSE;
        while let Some(rooms) = self.rooms().await {
            let next = self.clone().lease(rooms).await;
            match next {
                Next::Lease => {}
                Next::Wait => tokio::select! {
                    Ok(()) = isolate(self.settings.inbox.wait()) => {}
                    () = sleep(jittered(self.settings.poll)) => {}
                    () = self.drain.closed() => return,
                },
                Next::Pause => tokio::select! {
                    () = sleep(jittered(pause)) => {}
                    () = self.drain.closed() => return,
                },
            }
            pause = if next == Next::Pause { LONGEST_STORE_PAUSE.min(pause * 2) } else { STORE_PAUSE };
        }
    }

    /// All the room that there is for events, and that is at least for one; `None` at the shutdown.
    async fn rooms(&self) -> Option<Vec<OwnedSemaphorePermit>> {
        let first = tokio::select! {
            room = self.room.clone().acquire_owned() => room.ok()?,
            () = self.drain.closed() => return None,
        };
        let others = std::iter::from_fn(|| self.room.clone().try_acquire_owned().ok());
        Some(std::iter::once(first).chain(others).collect())
    }

    /// Leases as many events as there is room for, and begins to handle them.
    async fn lease(self: Arc<Self>, rooms: Vec<OwnedSemaphorePermit>) -> Next {
        // What is being leased is under way: a shutdown waits until it is given back.
        let Some(under_way) = self.drain.enter() else { return Next::Wait };
        let (most, since) = (rooms.len(), Instant::now());
        let lease = self.settings.inbox.lease(most, self.settings.lease);
        match call(|| since + self.settings.lease / 3, lease).await {
            Ok(leased) => {
                let next = if leased.len() < most { Next::Wait } else { Next::Lease };
                for (leased, room) in leased.into_iter().zip(rooms) {
                    self.clone().spawn(leased, since, room, under_way.more());
                }
                next
            }
            Err(error) => {
                error!(error = %chain(&error), "no event can be leased; trying again");
                Next::Pause
            }
        }
    }

    fn spawn(
        self: Arc<Self>,
        leased: Leased,
        since: Instant,
        room: OwnedSemaphorePermit,
        under_way: UnderWay,
    ) {
        let span = telemetry::attempt_span(leased.lease.job(), leased.attempt);
        let attempt = async move {
            self.attempt(leased, since).await;
            drop((room, under_way));
        };
        tokio::spawn(attempt.instrument(span));
    }

    /// Handles one leased event, and records what came of it.
    async fn attempt(&self, leased: Leased, since: Instant) {
        let lease = leased.lease.clone();
        let held = self.leases.hold(&lease, since);
        let outcome = if self.drain.is_closed() {
            Some(Outcome::GiveBack { after: Duration::ZERO })
        } else {
            self.handle(leased, &held).await
        };
        let lease_ends = held.stop().await;
        if let Some(outcome) = outcome {
            telemetry::attempt(&outcome);
            self.settle(&lease, &outcome, lease_ends).await;
        }
    }

    /// What came of an event; `None` if it is no longer ours.
    async fn handle(&self, leased: Leased, held: &HeldLease<Heartbeats>) -> Option<Outcome> {
        let InboxWorker { max_attempts, backoff, max_handler_time, .. } = self.settings;
        let Leased { lease, body, attempt, earlier_attempts, ran_out } = leased;
        if attempt > max_attempts {
            error!("the last attempt did not end, and there is no other: the event is dead");
            return Some(Outcome::Dead {
                error: format!("attempt {max_attempts} of {max_attempts} did not end"),
            });
        }
        if ran_out {
            let after = backoff.after(attempt.saturating_sub(1));
            warn!(?after, "the attempt before did not end, as when its process dies; trying again later");
            return Some(Outcome::GiveBack { after });
        }
        let event = match WebhookEvent::try_from(body) {
            Ok(event) => Box::new(event.leased(attempt + earlier_attempts, lease.sequence())),
            Err(error) => {
                error!(error = %chain(&error), "this version cannot read the event: it is dead");
                return Some(Outcome::Dead { error: chain(&error) });
            }
        };
        Span::current().record(telemetry::EVENT, event.name());

        let began = Instant::now();
        let handler = pin!(dispatch(&*self.settings.handler, event));
        let run = Run::of(handler, held, &self.drain, max_handler_time).await;
        telemetry::handler_run(run.result(), began);
        let failure = match run {
            Run::Returned(Ok(())) => return Some(Outcome::Done),
            Run::Returned(Err(failure)) if failure.is_permanent() => {
                let error = chain(failure.source());
                error!(%error, "the handler failed for good: the event is dead");
                return Some(Outcome::Dead { error });
            }
            Run::LeaseLost => return None,
            Run::Aborted => {
                warn!("the handler was dropped: the shutdown ran out of grace");
                return Some(Outcome::GiveBack { after: Duration::ZERO });
            }
            Run::Returned(Err(failure)) => chain(failure.source()),
            Run::Panicked(panicked) => panicked.to_string(),
            Run::TimedOut => format!("did not end within {max_handler_time:?}"),
        };
        if attempt >= max_attempts {
            error!(error = %failure, attempt, "the handler failed in its last attempt: the event is dead");
            return Some(Outcome::Dead { error: failure });
        }
        let after = backoff.after(attempt);
        warn!(error = %failure, attempt, ?after, "the handler failed; trying again later");
        Some(Outcome::Retry { after, error: failure })
    }

    /// Records an outcome, again and again for as long as the lease lasts.
    async fn settle(&self, lease: &Lease, outcome: &Outcome, lease_ends: Instant) {
        let mut pause = RECORD_AGAIN;
        loop {
            let settled = self.settings.inbox.settle(lease, outcome);
            match call(|| Instant::now() + self.settings.lease / 3, settled).await {
                Ok(Fenced::Applied) => return debug!(?outcome, "recorded"),
                Ok(Fenced::Stale) => {
                    return warn!(
                        "the event has been leased again, or replaced, before its outcome was recorded"
                    );
                }
                Err(error) => {
                    warn!(error = %chain(&error), "the outcome was not recorded; trying again");
                }
            }
            if Instant::now() + pause >= lease_ends {
                return error!("the outcome could not be recorded: the event is handled again");
            }
            sleep(pause).await;
            pause *= 2;
        }
    }

    /// Prunes what is done, now and then.
    async fn prune(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = sleep(jittered(PRUNE_EVERY)) => {}
                () = self.drain.closed() => return,
            }
            let mut more = true;
            while more {
                let pruned = self.settings.inbox.prune(&self.settings.retention);
                more = match call(|| Instant::now() + PRUNE_EVERY, pruned).await {
                    Ok(pruned) => {
                        let any = pruned.payloads + pruned.rows > 0;
                        if any {
                            info!(payloads = pruned.payloads, rows = pruned.rows, "pruned");
                        }
                        any
                    }
                    Err(error) => {
                        warn!(error = %chain(&error), "finished events cannot be pruned");
                        false
                    }
                };
            }
        }
    }
}

impl Backoff {
    /// How long to wait after so many attempts.
    fn after(self, attempts: u32) -> Duration {
        let doubled = 1u32.checked_shl(attempts.saturating_sub(1)).unwrap_or(u32::MAX);
        random_part(self.first.saturating_mul(doubled).min(self.longest))
    }
}

/// Somewhere between nothing and a duration.
fn random_part(whole: Duration) -> Duration {
    // Without randomness, the middle: late is better than at once.
    let random = getrandom::u32().unwrap_or(u32::MAX / 2) >> 16;
    whole / (1 << 16) * random
}

/// A duration, or up to a quarter less: what starts together should not stay together.
fn jittered(whole: Duration) -> Duration {
    whole - random_part(whole / 4)
}

impl fmt::Debug for InboxWorker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InboxWorker")
            .field("inbox", &self.inbox)
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
