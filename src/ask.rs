//! Asks the API for a job, and says what comes of the answer.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use crate::backoff::Backoff;
use crate::event::{Envelope, JobId};
use crate::guard::{call, chain};
use crate::inbox::{Asked, Outcome, Unfinished};
use crate::jobs::{FetchError, Fetched, JobSource};

/// How long an answer may take, the wait for a budget that many share included. A source has a limit of its own for
/// a request; this one is for a source that hangs.
const ANSWER_TIME: Duration = Duration::from_secs(60);
/// The pause before a job that has not ended is asked for again; it doubles.
const PENDING: Backoff = Backoff { first: Duration::from_secs(2), longest: Duration::from_secs(60) };
/// The same when there was no answer.
const FAILED: Backoff = Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(5 * 60) };
/// The longest that is waited because the API asks for it.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(60 * 60);
/// A job is none when the API says so that often, and over such a time: what it does not know yet it may know soon.
const NOT_FOUND_TIMES: u32 = 5;
const NOT_FOUND_TIME: Duration = Duration::from_secs(10 * 60);
const NOT_FOUND: Backoff = Backoff { first: Duration::from_secs(150), longest: Duration::from_secs(150) };
/// Until when an API that does not answer is asked.
const NO_ANSWER_TIME: Duration = Duration::from_secs(72 * 60 * 60);
/// How long after its deadline a job is given up that has not ended.
pub(crate) const HORIZON: Duration = Duration::from_secs(24 * 60 * 60);

type Answer = Result<Fetched, Arc<FetchError>>;

/// A source of jobs, and how it has answered so far.
#[derive(Debug)]
pub(crate) struct Asker {
    source: Arc<dyn JobSource>,
    /// The jobs that it is asked for now.
    questions: Mutex<HashMap<JobId, Weak<OnceCell<Answer>>>>,
    /// Whether the last answer was none.
    failing: AtomicBool,
}

/// A job that is asked for, by one or by several who share the answer.
struct Question<'a> {
    asker: &'a Asker,
    job: &'a JobId,
    answer: Arc<OnceCell<Answer>>,
}

/// What comes of an answer.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// The job has ended with this event.
    Ended(Envelope),
    /// It has not, or it is not known.
    Settle(Outcome),
}

impl Asker {
    pub(crate) fn new(source: Arc<dyn JobSource>) -> Self {
        Self { source, questions: Mutex::default(), failing: AtomicBool::new(false) }
    }

    /// Asks for a job whose event was received, or should have come, that long ago. One that has not ended at the
    /// `horizon` is given up.
    pub(crate) async fn ask(
        &self,
        job: &JobId,
        asked: Asked,
        waited: Duration,
        horizon: Option<Duration>,
    ) -> Verdict {
        let again = |backoff: Backoff| backoff.at_least(asked.times.saturating_add(1));
        let outcome = match self.question(job).answer().await {
            Ok(Fetched::Finished(event)) => return Verdict::Ended(event),
            Ok(Fetched::Pending) => match horizon.filter(|horizon| waited >= *horizon) {
                Some(horizon) => {
                    error!(?horizon, "the job has not ended long after its deadline: it is given up");
                    Outcome::Dead { error: format!("the job had not ended {horizon:?} after its deadline") }
                }
                None => Outcome::AskAgain { after: again(PENDING), answer: Unfinished::Pending },
            },
            Ok(Fetched::NotFound) => {
                let times = asked.not_found.saturating_add(1);
                if times >= NOT_FOUND_TIMES && waited >= NOT_FOUND_TIME {
                    error!(times, "the API does not know the job: it is dead");
                    Outcome::Disowned { error: format!("asked {times} times, the API knows no such job") }
                } else {
                    warn!(times, "the API does not know the job; asking again later");
                    Outcome::AskAgain { after: again(NOT_FOUND), answer: Unfinished::NotFound }
                }
            }
            Err(failure) if matches!(*failure, FetchError::InvalidId) => {
                error!("no job of the API can have this id: it is dead");
                Outcome::Disowned { error: failure.to_string() }
            }
            Err(failure) if waited >= NO_ANSWER_TIME => {
                let failure = chain(&*failure);
                error!(error = %failure, "the API has not said for too long what came of the job: it is dead");
                Outcome::Dead { error: failure }
            }
            Err(failure) => {
                let said = failure.retry_after().unwrap_or_default().min(LONGEST_RETRY_AFTER);
                let answer = Unfinished::Failed { error: chain(&*failure) };
                Outcome::AskAgain { after: again(FAILED).max(said), answer }
            }
        };
        Verdict::Settle(outcome)
    }

    fn questions(&self) -> MutexGuard<'_, HashMap<JobId, Weak<OnceCell<Answer>>>> {
        self.questions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The question after a job that is asked now, or a new one.
    fn question<'a>(&'a self, job: &'a JobId) -> Question<'a> {
        let mut questions = self.questions();
        let answer = questions.get(job).and_then(Weak::upgrade).unwrap_or_default();
        questions.insert(job.clone(), Arc::downgrade(&answer));
        drop(questions);
        Question { asker: self, job, answer }
    }

    /// What the source says, with what it must not say turned into errors.
    async fn fetch(&self, job: &JobId) -> Result<Fetched, FetchError> {
        let fetch = pin!(async { Ok::<_, FetchError>(self.source.fetch(job).await) });
        let fetched = match call(|| Instant::now() + ANSWER_TIME, fetch).await {
            Ok(fetched) => fetched,
            Err(error) => Err(FetchError::unavailable(error)),
        };
        self.note(&fetched);
        match fetched? {
            Fetched::Finished(event) if event.job() != job => {
                Err(FetchError::Unreadable("it is about another job".into()))
            }
            Fetched::Finished(event) if !event.status().is_final() => Ok(Fetched::Pending),
            fetched => Ok(fetched),
        }
    }

    /// Says once that there are no answers, and that there are again.
    fn note(&self, fetched: &Result<Fetched, FetchError>) {
        match fetched {
            Ok(_) => {
                if self.failing.swap(false, Ordering::Relaxed) {
                    info!("the API answers again");
                }
            }
            Err(FetchError::InvalidId) => {}
            Err(error) => {
                let error = chain(error);
                if self.failing.swap(true, Ordering::Relaxed) {
                    debug!(%error, "the API still cannot be asked for jobs");
                } else {
                    error!(%error, "the API cannot be asked for jobs; trying again until it can");
                }
            }
        }
    }
}

impl Question<'_> {
    /// The answer, for which the source is asked once, however many wait for it. When the one who asks is dropped,
    /// another does.
    async fn answer(&self) -> Answer {
        self.answer.get_or_init(|| async { self.asker.fetch(self.job).await.map_err(Arc::new) }).await.clone()
    }
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        let mut questions = self.asker.questions();
        // Nobody else waits for this answer: whoever asks later wants a new one.
        if Arc::strong_count(&self.answer) == 1 {
            questions.remove(self.job);
        }
    }
}
