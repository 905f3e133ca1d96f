//! The API as a process sees it.

use std::future::pending;
use std::panic::resume_unwind;
use std::sync::Arc;

use async_trait::async_trait;
use qomplement_webhooks::JobId;
use qomplement_webhooks::event::Envelope;
use qomplement_webhooks::fetch::{FetchError, Fetched, JobSource};
use tokio::time::sleep;

use crate::plan::place;
use crate::process::Process;
use crate::world::World;

#[derive(Debug)]
pub struct Api {
    world: Arc<World>,
    process: Arc<Process>,
}

/// One fetch in the ledger, until it is dropped.
struct Fetch<'a>(&'a Api, &'a JobId);

impl Drop for Fetch<'_> {
    fn drop(&mut self) {
        let (number, job) = (self.0.process.number, self.1);
        self.0.world.tell(|ledger| {
            ledger.fetched(number, job);
            Ok(())
        });
    }
}

impl Api {
    pub fn new(world: &Arc<World>, process: &Arc<Process>) -> Self {
        Self { world: world.clone(), process: process.clone() }
    }

    /// The truth about a job.
    fn answer(&self, job: &JobId) -> Fetched {
        let (world, now) = (&self.world, self.world.now());
        match world.plan.jobs.iter().find(|planned| planned.id == *job) {
            Some(planned) if planned.ends <= now => {
                Fetched::Finished(Envelope::try_from(planned.body(0)).unwrap())
            }
            Some(planned) if planned.submitted <= now => Fetched::Pending,
            _ => Fetched::NotFound,
        }
    }
}

#[async_trait]
impl JobSource for Api {
    async fn fetch(&self, job: &JobId) -> Result<Fetched, FetchError> {
        let Self { world, process } = self;
        process.go_on().await;
        let now = world.database.now();
        world.tell(|ledger| ledger.fetches(now, process.number, job));
        let _fetch = Fetch(self, job);
        let fetched = if let Some(dice) = world.strikes("api", place(job)) {
            let (which, time) = (dice.of("fault", 0).below(10), dice.of("time", 0).millis(20..=70_000));
            world.note(format_args!("{job}: p{} fetches: fault {which}, {time:?}", process.number));
            match which {
                0 => Err(FetchError::Unauthorized),
                1 => Err(FetchError::RateLimited { retry_after: Some(time) }),
                2 => Err(FetchError::unreachable("no connection")),
                3 => Err(FetchError::unavailable("500")),
                4 => Err(FetchError::Refused("403".into())),
                5 => pending().await,
                6 => resume_unwind(Box::new("a source's bug")),
                7 => Ok(Fetched::NotFound),
                8 => {
                    let other = world.plan.jobs.first().filter(|planned| planned.id != *job);
                    other.map_or(Ok(Fetched::NotFound), |other| {
                        Ok(Fetched::Finished(Envelope::try_from(other.body(0)).unwrap()))
                    })
                }
                _ => {
                    sleep(time).await;
                    Ok(self.answer(job))
                }
            }
        } else {
            Ok(self.answer(job))
        };
        process.go_on().await;
        world.note(format_args!("{job}: p{} fetched {fetched:?}", process.number));
        world.tell(|ledger| {
            ledger.answered(job, &fetched);
            Ok(())
        });
        fetched
    }
}
