//! Hears of arrivals in other processes, and wakes who waits for any.

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

/// How long to wait before connecting again.
const PAUSE: Duration = Duration::from_secs(5);
/// How long to heed no further hint of another process after one in vain, and after many in a row: each doubles it.
const VAIN_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_VAIN_PAUSE: Duration = Duration::from_millis(320);

/// A connection of its own that listens, from the first wait on until this is dropped.
#[derive(Default)]
pub(super) struct Listener(Mutex<JoinSet<()>>);

/// Those who wait for an arrival. One is woken for each event that this process received, and one for whatever others
/// did; whoever leases as much as it can wakes the next, since there may be more.
///
/// Of many processes that are told of one event, one gets it. So hints that keep being in vain are heeded after a
/// pause, all that came in it together; a process that gets what it was told of heeds the next at once.
#[derive(Default)]
pub(super) struct Arrivals {
    waiting: Notify,
    /// Whether another process gave a hint since something was leased last.
    was_hinted: AtomicBool,
    /// How many hints of others in a row led to nothing.
    vain: AtomicU32,
}

impl Arrivals {
    pub(super) async fn wait(&self) {
        self.waiting.notified().await;
    }

    pub(super) fn wake_one(&self) {
        self.waiting.notify_one();
    }

    /// Notes how many rows were leased of so many that were wanted.
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

    /// Passes the hints of others on, for ever.
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
    /// Starts to listen, if nobody does: the runtime of an earlier task may have ended.
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
                // None: it listens from now on, and may have missed some.
                let heard = notification.is_none_or(|notification| {
                    let (other_table, other) = split(notification.payload());
                    other_table == table && other != own
                });
                if heard {
                    hints.notify_one();
                }
            });
            match ended.await {
                Ok(()) => debug!("the connection that listens has ended"),
                Err(error) => debug!(error = %chain(&error), "not listening"),
            }
            sleep(PAUSE).await;
        }
    };
    tokio::select! {
        () = connections => {}
        () = arrivals.pass_on(&hints) => {}
    }
}

/// Takes apart what [`payload`] put together.
fn split(payload: &str) -> (&str, &str) {
    payload.rsplit_once(' ').unwrap_or((payload, ""))
}

/// Says which inbox tells of an arrival in which table.
pub(super) fn payload(table: &str) -> String {
    // Without randomness, a process hears of its own arrivals, too.
    format!("{table} {:x}", getrandom::u64().unwrap_or_default())
}
