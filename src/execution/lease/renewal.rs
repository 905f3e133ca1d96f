//! The task that renews the leases of one runtime.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::runtime;
use tokio::time::{Instant, sleep};
use tracing::{Instrument, Span, error, warn};

use super::table::{Key, Table, Times};
use crate::error::chain;
use crate::execution::isolation::call;
use crate::store::{Fenced, StoreError};
use crate::telemetry;

/// Renews leases in a store.
#[async_trait]
pub(crate) trait Renew: fmt::Debug + Send + Sync + 'static {
    /// Names one lease.
    type Token: Clone + fmt::Debug + Send + Sync;

    /// The span of the work under a lease.
    fn span(token: &Self::Token) -> Span;

    /// Makes a lease last for another [`Times::lease`].
    async fn renew(&self, token: &Self::Token) -> Result<Fenced, StoreError>;

    /// Logs that a lease has passed to another holder. The work under the lease is dropped now.
    fn log_passed_on(&self) {
        error!("the lease has passed to another holder; dropping the handler now");
    }
}

/// Renews the leases of a receiver or a worker.
#[derive(Debug)]
pub(crate) struct Leases<R: Renew> {
    pub(super) store: R,
    pub(super) times: Times,
    pub(super) table: Mutex<Table<R::Token>>,
}

impl<R: Renew> Leases<R> {
    pub(super) fn table(&self) -> MutexGuard<'_, Table<R::Token>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task of a runtime. Its drop, as when the runtime is shut down, wakes the holders of its leases.
pub(super) struct Renewing<R: Renew> {
    leases: Arc<Leases<R>>,
    runtime: runtime::Id,
    /// Whether the task removed its runtime from the table.
    ended: bool,
}

impl<R: Renew> Renewing<R> {
    pub(super) fn new(leases: Arc<Leases<R>>, runtime: runtime::Id) -> Self {
        Self { leases, runtime, ended: false }
    }

    pub(super) async fn run(mut self) {
        loop {
            sleep(self.leases.times.tick).await;
            let Some(due) = self.due() else { return };
            // Without the table's lock: a runtime that is shut down drops a new task at once, and a renewal's drop takes
            // the lock.
            for DueRenewal { renewal, token } in due {
                let span = R::span(&token);
                tokio::spawn(renewal.run(token).instrument(span));
            }
        }
    }

    /// Expires leases, and marks those that are to be renewed now; `None` when the runtime has no leases left.
    fn due(&mut self) -> Option<Vec<DueRenewal<R>>> {
        let (now, times) = (Instant::now(), self.leases.times);
        let mut table = self.leases.table();
        let entries = table.leases_of(self.runtime)?;
        if entries.is_empty() {
            table.remove_runtime(self.runtime);
            self.ended = true;
            return None;
        }
        entries.retain(|_, entry| {
            let lives = now < times.end(entry.since);
            if !lives {
                entry.expire(&R::span(&entry.token));
            }
            lives
        });
        let mut due = Vec::new();
        for (place, entry) in entries {
            if !entry.renewing && now + times.tick > entry.since + times.renew_every {
                entry.renewing = true;
                let key = Key { runtime: self.runtime, place, number: entry.number };
                let renewal = Renewal { leases: self.leases.clone(), key };
                due.push(DueRenewal { renewal, token: entry.token.clone() });
            }
        }
        Some(due)
    }
}

impl<R: Renew> Drop for Renewing<R> {
    fn drop(&mut self) {
        if !self.ended {
            let entries = self.leases.table().remove_runtime(self.runtime);
            for (_, entry) in entries.iter().flatten() {
                entry.wake();
            }
        }
    }
}

/// A renewal that is about to begin.
struct DueRenewal<R: Renew> {
    renewal: Renewal<R>,
    token: R::Token,
}

/// A call that renews a lease. Its drop, also before its end, marks the renewal as over.
pub(super) struct Renewal<R: Renew> {
    pub(super) leases: Arc<Leases<R>>,
    pub(super) key: Key,
}

impl<R: Renew> Renewal<R> {
    pub(super) async fn run(self, token: R::Token) {
        let Leases { store, times, .. } = &*self.leases;
        let began = Instant::now();
        let renewed = call(|| began + times.call, || store.renew(&token)).await;
        let mut table = self.leases.table();
        let Some(entry) = table.get_mut(self.key) else { return };
        match renewed {
            Ok(Fenced::Applied) => entry.since = began,
            Ok(Fenced::Stale) => {
                store.log_passed_on();
                entry.wake();
                table.remove(self.key);
            }
            Err(error) => {
                telemetry::store_error(telemetry::call::RENEW);
                warn!(error = %chain(&error), retry_in = ?times.tick, "the lease was not renewed; retrying");
            }
        }
    }
}

impl<R: Renew> Drop for Renewal<R> {
    fn drop(&mut self) {
        if let Some(entry) = self.leases.table().get_mut(self.key) {
            entry.renewing = false;
            entry.wake();
        }
    }
}
