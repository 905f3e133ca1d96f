//! The suite finds what is wrong: an inbox for each mistake, and the check that must name it.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::runtime::Builder;
use tokio::task::yield_now;
use tokio::time::Instant;

use super::{failures, inbox_all};
use crate::event::{Envelope, JobId};
use crate::execution::isolation::isolate;
use crate::inbox::{
    FetchHistory, InboxAdmin, InboxFilter, InboxRow, InboxState, InboxStats, InboxStore, Lease, Leased,
    MemoryInbox, NoResult, Outcome, Overdue, Pruned, Receipt, Retention,
};
use crate::store::{Fenced, StoreError};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Flaw {
    Nothing,
    AcknowledgesWithoutStoring,
    SaysEveryCopyIsStored,
    SaysNoConflict,
    KeepsTheLastBody,
    NeverReplaces,
    ReplacesOnlyWhatIsNotDone,
    ReplacesWithAnyStatus,
    LetsTheOldLeaseWriteToTheNewEvent,
    FreesTheLeaseOfAReplacedEvent,
    KeepsTheAttemptsOfAReplacedEvent,
    WritesJsonAnew,
    LeasesOneRowTwice,
    LeasesOneMore,
    LeavesOneOut,
    LeasesInOrderOfArrival,
    CountsAnAttemptAtItsEnd,
    HidesAnExpiredLease,
    ForgetsThatItBegan,
    RemembersThatItBegan,
    BeginsWithoutFence,
    KeepsTheFencingToken,
    NeverEndsALease,
    EndsLeasesEarly,
    RenewsNothing,
    RenewsOnlyWhatIsLeft,
    RenewsWithoutFence,
    SettlesWithoutFence,
    SettlesOnlyInTime,
    SettlesOnce,
    SettlesAgain,
    LeasesWhatIsDone,
    LeasesWhatIsDead,
    ForgetsDelays,
    ForgetsErrors,
    RefusesOddErrors,
    RefusesOddErrorsOfAnswers,
    CountsAReleaseAsAnAttempt,
    ForgetsExpectedJobs,
    RefusesTheEventOfAnExpectedJob,
    ResetsWhatIsExpected,
    ForgetsDeadlines,
    SaysOverdueTwice,
    SaysOverdueOnce,
    LeavesOverdueToTwo,
    VerifiesNothing,
    VerifiesWithoutFence,
    EndsTheLeaseOfWhatItVerifies,
    KeepsTheEventOfAPendingJob,
    CountsWhatWasAskedAsAnAttempt,
    CountsNoAsking,
    CountsAReleaseAsAFetch,
    BreaksTheRowOfNotFound,
    DropsTheEventOfAnUnknownJob,
    HandlesWhatIsExpected,
    SaysEverythingIsVerified,
    ForgetsThatItVerified,
    RejectsWithTheEvent,
    KeepsTheLeaseOfBeforeAReplay,
    NeverGivesAnExpectedJobUp,
    ForgetsWhenToAskAgain,
    KeepsNoLeaseOfWhoAsks,
    LetsWhoAskedBeforeWrite,
    CountsLatenessFromTheLease,
    KeepsTheAskingOfBefore,
    EndsAnExpectationWithAnyStatus,
    ForgetsTheDeadlineAfterAnyStatus,
    IgnoresTheDeadlineOfAJobThatItHas,
    LeasesInTheOrderOfFetches,
    SaysOverdueInTheOrderOfFetches,
    CountsNoAnswerFromTheLastFetch,
    CountsNoAnswerOverItsEnd,
    VerifiesInTwoSteps,
    RefusesLongTimes,
    ReplaysNothing,
    ReplaysAnything,
    ForgetsEarlierAttempts,
    ListsBackwards,
    ListsWithoutFilter,
    ListsFromTheStart,
    CountsExpectedAsReceived,
    CountsNoBytes,
    KnowsNoAge,
    PrunesTheDead,
    PrunesEarly,
    PrunesNothing,
    PrunesRowsWithBodies,
    IgnoresCase,
    RefusesOddTypes,
    RefusesOddTypesOfAnswers,
    CutsBodies,
    ForgetsOneOfMany,
    StaysLockedWhenCancelled,
    SetsTheEndOfALeaseLater,
    WritesAnAnswerInTwoSteps,
}

use Flaw::*;

#[derive(Debug, Clone)]
struct Flawed {
    flaw: Flaw,
    inner: MemoryInbox,
    state: Arc<State>,
}

/// What the flaws remember.
#[derive(Debug, Default)]
struct State {
    bodies: Mutex<HashMap<JobId, Bytes>>,
    attempts: Mutex<HashMap<JobId, u32>>,
    expected: Mutex<HashSet<JobId>>,
    /// Jobs that could not be asked for, the last time.
    failed: Mutex<HashSet<JobId>>,
    fetches: Mutex<HashMap<JobId, u32>>,
    unanswered: Mutex<HashMap<JobId, Instant>>,
    verified: Mutex<HashSet<JobId>>,
    gone: Mutex<HashSet<JobId>>,
    settled: Mutex<HashSet<(JobId, u64)>>,
    begun: Mutex<HashSet<JobId>>,
    at_once: AtomicUsize,
    leased: Mutex<Vec<Leased>>,
    overdue: Mutex<Vec<Overdue>>,
    received: AtomicUsize,
    locked: Mutex<bool>,
}

impl Flawed {
    fn is(&self, flaw: Flaw) -> bool {
        self.flaw == flaw
    }

    async fn row(&self, job: &JobId) -> Option<InboxRow> {
        self.inner.get(job).await.unwrap().map(|(row, _)| row)
    }

    /// The lease that the row really has.
    async fn last_lease(&self, lease: &Lease) -> Lease {
        for fence in 0..100 {
            let lease = Lease::new(lease.job().clone(), fence);
            let left = self.row(lease.job()).await.and_then(|row| row.due_in).unwrap_or_default();
            if self.inner.renew(&lease, left).await.unwrap() == Fenced::Applied {
                return lease;
            }
        }
        lease.clone()
    }

    /// Notes how often a job was asked for in a life that ends here.
    fn keep_asked(&self, before: Option<&InboxRow>) {
        if let Some(row) = before.filter(|row| matches!(row.state, InboxState::Done | InboxState::Dead)) {
            self.state.fetches.lock().unwrap().insert(row.job().unwrap(), row.fetches);
        }
    }

    /// How a job was asked for, as this inbox tells it.
    fn fetches(&self, job: &JobId, mut fetches: FetchHistory) -> FetchHistory {
        match self.flaw {
            KeepsTheAskingOfBefore => {
                fetches.count += self.state.fetches.lock().unwrap().get(job).copied().unwrap_or_default();
            }
            CountsNoAnswerFromTheLastFetch | CountsNoAnswerOverItsEnd => {
                let since = self.state.unanswered.lock().unwrap().get(job).map(Instant::elapsed);
                fetches.unanswered_for = match self.flaw {
                    CountsNoAnswerOverItsEnd => fetches.unanswered_for.or(since),
                    _ => fetches.unanswered_for.and(since),
                };
            }
            BreaksTheRowOfNotFound if self.state.failed.lock().unwrap().contains(job) => {
                fetches.not_found = 0;
            }
            _ => {}
        }
        fetches
    }

    async fn is_expected(&self, job: &JobId) -> bool {
        self.row(job).await.is_some_and(|row| row.state == InboxState::Expected)
    }

    fn small(&self, event: &Envelope) -> Envelope {
        let text = String::from_utf8(event.body().to_vec()).unwrap();
        let id = event.job().to_string();
        Bytes::from(text.replace(&id, &id.to_lowercase())).try_into().unwrap()
    }
}

/// Holds a lock that a dropped call never gives back.
async fn in_lock<T>(
    inbox: &Flawed,
    call: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    if !inbox.is(StaysLockedWhenCancelled) {
        return call.await;
    }
    if std::mem::replace(&mut *inbox.state.locked.lock().unwrap(), true) {
        return Err(StoreError::unavailable("locked"));
    }
    yield_now().await;
    let result = call.await;
    *inbox.state.locked.lock().unwrap() = false;
    result
}

#[async_trait]
impl InboxStore for Flawed {
    async fn receive(&self, event: &Envelope) -> Result<Receipt, StoreError> {
        let job = event.job();
        let before = self.row(job).await;
        let kept_is_final = before
            .as_ref()
            .and_then(|row| row.status.as_deref())
            .is_none_or(|status| ["completed", "failed"].contains(&status));
        let odd = event.job_type().as_str().contains('\0');
        let done = before.as_ref().is_some_and(|row| row.state == InboxState::Done);
        match self.flaw {
            AcknowledgesWithoutStoring => return Ok(Receipt::Stored),
            RefusesTheEventOfAnExpectedJob if before.is_some() => return Ok(Receipt::Duplicate),
            RefusesOddTypes if odd => return Err(StoreError::unavailable("not a text")),
            NeverReplaces if !kept_is_final => return Ok(Receipt::Duplicate),
            ReplacesOnlyWhatIsNotDone if !kept_is_final && done => return Ok(Receipt::Duplicate),
            ForgetsOneOfMany if self.state.received.fetch_add(1, Ordering::SeqCst) % 700 == 699 => {
                return Ok(Receipt::Stored);
            }
            KeepsTheAttemptsOfAReplacedEvent => {
                let attempts = before.as_ref().map_or(0, |row| row.attempts);
                self.state.attempts.lock().unwrap().insert(job.clone(), attempts);
            }
            _ => {}
        }
        self.keep_asked(before.as_ref());
        let small = self.is(IgnoresCase).then(|| self.small(event));
        let event = small.as_ref().unwrap_or(event);
        let receipt = in_lock(self, self.inner.receive(event)).await?;
        let replaced = receipt == Receipt::Stored && before.as_ref().is_some_and(|row| row.status.is_some());
        let running = before.as_ref().is_some_and(|row| row.state == InboxState::Running);
        if self.is(FreesTheLeaseOfAReplacedEvent) && replaced && running {
            let lease = self.last_lease(&Lease::new(job.clone(), 0)).await;
            let freed = Outcome::Retry { after: Duration::ZERO, error: String::new() };
            let _ = self.inner.settle(&lease, &freed).await?;
        }
        if self.is(KeepsTheLastBody) || self.is(ReplacesWithAnyStatus) && !event.status().is_final() {
            self.state.bodies.lock().unwrap().insert(job.clone(), event.body().clone());
        }
        Ok(match receipt {
            Receipt::Duplicate if self.is(SaysEveryCopyIsStored) => Receipt::Stored,
            Receipt::Conflict if self.is(SaysNoConflict) => Receipt::Duplicate,
            receipt => receipt,
        })
    }

    async fn lease(&self, most: usize, length: Duration) -> Result<Vec<Leased>, StoreError> {
        let length = match self.flaw {
            NeverEndsALease => Duration::from_secs(1_000_000),
            EndsLeasesEarly => length / 3,
            _ => length,
        };
        if self.is(LeasesInTheOrderOfFetches) {
            let mut all = self.inner.lease(usize::MAX, length).await?;
            all.sort_by_key(|leased| std::cmp::Reverse(leased.fetches.count));
            let back = Outcome::Release { after: Duration::ZERO };
            for leased in all.split_off(most.min(all.len())) {
                let _ = self.inner.settle(&leased.lease, &back).await?;
            }
            return Ok(all);
        }
        if self.is(LeasesInOrderOfArrival) {
            let mut all = self.inner.lease(usize::MAX, length).await?;
            let mut numbers = HashMap::new();
            for leased in &all {
                numbers
                    .insert(leased.lease.job().clone(), self.row(leased.lease.job()).await.unwrap().number);
            }
            all.sort_by_key(|leased| numbers[leased.lease.job()]);
            let back = Outcome::Release { after: Duration::ZERO };
            for leased in all.split_off(most.min(all.len())) {
                let _ = self.inner.settle(&leased.lease, &back).await?;
            }
            return Ok(all);
        }
        let long = Duration::from_secs(1_000_000);
        let (first_length, extra) = match self.flaw {
            SetsTheEndOfALeaseLater => (long, 0),
            LeasesOneMore if most > 0 => (length, 1),
            _ => (length, 0),
        };
        let most = if self.is(LeavesOneOut) && most > 2 { most - 1 } else { most };
        let mut leased = in_lock(self, self.inner.lease(most + extra, first_length)).await?;
        match self.flaw {
            SetsTheEndOfALeaseLater => {
                yield_now().await;
                for leased in &leased {
                    let _ = self.inner.renew(&leased.lease, length).await?;
                }
            }
            LeasesOneRowTwice => {
                if self.state.at_once.fetch_add(1, Ordering::SeqCst) == 0 {
                    self.state.leased.lock().unwrap().clone_from(&leased);
                }
                yield_now().await;
                if leased.is_empty() {
                    leased.clone_from(&self.state.leased.lock().unwrap());
                    leased.truncate(most);
                }
                if self.state.at_once.fetch_sub(1, Ordering::SeqCst) == 1 {
                    self.state.leased.lock().unwrap().clear();
                }
            }
            _ => yield_now().await,
        }
        for leased in &mut leased {
            let job = leased.lease.job().clone();
            leased.fetches = self.fetches(&job, leased.fetches);
            if let Some(body) = self.state.bodies.lock().unwrap().get(&job) {
                leased.body = body.clone();
            }
            match self.flaw {
                WritesJsonAnew => {
                    let value: serde_json::Value = serde_json::from_slice(&leased.body).unwrap();
                    leased.body = value.to_string().into();
                }
                CutsBodies => leased.body.truncate(1 << 20),
                CountsAnAttemptAtItsEnd if leased.expired => leased.attempt -= 1,
                HidesAnExpiredLease => leased.expired = false,
                RemembersThatItBegan => leased.begun = self.state.begun.lock().unwrap().contains(&job),
                KeepsTheFencingToken => leased.lease = Lease::new(job, 1),
                ForgetsEarlierAttempts => leased.earlier_attempts = 0,
                SaysEverythingIsVerified => leased.verified = true,
                ForgetsThatItVerified if leased.attempt > 1 => leased.verified = false,
                KeepsTheAttemptsOfAReplacedEvent => {
                    leased.attempt +=
                        self.state.attempts.lock().unwrap().get(&job).copied().unwrap_or_default();
                }
                _ => {}
            }
        }
        Ok(leased)
    }

    async fn begin(&self, lease: &Lease) -> Result<Fenced, StoreError> {
        match self.flaw {
            ForgetsThatItBegan => self.inner.renew(lease, Duration::from_millis(1)).await,
            RemembersThatItBegan => {
                let begun = self.inner.begin(lease).await?;
                if begun == Fenced::Applied {
                    self.state.begun.lock().unwrap().insert(lease.job().clone());
                }
                Ok(begun)
            }
            BeginsWithoutFence | KeepsTheFencingToken => {
                self.inner.begin(&self.last_lease(lease).await).await
            }
            _ => in_lock(self, self.inner.begin(lease)).await,
        }
    }

    async fn renew(&self, lease: &Lease, length: Duration) -> Result<Fenced, StoreError> {
        let expected = self.is_expected(lease.job()).await;
        let row = self.row(lease.job()).await;
        let running = row.as_ref().is_some_and(|row| row.state == InboxState::Running);
        let ended = row.is_some_and(|row| row.due_in == Some(Duration::ZERO));
        match self.flaw {
            RenewsNothing if running => Ok(Fenced::Applied),
            KeepsTheLeaseOfBeforeAReplay if expected => {
                self.inner.renew(&self.last_lease(lease).await, length).await
            }
            KeepsNoLeaseOfWhoAsks if expected => Ok(Fenced::Applied),
            RenewsOnlyWhatIsLeft if ended => Ok(Fenced::Stale),
            RenewsWithoutFence if running => {
                let lease = self.last_lease(lease).await;
                self.inner.renew(&lease, length).await
            }
            KeepsTheFencingToken => self.inner.renew(&self.last_lease(lease).await, length).await,
            _ => in_lock(self, self.inner.renew(lease, length)).await,
        }
    }

    async fn settle(&self, lease: &Lease, outcome: &Outcome) -> Result<Fenced, StoreError> {
        let expected = self.is_expected(lease.job()).await;
        let row = self.row(lease.job()).await;
        let ended = row.is_some_and(|row| row.due_in == Some(Duration::ZERO));
        if let Outcome::FetchAgain { answer, .. } = outcome {
            let mut failed = self.state.failed.lock().unwrap();
            if matches!(answer, NoResult::Failed { .. }) {
                self.state.unanswered.lock().unwrap().insert(lease.job().clone(), Instant::now());
                failed.insert(lease.job().clone());
            } else {
                failed.remove(lease.job());
            }
        }
        let first = self.state.settled.lock().unwrap().insert((lease.job().clone(), lease.fence()));
        let now = Duration::ZERO;
        let failed = |error: &str| Outcome::Retry { after: now, error: error.to_owned() };
        let outcome = match (self.flaw, outcome.clone()) {
            (SettlesOnlyInTime, _) if ended && first => return Ok(Fenced::Stale),
            (SettlesOnce, _) if !first => return Ok(Fenced::Stale),
            (KeepsTheEventOfAPendingJob, Outcome::FetchAgain { after, answer: NoResult::Pending }) => {
                Outcome::FetchAgain { after, answer: NoResult::NotFound }
            }
            (CountsWhatWasAskedAsAnAttempt, Outcome::FetchAgain { after, .. }) => {
                Outcome::Retry { after, error: String::new() }
            }
            (HandlesWhatIsExpected, Outcome::Done) if expected => return Ok(Fenced::Applied),
            (CountsAReleaseAsAFetch, Outcome::Release { after }) if expected => {
                Outcome::FetchAgain { after, answer: NoResult::Pending }
            }
            (DropsTheEventOfAnUnknownJob, Outcome::FetchAgain { after, answer: NoResult::NotFound }) => {
                Outcome::FetchAgain { after, answer: NoResult::Pending }
            }
            (NeverGivesAnExpectedJobUp, Outcome::Dead { .. }) if expected => Outcome::Release { after: now },
            (ForgetsWhenToAskAgain, Outcome::FetchAgain { answer, .. }) => {
                Outcome::FetchAgain { after: now, answer }
            }
            (CountsNoAsking, Outcome::FetchAgain { after, .. }) => Outcome::Release { after },
            (RejectsWithTheEvent, Outcome::Rejected { error }) => Outcome::Dead { error },
            (RefusesOddErrors, Outcome::Dead { error }) if error.contains('\0') => {
                return Err(StoreError::unavailable("not a text"));
            }
            (RefusesOddErrorsOfAnswers, Outcome::FetchAgain { answer: NoResult::Failed { error }, .. })
                if error.contains('\0') =>
            {
                return Err(StoreError::unavailable("not a text"));
            }
            (LeasesWhatIsDone, Outcome::Done) if first => failed("done"),
            (LeasesWhatIsDead, Outcome::Dead { error }) => failed(&error),
            (ForgetsDelays, Outcome::Retry { error, .. }) => failed(&error),
            (ForgetsErrors, Outcome::Dead { .. }) => Outcome::Dead { error: String::new() },
            (CountsAReleaseAsAnAttempt, Outcome::Release { after }) => {
                Outcome::Retry { after, error: String::new() }
            }
            (_, outcome) => outcome,
        };
        match self.flaw {
            SettlesWithoutFence | KeepsTheFencingToken | LetsTheOldLeaseWriteToTheNewEvent => {
                let last = self.last_lease(lease).await;
                let replaced = last.fence() == lease.fence() + 1;
                if replaced || !self.is(LetsTheOldLeaseWriteToTheNewEvent) {
                    return self.inner.settle(&last, &outcome).await;
                }
                self.inner.settle(lease, &outcome).await
            }
            LetsWhoAskedBeforeWrite if expected => {
                self.inner.settle(&self.last_lease(lease).await, &outcome).await
            }
            EndsAnExpectationWithAnyStatus if !expected => {
                let settled = self.inner.settle(lease, &outcome).await?;
                if settled == Fenced::Applied && self.is_expected(lease.job()).await {
                    let job = lease.job().clone();
                    let id = job.to_string();
                    let last = self.last_lease(lease).await;
                    let event = serde_json::json!({
                        "job_id": id, "data": {"id": id, "type": "extract", "status": "completed"}
                    });
                    let event = Bytes::from(event.to_string()).try_into().unwrap();
                    // It is done with what it had.
                    let _ = self.inner.verify(&last, &event).await?;
                }
                Ok(settled)
            }
            ForgetsTheDeadlineAfterAnyStatus if !expected => {
                let settled = self.inner.settle(lease, &outcome).await?;
                if settled == Fenced::Applied && self.is_expected(lease.job()).await {
                    let now = Outcome::Release { after: Duration::ZERO };
                    let _ = self.inner.settle(&self.last_lease(lease).await, &now).await?;
                }
                Ok(settled)
            }
            SettlesAgain if !first => {
                let settled = self.inner.settle(lease, &outcome).await?;
                let ended = self.row(lease.job()).await.is_some_and(|row| row.due_in.is_none());
                if ended && settled == Fenced::Stale && self.inner.replay(lease.job()).await? {
                    return Ok(Fenced::Applied);
                }
                Ok(settled)
            }
            _ => in_lock(self, self.inner.settle(lease, &outcome)).await,
        }
    }

    async fn expect(&self, job: &JobId, deadline: Duration) -> Result<(), StoreError> {
        self.state.expected.lock().unwrap().insert(job.clone());
        match self.flaw {
            RefusesLongTimes if deadline == Duration::MAX => Err(StoreError::unavailable("out of range")),
            ForgetsDeadlines => self.inner.expect(job, Duration::ZERO).await,
            IgnoresTheDeadlineOfAJobThatItHas if self.row(job).await.is_some() => Ok(()),
            ResetsWhatIsExpected => {
                self.inner.replay(job).await?;
                self.inner.expect(job, deadline).await
            }
            _ => in_lock(self, self.inner.expect(job, deadline)).await,
        }
    }

    async fn verify(&self, lease: &Lease, event: &Envelope) -> Result<Fenced, StoreError> {
        match self.flaw {
            VerifiesNothing => Ok(Fenced::Applied),
            WritesAnAnswerInTwoSteps => {
                let verified = self.state.verified.lock().unwrap().insert(lease.job().clone());
                yield_now().await;
                // It takes its own note for the write.
                if verified { self.inner.verify(lease, event).await } else { Ok(Fenced::Applied) }
            }
            RefusesOddTypesOfAnswers if event.job_type().as_str().contains('\0') => {
                Err(StoreError::unavailable("not a text"))
            }
            VerifiesInTwoSteps if self.is_expected(lease.job()).await => {
                yield_now().await;
                if !self.is_expected(lease.job()).await {
                    let leased = self.inner.lease(1, Duration::ZERO).await?;
                    let lease = leased.first().map_or(lease, |leased| &leased.lease);
                    return self.inner.verify(lease, event).await;
                }
                self.inner.verify(lease, event).await
            }
            VerifiesWithoutFence => {
                // As if a state were enough to know whose the row is.
                let expected =
                    self.row(lease.job()).await.is_some_and(|row| row.state == InboxState::Received);
                let leased = if expected { self.inner.lease(1, Duration::ZERO).await? } else { Vec::new() };
                let lease = leased.first().map_or(lease, |leased| &leased.lease);
                self.inner.verify(lease, event).await
            }
            EndsTheLeaseOfWhatItVerifies => {
                let verified = self.inner.verify(lease, event).await?;
                let _ = self.inner.settle(lease, &Outcome::Release { after: Duration::ZERO }).await?;
                Ok(verified)
            }
            _ => self.inner.verify(lease, event).await,
        }
    }

    async fn overdue(&self, most: usize, length: Duration) -> Result<Vec<Overdue>, StoreError> {
        let length = match self.flaw {
            SaysOverdueTwice if length < Duration::from_secs(100) => Duration::ZERO,
            SaysOverdueOnce => Duration::from_secs(1_000_000),
            _ => length,
        };
        if self.is(SaysOverdueInTheOrderOfFetches) {
            let mut all = self.inner.overdue(usize::MAX, length).await?;
            all.sort_by_key(|overdue| std::cmp::Reverse(overdue.fetches.count));
            let back = Outcome::Release { after: Duration::ZERO };
            for overdue in all.split_off(most.min(all.len())) {
                let _ = self.inner.settle(&overdue.lease, &back).await?;
            }
            return Ok(all);
        }
        let mut overdue = in_lock(self, self.inner.overdue(most, length)).await?;
        for overdue in &mut overdue {
            overdue.fetches = self.fetches(overdue.lease.job(), overdue.fetches);
            if self.is(CountsLatenessFromTheLease) {
                overdue.late = Duration::ZERO;
            }
        }
        if self.is(LeavesOverdueToTwo) {
            if self.state.at_once.fetch_add(1, Ordering::SeqCst) == 0 {
                self.state.overdue.lock().unwrap().clone_from(&overdue);
            }
            yield_now().await;
            if overdue.is_empty() {
                overdue.clone_from(&self.state.overdue.lock().unwrap());
            }
            if self.state.at_once.fetch_sub(1, Ordering::SeqCst) == 1 {
                self.state.overdue.lock().unwrap().clear();
            }
        }
        Ok(overdue)
    }

    async fn contains(&self, job: &JobId) -> Result<bool, StoreError> {
        let forgotten = match self.row(job).await.map(|row| row.state) {
            Some(InboxState::Expected) => self.is(ForgetsExpectedJobs),
            _ => false,
        };
        let gone = self.state.gone.lock().unwrap().contains(job);
        Ok(!forgotten && !gone && in_lock(self, self.inner.contains(job)).await?)
    }

    async fn prune(&self, retention: &Retention) -> Result<Pruned, StoreError> {
        let Retention { payload, row } = *retention;
        match self.flaw {
            PrunesNothing => return Ok(Pruned::default()),
            PrunesTheDead if row.is_zero() => {
                let dead = InboxFilter { state: Some(InboxState::Dead), ..InboxFilter::default() };
                let dead = self.inner.list(&dead, None, usize::MAX).await?;
                self.state.gone.lock().unwrap().extend(dead.into_iter().filter_map(|row| row.job()));
            }
            _ => {}
        }
        let retention = match self.flaw {
            PrunesEarly if !payload.is_zero() => Retention { payload: Duration::ZERO, row },
            PrunesRowsWithBodies => Retention { payload, row: row.min(payload) },
            _ => *retention,
        };
        self.inner.prune(&retention).await
    }
}

#[async_trait]
impl InboxAdmin for Flawed {
    async fn list(
        &self,
        filter: &InboxFilter,
        after: Option<u64>,
        most: usize,
    ) -> Result<Vec<InboxRow>, StoreError> {
        let all = InboxFilter::default();
        let filter = if self.is(ListsWithoutFilter) { &all } else { filter };
        let after = if self.is(ListsFromTheStart) { None } else { after };
        let mut rows = self.inner.list(filter, after, most).await?;
        if self.is(ListsBackwards) {
            rows.reverse();
        }
        Ok(rows)
    }

    async fn get(&self, job: &JobId) -> Result<Option<(InboxRow, Option<Bytes>)>, StoreError> {
        if self.state.gone.lock().unwrap().contains(job) {
            return Ok(None);
        }
        let mut row = self.inner.get(job).await?;
        if let (Some((row, _)), true) = (&mut row, self.is(KnowsNoAge)) {
            row.age = Duration::ZERO;
        }
        Ok(row)
    }

    async fn replay(&self, job: &JobId) -> Result<bool, StoreError> {
        self.keep_asked(self.row(job).await.as_ref());
        match self.flaw {
            ReplaysNothing => Ok(false),
            ReplaysAnything => {
                self.inner.replay(job).await?;
                Ok(true)
            }
            _ => self.inner.replay(job).await,
        }
    }

    async fn stats(&self) -> Result<InboxStats, StoreError> {
        let mut stats = self.inner.stats().await?;
        match self.flaw {
            CountsExpectedAsReceived => stats.received += std::mem::take(&mut stats.expected),
            CountsNoBytes => stats.bytes = 0,
            _ => {}
        }
        Ok(stats)
    }
}

/// What the suite says of an inbox with a flaw, up to its last check or to the one with this name.
async fn verdict(flaw: Flaw, last: Option<&str>) -> String {
    let inbox = Flawed { flaw, inner: MemoryInbox::new(), state: Arc::default() };
    failures(&inbox, &inbox, last).await
}

#[tokio::test(start_paused = true)]
async fn the_memory_inbox_conforms_by_a_clock_that_tests_move_and_over_the_rows_of_a_run_before() {
    let inbox = MemoryInbox::new();
    for _ in 0..3 {
        inbox_all(&inbox, &inbox.clone(), &[]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_memory_inbox_conforms_among_threads() {
    let inbox = MemoryInbox::new();
    inbox_all(&inbox, &inbox.clone(), &[]).await;
}

#[tokio::test(start_paused = true)]
async fn two_inboxes_are_not_two_handles_of_one() {
    let (inbox, other) = (MemoryInbox::new(), MemoryInbox::new());
    let run = std::pin::pin!(inbox_all(&inbox, &other, &[]));
    let said = isolate(run).await.unwrap_err().to_string();
    let first = "panicked: the store does not keep the contract of InboxStore:\n  inbox_";
    assert!(said.starts_with(first), "the reason does not come first: {said}");
    assert!(said.contains("inbox_two_handles_are_one_store"), "{said}");
}

#[tokio::test(start_paused = true)]
async fn an_inbox_without_a_flaw_passes() {
    assert_eq!(verdict(Nothing, None).await, "");
}

/// Each flaw, and the check that is for it.
const FLAWS: &[(Flaw, &str)] = &[
    (AcknowledgesWithoutStoring, "inbox_an_event_is_leased_as_it_was_received"),
    (SaysEveryCopyIsStored, "inbox_a_copy_changes_nothing"),
    (SaysNoConflict, "inbox_the_first_of_two_events_is_kept"),
    (KeepsTheLastBody, "inbox_of_events_at_once_the_final_one_is_kept"),
    (NeverReplaces, "inbox_a_final_status_replaces_one_that_is_not"),
    (ReplacesOnlyWhatIsNotDone, "inbox_a_final_status_replaces_one_that_is_not"),
    (ReplacesWithAnyStatus, "inbox_of_events_at_once_the_final_one_is_kept"),
    (LetsTheOldLeaseWriteToTheNewEvent, "inbox_a_replaced_event_makes_its_lease_stale"),
    (FreesTheLeaseOfAReplacedEvent, "inbox_a_replaced_event_makes_its_lease_stale"),
    (KeepsTheAttemptsOfAReplacedEvent, "inbox_a_final_status_replaces_one_that_is_not"),
    (WritesJsonAnew, "inbox_an_event_is_leased_as_it_was_received"),
    (LeasesOneRowTwice, "inbox_a_row_is_leased_to_one"),
    (LeasesOneMore, "inbox_no_more_is_leased_than_asked_for"),
    (LeavesOneOut, "inbox_no_more_is_leased_than_asked_for"),
    (LeasesInOrderOfArrival, "inbox_those_due_for_longest_come_first"),
    (CountsAnAttemptAtItsEnd, "inbox_an_attempt_is_counted_at_its_lease"),
    (HidesAnExpiredLease, "inbox_a_lease_ends"),
    (ForgetsThatItBegan, "inbox_a_lease_says_whether_the_one_before_it_began"),
    (RemembersThatItBegan, "inbox_a_lease_says_whether_the_one_before_it_began"),
    (BeginsWithoutFence, "inbox_a_lease_says_whether_the_one_before_it_began"),
    (KeepsTheFencingToken, "inbox_the_fencing_token_grows_with_every_lease"),
    (NeverEndsALease, "inbox_a_lease_ends"),
    (EndsLeasesEarly, "inbox_a_lease_lasts_as_long_as_it_says"),
    (RenewsNothing, "inbox_a_renewed_lease_counts_from_its_renewal"),
    (RenewsOnlyWhatIsLeft, "inbox_a_lease_that_ended_is_still_the_last"),
    (RenewsWithoutFence, "inbox_only_the_last_lease_writes"),
    (SettlesWithoutFence, "inbox_only_the_last_lease_writes"),
    (SettlesOnlyInTime, "inbox_a_lease_that_ended_is_still_the_last"),
    (SettlesOnce, "inbox_an_outcome_twice_is_one"),
    (SettlesAgain, "inbox_the_first_outcome_counts"),
    (LeasesWhatIsDone, "inbox_what_is_done_stays_done"),
    (LeasesWhatIsDead, "inbox_what_is_dead_stays_dead"),
    (ForgetsDelays, "inbox_a_retry_waits_for_its_delay"),
    (ForgetsErrors, "inbox_what_is_dead_stays_dead"),
    (RefusesOddErrors, "inbox_an_error_may_be_any_text"),
    (RefusesOddErrorsOfAnswers, "inbox_an_error_may_be_any_text"),
    (CountsAReleaseAsAnAttempt, "inbox_a_released_attempt_does_not_count"),
    (ForgetsExpectedJobs, "inbox_an_expected_job_is_known"),
    (RefusesTheEventOfAnExpectedJob, "inbox_an_expected_job_is_received"),
    (ResetsWhatIsExpected, "inbox_expecting_a_job_never_resets_it"),
    (ForgetsDeadlines, "inbox_a_job_is_overdue_after_its_deadline"),
    (SaysOverdueTwice, "inbox_a_job_is_overdue_again_after_a_while"),
    (SaysOverdueOnce, "inbox_a_job_is_overdue_again_after_a_while"),
    (LeavesOverdueToTwo, "inbox_an_overdue_job_is_returned_to_one"),
    (VerifiesNothing, "inbox_an_overdue_job_is_verified"),
    (VerifiesWithoutFence, "inbox_a_webhook_wins_over_an_answer"),
    (EndsTheLeaseOfWhatItVerifies, "inbox_a_running_row_is_verified"),
    (KeepsTheEventOfAPendingJob, "inbox_a_job_that_has_not_ended_is_expected_again"),
    (CountsWhatWasAskedAsAnAttempt, "inbox_what_the_api_cannot_say_is_counted_apart"),
    (CountsNoAsking, "inbox_what_the_api_cannot_say_is_counted_apart"),
    (CountsAReleaseAsAFetch, "inbox_what_the_api_cannot_say_is_counted_apart"),
    (BreaksTheRowOfNotFound, "inbox_what_the_api_cannot_say_is_counted_apart"),
    (DropsTheEventOfAnUnknownJob, "inbox_what_the_api_cannot_say_is_counted_apart"),
    (HandlesWhatIsExpected, "inbox_what_the_api_cannot_say_is_counted_apart"),
    (SaysEverythingIsVerified, "inbox_a_job_that_has_not_ended_is_expected_again"),
    (ForgetsThatItVerified, "inbox_a_running_row_is_verified"),
    (RejectsWithTheEvent, "inbox_a_job_that_is_none_may_come_again"),
    (KeepsTheLeaseOfBeforeAReplay, "inbox_a_job_that_is_none_may_come_again"),
    (NeverGivesAnExpectedJobUp, "inbox_a_job_that_is_none_may_come_again"),
    (ForgetsWhenToAskAgain, "inbox_a_job_is_asked_for_again_after_a_while"),
    (KeepsNoLeaseOfWhoAsks, "inbox_the_last_that_asks_for_a_job_writes"),
    (LetsWhoAskedBeforeWrite, "inbox_the_last_that_asks_for_a_job_writes"),
    (CountsLatenessFromTheLease, "inbox_a_job_says_how_late_it_is"),
    (KeepsTheAskingOfBefore, "inbox_asking_begins_anew_with_a_new_life"),
    (EndsAnExpectationWithAnyStatus, "inbox_a_status_that_is_not_final_ends_no_expectation"),
    (ForgetsTheDeadlineAfterAnyStatus, "inbox_a_status_that_is_not_final_ends_no_expectation"),
    (IgnoresTheDeadlineOfAJobThatItHas, "inbox_a_status_that_is_not_final_ends_no_expectation"),
    (LeasesInTheOrderOfFetches, "inbox_what_was_fetched_least_comes_first"),
    (SaysOverdueInTheOrderOfFetches, "inbox_what_was_fetched_least_comes_first"),
    (CountsNoAnswerFromTheLastFetch, "inbox_the_time_without_an_answer_is_told"),
    (CountsNoAnswerOverItsEnd, "inbox_the_time_without_an_answer_is_told"),
    (VerifiesInTwoSteps, "inbox_of_an_answer_and_a_webhook_at_once_one_counts"),
    (RefusesLongTimes, "inbox_a_time_may_be_any"),
    (ReplaysNothing, "inbox_a_replay_begins_anew_and_keeps_the_attempts"),
    (ReplaysAnything, "inbox_only_what_has_ended_is_replayed"),
    (ForgetsEarlierAttempts, "inbox_a_replay_begins_anew_and_keeps_the_attempts"),
    (ListsBackwards, "inbox_rows_are_listed_in_order"),
    (ListsWithoutFilter, "inbox_rows_are_listed_in_order"),
    (ListsFromTheStart, "inbox_rows_are_listed_in_order"),
    (CountsExpectedAsReceived, "inbox_rows_are_counted"),
    (CountsNoBytes, "inbox_rows_are_counted"),
    (KnowsNoAge, "inbox_a_row_says_how_old_it_is_and_when_it_is_due"),
    (PrunesTheDead, "inbox_only_what_is_done_is_pruned"),
    (PrunesEarly, "inbox_only_what_is_done_is_pruned"),
    (PrunesNothing, "inbox_only_what_is_done_is_pruned"),
    (PrunesRowsWithBodies, "inbox_only_what_is_done_is_pruned"),
    (IgnoresCase, "inbox_ids_are_compared_exactly"),
    (RefusesOddTypes, "inbox_types_and_statuses_may_be_any_text"),
    (RefusesOddTypesOfAnswers, "inbox_types_and_statuses_may_be_any_text"),
    (CutsBodies, "inbox_a_large_body_is_kept"),
    (ForgetsOneOfMany, "inbox_many_rows_are_kept_apart"),
    (StaysLockedWhenCancelled, "inbox_a_cancelled_receipt_can_be_repeated"),
    (SetsTheEndOfALeaseLater, "inbox_a_cancelled_lease_ends"),
    (WritesAnAnswerInTwoSteps, "inbox_a_cancelled_answer_can_be_repeated"),
];

/// On as many threads as there are processors, each with a clock of its own: most of it is the test's own work.
#[test]
fn every_flaw_is_named_by_the_check_that_is_for_it() {
    let next = AtomicUsize::new(0);
    let run = || {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let mut unnoticed = Vec::new();
        while let Some((flaw, check)) = FLAWS.get(next.fetch_add(1, Ordering::Relaxed)) {
            // The checks after the one that is for the flaw have nothing to say about it.
            let said = runtime.block_on(verdict(*flaw, Some(check)));
            if !said.contains(check) {
                unnoticed.push(format!("{flaw:?} was not named by {check}: {said:?}"));
            }
        }
        unnoticed
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let unnoticed: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert!(unnoticed.is_empty(), "{}", unnoticed.join("\n"));
}
