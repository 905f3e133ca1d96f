//! Reading a body, beside other ways to read it with serde_json and the limit: skipping over it.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use qomplement_webhooks::WebhookEvent;
use qomplement_webhooks::sender::Payload;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

#[path = "typed.rs"]
mod typed;

/// The documented extraction: 393 bytes.
fn small() -> Payload {
    Payload::extract_completed().job_id("550e8400-e29b-41d4-a716-446655440000")
}

/// An extraction of a megabyte: a few fields, and tables of rows.
fn large() -> Payload {
    let row = |number: u32| {
        json!({
            "position": number,
            "description": format!("Part no. {number}, galvanised, with two washers and a split pin"),
            "quantity": number % 17,
            "unit_price": format!("{}.{:02}", number % 1000, number % 100),
            "taxable": number.is_multiple_of(3),
        })
    };
    let rows = |count| (0..count).map(row).collect::<Vec<_>>();
    let length = |count| small().set("/data/result/tables", rows(count)).to_bytes().len();
    let count = 8000 * (1 << 20) / length(8000);
    small().set("/data/result/tables", rows(count as u32))
}

fn parse(criterion: &mut Criterion) {
    for (size, payload) in [("393 B", small()), ("1 MiB", large())] {
        for (order, payload) in [("documented order", payload.clone()), ("reordered", payload.reordered())] {
            let body = payload.to_bytes();
            let mut group = criterion.benchmark_group(format!("parse {size}, {order}"));
            group.throughput(Throughput::Bytes(body.len() as u64));
            group.bench_function("IgnoredAny (limit)", |bencher| {
                bencher.iter(|| serde_json::from_slice::<IgnoredAny>(black_box(&body)).unwrap());
            });
            // A handle on shared bytes, as a server passes it on.
            group.bench_function("WebhookEvent", |bencher| {
                bencher.iter(|| WebhookEvent::try_from(Bytes::clone(black_box(&body))).unwrap());
            });
            group.bench_function("Value", |bencher| {
                bencher.iter(|| serde_json::from_slice::<Value>(black_box(&body)).unwrap());
            });
            group.bench_function("internally tagged derive", |bencher| {
                bencher.iter(|| typed::read(black_box(&body)));
            });
            group.finish();
        }
    }
}

criterion_group!(benches, parse);
criterion_main!(benches);
