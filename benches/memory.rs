//! Memory: the allocations of a parse, the bytes of a remembered job, and the longest call while a store grows to a
//! million jobs. Beside it, a `DashMap` from job to state.
//!
//! ```sh
//! cargo bench --features sender --bench memory
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::alloc::System;
use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dashmap::DashMap;
use qomplement_webhooks::dedup::{Claim, ClaimToken};
use qomplement_webhooks::sender::Payload;
use qomplement_webhooks::{DedupStore, JobId, MemoryDedupStore, WebhookEvent};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const JOBS: u64 = 1_000_000;
const LEASE: Duration = Duration::from_secs(5);
const RETENTION: Duration = Duration::from_secs(3600);

fn id(number: u64) -> JobId {
    format!("550e8400-e29b-41d4-a716-{number:012x}").parse().unwrap()
}

/// Runs a future that never pends.
fn now<F: Future>(future: F) -> F::Output {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut context) {
        std::task::Poll::Ready(output) => output,
        std::task::Poll::Pending => panic!("the memory store waits for nothing"),
    }
}

fn allocations_of_a_parse() {
    let payload = Payload::extract_completed().job_id("550e8400-e29b-41d4-a716-446655440000");
    for (order, payload) in [("documented order", payload.clone()), ("reordered", payload.reordered())] {
        let body = payload.to_bytes();
        let shared = Bytes::clone(&body);
        let region = Region::new(ALLOCATOR);
        let event = black_box(WebhookEvent::try_from(shared).unwrap());
        let allocations = region.change().allocations;
        drop(event);
        println!("allocations of one parse, {} bytes, {order}: {allocations}", body.len());
    }
}

/// Lets a store grow, and prints the bytes of a job and the times of the calls.
fn grow(name: &str, mut remember: impl FnMut(&JobId)) {
    let ids: Vec<JobId> = (0..JOBS).map(id).collect();
    let mut times: Vec<u32> = vec![0; ids.len()];
    let region = Region::new(ALLOCATOR);
    for (job, time) in ids.iter().zip(&mut times) {
        let began = Instant::now();
        remember(job);
        *time = u32::try_from(began.elapsed().as_nanos()).unwrap_or(u32::MAX);
    }
    let change = region.change();
    let live = change.bytes_allocated - change.bytes_deallocated;
    times.sort_unstable();
    let micros = |share: f64| f64::from(times[((times.len() - 1) as f64 * share) as usize]) / 1000.0;
    println!(
        "{name}: {:.1} bytes a job; claim and complete: p50 {:.2} µs, p99 {:.2} µs, p99.9 {:.2} µs, max {:.0} µs",
        live as f64 / JOBS as f64,
        micros(0.5),
        micros(0.99),
        micros(0.999),
        micros(1.0),
    );
}

fn main() {
    allocations_of_a_parse();
    // Without `--bench`, as by `cargo test --benches`, skip the long part.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    for _ in 0..3 {
        let store = MemoryDedupStore::new();
        grow("MemoryDedupStore", |job| {
            let token = ClaimToken::new(job);
            assert_eq!(now(store.claim(&token, LEASE)).unwrap(), Claim::Acquired, "not fresh");
            let _ = black_box(now(store.complete(&token, RETENTION)).unwrap());
        });
        assert_eq!(store.len() as u64, JOBS);
        let map = DashMap::new();
        grow("DashMap         ", |job| {
            let token = ClaimToken::new(job);
            map.insert(job.clone(), (token.owner(), false, Instant::now() + LEASE));
            *map.get_mut(job).unwrap() = (token.owner(), true, Instant::now() + RETENTION);
        });
        assert_eq!(map.len() as u64, JOBS);
    }
}
