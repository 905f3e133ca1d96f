//! Texts that a database cannot hold: no outcome is lost, and no event refused, on account of one.

use std::time::Duration;

use qomplement_webhooks::inbox::{InboxAdmin, InboxFilter, InboxState, Lease, NoResult, Outcome, Receipt};
use qomplement_webhooks::store::Fenced;
use qomplement_webhooks::{InboxStore, PostgresInbox};

use super::{HOUR, LEASE, client, event, job, lease_one};
use crate::support::databases::postgres;
use crate::support::inboxes::all_rows;

fn url_of(database: &str) -> String {
    postgres().url().replace("/postgres?", &format!("/{database}?"))
}

/// An inbox in a database of its own, with an encoding of its own.
async fn encoded(encoding: &str) -> PostgresInbox {
    let name = format!("encoded_{}", encoding.to_lowercase());
    let create = format!("CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0");
    client(postgres()).await.batch_execute(&create).await.unwrap();
    let url = url_of(&name);
    let inbox = PostgresInbox::from_url(&url).unwrap();
    // By hand: the inbox itself may refuse such a database.
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute(&inbox.migrations().concat()).await.unwrap();
    inbox
}

const ERRORS: [&str; 5] = ["no", "Datei für 文件 nicht gefunden \u{1f4a3}", "a\0b", "é", "… — \u{fffd}"];

async fn any_text_is_no_obstacle(open: impl AsyncFn() -> PostgresInbox, name: &str) {
    let long = "文".repeat(1 << 20);
    for (number, text) in ERRORS.into_iter().chain([&*long]).enumerate() {
        let error = || text.to_owned();
        let outcomes = [
            Outcome::Retry { after: HOUR, error: error() },
            Outcome::Dead { error: error() },
            Outcome::Rejected { error: error() },
            Outcome::FetchAgain { after: HOUR, answer: NoResult::Failed { error: error() } },
        ];
        for (place, outcome) in outcomes.iter().enumerate() {
            // Each handle learns of the encoding by itself.
            let inbox = open().await;
            let id = format!("{number}-{place}");
            inbox.receive(&event(&id, "completed", "")).await.unwrap();
            let lease = lease_one(&inbox).await.lease;
            let settled = inbox.settle(&lease, outcome).await;
            assert!(matches!(settled, Ok(Fenced::Applied)), "{name}: {number} {place}: {settled:?}");
            let (row, _) = inbox.get(&job(&id)).await.unwrap().unwrap();
            let kept = row.error.unwrap();
            assert!(!kept.is_empty() && kept.len() <= 16_384, "{} bytes were kept", kept.len());
            assert!(!text.is_ascii() || text.contains('\0') || kept == text, "{kept}");
            let failed: Vec<_> = row.failures.into_iter().map(|failed| failed.error).collect();
            assert_eq!(failed.len(), usize::from(place < 3), "{name}: {failed:?}");
            if let Some(failed) = failed.first() {
                let is_cut = kept.chars().count() > 500;
                assert!(
                    if is_cut { failed.chars().count() == 500 } else { *failed == kept },
                    "{kept}: {failed}"
                );
                assert!(kept.starts_with(failed.trim_end_matches(" [cut]")), "{failed}");
            }
        }
    }
    let inbox = open().await;
    let said = r#"{"job_id": "verified", "data": {"id": "verified", "type": "类型", "status": "failed"}}"#;
    let said =
        qomplement_webhooks::event::Envelope::try_from(bytes::Bytes::from_static(said.as_bytes())).unwrap();
    inbox.expect(&job("verified"), Duration::ZERO).await.unwrap();
    let lease: Lease = inbox.overdue(1, HOUR).await.unwrap().remove(0).lease;
    assert_eq!(inbox.verify(&lease, &said).await.unwrap(), Fenced::Applied);

    let inbox = open().await;
    for (id, status) in [("status", "完了"), ("long-status", &*"完".repeat(1 << 18))] {
        let odd = event(id, status, "");
        assert_eq!(inbox.receive(&odd).await.unwrap(), Receipt::Stored, "{name}");
        assert_eq!(inbox.receive(&odd).await.unwrap(), Receipt::Duplicate);
        let (row, body) = inbox.get(&job(id)).await.unwrap().unwrap();
        assert_eq!(body.as_ref(), Some(odd.body()), "all of it is in the body");
        assert_eq!(row.state, InboxState::Received);
        let inbox = open().await;
        let filter = InboxFilter::default().status(status);
        let listed = all_rows(&inbox, &filter).await;
        // A handle that has written nothing compares with what it would have written.
        assert!(listed.len() <= 1);
        let known = inbox.receive(&odd).await.unwrap();
        assert_eq!(known, Receipt::Duplicate);
    }
    let leased = inbox.lease(10, LEASE).await.unwrap();
    assert_eq!(leased.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn any_text_is_no_obstacle_in_a_database_with_latin1() {
    let inbox = encoded("LATIN1").await;
    let url = url_of("encoded_latin1");
    any_text_is_no_obstacle(async || PostgresInbox::from_url(&url).unwrap(), "latin1").await;
    drop(inbox);
}

#[tokio::test(flavor = "multi_thread")]
async fn any_text_is_no_obstacle_in_a_database_with_utf8() {
    let inbox = super::inbox("texts").await;
    any_text_is_no_obstacle(async || super::handle("texts"), "utf8").await;
    drop(inbox);
}
