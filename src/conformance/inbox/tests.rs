//! The suite finds every planted flaw: an inbox for each, and the check that must fail.

mod flaw;
mod flawed;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::Builder;

use self::flaw::{FLAWS, InboxFlaw};
use self::flawed::FlawedInbox;
use super::{inbox_all, run};
use crate::execution::isolation::isolate;
use crate::inbox::{InboxStore, MemoryInbox};

/// The checks that an inbox with a flaw fails, of all or of those up to the one named `last`.
async fn failed_checks(flaw: InboxFlaw, last: Option<&str>) -> Vec<&'static str> {
    let inbox = FlawedInbox::new(flaw);
    run(&inbox, &inbox, last).await.checks()
}

#[tokio::test(start_paused = true)]
async fn the_memory_inbox_conforms_under_paused_time_also_with_the_rows_of_earlier_runs() {
    let inbox = MemoryInbox::new();
    for _ in 0..3 {
        inbox_all(&inbox, &inbox.clone(), &[]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_memory_inbox_conforms_among_threads() {
    let inbox = MemoryInbox::new();
    inbox_all(&inbox, &inbox.clone(), &[]).await;
}

#[tokio::test(start_paused = true)]
async fn an_inbox_behind_an_arc_conforms() {
    let inbox = Arc::new(MemoryInbox::new());
    inbox_all(&inbox, &inbox.clone(), &[]).await;
    assert!(InboxStore::admin(&inbox).is_some());
}

#[tokio::test(start_paused = true)]
async fn two_inboxes_are_not_two_handles_of_one() {
    let (inbox, other) = (MemoryInbox::new(), MemoryInbox::new());
    let suite = std::pin::pin!(inbox_all(&inbox, &other, &[]));
    let said = isolate(suite).await.unwrap_err().to_string();
    assert!(
        said.starts_with("panicked: the store breaks the contract of InboxStore. Failed checks (1)"),
        "{said}"
    );
    assert!(said.contains("\n  kept::two_handles_are_one_store: "), "{said}");
}

#[tokio::test(start_paused = true)]
async fn an_inbox_without_a_flaw_passes() {
    assert!(failed_checks(InboxFlaw::Nothing, None).await.is_empty());
}

/// Runs on as many threads as there are processors, each with a clock of its own: it is a lot of computation.
#[test]
fn every_flaw_fails_the_check_for_it() {
    let next = AtomicUsize::new(0);
    let work = || {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let mut unnoticed = Vec::new();
        while let Some((flaw, check)) = FLAWS.get(next.fetch_add(1, Ordering::Relaxed)) {
            // Later checks than the one for the flaw are not needed.
            let failed = runtime.block_on(failed_checks(*flaw, Some(check)));
            if !failed.contains(check) {
                unnoticed.push(format!("{flaw:?} passes {check}, and fails {failed:?}"));
            }
        }
        unnoticed
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let unnoticed: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert!(unnoticed.is_empty(), "{}", unnoticed.join("\n"));
}
