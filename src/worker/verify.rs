//! Verifies a leased event: fetches its job and stores the fetched event.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tracing::{error, warn};

use super::heartbeats::Heartbeats;
use crate::error::chain;
use crate::event::Envelope;
use crate::execution::drain::Drain;
use crate::execution::isolation::{CallError, until};
use crate::execution::lease::HeldLease;
use crate::execution::retry::{Retry, Written};
use crate::fetch::fetcher::{Fetcher, Verdict};
use crate::inbox::{InboxStore, Lease, Leased, Outcome};
use crate::telemetry;

/// Verifies the events of a worker.
pub(super) struct Verifier {
    pub(super) fetcher: Arc<Fetcher>,
    pub(super) inbox: Arc<dyn InboxStore>,
    pub(super) retry: Retry,
    pub(super) drain: Arc<Drain>,
}

/// The result of a verification.
pub(super) enum Verified {
    /// The fetched event, which is stored.
    Event(Envelope),
    /// There is no event to handle now.
    Settle(Outcome),
    LeaseLost,
}

impl Verifier {
    pub(super) async fn verify(&self, leased: &Leased, held: &HeldLease<Heartbeats>) -> Verified {
        let Leased { lease, fetches, .. } = leased;
        if fetches.next_in > Duration::ZERO {
            return Verified::Settle(Outcome::Release { after: fetches.next_in });
        }
        let verified = async {
            match self.fetcher.fetch(lease.job(), *fetches, None).await {
                Verdict::Settle(outcome) => Verified::Settle(outcome),
                Verdict::Ended(event) => self.store(lease, event).await,
            }
        };
        let ended = || async {
            tokio::select! {
                biased;
                () = held.lost() => Verified::LeaseLost,
                () = self.drain.aborted() => Verified::Settle(Outcome::Release { after: Duration::ZERO }),
            }
        };
        until(pin!(verified), ended).await.unwrap_or_else(|ended| ended)
    }

    /// Stores the fetched event, with retries while the lease is held.
    async fn store(&self, lease: &Lease, event: Envelope) -> Verified {
        let failed = |error: CallError, pause: Duration| {
            telemetry::store_error(telemetry::call::VERIFY);
            warn!(error = %chain(&error), retry_in = ?pause, "the fetched event was not stored; retrying");
        };
        match self.retry.write(None, || self.inbox.verify(lease, &event), failed).await {
            Written::Applied => Verified::Event(event),
            Written::Stale | Written::LeaseEnds(_) => {
                error!(
                    "the event was leased again, or replaced, before the fetched one was stored; leaving it alone"
                );
                Verified::LeaseLost
            }
        }
    }
}
