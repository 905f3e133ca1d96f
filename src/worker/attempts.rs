//! Leases what is due, handles it, and records what came of it.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep};
use tracing::{Instrument, Span, debug, error, info, warn};

use super::InboxWorker;
use super::verify::Verified;
use crate::error::chain;
use crate::event::WebhookEvent;
use crate::execution::backoff::jittered;
use crate::execution::drain::{Drain, UnderWay};
use crate::execution::isolation::{call, isolate, until};
use crate::execution::lease::{HeldLease, Leases, Renew, Times};
use crate::execution::run::{Run, Runs};
use crate::fetch::fetcher::Asker;
use crate::handler::dispatch;
use crate::inbox::{InboxStore, Lease, Leased, Outcome};
use crate::store::{Fenced, StoreError};
use crate::telemetry;

/// How often finished rows are pruned.
const PRUNE_EVERY: Duration = Duration::from_secs(60);
/// How long the store is left alone after it failed; it doubles up to the longest.
const STORE_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_STORE_PAUSE: Duration = Duration::from_secs(5);
/// The pause after a hint that there is something when there was nothing: a store that hints all the time must not be
/// asked all the time.
const HINT_PAUSE: Duration = Duration::from_millis(10);
/// How many events at most wait for the API at once, whatever the concurrency: what it will not be asked for soon
/// stays in the inbox, where any worker sees it.
const MOST_UNVERIFIED: usize = 16;
/// The pause before recording an outcome again; it doubles.
pub(super) const RECORD_AGAIN: Duration = Duration::from_millis(100);

/// A worker at work.
pub(super) struct Worker {
    pub(super) settings: InboxWorker,
    leases: Arc<Leases<Heartbeats>>,
    /// Who is asked what became of a job, if nobody else is believed.
    asker: Option<Arc<Asker>>,
    /// One permit per event that may be handled.
    room: Arc<Semaphore>,
    /// One permit per event that may be leased and not yet verified.
    unverified: Arc<Semaphore>,
    runs: Runs,
    pub(super) drain: Arc<Drain>,
}

/// What a worker does after it has leased.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    /// There may be more.
    Lease,
    /// There was no more.
    Wait,
    /// There was nothing.
    WaitForFirst,
    /// The store failed.
    Pause,
}

/// The right to lease an event and to handle it.
struct Room {
    handling: OwnedSemaphorePermit,
    /// For as long as it may have to be verified.
    unverified: Option<OwnedSemaphorePermit>,
}

/// Renews the leases of running handlers.
#[derive(Debug)]
pub(super) struct Heartbeats {
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
    pub(super) fn new(settings: InboxWorker, asker: Option<Arc<Asker>>, drain: Arc<Drain>) -> Arc<Self> {
        let lease = settings.lease;
        let heartbeats = Heartbeats { inbox: settings.inbox.clone(), lease };
        let times = Times { lease, renew_every: lease / 3, call: lease / 3, tick: lease / 20 };
        Arc::new(Self {
            leases: Leases::new(heartbeats, times),
            asker,
            room: Arc::new(Semaphore::new(settings.concurrency)),
            unverified: Arc::new(Semaphore::new(MOST_UNVERIFIED)),
            runs: Runs::new(drain.clone(), settings.max_handler_time),
            drain,
            settings,
        })
    }

    /// Leases what there is room for, until the shutdown.
    pub(super) async fn run(self: Arc<Self>) {
        let mut pause = STORE_PAUSE;
        let mut hinted = false;
        while let Some(rooms) = self.rooms().await {
            let next = self.clone().lease(rooms).await;
            match next {
                Next::Lease => {}
                Next::Wait | Next::WaitForFirst => {
                    let in_vain = hinted && next == Next::WaitForFirst;
                    let hint = pin!(self.hint(if in_vain { HINT_PAUSE } else { Duration::ZERO }));
                    let unhinted = || async {
                        tokio::select! {
                            () = sleep(jittered(self.settings.poll)) => {}
                            () = self.drain.closed() => {}
                        }
                    };
                    hinted = until(hint, unhinted).await.is_ok();
                }
                Next::Pause => tokio::select! {
                    () = sleep(jittered(pause)) => {}
                    () = self.drain.closed() => return,
                },
            }
            pause = if next == Next::Pause { LONGEST_STORE_PAUSE.min(pause * 2) } else { STORE_PAUSE };
        }
    }

    /// Waits until the store says that there may be an event; a store whose hint panics never does.
    async fn hint(&self, pause: Duration) {
        if pause > Duration::ZERO {
            sleep(pause).await;
        }
        if isolate(self.settings.inbox.wait()).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// All the room that there is for events, and that is at least for one; `None` at the shutdown.
    async fn rooms(&self) -> Option<Vec<Room>> {
        let first = async {
            let handling = self.room.clone().acquire_owned().await.ok()?;
            let unverified = match &self.asker {
                Some(_) => Some(self.unverified.clone().acquire_owned().await.ok()?),
                None => None,
            };
            Some(Room { handling, unverified })
        };
        let first = tokio::select! {
            room = first => room?,
            () = self.drain.closed() => return None,
        };
        let others = std::iter::from_fn(|| {
            let handling = self.room.clone().try_acquire_owned().ok()?;
            let unverified = match &self.asker {
                Some(_) => Some(self.unverified.clone().try_acquire_owned().ok()?),
                None => None,
            };
            Some(Room { handling, unverified })
        });
        Some(std::iter::once(first).chain(others).collect())
    }

    /// Leases as many events as there is room for, and begins to handle them.
    async fn lease(self: Arc<Self>, rooms: Vec<Room>) -> Next {
        // What is being leased is under way: a shutdown waits until it is given back.
        let Some(under_way) = self.drain.enter() else { return Next::Wait };
        let (most, since) = (rooms.len(), Instant::now());
        let lease = self.settings.inbox.lease(most, self.settings.lease);
        match call(|| since + self.settings.lease / 3, lease).await {
            Ok(leased) => {
                let next = match leased.len() {
                    0 => Next::WaitForFirst,
                    some if some < most => Next::Wait,
                    _ => Next::Lease,
                };
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

    fn spawn(self: Arc<Self>, leased: Leased, since: Instant, room: Room, under_way: UnderWay) {
        let span = telemetry::attempt_span(leased.lease.job(), leased.attempt);
        let attempt = async move {
            let Room { handling, unverified } = room;
            self.attempt(leased, since, unverified).await;
            drop((handling, under_way));
        };
        tokio::spawn(attempt.instrument(span));
    }

    /// Handles one leased event, and records what came of it.
    async fn attempt(&self, leased: Leased, since: Instant, unverified: Option<OwnedSemaphorePermit>) {
        let lease = leased.lease.clone();
        let held = self.leases.hold(&lease, since);
        let outcome = if self.drain.is_closed() {
            Some(Outcome::Release { after: Duration::ZERO })
        } else {
            self.handle(leased, &held, unverified).await
        };
        let lease_ends = held.stop().await;
        if let Some(outcome) = outcome {
            telemetry::attempt(&outcome);
            self.settle(&lease, &outcome, lease_ends).await;
        }
    }

    /// What came of an event; `None` if it is no longer ours.
    async fn handle(
        &self,
        mut leased: Leased,
        held: &HeldLease<Heartbeats>,
        unverified: Option<OwnedSemaphorePermit>,
    ) -> Option<Outcome> {
        let InboxWorker { max_attempts, backoff, max_handler_time, .. } = self.settings;
        let Leased { attempt, earlier_attempts, expired, begun, .. } = leased;
        if self.runs.are_of(leased.lease.job()) {
            return Some(self.still_running());
        }
        // Only the last attempt is begun: an event is dead after it, and not when as many leases got lost on the way to
        // their workers, or the limit is lower than it was.
        if expired && begun && attempt > max_attempts {
            error!("the last attempt did not end, and there is no other: the event is dead");
            let last = attempt.saturating_sub(1);
            let error = match last {
                _ if last == max_attempts => format!("attempt {last} of {max_attempts} did not end"),
                // After leases that got lost, or under a limit that is lower than it was.
                _ => format!("attempt {last} did not end, and the limit is {max_attempts}"),
            };
            return Some(Outcome::Dead { error });
        }
        if expired {
            let after = backoff.after(attempt.saturating_sub(1));
            warn!(?after, "the attempt before did not end, as when its process dies; trying again later");
            return Some(Outcome::Release { after });
        }
        if let Some(asker) = &self.asker
            && !leased.verified
        {
            match self.verify(asker, &leased, held).await {
                Verified::By(event) => leased.body = event.body().clone(),
                Verified::Not(outcome) => return Some(outcome),
                Verified::LeaseLost => return None,
            }
        }
        drop(unverified);
        let Leased { lease, body, .. } = leased;
        let event = match WebhookEvent::try_from(body) {
            Ok(event) => Box::new(event.leased(attempt.saturating_add(earlier_attempts), lease.fence())),
            Err(error) => {
                error!(error = %chain(&error), "this version cannot read the event: it is dead");
                return Some(Outcome::Dead { error: chain(&error) });
            }
        };
        Span::current().record(telemetry::EVENT, event.name());

        // Meanwhile a shutdown may have begun.
        if self.drain.is_closed() {
            return Some(Outcome::Release { after: Duration::ZERO });
        }
        if attempt >= max_attempts
            && let Err(outcome) = self.begin(&lease, held).await
        {
            return outcome;
        }
        let run = self.runs.run(lease.job(), held, dispatch(&*self.settings.handler, event)).await;
        let failure = match run {
            Run::Returned(Ok(())) => return Some(Outcome::Done),
            Run::Returned(Err(failure)) if failure.is_permanent() => {
                let error = chain(failure.source());
                error!(%error, "the handler failed for good: the event is dead");
                return Some(Outcome::Dead { error });
            }
            Run::LeaseLost => return None,
            Run::StillRunning => return Some(self.still_running()),
            Run::Aborted => {
                warn!("the handler was dropped, or not begun: the shutdown ran out of grace");
                return Some(Outcome::Release { after: Duration::ZERO });
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

    /// Leaves an event alone whose handler runs here, under a lease that ran out by the store's clock. The handler's end,
    /// or that of its lease by the clock here, comes first.
    fn still_running(&self) -> Outcome {
        error!("the event was leased again while its handler runs here: it is not started a second time");
        Outcome::Release { after: self.settings.lease }
    }

    /// Notes that the handler begins, again and again for as long as the lease is held. An error is what comes of the
    /// event instead.
    async fn begin(&self, lease: &Lease, held: &HeldLease<Heartbeats>) -> Result<(), Option<Outcome>> {
        let begins = pin!(async {
            let mut pause = RECORD_AGAIN;
            loop {
                let begun = self.settings.inbox.begin(lease);
                match call(|| Instant::now() + self.settings.lease / 3, begun).await {
                    Ok(Fenced::Applied) => return Ok(()),
                    Ok(Fenced::Stale) => {
                        error!("the event has been leased again, or replaced, before its handler began");
                        return Err(None);
                    }
                    Err(error) => {
                        warn!(error = %chain(&error), "that the last attempt begins was not recorded; trying again");
                    }
                }
                sleep(pause).await;
                pause = (pause * 2).min(self.settings.lease);
            }
        });
        let ended = || async {
            tokio::select! {
                () = held.lost() => Err(None),
                () = self.drain.aborted() => Err(Some(Outcome::Release { after: Duration::ZERO })),
            }
        };
        until(begins, ended).await.unwrap_or_else(|ended| ended)
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
    pub(super) async fn prune(self: Arc<Self>) {
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
