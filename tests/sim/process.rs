//! Processes: each has a receiver and, in durable mode, a worker, until it crashes or stops.

use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use qomplement_webhooks::fetch::RunningReconciler;
use qomplement_webhooks::inbox::Retention;
use qomplement_webhooks::worker::RunningWorker;
use qomplement_webhooks::{InboxWorker, Reconciler, Verification, WebhookHandler, WebhookReceiver};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::api::Api;
use crate::claims::RemoteClaims;
use crate::handler;
use crate::inbox::RemoteInbox;
use crate::plan::Mode;
use crate::world::World;

/// A process, from its start to its end. After the end, nothing that its tasks do has an effect: no call reaches the
/// database, and its handlers stand still for ever. That is all that others can see of a process whose tasks are gone.
#[derive(Debug)]
pub struct Process {
    /// The place of the process: after a restart, another process has it.
    pub place: u64,
    /// Different for every process.
    pub number: u64,
    is_dead: AtomicBool,
    death: Notify,
}

/// The parts of a process.
pub struct Node {
    pub process: Arc<Process>,
    pub receiver: WebhookReceiver,
    pub inbox: RemoteInbox,
    worker: Option<RunningWorker>,
    reconciler: Option<RunningReconciler>,
}

impl Process {
    pub fn new(place: u64, number: u64) -> Arc<Self> {
        Arc::new(Self { place, number, is_dead: AtomicBool::new(false), death: Notify::new() })
    }

    pub fn is_dead(&self) -> bool {
        self.is_dead.load(Ordering::SeqCst)
    }

    pub fn die(&self) {
        self.is_dead.store(true, Ordering::SeqCst);
        self.death.notify_waiters();
    }

    /// Waits for the end of the process.
    pub async fn died(&self) {
        let mut death = pin!(self.death.notified());
        death.as_mut().enable();
        if !self.is_dead() {
            death.await;
        }
    }

    /// Returns only if the process has not ended.
    pub async fn go_on(&self) {
        if self.is_dead() {
            pending::<()>().await;
        }
    }
}

impl Node {
    pub fn start(world: &Arc<World>, process: Arc<Process>) -> Self {
        let plan = &world.plan;
        let inbox = RemoteInbox::new(world, &process);
        let handler = handler::new(world, &process);
        let (receiver, worker) = match plan.mode {
            Mode::Inline => {
                let receiver = WebhookReceiver::builder(handler)
                    .dedup_store(RemoteClaims::new(world, &process))
                    .max_handler_time(plan.max_handler_time)
                    .max_handlers_in_flight(plan.dice.of("handlers", 0).pick(&[1, 2, 256]));
                (receiver, None)
            }
            Mode::Trust | Mode::Fetch => {
                let mut receiver = WebhookReceiver::durable(inbox.clone());
                if plan.knows_jobs {
                    receiver = receiver.known_jobs(inbox.clone());
                }
                (receiver, Some(worker(world, &process, inbox.clone(), handler)))
            }
        };
        let reconciler = (plan.mode == Mode::Trust)
            .then(|| Reconciler::new(inbox.clone(), Api::new(world, &process)).start());
        Self { process, receiver: receiver.unauthenticated().build().unwrap(), inbox, worker, reconciler }
    }

    /// Stops the process as a program does that was told to stop, and returns whether that took no longer than it may.
    pub async fn shut_down(&self, grace: Duration) -> Result<(), String> {
        let most = grace + Duration::from_millis(1002);
        let began = Instant::now();
        self.receiver.shutdown(grace).await;
        let receiver = began.elapsed();
        if let Some(reconciler) = &self.reconciler {
            reconciler.shutdown(grace).await;
        }
        let reconciler = began.elapsed() - receiver;
        if let Some(worker) = &self.worker {
            worker.shutdown(grace).await;
        }
        let worker = began.elapsed() - receiver - reconciler;
        if [receiver, reconciler, worker].iter().any(|took| *took > most) {
            return Err(format!(
                "shutdowns with a grace of {grace:?} took {receiver:?}, {reconciler:?}, {worker:?}"
            ));
        }
        Ok(())
    }
}

fn worker(
    world: &Arc<World>,
    process: &Arc<Process>,
    inbox: RemoteInbox,
    handler: impl WebhookHandler,
) -> RunningWorker {
    let plan = &world.plan;
    let verification = match plan.mode {
        Mode::Fetch => Verification::fetch(Api::new(world, process)),
        _ => Verification::Trust,
    };
    let payload =
        plan.dice.of("payload", 0).pick(&[Duration::from_secs(1), Duration::from_secs(7 * 24 * 3600)]);
    InboxWorker::new(inbox, handler, verification)
        .concurrency(plan.dice.of("concurrency", 0).pick(&[1, 2, 16]))
        .max_attempts(plan.max_attempts)
        .backoff(plan.setting("first", 100..=2000), plan.setting("longest", 2000..=20_000))
        .max_handler_time(plan.max_handler_time)
        .lease(plan.setting("lease", 3000..=30_000))
        .poll(plan.setting("poll", 1000..=8000))
        .retention(Retention::default().payload(payload))
        .start()
}
