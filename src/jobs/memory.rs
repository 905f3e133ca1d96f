//! A registry for tests and small tools.

use std::error::Error;
use std::fmt;

use async_trait::async_trait;
use dashmap::DashSet;

use super::JobRegistry;
use crate::event::JobId;

/// A [`JobRegistry`] in this process's memory. Nothing survives a restart, and nothing is dropped by
/// itself: [`remove`](Self::remove) what has ended.
///
/// Share it as an `Arc`, between the code that starts jobs and the receiver. For jobs whose lost webhooks are
/// fetched, register them with [`InboxStore::expect`](crate::InboxStore::expect) instead.
#[derive(Default)]
pub struct MemoryJobRegistry {
    jobs: DashSet<JobId>,
}

impl MemoryJobRegistry {
    /// Makes a registry that knows no job.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a job that you have started. `false` if it was there.
    pub fn insert(&self, job: JobId) -> bool {
        self.jobs.insert(job)
    }

    /// Forgets a job. `false` if it was not there.
    pub fn remove(&self, job: &JobId) -> bool {
        self.jobs.remove(job).is_some()
    }
}

#[async_trait]
impl JobRegistry for MemoryJobRegistry {
    async fn is_known(&self, job: &JobId) -> Result<bool, Box<dyn Error + Send + Sync>> {
        Ok(self.jobs.contains(job))
    }
}

impl fmt::Debug for MemoryJobRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryJobRegistry").field("jobs", &self.jobs.len()).finish()
    }
}
