//! Tells a closure of the user's about dead letters.

use std::fmt;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tracing::warn;

use super::Outcome;
use crate::error::{BoxError, chain};
use crate::event::JobId;
use crate::execution::drain::Drain;
use crate::execution::isolation::{CallError, caught, isolate, made, until};

/// The time limit of one call of the closure.
const CALL_TIME: Duration = Duration::from_secs(10);

/// A dead letter, as [`InboxWorker::on_dead_letter`](crate::InboxWorker::on_dead_letter) passes it to your closure.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The job. Its row has the rest: see [`InboxAdmin::get`](super::InboxAdmin::get).
    pub job: JobId,
    /// The error that ended the attempts or fetches, with its causes.
    pub error: String,
}

type Told = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;
type Closure = dyn Fn(DeadLetter) -> Told + Send + Sync;

/// The closure that is called for each dead letter, if there is one.
#[derive(Clone, Default)]
pub(crate) struct DeadLetterHook(Option<Arc<Closure>>);

impl DeadLetterHook {
    pub(crate) fn new<F, Fut>(closure: F) -> Self
    where
        F: Fn(DeadLetter) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        Self(Some(Arc::new(move |letter| Box::pin(closure(letter)))))
    }

    /// Calls the closure if a recorded outcome has made the job's row a dead letter. A failure of the closure is logged.
    pub(crate) async fn tell(&self, job: &JobId, outcome: &Outcome, drain: &Drain) {
        let (Some(closure), Outcome::Dead { error } | Outcome::Rejected { error }) = (&self.0, outcome)
        else {
            return;
        };
        let letter = DeadLetter { job: job.clone(), error: error.clone() };
        let mut told = Box::pin(made(|| closure(letter)));
        let ended = drain.unless_aborted(pin!(until(isolate(told.as_mut()), || sleep(CALL_TIME)))).await;
        let failed = match ended {
            Some(Ok(Ok(returned))) => returned.map_err(CallError::Failed),
            Some(Ok(Err(panicked))) => Err(CallError::Panicked(panicked)),
            Some(Err(())) => Err(CallError::Late),
            None => Err(CallError::Failed("the grace of the shutdown ended".into())),
        };
        let failed = failed.and(caught(|| drop(told)).map_err(CallError::Panicked));
        if let Err(error) = failed {
            warn!(error = %chain(&error), "`on_dead_letter` failed; it is not called again for this dead letter");
        }
    }
}

impl fmt::Debug for DeadLetterHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Some(_)" } else { "None" })
    }
}
