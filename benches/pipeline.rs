//! The receiver without a network: `receive` on a complete body, with every check enabled.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use http::Request;
use http_body_util::Full;
use qomplement_webhooks::sender::Payload;
use qomplement_webhooks::{SharedToken, WebhookReceiver, handler_fn};

const TOKEN: &str = "4Kz0PhvXDXnKcQ9JvW5c8tqGpn7oYbRm2sLd1aTfEuI";

fn request(body: Bytes) -> Request<Full<Bytes>> {
    Request::post(format!("/api/webhooks/qomplement?token={TOKEN}"))
        .header("content-type", "application/json")
        .header("content-length", body.len())
        .body(Full::new(body))
        .unwrap()
}

fn pipeline(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let handler = handler_fn(|event| async move {
        black_box(event);
        Ok(())
    });
    let receiver = WebhookReceiver::builder(handler)
        .token(SharedToken::new(TOKEN).unwrap())
        .known_jobs(|_| async { Ok::<_, std::io::Error>(true) })
        .build()
        .unwrap();

    let small = Payload::extract_completed();
    let lines: Vec<_> =
        (0..12_000).map(|line| format!("line {line} of a long table, with its text")).collect();
    let large = small.clone().set("/data/result/tables", lines);
    let duplicate = small.to_bytes();
    runtime.block_on(receiver.receive(request(duplicate.clone())));

    let mut group = criterion.benchmark_group("receive");
    let mut receive = |name: &str, bytes: usize, next: &dyn Fn() -> Bytes| {
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                || request(next()),
                |request| {
                    let reply = runtime.block_on(receiver.receive(request));
                    assert_eq!(reply.status(), 200);
                },
                BatchSize::SmallInput,
            );
        });
    };
    let fresh = |payload: &Payload| payload.clone().job_id(uuid::Uuid::new_v4().to_string()).to_bytes();
    receive("fresh, small", duplicate.len(), &|| fresh(&small));
    receive("duplicate, small", duplicate.len(), &|| duplicate.clone());
    receive("fresh, half a megabyte", large.to_bytes().len(), &|| fresh(&large));
    group.finish();
}

criterion_group!(benches, pipeline);
criterion_main!(benches);
