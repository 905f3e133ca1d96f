//! Every duration and limit at its extremes, in the stores that processes share.

use std::sync::Arc;
use std::time::Duration;

use qomplement_webhooks::event::Envelope;
use qomplement_webhooks::inbox::{InboxAdmin, Outcome, Receipt, Retention};
use qomplement_webhooks::sender::Payload;
use qomplement_webhooks::store::{Fenced, StoreError};
use qomplement_webhooks::{InboxStore, InboxWorker, PostgresDedupStore, RedisDedupStore, Verification};

use super::postgres_inbox::inbox;
use crate::settings::a_dedup_store_takes_any_duration;
use crate::support::Script;
use crate::support::databases::{postgres, redis};

const TIMES: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_nanos(1),
    Duration::from_secs(3600),
    Duration::from_secs(u64::MAX),
    Duration::MAX,
];
const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn a_dedup_store_in_redis_or_postgres_works_with_any_duration() {
    let store = RedisDedupStore::from_url(&redis().url(), "settings").unwrap();
    a_dedup_store_takes_any_duration("Redis", Arc::new(store)).await;
    let store = PostgresDedupStore::from_url(&postgres().url()).unwrap();
    let store = store.with_table("settings_dedup", "jobs").unwrap();
    store.migrate().await.unwrap();
    a_dedup_store_takes_any_duration("PostgreSQL", Arc::new(store)).await;
}

#[tokio::test]
async fn an_inbox_in_postgres_works_with_any_duration_and_limit() {
    for (number, time) in TIMES.into_iter().enumerate() {
        let inbox = inbox(&format!("settings_times_{number}")).await;
        inbox.expect(&"j".parse().unwrap(), time).await.unwrap();
        let overdue = inbox.overdue(usize::MAX, time).await.unwrap();
        assert!(overdue.is_empty() || time < HOUR, "{time:?}: {overdue:?}");
        let event = Envelope::try_from(Payload::extract_completed().to_bytes()).unwrap();
        inbox.receive(&event).await.unwrap();
        let leased = inbox.lease(usize::MAX, time).await.unwrap().remove(0);
        let _ = inbox.renew(&leased.lease, time).await.unwrap();
        let settled = inbox.settle(&leased.lease, &Outcome::Release { after: time }).await.unwrap();
        assert_eq!(settled, Fenced::Applied, "{time:?}");
        let due = inbox.get(event.job()).await.unwrap().unwrap().0.due_in.unwrap();
        assert!(if time > HOUR { due > HOUR * 24 } else { due <= HOUR }, "{time:?}: due in {due:?}");

        let script = Script::default();
        let worker = InboxWorker::new(inbox.clone(), script.handler(), Verification::Trust);
        // The shortest would end under a busy machine.
        let worker =
            worker.lease(time.max(HOUR)).retention(Retention::default().payload(time).row(time)).start();
        let event = Envelope::try_from(Payload::extract_completed().to_bytes()).unwrap();
        inbox.receive(&event).await.unwrap();
        script.until("it is handled", |script| script.runs_of(event.job()) == 1).await;
        assert_eq!(worker.shutdown(HOUR).await, 0, "{time:?}");
        inbox.prune(&Retention::default().payload(time).row(time)).await.unwrap();
        assert_eq!(inbox.contains(event.job()).await.unwrap(), time >= HOUR, "{time:?}");
    }
    for limit in [0, 1, u64::MAX] {
        let inbox = inbox(&format!("settings_limit_{limit}")).await;
        let inbox = inbox.max_unfinished_rows(limit).max_unfinished_bytes(limit);
        let event = Envelope::try_from(Payload::extract_completed().to_bytes()).unwrap();
        let received = inbox.receive(&event).await;
        match limit {
            0 | 1 => assert!(matches!(received, Err(StoreError::Full)), "{limit}: {received:?}"),
            _ => assert_eq!(received.unwrap(), Receipt::Stored),
        }
        assert_eq!(inbox.expect(&"j".parse().unwrap(), HOUR).await.is_ok(), limit > 0, "{limit}");
    }
}
