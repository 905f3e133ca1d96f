//! Fetches the jobs whose webhook never came.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tracing::{Instrument, Span, debug, error, info, warn};

use crate::error::{BoxError, chain};
use crate::execution::backoff::{Backoff, jittered};
use crate::execution::drain::{Drain, UnderWay};
use crate::execution::isolation::{CallError, call, until};
use crate::execution::lease::{Leases, Renew, Times};
use crate::execution::retry::{Retry, Written};
use crate::fetch::JobSource;
use crate::fetch::fetcher::{Fetcher, HORIZON, Verdict};
use crate::inbox::{DeadLetter, DeadLetterHook, InboxStore, Lease, Outcome, Overdue};
use crate::store::{Fenced, StoreError};
use crate::telemetry;

/// The most jobs that are fetched at once.
const AT_ONCE: usize = 4;
/// The length of a lease on an overdue job. The lease is renewed while the job is fetched.
const LEASE: Duration = Duration::from_secs(120);
/// The time limit of the call that leases overdue jobs.
const CALL_TIME: Duration = Duration::from_secs(30);
/// A lease is renewed every third of its length; a renewal that fails is repeated every tick.
const TIMES: Times = Times {
    lease: LEASE,
    renew_every: Duration::from_secs(40),
    call: Duration::from_secs(10),
    tick: Duration::from_secs(6),
};
/// The longest time of recording, so that rows which cannot be written do not keep other jobs from being fetched.
const RECORD_TIME: Duration = Duration::from_secs(30);
/// How the result of a fetch is recorded. If no call succeeds, the job is overdue again when its lease ends.
const RECORD: Retry = Retry::under(RECORD_TIME, Duration::from_secs(10), Duration::from_secs(1));
/// The pause when no job is overdue.
const POLL: Duration = Duration::from_secs(1);
/// The pause after the inbox failed.
const INBOX_PAUSE: Backoff = Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(5) };

/// Fetches expected jobs whose webhook never came, and puts their events on the path that a webhook takes.
///
/// The sender gives up 15 seconds after its first delivery, but the result stays at the API. A job that was registered
/// with [`expect`](InboxStore::expect), and whose event has not come by its deadline, is fetched until it has ended:
///
/// - The job has ended: its event is stored as verified, and handled by the [`InboxWorker`](crate::InboxWorker), once. A
///   webhook that arrives during the fetch wins: then the fetched event is dropped.
/// - The job has not ended: it is fetched again after 2 to 60 seconds, twice as long each time. 24 hours after its
///   deadline, unless [`horizon`](Self::horizon) says otherwise, the job becomes a dead letter with this as its error.
/// - The API does not know the job: it is fetched again every two and a half minutes. After five such answers over ten
///   minutes, it becomes a dead letter.
/// - The fetch fails for this job: it is fetched again after a second to five minutes, twice as long each time. 72 hours
///   after the first such fetch, the job becomes a dead letter.
/// - Each of these pauses is lengthened at random by up to a quarter.
/// - The API fails for all jobs, as when it cannot be reached or refuses the key: no job is fetched for a while, as
///   [`RequestBudget`](crate::fetch::RequestBudget) describes; a source without a budget is treated the same. The
///   requests that fail meanwhile count towards the 72 hours of their jobs.
///
/// Four jobs are fetched at once, those with the fewest fetches first. Any number of processes may reconcile one inbox:
/// one of them fetches a job. A webhook of a job that became a dead letter here is received like the first one.
///
/// A worker with [`Verification::Fetch`](crate::Verification::Fetch) reconciles its inbox by itself.
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
#[must_use = "no job is fetched before `start`"]
pub struct Reconciler {
    inbox: Arc<dyn InboxStore>,
    source: Arc<dyn JobSource>,
    horizon: Duration,
    on_dead_letter: DeadLetterHook,
}

/// A started reconciler. Dropping it does not stop the reconciler.
#[derive(Debug)]
#[must_use = "a reconciler that nobody shuts down drops its fetches when the runtime ends"]
pub struct RunningReconciler {
    drain: Arc<Drain>,
}

impl Reconciler {
    /// Configures a reconciler for the expected jobs of an inbox.
    pub fn new(inbox: impl InboxStore, source: impl JobSource) -> Self {
        Self {
            inbox: Arc::new(inbox),
            source: Arc::new(source),
            horizon: HORIZON,
            on_dead_letter: DeadLetterHook::default(),
        }
    }

    /// Gives up on a job that has not ended this long after its deadline. Default: 24 hours. Has no effect on a worker
    /// with [`Verification::Fetch`](crate::Verification::Fetch), which uses the default.
    pub fn horizon(mut self, after_deadline: Duration) -> Self {
        self.horizon = after_deadline;
        self
    }

    /// Calls a closure for each job that the reconciler gives up, as
    /// [`InboxWorker::on_dead_letter`](crate::InboxWorker::on_dead_letter) does for the dead letters of a worker, and with
    /// the same limits.
    pub fn on_dead_letter<F, Fut>(mut self, closure: F) -> Self
    where
        F: Fn(DeadLetter) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        self.on_dead_letter = DeadLetterHook::new(closure);
        self
    }

    /// Starts the reconciler on the current tokio runtime.
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime.
    pub fn start(self) -> RunningReconciler {
        let drain = Arc::new(Drain::default());
        let fetcher = Arc::new(Fetcher::new(self.source));
        let Self { inbox, horizon, on_dead_letter, .. } = self;
        tokio::spawn(Reconciling::new(inbox, fetcher, horizon, on_dead_letter, drain.clone()).run());
        RunningReconciler { drain }
    }
}

impl RunningReconciler {
    /// Stops the reconciler: starts no fetch, waits up to `grace` for the fetches under way, then drops the rest; their
    /// jobs are overdue again at once. Returns the number of dropped fetches.
    ///
    /// Takes up to a second longer than `grace`. Await it before the runtime ends.
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
            .field("on_dead_letter", &self.on_dead_letter)
            .finish()
    }
}

/// A reconciler at work.
#[derive(Debug)]
pub(crate) struct Reconciling {
    inbox: Arc<dyn InboxStore>,
    leases: Arc<Leases<Renewals>>,
    fetcher: Arc<Fetcher>,
    horizon: Duration,
    on_dead_letter: DeadLetterHook,
    drain: Arc<Drain>,
}

/// Renews the leases of jobs that are fetched or wait for the budget.
#[derive(Debug)]
struct Renewals {
    inbox: Arc<dyn InboxStore>,
}

#[async_trait]
impl Renew for Renewals {
    type Token = (Lease, Span);

    fn span((_, span): &(Lease, Span)) -> Span {
        span.clone()
    }

    async fn renew(&self, (lease, _): &(Lease, Span)) -> Result<Fenced, StoreError> {
        self.inbox.renew(lease, LEASE).await
    }

    fn log_passed_on(&self) {
        debug!("the job's webhook arrived during the fetch; dropping the fetch");
    }
}

impl Reconciling {
    fn new(
        inbox: Arc<dyn InboxStore>,
        fetcher: Arc<Fetcher>,
        horizon: Duration,
        on_dead_letter: DeadLetterHook,
        drain: Arc<Drain>,
    ) -> Self {
        let leases = Leases::new(Renewals { inbox: inbox.clone() }, TIMES);
        Self { inbox, leases, fetcher, horizon, on_dead_letter, drain }
    }

    /// The reconciler of a worker's inbox.
    pub(crate) fn of_inbox(
        inbox: Arc<dyn InboxStore>,
        fetcher: Arc<Fetcher>,
        on_dead_letter: DeadLetterHook,
        drain: Arc<Drain>,
    ) -> Self {
        Self::new(inbox, fetcher, HORIZON, on_dead_letter, drain)
    }

    /// Fetches overdue jobs, a few at a time, until the shutdown.
    pub(crate) async fn run(self) {
        let this = Arc::new(self);
        let mut fetching = JoinSet::new();
        let (mut look, mut failures) = (Instant::now(), 0);
        loop {
            this.fetcher.report_budget();
            tokio::select! {
                biased;
                () = this.drain.closed() => break,
                Some(fetched) = fetching.join_next() => {
                    if let Ok(Some(closed_for)) = fetched {
                        look = look.max(Instant::now() + closed_for);
                    }
                    continue;
                }
                () = sleep_until(look), if fetching.len() < AT_ONCE => {}
            }
            let Some(under_way) = this.drain.enter() else { break };
            let (room, since) = (AT_ONCE - fetching.len(), Instant::now());
            let pause = match call(|| since + CALL_TIME, || this.inbox.overdue(room, LEASE)).await {
                Ok(overdue) => {
                    failures = 0;
                    let more = overdue.len() >= room;
                    for overdue in overdue {
                        let span = telemetry::fetch_span(overdue.lease.job());
                        let fetch = this.clone().fetch(overdue, since, under_way.more());
                        fetching.spawn(fetch.instrument(span));
                    }
                    if more { Duration::ZERO } else { jittered(POLL) }
                }
                Err(error) => {
                    telemetry::store_error(telemetry::call::OVERDUE);
                    failures += 1;
                    let pause = INBOX_PAUSE.at_least(failures);
                    error!(error = %chain(&error), retry_in = ?pause, "overdue jobs could not be leased; retrying");
                    pause
                }
            };
            look = Instant::now() + pause;
        }
        // The fetches under way go on: the drain waits for them.
        fetching.detach_all();
    }

    /// Fetches a job whose lease began at `since`, and records the result. Returns how long no job can be fetched, if the
    /// budget of all jobs is closed.
    async fn fetch(
        self: Arc<Self>,
        overdue: Overdue,
        since: Instant,
        _under_way: UnderWay,
    ) -> Option<Duration> {
        let Overdue { lease, fetches, by } = &overdue;
        let passed_horizon = (*by >= self.horizon).then_some(self.horizon);
        let release = || Verdict::Settle(Outcome::Release { after: Duration::ZERO });
        let mut held = self.leases.hold((lease.clone(), Span::current()), since);
        // The reply of the lease may have come after the shutdown began.
        let verdict = if self.drain.is_closed() {
            release()
        } else if !held.is_held(Instant::now()) {
            // The process stood still since the lease began.
            return None;
        } else {
            // Dropped before the release is recorded: it may hold a place in the budget.
            let fetch = pin!(self.fetcher.fetch(lease.job(), *fetches, passed_horizon));
            let ended = || async {
                tokio::select! {
                    biased;
                    () = held.lost() => None,
                    () = self.drain.aborted() => Some(release()),
                }
            };
            match until(fetch, ended).await {
                Ok(verdict) => verdict,
                Err(ended) => ended?,
            }
        };
        // A renewal that is under way is stale after the record: the row's fencing token, or its state, is another then.
        self.record(lease, &verdict, held.stop_at_once()).await;
        match verdict {
            // The job was not fetched: the budget is closed.
            Verdict::Settle(Outcome::Release { after }) => self.fetcher.is_one_account().then_some(after),
            _ => None,
        }
    }

    /// Records the result of a fetch, with retries for [`RECORD_TIME`], and never past the lease's end.
    async fn record(&self, lease: &Lease, verdict: &Verdict, lease_ends: Instant) {
        let record = || match verdict {
            Verdict::Ended(event) => self.inbox.verify(lease, event),
            Verdict::Settle(outcome) => self.inbox.settle(lease, outcome),
        };
        let store_call = match verdict {
            Verdict::Ended(_) => telemetry::call::VERIFY,
            Verdict::Settle(_) => telemetry::call::SETTLE,
        };
        let failed = |error: CallError, pause: Duration| {
            telemetry::store_error(store_call);
            warn!(error = %chain(&error), retry_in = ?pause, "the result of the fetch was not recorded; retrying");
        };
        let record_until = lease_ends.min(Instant::now() + RECORD_TIME);
        match (RECORD.write(Some(record_until), record, failed).await, verdict) {
            (Written::Applied, Verdict::Ended(_)) => {
                info!("the job has ended and its webhook never came; fetched event stored");
            }
            (Written::Applied, Verdict::Settle(outcome)) => {
                debug!(?outcome, "outcome recorded");
                self.on_dead_letter.tell(lease.job(), outcome, &self.drain).await;
            }
            (Written::Stale, _) => debug!("the job's webhook arrived during the fetch; dropping the result"),
            (Written::LeaseEnds(error), _) => {
                telemetry::store_error(store_call);
                error!(
                    error = %chain(&error),
                    "the result of the fetch was not recorded; the job will be fetched again when its lease has ended"
                );
            }
        }
    }
}
