//! One run of the handler, to whatever end.

use std::pin::pin;
use std::time::Duration;

use tokio::time::sleep;

use crate::drain::Drain;
use crate::guard::{Panicked, at_once_or, isolate};
use crate::handler::HandlerError;
use crate::lease::{HeldLease, Renew};
use crate::telemetry::result;

/// How a run of the handler ended.
pub(crate) enum Run {
    Returned(Result<(), HandlerError>),
    Panicked(Panicked),
    TimedOut,
    LeaseLost,
    Aborted,
}

impl Run {
    /// Runs a handler's future to its end, for as long as its lease is held and nothing else ends it.
    pub(crate) async fn of(
        handler: impl Future<Output = Result<(), HandlerError>> + Unpin,
        lease: &HeldLease<impl Renew>,
        drain: &Drain,
        max_time: Duration,
    ) -> Self {
        let run = pin!(async { isolate(handler).await.map_or_else(Self::Panicked, Self::Returned) });
        let or_ended = |run| async {
            tokio::select! {
                biased;
                run = run => run,
                () = lease.lost() => Self::LeaseLost,
                () = drain.aborted() => Self::Aborted,
                () = sleep(max_time) => Self::TimedOut,
            }
        };
        at_once_or(run, or_ended).await
    }

    /// The name for metrics.
    pub(crate) fn result(&self) -> &'static str {
        match self {
            Self::Returned(Ok(())) => result::OK,
            Self::Returned(Err(error)) if error.is_permanent() => result::FAILED_FOR_GOOD,
            Self::Returned(Err(_)) => result::FAILED,
            Self::Panicked(_) => result::PANICKED,
            Self::TimedOut => result::TIMED_OUT,
            Self::LeaseLost => result::LEASE_LOST,
            Self::Aborted => result::ABORTED,
        }
    }
}
