//! Jobs registered in transactions of the user's, with a driver that knows nothing of the inbox.

use std::time::Duration;

use bytes::Bytes;
use deadpool_postgres::{Manager, Pool};
use proptest::test_runner::TestRunner;
use qomplement_webhooks::conformance::inbox_all;
use qomplement_webhooks::event::Envelope;
use qomplement_webhooks::inbox::{
    Bind, Bulk, Changed, InboxAdmin, InboxCursor, InboxFilter, InboxList, InboxRow, InboxState, InboxStats,
    InboxTraffic, Lease, Leased, Outcome, Overdue, Pruned, Receipt, Retention, Statement,
};
use qomplement_webhooks::store::{Fenced, StoreError};
use qomplement_webhooks::{InboxStore, JobId, PostgresInbox, async_trait};
use tokio::runtime::Runtime;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error, NoTls, Transaction};

use super::{HOUR, LEASE, client, completed, count, event, handle, inbox, job};
use crate::support::databases::{Server, postgres};
use crate::support::{eventually, inboxes, model};

/// Runs a statement of the inbox, prepared under a name; the server finds out its types. Returns whether there was a row.
pub async fn run(statement: &Statement, transaction: &Transaction<'_>) -> Result<bool, Error> {
    let mut binds: Vec<&(dyn ToSql + Sync)> = Vec::new();
    for bind in &statement.binds {
        match bind {
            Bind::Text(text) => binds.push(text),
            Bind::BigInt(number) => binds.push(number),
        }
    }
    Ok(transaction.execute(&statement.sql, &binds).await? == 1)
}

/// Runs a statement of the inbox without preparing it under a name. Returns whether there was a row.
pub async fn run_unnamed(statement: &Statement, transaction: &Transaction<'_>) -> Result<bool, Error> {
    let mut binds: Vec<(&(dyn ToSql + Sync), Type)> = Vec::new();
    for bind in &statement.binds {
        match bind {
            Bind::Text(text) => binds.push((text, Type::TEXT)),
            Bind::BigInt(number) => binds.push((number, Type::INT8)),
        }
    }
    Ok(!transaction.query_typed(&statement.sql, &binds).await?.is_empty())
}

/// An inbox whose jobs are registered in transactions of another pool.
#[derive(Debug)]
struct Joined {
    inbox: PostgresInbox,
    pool: Pool,
    is_bounced: bool,
}

impl Joined {
    fn new(inbox: PostgresInbox, server: &Server, is_bounced: bool) -> Self {
        let manager = Manager::new(server.url().parse().unwrap(), NoTls);
        Self { inbox, pool: Pool::builder(manager).max_size(4).build().unwrap(), is_bounced }
    }
}

#[async_trait]
impl InboxStore for Joined {
    async fn receive(&self, event: &Envelope) -> Result<Receipt, StoreError> {
        self.inbox.receive(event).await
    }

    async fn lease(&self, most: usize, length: Duration) -> Result<Vec<Leased>, StoreError> {
        self.inbox.lease(most, length).await
    }

    async fn begin(&self, lease: &Lease) -> Result<Fenced, StoreError> {
        self.inbox.begin(lease).await
    }

    async fn renew(&self, lease: &Lease, length: Duration) -> Result<Fenced, StoreError> {
        self.inbox.renew(lease, length).await
    }

    async fn verify(&self, lease: &Lease, event: &Envelope) -> Result<Fenced, StoreError> {
        self.inbox.verify(lease, event).await
    }

    async fn settle(&self, lease: &Lease, outcome: &Outcome) -> Result<Fenced, StoreError> {
        self.inbox.settle(lease, outcome).await
    }

    async fn expect(&self, job: &JobId, deadline: Duration) -> Result<(), StoreError> {
        let statement = self.inbox.expect_statement(job, deadline);
        let mut client = self.pool.get().await.map_err(StoreError::unavailable)?;
        let transaction = client.transaction().await.map_err(StoreError::unavailable)?;
        let run = if self.is_bounced {
            run_unnamed(&statement, &transaction).await
        } else {
            run(&statement, &transaction).await
        };
        if !run.map_err(StoreError::unavailable)? {
            return Err(StoreError::Full);
        }
        transaction.commit().await.map_err(StoreError::unavailable)
    }

    async fn overdue(&self, most: usize, length: Duration) -> Result<Vec<Overdue>, StoreError> {
        self.inbox.overdue(most, length).await
    }

    async fn contains(&self, job: &JobId) -> Result<bool, StoreError> {
        self.inbox.contains(job).await
    }

    async fn prune(&self, retention: &Retention) -> Result<Pruned, StoreError> {
        self.inbox.prune(retention).await
    }

    async fn wait(&self) {
        self.inbox.wait().await;
    }

    fn admin(&self) -> Option<&dyn InboxAdmin> {
        Some(self)
    }
}

#[async_trait]
impl InboxAdmin for Joined {
    async fn list(
        &self,
        filter: &InboxFilter,
        from: InboxCursor,
        most: usize,
    ) -> Result<InboxList, StoreError> {
        self.inbox.list(filter, from, most).await
    }

    async fn get(&self, job: &JobId) -> Result<Option<(InboxRow, Option<Bytes>)>, StoreError> {
        self.inbox.get(job).await
    }

    async fn replay(&self, job: &JobId) -> Result<bool, StoreError> {
        self.inbox.replay(job).await
    }

    async fn discard(&self, job: &JobId) -> Result<bool, StoreError> {
        self.inbox.discard(job).await
    }

    async fn replay_all(&self, filter: &InboxFilter, most: u64, bulk: Bulk) -> Result<Changed, StoreError> {
        self.inbox.replay_all(filter, most, bulk).await
    }

    async fn discard_all(&self, filter: &InboxFilter, most: u64, bulk: Bulk) -> Result<Changed, StoreError> {
        self.inbox.discard_all(filter, most, bulk).await
    }

    async fn stats(&self) -> Result<InboxStats, StoreError> {
        self.inbox.stats().await
    }

    async fn traffic(&self) -> Result<Vec<InboxTraffic>, StoreError> {
        self.inbox.traffic().await
    }
}

/// An inbox, and a table of submissions beside it.
async fn prepare(schema: &str) -> (PostgresInbox, Client) {
    let inbox = inbox(schema).await;
    let client = client(postgres()).await;
    client.batch_execute(&format!("CREATE TABLE {schema}.submissions (job_id text)")).await.unwrap();
    (inbox, client)
}

fn submission(schema: &str) -> String {
    format!("INSERT INTO {schema}.submissions VALUES ('job')")
}

async fn submissions(client: &Client, schema: &str) -> i64 {
    count(client, &format!("SELECT count(*) FROM {schema}.submissions")).await
}

async fn state(inbox: &PostgresInbox) -> Option<InboxState> {
    inbox.get(&job("job")).await.unwrap().map(|(row, _)| row.state)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_in_a_transaction_keeps_the_contract() {
    let joined = Joined::new(inbox("joined").await, postgres(), false);
    inbox_all(&joined, &Joined::new(handle("joined"), postgres(), false), &[]).await;
}

#[test]
fn a_registration_in_a_transaction_behind_a_pooler_does_what_memory_does() {
    let (runtime, bouncer) = (Runtime::new().unwrap(), Server::pgbouncer(postgres()));
    let client = runtime.block_on(async {
        inbox("joined_model").await;
        client(postgres()).await
    });
    let open = async || Joined::new(handle("joined_model"), &bouncer, true);
    let compared = TestRunner::new(model::cases(8)).run(&model::calls(), |calls| {
        runtime.block_on(async {
            client.batch_execute("TRUNCATE joined_model.inbox").await.unwrap();
            model::compare(&calls, open).await
        })
    });
    if let Err(error) = compared {
        panic!("{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_inbox_registers_what_it_counts_in_transactions_too() {
    let limited = inbox("joined_full").await.max_unfinished_rows(1);
    inboxes::a_full_inbox_registers_what_it_counts(&Joined::new(limited, postgres(), false)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_registers_as_many_jobs_as_the_limit_allows() {
    let inbox = inbox("joined_limit").await;
    let mut client = client(postgres()).await;
    for limit in [0, 1, 5, 10, u64::MAX] {
        client.batch_execute("TRUNCATE joined_limit.inbox").await.unwrap();
        // Rows that have ended take no room.
        for id in ["done", "running", "received"] {
            inbox.receive(&completed(id)).await.unwrap();
        }
        let lease = inbox.lease(1, LEASE).await.unwrap().remove(0).lease;
        assert_eq!(inbox.settle(&lease, &Outcome::Done).await.unwrap(), Fenced::Applied);
        inbox.lease(1, LEASE).await.unwrap();
        let unfinished = if limit < 2 {
            client.batch_execute("DELETE FROM joined_limit.inbox WHERE state <> 'done'").await.unwrap();
            0
        } else {
            2
        };
        let limited = inbox.clone().max_unfinished_rows(limit);
        let transaction = client.transaction().await.unwrap();
        let mut rows = 0;
        for number in 0..9 {
            let statement = limited.expect_statement(&job(&format!("job-{number}")), HOUR);
            rows += u64::from(run(&statement, &transaction).await.unwrap());
            // Registered in this transaction or not at all: again makes no difference.
            let again = run(&statement, &transaction).await.unwrap();
            assert_eq!(again, rows > number, "limit {limit}, job {number}");
        }
        assert_eq!(rows, 9.min(limit - unfinished), "limit {limit}");
        transaction.commit().await.unwrap();
        assert_eq!(inbox.stats().await.unwrap().expected, rows);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submission_and_its_registration_are_committed_or_rolled_back_together() {
    let (inbox, watcher) = prepare("submitted").await;
    let mut own = client(postgres()).await;
    let statement = inbox.expect_statement(&job("job"), HOUR);
    for commits in [false, true] {
        let transaction = own.transaction().await.unwrap();
        transaction.execute(&submission("submitted"), &[]).await.unwrap();
        assert!(run(&statement, &transaction).await.unwrap());
        assert_eq!((state(&inbox).await, submissions(&watcher, "submitted").await), (None, 0));
        if commits {
            transaction.commit().await.unwrap();
        } else {
            drop(transaction);
        }
    }
    let expected = (Some(InboxState::Expected), 1);
    assert_eq!((state(&inbox).await, submissions(&watcher, "submitted").await), expected);
    let (row, _) = inbox.get(&job("job")).await.unwrap().unwrap();
    assert!(row.due_in.unwrap() > HOUR / 2 && row.due_in.unwrap() <= HOUR, "{row:?}");

    let full = inbox.clone().max_unfinished_rows(1);
    let transaction = own.transaction().await.unwrap();
    transaction.execute(&submission("submitted"), &[]).await.unwrap();
    assert!(!run(&full.expect_statement(&job("other"), HOUR), &transaction).await.unwrap());
    drop(transaction);
    assert_eq!(submissions(&watcher, "submitted").await, 1);
    assert!(!inbox.contains(&job("other")).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_may_come_before_during_and_after_the_transaction_that_registers_its_job() {
    let (inbox, watcher) = prepare("all_orders").await;
    let mut own = client(postgres()).await;
    for status in ["completed", "processing"] {
        for when in ["before", "during", "rolled back", "after"] {
            let id = job(&format!("{status}-{}", when.replace(' ', "-")));
            let webhook = event(&id.to_string(), status, "");
            if when == "before" {
                assert_eq!(inbox.receive(&webhook).await.unwrap(), Receipt::Stored);
            }
            let transaction = own.transaction().await.unwrap();
            assert!(run(&inbox.expect_statement(&id, HOUR), &transaction).await.unwrap(), "{when}");
            let mut waiting = None;
            if matches!(when, "during" | "rolled back") {
                let (inbox, webhook) = (inbox.clone(), webhook.clone());
                waiting = Some(tokio::spawn(async move { inbox.receive(&webhook).await.unwrap() }));
                let waits = "SELECT count(*) FROM pg_stat_activity
                    WHERE wait_event_type = 'Lock' AND query LIKE '%INSERT INTO \"all_orders\"%'";
                eventually("the webhook waits", async || count(&watcher, waits).await == 1).await;
            }
            if when == "rolled back" {
                transaction.rollback().await.unwrap();
            } else {
                transaction.commit().await.unwrap();
            }
            let receipt = match (waiting, when) {
                (Some(waiting), _) => waiting.await.unwrap(),
                (None, "after") => inbox.receive(&webhook).await.unwrap(),
                (None, _) => Receipt::Stored,
            };
            assert_eq!(receipt, Receipt::Stored, "{when}");
            let leased = inbox.lease(10, LEASE).await.unwrap();
            assert_eq!(leased.len(), 1, "{status}, {when}");
            assert_eq!((leased[0].lease.job(), &leased[0].body), (&id, webhook.body()));
            assert_eq!(inbox.settle(&leased[0].lease, &Outcome::Done).await.unwrap(), Fenced::Applied);
            // A registered job without a final status is expected again.
            let ends = match (status, when) {
                ("completed", _) | (_, "rolled back") => InboxState::Done,
                _ => InboxState::Expected,
            };
            assert_eq!(inbox.get(&id).await.unwrap().unwrap().0.state, ends, "{status}, {when}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_that_register_one_job_at_once_all_succeed() {
    let inbox = inbox("joined_twice").await;
    let [mut one, mut other] = [client(postgres()).await, client(postgres()).await];
    for round in 0..20 {
        let statement = inbox.expect_statement(&job(&format!("job-{round}")), HOUR);
        let register = async |own: &mut Client| {
            let transaction = own.transaction().await.unwrap();
            let is_registered = run(&statement, &transaction).await.unwrap();
            transaction.commit().await.unwrap();
            is_registered
        };
        assert_eq!(tokio::join!(register(&mut one), register(&mut other)), (true, true));
    }
    assert_eq!(inbox.stats().await.unwrap().expected, 20);
}

/// On one thread, so that both webhooks are stored by one statement.
#[tokio::test]
async fn jobs_are_registered_together_in_any_order_while_webhooks_of_them_wait() {
    let inbox = inbox("joined_order").await;
    let (mut own, watcher) = (client(postgres()).await, client(postgres()).await);
    for (round, order) in [["a", "b"], ["b", "a"]].into_iter().enumerate() {
        let [first, second] = order.map(|id| format!("{id}-{round}"));
        let transaction = own.transaction().await.unwrap();
        assert!(run(&inbox.expect_statement(&job(&first), HOUR), &transaction).await.unwrap());
        let both = [completed(&format!("a-{round}")), completed(&format!("b-{round}"))];
        let receive = {
            let (inbox, both) = (inbox.clone(), both.clone());
            async move { tokio::join!(inbox.receive(&both[0]), inbox.receive(&both[1])) }
        };
        let receiving = tokio::spawn(receive);
        let waits = "SELECT count(*) FROM pg_stat_activity
            WHERE wait_event_type = 'Lock' AND query LIKE '%INSERT INTO \"joined_order\"%'";
        eventually("the webhooks wait", async || count(&watcher, waits).await == 1).await;
        // In the other order, the webhooks hold the second row, and give way.
        assert!(run(&inbox.expect_statement(&job(&second), HOUR), &transaction).await.unwrap());
        transaction.commit().await.unwrap();
        let received = receiving.await.unwrap();
        assert!(matches!(received, (Ok(Receipt::Stored), Ok(Receipt::Stored))), "{received:?}");
    }
    assert_eq!(inbox.stats().await.unwrap().received, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_is_on_the_disk_when_it_is_committed_whatever_the_session_says() {
    let inbox = inbox("joined_durably").await;
    let mut own = client(postgres()).await;
    own.batch_execute("SET synchronous_commit = off").await.unwrap();
    let setting = "SELECT current_setting('synchronous_commit')";
    let transaction = own.transaction().await.unwrap();
    assert!(run(&inbox.expect_statement(&job("job"), HOUR), &transaction).await.unwrap());
    assert_eq!(transaction.query_one(setting, &[]).await.unwrap().get::<_, &str>(0), "on");
    transaction.commit().await.unwrap();
    assert_eq!(own.query_one(setting, &[]).await.unwrap().get::<_, &str>(0), "off");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_names_its_table_whatever_the_session_looks_through() {
    let (schema, table) = ("Joined \"by\" name; --", "in'box $1 {}");
    let inbox = PostgresInbox::from_url(&postgres().url()).unwrap().with_table(schema, table).unwrap();
    inbox.migrate().await.unwrap();
    let mut own = client(postgres()).await;
    own.batch_execute("SET search_path = pg_catalog").await.unwrap();
    let transaction = own.transaction().await.unwrap();
    assert!(run(&inbox.expect_statement(&job("job"), HOUR), &transaction).await.unwrap());
    assert!(run_unnamed(&inbox.expect_statement(&job("other"), HOUR), &transaction).await.unwrap());
    transaction.commit().await.unwrap();
    assert_eq!(inbox.stats().await.unwrap().expected, 2);
}
