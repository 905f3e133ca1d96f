//! Hears of arrivals in other processes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tracing::debug;

use super::statements::CHANNEL;
use crate::guard::chain;
use crate::postgres::Connector;

/// How long to wait before connecting again.
const PAUSE: Duration = Duration::from_secs(5);

/// A connection of its own that listens, from the first wait on until this is dropped.
#[derive(Default)]
pub(super) struct Listener(Mutex<JoinSet<()>>);

impl Listener {
    /// Starts to listen, if nobody does: the runtime of an earlier task may have ended.
    pub(super) fn start(&self, connector: &Connector, payload: &str, arrived: &Arc<Notify>) {
        let Ok(runtime) = Handle::try_current() else { return };
        let mut task = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while task.try_join_next().is_some() {}
        if task.is_empty() {
            let listen = listen(connector.clone(), payload.to_owned(), arrived.clone());
            task.spawn_on(listen, &runtime);
        }
    }
}

async fn listen(connector: Connector, payload: String, arrived: Arc<Notify>) {
    let (table, own) = split(&payload);
    loop {
        let ended = connector.listen(CHANNEL, |notification| {
            let heard = notification.is_none_or(|notification| {
                let (other_table, other) = split(notification.payload());
                other_table == table && other != own
            });
            if heard {
                // One for each worker that waits, and one for whoever comes next.
                arrived.notify_waiters();
                arrived.notify_one();
            }
        });
        match ended.await {
            Ok(()) => debug!("the connection that listens has ended"),
            Err(error) => debug!(error = %chain(&error), "not listening"),
        }
        sleep(PAUSE).await;
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
