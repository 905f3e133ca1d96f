//! One run: a seed from its first delivery to its last settled job.

use std::cell::RefCell;
use std::collections::HashSet;
use std::panic;
use std::sync::{Arc, Once};
use std::time::Duration;

use qomplement_webhooks::InboxStore;
use qomplement_webhooks::conformance::seed_random_numbers;
use qomplement_webhooks::sender::Sender;
use tokio::time::{advance, sleep, sleep_until, timeout};

use crate::database::{Database, paused_runtime};
use crate::dice::Dice;
use crate::faults::{FaultId, Faults};
use crate::flaws::Flaw;
use crate::network::Network;
use crate::plan::{Mode, Plan, PlannedJob};
use crate::world::World;

/// The time after the last fault in which everything ends: a job that the API does not know is fetched for more than ten
/// minutes, and a budget closes for up to five minutes.
const ENDS_WITHIN: Duration = Duration::from_secs(2 * 60 * 60);

/// How a run differs from the one that its seed alone describes.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// A flaw of the stores.
    pub flaw: Option<Flaw>,
    /// Faults that are left out.
    pub dropped: HashSet<FaultId>,
    pub keep_lines: bool,
}

/// The end of a run.
#[derive(Debug)]
pub struct Ended {
    /// The broken promise.
    pub violation: Option<String>,
    /// The hash of all that happened.
    pub hash: u64,
    pub lines: Vec<String>,
    pub faults: Vec<FaultId>,
    /// The simulated time.
    pub took: Duration,
}

thread_local! {
    /// The first panic of the thread's run that is not planned.
    static PANICKED: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Notes panics, also those that end a task and nothing else. Planned ones go past the hook.
fn note_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |panicked| {
            PANICKED.with_borrow_mut(|first| {
                first.get_or_insert_with(|| panicked.to_string());
            });
            print(panicked);
        }));
    });
    PANICKED.take();
}

/// Runs a seed.
pub fn run(seed: u64, options: &Options) -> Ended {
    note_panics();
    seed_random_numbers(seed);
    let plan = Plan::new(Dice::new(seed));
    let faults = Faults::new(plan.dice.of("faults", 0), options.dropped.clone(), plan.calm);
    let (clock, runtime) = (paused_runtime(), paused_runtime());
    let world = runtime.block_on(async {
        let database = Database::new(clock.handle(), options.flaw);
        let world = World::new(plan, faults, database, options.keep_lines);
        tokio::select! {
            biased;
            () = world.broken.notified() => {}
            () = story(&world) => {}
        }
        world
    });
    let took = runtime.block_on(async { world.now() });
    let mut trace = world.trace();
    let (violation, hash, lines) =
        (trace.violation.take(), trace.hash, trace.lines.take().unwrap_or_default());
    drop(trace);
    drop(runtime);
    world.close();
    let violation = violation.or_else(|| PANICKED.take());
    Ended { violation, hash, lines, faults: world.faults.struck(), took }
}

async fn story(world: &Arc<World>) {
    for place in 0..world.plan.processes {
        world.start(place);
    }
    plan_faults(world);
    let mut senders: Vec<_> = (0..world.plan.jobs.len())
        .map(|job| {
            let world = world.clone();
            tokio::spawn(async move { submit(&world, &world.plan.jobs[job]).await })
        })
        .collect();
    senders.extend((0..world.plan.forgeries.len()).map(|number| {
        let world = world.clone();
        tokio::spawn(async move {
            let forgery = &world.plan.forgeries[number];
            sleep_until(world.at(forgery.at)).await;
            Sender::to_service(Network(world.clone())).deliver(forgery.body.clone()).await;
        })
    }));

    sleep_until(world.at(world.plan.calm)).await;
    world.note(format_args!("calm"));
    for place in 0..world.plan.processes {
        world.start(place);
    }
    let all = async {
        for sender in senders {
            if let Err(panicked) = sender.await {
                world.fail(format!("a sender panicked: {panicked}"));
            }
        }
    };
    if timeout(ENDS_WITHIN, all).await.is_err() {
        return world.fail("a sender does not end".to_owned());
    }
    match world.plan.mode {
        Mode::Inline => deliver_again(world).await,
        Mode::Trust | Mode::Fetch => settle(world).await,
    }
}

/// Waits until every row has ended.
async fn settle(world: &World) {
    let until = world.now() + ENDS_WITHIN;
    let mut pause = 1;
    loop {
        let unsettled = world.tell(|ledger| Ok(ledger.unsettled(|job| world.database.row(job))));
        if unsettled.is_empty() {
            return;
        }
        if world.now() >= until {
            return world.fail(format!("not settled after {ENDS_WITHIN:?}: {}", unsettled.join("; ")));
        }
        sleep(Duration::from_secs(pause)).await;
        pause = (pause + 1).min(20);
    }
}

/// Delivers each webhook once more: without faults, it must succeed, whatever was before.
async fn deliver_again(world: &Arc<World>) {
    // Handlers that hang end by their time limit.
    sleep(Duration::from_secs(60)).await;
    for job in &world.plan.jobs {
        let report = Sender::to_service(Network(world.clone())).deliver(job.body(0)).await;
        if !report.is_delivered() || world.tell(|ledger| Ok(ledger.unhandled(&job.id))) {
            return world.fail(format!("{}: not handled in the end: {:?}", job.id, report.statuses()));
        }
    }
}

/// A job from its submission to its last webhook.
async fn submit(world: &Arc<World>, job: &PlannedJob) {
    sleep_until(world.at(job.submitted)).await;
    if let Some(deadline) = job.deadline {
        register(world, job, deadline).await;
    }
    let sender = Sender::to_service(Network(world.clone()));
    if let Some(early) = job.early {
        sleep_until(world.at(early)).await;
        let (sender, body) = (sender.clone(), job.early_body());
        tokio::spawn(async move { sender.deliver(body).await });
    }
    let again = async {
        let Some((at, other)) = job.again else { return };
        sleep_until(world.at(at)).await;
        sender.deliver(job.body(u32::from(other))).await;
    };
    let first = async {
        sleep_until(world.at(job.ends)).await;
        sender.deliver(job.body(0)).await
    };
    let (report, ()) = tokio::join!(first, again);
    world.note(format_args!("{}: delivered {:?}", job.id, report.statuses()));
}

/// Registers a job, again and again until the inbox answers.
async fn register(world: &Arc<World>, job: &PlannedJob, deadline: Duration) {
    loop {
        if let Some(node) = world.route() {
            let (inbox, id) = (node.inbox.clone(), job.id.clone());
            // In a task of its own, since a store's panic is its caller's.
            let expect = tokio::spawn(async move { inbox.expect(&id, deadline).await });
            if let Ok(Ok(Ok(()))) = timeout(Duration::from_secs(3), expect).await {
                world.tell(|ledger| {
                    ledger.expected(&job.id);
                    Ok(())
                });
                return;
            }
        }
        sleep(Duration::from_secs(1)).await;
    }
}

/// Starts the tasks of crashes, shutdowns, and jumps of clocks.
fn plan_faults(world: &Arc<World>) {
    let plan = &world.plan;
    for (number, stop) in plan.stops.iter().enumerate() {
        if !world.happens("stop", number) {
            continue;
        }
        let (world, place, at, grace) = (world.clone(), stop.process, stop.at, stop.grace);
        let up = (stop.at + grace.unwrap_or_default() + stop.down).min(plan.calm);
        tokio::spawn(async move {
            sleep_until(world.at(at)).await;
            match grace {
                Some(grace) => world.shut_down(place, grace).await,
                None => world.crash(place),
            }
            sleep_until(world.at(up)).await;
            world.start(place);
        });
    }
    for (at, job) in plan.replays.iter().copied().filter(|_| world.is_durable()) {
        let world = world.clone();
        tokio::spawn(async move {
            sleep_until(world.at(at)).await;
            let job = &world.plan.jobs[job].id;
            if world.database.replay(job) {
                world.note(format_args!("{job}: replayed"));
                world.tell(|ledger| {
                    ledger.replayed(job);
                    Ok(())
                });
            }
        });
    }
    for (number, (at, by)) in plan.jumps.iter().copied().enumerate() {
        if world.happens("jump", number) {
            let world = world.clone();
            tokio::spawn(async move {
                sleep_until(world.at(at)).await;
                world.note(format_args!("the database's clock jumps by {by:?}"));
                disturb(&world);
                world.database.jump(by);
            });
        }
    }
    for (number, (at, time)) in plan.stalls.iter().copied().enumerate() {
        if world.happens("stall", number) {
            let world = world.clone();
            tokio::spawn(async move {
                sleep_until(world.at(at)).await;
                world.note(format_args!("all processes stand still for {time:?}"));
                disturb(&world);
                advance(time).await;
                disturb(&world);
            });
        }
    }
}

fn disturb(world: &World) {
    let now = world.now();
    world.tell(|ledger| {
        ledger.disturb(now);
        Ok(())
    });
}
