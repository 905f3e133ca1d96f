//! A source of jobs that answers as it is told to, and notes what it was asked.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use qomplement_webhooks::event::Envelope;
use qomplement_webhooks::fetch::{FetchError, Fetched, JobSource};
use qomplement_webhooks::sender::Payload;
use qomplement_webhooks::{JobId, async_trait};
use tokio::time::{Instant, sleep};

/// What is said of a job.
#[derive(Debug, Clone)]
pub enum Says {
    Pending,
    NotFound,
    Finished(Envelope),
    /// It cannot be asked.
    Down,
    /// It has no answer for a job, as with 500.
    Failing,
    Unauthorized,
    RateLimited(Duration),
    Hang,
    Panic,
}

/// Says the same of every job, unless it was told what to say of one. All clones are one.
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

/// Counts a question for as long as its future lives.
struct Asking(Api, JobId);

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

    /// How long an answer takes.
    pub fn takes(self, time: Duration) -> Self {
        self.state().takes = time;
        self
    }

    /// How long an answer about one job takes.
    pub fn takes_for(&self, job: &JobId, time: Duration) {
        self.state().takes_of_one.insert(job.clone(), time);
    }

    /// What it says from now on of all of which nothing else was said.
    pub fn says(&self, says: Says) {
        self.state().of_all = says;
    }

    /// What it says from now on of one job.
    pub fn says_of(&self, job: &JobId, says: Says) {
        self.state().of_one.insert(job.clone(), says);
    }

    /// It says from now on that a job has ended, and returns with what.
    pub fn finish(&self, job: &JobId) -> Envelope {
        let event = finished(job);
        self.says_of(job, Says::Finished(event.clone()));
        event
    }

    /// How often it was asked.
    pub fn asked(&self) -> usize {
        self.state().asked.len()
    }

    /// When it was asked for a job.
    pub fn times(&self, job: &JobId) -> Vec<Instant> {
        let state = self.state();
        state.asked.iter().filter(|(asked, _)| asked == job).map(|(_, at)| *at).collect()
    }

    /// How long it was between one question for a job and the next.
    pub fn pauses(&self, job: &JobId) -> Vec<Duration> {
        self.times(job).windows(2).map(|two| two[1] - two[0]).collect()
    }

    /// How often it was asked for a job while it was asked for the same one.
    pub fn twice_at_once(&self) -> usize {
        self.state().twice_at_once
    }

    /// The most questions at one time.
    pub fn most_in_flight(&self) -> usize {
        self.state().most_in_flight
    }
}

/// What the API says of a job that has ended: not what any webhook of the tests says.
pub fn finished(job: &JobId) -> Envelope {
    let payload = Payload::extract_completed().job_id(job.to_string());
    payload.set("/data/result/model", "what the API says").to_bytes().try_into().unwrap()
}

impl Asking {
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

impl Drop for Asking {
    fn drop(&mut self) {
        *self.0.state().in_flight.get_mut(&self.1).unwrap() -= 1;
    }
}

#[async_trait]
impl JobSource for Api {
    async fn fetch(&self, job: &JobId) -> Result<Fetched, FetchError> {
        let _asking = Asking::begin(self, job);
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
