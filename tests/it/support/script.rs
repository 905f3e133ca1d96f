//! A handler that follows a script.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use qomplement_webhooks::{HandlerError, JobId, WebhookEvent, WebhookHandler, handler_fn};
use tokio::sync::Notify;

/// The handler's behaviour in one run.
#[derive(Clone)]
pub enum Act {
    Succeed,
    Fail,
    FailPermanently,
    /// Fails, and names the delay until the next attempt.
    FailFor(Duration),
    Panic,
    /// Never returns.
    Hang,
    /// Takes some time, by tokio's clock.
    Take(Duration),
    /// Fails after some time.
    FailAfter(Duration),
    /// Uses up its task's budget at every poll, for half a minute by the machine's clock.
    Busy,
    /// Blocks its thread until the gate opens.
    Block(std::sync::mpsc::SyncSender<()>, Arc<Mutex<std::sync::mpsc::Receiver<()>>>),
    /// Tells the gate that it has begun, and returns when the gate opens.
    Wait(Arc<Gate>),
}

/// A gate at which a handler waits until the test opens it.
#[derive(Debug, Default)]
pub struct Gate {
    pub begun: Notify,
    pub go_on: Notify,
}

/// Acts by a script, repeats the last act for ever, and records every run.
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

/// Counts a run as going on until it is dropped.
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
            Act::FailPermanently => return Err(HandlerError::permanent("never")),
            Act::FailFor(delay) => return Err(HandlerError::retry_after("not now", delay)),
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

    /// The number of runs.
    pub fn runs(&self) -> usize {
        self.0.runs.lock().unwrap().values().sum()
    }

    /// The number of runs for a job.
    pub fn runs_of(&self, job: &JobId) -> usize {
        self.0.runs.lock().unwrap().get(job).copied().unwrap_or_default()
    }

    /// The number of runs that began during another run for the same job.
    pub fn overlaps(&self) -> usize {
        self.0.overlaps.load(Ordering::SeqCst)
    }

    /// The number of runs that succeeded.
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

    /// Waits for a fact about the handler, for at most a minute by tokio's clock.
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

/// A future that is always ready to go on, for half a minute by the machine's clock.
pub async fn busy() {
    let began = std::time::Instant::now();
    while began.elapsed() < Duration::from_secs(30) {
        tokio::task::consume_budget().await;
    }
}
