//! The handler of a process: it fails, hangs, panics and takes its time.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use qomplement_webhooks::{HandlerError, JobId, WebhookEvent, WebhookHandler, handler_fn};
use tokio::time::sleep;

use crate::plan::place;
use crate::process::Process;
use crate::world::World;

pub fn new(world: &Arc<World>, process: &Arc<Process>) -> impl WebhookHandler {
    let (world, process) = (world.clone(), process.clone());
    handler_fn(move |event: WebhookEvent| run(world.clone(), process.clone(), event)).with_unrecognized()
}

/// One run in the ledger, until it is dropped.
struct Run {
    world: Arc<World>,
    number: u64,
}

impl Drop for Run {
    fn drop(&mut self) {
        let (now, number) = (self.world.now(), self.number);
        self.world.tell(|ledger| ledger.left(now, number));
    }
}

async fn run(world: Arc<World>, process: Arc<Process>, event: WebhookEvent) -> Result<(), HandlerError> {
    process.go_on().await;
    let job = event.job().clone();
    let now = world.now();
    let number = world.tell(|ledger| ledger.begins(now, process.number, &job));
    let _run = Run { world: world.clone(), number };
    let (fence, attempt) = (job.fence(), job.attempt());
    world.note(format_args!("{}: handler of p{} begins, {fence}, {attempt}", job.id(), process.number));
    let acted = tokio::select! {
        biased;
        () = process.died() => std::future::pending().await,
        acted = act(&world, job.id(), number) => acted,
    };
    world.note(format_args!("{}: handler of p{} returns {}", job.id(), process.number, acted.is_ok()));
    let permanent = acted.as_ref().is_err_and(HandlerError::is_permanent);
    let now = world.now();
    world.tell(|ledger| ledger.returned(now, number, acted.is_ok(), permanent));
    acted
}

async fn act(world: &World, job: &JobId, number: u64) -> Result<(), HandlerError> {
    let time = world.plan.dice.of("run", number).pick(&[0, 0, 1, 50, 900]);
    if time > 0 {
        sleep(Duration::from_millis(time)).await;
    }
    let Some(dice) = world.strikes("handler", place(job)) else { return Ok(()) };
    let time = dice.of("time", 0).millis(1..=45_000);
    match dice.of("act", 0).below(8) {
        0 | 1 => Err("not now".into()),
        2 => Err(HandlerError::permanent("never")),
        3 => Err(HandlerError::retry_after("not now", time)),
        4 => resume_unwind(Box::new("a handler's bug")),
        5 => std::future::pending().await,
        6 => {
            sleep(time).await;
            Err("too late".into())
        }
        _ => {
            sleep(time).await;
            Ok(())
        }
    }
}
