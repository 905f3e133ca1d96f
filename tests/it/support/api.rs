//! A stand-in for the API: a source of jobs with scripted answers that records every fetch.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use qomplement_webhooks::event::Envelope;
use qomplement_webhooks::fetch::{FetchError, Fetched, JobSource};
use qomplement_webhooks::sender::Payload;
use qomplement_webhooks::{JobId, async_trait};
use tokio::time::{Instant, sleep};

/// The answer to a fetch.
#[derive(Debug, Clone)]
pub enum Says {
    Pending,
    NotFound,
    Finished(Envelope),
    /// The API is not reachable.
    Down,
    /// The API has no answer for a job, as with 500.
    Failing,
    Unauthorized,
    RateLimited(Duration),
    Hang,
    Panic,
}

/// Gives every job the same answer, except for jobs with answers of their own. All clones are one.
#[derive(Debug, Clone)]
pub struct Api(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    of_all: Says,
    of_one: HashMap<JobId, Says>,
    takes: Duration,
    takes_of_one: HashMap<JobId, Duration>,
    asked: Vec<(JobId, Instant)>,
    in_flight: HashMap<JobId, usize>,
    most_in_flight: usize,
    twice_at_once: usize,
}

/// Counts a fetch as in flight until it is dropped.
struct InFlight(Api, JobId);

impl Api {
    pub fn new(of_all: Says) -> Self {
        let (of_one, in_flight) = (HashMap::new(), HashMap::new());
        let takes = Duration::from_millis(100);
        let state = State {
            of_all,
            of_one,
            takes,
            takes_of_one: HashMap::new(),
            asked: Vec::new(),
            in_flight,
            most_in_flight: 0,
            twice_at_once: 0,
        };
        Self(Arc::new(Mutex::new(state)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets how long every answer takes.
    pub fn takes(self, time: Duration) -> Self {
        self.state().takes = time;
        self
    }

    /// Sets how long the answers about one job take.
    pub fn takes_for(&self, job: &JobId, time: Duration) {
        self.state().takes_of_one.insert(job.clone(), time);
    }

    /// Sets the answer for all jobs without one of their own.
    pub fn says(&self, says: Says) {
        self.state().of_all = says;
    }

    /// Sets the answer for one job.
    pub fn says_of(&self, job: &JobId, says: Says) {
        self.state().of_one.insert(job.clone(), says);
    }

    /// Lets a job be finished from now on, and returns its event.
    pub fn finish(&self, job: &JobId) -> Envelope {
        let event = finished(job);
        self.says_of(job, Says::Finished(event.clone()));
        event
    }

    /// The number of fetches.
    pub fn fetches(&self) -> usize {
        self.state().asked.len()
    }

    /// The times of the fetches of a job.
    pub fn times(&self, job: &JobId) -> Vec<Instant> {
        let state = self.state();
        state.asked.iter().filter(|(asked, _)| asked == job).map(|(_, at)| *at).collect()
    }

    /// The times between the fetches of a job.
    pub fn pauses(&self, job: &JobId) -> Vec<Duration> {
        self.times(job).windows(2).map(|two| two[1] - two[0]).collect()
    }

    /// The number of fetches of a job that began during another fetch of the same job.
    pub fn twice_at_once(&self) -> usize {
        self.state().twice_at_once
    }

    /// The most fetches at one time.
    pub fn most_in_flight(&self) -> usize {
        self.state().most_in_flight
    }
}

/// The event of a finished job at the API. It differs from every webhook of the tests.
pub fn finished(job: &JobId) -> Envelope {
    let payload = Payload::extract_completed().job_id(job.to_string());
    payload.set("/data/result/model", "what the API says").to_bytes().try_into().unwrap()
}

impl InFlight {
    fn begin(api: &Api, job: &JobId) -> Self {
        let mut state = api.state();
        state.asked.push((job.clone(), Instant::now()));
        let of_job = state.in_flight.entry(job.clone()).or_default();
        *of_job += 1;
        let twice = *of_job > 1;
        state.twice_at_once += usize::from(twice);
        let in_flight = state.in_flight.values().sum();
        state.most_in_flight = state.most_in_flight.max(in_flight);
        drop(state);
        Self(api.clone(), job.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut state = self.0.state();
        let of_job = state.in_flight.get_mut(&self.1).unwrap();
        *of_job -= 1;
        if *of_job == 0 {
            // Each fetch adds all of them up.
            state.in_flight.remove(&self.1);
        }
    }
}

#[async_trait]
impl JobSource for Api {
    async fn fetch(&self, job: &JobId) -> Result<Fetched, FetchError> {
        let _in_flight = InFlight::begin(self, job);
        let takes = {
            let state = self.state();
            state.takes_of_one.get(job).copied().unwrap_or(state.takes)
        };
        sleep(takes).await;
        let says = {
            let state = self.state();
            state.of_one.get(job).unwrap_or(&state.of_all).clone()
        };
        match says {
            Says::Pending => Ok(Fetched::Pending),
            Says::NotFound => Ok(Fetched::NotFound),
            Says::Finished(event) => Ok(Fetched::Finished(event)),
            Says::Down => Err(FetchError::unreachable("connection refused")),
            Says::Failing => Err(FetchError::unavailable("the answer is 500")),
            Says::Unauthorized => Err(FetchError::Unauthorized),
            Says::RateLimited(time) => Err(FetchError::RateLimited { retry_after: Some(time) }),
            Says::Hang => std::future::pending().await,
            Says::Panic => panic!("a source's bug"),
        }
    }
}
