//! Everything that the parts of a run share: plan, faults, database, ledger, trace and processes.

use std::fmt::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::database::Database;
use crate::dice::hashed;
use crate::faults::{FaultId, Faults};
use crate::ledger::Ledger;
use crate::plan::{Mode, Plan};
use crate::process::{Node, Process};

pub struct World {
    pub plan: Plan,
    pub faults: Faults,
    pub database: Database,
    ledger: Mutex<Ledger>,
    trace: Mutex<Trace>,
    began: Instant,
    /// Woken by the first broken promise.
    pub broken: Notify,
    nodes: Mutex<Vec<Option<Arc<Node>>>>,
    processes: AtomicU64,
    routed: AtomicU64,
}

/// All that happened, as a hash and, if wanted, as text.
#[derive(Debug)]
pub struct Trace {
    pub hash: u64,
    pub lines: Option<Vec<String>>,
    pub violation: Option<String>,
}

impl Write for Trace {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.hash = text.bytes().fold(self.hash, hashed);
        if let Some(line) = self.lines.as_mut().and_then(|lines| lines.last_mut()) {
            line.push_str(text);
        }
        Ok(())
    }
}

impl World {
    pub fn new(plan: Plan, faults: Faults, database: Database, keep_lines: bool) -> Arc<Self> {
        let ledger = Ledger::new(&plan);
        let nodes = Mutex::new((0..plan.processes).map(|_| None).collect());
        let lines = keep_lines.then(Vec::new);
        Arc::new(Self {
            plan,
            faults,
            database,
            ledger: Mutex::new(ledger),
            trace: Mutex::new(Trace { hash: 0xcbf2_9ce4_8422_2325, lines, violation: None }),
            began: Instant::now(),
            broken: Notify::new(),
            nodes,
            processes: AtomicU64::new(0),
            routed: AtomicU64::new(0),
        })
    }

    /// The time since the run began.
    pub fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// The instant of a time of the plan.
    pub fn at(&self, time: Duration) -> Instant {
        self.began + time
    }

    /// Adds an event to the trace.
    pub fn note(&self, event: fmt::Arguments<'_>) {
        let now = self.now();
        let mut trace = self.trace.lock().unwrap();
        if let Some(lines) = &mut trace.lines {
            lines.push(String::new());
        }
        let _ = write!(trace, "{:>8}.{:03} {event}", now.as_secs(), now.subsec_millis());
    }

    pub fn trace(&self) -> MutexGuard<'_, Trace> {
        self.trace.lock().unwrap()
    }

    /// Tells the ledger what happened. Ends the run if that breaks a promise.
    pub fn tell<T: Default>(&self, what: impl FnOnce(&mut Ledger) -> Result<T, String>) -> T {
        let told = what(&mut self.ledger.lock().unwrap());
        told.unwrap_or_else(|violation| {
            self.fail(violation);
            T::default()
        })
    }

    /// Notes a broken promise.
    pub fn fail(&self, violation: String) {
        self.note(format_args!("BROKEN: {violation}"));
        self.trace.lock().unwrap().violation.get_or_insert(violation);
        self.broken.notify_one();
    }

    /// Whether a fault strikes now.
    pub fn strikes(&self, kind: &'static str, of: u64) -> Option<crate::dice::Dice> {
        self.faults.strikes(self.now(), kind, of)
    }

    /// Whether a fault of the plan happens.
    pub fn happens(&self, kind: &'static str, number: usize) -> bool {
        self.faults.happens(FaultId { kind, of: 0, number: number as u64 })
    }

    /// Starts a process at a place that has none.
    pub fn start(self: &Arc<Self>, place: u64) {
        if self.node(place).is_some() {
            return;
        }
        let number = self.processes.fetch_add(1, Ordering::SeqCst);
        self.note(format_args!("p{number} starts at {place}"));
        let node = Node::start(self, Process::new(place, number));
        self.nodes()[place as usize] = Some(Arc::new(node));
    }

    /// Lets a process crash: from now on it does nothing.
    pub fn crash(self: &Arc<Self>, place: u64) {
        if let Some(node) = self.node(place) {
            self.note(format_args!("p{} crashes", node.process.number));
            self.end(&node);
        }
    }

    /// Shuts a process down.
    pub async fn shut_down(self: &Arc<Self>, place: u64, grace: Duration) {
        let Some(node) = self.node(place) else { return };
        self.note(format_args!("p{} is told to stop within {grace:?}", node.process.number));
        let since = self.now();
        let stopped = node.shut_down(grace).await;
        if let Err(late) = stopped
            && !node.process.is_dead()
            && !self.tell(|ledger| Ok(ledger.disturbed_since(since)))
        {
            self.fail(late);
        }
        if !node.process.is_dead() {
            self.note(format_args!("p{} stops", node.process.number));
            self.end(&node);
        }
    }

    fn end(self: &Arc<Self>, node: &Arc<Node>) {
        node.process.die();
        self.nodes()[node.process.place as usize] = None;
        self.tell(|ledger| {
            ledger.ended(node.process.number);
            Ok(())
        });
        // Lets the tasks of the dead process end. They reach nothing any more.
        let node = node.clone();
        tokio::spawn(async move { node.shut_down(Duration::ZERO).await });
    }

    fn nodes(&self) -> MutexGuard<'_, Vec<Option<Arc<Node>>>> {
        self.nodes.lock().unwrap()
    }

    fn node(&self, place: u64) -> Option<Arc<Node>> {
        self.nodes()[place as usize].clone()
    }

    /// A process that runs, another one each time.
    pub fn route(&self) -> Option<Arc<Node>> {
        let number = self.routed.fetch_add(1, Ordering::SeqCst);
        let first = self.plan.dice.of("route", number).below(self.plan.processes);
        (0..self.plan.processes).find_map(|more| self.node((first + more) % self.plan.processes))
    }

    /// Drops all processes. They hold this world, which would never be dropped.
    pub fn close(&self) {
        let nodes = std::mem::take(&mut *self.nodes());
        drop(nodes);
    }

    /// Whether the run is about an inbox.
    pub fn is_durable(&self) -> bool {
        self.plan.mode != Mode::Inline
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").finish_non_exhaustive()
    }
}
