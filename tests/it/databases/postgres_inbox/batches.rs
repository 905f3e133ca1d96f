//! Outcomes and renewals that share statements.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use qomplement_webhooks::inbox::{InboxAdmin, InboxState, Lease, Leased, Outcome};
use qomplement_webhooks::store::{Fenced, StoreError};
use qomplement_webhooks::{InboxStore, PostgresInbox};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{HOUR, LEASE, client, completed, count, event, inbox, job, lease_one, receive_all};
use crate::support::databases::postgres;
use crate::support::eventually;

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
async fn of_two_outcomes_of_one_lease_that_come_together_one_counts() {
    let inbox = inbox("settled_both").await;
    let leased = lease_many(&inbox, 60).await;
    let tasks: Vec<_> = leased
        .iter()
        .map(|leased| {
            let release = Outcome::Release { after: HOUR };
            [settling(&inbox, &leased.lease, &Outcome::Done), settling(&inbox, &leased.lease, &release)]
        })
        .collect();
    let mut done = 0;
    for [first, second] in tasks {
        let (first, second) = (first.await.unwrap().unwrap(), second.await.unwrap().unwrap());
        assert_ne!(first, second);
        done += u64::from(first == Fenced::Applied);
    }
    let stats = inbox.stats().await.unwrap();
    assert_eq!((stats.done, stats.received), (done, 60 - done));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_refers_to_a_row_delays_neither_its_renewal_nor_its_outcome_nor_its_lease() {
    let inbox = inbox("settled_referred").await;
    let referring = client(postgres()).await;
    let create = "CREATE TABLE settled_referred.booking
        (job_id text COLLATE \"C\" REFERENCES settled_referred.inbox (job_id))";
    referring.batch_execute(create).await.unwrap();
    inbox.receive(&completed("job")).await.unwrap();
    let leased = lease_one(&inbox).await;
    let refer = "BEGIN; INSERT INTO settled_referred.booking VALUES ('job')";
    referring.batch_execute(refer).await.unwrap();
    let calls = async {
        assert_eq!(inbox.renew(&leased.lease, HOUR).await.unwrap(), Fenced::Applied);
        let release = Outcome::Release { after: Duration::ZERO };
        assert_eq!(inbox.settle(&leased.lease, &release).await.unwrap(), Fenced::Applied);
        let leased = lease_one(&inbox).await;
        assert_eq!(inbox.settle(&leased.lease, &Outcome::Done).await.unwrap(), Fenced::Applied);
    };
    timeout(SOON, calls).await.expect("they wait for the transaction");
    referring.batch_execute("COMMIT").await.unwrap();
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
async fn a_renewal_that_the_database_refuses_takes_no_other_with_it() {
    let inbox = inbox("renewed_refused").await;
    let client = client(postgres()).await;
    let leased = lease_many(&inbox, 40).await;
    let check = "ALTER TABLE renewed_refused.inbox
        ADD CHECK (job_id NOT LIKE '%3' OR due_at < now() + interval '30 minutes')";
    client.batch_execute(check).await.unwrap();
    let renewing: Vec<_> = leased
        .iter()
        .map(|leased| {
            let (inbox, lease) = (inbox.clone(), leased.lease.clone());
            tokio::spawn(async move { inbox.renew(&lease, HOUR).await })
        })
        .collect();
    for (number, renewed) in renewing.into_iter().enumerate() {
        match renewed.await.unwrap() {
            Err(StoreError::Unavailable(_)) if number % 10 == 3 => {}
            Ok(Fenced::Applied) if number % 10 != 3 => {}
            other => panic!("{number}: {other:?}"),
        }
    }
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

#[tokio::test(flavor = "multi_thread")]
async fn an_old_snapshot_does_not_make_leases_slow() {
    let inbox = inbox("old_snapshot").await;
    let (holding, watching) = (client(postgres()).await, client(postgres()).await);
    let snapshot = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM old_snapshot.inbox";
    holding.batch_execute(snapshot).await.unwrap();
    for round in 0..10 {
        let ids = (0..300).map(|number| completed(&format!("job-{round}-{number}")));
        receive_all(&[&inbox], ids).await;
        let leased = inbox.lease(300, LEASE).await.unwrap();
        let tasks: Vec<_> =
            leased.iter().map(|leased| settling(&inbox, &leased.lease, &Outcome::Done)).collect();
        for task in tasks {
            assert_eq!(task.await.unwrap().unwrap(), Fenced::Applied);
        }
    }
    watching.batch_execute("ANALYZE old_snapshot.inbox").await.unwrap();
    let index = "FROM pg_stat_user_indexes WHERE schemaname = 'old_snapshot' AND indexrelname = 'inbox_due'";
    let read = async || {
        let entries = count(&watching, &format!("SELECT idx_tup_read {index}")).await;
        (entries, count(&watching, &format!("SELECT idx_scan {index}")).await)
    };
    let leasing = tokio::spawn({
        let inbox = inbox.clone();
        async move {
            loop {
                assert!(inbox.lease(10, LEASE).await.unwrap().is_empty());
            }
        }
    });
    // The first leases learn where the queue begins, and one in five seconds reads all: 3000 entries, and more.
    eventually("leases read few entries of the index", async || {
        let before = read().await;
        loop {
            let after = read().await;
            let (entries, scans) = (after.0 - before.0, after.1 - before.1);
            if scans >= 200 {
                return entries < scans * 100;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    leasing.abort();
    holding.batch_execute("COMMIT").await.unwrap();
}

/// Commits an event late, after calls that go on meanwhile, and leases it at once; three times.
async fn an_event_is_leased_at_once_after(
    name: &str,
    open_for: Duration,
    call: impl AsyncFn(&PostgresInbox),
) {
    let inbox = inbox(name).await;
    let writing = client(postgres()).await;
    let mut in_time = 0;
    for round in 0.. {
        let insert = format!(
            "BEGIN; INSERT INTO {name}.inbox (job_id, state, job_type, status, body, due_at, received_at)
                VALUES ('late-{round}', 'received', 'extract', 'completed', 'x', now(), now())"
        );
        writing.batch_execute(&insert).await.unwrap();
        let began = Instant::now();
        while began.elapsed() < open_for {
            call(&inbox).await;
        }
        // A transaction of five seconds is not waited for.
        let is_in_time = began.elapsed() < Duration::from_secs(4);
        writing.batch_execute("COMMIT").await.unwrap();
        let leased = loop {
            match inbox.lease(1, LEASE).await.unwrap().pop() {
                Some(leased) => break leased,
                None => assert!(!is_in_time, "the event is passed over"),
            }
        };
        assert_eq!(leased.lease.job(), &job(&format!("late-{round}")));
        assert_eq!(inbox.settle(&leased.lease, &Outcome::Done).await.unwrap(), Fenced::Applied);
        in_time += usize::from(is_in_time);
        if in_time == 3 {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_whose_transaction_ends_late_is_leased_at_once() {
    let number = AtomicUsize::new(0);
    an_event_is_leased_at_once_after("late_commit", Duration::from_millis(200), async |inbox| {
        let number = number.fetch_add(1, Ordering::Relaxed);
        inbox.receive(&completed(&number.to_string())).await.unwrap();
        let lease = lease_one(inbox).await.lease;
        assert_eq!(inbox.settle(&lease, &Outcome::Done).await.unwrap(), Fenced::Applied);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_committed_late_in_an_idle_inbox_is_leased_at_once() {
    // The newest number in a snapshot is that of a transaction that has ended: these looks do not know of the insert.
    an_event_is_leased_at_once_after("idle_commit", Duration::from_millis(1500), async |inbox| {
        assert!(inbox.lease(10, LEASE).await.unwrap().is_empty());
        tokio::time::sleep(Duration::from_millis(20)).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_of_another_program_that_has_long_been_due_is_leased_soon() {
    let inbox = inbox("long_due").await;
    let writing = client(postgres()).await;
    let rows = |due: &str, number: u32| {
        format!(
            "INSERT INTO long_due.inbox (job_id, state, job_type, status, body, due_at, received_at)
                SELECT 'job-{number}', 'received', 'extract', 'completed', 'x', {due}, now()"
        )
    };
    for (due, number) in ["'-infinity'", "'1960-01-01'", "now() - interval '1 hour'"].into_iter().zip(0..) {
        // Until the head is known, other transactions notwithstanding.
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(6) {
            assert!(inbox.lease(10, LEASE).await.unwrap().is_empty());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        writing.batch_execute(&rows(due, number)).await.unwrap();
        let found = async {
            loop {
                if let Some(leased) = inbox.lease(10, LEASE).await.unwrap().pop() {
                    return leased;
                }
            }
        };
        let leased = timeout(SOON, found).await.expect("the row is passed over");
        assert_eq!(leased.lease.job(), &job(&format!("job-{number}")));
    }
}
