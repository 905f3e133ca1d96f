//! What was acknowledged, and what the handler did.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Mutex, MutexGuard};

use qomplement_webhooks::JobId;
use qomplement_webhooks::inbox::{InboxRow, InboxState};

#[derive(Default)]
pub struct Ledger {
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    jobs: HashMap<JobId, Entry>,
    /// How often the server was started again.
    life: usize,
}

#[derive(Default)]
struct Entry {
    /// Whether its last event was answered with 200.
    acknowledged: bool,
    /// Whether a run has begun, and not ended.
    running: bool,
    /// Whether a run began while another was running.
    overlapped: bool,
    /// In which lives of the server the handler succeeded.
    handled: Vec<usize>,
}

/// How much there is in the ledger.
#[derive(Debug, Clone, Copy, Default)]
pub struct Totals {
    pub acknowledged: usize,
    pub handled: usize,
    pub handled_again: usize,
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { acknowledged, handled, handled_again } = self;
        write!(
            f,
            "{acknowledged} jobs acknowledged, {handled} handled, {handled_again} of them more than once"
        )
    }
}

impl Ledger {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap()
    }

    pub fn acknowledge(&self, job: &JobId) {
        self.book().jobs.entry(job.clone()).or_default().acknowledged = true;
    }

    /// Notes a line that the server's handler printed. Lines come in the order of what they tell.
    pub fn note(&self, line: &str) {
        let mut words = line.split(' ');
        let (Some(what), Some(event), Some(job)) = (words.next(), words.next(), words.next()) else {
            panic!("the server printed: {line}");
        };
        let mut book = self.book();
        let life = book.life;
        let entry = book.jobs.entry(job.parse().unwrap()).or_default();
        match what {
            "began" => entry.overlapped |= std::mem::replace(&mut entry.running, true),
            // What is waited for is the event of a job that has ended.
            "handled" if event != "unrecognized" => entry.handled.push(life),
            _ => {}
        }
        entry.running = what == "began";
    }

    /// How many runs have begun, and not ended.
    pub fn running(&self) -> usize {
        self.book().jobs.values().filter(|entry| entry.running).count()
    }

    /// Notes that the server was killed, and took its runs along.
    pub fn next_life(&self) {
        let mut book = self.book();
        book.life += 1;
        book.jobs.values_mut().for_each(|entry| entry.running = false);
    }

    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for entry in self.book().jobs.values() {
            totals.acknowledged += usize::from(entry.acknowledged);
            totals.handled += usize::from(!entry.handled.is_empty());
            totals.handled_again += usize::from(entry.handled.len() > 1);
        }
        totals
    }

    /// How many acknowledged jobs have no row.
    pub fn lost(&self, rows: &[InboxRow]) -> usize {
        let there: HashSet<_> = rows.iter().filter_map(InboxRow::job).collect();
        let book = self.book();
        let acknowledged = book.jobs.iter().filter(|(_, entry)| entry.acknowledged);
        acknowledged.filter(|(job, _)| !there.contains(*job)).count()
    }

    /// What is wrong with the rows in the end. `repeats`: whether a job may be handled twice in one life of the
    /// server, because what came of the first time could not be recorded.
    pub fn compare(&self, rows: &[InboxRow], repeats: bool) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut by_job = HashMap::new();
        for row in rows {
            if by_job.insert(row.job(), row).is_some() {
                wrong.push(format!("{} has two rows", row.job_id));
            }
        }
        for (job, entry) in &self.book().jobs {
            let row = by_job.get(&Some(job.clone()));
            let state = row.map(|row| row.state);
            if entry.acknowledged && !matches!(state, Some(InboxState::Done | InboxState::Dead)) {
                wrong.push(format!("{job} was acknowledged, and is {state:?}"));
            }
            if entry.acknowledged && state == Some(InboxState::Done) && entry.handled.is_empty() {
                wrong.push(format!("{job} is done, and was never handled: {row:?}"));
            }
            if state == Some(InboxState::Dead) && row.is_some_and(|row| row.error.is_none()) {
                wrong.push(format!("{job} is dead for no reason"));
            }
            if entry.overlapped {
                wrong.push(format!("{job} was run twice at once"));
            }
            if !repeats && entry.handled.windows(2).any(|lives| lives[0] == lives[1]) {
                wrong.push(format!("{job} was handled twice, and nothing was killed in between"));
            }
        }
        wrong
    }
}
