//! An inbox with one of the flaws, over the one in memory.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::task::yield_now;
use tokio::time::Instant;

use super::flaw::InboxFlaw::{self, *};
use crate::event::{Envelope, JobId, TraceParent};
use crate::inbox::{
    Bulk, Changed, DeadByError, FailedAttempt, FetchHistory, InboxAdmin, InboxCursor, InboxFilter, InboxList,
    InboxRow, InboxState, InboxStats, InboxStore, InboxTraffic, Lease, Leased, MemoryInbox, NoResult,
    Outcome, Overdue, Pruned, Receipt, Retention,
};
use crate::store::{Fenced, StoreError};

/// The token before the first lease of a row in the inbox in memory.
fn first_fence(number: u64) -> u64 {
    number << 20
}

#[derive(Debug, Clone)]
pub(super) struct FlawedInbox {
    flaw: InboxFlaw,
    inner: MemoryInbox,
    memory: Arc<Memory>,
}

/// The memory of the flaws.
#[derive(Debug, Default)]
struct Memory {
    bodies: Mutex<HashMap<JobId, Bytes>>,
    attempts: Mutex<HashMap<JobId, u32>>,
    expected: Mutex<HashSet<JobId>>,
    /// Jobs whose last fetch failed.
    failed: Mutex<HashSet<JobId>>,
    fetches: Mutex<HashMap<JobId, u32>>,
    unanswered: Mutex<HashMap<JobId, Instant>>,
    verified: Mutex<HashSet<JobId>>,
    settled: Mutex<HashSet<(JobId, u64)>>,
    begun: Mutex<HashSet<JobId>>,
    failures: Mutex<HashMap<JobId, Vec<FailedAttempt>>>,
    /// Jobs whose event was replaced while its handler ran, and leased since.
    replaced: Mutex<HashSet<JobId>>,
    at_once: AtomicUsize,
    traceparents: Mutex<HashMap<JobId, TraceParent>>,
    leased: Mutex<Vec<Leased>>,
    overdue: Mutex<Vec<Overdue>>,
    received: AtomicUsize,
    /// Events and rows that were counted wrongly, as received and as handled.
    miscounted: [AtomicU64; 2],
    locked: Mutex<bool>,
}

impl FlawedInbox {
    pub(super) fn new(flaw: InboxFlaw) -> Self {
        Self { flaw, inner: MemoryInbox::new(), memory: Arc::default() }
    }

    fn is(&self, flaw: InboxFlaw) -> bool {
        self.flaw == flaw
    }

    async fn row(&self, job: &JobId) -> Option<InboxRow> {
        self.inner.get(job).await.unwrap().map(|(row, _)| row)
    }

    /// The row's last lease.
    async fn last_lease(&self, lease: &Lease) -> Lease {
        let Some(row) = self.row(lease.job()).await else { return lease.clone() };
        for leases in 0..100 {
            let lease = Lease::new(lease.job().clone(), first_fence(row.number) + leases);
            let left = self.row(lease.job()).await.and_then(|row| row.due_in).unwrap_or_default();
            if self.inner.renew(&lease, left).await.unwrap() == Fenced::Applied {
                return lease;
            }
        }
        lease.clone()
    }

    fn spoil_failures(&self, job: &JobId, row: &mut InboxRow) {
        let failures = &mut row.failures;
        match self.flaw {
            KeepsNoFailedAttempts => failures.clear(),
            KeepsFewFailedAttempts => {
                failures.drain(..failures.len().saturating_sub(5));
            }
            KeepsFailedAttemptsBackwards => failures.reverse(),
            ForgetsFailedAttemptsBeforeAReplay => {
                failures.retain(|failed| failed.number > row.earlier_attempts);
            }
            ForgetsHowLongAttemptsTook => failures.iter_mut().for_each(|failed| failed.took = None),
            ForgetsWhenAttemptsFailed => failures.iter_mut().for_each(|failed| failed.age = Duration::ZERO),
            ForgetsExpiredAttempts => failures.retain(|failed| failed.took.is_some()),
            TimesExpiredAttemptsByTheNextLease => {
                let expired = failures.iter_mut().filter(|failed| failed.took.is_none());
                expired.for_each(|failed| failed.age = Duration::ZERO);
            }
            CountsTheAttemptOfAReplacedEventAsFailed
                if self.memory.replaced.lock().unwrap().contains(job) =>
            {
                failures.push(FailedAttempt::new(1, Duration::ZERO, None, "expired"));
            }
            KeepsTheFailedAttemptsOfAReplacedEvent => {
                let mut kept = self.memory.failures.lock().unwrap();
                if failures.is_empty() {
                    failures.extend(kept.get(job).cloned().unwrap_or_default());
                } else {
                    kept.insert(job.clone(), failures.clone());
                }
            }
            CountsFailedFetchesAsAttempts if row.fetches > 0 => {
                failures.push(FailedAttempt::new(1, Duration::ZERO, None, "no answer"));
            }
            _ => {}
        }
    }

    /// Keeps the number of fetches of a row that begins anew here.
    fn keep_fetches(&self, before: Option<&InboxRow>) {
        if let Some(row) = before.filter(|row| matches!(row.state, InboxState::Done | InboxState::Dead)) {
            self.memory.fetches.lock().unwrap().insert(row.job().unwrap(), row.fetches);
        }
    }

    fn note_traceparent(&self, event: &Envelope) {
        let Some(traceparent) = event.traceparent() else { return };
        let mut kept = self.memory.traceparents.lock().unwrap();
        match self.flaw {
            KeepsTheTraceparentOfAReplacedEvent => {
                kept.entry(event.job().clone()).or_insert_with(|| traceparent.clone());
            }
            _ => drop(kept.insert(event.job().clone(), traceparent.clone())),
        }
    }

    fn spoil_traceparents(&self, leased: &mut [Leased]) {
        let noted = self.memory.traceparents.lock().unwrap();
        let of = |leased: &Leased| noted.get(leased.lease.job()).cloned();
        for leased in leased.iter_mut() {
            match self.flaw {
                ForgetsTheTraceparent => leased.traceparent = None,
                ForgetsTheTraceparentAtAReplay if leased.earlier_attempts > 0 => leased.traceparent = None,
                ForgetsTheTraceparentOfAVerifiedEvent if leased.verified => leased.traceparent = None,
                KeepsTheLastTraceparent | KeepsTheTraceparentOfAReplacedEvent => {
                    leased.traceparent = of(leased);
                }
                KeepsTheTraceparentOfADroppedEvent => {
                    leased.traceparent = leased.traceparent.take().or_else(|| of(leased));
                }
                _ => {}
            }
        }
        if self.is(MixesTraceparents) {
            let last = leased.last().and_then(|leased| leased.traceparent.clone());
            leased.iter_mut().for_each(|leased| leased.traceparent = last.clone());
        }
    }

    /// The fetch history that this inbox reports.
    fn fetches(&self, job: &JobId, mut fetches: FetchHistory) -> FetchHistory {
        match self.flaw {
            KeepsTheFetchHistory => {
                fetches.count += self.memory.fetches.lock().unwrap().get(job).copied().unwrap_or_default();
            }
            CountsNoAnswerFromTheLastFetch | CountsNoAnswerOverItsEnd => {
                let since = self.memory.unanswered.lock().unwrap().get(job).map(Instant::elapsed);
                fetches.unanswered_for = match self.flaw {
                    CountsNoAnswerOverItsEnd => fetches.unanswered_for.or(since),
                    _ => fetches.unanswered_for.and(since),
                };
            }
            ResetsNotFoundAfterAFailure if self.memory.failed.lock().unwrap().contains(job) => {
                fetches.not_found = 0;
            }
            _ => {}
        }
        fetches
    }

    /// The lease of the inner inbox that a lease of this one stands for.
    async fn inner_lease(&self, lease: &Lease) -> Lease {
        match self.row(lease.job()).await {
            Some(row) if self.is(BeginsTokensAnew) => {
                Lease::new(lease.job().clone(), lease.fence() + first_fence(row.number))
            }
            _ => lease.clone(),
        }
    }

    /// The result of a change with a flaw in its last member.
    fn changed(&self, changed: Changed) -> Changed {
        Changed::new(changed.rows, changed.more && !self.is(HidesThatRowsAreLeft))
    }

    /// Changes the counts of the current minute if this is the flaw.
    fn miscount(&self, flaw: InboxFlaw, [received, handled]: [u64; 2]) {
        if self.is(flaw) {
            self.memory.miscounted[0].fetch_add(received, Ordering::SeqCst);
            self.memory.miscounted[1].fetch_add(handled, Ordering::SeqCst);
        }
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

/// Holds a lock that a dropped call never releases.
async fn in_lock<T>(
    inbox: &FlawedInbox,
    call: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    if !inbox.is(StaysLockedWhenCancelled) {
        return call.await;
    }
    if std::mem::replace(&mut *inbox.memory.locked.lock().unwrap(), true) {
        return Err(StoreError::unavailable("locked"));
    }
    yield_now().await;
    let result = call.await;
    *inbox.memory.locked.lock().unwrap() = false;
    result
}

#[async_trait]
impl InboxStore for FlawedInbox {
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
            ReplacesOnlyBeforeDone if !kept_is_final && done => return Ok(Receipt::Duplicate),
            ForgetsOneOfMany if self.memory.received.fetch_add(1, Ordering::SeqCst) % 700 == 699 => {
                return Ok(Receipt::Stored);
            }
            KeepsTheAttemptsOfAReplacedEvent => {
                let attempts = before.as_ref().map_or(0, |row| row.attempts);
                self.memory.attempts.lock().unwrap().insert(job.clone(), attempts);
            }
            _ => {}
        }
        self.keep_fetches(before.as_ref());
        self.note_traceparent(event);
        let small = self.is(IgnoresCase).then(|| self.small(event));
        let event = small.as_ref().unwrap_or(event);
        if self.is(CountsOneOfMany) {
            let others = self.memory.at_once.fetch_add(1, Ordering::SeqCst);
            yield_now().await;
            self.memory.at_once.fetch_sub(1, Ordering::SeqCst);
            self.miscount(CountsOneOfMany, [if others > 0 { 0_u64.wrapping_sub(1) } else { 0 }, 0]);
        }
        let receipt = in_lock(self, self.inner.receive(event)).await?;
        self.miscount(CountsDuplicatesAsReceived, [(receipt == Receipt::Duplicate).into(), 0]);
        let replaced = receipt == Receipt::Stored && before.as_ref().is_some_and(|row| row.status.is_some());
        let running = before.as_ref().is_some_and(|row| row.state == InboxState::Running);
        if self.is(FreesTheLeaseOfAReplacedEvent) && replaced && running {
            let lease = self.last_lease(&Lease::new(job.clone(), 0)).await;
            let freed = Outcome::Retry { after: Duration::ZERO, error: String::new() };
            let _ = self.inner.settle(&lease, &freed).await?;
        }
        if self.is(KeepsTheLastBody) || self.is(ReplacesWithAnyStatus) && !event.status().is_final() {
            self.memory.bodies.lock().unwrap().insert(job.clone(), event.body().clone());
        }
        Ok(match receipt {
            Receipt::Duplicate if self.is(ReportsDuplicatesAsStored) => Receipt::Stored,
            Receipt::Conflict if self.is(ReportsNoConflict) => Receipt::Duplicate,
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
            let released = Outcome::Release { after: Duration::ZERO };
            for leased in all.split_off(most.min(all.len())) {
                let _ = self.inner.settle(&leased.lease, &released).await?;
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
            let released = Outcome::Release { after: Duration::ZERO };
            for leased in all.split_off(most.min(all.len())) {
                let _ = self.inner.settle(&leased.lease, &released).await?;
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
                if self.memory.at_once.fetch_add(1, Ordering::SeqCst) == 0 {
                    self.memory.leased.lock().unwrap().clone_from(&leased);
                }
                yield_now().await;
                if leased.is_empty() {
                    leased.clone_from(&self.memory.leased.lock().unwrap());
                    leased.truncate(most);
                }
                if self.memory.at_once.fetch_sub(1, Ordering::SeqCst) == 1 {
                    self.memory.leased.lock().unwrap().clear();
                }
            }
            _ => yield_now().await,
        }
        self.spoil_traceparents(&mut leased);
        for leased in &mut leased {
            let job = leased.lease.job().clone();
            leased.fetches = self.fetches(&job, leased.fetches);
            if let Some(body) = self.memory.bodies.lock().unwrap().get(&job) {
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
                HidesThatAJobIsExpectedAgain => leased.expected_again = false,
                CountsTheAttemptOfAReplacedEventAsFailed if leased.expired && leased.attempt == 1 => {
                    self.memory.replaced.lock().unwrap().insert(job);
                }
                TellsOnceThatItBegan => leased.begun &= self.memory.begun.lock().unwrap().remove(&job),
                RemembersThatItBegan => leased.begun = self.memory.begun.lock().unwrap().contains(&job),
                KeepsTheFencingToken => leased.lease = Lease::new(job, 1),
                BeginsTokensAnew => {
                    let first = first_fence(self.row(&job).await.map_or(0, |row| row.number));
                    leased.lease = Lease::new(job, leased.lease.fence() - first);
                }
                ForgetsEarlierAttempts => leased.earlier_attempts = 0,
                ReportsEverythingVerified => leased.verified = true,
                ForgetsThatItVerified if leased.attempt > 1 => leased.verified = false,
                KeepsTheAttemptsOfAReplacedEvent => {
                    leased.attempt +=
                        self.memory.attempts.lock().unwrap().get(&job).copied().unwrap_or_default();
                }
                _ => {}
            }
        }
        Ok(leased)
    }

    async fn begin(&self, lease: &Lease) -> Result<Fenced, StoreError> {
        let lease = &self.inner_lease(lease).await;
        match self.flaw {
            ForgetsThatItBegan => self.inner.renew(lease, Duration::from_millis(1)).await,
            RemembersThatItBegan | TellsOnceThatItBegan => {
                let begun = self.inner.begin(lease).await?;
                if begun == Fenced::Applied {
                    self.memory.begun.lock().unwrap().insert(lease.job().clone());
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
        let lease = &self.inner_lease(lease).await;
        let expected = self.is_expected(lease.job()).await;
        let row = self.row(lease.job()).await;
        let running = row.as_ref().is_some_and(|row| row.state == InboxState::Running);
        let ended = row.is_some_and(|row| row.due_in == Some(Duration::ZERO));
        match self.flaw {
            RenewsNothing if running => Ok(Fenced::Applied),
            KeepsTheLeaseOverAReplay if expected => {
                self.inner.renew(&self.last_lease(lease).await, length).await
            }
            KeepsNoLeaseOfAnExpectedJob if expected => Ok(Fenced::Applied),
            RenewsOnlyBeforeTheEnd if ended => Ok(Fenced::Stale),
            RenewsWithoutFence if running => {
                let lease = self.last_lease(lease).await;
                self.inner.renew(&lease, length).await
            }
            KeepsTheFencingToken => self.inner.renew(&self.last_lease(lease).await, length).await,
            _ => in_lock(self, self.inner.renew(lease, length)).await,
        }
    }

    async fn settle(&self, lease: &Lease, outcome: &Outcome) -> Result<Fenced, StoreError> {
        let lease = &self.inner_lease(lease).await;
        let expected = self.is_expected(lease.job()).await;
        let row = self.row(lease.job()).await;
        let ended = row.is_some_and(|row| row.due_in == Some(Duration::ZERO));
        if let Outcome::FetchAgain { answer, .. } = outcome {
            let mut failed = self.memory.failed.lock().unwrap();
            if matches!(answer, NoResult::Failed { .. }) {
                self.memory.unanswered.lock().unwrap().insert(lease.job().clone(), Instant::now());
                failed.insert(lease.job().clone());
            } else {
                failed.remove(lease.job());
            }
        }
        let first = self.memory.settled.lock().unwrap().insert((lease.job().clone(), lease.fence()));
        self.miscount(CountsRepeatedOutcomesAsHandled, [0, (!first).into()]);
        self.miscount(CountsAnyOutcomeAsHandled, [0, (first && *outcome != Outcome::Done).into()]);
        let now = Duration::ZERO;
        let failed = |error: &str| Outcome::Retry { after: now, error: error.to_owned() };
        let outcome = match (self.flaw, outcome.clone()) {
            (SettlesOnlyInTime, _) if ended && first => return Ok(Fenced::Stale),
            (SettlesOnce, _) if !first => return Ok(Fenced::Stale),
            (KeepsTheEventOfAPendingJob, Outcome::FetchAgain { after, answer: NoResult::Pending }) => {
                Outcome::FetchAgain { after, answer: NoResult::NotFound }
            }
            (CountsAFetchAsAnAttempt, Outcome::FetchAgain { after, .. }) => {
                Outcome::Retry { after, error: String::new() }
            }
            (SettlesExpectedJobsAsDone, Outcome::Done) if expected => return Ok(Fenced::Applied),
            (CountsAReleaseAsAFetch, Outcome::Release { after }) if expected => {
                Outcome::FetchAgain { after, answer: NoResult::Pending }
            }
            (DropsTheEventOfAnUnknownJob, Outcome::FetchAgain { after, answer: NoResult::NotFound }) => {
                Outcome::FetchAgain { after, answer: NoResult::Pending }
            }
            (NeverGivesUpAnExpectedJob, Outcome::Dead { .. }) if expected => Outcome::Release { after: now },
            (ForgetsTheNextFetch, Outcome::FetchAgain { answer, .. }) => {
                Outcome::FetchAgain { after: now, answer }
            }
            (CountsNoFetch, Outcome::FetchAgain { after, .. }) => Outcome::Release { after },
            (RejectsWithTheEvent, Outcome::Rejected { error }) => Outcome::Dead { error },
            (RefusesOddErrors, Outcome::Dead { error }) if error.contains('\0') => {
                return Err(StoreError::unavailable("not a text"));
            }
            (RefusesOddErrorsOfFetches, Outcome::FetchAgain { answer: NoResult::Failed { error }, .. })
                if error.contains('\0') =>
            {
                return Err(StoreError::unavailable("not a text"));
            }
            (LeasesDoneRows, Outcome::Done) if first => failed("done"),
            (LeasesDeadLetters, Outcome::Dead { error }) => failed(&error),
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
            LetsAnEarlierFetchWrite if expected => {
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
                    // Done with the event without a final status.
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
        self.memory.expected.lock().unwrap().insert(job.clone());
        self.miscount(CountsRegistrationsAsReceived, [1, 0]);
        match self.flaw {
            RefusesLongTimes if deadline == Duration::MAX => Err(StoreError::unavailable("out of range")),
            ForgetsDeadlines => self.inner.expect(job, Duration::ZERO).await,
            IgnoresTheDeadlineOfARow if self.row(job).await.is_some() => Ok(()),
            ResetsRegisteredJobs => {
                self.inner.replay(job).await?;
                self.inner.expect(job, deadline).await
            }
            _ => in_lock(self, self.inner.expect(job, deadline)).await,
        }
    }

    async fn verify(&self, lease: &Lease, event: &Envelope) -> Result<Fenced, StoreError> {
        let lease = &self.inner_lease(lease).await;
        match self.flaw {
            VerifiesNothing => Ok(Fenced::Applied),
            WritesAResultInTwoSteps => {
                let verified = self.memory.verified.lock().unwrap().insert(lease.job().clone());
                yield_now().await;
                // Takes its own note for the write.
                if verified { self.inner.verify(lease, event).await } else { Ok(Fenced::Applied) }
            }
            RefusesOddTypesOfResults if event.job_type().as_str().contains('\0') => {
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
                // As if the state alone told whose the row is.
                let expected =
                    self.row(lease.job()).await.is_some_and(|row| row.state == InboxState::Received);
                let leased = if expected { self.inner.lease(1, Duration::ZERO).await? } else { Vec::new() };
                let lease = leased.first().map_or(lease, |leased| &leased.lease);
                self.inner.verify(lease, event).await
            }
            EndsTheLeaseItVerifies => {
                let verified = self.inner.verify(lease, event).await?;
                let _ = self.inner.settle(lease, &Outcome::Release { after: Duration::ZERO }).await?;
                Ok(verified)
            }
            _ => self.inner.verify(lease, event).await,
        }
    }

    async fn overdue(&self, most: usize, length: Duration) -> Result<Vec<Overdue>, StoreError> {
        let length = match self.flaw {
            LeasesOverdueJobsTwice if length < Duration::from_secs(100) => Duration::ZERO,
            LeasesOverdueJobsOnce => Duration::from_secs(1_000_000),
            _ => length,
        };
        if self.is(LeasesOverdueInTheOrderOfFetches) {
            let mut all = self.inner.overdue(usize::MAX, length).await?;
            all.sort_by_key(|overdue| std::cmp::Reverse(overdue.fetches.count));
            let released = Outcome::Release { after: Duration::ZERO };
            for overdue in all.split_off(most.min(all.len())) {
                let _ = self.inner.settle(&overdue.lease, &released).await?;
            }
            return Ok(all);
        }
        let mut overdue = in_lock(self, self.inner.overdue(most, length)).await?;
        for overdue in &mut overdue {
            overdue.fetches = self.fetches(overdue.lease.job(), overdue.fetches);
            match self.flaw {
                CountsOverdueFromTheLease => overdue.by = Duration::ZERO,
                BeginsTokensAnew => {
                    let job = overdue.lease.job().clone();
                    let first = first_fence(self.row(&job).await.map_or(0, |row| row.number));
                    overdue.lease = Lease::new(job, overdue.lease.fence() - first);
                }
                _ => {}
            }
        }
        if self.is(LeasesOneOverdueJobToTwo) {
            if self.memory.at_once.fetch_add(1, Ordering::SeqCst) == 0 {
                self.memory.overdue.lock().unwrap().clone_from(&overdue);
            }
            yield_now().await;
            if overdue.is_empty() {
                overdue.clone_from(&self.memory.overdue.lock().unwrap());
            }
            if self.memory.at_once.fetch_sub(1, Ordering::SeqCst) == 1 {
                self.memory.overdue.lock().unwrap().clear();
            }
        }
        Ok(overdue)
    }

    async fn contains(&self, job: &JobId) -> Result<bool, StoreError> {
        let forgotten = match self.row(job).await.map(|row| row.state) {
            Some(InboxState::Expected) => self.is(ForgetsExpectedJobs),
            _ => false,
        };
        Ok(!forgotten && in_lock(self, self.inner.contains(job)).await?)
    }

    async fn prune(&self, retention: &Retention) -> Result<Pruned, StoreError> {
        let Retention { payload, row, dead } = *retention;
        match self.flaw {
            PrunesNothing => return Ok(Pruned::default()),
            PrunesTheDead if row.is_zero() => {
                self.inner.discard_all(&InboxFilter::default(), u64::MAX, Bulk::Apply).await?;
            }
            _ => {}
        }
        let retention = match self.flaw {
            PrunesEarly if !payload.is_zero() => retention.payload(Duration::ZERO),
            PrunesRowsWithBodies => retention.row(row.min(payload)),
            KeepsTheDead => Retention { dead: None, ..*retention },
            PrunesTheDeadEarly => Retention { dead: dead.map(|_| Duration::ZERO), ..*retention },
            _ => *retention,
        };
        self.inner.prune(&retention).await
    }

    fn admin(&self) -> Option<&dyn InboxAdmin> {
        (!self.is(HidesItsAdministration)).then_some(self as _)
    }
}

#[async_trait]
impl InboxAdmin for FlawedInbox {
    async fn list(
        &self,
        filter: &InboxFilter,
        from: InboxCursor,
        most: usize,
    ) -> Result<InboxList, StoreError> {
        let mut inner = filter.clone();
        match self.flaw {
            ListsWithoutFilter => inner = InboxFilter::default(),
            FindsIdsByAnyPart => inner.job_prefix = None,
            FindsErrorsByTheirCase => inner.error = None,
            FindsRowsOfAnyAge => (inner.older_than, inner.newer_than) = (None, None),
            _ => {}
        }
        let from = match from {
            InboxCursor::After(_) if self.is(ListsFromTheStart) => InboxCursor::Oldest,
            InboxCursor::Newest if self.is(ListsOnlyForwards) => InboxCursor::Oldest,
            InboxCursor::Before(number) if self.is(ListsOnlyForwards) => InboxCursor::After(number),
            from => from,
        };
        let mut list = self.inner.list(&inner, from, most).await?;
        match self.flaw {
            ListsBackwards => list.rows.reverse(),
            ListsTheLastRowAgain => {
                list.next = list.next.map(|next| match next {
                    InboxCursor::After(number) => InboxCursor::After(number - 1),
                    InboxCursor::Before(number) => InboxCursor::Before(number + 1),
                    next => next,
                });
            }
            ListsWithoutEveryThirdRow if most > 2 => list.rows.retain(|row| row.number % 3 != 0),
            EndsAListThatIsCut => list.next = None,
            FindsIdsByAnyPart => {
                let part = filter.job_prefix.as_deref().unwrap_or_default();
                list.rows.retain(|row| row.job_id.contains(part));
            }
            FindsErrorsByTheirCase => {
                let part = filter.error.as_deref();
                let has = |error: &str| part.is_none_or(|part| error.contains(part));
                list.rows.retain(|row| part.is_none() || row.error.as_deref().is_some_and(has));
            }
            _ => {}
        }
        Ok(list)
    }

    async fn get(&self, job: &JobId) -> Result<Option<(InboxRow, Option<Bytes>)>, StoreError> {
        let mut found = self.inner.get(job).await?;
        if let Some((row, _)) = &mut found {
            if self.is(KnowsNoAge) {
                row.age = Duration::ZERO;
            }
            if self.is(ShowsNoTraceparent) {
                row.traceparent = None;
            }
            self.spoil_failures(job, row);
        }
        Ok(found)
    }

    async fn replay(&self, job: &JobId) -> Result<bool, StoreError> {
        self.keep_fetches(self.row(job).await.as_ref());
        self.miscount(CountsReplaysAsReceived, [1, 0]);
        match self.flaw {
            ReplaysNothing => Ok(false),
            ReplaysAnything => {
                self.inner.replay(job).await?;
                Ok(true)
            }
            _ => self.inner.replay(job).await,
        }
    }

    async fn discard(&self, job: &JobId) -> Result<bool, StoreError> {
        match self.flaw {
            DiscardsNothing => Ok(self.row(job).await.is_some_and(|row| row.state == InboxState::Dead)),
            DiscardsAnything => {
                let discarded = self.inner.discard(job).await?;
                Ok(discarded || self.row(job).await.is_some())
            }
            _ => self.inner.discard(job).await,
        }
    }

    async fn replay_all(&self, filter: &InboxFilter, most: u64, bulk: Bulk) -> Result<Changed, StoreError> {
        let mut filter = filter.clone();
        match self.flaw {
            ReplaysInADryRun => {
                self.inner.replay_all(&filter, most, Bulk::Apply).await?;
            }
            ReplaysWithoutFilter => filter = InboxFilter::default(),
            ReplaysDeadLettersOnly => filter.state = filter.state.or(Some(InboxState::Dead)),
            ReplaysOnlyRowsWithEvents => filter.status = filter.status.or(Some("completed".to_owned())),
            ReplaysTheNewestFirst if bulk == Bulk::Apply && most < 100 => {
                let left = self.inner.replay_all(&filter, u64::MAX, Bulk::DryRun).await?.rows;
                let rows = self.inner.list(&filter, InboxCursor::Newest, usize::MAX).await?.rows;
                let mut replayed = 0;
                for row in rows.iter().filter_map(InboxRow::job) {
                    if replayed < most && self.inner.replay(&row).await? {
                        replayed += 1;
                    }
                }
                return Ok(Changed::new(replayed, left > most));
            }
            CountsTheReplaysOfOthers if bulk == Bulk::Apply => {
                let counted = self.inner.replay_all(&filter, most, Bulk::DryRun).await?;
                yield_now().await;
                self.inner.replay_all(&filter, most, Bulk::Apply).await?;
                return Ok(counted);
            }
            _ => {}
        }
        let most = if self.is(ReplaysWithoutLimit) { u64::MAX } else { most };
        Ok(self.changed(self.inner.replay_all(&filter, most, bulk).await?))
    }

    async fn discard_all(&self, filter: &InboxFilter, most: u64, bulk: Bulk) -> Result<Changed, StoreError> {
        if self.is(DiscardsInADryRun) {
            self.inner.discard_all(filter, most, Bulk::Apply).await?;
        }
        if self.is(DiscardsDoneRowsToo) && filter.state == Some(InboxState::Done) && bulk == Bulk::Apply {
            return self.inner.replay_all(filter, most, bulk).await;
        }
        let most = if self.is(DiscardsWithoutLimit) { u64::MAX } else { most };
        Ok(self.changed(self.inner.discard_all(filter, most, bulk).await?))
    }

    async fn stats(&self) -> Result<InboxStats, StoreError> {
        let mut stats = self.inner.stats().await?;
        match self.flaw {
            CountsExpectedAsReceived => stats.received += std::mem::take(&mut stats.expected),
            CountsNoBytes => stats.bytes = 0,
            CountsFinishedBytes => stats.unfinished_bytes = stats.bytes,
            SeesNoOverdueJob => stats.oldest_overdue = None,
            _ => {}
        }
        Ok(stats)
    }

    async fn traffic(&self) -> Result<Vec<InboxTraffic>, StoreError> {
        let mut minutes = self.inner.traffic().await?;
        match self.flaw {
            CountsNoTraffic => minutes.clear(),
            CountsInEarlierMinutes => minutes.iter_mut().for_each(|minute| minute.minutes_ago += 5),
            _ => {}
        }
        let [received, handled] = self.memory.miscounted.each_ref().map(|count| count.load(Ordering::SeqCst));
        if let Some(minute) = minutes.first_mut() {
            minute.received = minute.received.wrapping_add(received);
            minute.handled = minute.handled.wrapping_add(handled);
        }
        Ok(minutes)
    }

    async fn dead_by_error(&self, most: usize) -> Result<DeadByError, StoreError> {
        let most = if self.is(CountsMoreDeadLetters) { most + 1 } else { most };
        let mut counted = self.inner.dead_by_error(most).await?;
        if self.is(CountsDeadLettersAsAll) {
            counted.more = false;
        }
        Ok(counted)
    }
}
