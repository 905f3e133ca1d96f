//! The database: the inbox and the claims that all processes share, with a clock of their own.

use std::pin::pin;
use std::sync::Mutex;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use qomplement_webhooks::inbox::{InboxAdmin, InboxRow};
use qomplement_webhooks::{DedupStore, InboxStore, JobId, MemoryDedupStore, MemoryInbox};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::time::{Instant, advance};

use crate::flaws::{Flaw, FlawedClaims, FlawedInbox};

pub struct Database {
    /// A runtime whose paused clock is the database's clock. Nothing else of it is used.
    clock: Handle,
    began: Instant,
    /// How far the database's clock is ahead of the processes' clock.
    ahead: Mutex<Duration>,
    processes_began: Instant,
    rows: MemoryInbox,
    pub inbox: Box<dyn InboxStore>,
    pub claims: Box<dyn DedupStore>,
}

/// A runtime on one thread whose clock stands still until all its tasks wait.
pub fn paused_runtime() -> Runtime {
    Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

impl Database {
    /// Makes an empty database; `clock` is a runtime for its clock alone.
    pub fn new(clock: &Handle, flaw: Option<Flaw>) -> Self {
        let processes_began = Instant::now();
        let _clock = clock.enter();
        let rows = MemoryInbox::new();
        let claims = MemoryDedupStore::with_capacity(1000);
        let (inbox, claims): (Box<dyn InboxStore>, Box<dyn DedupStore>) = match flaw {
            None => (Box::new(rows.clone()), Box::new(claims)),
            Some(flaw) => {
                (Box::new(FlawedInbox::new(flaw, rows.clone())), Box::new(FlawedClaims::new(flaw, claims)))
            }
        };
        let (clock, began) = (clock.clone(), Instant::now());
        Self { clock, began, ahead: Mutex::default(), processes_began, rows, inbox, claims }
    }

    /// Sets the database's clock forward.
    pub fn jump(&self, by: Duration) {
        *self.ahead.lock().unwrap() += by;
    }

    /// The time by the database's clock.
    pub fn now(&self) -> Duration {
        self.at_once(async { self.began.elapsed() })
    }

    /// Carries a call of a store out, by the database's clock. The stores in memory never wait.
    pub fn at_once<F: Future>(&self, call: F) -> F::Output {
        let time = self.processes_began.elapsed() + *self.ahead.lock().unwrap();
        let _clock = self.clock.enter();
        let behind = time.saturating_sub(self.began.elapsed());
        let mut context = Context::from_waker(Waker::noop());
        if behind > Duration::ZERO {
            // The clock has moved after the first poll.
            let _ = pin!(advance(behind)).poll(&mut context);
        }
        match pin!(call).poll(&mut context) {
            Poll::Ready(answer) => answer,
            Poll::Pending => panic!("a store in memory waits"),
        }
    }

    /// The row of a job, with its body.
    pub fn row(&self, job: &JobId) -> Option<(InboxRow, Option<Bytes>)> {
        self.at_once(self.rows.get(job)).unwrap()
    }

    /// Makes a row that has ended due again, as somebody does who looks at dead letters.
    pub fn replay(&self, job: &JobId) -> bool {
        self.at_once(self.rows.replay(job)).unwrap()
    }

    /// Waits for the inbox's hint.
    pub async fn hint(&self) {
        self.inbox.wait().await;
    }
}
