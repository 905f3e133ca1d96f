//! The inbox in a file does what the inbox in memory does.

use std::time::Duration;

use proptest::proptest;
use qomplement_webhooks::inbox::Outcome;
use qomplement_webhooks::store::Fenced;
use qomplement_webhooks::{InboxStore, SqliteInbox};

use super::{Folder, HOUR, check};
use crate::support::model;

proptest! {
    #![proptest_config(model::cases(150))]

    #[test]
    fn any_calls_have_the_same_results_as_in_memory(calls in model::calls()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let folder = Folder::new();
        runtime.block_on(model::compare(&calls, async || SqliteInbox::open(folder.file()).unwrap()))?;
        check(&folder.file());
    }
}

#[test]
fn each_kind_of_transition_has_the_same_result_as_in_memory() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for (number, calls) in model::traces().into_iter().enumerate() {
        let folder = Folder::new();
        let inbox = SqliteInbox::open(folder.file()).unwrap();
        let replayed = runtime.block_on(model::replay(&calls, &inbox));
        assert!(replayed.is_ok(), "trace {number}, {calls:?}: {replayed:?}");
    }
}

#[tokio::test]
async fn an_outcome_is_recorded_once_and_only_by_the_last_lease() {
    let folder = Folder::new();
    let inbox = SqliteInbox::open(folder.file()).unwrap();
    inbox.receive(&super::completed("job")).await.unwrap();
    let lost = inbox.lease(1, Duration::ZERO).await.unwrap().remove(0);
    let kept = inbox.lease(1, HOUR).await.unwrap().remove(0);
    assert!(kept.expired && !lost.expired);
    assert_eq!((lost.attempt, kept.attempt), (1, 2), "an attempt is counted when it begins");
    assert_eq!(inbox.settle(&lost.lease, &Outcome::Done).await.unwrap(), Fenced::Stale);
    assert_eq!(inbox.renew(&lost.lease, HOUR).await.unwrap(), Fenced::Stale);
    for _ in 0..2 {
        assert_eq!(inbox.settle(&kept.lease, &Outcome::Done).await.unwrap(), Fenced::Applied);
    }
    let other = Outcome::Dead { error: "no".into() };
    assert_eq!(inbox.settle(&kept.lease, &other).await.unwrap(), Fenced::Stale);
}
