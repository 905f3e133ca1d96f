//! The inbox in PostgreSQL does what the inbox in memory does, behind a pooler as well.

use proptest::test_runner::TestRunner;
use qomplement_webhooks::inbox::Receipt;
use qomplement_webhooks::{InboxStore, PostgresInbox};
use tokio::runtime::Runtime;

use super::{client, completed, inbox, receive_all};
use crate::support::databases::{Server, postgres};
use crate::support::model;

fn compare_with_memory(cases: u32, schema: &str, server: &Server) {
    let runtime = Runtime::new().unwrap();
    let client = runtime.block_on(async {
        inbox(schema).await;
        client(postgres()).await
    });
    let open = async || PostgresInbox::from_url(&server.url()).unwrap().with_table(schema, "inbox").unwrap();
    let compared = TestRunner::new(model::cases(cases)).run(&model::calls(), |calls| {
        runtime.block_on(async {
            client.batch_execute(&format!("TRUNCATE {schema}.inbox")).await.unwrap();
            model::compare(&calls, open).await
        })
    });
    if let Err(error) = compared {
        panic!("{error}");
    }
}

#[test]
fn any_calls_have_the_same_results_as_in_memory() {
    compare_with_memory(40, "model", postgres());
}

#[test]
fn any_calls_have_the_same_results_behind_a_pooler_that_gives_each_transaction_another_connection() {
    compare_with_memory(8, "bounced_model", &Server::pgbouncer(postgres()));
}

#[test]
fn each_kind_of_transition_has_the_same_result_as_in_memory() {
    let runtime = Runtime::new().unwrap();
    runtime.block_on(async {
        inbox("traces").await;
        let client = client(postgres()).await;
        let open = async || {
            PostgresInbox::from_url(&postgres().url()).unwrap().with_table("traces", "inbox").unwrap()
        };
        for (number, calls) in model::traces().into_iter().enumerate() {
            client.batch_execute("TRUNCATE traces.inbox").await.unwrap();
            let replayed = model::replay(&calls, &open().await).await;
            assert!(replayed.is_ok(), "trace {number}, {calls:?}: {replayed:?}");
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn it_works_behind_a_pooler_where_it_listens_in_vain() {
    let bouncer = Server::pgbouncer(postgres());
    let direct = inbox("bounced").await;
    let inbox = PostgresInbox::from_url(&bouncer.url()).unwrap().with_table("bounced", "inbox").unwrap();
    inbox.migrate().await.unwrap();
    inbox.check().await.unwrap();
    let waiting = tokio::spawn({
        let inbox = inbox.clone();
        async move {
            loop {
                inbox.wait().await;
            }
        }
    });
    let receipts =
        receive_all(&[&inbox, &direct], (0..500).map(|number| completed(&format!("job-{number}")))).await;
    assert_eq!(receipts.iter().filter(|(_, receipt)| *receipt == Receipt::Stored).count(), 500);
    waiting.abort();
}
