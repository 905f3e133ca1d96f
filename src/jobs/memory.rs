//! A registry for tests and small tools.

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::{ExpectedJobs, JobEnd, JobRegistry, OverdueJob};
use crate::event::JobId;
use crate::inbox::Asked;

/// A [`JobRegistry`] in this process's memory. Nothing survives a restart, and nothing is dropped by
/// itself: [`remove`](Self::remove) what has ended.
///
/// Share it as an `Arc`, between the code that starts jobs and the receiver. It counts time with tokio's clock.
#[derive(Debug, Default)]
pub struct MemoryJobRegistry {
    jobs: Mutex<HashMap<JobId, Standing>>,
}

#[derive(Debug)]
enum Standing {
    /// Known, and not waited for.
    Known,
    Expected {
        deadline: Instant,
        overdue: Instant,
        asked: Asked,
    },
    GivenUp {
        error: String,
    },
}

impl MemoryJobRegistry {
    /// Makes a registry that knows no job.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a job that you have started. `false` if it was there.
    pub fn insert(&self, job: JobId) -> bool {
        self.add(job, Standing::Known)
    }

    /// Adds a job that you have started, and whose event should come within `deadline`; when it does not, a
    /// [`Reconciler`](crate::Reconciler) asks for it. `false` if it was there.
    pub fn expect(&self, job: JobId, deadline: Duration) -> bool {
        let deadline = after(deadline);
        self.add(job, Standing::Expected { deadline, overdue: deadline, asked: Asked::default() })
    }

    /// The jobs that were given up, and why. Each stays here until it is [removed](Self::remove).
    #[must_use]
    pub fn given_up(&self) -> Vec<(JobId, String)> {
        let jobs = self.jobs();
        let given_up = jobs.iter().filter_map(|(job, standing)| match standing {
            Standing::GivenUp { error } => Some((job.clone(), error.clone())),
            Standing::Known | Standing::Expected { .. } => None,
        });
        given_up.collect()
    }

    /// Forgets a job. `false` if it was not there.
    pub fn remove(&self, job: &JobId) -> bool {
        self.jobs().remove(job).is_some()
    }

    fn jobs(&self) -> MutexGuard<'_, HashMap<JobId, Standing>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, job: JobId, standing: Standing) -> bool {
        let mut jobs = self.jobs();
        let is_new = !jobs.contains_key(&job);
        if is_new {
            jobs.insert(job, standing);
        }
        is_new
    }
}

/// The time after a while; a while without an end is thirty years.
fn after(time: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(time).unwrap_or_else(|| now + Duration::from_secs(30 * 365 * 24 * 60 * 60))
}

#[async_trait]
impl JobRegistry for MemoryJobRegistry {
    async fn is_known(&self, job: &JobId) -> Result<bool, Box<dyn Error + Send + Sync>> {
        Ok(self.jobs().contains_key(job))
    }
}

#[async_trait]
impl ExpectedJobs for MemoryJobRegistry {
    async fn overdue(
        &self,
        most: usize,
        lease: Duration,
    ) -> Result<Vec<OverdueJob>, Box<dyn Error + Send + Sync>> {
        let (mut jobs, now) = (self.jobs(), Instant::now());
        let found = jobs.iter_mut().filter_map(|(job, standing)| match standing {
            Standing::Expected { deadline, overdue, asked } if *overdue <= now => {
                *overdue = after(lease);
                Some(OverdueJob { job: job.clone(), late: now - *deadline, asked: *asked })
            }
            _ => None,
        });
        Ok(found.take(most).collect())
    }

    async fn ask_again(&self, job: &JobId, again: &Asked) -> Result<(), Box<dyn Error + Send + Sync>> {
        if let Some(Standing::Expected { overdue, asked, .. }) = self.jobs().get_mut(job) {
            *overdue = after(again.again_in);
            *asked = *again;
        }
        Ok(())
    }

    async fn end(&self, job: &JobId, end: &JobEnd) -> Result<(), Box<dyn Error + Send + Sync>> {
        if let Some(standing) = self.jobs().get_mut(job) {
            *standing = match end {
                JobEnd::Handled => Standing::Known,
                JobEnd::GivenUp { error } => Standing::GivenUp { error: error.clone() },
            };
        }
        Ok(())
    }
}
