//! Asks the API before the handler is called.

use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::{error, warn};

use super::attempts::{Heartbeats, RECORD_AGAIN, Worker};
use crate::error::chain;
use crate::event::Envelope;
use crate::execution::isolation::{call, until};
use crate::execution::lease::HeldLease;
use crate::fetch::fetcher::{Asker, Verdict};
use crate::inbox::{Lease, Leased, Outcome};
use crate::store::Fenced;

/// What the API made of an event.
pub(super) enum Verified {
    /// This one is true, and stored.
    By(Envelope),
    /// There is none to handle.
    Not(Outcome),
    /// It is no longer ours.
    LeaseLost,
}

impl Worker {
    /// Asks the API for the job of an event, and stores what it says.
    pub(super) async fn verify(
        &self,
        asker: &Asker,
        leased: &Leased,
        held: &HeldLease<Heartbeats>,
    ) -> Verified {
        let Leased { lease, fetches, .. } = leased;
        if fetches.next_in > Duration::ZERO {
            return Verified::Not(Outcome::Release { after: fetches.next_in });
        }
        let verified = async {
            match asker.ask(lease.job(), *fetches, None).await {
                Verdict::Settle(outcome) => Verified::Not(outcome),
                Verdict::Ended(event) => self.store(lease, event).await,
            }
        };
        let ended = || async {
            tokio::select! {
                () = held.lost() => Verified::LeaseLost,
                () = self.drain.aborted() => Verified::Not(Outcome::Release { after: Duration::ZERO }),
            }
        };
        until(pin!(verified), ended).await.unwrap_or_else(|ended| ended)
    }

    /// Stores what the API says; again and again, until the lease is lost.
    async fn store(&self, lease: &Lease, event: Envelope) -> Verified {
        let mut pause = RECORD_AGAIN;
        loop {
            let stored = self.settings.inbox.verify(lease, &event);
            match call(|| Instant::now() + self.settings.lease / 3, stored).await {
                Ok(Fenced::Applied) => return Verified::By(event),
                Ok(Fenced::Stale) => {
                    error!(
                        "the event has been leased again, or replaced, before what the API says was stored"
                    );
                    return Verified::LeaseLost;
                }
                Err(error) => {
                    warn!(error = %chain(&error), "what the API says was not stored; trying again");
                }
            }
            sleep(pause).await;
            pause = (pause * 2).min(self.settings.lease);
        }
    }
}
