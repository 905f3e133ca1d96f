//! The ledger: all that happened to each job, and the promises that it is held against.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use qomplement_webhooks::event::Envelope;
use qomplement_webhooks::fetch::{FetchError, Fetched};
use qomplement_webhooks::inbox::{InboxRow, InboxState, Lease, Outcome, Receipt};
use qomplement_webhooks::store::Fenced;
use qomplement_webhooks::{Job, JobId};

use crate::plan::{Mode, Plan};

/// A row as an inbox shows it.
pub type Shown = Option<(InboxRow, Option<Bytes>)>;
type Held = Result<(), String>;

/// A timer rounds up to the next millisecond, and two may follow each other.
const TICK: Duration = Duration::from_millis(2);
/// The not-found answers after which a job is given up.
const MOST_NOT_FOUND: u32 = 5;
/// The most fetches at once in one process: of the worker, and of the reconciler.
const MOST_FETCHES: usize = 16 + 4;

#[derive(Debug)]
pub struct Ledger {
    mode: Mode,
    max_attempts: u32,
    max_handler_time: Duration,
    jobs: BTreeMap<JobId, Record>,
    runs: BTreeMap<u64, Run>,
    last_run: u64,
    /// The fetches under way, by process.
    fetching: BTreeSet<(u64, JobId)>,
    ended: BTreeSet<u64>,
    /// When the database's clock jumped, or all processes stood still. Leases may be lost then.
    disturbed: Vec<Duration>,
}

/// A run of a handler.
#[derive(Debug)]
pub struct Run {
    process: u64,
    job: JobId,
    fence: u64,
    began: Duration,
    /// When the lease began, or could have.
    leased: Duration,
    /// Whether its event has a final status.
    is_final: bool,
}

#[derive(Debug, Default)]
struct Record {
    /// The result at the API.
    truth: Option<Bytes>,
    sent: BTreeSet<Bytes>,
    acknowledged: bool,
    /// Whether an event with a final status was acknowledged.
    ended: bool,
    /// Whether the job was registered.
    expected: bool,
    /// Whether the API answered that the job has ended.
    finished: bool,
    not_found: u32,
    /// Grows with each event that begins anew.
    generation: u64,
    leases: BTreeMap<u64, Granted>,
    generations: BTreeMap<u64, Attempts>,
    /// Whether the event with a final status is recorded as handled.
    done: bool,
    /// Whether any run succeeded, or failed permanently.
    handled: bool,
    /// The same, of a run with a final event.
    handled_final: bool,
    fetches: u32,
    /// The earliest time of the next fetch, by the database's clock.
    next_fetch: Duration,
    /// The processes that learned of a lease after another one was granted: they fetch once in good faith.
    learned_late: BTreeSet<u64>,
}

/// A lease that the database granted.
#[derive(Debug)]
struct Granted {
    at: Duration,
    process: u64,
    generation: u64,
    /// Whether the row notes that the handler begins.
    begun: bool,
    /// Whether the worker learned of that.
    knows: bool,
    has_run: bool,
    end: Option<End>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Success,
    Failure,
    PermanentFailure,
}

/// The attempts for one event.
#[derive(Debug, Default)]
struct Attempts {
    /// The runs that count.
    runs: u32,
    last_has_run: bool,
    success: bool,
}

fn hold(holds: bool, violation: impl FnOnce() -> String) -> Held {
    if holds { Ok(()) } else { Err(violation()) }
}

/// Whether a row holds an event with a final status.
fn is_final(row: &InboxRow) -> bool {
    row.status.as_deref().is_some_and(|status| status != "processing")
}

impl Record {
    fn last_fence(&self) -> u64 {
        self.leases.last_key_value().map_or(0, |(fence, _)| *fence)
    }

    /// A write under a lease is applied only while no other lease was granted.
    fn current(&self, lease: &Lease, fenced: Fenced) -> Held {
        hold(fenced == Fenced::Stale || lease.fence() >= self.last_fence(), || {
            format!(
                "{}: a write under {} was applied after {}",
                lease.job(),
                lease.fence(),
                self.last_fence()
            )
        })
    }

    /// The fetches of the job begin anew.
    fn count_anew(&mut self) {
        (self.next_fetch, self.fetches, self.not_found) = (Duration::ZERO, 0, 0);
    }

    fn begin_anew(&mut self) {
        self.generation += 1;
        self.done = false;
    }
}

impl Ledger {
    pub fn new(plan: &Plan) -> Self {
        let record = |truth| Record { truth: Some(truth), ..Record::default() };
        Self {
            mode: plan.mode,
            max_attempts: plan.max_attempts,
            max_handler_time: plan.max_handler_time,
            jobs: plan.jobs.iter().map(|job| (job.id.clone(), record(job.body(0)))).collect(),
            runs: BTreeMap::new(),
            last_run: 0,
            fetching: BTreeSet::new(),
            ended: BTreeSet::new(),
            disturbed: Vec::new(),
        }
    }

    fn job(&mut self, job: &JobId) -> &mut Record {
        self.jobs.entry(job.clone()).or_default()
    }

    pub fn disturb(&mut self, now: Duration) {
        self.disturbed.push(now);
    }

    /// Whether a lease may have been lost since a time, or a timer late.
    pub fn disturbed_since(&self, time: Duration) -> bool {
        self.disturbed.iter().any(|disturbed| *disturbed >= time)
    }

    pub fn sent(&mut self, event: &Envelope) {
        self.job(event.job()).sent.insert(event.body().clone());
    }

    /// A webhook was answered 2xx.
    pub fn acknowledged(&mut self, event: &Envelope, row: Shown) -> Held {
        let (mode, job) = (self.mode, event.job());
        let (record, is_final) = (self.job(job), event.status().is_final());
        record.acknowledged = true;
        record.ended |= is_final;
        if mode == Mode::Inline {
            let handled = if is_final { record.handled_final } else { record.handled };
            return hold(handled, || format!("{job}: acknowledged before a handler finished"));
        }
        self.sound(job, &row)
    }

    pub fn expected(&mut self, job: &JobId) {
        self.job(job).expected = true;
    }

    /// Checks a row against all that happened to it.
    pub fn sound(&mut self, job: &JobId, row: &Shown) -> Held {
        let mode = self.mode;
        let record = self.job(job);
        let Some((row, body)) = row else {
            return hold(!record.acknowledged, || format!("{job}: acknowledged, and not in the inbox"));
        };
        if mode == Mode::Trust && record.ended {
            hold(is_final(row), || format!("{job}: acknowledged, and its final event is gone"))?;
        }
        match row.state {
            InboxState::Received | InboxState::Running => {
                let has_event = row.status.is_some() && body.is_some();
                hold(has_event, || format!("{job}: {} without an event", row.state))?;
            }
            InboxState::Done => {
                let success =
                    record.generations.get(&record.generation).is_some_and(|attempts| attempts.success);
                hold(success, || format!("{job}: done, and no handler succeeded"))?;
            }
            _ => {}
        }
        Ok(())
    }

    pub fn received(&mut self, event: &Envelope, receipt: Receipt, before: Shown, after: Shown) -> Held {
        let job = event.job();
        let record = self.job(job);
        if receipt == Receipt::Stored {
            record.begin_anew();
            if before.is_some_and(|(row, _)| matches!(row.state, InboxState::Done | InboxState::Dead)) {
                record.count_anew();
            }
        }
        hold(after.is_some(), || format!("{job}: received, and not in the inbox"))?;
        self.sound(job, &after)
    }

    /// The database granted a lease, to handle an event or to fetch a job.
    pub fn leased(&mut self, now: Duration, process: u64, lease: &Lease, is_for_handler: bool) -> Held {
        let record = self.job(lease.job());
        let last = record.last_fence();
        hold(lease.fence() > last, || {
            format!("{}: leased with fencing token {} after {last}", lease.job(), lease.fence())
        })?;
        // A handler is dropped before its lease ends.
        let run = self.runs.values().find(|run| is_for_handler && run.job == *lease.job());
        if let Some(run) = run {
            let may = self.disturbed_since(run.leased);
            hold(may, || format!("{}: leased while its handler runs under {}", run.job, run.fence))?;
        }
        let record = self.job(lease.job());
        let generation = record.generation;
        record.leases.insert(
            lease.fence(),
            Granted { at: now, process, generation, begun: false, knows: false, has_run: false, end: None },
        );
        Ok(())
    }

    /// A process learned of a lease.
    pub fn learned(&mut self, process: u64, lease: &Lease) {
        let record = self.job(lease.job());
        if lease.fence() < record.last_fence() {
            record.learned_late.insert(process);
        }
    }

    /// A handler is about to begin.
    pub fn begun(&mut self, lease: &Lease, fenced: Fenced) -> Held {
        let record = self.job(lease.job());
        if let Some(granted) = record.leases.get_mut(&lease.fence()) {
            granted.begun |= fenced == Fenced::Applied;
        }
        record.current(lease, fenced)
    }

    /// A worker learned that its row notes that the handler begins.
    pub fn knows(&mut self, lease: &Lease) {
        if let Some(granted) = self.job(lease.job()).leases.get_mut(&lease.fence()) {
            granted.knows = true;
        }
    }

    /// The database answered a write that changes no state.
    pub fn wrote(&mut self, lease: &Lease, fenced: Fenced) -> Held {
        self.job(lease.job()).current(lease, fenced)
    }

    pub fn verified(&mut self, lease: &Lease, event: &Envelope, fenced: Fenced, before: Shown) -> Held {
        let record = self.job(lease.job());
        record.current(lease, fenced)?;
        if fenced == Fenced::Applied {
            let is_true = record.truth.as_ref() == Some(event.body());
            hold(is_true, || format!("{}: another event was stored as verified", lease.job()))?;
            if before.is_some_and(|(row, _)| row.state == InboxState::Expected) {
                record.begin_anew();
            }
            record.count_anew();
        }
        Ok(())
    }

    pub fn settled(
        &mut self,
        now: Duration,
        lease: &Lease,
        outcome: &Outcome,
        fenced: Fenced,
        after: Shown,
    ) -> Held {
        let (job, fence) = (lease.job(), lease.fence());
        let (ended, disturbed) = (self.ended.clone(), self.disturbed.clone());
        let record = self.job(job);
        record.current(lease, fenced)?;
        let Some((row, _)) = after.as_ref().filter(|_| fenced == Fenced::Applied) else { return Ok(()) };
        let Some(granted) = record.leases.get(&fence) else {
            return Err(format!("{job}: {outcome:?} without a lease"));
        };
        let generation = granted.generation;
        // The handler may have begun, for all that the row tells.
        let may_have_run = record.leases.values().any(|other| {
            let lost = ended.contains(&other.process) || disturbed.iter().any(|time| *time >= other.at);
            other.generation == generation && other.begun && (lost || !other.knows)
        });
        let Some(granted) = record.leases.get_mut(&fence) else { return Ok(()) };
        let attempts = record.generations.entry(generation).or_default();
        match outcome {
            Outcome::Done => {
                let success = granted.end == Some(End::Success);
                hold(success, || format!("{job}: recorded as done, and its handler did not succeed"))?;
                record.done |= row.state == InboxState::Done && is_final(row);
            }
            Outcome::Dead { .. } => {
                let may = granted.end == Some(End::PermanentFailure) || attempts.last_has_run || may_have_run;
                hold(may, || format!("{job}: a dead letter before the last attempt"))?;
            }
            Outcome::Rejected { .. } => {
                hold(record.not_found >= MOST_NOT_FOUND, || {
                    format!("{job}: rejected after {} fetches", record.not_found)
                })?;
            }
            // The attempt does not count. A repetition changes nothing.
            Outcome::Release { .. } => attempts.runs -= u32::from(std::mem::take(&mut granted.has_run)),
            Outcome::FetchAgain { after, .. } if row.fetches != record.fetches => {
                (record.fetches, record.next_fetch) = (row.fetches, now + *after);
            }
            Outcome::Retry { .. } | Outcome::FetchAgain { .. } => {}
        }
        self.sound(job, &after)
    }

    /// A handler begins. Returns the number of its run.
    pub fn begins(&mut self, now: Duration, process: u64, job: &Job) -> Result<u64, String> {
        let (mode, most, id, fence) = (self.mode, self.max_attempts, job.id(), job.fence());
        let disturbed = !self.disturbed.is_empty();
        let record = self.job(id);
        let is_true = record.finished && record.truth.as_ref() == Some(job.raw());
        let was_sent = record.sent.contains(job.raw());
        hold(is_true || (was_sent && mode != Mode::Fetch), || format!("{id}: a handler got a forged event"))?;
        let mut leased = now.saturating_sub(Duration::from_secs(5));
        let mut done = record.done;
        if mode != Mode::Inline {
            let Some(granted) = record.leases.get_mut(&fence) else {
                return Err(format!("{id}: a handler begins without a lease"));
            };
            hold(!std::mem::replace(&mut granted.has_run, true), || {
                format!("{id}: two runs under one lease")
            })?;
            leased = granted.at;
            done &= granted.generation == record.generation;
            let attempts = record.generations.entry(granted.generation).or_default();
            attempts.runs += 1;
            attempts.last_has_run |= job.attempt() >= most;
            // A handler that is dropped because the clock took its lease away is run again.
            hold(attempts.runs <= most || disturbed, || {
                format!("{id}: {} runs of at most {most}", attempts.runs)
            })?;
        }
        hold(!done || self.disturbed_since(leased), || {
            format!("{id}: a handler begins after the job was done")
        })?;
        let other = self.runs.values().find(|run| run.job == *id);
        if let Some(other) = other {
            // Either may hold the lease that was lost: its holder may have learned of it after the next one began.
            let may = other.process != process && self.disturbed_since(other.leased.min(leased));
            hold(may, || format!("{id}: two handlers at once: under {} and {fence}", other.fence))?;
        }
        self.last_run += 1;
        let is_final = job.status().is_final();
        self.runs
            .insert(self.last_run, Run { process, job: id.clone(), fence, began: now, leased, is_final });
        Ok(self.last_run)
    }

    pub fn returned(&mut self, now: Duration, run: u64, success: bool, permanent: bool) -> Held {
        let Some(Run { job, fence, is_final, .. }) = self.left(now, run)? else { return Ok(()) };
        let record = self.job(&job);
        record.handled |= success || permanent;
        record.handled_final |= is_final && (success || permanent);
        if let Some(granted) = record.leases.get_mut(&fence) {
            granted.end = Some(match (success, permanent) {
                (true, _) => End::Success,
                (false, true) => End::PermanentFailure,
                (false, false) => End::Failure,
            });
            record.generations.entry(granted.generation).or_default().success |= success;
        }
        Ok(())
    }

    /// A handler has returned, or was dropped.
    pub fn left(&mut self, now: Duration, run: u64) -> Result<Option<Run>, String> {
        let Some(run) = self.runs.remove(&run) else { return Ok(None) };
        let (took, most) = (now - run.began, self.max_handler_time + TICK);
        let in_time = took <= most || self.disturbed_since(run.began);
        hold(in_time, || {
            format!("{}: its handler ran for {took:?}, and at most {most:?} are allowed", run.job)
        })?;
        Ok(Some(run))
    }

    /// Somebody made a row that had ended due again.
    pub fn replayed(&mut self, job: &JobId) {
        let record = self.job(job);
        record.begin_anew();
        record.count_anew();
    }

    /// A process ended, and with it its handlers and fetches.
    pub fn ended(&mut self, process: u64) {
        self.ended.insert(process);
        self.runs.retain(|_, run| run.process != process);
        self.fetching.retain(|(other, _)| *other != process);
    }

    /// A claim ended with its job done.
    pub fn completed(&mut self, job: &JobId, fenced: Fenced) -> Held {
        let record = self.job(job);
        record.done |= fenced == Fenced::Applied;
        // Only a final event ends a job.
        hold(record.handled_final, || format!("{job}: recorded as done, and no handler finished"))
    }

    /// A fetch begins, at a time of the database's clock.
    pub fn fetches(&mut self, now: Duration, process: u64, job: &JobId) -> Held {
        let record = self.job(job);
        let holds_lease =
            record.leases.last_key_value().is_some_and(|(_, granted)| granted.process == process);
        let learned_late = record.learned_late.remove(&process);
        let in_time = now + TICK >= record.next_fetch;
        hold(in_time || !holds_lease || learned_late, || format!("{job}: fetched too early"))?;
        let first = self.fetching.insert((process, job.clone()));
        hold(first, || format!("{job}: fetched twice at once by p{process}"))?;
        let at_once = self.fetching.iter().filter(|(other, _)| *other == process).count();
        hold(at_once <= MOST_FETCHES, || format!("{at_once} fetches at once by p{process}"))
    }

    pub fn fetched(&mut self, process: u64, job: &JobId) {
        self.fetching.remove(&(process, job.clone()));
    }

    pub fn answered(&mut self, job: &JobId, fetched: &Result<Fetched, FetchError>) {
        let record = self.job(job);
        match fetched {
            Ok(Fetched::Finished(event)) => record.finished |= record.truth.as_ref() == Some(event.body()),
            Ok(Fetched::NotFound) => record.not_found += 1,
            _ => {}
        }
    }

    /// The jobs of a durable run that have not ended as promised.
    pub fn unsettled(&self, row: impl Fn(&JobId) -> Shown) -> Vec<String> {
        let unsettled = self.jobs.iter().filter_map(|(job, record)| {
            let Some((row, _)) = row(job) else {
                let promised = record.acknowledged || record.expected;
                return promised.then(|| format!("{job}: promised, and not in the inbox"));
            };
            let must_end = record.ended || record.expected;
            let settled = match row.state {
                InboxState::Dead => true,
                InboxState::Done => is_final(&row) || !must_end,
                _ => false,
            };
            (!settled).then(|| format!("{job}: {} as {:?}, due in {:?}", row.state, row.status, row.due_in))
        });
        unsettled
            .chain(self.runs.values().map(|run| format!("{}: its handler still runs", run.job)))
            .collect()
    }

    /// Whether no handler finished a job of an inline run.
    pub fn unhandled(&self, job: &JobId) -> bool {
        self.jobs.get(job).is_none_or(|record| !record.handled_final)
    }
}
