//! The inbox as a process sees it: over a network, with faults in every call.

use std::future::pending;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use qomplement_webhooks::event::Envelope;
use qomplement_webhooks::inbox::{Lease, Leased, Outcome, Overdue, Pruned, Receipt, Retention};
use qomplement_webhooks::registry::JobRegistry;
use qomplement_webhooks::store::{Fenced, StoreError};
use qomplement_webhooks::{BoxError, InboxStore, JobId};
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::process::Process;
use crate::world::World;

/// The inbox of the database, for one process.
#[derive(Debug, Clone)]
pub struct RemoteInbox {
    world: Arc<World>,
    process: Arc<Process>,
}

impl RemoteInbox {
    pub fn new(world: &Arc<World>, process: &Arc<Process>) -> Self {
        Self { world: world.clone(), process: process.clone() }
    }

    async fn call<T: Send + 'static>(
        &self,
        kind: &'static str,
        write: impl FnOnce(&World) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        call(&self.world, &self.process, kind, write).await
    }

    fn learned<'a>(&self, leases: impl Iterator<Item = &'a Lease>) {
        for lease in leases {
            self.world.tell(|ledger| {
                ledger.learned(self.process.number, lease);
                Ok(())
            });
        }
    }
}

/// Makes a call of the database, with the fault that strikes it.
pub async fn call<T: Send + 'static>(
    world: &Arc<World>,
    process: &Process,
    kind: &'static str,
    write: impl FnOnce(&World) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    process.go_on().await;
    let Some(dice) = world.strikes(kind, process.place) else {
        let latency = |dice: &str| {
            world.plan.dice.of(dice, world.now().as_micros() as u64).below(world.plan.latency + 1)
        };
        return answered(
            process,
            world,
            Duration::from_millis(latency("way")),
            Duration::from_millis(latency("back")),
            write,
        )
        .await;
    };
    let (which, time) = (dice.of("fault", 0).below(8), dice.of("time", 0).millis(20..=15_000));
    world.note(format_args!("p{} {kind}: fault {which}, {time:?}", process.number));
    let gone = || Err(StoreError::unavailable("the connection broke"));
    match which {
        // The call does not reach the database.
        0 => gone(),
        1 => pending().await,
        // The write takes place, and its answer is lost.
        2 => {
            let _ = write(world);
            gone()
        }
        3 => {
            let _ = write(world);
            pending().await
        }
        // The call or the answer takes time. A caller that leaves in the meantime ends the call.
        4 => answered(process, world, time, Duration::ZERO, write).await,
        5 => answered(process, world, Duration::ZERO, time, write).await,
        // The call is on its way, whether the caller waits or not.
        6 => {
            let (answer, arrives) = oneshot::channel();
            let database = world.clone();
            tokio::spawn(async move {
                sleep(time).await;
                let _ = answer.send(write(&database));
            });
            let answer = arrives.await;
            process.go_on().await;
            answer.unwrap_or_else(|_| gone())
        }
        // Past the hook that would print it.
        _ => resume_unwind(Box::new("a store's bug")),
    }
}

async fn answered<T>(
    process: &Process,
    world: &World,
    way: Duration,
    back: Duration,
    write: impl FnOnce(&World) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    if !way.is_zero() {
        sleep(way).await;
        process.go_on().await;
    }
    let answer = write(world);
    if !back.is_zero() {
        sleep(back).await;
        process.go_on().await;
    }
    answer
}

/// The calls as they reach the database. The ledger hears of each.
#[async_trait]
impl InboxStore for RemoteInbox {
    async fn receive(&self, event: &Envelope) -> Result<Receipt, StoreError> {
        let event = event.clone();
        self.call("receive", move |world| {
            let before = world.database.row(event.job());
            let receipt = world.database.at_once(world.database.inbox.receive(&event))?;
            world.note(format_args!("{}: {} is {receipt:?}", event.job(), event.status()));
            let after = world.database.row(event.job());
            world.tell(|ledger| ledger.received(&event, receipt, before, after));
            Ok(receipt)
        })
        .await
    }

    async fn lease(&self, most: usize, length: Duration) -> Result<Vec<Leased>, StoreError> {
        let number = self.process.number;
        let leased = self.call("lease", move |world| {
            let leased = world.database.at_once(world.database.inbox.lease(most, length))?;
            for leased in &leased {
                let Leased { lease, attempt, expired, begun, verified, .. } = leased;
                let (job, fence) = (lease.job(), lease.fence());
                world.note(format_args!(
                    "{job}: leased to p{number}, fence {fence}, attempt {attempt} {expired} {begun} {verified}"
                ));
                let now = world.now();
                world.tell(|ledger| ledger.leased(now, number, lease, true));
            }
            Ok(leased)
        });
        let leased = leased.await?;
        self.learned(leased.iter().map(|leased| &leased.lease));
        Ok(leased)
    }

    async fn begin(&self, lease: &Lease) -> Result<Fenced, StoreError> {
        let begun = lease.clone();
        let begun = self.call("begin", move |world| {
            let fenced = world.database.at_once(world.database.inbox.begin(&begun))?;
            world.note(format_args!("{}: begin {} {fenced:?}", begun.job(), begun.fence()));
            world.tell(|ledger| ledger.begun(&begun, fenced));
            Ok(fenced)
        });
        let begun = begun.await?;
        self.world.tell(|ledger| {
            ledger.knows(lease);
            Ok(())
        });
        Ok(begun)
    }

    async fn renew(&self, lease: &Lease, length: Duration) -> Result<Fenced, StoreError> {
        let lease = lease.clone();
        self.call("renew", move |world| {
            let fenced = world.database.at_once(world.database.inbox.renew(&lease, length))?;
            world.note(format_args!("{}: renew {} {fenced:?}", lease.job(), lease.fence()));
            world.tell(|ledger| ledger.wrote(&lease, fenced));
            Ok(fenced)
        })
        .await
    }

    async fn verify(&self, lease: &Lease, event: &Envelope) -> Result<Fenced, StoreError> {
        let (lease, event) = (lease.clone(), event.clone());
        self.call("verify", move |world| {
            let before = world.database.row(lease.job());
            let fenced = world.database.at_once(world.database.inbox.verify(&lease, &event))?;
            world.note(format_args!("{}: verify {} {fenced:?}", lease.job(), lease.fence()));
            world.tell(|ledger| ledger.verified(&lease, &event, fenced, before));
            Ok(fenced)
        })
        .await
    }

    async fn settle(&self, lease: &Lease, outcome: &Outcome) -> Result<Fenced, StoreError> {
        let (lease, outcome) = (lease.clone(), outcome.clone());
        self.call("settle", move |world| {
            let fenced = world.database.at_once(world.database.inbox.settle(&lease, &outcome))?;
            world.note(format_args!("{}: settle {} {outcome:?} {fenced:?}", lease.job(), lease.fence()));
            let (now, after) = (world.database.now(), world.database.row(lease.job()));
            world.tell(|ledger| ledger.settled(now, &lease, &outcome, fenced, after));
            Ok(fenced)
        })
        .await
    }

    async fn expect(&self, job: &JobId, deadline: Duration) -> Result<(), StoreError> {
        let job = job.clone();
        self.call("expect", move |world| {
            world.database.at_once(world.database.inbox.expect(&job, deadline))?;
            world.note(format_args!("{job}: expected within {deadline:?}"));
            Ok(())
        })
        .await
    }

    async fn overdue(&self, most: usize, length: Duration) -> Result<Vec<Overdue>, StoreError> {
        let number = self.process.number;
        let overdue = self.call("overdue", move |world| {
            let overdue = world.database.at_once(world.database.inbox.overdue(most, length))?;
            for Overdue { lease, .. } in &overdue {
                world.note(format_args!("{}: overdue, leased to p{number}, {}", lease.job(), lease.fence()));
                let now = world.now();
                world.tell(|ledger| ledger.leased(now, number, lease, false));
            }
            Ok(overdue)
        });
        let overdue = overdue.await?;
        self.learned(overdue.iter().map(|overdue| &overdue.lease));
        Ok(overdue)
    }

    async fn contains(&self, job: &JobId) -> Result<bool, StoreError> {
        let job = job.clone();
        self.call("contains", move |world| world.database.at_once(world.database.inbox.contains(&job))).await
    }

    async fn prune(&self, retention: &Retention) -> Result<Pruned, StoreError> {
        let retention = *retention;
        self.call("prune", move |world| world.database.at_once(world.database.inbox.prune(&retention))).await
    }

    async fn wait(&self) {
        self.process.go_on().await;
        self.world.database.hint().await;
        self.process.go_on().await;
    }
}

#[async_trait]
impl JobRegistry for RemoteInbox {
    async fn is_known(&self, job: &JobId) -> Result<bool, BoxError> {
        Ok(self.contains(job).await?)
    }
}
