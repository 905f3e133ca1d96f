//! The inbox in PostgreSQL.

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use qomplement_webhooks::{
    Asked, Envelope, Fenced, InboxAdmin, InboxFilter, InboxState, InboxStore, InboxWorker, JobId,
    JobRegistry, Lease, Leased, MemoryInbox, Outcome, PostgresInbox, PostgresStoreError, Receipt, Retention,
    StoreError, Unfinished, WebhookReceiver,
};
use tokio::time::timeout;
use tokio_postgres::{Client, NoTls};

use super::proxy::Proxy;
use super::server::{PASSWORD, Server, free_port, postgres};

const LEASE: Duration = Duration::from_secs(30);
const HOUR: Duration = Duration::from_secs(3600);

pub async fn inbox(schema: &str) -> PostgresInbox {
    let inbox = handle(schema);
    inbox.migrate().await.unwrap();
    inbox
}

pub fn handle(schema: &str) -> PostgresInbox {
    PostgresInbox::from_url(&postgres().url()).unwrap().with_table(schema, "inbox").unwrap()
}

pub async fn client(server: &Server) -> Client {
    let (client, connection) = tokio_postgres::connect(&server.url(), NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

pub fn job(text: &str) -> JobId {
    text.parse().unwrap()
}

/// An event, with a note that makes its bytes differ.
pub fn event(job: &str, status: &str, note: &str) -> Envelope {
    let body = format!(
        r#"{{"job_id": "{job}", "data": {{"id": "{job}", "type": "extract", "status": "{status}"}}, "note": "{note}"}}"#
    );
    Envelope::try_from(Bytes::from(body)).unwrap()
}

fn completed(job: &str) -> Envelope {
    event(job, "completed", "")
}

async fn lease_one(inbox: &PostgresInbox) -> Leased {
    let mut leased = inbox.lease(1, LEASE).await.unwrap();
    leased.pop().expect("nothing is due")
}

pub async fn count(client: &Client, statement: &str) -> i64 {
    client.query_one(statement, &[]).await.unwrap().get(0)
}

/// Numbers that look random and are the same each time.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }
}

/// What an operation returned, for comparison.
async fn operate(inbox: &impl InboxAdmin, leases: &mut Vec<Lease>, seed: u64) -> String {
    let random = &mut Random(seed);
    random.below(1);
    let jobs = ["a", "b", "c", "550e8400-e29b-41d4-a716-446655440000", "B", "~!%_'\\"];
    let id = random.pick(&jobs).replace('\\', "");
    match random.below(14) {
        0..=2 => {
            let status = random.pick(&["completed", "failed", "processing", "queued"]);
            let note = random.pick(&["", "", "other"]);
            format!("{id} {:?}", inbox.receive(&event(&id, status, note)).await.unwrap())
        }
        3..=5 => {
            // Rows that are leased together are due again in an order of their own.
            let (most, length) = random.pick(&[(1, Duration::ZERO), (1, HOUR), (2, HOUR), (100, HOUR)]);
            let leased = inbox.lease(most, length).await.unwrap();
            leases.extend(leased.iter().map(|leased| leased.lease.clone()));
            let timeless = leased.into_iter().map(|leased| {
                let asked = asked(&leased.asked);
                let leased = Leased { age: Duration::ZERO, asked: Asked::default(), ..leased };
                format!("{leased:?} {asked}")
            });
            format!("{:?}", timeless.collect::<Vec<_>>())
        }
        6..=8 if !leases.is_empty() => {
            let lease = &leases[leases.len() - 1 - random.below(leases.len().min(6))];
            let after = random.pick(&[Duration::ZERO, HOUR]);
            let error = format!("error {}", random.below(3));
            let outcome = random.pick(&[
                Outcome::Done,
                Outcome::Done,
                Outcome::Retry { after, error: error.clone() },
                Outcome::Dead { error: error.clone() },
                Outcome::GiveBack { after },
                Outcome::Disowned { error: error.clone() },
                Outcome::AskAgain { after, answer: Unfinished::Pending },
                Outcome::AskAgain { after, answer: Unfinished::NotFound },
                Outcome::AskAgain { after, answer: Unfinished::Failed { error } },
            ]);
            if random.below(4) == 0 {
                let said = event(&lease.job().to_string(), "failed", random.pick(&["", "other"]));
                let first = inbox.verify(lease, &said).await.unwrap();
                let second = inbox.verify(lease, &said).await.unwrap();
                return format!("{lease:?} {first:?} {second:?}");
            }
            let first = inbox.settle(lease, &outcome).await.unwrap();
            let second = inbox.settle(lease, &outcome).await.unwrap();
            format!("{lease:?} {outcome:?} {first:?} {second:?}")
        }
        6..=8 => String::new(),
        9 if !leases.is_empty() => {
            let lease = &leases[leases.len() - 1 - random.below(leases.len().min(6))];
            format!("{lease:?} {:?}", inbox.renew(lease, random.pick(&[Duration::ZERO, HOUR])).await.unwrap())
        }
        9 => String::new(),
        12..=13 => {
            inbox.expect(&job(&id), random.pick(&[Duration::ZERO, HOUR])).await.unwrap();
            let mut overdue = inbox.overdue(100, random.pick(&[Duration::ZERO, HOUR])).await.unwrap();
            overdue.sort_unstable_by(|one, other| one.lease.job().cmp(other.lease.job()));
            leases.extend(overdue.iter().map(|overdue| overdue.lease.clone()));
            let overdue: Vec<_> = overdue
                .iter()
                .map(|overdue| {
                    assert!(overdue.late < HOUR / 2, "{overdue:?}");
                    format!("{:?} {}", overdue.lease, asked(&overdue.asked))
                })
                .collect();
            format!("{id} {overdue:?} {:?}", inbox.contains(&job(&id)).await.unwrap())
        }
        10 => {
            let row = random.pick(&[Duration::ZERO, Duration::MAX, Duration::MAX, Duration::MAX]);
            let payload = random.pick(&[Duration::ZERO, HOUR]);
            format!("{:?}", inbox.prune(&Retention { payload, row }).await.unwrap())
        }
        _ => {
            inbox.expect(&job(&id), random.pick(&[Duration::ZERO, HOUR])).await.unwrap();
            format!("{id} {:?}", inbox.replay(&job(&id)).await.unwrap())
        }
    }
}

fn asked(asked: &Asked) -> String {
    let Asked { times, not_found, again_in } = asked;
    format!("{times} {not_found} {}", *again_in > HOUR / 2)
}

/// Everything that can be seen, but for the exact times and numbers.
async fn view(inbox: &impl InboxAdmin) -> String {
    let mut seen = String::new();
    for (place, row) in inbox.list(&InboxFilter::default(), None, 100).await.unwrap().into_iter().enumerate()
    {
        let due = row.due_in.map(|due| due > Duration::from_secs(60));
        let (same, body) = inbox.get(&row.job).await.unwrap().unwrap();
        assert_eq!((same.number, same.state, &same.error), (row.number, row.state, &row.error));
        seen += &format!(
            "{place} {} {} {:?} {:?} {} {} {} {} {:?} {due:?} {body:?} {}\n",
            row.job,
            row.state,
            row.job_type,
            row.status,
            row.verified,
            row.asked,
            row.attempts,
            row.earlier_attempts,
            row.error,
            row.age < Duration::from_secs(60)
        );
    }
    let mut stats = inbox.stats().await.unwrap();
    stats.oldest_due = stats.oldest_due.map(|_| Duration::ZERO);
    format!("{seen}{stats:?}")
}

async fn compare_with_the_model(schema: &str, inbox: &PostgresInbox, sequences: u64, operations: u64) {
    let client = client(postgres()).await;
    for sequence in 0..sequences {
        client.batch_execute(&format!("TRUNCATE {schema}.inbox")).await.unwrap();
        let model = MemoryInbox::new();
        let (mut leases, mut model_leases) = (Vec::new(), Vec::new());
        for operation in 0..operations {
            let seed = (sequence * operations + operation) * 7919 + 1;
            let got = operate(inbox, &mut leases, seed).await;
            let expected = operate(&model, &mut model_leases, seed).await;
            assert_eq!(got, expected, "operation {operation} of sequence {sequence}");
            assert_eq!(
                view(inbox).await,
                view(&model).await,
                "after operation {operation} of sequence {sequence}: {got}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn random_operations_do_what_they_do_in_the_model() {
    compare_with_the_model("model", &inbox("model").await, 30, 60).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_works_behind_a_pooler_that_gives_each_transaction_another_connection() {
    let bouncer = Server::pgbouncer(postgres());
    let direct = inbox("bounced").await;
    let inbox = PostgresInbox::from_url(&bouncer.url()).unwrap().with_table("bounced", "inbox").unwrap();
    inbox.migrate().await.unwrap();
    inbox.check().await.unwrap();
    // It listens in vain.
    let waiting = tokio::spawn({
        let inbox = inbox.clone();
        async move {
            loop {
                inbox.wait().await;
            }
        }
    });
    compare_with_the_model("bounced", &inbox, 5, 60).await;
    let receipts =
        receive_all(&[&inbox, &direct], (0..500).map(|number| completed(&format!("job-{number}")))).await;
    assert_eq!(receipts.iter().filter(|(_, receipt)| *receipt == Receipt::Stored).count(), 500);
    waiting.abort();
}

/// Hands each event to each inbox, all at once, and returns what became of them.
async fn receive_all(
    inboxes: &[&PostgresInbox],
    events: impl IntoIterator<Item = Envelope>,
) -> Vec<(JobId, Receipt)> {
    let mut tasks = Vec::new();
    for event in events {
        for inbox in inboxes {
            let (inbox, event) = ((*inbox).clone(), event.clone());
            tasks.push(tokio::spawn(
                async move { (event.job().clone(), inbox.receive(&event).await.unwrap()) },
            ));
        }
    }
    let mut receipts = Vec::new();
    for task in tasks {
        receipts.push(task.await.unwrap());
    }
    receipts
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_many_copies_is_stored() {
    let (inbox, other) = (inbox("copies").await, handle("copies"));
    for round in 0..10 {
        let copies = std::iter::repeat_n(completed(&format!("job-{round}")), 32);
        let receipts = receive_all(&[&inbox, &other], copies).await;
        let stored = receipts.iter().filter(|(_, receipt)| *receipt == Receipt::Stored).count();
        let duplicates = receipts.iter().filter(|(_, receipt)| *receipt == Receipt::Duplicate).count();
        assert_eq!((stored, duplicates), (1, 63), "{receipts:?}");
    }
    assert_eq!(inbox.stats().await.unwrap().received, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_one_job_that_come_together_are_told_apart() {
    let inbox = inbox("together").await;
    for round in 0..10 {
        let id = format!("job-{round}");
        let events = (0..40).map(|number| match number % 4 {
            0 => event(&id, "processing", "first"),
            1 => event(&id, "processing", "second"),
            2 => event(&id, "completed", "one"),
            _ => event(&id, "completed", "two"),
        });
        let receipts = receive_all(&[&inbox], events).await;
        let count = |wanted| receipts.iter().filter(|(_, receipt)| *receipt == wanted).count();
        // A report that is final is stored once; before it, one that is not may have been.
        assert!((1..=2).contains(&count(Receipt::Stored)), "{receipts:?}");
        assert_eq!(count(Receipt::Conflict), 10, "the other ten differ: {receipts:?}");
        let (row, _) = inbox.get(&job(&id)).await.unwrap().unwrap();
        assert_eq!(row.status.as_deref(), Some("completed"));
    }
    assert_eq!(inbox.lease(100, LEASE).await.unwrap().len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_who_lease_at_once_share_the_rows() {
    let inbox = inbox("shared").await;
    receive_all(&[&inbox], (0..2000).map(|number| completed(&format!("job-{number}")))).await;
    let tasks: Vec<_> = (0..8)
        .map(|number: usize| {
            let inbox = if number.is_multiple_of(2) { inbox.clone() } else { handle("shared") };
            tokio::spawn(async move {
                let mut all = Vec::new();
                loop {
                    let leased = inbox.lease(1 + number * 3, LEASE).await.unwrap();
                    if leased.is_empty() {
                        return all;
                    }
                    all.extend(leased);
                }
            })
        })
        .collect();
    let mut jobs = HashSet::new();
    for task in tasks {
        for leased in task.await.unwrap() {
            assert_eq!((leased.attempt, leased.lease.sequence(), leased.ran_out), (1, 1, false));
            assert!(jobs.insert(leased.lease.job().clone()), "{} was leased twice", leased.lease.job());
        }
    }
    assert_eq!(jobs.len(), 2000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_ran_out_is_taken_by_one_of_many() {
    let inbox = inbox("ran_out").await;
    receive_all(&[&inbox], (0..50).map(|number| completed(&format!("job-{number}")))).await;
    for round in 1..=5 {
        let (mut tasks, mut sequences) = (Vec::new(), HashMap::new());
        for _ in 0..8 {
            let inbox = inbox.clone();
            tasks.push(tokio::spawn(async move { inbox.lease(50, HOUR).await.unwrap() }));
        }
        for task in tasks {
            for leased in task.await.unwrap() {
                assert_eq!((leased.attempt, leased.ran_out), (round, round > 1));
                assert!(sequences.insert(leased.lease.job().clone(), leased.lease.sequence()).is_none());
            }
        }
        assert_eq!(sequences.len(), 50);
        let client = client(postgres()).await;
        client.batch_execute("UPDATE ran_out.inbox SET due_at = now()").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_that_overlap_do_not_deadlock() {
    let server = Server::postgres(&["deadlock_timeout=50ms"], &[]);
    let inbox = || PostgresInbox::from_url(&server.url()).unwrap();
    let (one, other) = (inbox(), inbox());
    one.migrate().await.unwrap();
    for round in 0..15 {
        let mut ids: Vec<_> = (0..400).map(|number| format!("{round}-{}", number * 7919 % 400)).collect();
        let forwards = {
            let (one, ids) = (one.clone(), ids.clone());
            tokio::spawn(async move { receive_all(&[&one], ids.iter().map(|id| completed(id))).await })
        };
        ids.reverse();
        let backwards = receive_all(&[&other], ids.iter().map(|id| completed(id))).await;
        let receipts = [forwards.await.unwrap(), backwards].concat();
        let stored = receipts.iter().filter(|(_, receipt)| *receipt == Receipt::Stored).count();
        assert_eq!((stored, receipts.len()), (400, 800));
    }
    let client = client(&server).await;
    // A server process tells its numbers when it has been idle for a while.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = 'postgres'";
    assert_eq!(count(&client, deadlocks).await, 0);
}

#[tokio::test]
async fn calls_whose_replies_were_lost_are_repeated() {
    let direct = inbox("lost").await;
    let proxy = Proxy::before(postgres().port()).await;
    let url = format!("postgres://postgres:{PASSWORD}@127.0.0.1:{}/postgres", proxy.port);
    // Nothing is counted in between.
    let inbox = PostgresInbox::from_url(&url).unwrap().with_table("lost", "inbox").unwrap();
    let inbox = inbox.max_unfinished_rows(u64::MAX).max_unfinished_bytes(u64::MAX);
    inbox.receive(&completed("warm")).await.unwrap();
    let lease = lease_one(&inbox).await.lease;
    assert_eq!(inbox.settle(&lease, &Outcome::Done).await.unwrap(), Fenced::Applied);
    let outcomes = [
        Outcome::Done,
        Outcome::Dead { error: "why".to_owned() },
        Outcome::Retry { after: HOUR, error: "why".to_owned() },
        Outcome::GiveBack { after: HOUR },
    ];
    for (number, outcome) in outcomes.iter().enumerate() {
        let id = format!("job-{number}");
        proxy.lose_the_next_reply();
        let receipt = inbox.receive(&completed(&id)).await.unwrap();
        assert_eq!(receipt, Receipt::Duplicate, "the first time stored it");

        proxy.lose_the_next_reply();
        assert!(inbox.lease(1, Duration::from_secs(1)).await.unwrap().is_empty(), "leased, and not known");
        tokio::time::sleep(Duration::from_millis(1050)).await;
        let leased = lease_one(&inbox).await;
        assert_eq!((leased.attempt, leased.ran_out), (2, true), "what was leased comes back");

        proxy.lose_the_next_reply();
        assert_eq!(inbox.renew(&leased.lease, LEASE).await.unwrap(), Fenced::Applied);
        proxy.lose_the_next_reply();
        assert_eq!(inbox.settle(&leased.lease, outcome).await.unwrap(), Fenced::Applied);
        assert_eq!(proxy.lost(), (number + 1) * 4);
        let (row, _) = direct.get(&job(&id)).await.unwrap().unwrap();
        let attempts = if matches!(outcome, Outcome::GiveBack { .. }) { 1 } else { 2 };
        assert_eq!(row.attempts, attempts, "an attempt is given back once: {row:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_repeated_while_the_first_is_being_written_applies() {
    let inbox = inbox("twice").await;
    inbox.expect(&job("job"), Duration::ZERO).await.unwrap();
    let lease = inbox.overdue(1, HOUR).await.unwrap().remove(0).lease;
    let (mut locking, watching) = (client(postgres()).await, client(postgres()).await);
    let lock = locking.transaction().await.unwrap();
    lock.batch_execute("SELECT FROM twice.inbox FOR UPDATE").await.unwrap();
    let answers: Vec<_> = (0..2)
        .map(|_| {
            let (inbox, lease) = (inbox.clone(), lease.clone());
            tokio::spawn(async move { inbox.verify(&lease, &completed("job")).await.unwrap() })
        })
        .collect();
    let waiting = "SELECT count(*) FROM pg_stat_activity
        WHERE wait_event_type = 'Lock' AND query LIKE '%UPDATE \"twice\"%'";
    timeout(Duration::from_secs(10), async {
        while count(&watching, waiting).await < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("the answers do not wait for the lock");
    lock.commit().await.unwrap();
    for answer in answers {
        assert_eq!(answer.await.unwrap(), Fenced::Applied);
    }
    let (row, _) = inbox.get(&job("job")).await.unwrap().unwrap();
    assert_eq!((row.state, row.verified), (InboxState::Received, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_outlives_a_server_that_is_killed() {
    // Settings that would lose it, if nothing else were said.
    let mut server = Server::postgres(&["synchronous_commit=off", "wal_writer_delay=10s"], &[]);
    let inbox = PostgresInbox::from_url(&server.url()).unwrap();
    inbox.migrate().await.unwrap();
    for round in 0..3 {
        let stop = Arc::new(AtomicBool::new(false));
        let tasks: Vec<_> = (0..16)
            .map(|task| {
                let (inbox, stop) = (inbox.clone(), stop.clone());
                tokio::spawn(async move {
                    let (mut stored, mut refused) = (Vec::new(), 0);
                    for number in 0.. {
                        let id = format!("{round}-{task}-{number}");
                        match inbox.receive(&completed(&id)).await {
                            Ok(receipt) => stored.push((id, receipt)),
                            Err(_) => refused += 1,
                        }
                        if stop.load(Ordering::SeqCst) {
                            break;
                        }
                    }
                    (stored, refused)
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(300)).await;
        server.kill();
        tokio::time::sleep(Duration::from_millis(200)).await;
        server.restart();
        tokio::time::sleep(Duration::from_millis(300)).await;
        stop.store(true, Ordering::SeqCst);
        let (mut stored, mut refused) = (Vec::new(), 0);
        for task in tasks {
            let (more, errors) = task.await.unwrap();
            stored.extend(more);
            refused += errors;
        }
        assert!(refused > 0, "the server was never away");
        let lost = missing(&inbox, stored).await;
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    }
}

/// Those of some jobs that the inbox does not have.
async fn missing(inbox: &PostgresInbox, stored: Vec<(String, Receipt)>) -> Vec<(String, Receipt)> {
    assert!(stored.len() > 50, "only {} were stored", stored.len());
    let mut known = HashSet::new();
    let mut after = None;
    loop {
        let rows = inbox.list(&InboxFilter::default(), after, 1000).await.unwrap();
        let Some(last) = rows.last() else { break };
        after = Some(last.number);
        known.extend(rows.iter().map(|row| row.job.to_string()));
    }
    stored.into_iter().filter(|(id, _)| !known.contains(id)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn many_processes_migrate_at_once() {
    for round in 0..5 {
        let schema = format!("migrated_inbox_{round}");
        let tasks: Vec<_> = (0..16)
            .map(|_| {
                let inbox = handle(&schema);
                tokio::spawn(async move { inbox.migrate().await.map(|()| inbox) })
            })
            .collect();
        for task in tasks {
            task.await.unwrap().unwrap().check().await.unwrap();
        }
    }
}

#[tokio::test]
async fn names_are_quoted_and_the_default_table_needs_none() {
    let odd = r#"It's an "odd"; DROP TABLE x --"#;
    let inbox = PostgresInbox::from_url(&postgres().url()).unwrap().with_table(odd, odd).unwrap();
    assert!(inbox.check().await.is_err(), "there is no table yet");
    inbox.migrate().await.unwrap();
    inbox.check().await.unwrap();
    assert_eq!(inbox.receive(&completed("odd")).await.unwrap(), Receipt::Stored);
    lease_one(&inbox).await;
    let client = client(postgres()).await;
    client.batch_execute(&inbox.migration()).await.unwrap();

    let default = PostgresInbox::from_url(&postgres().url()).unwrap();
    assert!(default.migration().starts_with(r#"CREATE TABLE IF NOT EXISTS "qomplement_inbox" ("#));
    default.migrate().await.unwrap();
    default.receive(&completed("default")).await.unwrap();
    let found = "SELECT count(*) FROM public.qomplement_inbox WHERE job_id = 'default'";
    assert_eq!(count(&client, found).await, 1);

    for (schema, table) in
        [("", "t"), ("s", ""), ("s", "t\0"), (&*"s".repeat(64), "t"), ("s", &"t".repeat(51))]
    {
        let refused = PostgresInbox::from_url(&postgres().url()).unwrap().with_table(schema, table);
        assert!(matches!(refused, Err(PostgresStoreError::Name)), "{schema} {table}");
    }
    let longest = PostgresInbox::from_url(&postgres().url()).unwrap();
    let longest = longest.with_table(&"i".repeat(63), &"t".repeat(50)).unwrap();
    longest.migrate().await.unwrap();
    longest.check().await.unwrap();
    longest.receive(&completed("longest")).await.unwrap();
    longest.replay(&job("longest")).await.unwrap();
}

#[tokio::test]
async fn a_role_that_may_not_create_tables_uses_those_that_exist() {
    inbox("granted_inbox").await;
    let owner = client(postgres()).await;
    let grants = "CREATE ROLE porter LOGIN PASSWORD 'porter'; GRANT USAGE ON SCHEMA granted_inbox TO porter;
        GRANT SELECT, INSERT, UPDATE, DELETE ON granted_inbox.inbox TO porter";
    owner.batch_execute(grants).await.unwrap();
    let url = format!("postgres://porter:porter@127.0.0.1:{}/postgres", postgres().port());
    let inbox = |schema| PostgresInbox::from_url(&url).unwrap().with_table(schema, "inbox").unwrap();
    let granted = inbox("granted_inbox");
    granted.migrate().await.unwrap();
    granted.receive(&completed("job")).await.unwrap();
    let lease = lease_one(&granted).await.lease;
    assert_eq!(granted.settle(&lease, &Outcome::Done).await.unwrap(), Fenced::Applied);
    assert!(granted.replay(&job("job")).await.unwrap());
    granted.expect(&job("expected"), HOUR).await.unwrap();
    granted.prune(&Retention::default()).await.unwrap();
    granted.stats().await.unwrap();
    assert!(inbox("elsewhere_inbox").migrate().await.is_err());
}

#[tokio::test]
async fn a_table_of_something_else_is_found_out_at_the_start() {
    let client = client(postgres()).await;
    let create = "CREATE SCHEMA other_inbox; CREATE TABLE other_inbox.inbox (number int, job_id text)";
    client.batch_execute(create).await.unwrap();
    let other = handle("other_inbox");
    other.migrate().await.unwrap();
    assert!(other.check().await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_inbox_refuses_what_is_new_until_there_is_room() {
    let inbox = inbox("full").await;
    let limited = inbox.clone().max_unfinished_rows(10);
    let receipts = receive_all(&[&limited], (0..10).map(|number| completed(&format!("job-{number}")))).await;
    assert!(receipts.iter().all(|(_, receipt)| *receipt == Receipt::Stored));
    let full = limited.receive(&completed("new")).await;
    assert!(matches!(full, Err(StoreError::Full)), "{full:?}");
    assert_eq!(limited.receive(&completed("job-3")).await.unwrap(), Receipt::Duplicate, "it is stored");
    assert!(!inbox.contains(&job("new")).await.unwrap());

    let another = inbox.clone().max_unfinished_rows(10);
    assert!(matches!(another.receive(&completed("new")).await, Err(StoreError::Full)), "it must count first");
    for leased in inbox.lease(5, LEASE).await.unwrap() {
        assert_eq!(inbox.settle(&leased.lease, &Outcome::Done).await.unwrap(), Fenced::Applied);
    }
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(limited.receive(&completed("new")).await.unwrap(), Receipt::Stored);
    assert_eq!(another.receive(&completed("newer")).await.unwrap(), Receipt::Stored);

    let length = completed("job-0").body().len() as u64;
    let by_bytes = self::inbox("full_of_bytes").await.max_unfinished_bytes(length * 2 + 1);
    let mut receipts = Vec::new();
    for number in 0..3 {
        receipts.push(by_bytes.receive(&completed(&format!("job-{number}"))).await);
    }
    let expected = matches!(receipts[..], [Ok(Receipt::Stored), Ok(Receipt::Stored), Err(StoreError::Full)]);
    assert!(expected, "{receipts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_inbox_expects_no_more_and_receives_what_it_expects() {
    let inbox = inbox("full_of_expected").await;
    let limited = inbox.clone().max_unfinished_rows(3);
    for id in ["a", "b", "c"] {
        limited.expect(&job(id), HOUR).await.unwrap();
    }
    let another = inbox.clone().max_unfinished_rows(3);
    for full in [&limited, &another] {
        let refused = full.expect(&job("d"), HOUR).await;
        assert!(matches!(refused, Err(StoreError::Full)), "{refused:?}");
        full.expect(&job("a"), HOUR).await.unwrap();
    }
    assert!(!inbox.contains(&job("d")).await.unwrap());
    for id in ["a", "b", "not-expected"] {
        assert_eq!(limited.receive(&completed(id)).await.unwrap(), Receipt::Stored);
    }
    assert!(matches!(limited.receive(&completed("c")).await, Err(StoreError::Full)), "so many events wait");
    for leased in inbox.lease(3, LEASE).await.unwrap() {
        assert_eq!(inbox.settle(&leased.lease, &Outcome::Done).await.unwrap(), Fenced::Applied);
    }
    tokio::time::sleep(Duration::from_millis(1100)).await;
    limited.expect(&job("d"), HOUR).await.unwrap();
    another.expect(&job("e"), HOUR).await.unwrap();
    let unlimited = inbox.clone().max_unfinished_rows(u64::MAX).max_unfinished_bytes(u64::MAX);
    unlimited.expect(&job("f"), HOUR).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn duplicates_take_no_room() {
    let inbox = inbox("no_room_taken").await.max_unfinished_rows(5);
    receive_all(&[&inbox], (0..4).map(|number| completed(&format!("job-{number}")))).await;
    for _ in 0..10 {
        assert_eq!(inbox.receive(&completed("job-0")).await.unwrap(), Receipt::Duplicate);
    }
    assert_eq!(inbox.receive(&completed("last")).await.unwrap(), Receipt::Stored);
    assert!(matches!(inbox.receive(&completed("one-more")).await, Err(StoreError::Full)));
}

#[tokio::test]
async fn the_first_of_two_events_with_different_bytes_is_kept() {
    let inbox = inbox("conflict").await;
    assert_eq!(inbox.receive(&event("job", "completed", "first")).await.unwrap(), Receipt::Stored);
    assert_eq!(inbox.receive(&event("job", "failed", "second")).await.unwrap(), Receipt::Conflict);
    assert_eq!(inbox.receive(&event("job", "processing", "third")).await.unwrap(), Receipt::Duplicate);
    let leased = lease_one(&inbox).await;
    assert_eq!(&leased.body, event("job", "completed", "first").body());
    let _ = inbox.settle(&leased.lease, &Outcome::Done).await.unwrap();
    inbox.prune(&Retention { payload: Duration::ZERO, row: HOUR }).await.unwrap();
    // What it differs from is no longer known.
    assert_eq!(inbox.receive(&event("job", "failed", "second")).await.unwrap(), Receipt::Duplicate);
}

#[tokio::test]
async fn an_event_that_is_not_final_is_replaced_in_every_state() {
    let inbox = inbox("replaced").await;
    let dead = || Outcome::Dead { error: "why".to_owned() };
    for (number, state) in
        [InboxState::Expected, InboxState::Received, InboxState::Running, InboxState::Done, InboxState::Dead]
            .into_iter()
            .enumerate()
    {
        let id = format!("job-{number}");
        let mut lease = None;
        if state == InboxState::Expected {
            inbox.expect(&job(&id), HOUR).await.unwrap();
        } else {
            assert_eq!(inbox.receive(&event(&id, "processing", "")).await.unwrap(), Receipt::Stored);
        }
        if matches!(state, InboxState::Running | InboxState::Done | InboxState::Dead) {
            lease = Some(lease_one(&inbox).await.lease);
        }
        match (&lease, state) {
            (Some(lease), InboxState::Done) => drop(inbox.settle(lease, &Outcome::Done).await.unwrap()),
            (Some(lease), InboxState::Dead) => drop(inbox.settle(lease, &dead()).await.unwrap()),
            _ => {}
        }
        assert_eq!(inbox.get(&job(&id)).await.unwrap().unwrap().0.state, state);
        assert_eq!(inbox.receive(&event(&id, "completed", "")).await.unwrap(), Receipt::Stored);
        if let Some(lease) = &lease {
            for outcome in [Outcome::Done, dead()] {
                assert_eq!(inbox.settle(lease, &outcome).await.unwrap(), Fenced::Stale, "{state}");
            }
        }
        let leased = inbox.lease(10, Duration::from_millis(100)).await.unwrap();
        if state == InboxState::Running {
            assert!(leased.is_empty(), "both would run at once");
            let client = client(postgres()).await;
            client
                .batch_execute("UPDATE replaced.inbox SET due_at = now() WHERE due_at > now()")
                .await
                .unwrap();
            let leased = lease_one(&inbox).await;
            assert_eq!((leased.attempt, leased.ran_out), (1, true));
            assert_eq!(inbox.settle(&leased.lease, &Outcome::Done).await.unwrap(), Fenced::Applied);
        } else {
            assert_eq!(leased.len(), 1, "{state}");
            assert_eq!(leased[0].attempt, 1);
            assert_eq!(leased[0].body, event(&id, "completed", "").body());
            assert_eq!(inbox.settle(&leased[0].lease, &Outcome::Done).await.unwrap(), Fenced::Applied);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_arrival_in_another_process_wakes_who_waits() {
    let (here, there) = (inbox("woken").await, handle("woken"));
    let quiet = || async { while timeout(Duration::from_millis(300), here.wait()).await.is_ok() {} };
    quiet().await;
    for number in 0..5 {
        there.receive(&completed(&format!("job-{number}"))).await.unwrap();
        let began = Instant::now();
        timeout(Duration::from_secs(5), here.wait()).await.expect("nobody was told");
        assert!(began.elapsed() < Duration::from_millis(500), "told after {:?}", began.elapsed());
        quiet().await;
    }
    let lease = lease_one(&there).await.lease;
    let _ = there.settle(&lease, &Outcome::Done).await.unwrap();
    there.replay(lease.job()).await.unwrap();
    timeout(Duration::from_millis(300), here.wait()).await.expect("nobody was told of the replay");
    quiet().await;
    // Another table's arrivals, and duplicates, are nothing to wake for.
    inbox("woken_other").await.receive(&completed("job")).await.unwrap();
    there.receive(&completed("job-0")).await.unwrap();
    assert!(timeout(Duration::from_millis(300), here.wait()).await.is_err());
    // It hears of its own once, and not a second time from the server.
    here.receive(&completed("own")).await.unwrap();
    timeout(Duration::from_millis(300), here.wait()).await.unwrap();
    assert!(timeout(Duration::from_millis(300), here.wait()).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_of_the_users_works_without_listening() {
    inbox("pooled").await;
    let mut config = deadpool_postgres::Config::new();
    config.url = Some(postgres().url());
    let pool = config.create_pool(Some(deadpool_postgres::Runtime::Tokio1), NoTls).unwrap();
    let inbox = PostgresInbox::from_pool(pool).with_table("pooled", "inbox").unwrap();
    let waiting = tokio::spawn({
        let inbox = inbox.clone();
        async move { inbox.wait().await }
    });
    inbox.receive(&completed("job")).await.unwrap();
    timeout(Duration::from_secs(1), waiting).await.expect("its own arrivals wake it").unwrap();
    lease_one(&inbox).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_that_listens_is_made_again() {
    let (here, there) = (inbox("listening").await, handle("listening"));
    let listening =
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'";
    while timeout(Duration::from_millis(300), here.wait()).await.is_ok() {}
    let client = client(postgres()).await;
    assert!(count(&client, listening).await > 0);
    tokio::time::sleep(Duration::from_millis(100)).await;
    // It says when it is back.
    timeout(Duration::from_secs(8), here.wait()).await.expect("it does not listen again");
    while timeout(Duration::from_millis(300), here.wait()).await.is_ok() {}
    there.receive(&completed("job")).await.unwrap();
    timeout(Duration::from_millis(500), here.wait()).await.expect("nobody was told");
}

#[tokio::test]
async fn durations_have_no_bounds_that_postgres_would_refuse() {
    let inbox = inbox("inbox_durations").await;
    for (id, time) in [("short", Duration::ZERO), ("long", Duration::MAX)] {
        inbox.expect(&job(&format!("expected-{id}")), time).await.unwrap();
        inbox.overdue(1, time).await.unwrap();
        inbox.receive(&completed(id)).await.unwrap();
        let leased = inbox.lease(usize::MAX, time).await.unwrap();
        let lease = &leased.iter().find(|leased| *leased.lease.job() == id).unwrap().lease;
        assert_eq!(inbox.renew(lease, time).await.unwrap(), Fenced::Applied);
        let again = Outcome::Retry { after: time, error: String::new() };
        assert_eq!(inbox.settle(lease, &again).await.unwrap(), Fenced::Applied);
        inbox.prune(&Retention { payload: time, row: time }).await.unwrap();
    }
    inbox.list(&InboxFilter::default(), Some(u64::MAX), usize::MAX).await.unwrap();
    let far = Lease::new(job("long"), u64::MAX);
    assert_eq!(inbox.settle(&far, &Outcome::Done).await.unwrap(), Fenced::Stale);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strict_isolation_level_of_the_database_is_no_obstacle() {
    let server = Server::postgres(&["default_transaction_isolation=serializable"], &[]);
    let inbox = || PostgresInbox::from_url(&server.url()).unwrap();
    let (one, other) = (inbox(), inbox());
    one.migrate().await.unwrap();
    let events = || (0..300).map(|number| completed(&format!("job-{number}")));
    let receipts = receive_all(&[&one, &other], events()).await;
    assert_eq!(receipts.iter().filter(|(_, receipt)| *receipt == Receipt::Stored).count(), 300);
    let tasks: Vec<_> = (0..8)
        .map(|number| {
            let inbox = if number % 2 == 0 { one.clone() } else { other.clone() };
            tokio::spawn(async move {
                let mut handled = 0;
                loop {
                    let leased = inbox.lease(5, LEASE).await.unwrap();
                    if leased.is_empty() {
                        return handled;
                    }
                    for leased in leased {
                        assert_eq!(
                            inbox.settle(&leased.lease, &Outcome::Done).await.unwrap(),
                            Fenced::Applied
                        );
                        handled += 1;
                    }
                }
            })
        })
        .collect();
    let mut handled = 0;
    for task in tasks {
        handled += task.await.unwrap();
    }
    assert_eq!(handled, 300);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_event_that_the_database_refuses_does_not_take_others_with_it() {
    let inbox = inbox("refused").await;
    let client = client(postgres()).await;
    let check = "ALTER TABLE refused.inbox ADD CHECK (status <> 'cursed')";
    client.batch_execute(check).await.unwrap();
    let tasks: Vec<_> = (0..40)
        .map(|number| {
            let inbox = inbox.clone();
            let status = if number % 10 == 3 { "cursed" } else { "completed" };
            let event = event(&format!("job-{number}"), status, "");
            tokio::spawn(async move { (status, inbox.receive(&event).await) })
        })
        .collect();
    for task in tasks {
        match task.await.unwrap() {
            ("cursed", Err(StoreError::Unavailable(_))) | ("completed", Ok(Receipt::Stored)) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(inbox.stats().await.unwrap().received, 36);
}

#[tokio::test]
async fn a_nul_in_a_text_is_no_obstacle() {
    let inbox = inbox("nul").await;
    let body = r#"{"job_id": "job", "data": {"id": "job", "type": "a\u0000b", "status": "c\u0000d"}}"#;
    let event = Envelope::try_from(Bytes::from_static(body.as_bytes())).unwrap();
    assert_eq!(inbox.receive(&event).await.unwrap(), Receipt::Stored);
    let leased = lease_one(&inbox).await;
    assert_eq!(leased.body, body);
    let dead = Outcome::Dead { error: "e\0f".to_owned() };
    assert_eq!(inbox.settle(&leased.lease, &dead).await.unwrap(), Fenced::Applied);
    let (row, _) = inbox.get(&job("job")).await.unwrap().unwrap();
    assert_eq!(row.error.as_deref(), Some("e\u{fffd}f"));
    assert_eq!((row.job_type.as_deref(), row.status.as_deref()), (Some("a\u{fffd}b"), Some("c\u{fffd}d")));
}

#[tokio::test]
async fn a_duplicate_writes_nothing_and_a_body_is_written_once() {
    let (inbox, client) = (inbox("written").await, client(postgres()).await);
    let versions =
        "SELECT string_agg(job_id || ctid || xmin || xmax, ',' ORDER BY job_id) FROM written.inbox";
    // What does not compress lies beside the table.
    let note: String =
        (0..20_000u64).map(|number| char::from(b'a' + (Random(number * number).below(26) as u8))).collect();
    let big = event("big", "completed", &note);
    inbox.receive(&big).await.unwrap();
    let before: String = client.query_one(versions, &[]).await.unwrap().get(0);
    for _ in 0..5 {
        assert_eq!(inbox.receive(&big).await.unwrap(), Receipt::Duplicate);
        assert_eq!(inbox.receive(&event("big", "failed", "")).await.unwrap(), Receipt::Conflict);
    }
    let after: String = client.query_one(versions, &[]).await.unwrap().get(0);
    assert_eq!(before, after, "a duplicate locked or wrote its row");

    let beside = "SELECT pg_relation_size(reltoastrelid) FROM pg_class WHERE oid = 'written.inbox'::regclass";
    let size = count(&client, beside).await;
    assert!(size > 0, "the body lies in its row");
    for _ in 0..5 {
        let lease = lease_one(&inbox).await.lease;
        assert_eq!(inbox.renew(&lease, LEASE).await.unwrap(), Fenced::Applied);
        let retry = Outcome::Retry { after: Duration::ZERO, error: "why".to_owned() };
        assert_eq!(inbox.settle(&lease, &retry).await.unwrap(), Fenced::Applied);
    }
    assert_eq!(count(&client, beside).await, size, "the body was written again");
}

#[tokio::test]
async fn pruning_takes_what_is_done_in_small_batches() {
    let (inbox, client) = (inbox("pruned_inbox").await, client(postgres()).await);
    let fill = "INSERT INTO pruned_inbox.inbox (job_id, state, job_type, status, body, received_at, ended_at)
        SELECT state || i, state, 'extract', 'completed', CASE WHEN i % 2 = 0 OR state = 'dead' THEN ''::bytea END,
            now() - interval '2 days', now() - interval '1 day'
        FROM generate_series(1, 1500) AS i, unnest(ARRAY['done', 'dead']) AS state";
    client.batch_execute(fill).await.unwrap();
    let kept = Retention { payload: Duration::MAX, row: Duration::MAX };
    assert_eq!(inbox.prune(&kept).await.unwrap(), Default::default());
    let half = inbox.prune(&Retention { payload: HOUR, row: Duration::MAX }).await.unwrap();
    assert_eq!((half.payloads, half.rows), (750, 0));
    // A row that somebody has locked is left for the next time, and not waited for.
    client
        .batch_execute("BEGIN; SELECT FROM pruned_inbox.inbox WHERE job_id = 'done1' FOR UPDATE")
        .await
        .unwrap();
    let all = Retention { payload: HOUR, row: HOUR };
    let rows = [inbox.prune(&all).await.unwrap().rows, inbox.prune(&all).await.unwrap().rows];
    assert_eq!(rows, [1000, 499]);
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(inbox.prune(&all).await.unwrap().rows, 1);
    let stats = inbox.stats().await.unwrap();
    assert_eq!((stats.done, stats.dead), (0, 1500));
}

#[tokio::test]
async fn the_clock_is_the_databases() {
    let client = client(postgres()).await;
    // A database whose clock is an hour ahead of ours.
    client.batch_execute("CREATE DATABASE ahead").await.unwrap();
    let url = format!("postgres://postgres:{PASSWORD}@127.0.0.1:{}/ahead", postgres().port());
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    tokio::spawn(connection);
    let mut ahead =
        "CREATE SCHEMA ahead; ALTER DATABASE ahead SET search_path = ahead, pg_catalog;".to_owned();
    for function in ["clock_timestamp", "statement_timestamp"] {
        ahead += &format!(
            "CREATE FUNCTION ahead.{function}() RETURNS timestamptz LANGUAGE sql VOLATILE
                AS $$ SELECT pg_catalog.{function}() + interval '1 hour' $$;"
        );
    }
    client.batch_execute(&ahead).await.unwrap();
    let inbox = PostgresInbox::from_url(&url).unwrap();
    inbox.migrate().await.unwrap();
    inbox.receive(&completed("job")).await.unwrap();
    let left =
        "SELECT extract(epoch FROM due_at - ahead.clock_timestamp())::int8 FROM ahead.qomplement_inbox";
    let mut lease = lease_one(&inbox).await.lease;
    assert!((20..=30).contains(&count(&client, left).await), "the lease");
    assert_eq!(inbox.renew(&lease, HOUR).await.unwrap(), Fenced::Applied);
    assert!((3590..=3600).contains(&count(&client, left).await), "the renewal");
    let retry = |after| Outcome::Retry { after, error: String::new() };
    assert_eq!(inbox.settle(&lease, &retry(Duration::ZERO)).await.unwrap(), Fenced::Applied);
    lease = lease_one(&inbox).await.lease;
    assert_eq!(inbox.settle(&lease, &retry(LEASE)).await.unwrap(), Fenced::Applied);
    assert!((20..=30).contains(&count(&client, left).await), "the retry");
    let (row, _) = inbox.get(&job("job")).await.unwrap().unwrap();
    assert!(row.age < LEASE && row.due_in.unwrap() <= LEASE, "{row:?}");
    inbox.expect(&job("expected"), Duration::ZERO).await.unwrap();
    assert_eq!(inbox.overdue(1, LEASE).await.unwrap()[0].lease.job(), &job("expected"));
}

#[tokio::test]
async fn a_call_that_is_given_up_does_not_hold_up_the_next() {
    let (inbox, client) = (inbox("given_up_inbox").await, client(postgres()).await);
    inbox.receive(&completed("held")).await.unwrap();
    let lease = lease_one(&inbox).await.lease;
    client.batch_execute("BEGIN; SELECT FROM given_up_inbox.inbox FOR UPDATE").await.unwrap();
    let renewals = (0..16).map(|_| timeout(Duration::from_millis(300), inbox.renew(&lease, LEASE)));
    let mut renewals: Vec<_> = renewals.map(Box::pin).collect();
    for renewal in &mut renewals {
        assert!(renewal.await.is_err(), "the row was not locked");
    }
    drop(renewals);
    let receipt = timeout(Duration::from_secs(2), inbox.receive(&completed("free"))).await;
    assert!(matches!(receipt, Ok(Ok(Receipt::Stored))), "{receipt:?}");
    // Nobody waits for a row that is in use.
    let leased = timeout(Duration::from_secs(2), inbox.lease(10, LEASE)).await.unwrap().unwrap();
    assert_eq!(leased.len(), 1);
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(inbox.settle(&lease, &Outcome::Done).await.unwrap(), Fenced::Applied);
}

#[test]
fn an_inbox_outlives_the_runtime_that_used_it() {
    let runtime =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let inbox = runtime().block_on(inbox("runtimes"));
    for round in 0..3 {
        let runtime = runtime();
        runtime.block_on(async {
            for number in 0..20 {
                tokio::spawn({
                    let inbox = inbox.clone();
                    async move { inbox.receive(&completed(&format!("{round}-{number}"))).await }
                });
            }
            let _ = timeout(Duration::from_millis(1), inbox.wait()).await;
        });
        runtime.shutdown_background();
    }
    let receipt = runtime().block_on(inbox.receive(&completed("last"))).unwrap();
    assert_eq!(receipt, Receipt::Stored);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_is_no_mystery_and_its_password_stays_secret() {
    let mut port = postgres().port();
    for (password, expected) in [("wrong-secret", "authentication failed"), ("wrong-secret", "refused")] {
        let url = format!("postgres://postgres:{password}@127.0.0.1:{port}/postgres");
        let inbox = PostgresInbox::from_url(&url).unwrap();
        let tasks: Vec<_> = (0..5)
            .map(|number| {
                let inbox = inbox.clone();
                tokio::spawn(async move { inbox.receive(&completed(&format!("job-{number}"))).await })
            })
            .collect();
        let mut errors = vec![inbox.check().await.unwrap_err(), inbox.lease(1, LEASE).await.unwrap_err()];
        for task in tasks {
            errors.push(task.await.unwrap().unwrap_err());
        }
        let known = inbox.is_known(&job("job")).await.unwrap_err().to_string();
        for error in errors {
            let mut said = format!("{inbox:?} {known} {error} {error:?}");
            let mut source = error.source();
            while let Some(cause) = source {
                said += &format!(" {cause} {cause:?}");
                source = cause.source();
            }
            assert!(!said.contains(password), "{said}");
            assert!(said.contains(expected), "{said}");
        }
        port = free_port();
    }
    let error = PostgresInbox::from_url("postgres://user:hidden-secret@host?sslmode=maybe").unwrap_err();
    assert!(!format!("{error:?} {error}").contains("secret"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_and_two_workers_handle_each_event_once() {
    let (inbox, other) = (inbox("whole").await, handle("whole"));
    let receiver = WebhookReceiver::durable(inbox.clone()).unauthenticated().build().unwrap();
    let script = crate::support::Script::default();
    let worker =
        |inbox| InboxWorker::new(inbox, script.handler(), qomplement_webhooks::Verification::Trust).start();
    let workers = [worker(inbox.clone()), worker(other)];
    let requests: Vec<_> = (0..200)
        .map(|number| {
            let receiver = receiver.clone();
            let body = completed(&format!("job-{}", number / 2)).body().clone();
            tokio::spawn(async move { receiver.receive(crate::support::request(body)).await.status() })
        })
        .collect();
    for request in requests {
        assert_eq!(request.await.unwrap(), 200);
    }
    script.until("all are handled", |script| script.finished() >= 100).await;
    for worker in workers {
        assert_eq!(worker.shutdown(Duration::from_secs(5)).await, 0);
    }
    assert_eq!(script.runs(), 100);
    assert_eq!(inbox.stats().await.unwrap().done, 100);
}
