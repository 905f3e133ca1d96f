//! Asks the API for the jobs whose webhook never came.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tracing::{Instrument, debug, error, info, warn};

use crate::ask::{Asker, HORIZON, Verdict};
use crate::backoff::{Backoff, jittered};
use crate::drain::{Drain, UnderWay};
use crate::guard::{call, chain};
use crate::inbox::{InboxStore, Lease, Outcome, Overdue, Unfinished};
use crate::jobs::JobSource;
use crate::store::Fenced;
use crate::telemetry;

/// How many jobs are asked for at once.
const AT_ONCE: usize = 4;
/// For how long a job is leased: longer than it takes to ask for it and to record the answer.
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
/// How long nothing is asked after there was no answer: of the backlog, or of the API.
const BACKLOG_PAUSE: Backoff = Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(5) };
const SOURCE_PAUSE: Backoff = Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(5 * 60) };

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
/// - There is no answer, or the key is refused: nothing is asked for a second to five minutes, twice as long each time,
///   and no job is given up for this within 72 hours of its deadline.
///
/// Four jobs are asked for at once. Any number of processes may reconcile one inbox: a job is asked for by one of
/// them. A webhook for a job that died here is received as the first one.
///
/// A worker that verifies with [`Verification::Fetch`](crate::Verification::Fetch) reconciles its inbox by itself.
///
/// # Examples
///
/// ```no_run
/// # async fn app(client: impl qomplement_webhooks::JobSource + Clone) -> Result<(), Box<dyn std::error::Error>> {
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
        let (mut backlog_failures, mut source_failures) = (0, 0);
        while let Some(under_way) = this.drain.enter() {
            let overdue = pin!(this.inbox.overdue(AT_ONCE, LEASE));
            let pause = match call(|| Instant::now() + CALL_TIME, overdue).await {
                Ok(overdue) if overdue.is_empty() => {
                    drop(under_way);
                    backlog_failures = 0;
                    jittered(POLL)
                }
                Ok(overdue) => {
                    backlog_failures = 0;
                    if this.clone().ask_all(overdue, under_way).await {
                        source_failures = 0;
                        Duration::ZERO
                    } else {
                        source_failures += 1;
                        SOURCE_PAUSE.at_least(source_failures)
                    }
                }
                Err(error) => {
                    drop(under_way);
                    error!(error = %chain(&error), "it cannot be found out which jobs are overdue; trying again");
                    backlog_failures += 1;
                    BACKLOG_PAUSE.at_least(backlog_failures)
                }
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = this.drain.closed() => {}
            }
        }
    }

    /// Asks for jobs, all at once, and returns whether there was any answer.
    async fn ask_all(self: Arc<Self>, overdue: Vec<Overdue>, under_way: UnderWay) -> bool {
        let mut asking = JoinSet::new();
        for overdue in overdue {
            let span = telemetry::ask_span(overdue.lease.job());
            asking.spawn(self.clone().ask(overdue, under_way.more()).instrument(span));
        }
        drop(under_way);
        let answered = asking.join_all().await;
        answered.contains(&true)
    }

    /// Asks for a job, records what comes of it, and returns whether there was an answer.
    async fn ask(self: Arc<Self>, overdue: Overdue, _under_way: UnderWay) -> bool {
        let Overdue { lease, asked, late } = &overdue;
        let verdict = tokio::select! {
            biased;
            verdict = self.asker.ask(lease.job(), *asked, *late, Some(self.horizon)) => verdict,
            () = self.drain.aborted() => Verdict::Settle(Outcome::GiveBack { after: Duration::ZERO }),
        };
        let answered =
            !matches!(&verdict, Verdict::Settle(Outcome::AskAgain { answer: Unfinished::Failed { .. }, .. }));
        self.record(lease, &verdict).await;
        answered
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
