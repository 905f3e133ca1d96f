//! Outcomes and renewals that share statements.

use std::time::Duration;

use qomplement_webhooks::inbox::{InboxAdmin, InboxState, Lease, Leased, Outcome};
use qomplement_webhooks::store::{Fenced, StoreError};
use qomplement_webhooks::{InboxStore, PostgresInbox};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{HOUR, LEASE, client, completed, event, inbox, job, receive_all};
use crate::support::databases::postgres;

/// Long enough for a call that waits for no other.
const SOON: Duration = Duration::from_secs(10);

async fn lease_many(inbox: &PostgresInbox, rows: usize) -> Vec<Leased> {
    receive_all(&[inbox], (0..rows).map(|number| completed(&format!("job-{number:03}")))).await;
    let mut leased = inbox.lease(rows, LEASE).await.unwrap();
    assert_eq!(leased.len(), rows);
    leased.sort_by_key(|leased| leased.lease.job().to_string());
    leased
}

fn settling(
    inbox: &PostgresInbox,
    lease: &Lease,
    outcome: &Outcome,
) -> JoinHandle<Result<Fenced, StoreError>> {
    let (inbox, lease, outcome) = (inbox.clone(), lease.clone(), outcome.clone());
    tokio::spawn(async move { inbox.settle(&lease, &outcome).await })
}

fn outcomes() -> [Outcome; 4] {
    let error = "why".to_owned();
    [
        Outcome::Done,
        Outcome::Dead { error: error.clone() },
        Outcome::Retry { after: HOUR, error },
        Outcome::Release { after: HOUR },
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_many_outcomes_that_are_recorded_together_is_the_rows_own() {
    let inbox = inbox("settled_together").await;
    let leased = lease_many(&inbox, 40).await;
    let stale = |lease: &Lease| Lease::new(lease.job().clone(), lease.fence() + 1);
    let tasks: Vec<_> = leased
        .iter()
        .enumerate()
        .map(|(number, leased)| {
            let outcome = &outcomes()[number % 4];
            let lease = if number % 5 == 0 { stale(&leased.lease) } else { leased.lease.clone() };
            // Twice, as after a lost reply.
            [settling(&inbox, &lease, outcome), settling(&inbox, &lease, outcome)]
        })
        .collect();
    for (number, tasks) in tasks.into_iter().enumerate() {
        let expected = if number % 5 == 0 { Fenced::Stale } else { Fenced::Applied };
        for task in tasks {
            assert_eq!(task.await.unwrap().unwrap(), expected, "{number}");
        }
        let (row, _) = inbox.get(leased[number].lease.job()).await.unwrap().unwrap();
        let (state, error, attempts, is_due_later) = match number % 4 {
            _ if number % 5 == 0 => (InboxState::Running, None, 1, true),
            0 => (InboxState::Done, None, 1, false),
            1 => (InboxState::Dead, Some("why"), 1, false),
            2 => (InboxState::Received, Some("why"), 1, true),
            _ => (InboxState::Received, None, 0, true),
        };
        let found = (row.state, row.error.as_deref(), row.attempts, row.due_in.is_some());
        assert_eq!(found, (state, error, attempts, is_due_later), "{number}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_locked_delays_only_its_own_outcome_and_renewal() {
    let inbox = inbox("settled_locked").await;
    let leased = lease_many(&inbox, 50).await;
    let locking = client(postgres()).await;
    let lock = "BEGIN; SELECT FROM settled_locked.inbox WHERE job_id IN ('job-007', 'job-008') FOR UPDATE";
    locking.batch_execute(lock).await.unwrap();
    let renewing: Vec<_> = leased
        .iter()
        .map(|leased| {
            let (inbox, lease) = (inbox.clone(), leased.lease.clone());
            tokio::spawn(async move { inbox.renew(&lease, HOUR).await })
        })
        .collect();
    for (number, renewed) in renewing.into_iter().enumerate() {
        let renewed = timeout(SOON, renewed).await.expect("it waits for a locked row").unwrap();
        if number == 7 || number == 8 {
            assert!(matches!(renewed, Err(StoreError::Unavailable(_))), "{renewed:?}");
        } else {
            assert_eq!(renewed.unwrap(), Fenced::Applied);
        }
    }
    let mut settled: Vec<_> =
        leased.iter().map(|leased| settling(&inbox, &leased.lease, &Outcome::Done)).collect();
    let locked = settled.remove(7);
    drop(settled.remove(7));
    for settled in settled {
        let settled = timeout(SOON, settled).await.expect("it waits for a locked row").unwrap();
        assert_eq!(settled.unwrap(), Fenced::Applied);
    }
    assert!(!locked.is_finished(), "the row was not locked");
    locking.batch_execute("COMMIT").await.unwrap();
    assert_eq!(locked.await.unwrap().unwrap(), Fenced::Applied);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_that_the_database_refuses_takes_no_other_with_it() {
    let inbox = inbox("settled_refused").await;
    let client = client(postgres()).await;
    client.batch_execute("ALTER TABLE settled_refused.inbox ADD CHECK (error <> 'cursed')").await.unwrap();
    let leased = lease_many(&inbox, 40).await;
    let tasks: Vec<_> = leased
        .iter()
        .enumerate()
        .map(|(number, leased)| {
            let error = if number % 10 == 3 { "cursed" } else { "why" };
            settling(&inbox, &leased.lease, &Outcome::Dead { error: error.to_owned() })
        })
        .collect();
    for (number, task) in tasks.into_iter().enumerate() {
        match task.await.unwrap() {
            Err(StoreError::Unavailable(_)) if number % 10 == 3 => {}
            Ok(Fenced::Applied) if number % 10 != 3 => {}
            other => panic!("{number}: {other:?}"),
        }
    }
    let stats = inbox.stats().await.unwrap();
    assert_eq!((stats.dead, stats.running), (36, 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_without_a_final_status_of_a_registered_job_is_expected_again() {
    let inbox = inbox("settled_expected").await;
    for number in 0..40 {
        inbox.receive(&event(&format!("job-{number}"), "processing", "")).await.unwrap();
        inbox.expect(&job(&format!("job-{number}")), HOUR).await.unwrap();
    }
    let leased = inbox.lease(40, LEASE).await.unwrap();
    let tasks: Vec<_> = leased.iter().map(|leased| settling(&inbox, &leased.lease, &Outcome::Done)).collect();
    for task in tasks {
        assert_eq!(task.await.unwrap().unwrap(), Fenced::Applied);
    }
    assert_eq!(inbox.stats().await.unwrap().expected, 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_whose_caller_leaves_is_recorded_or_not_and_the_lease_stays_valid() {
    let inbox = inbox("settled_left").await;
    let leased = lease_many(&inbox, 60).await;
    for (leased, number) in leased.iter().zip(0..) {
        let left = inbox.settle(&leased.lease, &Outcome::Done);
        let _ = timeout(Duration::from_micros(number * 50), left).await;
    }
    for leased in &leased {
        assert_eq!(inbox.settle(&leased.lease, &Outcome::Done).await.unwrap(), Fenced::Applied);
    }
    assert_eq!(inbox.stats().await.unwrap().done, 60);
}
