//! What the suites share: ids and times, calls that run at once or are broken off, and how failures are told.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Barrier;
use std::task::Poll;
use std::time::Duration;

use tokio::runtime::{Handle, RuntimeFlavor};

use crate::event::JobId;
use crate::store::{Fenced, StoreError};

/// A lease that does not end while a check runs.
pub(super) const LONG: Duration = Duration::from_secs(120);
/// A lease that ends while a check runs.
pub(super) const SHORT: Duration = Duration::from_millis(250);
/// How much longer than its lease a claim may be kept: enough for a store that counts whole seconds.
pub(super) const LAG: Duration = Duration::from_secs(2);
/// How much earlier it may end: a store may round its clock down.
pub(super) const ROUNDING: Duration = Duration::from_millis(2);
/// A waiting call is polled at most so often; none of ours waits more than a few times.
pub(super) const MOST_POLLS: usize = 64;

pub(super) type Call<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Runs checks, and notes the names of those that failed, with what is wrong. Ends after the check with the name
/// `last`, if there is one.
macro_rules! run_all {
    ($failures:ident, $last:expr; $($check:ident($($store:expr),+);)+) => {'checks: {$(
        if let Err(panicked) = $crate::execution::isolation::isolate(std::pin::pin!($check($($store),+))).await {
            $failures += &format!("\n  {}: {panicked}", stringify!($check));
        }
        if $last == Some(stringify!($check)) {
            break 'checks;
        }
    )+}};
}
pub(super) use run_all;

/// A job that no run has used before.
pub(super) fn job() -> JobId {
    let text = uuid::Uuid::from_u64_pair(random(), random()).to_string();
    text.parse().unwrap_or_else(|error| panic!("{text} is an id: {error}"))
}

/// Jobs that no run has used before, and whose ids are easily taken for each other, or for syntax.
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
    assert_eq!(jobs.len(), odd.len() + 7, "all of them are ids");
    jobs
}

fn random() -> u64 {
    getrandom::u64().unwrap_or_else(|error| panic!("no random numbers: {error}"))
}

/// Leases to try, each twice as long, for checks that must be faster than a lease.
pub(super) fn leases() -> impl Iterator<Item = Duration> {
    (0..8).map(|doubled| SHORT * 2u32.pow(doubled))
}

pub(super) fn applied(write: Result<Fenced, StoreError>, what: &str) {
    assert!(matches!(write, Ok(Fenced::Applied)), "{what}: should apply, but is {write:?}");
}

pub(super) fn stale(write: Result<Fenced, StoreError>, what: &str) {
    assert!(matches!(write, Ok(Fenced::Stale)), "{what}: should be stale, but is {write:?}");
}

/// Polls a call at most so often, then drops it; whether it had finished.
pub(super) async fn cancelled_after<T>(polls: usize, mut call: Call<'_, T>) -> bool {
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

/// Runs calls at once: in parallel if the runtime has threads for it.
pub(super) async fn at_once<'a, T: Send>(
    calls: impl Iterator<Item = Call<'a, T>>,
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
