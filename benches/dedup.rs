//! The memory store: a claim and its completion, and the claim of a duplicate. Beside it, the least that a
//! `DashMap` from job to state would do.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use qomplement_webhooks::dedup::{Claim, ClaimToken};
use qomplement_webhooks::{DedupStore, JobId, MemoryDedupStore};

const LEASE: Duration = Duration::from_secs(5);
const RETENTION: Duration = Duration::from_secs(3600);

fn id(number: u64) -> JobId {
    format!("550e8400-e29b-41d4-a716-{number:012x}").parse().unwrap()
}

/// A state for each job, and nothing else: no bound, no order, no expiry.
#[derive(Default)]
struct Plain(DashMap<JobId, (u128, bool, Instant)>);

impl Plain {
    fn claim(&self, job: &JobId) -> Option<ClaimToken> {
        match self.0.entry(job.clone()) {
            Entry::Occupied(_) => None,
            Entry::Vacant(entry) => {
                let token = ClaimToken::new(job);
                entry.insert((token.owner(), false, Instant::now() + LEASE));
                Some(token)
            }
        }
    }

    fn complete(&self, claim: &ClaimToken) {
        if let Some(mut state) = self.0.get_mut(claim.job())
            && state.0 == claim.owner()
        {
            *state = (claim.owner(), true, Instant::now() + RETENTION);
        }
    }
}

/// Runs a future that never pends.
fn now<F: Future>(future: F) -> F::Output {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut context) {
        std::task::Poll::Ready(output) => output,
        std::task::Poll::Pending => panic!("the memory store waits for nothing"),
    }
}

fn memory_fresh(store: &MemoryDedupStore, job: &JobId) {
    let token = ClaimToken::new(job);
    assert_eq!(now(store.claim(&token, LEASE)).unwrap(), Claim::Acquired, "not fresh");
    let _ = black_box(now(store.complete(&token, RETENTION)).unwrap());
}

/// The time of a number of operations, spread over threads. Each operation gets a new id.
fn on_threads(
    threads: u64,
    operations: u64,
    next: &AtomicU64,
    operation: impl Fn(&JobId) + Sync,
) -> Duration {
    let each = operations.div_ceil(threads);
    let ids: Vec<Vec<JobId>> =
        (0..threads).map(|_| (0..each).map(|_| id(next.fetch_add(1, Ordering::Relaxed))).collect()).collect();
    let began = Instant::now();
    std::thread::scope(|scope| {
        for ids in &ids {
            scope.spawn(|| ids.iter().for_each(&operation));
        }
    });
    began.elapsed()
}

fn dedup(criterion: &mut Criterion) {
    for threads in [1, 2] {
        let mut group = criterion.benchmark_group(format!("dedup, {threads} threads"));
        group.throughput(Throughput::Elements(1));
        let next = AtomicU64::new(0);
        let store = Arc::new(MemoryDedupStore::with_capacity(usize::MAX / 2));
        group.bench_function("memory store: claim and complete", |bencher| {
            bencher.iter_custom(|operations| {
                on_threads(threads, operations, &next, |job| memory_fresh(&store, job))
            });
        });
        let plain = Plain::default();
        group.bench_function("DashMap: claim and complete", |bencher| {
            bencher.iter_custom(|operations| {
                on_threads(threads, operations, &next, |job| plain.complete(&plain.claim(job).unwrap()))
            });
        });
        let store = MemoryDedupStore::new();
        let done: Vec<JobId> = (0..1000).map(id).collect();
        done.iter().for_each(|job| memory_fresh(&store, job));
        group.bench_function("memory store: claim of a finished job", |bencher| {
            bencher.iter_custom(|operations| {
                let began = Instant::now();
                std::thread::scope(|scope| {
                    for _ in 0..threads {
                        scope.spawn(|| {
                            for job in done.iter().cycle().take(operations.div_ceil(threads) as usize) {
                                let token = ClaimToken::new(job);
                                assert_eq!(now(store.claim(&token, LEASE)).unwrap(), Claim::Done);
                            }
                        });
                    }
                });
                began.elapsed()
            });
        });
        group.finish();
    }
}

criterion_group!(benches, dedup);
criterion_main!(benches);
