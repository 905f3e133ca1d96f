//! Shared by the suites: job ids and durations, calls that race or are dropped, and the report of failed checks.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Barrier;
use std::task::Poll;
use std::time::Duration;

use tokio::runtime::{Handle, RuntimeFlavor};

use crate::event::JobId;
use crate::execution::isolation::Panicked;
use crate::store::{Fenced, StoreError};

/// A lease longer than any check.
pub(super) const LONG: Duration = Duration::from_secs(120);
/// A lease that ends during a check.
pub(super) const SHORT: Duration = Duration::from_millis(250);
/// The time a claim may outlive its lease: enough for a store that counts whole seconds.
pub(super) const LAG: Duration = Duration::from_secs(2);
/// The time a claim may end before its lease: a store may round its clock down.
pub(super) const ROUNDING: Duration = Duration::from_millis(2);
/// The most polls after which a call is dropped; no call of the crate's own stores needs more than a few.
pub(super) const MOST_POLLS: usize = 64;

/// A call of a store that has not been polled yet.
pub(super) type PendingCall<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// The failed checks of one run.
#[derive(Debug)]
pub(super) struct Failures {
    contract: &'static str,
    /// The name of each failed check, which states its rule, and the observed violation.
    found: Vec<(&'static str, String)>,
}

impl Failures {
    /// No failures yet of the contract of a trait.
    pub(super) fn of(contract: &'static str) -> Self {
        Self { contract, found: Vec::new() }
    }

    pub(super) fn note(&mut self, check: &'static str, panicked: &Panicked) {
        let reason = panicked.to_string();
        // A check fails by a panic, as an assertion does; its message is the reason.
        let reason = reason.strip_prefix("panicked: ").unwrap_or(&reason);
        self.found.push((check, reason.replace('\n', "\n    ")));
    }

    /// The names of the failed checks.
    #[cfg(test)]
    pub(super) fn checks(&self) -> Vec<&'static str> {
        self.found.iter().map(|(check, _)| *check).collect()
    }

    /// Panics if a check failed, with a line for each that did.
    pub(super) fn report(&self) {
        let Self { contract, found } = self;
        let lines: String = found.iter().map(|(check, reason)| format!("\n  {check}: {reason}")).collect();
        assert!(
            found.is_empty(),
            "the store breaks the contract of {contract}. Failed checks ({}), each named after the rule it tests:{lines}",
            found.len()
        );
    }
}

/// Runs checks one after another, and notes those that fail. Stops after the check named `last`, if there is one.
macro_rules! run_all {
    ($failures:ident, $last:expr; $($module:ident::$check:ident($($store:expr),+);)+) => {'checks: {$(
        let (name, last) = (concat!(stringify!($module), "::", stringify!($check)), $last);
        let run = std::pin::pin!($module::$check($($store),+));
        if let Err(panicked) = $crate::execution::isolation::isolate(run).await {
            $failures.note(name, &panicked);
        }
        if last == Some(name) {
            break 'checks;
        }
    )+}};
}
pub(super) use run_all;

/// A job id that no other run uses.
pub(super) fn job() -> JobId {
    let text = uuid::Uuid::from_u64_pair(random(), random()).to_string();
    text.parse().unwrap_or_else(|error| panic!("the suite made an invalid id {text}: {error}"))
}

/// Job ids that no other run uses, and that a store may confuse with each other or take for syntax.
pub(super) fn odd_jobs() -> Vec<JobId> {
    let run = format!("{:08x}", random() as u32);
    let odd = [
        "a", "A", "b", "aa", "a:b", "a:b:c", "a/b", "../a", "a%", "a_", "%61", "*", "?", "[a]", "{a}",
        "{a}b", "{b}b", "'", "''", "\"", "\\", "\\\\", "';--", "$1", "${a}", "#", "a,b", "a|b", "a=b", "a&b",
        "<a>", "~", "0", "00", "-1", "null", "NULL", "true",
    ];
    let uuid = format!("{run}-41d4-a716-446655440000");
    let long = format!("{run}{}", "x".repeat(255 - run.len()));
    let other_end = format!("{}y", &long[..254]);
    let texts = odd.iter().map(|odd| format!("{run}{odd}")).chain([
        uuid.clone(),
        uuid.to_uppercase(),
        uuid.replace('-', ""),
        format!("{{{uuid}}}"),
        long[..254].to_owned(),
        other_end,
        long.clone(),
    ]);
    let jobs: Vec<JobId> = texts.filter_map(|text| text.parse().ok()).collect();
    assert_eq!(jobs.len(), odd.len() + 7, "the suite made an invalid id");
    jobs
}

fn random() -> u64 {
    getrandom::u64().unwrap_or_else(|error| panic!("the system has no random numbers: {error}"))
}

/// Leases, each twice as long as the one before: a check that is slower than its lease repeats with the next.
pub(super) fn leases() -> impl Iterator<Item = Duration> {
    (0..8).map(|doubled| SHORT * 2u32.pow(doubled))
}

/// Checks that a write applied.
pub(super) fn applied(write: Result<Fenced, StoreError>, what: &str) {
    assert!(matches!(write, Ok(Fenced::Applied)), "{what}: expected Ok(Applied), got {write:?}");
}

/// Checks that a write was refused as stale.
pub(super) fn stale(write: Result<Fenced, StoreError>, what: &str) {
    assert!(matches!(write, Ok(Fenced::Stale)), "{what}: expected Ok(Stale), got {write:?}");
}

/// Polls a call at most `polls` times, then drops it. Returns whether the call had finished.
pub(super) async fn cancelled_after<T>(polls: usize, mut call: PendingCall<'_, T>) -> bool {
    let mut left = polls;
    poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(false);
        }
        left -= 1;
        match call.as_mut().poll(context) {
            Poll::Ready(_) => Poll::Ready(true),
            Poll::Pending if left == 0 => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Runs calls at once, in parallel on a runtime with several threads. Returns the results in the order of the calls.
pub(super) async fn at_once<'a, T: Send>(
    calls: impl Iterator<Item = PendingCall<'a, T>>,
) -> Vec<Result<T, StoreError>> {
    let mut calls: Vec<_> = calls.collect();
    let runtime = Handle::current();
    if runtime.runtime_flavor() == RuntimeFlavor::MultiThread {
        let (runtime, barrier) = (&runtime, &Barrier::new(calls.len()));
        return tokio::task::block_in_place(|| {
            std::thread::scope(|scope| {
                let run = |call| {
                    move || {
                        barrier.wait();
                        runtime.block_on(call)
                    }
                };
                let threads: Vec<_> = calls.drain(..).map(|call| scope.spawn(run(call))).collect();
                let results = threads.into_iter().map(|thread| thread.join());
                results
                    .map(|result| result.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                    .collect()
            })
        });
    }
    let mut results: Vec<Option<Result<T, StoreError>>> = calls.iter().map(|_| None).collect();
    poll_fn(|context| {
        for (call, result) in calls.iter_mut().zip(&mut results).filter(|(_, result)| result.is_none()) {
            if let Poll::Ready(output) = call.as_mut().poll(context) {
                *result = Some(output);
            }
        }
        if results.iter().all(Option::is_some) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    results.into_iter().flatten().collect()
}
