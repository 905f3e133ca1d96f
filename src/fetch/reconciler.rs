//! Asks the API for the jobs whose webhook never came.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{Instrument, debug, error, info, warn};

use crate::error::chain;
use crate::execution::backoff::{Backoff, jittered};
use crate::execution::drain::{Drain, UnderWay};
use crate::execution::isolation::{call, until};
use crate::fetch::JobSource;
use crate::fetch::fetcher::{Asker, HORIZON, Verdict};
use crate::inbox::{InboxStore, Lease, Outcome, Overdue};
use crate::store::Fenced;
use crate::telemetry;

/// How many jobs are asked for at once.
const AT_ONCE: usize = 4;
/// For how long a job is leased. The lease is renewed while the job is asked for.
const LEASE: Duration = Duration::from_secs(120);
/// How long the backlog may take to say what is overdue.
const CALL_TIME: Duration = Duration::from_secs(30);
/// How often it is tried to record what came of a job, and how long one try may take. When all fail, the job is
/// overdue again when its lease ends.
const TRIES: u32 = 3;
const TRY_TIME: Duration = Duration::from_secs(10);
/// The pause between two tries.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// How often the backlog is asked when nothing was overdue.
const POLL: Duration = Duration::from_secs(1);
/// The same after the backlog did not answer.
const BACKLOG_PAUSE: Backoff = Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(5) };

/// Asks the API for expected jobs whose webhook never came, and puts what it says on the path that a webhook takes.
///
/// The sender gives up 15 seconds after its first try, but the result stays at the API. A job that was registered
/// with [`expect`](InboxStore::expect) and whose event has not come by its deadline is asked for, until it has ended:
///
/// - It has ended: its event is received as verified, and handled by the [`InboxWorker`](crate::InboxWorker), once. A webhook
///   that arrives meanwhile wins: then what the API said is dropped.
/// - It has not: it is asked for again after 2 to 60 seconds, twice as long each time. 24 hours after its deadline,
///   unless [`horizon`](Self::horizon) says otherwise, the job is dead, with this as its error: visible, and never
///   silent.
/// - The API does not know it: it is asked for again every two and a half minutes. When the API did not know it
///   five times over ten minutes, it is dead.
/// - There is no answer for it: it is asked for again after a second to five minutes, twice as long each time. 72 hours
///   after the first fetch without an answer, it is dead.
/// - The API fails for all, as when it cannot be reached or refuses the key: nothing is asked for a while, which
///   [`RequestBudget`](crate::fetch::RequestBudget) describes; a source without a budget is treated the same.
///
/// Four jobs are asked for at once, those that were fetched least often first. Any number of processes may reconcile one inbox: a job is asked for by one of
/// them. A webhook for a job that died here is received as the first one.
///
/// A worker that verifies with [`Verification::Fetch`](crate::Verification::Fetch) reconciles its inbox by itself.
///
/// # Examples
///
/// ```no_run
/// # async fn app(client: impl qomplement_webhooks::fetch::JobSource + Clone) -> Result<(), Box<dyn std::error::Error>> {
/// # let handler = qomplement_webhooks::handler_fn(|_| async { Ok(()) });
/// # let submitted = "550e8400-e29b-41d4-a716-446655440000";
/// use std::time::Duration;
/// use qomplement_webhooks::{InboxStore, InboxWorker, MemoryInbox, Reconciler, Verification};
///
/// let inbox = MemoryInbox::new();
/// let worker = InboxWorker::new(inbox.clone(), handler, Verification::Trust).start();
/// let reconciler = Reconciler::new(inbox.clone(), client).start();
///
/// // After a job was submitted:
/// inbox.expect(&submitted.parse()?, Duration::from_secs(15 * 60)).await?;
/// # Ok(()) }
/// ```
#[must_use = "nothing is asked for before `start`"]
pub struct Reconciler {
    inbox: Arc<dyn InboxStore>,
    source: Arc<dyn JobSource>,
    horizon: Duration,
}

/// A reconciler that was started. Dropping it does not stop it.
#[derive(Debug)]
pub struct RunningReconciler {
    drain: Arc<Drain>,
}

impl Reconciler {
    /// Configures a reconciler of the expected jobs of an inbox.
    pub fn new(inbox: impl InboxStore, source: impl JobSource) -> Self {
        Self { inbox: Arc::new(inbox), source: Arc::new(source), horizon: HORIZON }
    }

    /// How long after its deadline a job is dead that has not ended by then. Default: 24 hours.
    pub fn horizon(mut self, after_deadline: Duration) -> Self {
        self.horizon = after_deadline;
        self
    }

    /// Starts the reconciler on the current tokio runtime.
    ///
    /// # Panics
    ///
    /// When it is not called in a runtime.
    pub fn start(self) -> RunningReconciler {
        let drain = Arc::new(Drain::default());
        let reconciling = Reconciling {
            inbox: self.inbox,
            asker: Arc::new(Asker::new(self.source)),
            horizon: self.horizon,
            drain: drain.clone(),
        };
        tokio::spawn(reconciling.run());
        RunningReconciler { drain }
    }
}

impl RunningReconciler {
    /// Stops the reconciler: asks for nothing more, waits up to `grace` for the answers under way, then drops what
    /// still is; those jobs are overdue again at once. Returns how many were dropped.
    ///
    /// It takes up to a second longer than `grace`. Await it before the runtime ends.
    pub async fn shutdown(&self, grace: Duration) -> usize {
        self.drain.finish(grace).await
    }
}

impl fmt::Debug for Reconciler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reconciler")
            .field("inbox", &self.inbox)
            .field("source", &self.source)
            .field("horizon", &self.horizon)
            .finish()
    }
}

/// A reconciler at work.
#[derive(Debug)]
pub(crate) struct Reconciling {
    inbox: Arc<dyn InboxStore>,
    asker: Arc<Asker>,
    horizon: Duration,
    drain: Arc<Drain>,
}

impl Reconciling {
    /// That of a worker's inbox.
    pub(crate) fn of_inbox(inbox: Arc<dyn InboxStore>, asker: Arc<Asker>, drain: Arc<Drain>) -> Self {
        Self { inbox, asker, horizon: HORIZON, drain }
    }

    /// Asks for what is overdue, a few jobs at a time, until the shutdown.
    pub(crate) async fn run(self) {
        let this = Arc::new(self);
        let mut asking = JoinSet::new();
        let (mut look, mut failures) = (Instant::now(), 0);
        loop {
            tokio::select! {
                biased;
                () = this.drain.closed() => break,
                Some(asked) = asking.join_next() => {
                    if let Ok(Some(closed_for)) = asked {
                        look = look.max(Instant::now() + closed_for);
                    }
                    continue;
                }
                () = sleep_until(look), if asking.len() < AT_ONCE => {}
            }
            let Some(under_way) = this.drain.enter() else { break };
            let room = AT_ONCE - asking.len();
            let overdue = pin!(this.inbox.overdue(room, LEASE));
            let pause = match call(|| Instant::now() + CALL_TIME, overdue).await {
                Ok(overdue) => {
                    failures = 0;
                    let more = overdue.len() >= room;
                    for overdue in overdue {
                        let span = telemetry::ask_span(overdue.lease.job());
                        asking.spawn(this.clone().ask(overdue, under_way.more()).instrument(span));
                    }
                    if more { Duration::ZERO } else { jittered(POLL) }
                }
                Err(error) => {
                    error!(error = %chain(&error), "it cannot be found out which jobs are overdue; trying again");
                    failures += 1;
                    BACKLOG_PAUSE.at_least(failures)
                }
            };
            look = Instant::now() + pause;
        }
        // The shutdown waits for them.
        asking.detach_all();
    }

    /// Asks for a job, records what comes of it, and returns for how long nothing is asked, if that is so.
    async fn ask(self: Arc<Self>, overdue: Overdue, _under_way: UnderWay) -> Option<Duration> {
        let Overdue { lease, fetches, late } = &overdue;
        let passed_horizon = (*late >= self.horizon).then_some(self.horizon);
        let asking = pin!(self.asker.ask(lease.job(), *fetches, passed_horizon));
        let ended = || async {
            tokio::select! {
                () = self.lease_lost(lease) => None,
                () = self.drain.aborted() => Some(Verdict::Settle(Outcome::Release { after: Duration::ZERO })),
            }
        };
        let verdict = match until(asking, ended).await {
            Ok(verdict) => verdict,
            Err(ended) => ended?,
        };
        self.record(lease, &verdict).await;
        match verdict {
            // The job was not asked for.
            Verdict::Settle(Outcome::Release { after }) => Some(after),
            _ => None,
        }
    }

    /// Renews a lease while its job waits for its turn, until it is no longer ours.
    async fn lease_lost(&self, lease: &Lease) {
        loop {
            sleep(LEASE / 3).await;
            let renewed = self.inbox.renew(lease, LEASE);
            match call(|| Instant::now() + TRY_TIME, renewed).await {
                Ok(Fenced::Applied) => {}
                Ok(Fenced::Stale) => return debug!("the job's webhook came while the job was asked for"),
                Err(error) => warn!(error = %chain(&error), "the lease on an overdue job was not renewed"),
            }
        }
    }

    async fn record(&self, lease: &Lease, verdict: &Verdict) {
        for tried in 1..=TRIES {
            let recorded = match verdict {
                Verdict::Ended(event) => self.inbox.verify(lease, event),
                Verdict::Settle(outcome) => self.inbox.settle(lease, outcome),
            };
            match call(|| Instant::now() + TRY_TIME, recorded).await {
                Ok(Fenced::Applied) => {
                    return match verdict {
                        Verdict::Ended(_) => {
                            info!("the job's webhook never came, but the job has ended: received");
                        }
                        Verdict::Settle(outcome) => debug!(?outcome, "recorded"),
                    };
                }
                Ok(Fenced::Stale) => return debug!("the job's webhook came while the job was asked for"),
                Err(error) => warn!(error = %chain(&error), "what became of the job was not recorded"),
            }
            if tried < TRIES {
                sleep(TRY_AGAIN).await;
            }
        }
        error!("what became of the job could not be recorded: it is asked for again");
    }
}
