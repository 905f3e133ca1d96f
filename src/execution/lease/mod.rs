//! Keeps the leases of running handlers, and of jobs that are fetched.
//!
//! In each runtime, one task renews all leases of a receiver, a worker or a reconciler. A request costs an entry in a
//! table instead of a task; and on a multi-thread runtime, a handler that blocks its thread does not stop its own renewal.
//! The task starts with the first lease of its runtime and ends after the last. The holder of a lease notices the lease's
//! end by a timer of its own. On a current-thread runtime, a handler that blocks stops the task and that timer.

mod renewal;
mod table;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::pin::pin;
use std::sync::{Arc, Mutex};

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use self::renewal::Renewing;
pub(crate) use self::renewal::{Leases, Renew};
pub(crate) use self::table::Times;
use self::table::{Entry, Key, Table};
use crate::execution::isolation::until;

/// A lease that is renewed until this is dropped.
#[derive(Debug)]
pub(crate) struct HeldLease<R: Renew> {
    leases: Arc<Leases<R>>,
    key: Key,
    /// Whether the lease has been removed from the table.
    has_stopped: bool,
}

impl<R: Renew> Leases<R> {
    pub(crate) fn new(store: R, times: Times) -> Arc<Self> {
        Arc::new(Self { store, times, table: Mutex::new(Table::new()) })
    }

    /// Renews a lease whose write began at `since`, until the returned holder is dropped.
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime; then no lease is kept.
    pub(crate) fn hold(self: &Arc<Self>, token: R::Token, since: Instant) -> HeldLease<R> {
        let current = Handle::current();
        let (key, first) = self.table().insert(current.id(), token, since);
        let held = HeldLease { leases: self.clone(), key, has_stopped: false };
        if first {
            current.spawn(Renewing::new(self.clone(), current.id()).run());
            // Tokio keeps the newest task of a worker thread in a place that no other thread can take it from: there it
            // would wait for a handler that blocks the thread. This empty task takes that place instead.
            current.spawn(async {});
        }
        held
    }
}

impl<R: Renew> HeldLease<R> {
    /// Whether the lease is held at this time, by the clock of this process: a process that stood still no longer holds
    /// it.
    pub(crate) fn is_held(&self, now: Instant) -> bool {
        let mut table = self.leases.table();
        table.get_mut(self.key).is_some_and(|entry| now < self.leases.times.end(entry.since))
    }

    /// Waits until the lease is lost, also when no task renews it.
    pub(crate) async fn lost(&self) {
        loop {
            let (end, changed) = {
                let mut table = self.leases.table();
                let Some(entry) = table.get_mut(self.key) else { return };
                let end = self.leases.times.end(entry.since);
                if Instant::now() >= end {
                    entry.expire(&R::span(&entry.token));
                    table.remove(self.key);
                    return;
                }
                (end, entry.waiting.get_or_insert_default().clone())
            };
            tokio::select! {
                biased;
                () = changed.notified() => {}
                () = sleep_until(end) => {}
            }
        }
    }

    /// Stops the renewals and returns the end of the lease; now, if the lease is lost.
    ///
    /// Waits for a renewal that is under way: after a release, that renewal would claim the job again.
    pub(crate) async fn stop(&mut self) -> Instant {
        let longest = self.leases.times.call;
        let stopped = {
            let stopped = pin!(async {
                loop {
                    match self.stop_unless_renewing() {
                        Ok(end) => return end,
                        Err(changed) => changed.notified().await,
                    }
                }
            });
            until(stopped, || sleep(longest)).await
        };
        stopped.unwrap_or_else(|()| self.stop_at_once())
    }

    /// Stops the renewals and returns the end of the lease; now, if the lease is lost. A renewal that is under way may
    /// still be carried out.
    pub(crate) fn stop_at_once(&mut self) -> Instant {
        let removed = self.leases.table().remove(self.key);
        self.end_of(removed)
    }

    /// Like [`stop_at_once`](Self::stop_at_once), unless a renewal is under way: then returns what its end notifies.
    fn stop_unless_renewing(&mut self) -> Result<Instant, Arc<Notify>> {
        let mut table = self.leases.table();
        match table.get_mut(self.key) {
            Some(entry) if entry.renewing => return Err(entry.waiting.get_or_insert_default().clone()),
            _ => {}
        }
        let removed = table.remove(self.key);
        drop(table);
        Ok(self.end_of(removed))
    }

    /// Notes that the lease is no longer renewed. Returns its end; now, if it is lost.
    fn end_of(&mut self, removed: Option<Entry<R::Token>>) -> Instant {
        self.has_stopped = true;
        removed.map_or_else(Instant::now, |entry| entry.since + self.leases.times.lease)
    }
}

impl<R: Renew> Drop for HeldLease<R> {
    fn drop(&mut self) {
        if !self.has_stopped {
            self.leases.table().remove(self.key);
        }
    }
}
