//! The inbox in PostgreSQL.

mod batches;
mod damaged;
mod dump;
mod faults;
pub mod joining;
mod limits;
mod listening;
mod locked;
mod model;
mod plans;
mod racing;
mod replica;
mod rows;
mod stuck;
mod tables;
mod texts;
mod traffic;
mod unreadable;

use std::time::Duration;

use bytes::Bytes;
use qomplement_webhooks::event::Envelope;
use qomplement_webhooks::inbox::{Leased, Receipt};
use qomplement_webhooks::{InboxStore, JobId, PostgresInbox};
use tokio_postgres::{Client, NoTls};

use crate::support::databases::{Server, postgres};

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
