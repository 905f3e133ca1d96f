//! The memory store: its contract, a comparison with a plain map, and races.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use tokio::time::{Instant, advance};

use super::*;

const LEASE: Duration = Duration::from_secs(5);
const RETENTION: Duration = Duration::from_secs(3600);
const NANOSECOND: Duration = Duration::from_nanos(1);

fn job(number: usize) -> JobId {
    // A `JobId` stores UUIDs and other texts differently.
    let text = if number.is_multiple_of(2) {
        format!("550e8400-e29b-41d4-a716-{number:012}")
    } else {
        format!("job-{number}")
    };
    text.parse().unwrap()
}

async fn acquire(store: &MemoryDedupStore, job: &JobId) -> ClaimToken {
    let token = ClaimToken::new(job);
    assert_eq!(store.claim(&token, LEASE).await.unwrap(), Claim::Acquired, "{job} is not free");
    token
}

/// Claims the job with a new token.
async fn claim(store: &MemoryDedupStore, job: &JobId) -> Result<Claim, StoreError> {
    store.claim(&ClaimToken::new(job), LEASE).await
}

async fn finish(store: &MemoryDedupStore, job: &JobId) {
    let token = acquire(store, job).await;
    assert_eq!(store.complete(&token, RETENTION).await.unwrap(), Fenced::Applied);
}

#[tokio::test(start_paused = true)]
async fn a_claim_holds_until_its_lease_ends_and_not_a_nanosecond_longer() {
    let (store, job) = (MemoryDedupStore::new(), job(0));
    let first = acquire(&store, &job).await;
    advance(LEASE - NANOSECOND).await;
    match claim(&store, &job).await.unwrap() {
        Claim::InProgress { retry_after } => assert_eq!(retry_after, NANOSECOND),
        other => panic!("{other:?}"),
    }
    advance(NANOSECOND).await;
    let second = acquire(&store, &job).await;
    for stale in [
        store.renew(&first, LEASE).await,
        store.complete(&first, RETENTION).await,
        store.release(&first).await,
    ] {
        assert_eq!(stale.unwrap(), Fenced::Stale, "the first owner wrote to the second's claim");
    }
    assert!(matches!(claim(&store, &job).await.unwrap(), Claim::InProgress { .. }), "a stale write freed it");
    assert_eq!(store.complete(&second, RETENTION).await.unwrap(), Fenced::Applied);
}

#[tokio::test(start_paused = true)]
async fn a_renewal_counts_from_now_and_mends_a_lease_that_ended_unnoticed() {
    let (store, job) = (MemoryDedupStore::new(), job(1));
    let token = acquire(&store, &job).await;
    advance(LEASE - NANOSECOND).await;
    assert_eq!(store.renew(&token, LEASE).await.unwrap(), Fenced::Applied);
    advance(LEASE - NANOSECOND).await;
    assert!(matches!(claim(&store, &job).await.unwrap(), Claim::InProgress { .. }));
    advance(LEASE * 3).await;
    assert_eq!(store.renew(&token, LEASE).await.unwrap(), Fenced::Applied, "nobody else had claimed it");
    assert!(matches!(claim(&store, &job).await.unwrap(), Claim::InProgress { .. }));
    advance(LEASE * 3).await;
    assert_eq!(store.complete(&token, RETENTION).await.unwrap(), Fenced::Applied, "the work was done");
    assert!(matches!(claim(&store, &job).await.unwrap(), Claim::Done));
}

#[tokio::test(start_paused = true)]
async fn a_finished_job_is_done_until_its_retention_ends() {
    let (store, job) = (MemoryDedupStore::new(), job(2));
    let token = acquire(&store, &job).await;
    assert_eq!(store.complete(&token, RETENTION).await.unwrap(), Fenced::Applied);
    advance(RETENTION - NANOSECOND).await;
    assert!(matches!(claim(&store, &job).await.unwrap(), Claim::Done));
    assert_eq!(
        store.complete(&token, RETENTION).await.unwrap(),
        Fenced::Applied,
        "repeated by the same token"
    );
    assert_eq!(store.renew(&token, LEASE).await.unwrap(), Fenced::Stale);
    assert_eq!(store.release(&token).await.unwrap(), Fenced::Stale, "what is done cannot be released");
    advance(NANOSECOND).await;
    let again = acquire(&store, &job).await;
    assert_eq!(store.complete(&token, RETENTION).await.unwrap(), Fenced::Stale);
    assert_eq!(store.complete(&again, RETENTION).await.unwrap(), Fenced::Applied);
    assert_eq!(store.complete(&token, RETENTION).await.unwrap(), Fenced::Stale, "another token completed it");
}

#[tokio::test(start_paused = true)]
async fn a_release_frees_the_job_at_once() {
    let (store, job) = (MemoryDedupStore::new(), job(3));
    let token = acquire(&store, &job).await;
    assert_eq!(store.release(&token).await.unwrap(), Fenced::Applied);
    assert_eq!(store.release(&token).await.unwrap(), Fenced::Stale);
    assert!(store.is_empty());
    acquire(&store, &job).await;
}

#[tokio::test(start_paused = true)]
async fn a_full_store_forgets_the_oldest_that_is_over_a_minute_old_and_never_a_claim() {
    let store = MemoryDedupStore::with_capacity(4);
    let claimed = acquire(&store, &job(0)).await;
    for number in 1..4 {
        finish(&store, &job(number)).await;
        advance(Duration::from_secs(1)).await;
    }
    assert!(matches!(claim(&store, &job(4)).await, Err(StoreError::Full)), "a young job was forgotten");
    // An expired claim whose owner renews it is not forgotten either.
    assert_eq!(store.renew(&claimed, RETENTION).await.unwrap(), Fenced::Applied);
    advance(Duration::from_secs(60)).await;
    finish(&store, &job(4)).await;
    assert!(matches!(claim(&store, &job(2)).await.unwrap(), Claim::Done), "not the oldest was forgotten");
    assert_eq!(store.len(), 4);
    finish(&store, &job(5)).await;
    finish(&store, &job(6)).await;
    assert!(
        matches!(claim(&store, &job(0)).await.unwrap(), Claim::InProgress { .. }),
        "a claim was forgotten"
    );
    assert!(matches!(claim(&store, &job(7)).await, Err(StoreError::Full)));
    assert_eq!(store.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn claims_that_nobody_came_back_for_make_room() {
    let store = MemoryDedupStore::with_capacity(3);
    for number in 0..3 {
        acquire(&store, &job(number)).await;
    }
    assert!(matches!(claim(&store, &job(3)).await, Err(StoreError::Full)));
    advance(LEASE).await;
    acquire(&store, &job(3)).await;
    assert_eq!(store.len(), 1);
}

/// Whether the store remembers that a job is done.
async fn is_done(store: &MemoryDedupStore, job: &JobId) -> bool {
    claim(store, job).await.is_ok_and(|claim| claim == Claim::Done)
}

#[tokio::test(start_paused = true)]
async fn a_full_store_forgets_a_job_after_a_minute() {
    let store = MemoryDedupStore::with_capacity(1);
    finish(&store, &job(0)).await;
    advance(Duration::from_secs(60) - NANOSECOND).await;
    assert!(matches!(claim(&store, &job(1)).await, Err(StoreError::Full)));
    advance(NANOSECOND * 2).await;
    acquire(&store, &job(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_full_store_forgets_what_came_first_however_often_new_jobs_came() {
    let store = MemoryDedupStore::with_capacity(5);
    for number in 0..5 {
        finish(&store, &job(number)).await;
        advance(LEASE * 2).await;
    }
    advance(Duration::from_secs(60)).await;
    acquire(&store, &job(5)).await;
    for number in 1..5 {
        assert!(is_done(&store, &job(number)).await, "{number} is forgotten instead of the first");
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_store_keeps_all_if_the_job_that_came_first_is_younger_than_a_minute() {
    let store = MemoryDedupStore::with_capacity(2);
    let slow = acquire(&store, &job(0)).await;
    finish(&store, &job(1)).await;
    assert_eq!(store.renew(&slow, RETENTION).await.unwrap(), Fenced::Applied);
    advance(Duration::from_secs(120)).await;
    assert_eq!(store.complete(&slow, RETENTION).await.unwrap(), Fenced::Applied);
    assert!(matches!(claim(&store, &job(2)).await, Err(StoreError::Full)));
    assert!(is_done(&store, &job(0)).await && is_done(&store, &job(1)).await);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_is_claimed_anew_or_finished_late_counts_from_then() {
    // Claimed anew after a release.
    let store = MemoryDedupStore::with_capacity(2);
    let released = acquire(&store, &job(0)).await;
    assert_eq!(store.release(&released).await.unwrap(), Fenced::Applied);
    finish(&store, &job(1)).await;
    finish(&store, &job(0)).await;
    advance(Duration::from_secs(120)).await;
    acquire(&store, &job(2)).await;
    assert!(is_done(&store, &job(0)).await, "the job that came last is forgotten");

    // Finished after the lease had ended.
    let store = MemoryDedupStore::with_capacity(2);
    let late = acquire(&store, &job(0)).await;
    finish(&store, &job(1)).await;
    advance(LEASE).await;
    assert_eq!(store.complete(&late, RETENTION).await.unwrap(), Fenced::Applied);
    advance(Duration::from_secs(120)).await;
    acquire(&store, &job(2)).await;
    assert!(is_done(&store, &job(0)).await, "the job that finished last is forgotten");
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_is_held_for_long_keeps_no_expired_job_in_memory() {
    // A small store has one order of all jobs.
    let store = MemoryDedupStore::with_capacity(1000);
    let held = acquire(&store, &job(0)).await;
    assert_eq!(store.renew(&held, RETENTION * 3).await.unwrap(), Fenced::Applied);
    for number in 1..101 {
        finish(&store, &job(number)).await;
    }
    advance(RETENTION + LEASE).await;
    for number in 101..201 {
        finish(&store, &job(number)).await;
    }
    assert_eq!(store.len(), 101, "expired jobs are kept");
}

#[tokio::test(start_paused = true)]
async fn debug_says_how_full_a_store_is() {
    let store = MemoryDedupStore::with_capacity(7);
    assert!(store.is_empty());
    acquire(&store, &job(0)).await;
    assert!(!store.is_empty());
    let shown = format!("{store:?}");
    assert!(shown.starts_with("MemoryDedupStore { jobs: 1, capacity: 7"), "{shown}");
}

#[tokio::test(start_paused = true)]
async fn expired_jobs_leave_memory_as_new_ones_come() {
    let store = MemoryDedupStore::new();
    for number in 0..10_000 {
        finish(&store, &job(number)).await;
    }
    assert_eq!(store.len(), 10_000);
    advance(RETENTION).await;
    for number in 10_000..20_000 {
        finish(&store, &job(number)).await;
    }
    assert_eq!(store.len(), 10_000, "expired jobs are kept");
    for number in 10_000..20_000 {
        assert!(matches!(claim(&store, &job(number)).await.unwrap(), Claim::Done), "{number} is forgotten");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_64_tasks_that_claim_one_job_one_gets_it() {
    let store = MemoryDedupStore::new();
    for number in 0..500 {
        let barrier = Arc::new(tokio::sync::Barrier::new(64));
        let tasks: Vec<_> = (0..64)
            .map(|_| {
                let (store, barrier) = (store.clone(), barrier.clone());
                tokio::spawn(async move {
                    barrier.wait().await;
                    claim(&store, &job(number)).await.unwrap() == Claim::Acquired
                })
            })
            .collect();
        let mut acquired = 0;
        for task in tasks {
            acquired += usize::from(task.await.unwrap());
        }
        assert_eq!(acquired, 1, "job {number}");
    }
}

#[cfg(feature = "conformance")]
#[tokio::test(start_paused = true)]
async fn the_store_conforms_by_a_clock_that_tests_move() {
    let store = MemoryDedupStore::new();
    let differences = [crate::conformance::DedupDifference::ForgetsOwnersOfFreeJobs];
    crate::conformance::dedup_all(&store, &store, &differences).await;
}

#[cfg(feature = "conformance")]
#[tokio::test(flavor = "multi_thread")]
async fn the_store_conforms_among_threads() {
    let store = MemoryDedupStore::new();
    let differences = [crate::conformance::DedupDifference::ForgetsOwnersOfFreeJobs];
    crate::conformance::dedup_all(&store, &store.clone(), &differences).await;
}

#[test]
fn no_two_claims_have_one_owner_and_debug_hides_it() {
    let (first, second) = (ClaimToken::new(&job(0)), ClaimToken::new(&job(0)));
    assert_ne!(first.owner(), second.owner());
    assert_ne!(first, second);
    let shown = format!("{first:?}");
    assert!(shown.contains(&job(0).to_string()) && !shown.contains(&first.owner().to_string()), "{shown}");
}

/// A store that keeps one half by mistake must not take the claims of two processes for each other's.
#[test]
fn the_owners_of_two_processes_differ_in_each_half() {
    const PRINT: &str = "PRINT_AN_OWNER";
    if std::env::var_os(PRINT).is_some() {
        return println!("\nowner {}", ClaimToken::new(&job(0)).owner());
    }
    let test = "dedup::tests::the_owners_of_two_processes_differ_in_each_half";
    let first_owner = || -> u128 {
        let mut process = std::process::Command::new(std::env::current_exe().unwrap());
        let output = process.args(["--exact", test, "--nocapture"]).env(PRINT, "1").output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        said.lines().find_map(|line| line.strip_prefix("owner ")).unwrap().parse().unwrap()
    };
    let (first, second) = (first_owner(), first_owner());
    assert_ne!(first as u64, second as u64, "{first:x} {second:x}");
    assert_ne!(first >> 64, second >> 64, "{first:x} {second:x}");
}

#[tokio::test(start_paused = true)]
async fn clones_are_one_store() {
    let store = MemoryDedupStore::new();
    let clone = store.clone();
    finish(&store, &job(0)).await;
    assert_eq!(claim(&clone, &job(0)).await.unwrap(), Claim::Done);
    assert_eq!(clone.len(), 1);
}

/// One step of the model test.
#[derive(Debug, Clone)]
enum Step {
    Claim {
        job: usize,
        lease: u64,
    },
    /// Repeats an earlier token's claim.
    ClaimAgain {
        token: usize,
        lease: u64,
    },
    /// Renews an earlier token's claim.
    Renew {
        token: usize,
        lease: u64,
    },
    Complete {
        token: usize,
        retention: u64,
    },
    Release {
        token: usize,
    },
    Advance(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let token = || any::<usize>();
    prop_oneof![
        4 => (0..6usize, 1..40u64).prop_map(|(job, lease)| Step::Claim { job, lease }),
        1 => (token(), 1..40u64).prop_map(|(token, lease)| Step::ClaimAgain { token, lease }),
        2 => (token(), 1..40u64).prop_map(|(token, lease)| Step::Renew { token, lease }),
        3 => (token(), 1..200u64).prop_map(|(token, retention)| Step::Complete { token, retention }),
        1 => token().prop_map(|token| Step::Release { token }),
        3 => (0..50u64).prop_map(Step::Advance),
    ]
}

/// A store that is as plain as possible: the last state of each job.
#[derive(Default)]
struct Model(HashMap<JobId, Known>);

#[derive(Clone, Copy)]
struct Known {
    owner: u128,
    done: bool,
    until: Instant,
}

impl Model {
    /// The state of a job that is not free.
    fn holds(&self, job: &JobId) -> Option<Known> {
        self.0.get(job).copied().filter(|state| state.until > Instant::now())
    }

    /// Whether the token's claim was the job's last, and is neither completed nor released.
    fn claimed_by(&self, token: &ClaimToken) -> bool {
        self.0.get(token.job()).is_some_and(|state| state.owner == token.owner() && !state.done)
    }

    fn set(&mut self, token: &ClaimToken, done: bool, seconds: u64) {
        let until = Instant::now() + Duration::from_secs(seconds);
        self.0.insert(token.job().clone(), Known { owner: token.owner(), done, until });
    }

    fn claim(&mut self, token: &ClaimToken, seconds: u64) -> Claim {
        match self.holds(token.job()) {
            Some(state) if state.done => Claim::Done,
            Some(state) if state.owner != token.owner() => {
                Claim::InProgress { retry_after: state.until.duration_since(Instant::now()) }
            }
            _ => {
                self.set(token, false, seconds);
                Claim::Acquired
            }
        }
    }

    fn renew(&mut self, token: &ClaimToken, seconds: u64) -> Fenced {
        if !self.claimed_by(token) && self.holds(token.job()).is_some() {
            return Fenced::Stale;
        }
        self.set(token, false, seconds);
        Fenced::Applied
    }

    fn complete(&mut self, token: &ClaimToken, seconds: u64) -> Fenced {
        match self.holds(token.job()) {
            Some(state) if state.owner != token.owner() => return Fenced::Stale,
            Some(state) if state.done => {}
            _ => self.set(token, true, seconds),
        }
        Fenced::Applied
    }

    fn release(&mut self, token: &ClaimToken) -> Fenced {
        if !self.claimed_by(token) {
            return Fenced::Stale;
        }
        self.0.remove(token.job());
        Fenced::Applied
    }
}

async fn agrees(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let (store, mut model) = (MemoryDedupStore::new(), Model::default());
    let mut tokens: Vec<ClaimToken> = Vec::new();
    let seconds = Duration::from_secs;
    for step in steps {
        let pick = |index: usize| (!tokens.is_empty()).then(|| tokens[index % tokens.len()].clone());
        match step {
            Step::Advance(time) => advance(seconds(time)).await,
            Step::Claim { job: number, lease } => {
                let token = ClaimToken::new(&job(number));
                let got = store.claim(&token, seconds(lease)).await.unwrap();
                prop_assert_eq!(got, model.claim(&token, lease));
                tokens.extend((got == Claim::Acquired).then_some(token));
            }
            Step::ClaimAgain { token, lease } => {
                let Some(token) = pick(token) else { continue };
                let got = store.claim(&token, seconds(lease)).await.unwrap();
                prop_assert_eq!(got, model.claim(&token, lease));
            }
            Step::Renew { token, lease } => {
                let Some(token) = pick(token) else { continue };
                let got = store.renew(&token, seconds(lease)).await.unwrap();
                prop_assert_eq!(got, model.renew(&token, lease));
            }
            Step::Complete { token, retention } => {
                let Some(token) = pick(token) else { continue };
                let got = store.complete(&token, seconds(retention)).await.unwrap();
                prop_assert_eq!(got, model.complete(&token, retention));
            }
            Step::Release { token } => {
                let Some(token) = pick(token) else { continue };
                prop_assert_eq!(store.release(&token).await.unwrap(), model.release(&token));
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_behaves_like_a_plain_map(steps in prop::collection::vec(step(), 1..80)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(agrees(steps))?;
    }
}
