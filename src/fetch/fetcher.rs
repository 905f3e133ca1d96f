//! Asks the API for a job, and says what comes of the answer.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout_at};
use tracing::{debug, error, info, warn};

use crate::error::chain;
use crate::event::{Envelope, JobId};
use crate::execution::backoff::Backoff;
use crate::execution::isolation::{CallError, isolate};
use crate::fetch::{FetchError, FetchTime, Fetched, JobSource, RequestBudget};
use crate::inbox::{FetchHistory, NoResult, Outcome};

/// How long an answer may take, without what the request waits for its turn in a budget. A source has a limit of its
/// own for a request; this one is for a source that hangs.
const ANSWER_TIME: Duration = Duration::from_secs(60);
/// The pause before a job that has not ended is asked for again; it doubles.
const PENDING: Backoff = Backoff { first: Duration::from_secs(2), longest: Duration::from_secs(60) };
/// The same when there was no answer; and at least so long is waited when the job was not asked for.
const FAILED: Backoff = Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(5 * 60) };
/// How long a job waits for others when a budget opens again, for each time that it was fetched, up to so many times.
const OTHERS_FIRST: Duration = Duration::from_secs(1);
const MOST_OTHERS_FIRST: u32 = 8;
/// The longest that is waited because the API asks for it.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(60 * 60);
/// A job is none when the API says so that often, with these pauses, and so over ten minutes at least: what it does not
/// know yet it may know soon.
const NOT_FOUND_TIMES: u32 = 5;
const NOT_FOUND: Backoff = Backoff { first: Duration::from_secs(150), longest: Duration::from_secs(150) };
/// How long an API that does not answer is asked, from the first fetch without an answer on.
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
    /// When a closed budget opens again; `None` after an answer.
    reopens: Mutex<Option<Instant>>,
    /// Closes when the source fails, for a source without a budget. It limits no rate.
    budget: RequestBudget,
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
        Self {
            source,
            questions: Mutex::default(),
            failing: AtomicBool::new(false),
            reopens: Mutex::default(),
            budget: RequestBudget::new(f64::INFINITY, usize::MAX),
        }
    }

    /// Asks for a job. One that has not ended is given up when the `horizon` after its deadline has passed, if there is
    /// one.
    pub(crate) async fn ask(
        &self,
        job: &JobId,
        fetches: FetchHistory,
        passed_horizon: Option<Duration>,
    ) -> Verdict {
        if let Some(after) = self.waits_for_others(fetches) {
            return Verdict::Settle(Outcome::Release { after });
        }
        let again = |backoff: Backoff| backoff.at_least(fetches.count.saturating_add(1));
        let outcome = match self.question(job).answer().await {
            Ok(Fetched::Finished(event)) => return Verdict::Ended(event),
            Ok(Fetched::Pending) => match passed_horizon {
                Some(horizon) => {
                    error!(?horizon, "the job has not ended long after its deadline: it is given up");
                    Outcome::Dead { error: format!("the job had not ended {horizon:?} after its deadline") }
                }
                None => Outcome::FetchAgain { after: again(PENDING), answer: NoResult::Pending },
            },
            Ok(Fetched::NotFound) => {
                let times = fetches.not_found.saturating_add(1);
                if times >= NOT_FOUND_TIMES {
                    error!(times, "the API does not know the job: it is dead");
                    Outcome::Rejected { error: format!("asked {times} times, the API knows no such job") }
                } else {
                    warn!(times, "the API does not know the job; asking again later");
                    Outcome::FetchAgain { after: again(NOT_FOUND), answer: NoResult::NotFound }
                }
            }
            Err(failure) => failed(fetches, &failure),
        };
        Verdict::Settle(outcome)
    }

    /// How long a job is not asked for after a budget has closed: until it opens again, and longer the more often the job
    /// was fetched, so that jobs which fail do not close it each time before others had their turn.
    fn waits_for_others(&self, fetches: FetchHistory) -> Option<Duration> {
        let reopens = (*self.reopens())?;
        let turn = reopens + OTHERS_FIRST * fetches.count.min(MOST_OTHERS_FIRST);
        Some(turn.saturating_duration_since(Instant::now())).filter(|wait| !wait.is_zero())
    }

    fn reopens(&self) -> MutexGuard<'_, Option<Instant>> {
        self.reopens.lock().unwrap_or_else(PoisonError::into_inner)
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
        let permit = match self.budget.acquire().await {
            Ok(permit) => permit,
            Err(closed) => {
                let refused = Err(closed.into());
                self.note(&refused);
                return refused;
            }
        };
        let fetched = match self.in_time(job).await {
            Ok(Fetched::Finished(event)) if event.job() != job => {
                Err(FetchError::Unreadable("it is about another job".into()))
            }
            Ok(Fetched::Finished(event)) if !event.status().is_final() => Ok(Fetched::Pending),
            fetched => fetched,
        };
        match &fetched {
            Ok(_) => permit.answered(),
            Err(error) => {
                permit.failed(job, error);
            }
        }
        self.note(&fetched);
        fetched
    }

    /// What the source says, unless it hangs or panics.
    async fn in_time(&self, job: &JobId) -> Result<Fetched, FetchError> {
        let time = FetchTime::begin();
        let fetch = pin!(time.clone().of(self.source.fetch(job)));
        let mut fetch = isolate(fetch);
        loop {
            let until = time.since().unwrap_or_else(Instant::now) + ANSWER_TIME;
            match timeout_at(until, &mut fetch).await {
                Ok(Ok(fetched)) => return fetched,
                Ok(Err(panicked)) => return Err(FetchError::unavailable(panicked)),
                Err(_) if time.since().is_some_and(|since| since + ANSWER_TIME <= Instant::now()) => {
                    return Err(FetchError::unavailable(CallError::Late));
                }
                // It has had its turn since, or still waits for it.
                Err(_) => {}
            }
        }
    }

    /// Says once that there are no answers, and that there are again.
    fn note(&self, fetched: &Result<Fetched, FetchError>) {
        let error = match fetched {
            Ok(_) => {
                *self.reopens() = None;
                if self.failing.swap(false, Ordering::Relaxed) {
                    info!("the API answers again");
                }
                return;
            }
            Err(FetchError::InvalidId) => return,
            Err(error) => {
                if let FetchError::BudgetClosed(closed) = error {
                    let until = Instant::now() + closed.retry_after.min(LONGEST_RETRY_AFTER);
                    let mut reopens = self.reopens();
                    *reopens = (*reopens).max(Some(until));
                }
                chain(error)
            }
        };
        let of_one_job = matches!(
            fetched,
            Err(FetchError::Refused(_) | FetchError::Unavailable { .. } | FetchError::Unreadable(_))
        );
        if of_one_job {
            warn!(%error, "the API does not say what came of the job; asking again later");
        } else if self.failing.swap(true, Ordering::Relaxed) {
            debug!(%error, "the API still cannot be asked for jobs");
        } else {
            error!(%error, "the API cannot be asked for jobs; trying again until it can");
        }
    }
}

/// What comes of a job of which the API said nothing.
fn failed(fetches: FetchHistory, failure: &FetchError) -> Outcome {
    match failure {
        FetchError::InvalidId => {
            error!("no job of the API can have this id: it is dead");
            Outcome::Rejected { error: failure.to_string() }
        }
        // It was not asked for, so nothing is counted.
        FetchError::BudgetClosed(closed) => {
            debug!(error = %closed, "the job was not asked for");
            Outcome::Release { after: closed.retry_after.clamp(FAILED.first, LONGEST_RETRY_AFTER) }
        }
        failure if fetches.unanswered_for >= Some(NO_ANSWER_TIME) => {
            let error = chain(failure);
            error!(%error, "the API has not said for too long what came of the job: it is dead");
            Outcome::Dead { error }
        }
        failure => {
            let said = failure.retry_after().unwrap_or_default().min(LONGEST_RETRY_AFTER);
            let again = FAILED.at_least(fetches.count.saturating_add(1)).max(said);
            Outcome::FetchAgain { after: again, answer: NoResult::Failed { error: chain(failure) } }
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
