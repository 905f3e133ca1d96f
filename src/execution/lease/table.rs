//! The leases held in this process, by runtime.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;
use slab::Slab;
use tokio::runtime;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{Span, error};

/// The times of a receiver's or a worker's leases.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    /// How long a lease lasts without renewal.
    pub(crate) lease: Duration,
    /// A lease is renewed before it is this old.
    pub(crate) renew_every: Duration,
    /// The time limit of a renewal. After it, the rest of the lease is long enough for another renewal.
    pub(crate) call: Duration,
    /// The period of the renewing task, and how much earlier than in the store a lease ends here: a handler is dropped
    /// before the next holder begins.
    pub(crate) tick: Duration,
}

impl Times {
    /// The end of a lease in this process.
    pub(super) fn end(&self, since: Instant) -> Instant {
        since + self.lease.saturating_sub(self.tick)
    }
}

/// The leases of all handlers of a receiver or a worker.
#[derive(Debug)]
pub(super) struct Table<T> {
    /// The leases of each runtime whose task runs. A task renews the leases of its own runtime only, so that a runtime
    /// that blocks or ends does not take the leases of another with it.
    pub(super) runtimes: HashMap<runtime::Id, Slab<Entry<T>>, RandomState>,
    /// The number of leases so far.
    number: u64,
}

/// One lease.
#[derive(Debug)]
pub(super) struct Entry<T> {
    pub(super) number: u64,
    pub(super) token: T,
    /// The beginning of the last write that extended the lease.
    pub(super) since: Instant,
    /// Whether a renewal is under way.
    pub(super) renewing: bool,
    /// Wakes the holder after a change, while the holder waits.
    pub(super) waiting: Option<Arc<Notify>>,
    pub(super) span: Span,
}

/// The place of an entry, and its number: places are reused.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key {
    pub(super) runtime: runtime::Id,
    pub(super) place: usize,
    pub(super) number: u64,
}

impl<T> Table<T> {
    pub(super) fn new() -> Self {
        Self { runtimes: HashMap::default(), number: 0 }
    }

    /// Adds a lease, and returns whether it is the first of its runtime, which has no task yet.
    pub(super) fn insert(
        &mut self,
        runtime: runtime::Id,
        token: T,
        since: Instant,
        span: Span,
    ) -> (Key, bool) {
        self.number += 1;
        let number = self.number;
        let first = !self.runtimes.contains_key(&runtime);
        let entries = self.runtimes.entry(runtime).or_default();
        let place = entries.insert(Entry { number, token, since, renewing: false, waiting: None, span });
        (Key { runtime, place, number }, first)
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut Entry<T>> {
        let entries = self.runtimes.get_mut(&key.runtime)?;
        entries.get_mut(key.place).filter(|entry| entry.number == key.number)
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<Entry<T>> {
        self.get_mut(key)?;
        self.runtimes.get_mut(&key.runtime)?.try_remove(key.place)
    }
}

impl<T> Entry<T> {
    /// Reports that the lease expired, and wakes the holder.
    pub(super) fn expire(&self) {
        let _in_span = self.span.enter();
        error!("the lease expired before it could be renewed; dropping the work under it now");
        self.wake();
    }

    /// Wakes the holder, which then looks at the entry again.
    pub(super) fn wake(&self) {
        if let Some(waiting) = &self.waiting {
            waiting.notify_one();
        }
    }
}
