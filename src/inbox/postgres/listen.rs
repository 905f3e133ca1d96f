//! Listens for arrivals in other processes, and wakes callers that wait for one.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tracing::debug;

use super::statements::CHANNEL;
use crate::error::chain;
use crate::postgres::Connector;
use crate::random;

/// The pause before the next connection.
const PAUSE: Duration = Duration::from_secs(5);
/// The pause before the next hint is passed on, after one that led to no lease. Each further one doubles it, up to
/// [`LONGEST_VAIN_PAUSE`].
const VAIN_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_VAIN_PAUSE: Duration = Duration::from_millis(320);

/// A separate connection that listens, from the first wait until this is dropped.
#[derive(Default)]
pub(super) struct Listener(Mutex<JoinSet<()>>);

/// The callers that wait for an arrival. One is woken for each event that this process received, and one for each hint of
/// another process. A caller that leases as many rows as it wanted wakes the next, since more may be due.
///
/// Of many processes that get a hint of one event, one leases it. So after hints that led to no lease, the next ones are
/// passed on together after a pause; after a hint that led to a lease, the next one is passed on at once.
#[derive(Default)]
pub(super) struct Arrivals {
    waiting: Notify,
    /// Whether a hint has come since the last call that leased.
    was_hinted: AtomicBool,
    /// The number of hints in a row that led to no lease.
    vain: AtomicU32,
}

impl Arrivals {
    pub(super) async fn wait(&self) {
        self.waiting.notified().await;
    }

    pub(super) fn wake_one(&self) {
        self.waiting.notify_one();
    }

    /// Notes the number of rows that a call leased, and the number that it wanted.
    pub(super) fn leased(&self, rows: usize, wanted: usize) {
        if rows == 0 {
            if self.was_hinted.swap(false, Ordering::Relaxed) {
                self.vain.fetch_add(1, Ordering::Relaxed);
            }
            return;
        }
        if self.was_hinted.swap(false, Ordering::Relaxed) {
            self.vain.store(0, Ordering::Relaxed);
        }
        if rows >= wanted {
            self.wake_one();
        }
    }

    /// Passes the hints of other processes on, without end.
    async fn pass_on(&self, hints: &Notify) {
        loop {
            hints.notified().await;
            self.was_hinted.store(true, Ordering::Relaxed);
            self.wake_one();
            if let Some(doublings) = self.vain.load(Ordering::Relaxed).checked_sub(1) {
                sleep(LONGEST_VAIN_PAUSE.min(VAIN_PAUSE * 2_u32.pow(doublings.min(8)))).await;
            }
        }
    }
}

impl Listener {
    /// Starts the task that listens, unless it runs: the runtime of an earlier task may have ended.
    pub(super) fn start(&self, connector: &Connector, payload: &str, arrivals: &Arc<Arrivals>) {
        let Ok(runtime) = Handle::try_current() else { return };
        let mut task = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while task.try_join_next().is_some() {}
        if task.is_empty() {
            let listen = listen(connector.clone(), payload.to_owned(), arrivals.clone());
            task.spawn_on(listen, &runtime);
        }
    }
}

async fn listen(connector: Connector, payload: String, arrivals: Arc<Arrivals>) {
    let (table, own) = split(&payload);
    let hints = Notify::new();
    let connections = async {
        loop {
            let ended = connector.listen(CHANNEL, |notification| {
                // `None`: listening begins now, and notifications may have been missed before.
                let heard = notification.is_none_or(|notification| {
                    let (other_table, other) = split(notification.payload());
                    other_table == table && other != own
                });
                if heard {
                    hints.notify_one();
                }
            });
            match ended.await {
                Ok(()) => debug!("the listening connection has ended; connecting again in 5 s"),
                Err(error) => debug!(error = %chain(&error), "listening failed; connecting again in 5 s"),
            }
            sleep(PAUSE).await;
        }
    };
    tokio::select! {
        () = connections => {}
        () = arrivals.pass_on(&hints) => {}
    }
}

/// Splits a [`payload`] into the table and the inbox.
fn split(payload: &str) -> (&str, &str) {
    payload.rsplit_once(' ').unwrap_or((payload, ""))
}

/// The payload of this inbox's notifications: the table, and a random number for the inbox.
pub(super) fn payload(table: &str) -> String {
    format!("{table} {:x}", random::unique())
}
