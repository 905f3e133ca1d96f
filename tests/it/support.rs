//! Handlers that misbehave, and stores that fail.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use qomplement_webhooks::dedup::{Claim, ClaimToken};
use qomplement_webhooks::store::{Fenced, StoreError};
use qomplement_webhooks::{
    DedupStore, HandlerError, JobId, MemoryDedupStore, WebhookEvent, WebhookHandler, async_trait, handler_fn,
};
use tokio::sync::Notify;
use tokio::time::Instant;

pub const PATH: &str = "/api/webhooks/qomplement";
pub const TOKEN: &str = "4Kz0PhvXDXnKcQ9JvW5c8tqGpn7oYbRm2sLd1aTfEuI";

/// What the handler does on one run.
#[derive(Clone)]
pub enum Act {
    Succeed,
    Fail,
    FailForGood,
    Panic,
    /// Never returns.
    Hang,
    /// Takes so long, by tokio's clock.
    Take(Duration),
    /// Fails after so long.
    FailAfter(Duration),
    /// Uses up its task's budget at every poll, for half a minute by the machine's clock.
    Busy,
    /// Blocks its thread until the gate opens.
    Block(std::sync::mpsc::SyncSender<()>, Arc<Mutex<std::sync::mpsc::Receiver<()>>>),
    /// Says that it has begun, and returns when it may.
    Wait(Arc<Gate>),
}

/// Where a handler stops until a test lets it go on.
#[derive(Default)]
pub struct Gate {
    pub begun: Notify,
    pub go_on: Notify,
}

/// Acts by a script, the last act for ever, and notes what it was asked to do.
#[derive(Clone, Default)]
pub struct Script(Arc<ScriptState>);

#[derive(Default)]
struct ScriptState {
    acts: Mutex<Vec<Act>>,
    runs: Mutex<HashMap<JobId, usize>>,
    finished: AtomicUsize,
    running: AtomicUsize,
    most_running: AtomicUsize,
    running_jobs: Mutex<Vec<JobId>>,
    overlaps: AtomicUsize,
    changed: Notify,
}

/// Counts a run for as long as its future lives.
struct Running(Arc<ScriptState>, JobId);

impl Running {
    fn begin(state: &Arc<ScriptState>, job: &JobId) -> Self {
        *state.runs.lock().unwrap().entry(job.clone()).or_default() += 1;
        let running = state.running.fetch_add(1, Ordering::SeqCst) + 1;
        state.most_running.fetch_max(running, Ordering::SeqCst);
        let mut jobs = state.running_jobs.lock().unwrap();
        state.overlaps.fetch_add(usize::from(jobs.contains(job)), Ordering::SeqCst);
        jobs.push(job.clone());
        state.changed.notify_waiters();
        Self(state.clone(), job.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
        let mut jobs = self.0.running_jobs.lock().unwrap();
        let place = jobs.iter().position(|job| *job == self.1).unwrap();
        jobs.swap_remove(place);
        drop(jobs);
        self.0.changed.notify_waiters();
    }
}

impl Script {
    pub fn new(acts: impl IntoIterator<Item = Act>) -> Self {
        let script = Self::default();
        *script.0.acts.lock().unwrap() = acts.into_iter().collect();
        script
    }

    pub fn handler(&self) -> impl WebhookHandler {
        let state = self.0.clone();
        handler_fn(move |event: WebhookEvent| Self::run(state.clone(), event)).with_unrecognized()
    }

    async fn run(state: Arc<ScriptState>, event: WebhookEvent) -> Result<(), HandlerError> {
        let _running = Running::begin(&state, event.job().id());
        let act = {
            let mut acts = state.acts.lock().unwrap();
            if acts.len() > 1 { acts.remove(0) } else { acts.first().cloned().unwrap_or(Act::Succeed) }
        };
        match act {
            Act::Succeed => {}
            Act::Fail => return Err("not now".into()),
            Act::FailForGood => return Err(HandlerError::permanent("never")),
            Act::Panic => panic!("a handler's bug"),
            Act::Busy => busy().await,
            Act::Hang => std::future::pending().await,
            Act::Take(time) => tokio::time::sleep(time).await,
            Act::FailAfter(time) => {
                tokio::time::sleep(time).await;
                return Err("not now".into());
            }
            Act::Block(begun, go_on) => {
                begun.send(()).unwrap();
                go_on.lock().unwrap().recv().unwrap();
            }
            Act::Wait(gate) => {
                gate.begun.notify_one();
                gate.go_on.notified().await;
            }
        }
        state.finished.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    /// How often the handler was called.
    pub fn runs(&self) -> usize {
        self.0.runs.lock().unwrap().values().sum()
    }

    /// How often the handler was called for a job.
    pub fn runs_of(&self, job: &JobId) -> usize {
        self.0.runs.lock().unwrap().get(job).copied().unwrap_or_default()
    }

    /// How often a run began while another of the same job went on.
    pub fn overlaps(&self) -> usize {
        self.0.overlaps.load(Ordering::SeqCst)
    }

    /// How often it succeeded.
    pub fn finished(&self) -> usize {
        self.0.finished.load(Ordering::SeqCst)
    }

    pub fn running(&self) -> usize {
        self.0.running.load(Ordering::SeqCst)
    }

    /// The most runs at one time.
    pub fn most_running(&self) -> usize {
        self.0.most_running.load(Ordering::SeqCst)
    }

    /// Waits for a fact about the handler, at most a minute by tokio's clock.
    pub async fn until(&self, what: &str, fact: impl Fn(&Self) -> bool) {
        let wait = async {
            loop {
                let mut changed = std::pin::pin!(self.0.changed.notified());
                changed.as_mut().enable();
                if fact(self) {
                    return;
                }
                changed.await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), wait)
            .await
            .unwrap_or_else(|_| panic!("waited for: {what}"));
    }
}

/// Is always ready to go on, for half a minute by the machine's clock.
async fn busy() {
    let began = std::time::Instant::now();
    while began.elapsed() < Duration::from_secs(30) {
        tokio::task::consume_budget().await;
    }
}

/// Asks until the answer is yes, of something that tells nobody when it changes.
pub async fn eventually(what: &str, is_so: impl AsyncFn() -> bool) {
    let asks = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), asks).await.unwrap_or_else(|_| panic!("never so: {what}"));
}

/// How a call of a store goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The store was not reached.
    Error,
    /// The write took place, and its reply was lost.
    ReplyLost,
    /// There is never a reply, and no write.
    Hang,
    /// The write took place, and there is never a reply.
    HangAfter,
    Panic,
    /// The write takes place 1.9 seconds later.
    Slow,
    /// The write takes place, and the process stands still for a minute before it gets the reply. By a paused clock.
    StandStill,
    /// The call is always ready to go on, and never ends.
    Busy,
    /// The write takes place 8 seconds later, after the deadline of every request.
    Late,
}

pub const FAULTS: [Fault; 5] = [Fault::Error, Fault::ReplyLost, Fault::Hang, Fault::HangAfter, Fault::Panic];

/// Which call of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Call {
    Claim,
    Renew,
    Complete,
    Release,
    Receive,
    Lease,
    Begin,
    Verify,
    Settle,
    Overdue,
    Prune,
    Wait,
}

/// Which calls of a store fail, and which were made.
#[derive(Debug, Default)]
pub struct Faults {
    /// The faults of the next calls of each kind; `None` for a call that goes well.
    planned: Mutex<HashMap<Call, Vec<Option<Fault>>>>,
    calls: Mutex<Vec<Call>>,
    changed: Notify,
}

impl Faults {
    /// Lets the next calls of a kind fail.
    pub fn fail(&self, call: Call, faults: impl IntoIterator<Item = Option<Fault>>) {
        self.planned.lock().unwrap().entry(call).or_default().extend(faults);
    }

    /// Lets the calls of a kind succeed from now on.
    pub fn mend(&self, call: Call) {
        self.planned.lock().unwrap().remove(&call);
    }

    pub fn calls(&self, call: Call) -> usize {
        self.calls.lock().unwrap().iter().filter(|&&other| other == call).count()
    }

    /// Waits until a kind of call has been made so often, at most a minute by tokio's clock.
    pub async fn until(&self, call: Call, times: usize) {
        let wait = async {
            loop {
                let mut changed = std::pin::pin!(self.changed.notified());
                changed.as_mut().enable();
                if self.calls(call) >= times {
                    return;
                }
                changed.await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(60), wait).await;
        waited.unwrap_or_else(|_| panic!("waited for {times} calls of {call:?}"));
    }

    pub async fn call<T>(
        &self,
        call: Call,
        write: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let fault = {
            let mut planned = self.planned.lock().unwrap();
            let planned = planned.entry(call).or_default();
            if planned.is_empty() { None } else { planned.remove(0) }
        };
        match fault {
            Some(Fault::Slow) => tokio::time::sleep(Duration::from_millis(1900)).await,
            Some(Fault::Late) => tokio::time::sleep(Duration::from_secs(8)).await,
            _ => {}
        }
        let result = match fault {
            None
            | Some(Fault::StandStill | Fault::ReplyLost | Fault::HangAfter | Fault::Slow | Fault::Late) => {
                Some(write.await)
            }
            Some(_) => None,
        };
        self.calls.lock().unwrap().push(call);
        self.changed.notify_waiters();
        match fault {
            Some(Fault::StandStill) => tokio::time::advance(Duration::from_secs(60)).await,
            Some(Fault::Busy) => busy().await,
            _ => {}
        }
        match (fault, result) {
            (None | Some(Fault::Slow | Fault::Late | Fault::StandStill), Some(result)) => result,
            (Some(Fault::Hang | Fault::HangAfter), _) => std::future::pending().await,
            (Some(Fault::Panic), _) => panic!("a store's bug"),
            _ => Err(StoreError::unavailable(format!("{call:?} fails by plan"))),
        }
    }
}

/// A memory store whose calls fail as they are told to, and that notes every call.
#[derive(Debug, Clone)]
pub struct FaultyStore {
    inner: Arc<MemoryDedupStore>,
    faults: Arc<Faults>,
    renewed: Arc<Mutex<Option<ClaimToken>>>,
}

impl FaultyStore {
    pub fn new() -> Self {
        Self { inner: Arc::new(MemoryDedupStore::new()), faults: Arc::default(), renewed: Arc::default() }
    }

    /// Lets the next calls of a kind fail.
    pub fn fail(self, call: Call, faults: impl IntoIterator<Item = Option<Fault>>) -> Self {
        self.faults.fail(call, faults);
        self
    }

    pub fn calls(&self, call: Call) -> usize {
        self.faults.calls(call)
    }

    /// Ends the claim that was renewed last, as if the store's clock were set forward.
    pub async fn end_renewed_claim(&self) {
        let renewed = self.renewed.lock().unwrap().clone().expect("no claim was renewed");
        assert_eq!(self.inner.release(&renewed).await.unwrap(), Fenced::Applied);
    }

    /// Whether the job is remembered as done.
    pub async fn is_done(&self, job: &JobId) -> bool {
        self.state(job).await == Claim::Done
    }

    /// The answer that a claim would get.
    pub async fn state(&self, job: &JobId) -> Claim {
        let token = ClaimToken::new(job);
        let state = self.inner.claim(&token, Duration::from_nanos(1)).await.unwrap();
        let _ = self.inner.release(&token).await.unwrap();
        state
    }

    pub async fn until(&self, call: Call, times: usize) {
        self.faults.until(call, times).await;
    }
}

#[async_trait]
impl DedupStore for FaultyStore {
    async fn claim(&self, claim: &ClaimToken, lease: Duration) -> Result<Claim, StoreError> {
        self.faults.call(Call::Claim, self.inner.claim(claim, lease)).await
    }

    async fn renew(&self, claim: &ClaimToken, lease: Duration) -> Result<Fenced, StoreError> {
        *self.renewed.lock().unwrap() = Some(claim.clone());
        self.faults.call(Call::Renew, self.inner.renew(claim, lease)).await
    }

    async fn complete(&self, claim: &ClaimToken, retention: Duration) -> Result<Fenced, StoreError> {
        self.faults.call(Call::Complete, self.inner.complete(claim, retention)).await
    }

    async fn release(&self, claim: &ClaimToken) -> Result<Fenced, StoreError> {
        self.faults.call(Call::Release, self.inner.release(claim)).await
    }
}

/// A memory store that stands still for a while, and then carries out what was sent to it meanwhile, whether or not
/// somebody still waits for the answer: claims and renewals 400 ms after the rest, as by a slower connection.
#[derive(Debug, Clone)]
pub struct StandingStore {
    pub inner: Arc<MemoryDedupStore>,
    still: std::ops::Range<Instant>,
}

impl StandingStore {
    /// Stands still from and until these times from now.
    pub fn new(still: std::ops::Range<Duration>) -> Self {
        let now = Instant::now();
        Self { inner: Arc::default(), still: now + still.start..now + still.end }
    }

    async fn send<T: Send + 'static>(
        &self,
        late: Duration,
        write: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let carried_out = self.still.contains(&Instant::now()).then_some(self.still.end + late);
        let sent = tokio::spawn(async move {
            if let Some(time) = carried_out {
                tokio::time::sleep_until(time).await;
            }
            write.await
        });
        sent.await.unwrap()
    }
}

#[async_trait]
impl DedupStore for StandingStore {
    async fn claim(&self, claim: &ClaimToken, lease: Duration) -> Result<Claim, StoreError> {
        let (inner, claim) = (self.inner.clone(), claim.clone());
        self.send(Duration::from_millis(400), async move { inner.claim(&claim, lease).await }).await
    }

    async fn renew(&self, claim: &ClaimToken, lease: Duration) -> Result<Fenced, StoreError> {
        let (inner, claim) = (self.inner.clone(), claim.clone());
        self.send(Duration::from_millis(400), async move { inner.renew(&claim, lease).await }).await
    }

    async fn complete(&self, claim: &ClaimToken, retention: Duration) -> Result<Fenced, StoreError> {
        let (inner, claim) = (self.inner.clone(), claim.clone());
        self.send(Duration::ZERO, async move { inner.complete(&claim, retention).await }).await
    }

    async fn release(&self, claim: &ClaimToken) -> Result<Fenced, StoreError> {
        let (inner, claim) = (self.inner.clone(), claim.clone());
        self.send(Duration::ZERO, async move { inner.release(&claim).await }).await
    }
}

/// A request as the sender makes it, without a network.
pub fn request(body: impl Into<Bytes>) -> http::Request<Full<Bytes>> {
    http::Request::post(PATH).header("content-type", "application/json").body(Full::new(body.into())).unwrap()
}
