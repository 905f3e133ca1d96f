//! Values that the server itself can neither read nor convert: they keep no other row from being leased.

use std::time::Duration;

use qomplement_webhooks::inbox::{Bulk, InboxAdmin, InboxFilter, InboxState, Leased, Outcome, Retention};
use qomplement_webhooks::store::Fenced;
use qomplement_webhooks::{InboxStore, InboxWorker, PostgresInbox, Verification};
use tokio_postgres::Client;

use super::{HOUR, LEASE, client, completed, count, event, inbox, job};
use crate::support::databases::postgres;
use crate::support::inboxes::all_rows;
use crate::support::{Script, eventually};

/// A value of this size lies beside the table.
const LARGE: usize = 5000;

fn large(job: &str) -> qomplement_webhooks::event::Envelope {
    event(job, "completed", &"x".repeat(LARGE))
}

/// Stores large values beside the table uncompressed.
async fn store_beside(client: &Client, schema: &str) {
    for column in ["body", "status", "traceparent", "error", "failures"] {
        let alter = format!("ALTER TABLE {schema}.inbox ALTER {column} SET STORAGE EXTERNAL");
        client.batch_execute(&alter).await.unwrap();
    }
}

/// Damages all values that lie beside the table. The server lets nobody write to them, so they are made a usual table
/// meanwhile.
async fn damage(client: &Client, schema: &str) {
    let beside =
        format!("SELECT reltoastrelid::regclass::text FROM pg_class WHERE oid = '{schema}.inbox'::regclass");
    let beside: String = client.query_one(&beside, &[]).await.unwrap().get(0);
    let becomes = |kind| format!("UPDATE pg_class SET relkind = '{kind}' WHERE oid = '{beside}'::regclass");
    let [table, toast] = ['r', 't'].map(becomes);
    let damage = format!("SET allow_system_table_mods = on; {table}; TRUNCATE {beside}; {toast}");
    client.batch_execute(&damage).await.unwrap();
}

fn jobs(leased: &[Leased]) -> Vec<String> {
    leased.iter().map(|leased| leased.lease.job().to_string()).collect()
}

async fn error_of(client: &Client, schema: &str, id: &str) -> String {
    let error = format!("SELECT error FROM {schema}.inbox WHERE job_id = $1 AND state = 'dead'");
    client.query_one(&error, &[&id]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_with_a_damaged_value_is_dead_and_the_others_are_leased() {
    let (inbox, client) = (inbox("damaged").await, client(postgres()).await);
    store_beside(&client, "damaged").await;
    let damaged = ["body", "failures", "traceparent"];
    inbox.receive(&large("body")).await.unwrap();
    for id in &damaged[1..] {
        inbox.receive(&completed(id)).await.unwrap();
        let value = if *id == "failures" { "jsonb_build_array($1::text)" } else { "$1" };
        let set = format!("UPDATE damaged.inbox SET {id} = {value} WHERE job_id = '{id}'");
        client.execute(&set, &[&"x".repeat(LARGE)]).await.unwrap();
    }
    damage(&client, "damaged").await;
    let others = ["expired", "large", "small"];
    inbox.receive(&completed("expired")).await.unwrap();
    inbox.receive(&large("large")).await.unwrap();
    inbox.receive(&completed("small")).await.unwrap();
    // A lease that has expired is noted among the failed attempts.
    let expire = "UPDATE damaged.inbox SET state = 'running', attempts = 2, due_at = '2020-02-02 UTC'
        WHERE job_id IN ('expired', 'failures')";
    assert_eq!(client.execute(expire, &[]).await.unwrap(), 2);
    inbox.stats().await.unwrap();

    let leased = inbox.lease(100, LEASE).await.unwrap();
    assert_eq!(jobs(&leased), others);
    assert_eq!(leased[1].body, *large("large").body());
    let attempts: Vec<_> = leased.iter().map(|leased| (leased.attempt, leased.expired)).collect();
    assert_eq!(attempts, [(3, true), (1, false), (1, false)]);
    let (expired, _) = inbox.get(&job("expired")).await.unwrap().unwrap();
    let failures: Vec<_> = expired.failures.iter().map(|failed| (failed.number, failed.age > HOUR)).collect();
    assert_eq!(failures, [(2, true)]);
    for leased in &leased {
        assert_eq!(inbox.renew(&leased.lease, LEASE).await.unwrap(), Fenced::Applied);
        assert_eq!(inbox.settle(&leased.lease, &Outcome::Done).await.unwrap(), Fenced::Applied);
    }

    for id in damaged {
        let error = error_of(&client, "damaged", id).await;
        assert!(error.contains("damaged") && error.contains("missing chunk number 0"), "{id}: {error}");
    }
    let stats = inbox.stats().await.unwrap();
    assert_eq!((stats.dead, stats.done, stats.running), (3, 3, 0));
    // They are listed beside the others, by every look.
    let any = InboxFilter::default;
    for filter in [any(), any().state(InboxState::Dead), any().job_prefix("tr")] {
        let rows = all_rows(&inbox, &filter).await;
        let row = rows.iter().find(|row| row.job_id == "traceparent").unwrap();
        let error = row.error.as_deref().unwrap();
        assert!(row.state == InboxState::Dead && error.contains("missing chunk number 0"), "{row:?}");
    }
    assert_eq!(all_rows(&inbox, &any()).await.len(), 6);
    // Each can be replayed, in vain as long as it is damaged, and discarded or pruned.
    assert!(inbox.replay(&job("body")).await.unwrap());
    assert!(inbox.lease(100, LEASE).await.unwrap().is_empty());
    error_of(&client, "damaged", "body").await;
    for id in &damaged[..2] {
        assert!(inbox.discard(&job(id)).await.unwrap(), "{id}");
    }
    let pruned = inbox.prune(&Retention::default().dead(Duration::ZERO)).await.unwrap();
    assert_eq!(pruned.dead, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_handles_the_events_beside_a_damaged_one() {
    let (inbox, client) = (inbox("damaged_worker").await, client(postgres()).await);
    store_beside(&client, "damaged_worker").await;
    let inbox = inbox.with_prepared_statements();
    inbox.receive(&large("damaged")).await.unwrap();
    damage(&client, "damaged_worker").await;
    for number in 0..20 {
        inbox.receive(&completed(&format!("job-{number}"))).await.unwrap();
    }
    let script = Script::default();
    let worker = InboxWorker::new(inbox.clone(), script.handler(), Verification::Trust).start();
    script.until("the others are handled", |script| script.finished() == 20).await;
    eventually("they are recorded", async || inbox.stats().await.unwrap().done == 20).await;
    worker.shutdown(Duration::from_secs(5)).await;
    assert_eq!(inbox.stats().await.unwrap().dead, 1);
}

/// As when the disk cannot read one sector.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_the_disk_may_return_later_is_leased_again_later_and_the_others_are_leased() {
    let (inbox, client) = (inbox("damaged_disk").await, client(postgres()).await);
    for id in ["first", "unread", "last"] {
        inbox.receive(&completed(id)).await.unwrap();
    }
    let fail = "CREATE FUNCTION damaged_disk.fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF current_query() LIKE '%RETURNING job_id, body%' THEN RAISE 'no sector' USING ERRCODE = 'io_error'; END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER fail BEFORE UPDATE ON damaged_disk.inbox FOR EACH ROW WHEN (NEW.job_id = 'unread')
            EXECUTE FUNCTION damaged_disk.fail()";
    client.batch_execute(fail).await.unwrap();
    assert_eq!(jobs(&inbox.lease(100, LEASE).await.unwrap()), ["first", "last"]);
    let is_due = "UPDATE damaged_disk.inbox SET due_at = now() WHERE job_id = 'unread'";
    for _ in 0..3 {
        assert!(inbox.lease(100, LEASE).await.unwrap().is_empty(), "it is due again at once");
        client.batch_execute(is_due).await.unwrap();
        assert!(inbox.lease(100, LEASE).await.unwrap().is_empty());
    }
    client.batch_execute(is_due).await.unwrap();
    client.batch_execute("DROP TRIGGER fail ON damaged_disk.inbox").await.unwrap();
    // No attempt counts that did not reach a handler.
    let leased = inbox.lease(100, LEASE).await.unwrap();
    assert_eq!(jobs(&leased), ["unread"]);
    assert_eq!((leased[0].attempt, leased[0].expired), (1, false));
    let (row, _) = inbox.get(&job("unread")).await.unwrap().unwrap();
    assert!(row.failures.is_empty(), "{row:?}");
}

/// A view stands for the table, since triggers do not see reads.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_the_disk_cannot_return_is_listed_with_the_error_beside_the_others() {
    let (inbox, client) = (inbox("damaged_list").await, client(postgres()).await);
    for id in ["first", "unread", "last"] {
        inbox.receive(&completed(id)).await.unwrap();
    }
    let columns =
        "SELECT string_agg(CASE column_name WHEN 'error' THEN 'damaged_list.read(job_id, error) AS error'
            ELSE column_name END, ', ')
        FROM information_schema.columns WHERE table_schema = 'damaged_list' AND table_name = 'inbox'";
    let columns: String = client.query_one(columns, &[]).await.unwrap().get(0);
    for code in ["io_error", "internal_error"] {
        let fail = format!(
            "CREATE FUNCTION damaged_list.read(job text, error text) RETURNS text STABLE LANGUAGE plpgsql AS $$ BEGIN
                IF job = 'unread' THEN RAISE 'no sector' USING ERRCODE = '{code}'; END IF;
                RETURN error;
            END $$;
            ALTER TABLE damaged_list.inbox RENAME TO stored;
            CREATE VIEW damaged_list.inbox AS SELECT {columns} FROM damaged_list.stored"
        );
        client.batch_execute(&fail).await.unwrap();
        let rows = all_rows(&inbox, &InboxFilter::default()).await;
        let shown: Vec<_> = rows.iter().map(|row| (row.job_id.as_str(), row.error.is_some())).collect();
        assert_eq!(shown, [("first", false), ("unread", true), ("last", false)], "{code}");
        assert!(rows[1].error.as_deref().unwrap().contains("no sector"), "{rows:?}");
        let whole = "DROP VIEW damaged_list.inbox; ALTER TABLE damaged_list.stored RENAME TO inbox;
            DROP FUNCTION damaged_list.read";
        client.batch_execute(whole).await.unwrap();
    }
}

/// An inbox in a database without an encoding, where another program wrote ids of jobs that are no UTF-8.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_whose_text_cannot_be_converted_is_dead_and_the_others_are_leased() {
    let admin = client(postgres()).await;
    admin
        .batch_execute("CREATE DATABASE unconvertible ENCODING 'SQL_ASCII' TEMPLATE template0")
        .await
        .unwrap();
    let url = postgres().url().replace("/postgres?", "/unconvertible?");
    let inbox = PostgresInbox::from_url(&url).unwrap();
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute(&inbox.migrations().concat()).await.unwrap();
    let insert = r"INSERT INTO qomplement_inbox (job_id, state, job_type, status, body, due_at, received_at) VALUES
        (E'received-\xff', 'received', 'extract', 'completed', '{}', now(), now()),
        (E'expected-\xff', 'expected', NULL, NULL, NULL, now(), now())";
    client.batch_execute(insert).await.unwrap();
    inbox.receive(&completed("job")).await.unwrap();
    inbox.expect(&job("expected"), Duration::ZERO).await.unwrap();

    assert_eq!(jobs(&inbox.lease(100, LEASE).await.unwrap()), ["job"]);
    let overdue = inbox.overdue(100, LEASE).await.unwrap();
    let overdue: Vec<_> = overdue.iter().map(|overdue| overdue.lease.job().to_string()).collect();
    assert_eq!(overdue, ["expected"]);
    let dead = "SELECT count(*) FROM qomplement_inbox
        WHERE state = 'dead' AND error LIKE '%cannot be read%encoding%invalid byte sequence%'";
    assert_eq!(count(&client, dead).await, 2);
    assert_eq!(inbox.stats().await.unwrap().dead, 2);
    // Nobody can name the job, so such rows are discarded by their error.
    let unreadable = InboxFilter::default().state(InboxState::Dead).error("cannot be read");
    let rows = all_rows(&inbox, &unreadable).await;
    assert!(rows.len() == 2 && rows.iter().all(|row| row.job_id.is_empty()), "{rows:?}");
    assert_eq!(all_rows(&inbox, &InboxFilter::default()).await.len(), 4);
    assert_eq!(inbox.discard_all(&unreadable, 10, Bulk::Apply).await.unwrap().rows, 2);
}
