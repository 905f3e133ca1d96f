//! The inbox page: its views, its actions, and what it keeps from whom.

mod access;
mod actions;
mod browser;
mod foreign;
mod forgery;
mod hostile;
mod markup;
mod rows;
mod views;
mod visitor;

use std::time::Duration;

use qomplement_webhooks::event::Envelope;
use qomplement_webhooks::inbox::{InboxAdmin, InboxState, Outcome, Receipt};
use qomplement_webhooks::page::{InboxPage, PageAccess};
use qomplement_webhooks::sender::Payload;
use qomplement_webhooks::{JobId, MemoryInbox};

use self::visitor::Visitor;

/// The `traceparent` of every event.
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// A page that lets everybody act.
fn open(inbox: &(impl InboxAdmin + Clone)) -> InboxPage {
    InboxPage::new(inbox.clone(), |_| async { PageAccess::full("ada") })
}

fn visitor(inbox: &MemoryInbox) -> Visitor {
    Visitor::of(open(inbox))
}

/// Stores an event.
async fn receive(inbox: &impl InboxAdmin, job: &str) -> JobId {
    let event = Envelope::try_from(Payload::extract_completed().job_id(job).to_bytes()).unwrap();
    let event = event.with_traceparent(TRACEPARENT.parse().unwrap());
    assert_eq!(inbox.receive(&event).await.unwrap(), Receipt::Stored);
    event.job().clone()
}

/// Stores an event and settles it.
async fn settle(inbox: &impl InboxAdmin, job: &str, outcome: Outcome) -> JobId {
    let job = receive(inbox, job).await;
    let leased = inbox.lease(1, Duration::from_secs(30)).await.unwrap();
    assert_eq!(leased[0].lease.job(), &job, "another row was due");
    let _ = inbox.settle(&leased[0].lease, &outcome).await.unwrap();
    job
}

async fn dead(inbox: &impl InboxAdmin, job: &str, error: &str) -> JobId {
    settle(inbox, job, Outcome::Dead { error: error.to_owned() }).await
}

async fn state(inbox: &MemoryInbox, job: &JobId) -> Option<InboxState> {
    inbox.get(job).await.unwrap().map(|(row, _)| row.state)
}
