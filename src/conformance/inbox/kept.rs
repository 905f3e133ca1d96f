//! What an inbox must be able to keep: any id, type, status and body, and many of them.

use std::sync::LazyLock;

use super::super::harness::{LONG, applied, at_once, job, odd_jobs};
use super::steps::*;
use crate::inbox::{InboxAdmin, InboxState, Outcome, Receipt};

/// Ids are opaque: of up to 255 visible ASCII characters, compared exactly, and nothing in them has a meaning.
///
/// # Panics
///
/// When two ids are taken for one, or one is refused or changed.
pub async fn inbox_ids_are_compared_exactly(store: &dyn InboxAdmin) {
    clear(store).await;
    let jobs = odd_jobs();
    for (place, job) in jobs.iter().enumerate() {
        assert!(!contains(store, job).await, "the id {job} was taken for another one");
        if place % 2 == 0 {
            expect(store, job, LONG).await;
        }
        receipt(store.receive(&completed(job)).await, Receipt::Stored, &format!("the first event of {job}"));
    }
    let leased = find_all(store, &jobs, LONG).await;
    assert_eq!(leased.len(), jobs.len(), "of so many ids that are easily taken for each other, were leased");
    for leased in &leased {
        let job = leased.lease.job();
        assert_eq!(&leased.body, completed(job).body(), "{job} was leased with the body of another");
        applied(store.settle(&leased.lease, &error("never")).await, &format!("settling {job}"));
        let (row, body) = get(store, job).await;
        assert_eq!((row.job().as_ref(), row.state), (Some(job), InboxState::Dead), "the row of {job}");
        assert_eq!(body.as_ref(), Some(completed(job).body()), "the body of {job}");
        receipt(store.receive(&completed(job)).await, Receipt::Duplicate, &format!("a copy of {job}"));
    }
    for job in &jobs {
        assert!(replay(store, job).await, "{job} was not replayed");
        let leased = lease(store, job, LONG).await;
        assert_eq!(leased.lease.job(), job, "another job was replayed");
        settle(store, &leased.lease, &Outcome::Done).await;
    }
}

/// A type or a status that nobody knows yet is any text, and its event is kept like another.
///
/// # Panics
///
/// When the event is refused, changed, or shown with another type or status.
pub async fn inbox_types_and_statuses_may_be_any_text(store: &dyn InboxAdmin) {
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
        receipt(store.receive(&odd).await, Receipt::Stored, "an event with an odd type and status");
        receipt(store.receive(&odd).await, Receipt::Duplicate, "a copy of it");
        let row = row(store, &job).await;
        // What a database cannot keep as text may be replaced where people see it, and what is long cut: all of it is in
        // the body.
        assert!(row.job_type.is_some() && row.status.is_some(), "the type and status of an odd event");
        assert!(!exact || row.job_type.as_deref() == Some(text), "the type {text:?} is {:?}", row.job_type);
        assert!(!exact || row.status.as_deref() == Some(text), "the status {text:?} is {:?}", row.status);
        let leased = lease(store, &job, LONG).await;
        assert_eq!(&leased.body, odd.body(), "the body of an event with an odd type and status");
        settle(store, &leased.lease, &Outcome::Done).await;
        let last = completed(&job);
        receipt(store.receive(&last).await, Receipt::Stored, "a final status after an odd one");
        let leased = lease(store, &job, LONG).await;
        assert_eq!(&leased.body, last.body(), "the final event after an odd one");
        let said = event(&job, text, "failed", "the API's");
        applied(store.verify(&leased.lease, &said).await, "an answer of the API with an odd type");
        let (row, body) = get(store, &job).await;
        assert!(!exact || row.job_type.as_deref() == Some(text), "the type {text:?} is {:?}", row.job_type);
        assert_eq!(body.as_ref(), Some(said.body()), "the body of an answer with an odd type");
    }
}

/// A body of five MiB is kept to its last byte.
///
/// # Panics
///
/// When it is refused, cut or changed.
pub async fn inbox_a_large_body_is_kept(store: &dyn InboxAdmin) {
    /// Nothing that compresses to nothing, and more bytes than characters.
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        (0u32..1 << 19).map(|number| format!("{:08x}é", number.wrapping_mul(2_654_435_761))).collect()
    });
    let small = event(&job(), "extract", "completed", "NOTE");
    let text = String::from_utf8_lossy(small.body()).replace("NOTE", &TEXT);
    let large = read(text);
    assert!(large.body().len() > 5 << 20, "the body is large");
    store_event(store, &large).await;
    assert_eq!(get(store, large.job()).await.1.as_ref(), Some(large.body()), "a large body, looked at");
    let leased = lease(store, large.job(), LONG).await;
    assert!(leased.body == large.body(), "a large body was cut or changed: {} bytes", leased.body.len());
    let mut other = large.body().to_vec();
    let end = other.len() - 100;
    other[end] = if other[end] == b'0' { b'1' } else { b'0' };
    if let Ok(other) = crate::event::Envelope::try_from(bytes::Bytes::from(other)) {
        let what = "another large body, which differs in one byte";
        receipt(store.receive(&other).await, Receipt::Conflict, what);
    }
    settle(store, &leased.lease, &Outcome::Done).await;
}

/// A thousand events, received, leased and settled 64 at a time, are all handled once.
///
/// # Panics
///
/// When one is lost, or handled twice.
pub async fn inbox_many_rows_are_kept_apart(store: &dyn InboxAdmin) {
    clear(store).await;
    let jobs: Vec<_> = (0..1000).map(|_| job()).collect();
    for jobs in jobs.chunks(64) {
        let events: Vec<_> = jobs.iter().map(completed).collect();
        for received in at_once(events.iter().map(|event| store.receive(event))).await {
            receipt(received, Receipt::Stored, "one event among many");
        }
    }
    let leased = find_all(store, &jobs, LONG).await;
    assert_eq!(leased.len(), jobs.len(), "of a thousand rows that were due, so many were leased");
    for leased in leased.chunks(64) {
        let calls = leased.iter().map(|leased| store.settle(&leased.lease, &Outcome::Done));
        for settled in at_once(calls).await {
            applied(settled, "one outcome among many");
        }
    }
    let again = find_all(store, &jobs, LONG).await;
    assert!(again.is_empty(), "of a thousand rows that are done, {} were leased again", again.len());
    for jobs in jobs.chunks(64) {
        for row in at_once(jobs.iter().map(|job| store.get(job))).await {
            let done = matches!(&row, Ok(Some((row, Some(_)))) if row.state == InboxState::Done);
            assert!(done, "one of a thousand rows is not done: {row:?}");
        }
    }
    assert!(!contains(store, &job()).await, "among many rows, one of a job that nobody knows");
}

/// Two handles of one inbox, such as two connections or processes, see the same rows.
///
/// # Panics
///
/// When something that one handle did is not so for the other.
pub async fn inbox_two_handles_are_one_store(store: &dyn InboxAdmin, other: &dyn InboxAdmin) {
    super::lease::leased_once(&[store, other]).await;
    super::expect::overdue_once(&[store, other]).await;
    let job = received(store).await;
    receipt(other.receive(&completed(&job)).await, Receipt::Duplicate, "a copy through another handle");
    assert!(contains(other, &job).await, "a job that was received through another handle");
    let leased = lease(other, &job, LONG).await.lease;
    not_due(store, &job, "leased through another handle").await;
    applied(store.renew(&leased, LONG).await, "a renewal through another handle");
    settle(store, &leased, &error("never")).await;
    assert_eq!(row(other, &job).await.state, InboxState::Dead, "settled through another handle");
    assert!(replay(other, &job).await, "a replay through another handle");
    let again = lease(store, &job, LONG).await.lease;
    assert!(again.fence() > leased.fence(), "the fencing token of a lease through another handle");
    settle(other, &again, &Outcome::Done).await;
    assert_eq!(snapshot(store, &job).await, snapshot(other, &job).await, "one row, seen through two handles");
    let stats = (store.stats().await.map(|stats| stats.done), other.stats().await.map(|stats| stats.done));
    assert!(
        matches!(&stats, (Ok(one), Ok(two)) if one == two),
        "what is done, counted through two handles: {stats:?}"
    );
}
