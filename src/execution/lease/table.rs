//! The leases held in this process, by runtime.

use std::sync::Arc;
use std::time::Duration;

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
    /// A list, because nearly every program has one runtime, or one for each core.
    pub(super) runtimes: Vec<(runtime::Id, Slab<Entry<T>>)>,
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
        Self { runtimes: Vec::new(), number: 0 }
    }

    /// Adds a lease, and returns whether it is the first of its runtime, which has no task yet.
    pub(super) fn insert(&mut self, runtime: runtime::Id, token: T, since: Instant) -> (Key, bool) {
        self.number += 1;
        let number = self.number;
        let entry = Entry { number, token, since, renewing: false, waiting: None };
        let (place, first) = match self.leases_of(runtime) {
            Some(entries) => (entries.insert(entry), false),
            None => {
                let mut entries = Slab::new();
                let place = entries.insert(entry);
                self.runtimes.push((runtime, entries));
                (place, true)
            }
        };
        (Key { runtime, place, number }, first)
    }

    /// The leases of a runtime whose task runs.
    pub(super) fn leases_of(&mut self, runtime: runtime::Id) -> Option<&mut Slab<Entry<T>>> {
        self.runtimes.iter_mut().find(|(id, _)| *id == runtime).map(|(_, entries)| entries)
    }

    /// Removes a runtime whose task ends, and returns the leases that are left.
    pub(super) fn remove_runtime(&mut self, runtime: runtime::Id) -> Option<Slab<Entry<T>>> {
        let place = self.runtimes.iter().position(|(id, _)| *id == runtime)?;
        Some(self.runtimes.swap_remove(place).1)
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut Entry<T>> {
        self.leases_of(key.runtime)?.get_mut(key.place).filter(|entry| entry.number == key.number)
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<Entry<T>> {
        let entries = self.leases_of(key.runtime)?;
        entries.get(key.place).filter(|entry| entry.number == key.number)?;
        entries.try_remove(key.place)
    }
}

impl<T> Entry<T> {
    /// Reports in the span of the work that the lease expired, and wakes the holder.
    pub(super) fn expire(&self, span: &Span) {
        let _in_span = span.enter();
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
