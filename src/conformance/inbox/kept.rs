//! The values an inbox must keep: any id, type, status, body and duration, many of them, through several handles.

use std::sync::LazyLock;
use std::time::Duration;

use super::super::harness::{LONG, applied, at_once, job, odd_jobs};
use super::steps::*;
use crate::event::JobId;
use crate::inbox::{InboxAdmin, InboxState, NoResult, Outcome, Receipt, Retention};

/// A duration may have any length, also one that no clock reaches.
pub(super) async fn durations_may_have_any_length(store: &dyn InboxAdmin) {
    const MAX: Duration = Duration::MAX;
    clear(store).await;
    find_overdue(store, &[], LONG).await;
    let far = async |job: &JobId, what: &str| {
        let due_in = row(store, job).await.due_in;
        assert!(
            due_in.is_some_and(|due_in| due_in > LONG * 1000),
            "{what}: `due_in` is {due_in:?} instead of ages"
        );
    };
    let expected = job();
    expect(store, &expected, MAX).await;
    far(&expected, "a deadline").await;
    let job = job();
    expect(store, &job, Duration::ZERO).await;
    let Some(overdue) = find_overdue(store, std::slice::from_ref(&job), MAX).await.pop() else {
        panic!("an overdue job was not leased");
    };
    far(&job, "the end of a lease on an expected job").await;
    applied(store.renew(&overdue.lease, MAX).await, "a renewal");
    far(&job, "the end of a renewed lease on an expected job").await;
    settle(store, &overdue.lease, &fetch_again(MAX, NoResult::Pending)).await;
    far(&job, "the next fetch").await;
    store_event(store, &completed(&job)).await;
    let leased = lease(store, &job, MAX).await;
    assert!(leased.fetches.next_in > LONG * 1000, "the next fetch is too soon: {leased:?}");
    far(&job, "the end of a lease").await;
    applied(store.renew(&leased.lease, MAX).await, "a renewal");
    far(&job, "the end of a renewed lease").await;
    settle(store, &leased.lease, &Outcome::Done).await;
    let pruned = store.prune(&Retention::default().payload(MAX).row(MAX).dead(MAX)).await;
    assert!(pruned.is_ok(), "pruning with the longest retention failed: {pruned:?}");
    assert!(get(store, &job).await.1.is_some(), "a body was pruned with the longest retention");
    for outcome in
        [retry(MAX), release(MAX), fetch_again(MAX, NoResult::NotFound), fetch_again(MAX, failed())]
    {
        let (job, held) = running(store).await;
        settle(store, &held, &outcome).await;
        far(&job, "the next attempt").await;
        not_due(store, &job, "a row that is due at a time no clock reaches").await;
    }
}

/// Ids are opaque: up to 255 visible ASCII characters, compared exactly, without any special meaning.
pub(super) async fn ids_are_compared_exactly(store: &dyn InboxAdmin) {
    clear(store).await;
    let jobs = odd_jobs();
    for (place, job) in jobs.iter().enumerate() {
        assert!(
            !contains(store, job).await,
            "`contains` is true for the new id {job}: ids must be compared exactly"
        );
        if place % 2 == 0 {
            expect(store, job, LONG).await;
        }
        receipt(
            store.receive(&completed(job)).await,
            Receipt::Stored,
            &format!("a receipt of the first event of the id {job}"),
        );
    }
    let leased = find_all(store, &jobs, LONG).await;
    assert_eq!(leased.len(), jobs.len(), "the number of leased rows with similar ids");
    for leased in &leased {
        let job = leased.lease.job();
        assert_eq!(&leased.body, completed(job).body(), "the leased body of the id {job}");
        applied(store.settle(&leased.lease, &error("never")).await, &format!("settling the id {job}"));
        let (row, body) = get(store, job).await;
        assert_eq!((row.job().as_ref(), row.state), (Some(job), InboxState::Dead), "the row of the id {job}");
        assert_eq!(body.as_ref(), Some(completed(job).body()), "the body of the id {job}");
        receipt(
            store.receive(&completed(job)).await,
            Receipt::Duplicate,
            &format!("a duplicate of the id {job}"),
        );
    }
    for job in &jobs {
        assert!(replay(store, job).await, "the id {job} was not replayed");
        let leased = lease(store, job, LONG).await;
        assert_eq!(leased.lease.job(), job, "the job of the lease after a replay of the id {job}");
        settle(store, &leased.lease, &Outcome::Done).await;
    }
}

/// An unknown type or status may be any text, and its event is kept like any other.
pub(super) async fn types_and_statuses_may_be_any_text(store: &dyn InboxAdmin) {
    let (long, longer) = ("é".repeat(200), "é".repeat(40_000));
    for (text, exact) in [
        ("", true),
        ("Extract", true),
        ("'; \"%_\\ $1 \u{1f4a3}\r\n", true),
        (&long, true),
        (&longer, false),
        ("a\0b", false),
    ] {
        let job = job();
        let odd = event(&job, text, text, "");
        receipt(
            store.receive(&odd).await,
            Receipt::Stored,
            "a receipt of an event with an odd type and status",
        );
        receipt(store.receive(&odd).await, Receipt::Duplicate, "a duplicate of it");
        let row = row(store, &job).await;
        // Where people see them, a store may cut long texts and replace characters that its database cannot keep: the
        // body has the whole text.
        assert!(row.job_type.is_some() && row.status.is_some(), "type and status of an event with odd ones");
        assert!(
            !exact || row.job_type.as_deref() == Some(text),
            "the type {text:?} was kept as {:?}",
            row.job_type
        );
        assert!(
            !exact || row.status.as_deref() == Some(text),
            "the status {text:?} was kept as {:?}",
            row.status
        );
        let leased = lease(store, &job, LONG).await;
        assert_eq!(&leased.body, odd.body(), "the body of an event with an odd type and status");
        settle(store, &leased.lease, &Outcome::Done).await;
        let last = completed(&job);
        receipt(
            store.receive(&last).await,
            Receipt::Stored,
            "a receipt of a final event after one with an odd status",
        );
        let leased = lease(store, &job, LONG).await;
        assert_eq!(&leased.body, last.body(), "the body of a final event after one with an odd status");
        let result = event(&job, text, "failed", "the API's");
        applied(store.verify(&leased.lease, &result).await, "verifying with an event of an odd type");
        let (row, body) = get(store, &job).await;
        assert!(
            !exact || row.job_type.as_deref() == Some(text),
            "the type {text:?} was kept as {:?}",
            row.job_type
        );
        assert_eq!(body.as_ref(), Some(result.body()), "the body of a fetched result with an odd type");
    }
}

/// A body of five MiB is kept to its last byte.
pub(super) async fn a_large_body_is_kept(store: &dyn InboxAdmin) {
    /// Text that does not compress to nothing, with more bytes than characters.
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        (0u32..1 << 19).map(|number| format!("{:08x}é", number.wrapping_mul(2_654_435_761))).collect()
    });
    let small = event(&job(), "extract", "completed", "NOTE");
    let text = String::from_utf8_lossy(small.body()).replace("NOTE", &TEXT);
    let large = read(text);
    assert!(large.body().len() > 5 << 20, "the suite made a small body");
    store_event(store, &large).await;
    assert_eq!(get(store, large.job()).await.1.as_ref(), Some(large.body()), "the stored large body");
    let leased = lease(store, large.job(), LONG).await;
    assert!(
        leased.body == large.body(),
        "the leased large body was cut or changed; it has {} bytes",
        leased.body.len()
    );
    let mut other = large.body().to_vec();
    let end = other.len() - 100;
    other[end] = if other[end] == b'0' { b'1' } else { b'0' };
    if let Ok(other) = crate::event::Envelope::try_from(bytes::Bytes::from(other)) {
        let what = "a large body that differs in one byte";
        receipt(store.receive(&other).await, Receipt::Conflict, what);
    }
    settle(store, &leased.lease, &Outcome::Done).await;
}

/// A thousand events, received, leased and settled 64 at a time, are all leased once.
pub(super) async fn many_rows_are_kept_apart(store: &dyn InboxAdmin) {
    clear(store).await;
    let jobs: Vec<_> = (0..1000).map(|_| job()).collect();
    for jobs in jobs.chunks(64) {
        let events: Vec<_> = jobs.iter().map(completed).collect();
        for received in at_once(events.iter().map(|event| store.receive(event))).await {
            receipt(received, Receipt::Stored, "a receipt of one event among many");
        }
    }
    let leased = find_all(store, &jobs, LONG).await;
    assert_eq!(leased.len(), jobs.len(), "the number of leased rows of a thousand due ones");
    for leased in leased.chunks(64) {
        let calls = leased.iter().map(|leased| store.settle(&leased.lease, &Outcome::Done));
        for settled in at_once(calls).await {
            applied(settled, "settling one row among many");
        }
    }
    let again = find_all(store, &jobs, LONG).await;
    assert!(again.is_empty(), "{} of a thousand done rows were leased again", again.len());
    for jobs in jobs.chunks(64) {
        for row in at_once(jobs.iter().map(|job| store.get(job))).await {
            let done = matches!(&row, Ok(Some((row, Some(_)))) if row.state == InboxState::Done);
            assert!(done, "getting one of a thousand done rows: got {row:?}");
        }
    }
    assert!(!contains(store, &job()).await, "`contains` is true for an unknown job among many");
}

/// Two handles of one inbox, such as two connections or processes, see the same rows.
pub(super) async fn two_handles_are_one_store(store: &dyn InboxAdmin, other: &dyn InboxAdmin) {
    super::lease::leased_once(&[store, other]).await;
    super::expect::overdue_once(&[store, other]).await;
    let job = received(store).await;
    receipt(other.receive(&completed(&job)).await, Receipt::Duplicate, "a duplicate through another handle");
    assert!(contains(other, &job).await, "`contains` is false for a job received through another handle");
    let leased = lease(other, &job, LONG).await.lease;
    not_due(store, &job, "a row leased through another handle").await;
    applied(store.renew(&leased, LONG).await, "a renewal through another handle");
    settle(store, &leased, &error("never")).await;
    assert_eq!(
        row(other, &job).await.state,
        InboxState::Dead,
        "the state of a row settled through another handle"
    );
    assert!(replay(other, &job).await, "a row was not replayed through another handle");
    let again = lease(store, &job, LONG).await.lease;
    assert!(
        again.fence() > leased.fence(),
        "the fencing token did not grow after a lease through another handle"
    );
    settle(other, &again, &Outcome::Done).await;
    assert_eq!(snapshot(store, &job).await, snapshot(other, &job).await, "one row through two handles");
    let stats = (store.stats().await.map(|stats| stats.done), other.stats().await.map(|stats| stats.done));
    assert!(
        matches!(&stats, (Ok(one), Ok(two)) if one == two),
        "done rows counted through two handles: {stats:?}"
    );
}
