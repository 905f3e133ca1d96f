//! One run of the handler, and how it ends.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foldhash::fast::RandomState;
use tokio::time::{Instant, sleep};
use tracing::error;

use crate::event::JobId;
use crate::execution::drain::Drain;
use crate::execution::isolation::{Panicked, caught, isolate, until};
use crate::execution::lease::{HeldLease, Renew};
use crate::handler::HandlerError;
use crate::telemetry::{self, result};

/// How a run of the handler ended.
pub(crate) enum RunEnd {
    Returned(Result<(), HandlerError>),
    Panicked(Panicked),
    TimedOut,
    /// The handler was dropped, or not called.
    LeaseLost,
    /// The handler was dropped, or not called.
    Aborted,
    /// The handler was not called: an earlier run of the job, whose lease must have been lost, has not ended here.
    StillRunning,
}

/// Runs the handlers of a receiver or a worker, one per job at a time.
#[derive(Debug)]
pub(crate) struct Runs {
    drain: Arc<Drain>,
    max_time: Duration,
    /// The jobs whose handlers run now.
    ///
    /// When a store's clock is set forward, the store leases a job again while its handler runs. The next renewal is
    /// stale and drops that handler; until then, another run of the job would overlap with it.
    jobs: Mutex<HashSet<JobId, RandomState>>,
}

/// Marks a job as running until this is dropped.
struct Running<'a> {
    runs: &'a Runs,
    job: &'a JobId,
}

impl Runs {
    pub(crate) fn new(drain: Arc<Drain>, max_time: Duration) -> Self {
        Self { drain, max_time, jobs: Mutex::default() }
    }

    /// Calls a handler and runs its future until it returns, its lease is lost, the work is aborted or the time limit
    /// passes. When this returns, the future has been dropped.
    pub(crate) async fn run<H>(
        &self,
        job: &JobId,
        lease: &HeldLease<impl Renew>,
        call: impl FnOnce() -> Pin<Box<H>>,
    ) -> RunEnd
    where
        H: Future<Output = Result<(), HandlerError>> + ?Sized,
    {
        // The process may have stood still since the lease began.
        if self.drain.is_aborted() {
            return RunEnd::Aborted;
        }
        let began = Instant::now();
        if !lease.is_held(began) {
            return RunEnd::LeaseLost;
        }
        let Some(running) = self.begin(job) else { return RunEnd::StillRunning };
        // A method of the handler may panic before its future exists.
        let end = match caught(call) {
            Err(panicked) => RunEnd::Panicked(panicked),
            Ok(mut handler) => {
                let ended = || async {
                    tokio::select! {
                        biased;
                        () = lease.lost() => RunEnd::LeaseLost,
                        () = self.drain.aborted() => RunEnd::Aborted,
                        () = sleep(self.max_time) => RunEnd::TimedOut,
                    }
                };
                let end = match until(isolate(handler.as_mut()), ended).await {
                    Ok(returned) => returned.map_or_else(RunEnd::Panicked, RunEnd::Returned),
                    Err(ended) => ended,
                };
                // The handler's future is dropped before its lease is released: a drop may still have effects.
                if let Err(panicked) = caught(|| drop(handler)) {
                    error!(%panicked, "the handler panicked while it was dropped");
                }
                end
            }
        };
        drop(running);
        telemetry::handler_run(end.result(), began);
        end
    }

    /// The number of handlers that run now.
    #[cfg(feature = "metrics")]
    pub(crate) fn running(&self) -> usize {
        self.jobs().len()
    }

    /// Whether a handler of this job runs now.
    pub(crate) fn is_running(&self, job: &JobId) -> bool {
        self.jobs().contains(job)
    }

    fn begin<'a>(&'a self, job: &'a JobId) -> Option<Running<'a>> {
        let first = self.jobs().insert(job.clone());
        first.then(|| Running { runs: self, job })
    }

    fn jobs(&self) -> MutexGuard<'_, HashSet<JobId, RandomState>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.runs.jobs().remove(self.job);
    }
}

impl RunEnd {
    /// The label of this end in metrics.
    fn result(&self) -> &'static str {
        match self {
            Self::Returned(Ok(())) => result::OK,
            Self::Returned(Err(error)) if error.is_permanent() => result::PERMANENT_FAILURE,
            Self::Returned(Err(_)) => result::FAILED,
            Self::Panicked(_) => result::PANICKED,
            Self::TimedOut => result::TIMED_OUT,
            Self::LeaseLost | Self::StillRunning => result::LEASE_LOST,
            Self::Aborted => result::ABORTED,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;
    use tokio::time::advance;
    use tracing::Span;

    use super::*;
    use crate::execution::lease::{Leases, Times};
    use crate::store::{Fenced, StoreError};

    const SECOND: Duration = Duration::from_secs(1);

    #[derive(Debug)]
    struct Renews;

    #[async_trait]
    impl Renew for Renews {
        type Token = ();

        fn span((): &()) -> Span {
            Span::none()
        }

        async fn renew(&self, (): &()) -> Result<Fenced, StoreError> {
            Ok(Fenced::Applied)
        }
    }

    fn leases() -> Arc<Leases<Renews>> {
        Leases::new(Renews, Times { lease: SECOND * 5, renew_every: SECOND, call: SECOND, tick: SECOND / 2 })
    }

    fn runs() -> (Runs, Arc<Drain>) {
        let drain = Arc::new(Drain::default());
        (Runs::new(drain.clone(), SECOND * 60), drain)
    }

    #[tokio::test(start_paused = true)]
    async fn a_handler_does_not_begin_when_its_lease_is_over_or_the_work_is_aborted() {
        let (job, calls) = ("a".parse().unwrap(), AtomicUsize::new(0));
        let handler = || {
            Box::pin(async {
                calls.fetch_add(1, Ordering::SeqCst);
                Ok(())
            })
        };
        let (runs, drain) = runs();
        let began = Instant::now();
        advance(SECOND * 5 - SECOND / 2).await;
        let late = leases().hold((), began);
        assert!(matches!(runs.run(&job, &late, handler).await, RunEnd::LeaseLost), "the lease was over");
        let held = leases().hold((), Instant::now());
        let under_way = drain.enter().unwrap();
        drain.finish(Duration::ZERO).await;
        assert!(matches!(runs.run(&job, &held, handler).await, RunEnd::Aborted), "after the shutdown");
        assert_eq!(calls.load(Ordering::SeqCst), 0, "a handler began");
        drop(under_way);
    }

    #[tokio::test(start_paused = true)]
    async fn one_handler_of_a_job_runs_at_a_time() {
        let (job, other) = ("a".parse().unwrap(), "A".parse().unwrap());
        let ((runs, _drain), leases) = (runs(), leases());
        let returns = || Box::pin(async { Ok(()) });
        let [one, two, three] = [(); 3].map(|()| leases.hold((), Instant::now()));
        let (first, second, third) = tokio::join!(
            runs.run(&job, &one, || Box::pin(async {
                sleep(SECOND).await;
                panic!("a handler's bug")
            })),
            runs.run(&job, &two, returns),
            runs.run(&other, &three, returns),
        );
        assert!(matches!(first, RunEnd::Panicked(_)));
        assert!(matches!(second, RunEnd::StillRunning), "two runs of one job at once");
        assert!(matches!(third, RunEnd::Returned(Ok(()))), "another job had to wait");
        assert!(matches!(runs.run(&job, &two, returns).await, RunEnd::Returned(Ok(()))));
    }
}
