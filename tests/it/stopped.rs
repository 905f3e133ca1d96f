//! A process that is stopped by a signal between a claim or a lease and its handler.

use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use qomplement_webhooks::inbox::InboxState;
use qomplement_webhooks::sender::Payload;
use qomplement_webhooks::{InboxWorker, Verification, WebhookEvent, WebhookReceiver, handler_fn};

use crate::support::inboxes::FaultyInbox;
use crate::support::{Call, Fault, FaultyStore, Script, request};

/// Runs in a process of its own, which stops.
#[tokio::test]
#[ignore = "a process that another test starts"]
async fn a_process_that_stops_while_it_claims_and_leases() {
    let script = Script::default();
    // A claim lasts for five seconds.
    let store = FaultyStore::new().fail(Call::Claim, [Some(Fault::Stop(6))]);
    let receiver = WebhookReceiver::builder(script.handler()).unauthenticated().dedup_store(store);
    let (receiver, payload) = (receiver.build().unwrap(), Payload::extract_completed());
    assert_eq!(receiver.receive(request(&payload)).await.status(), 503);
    assert_eq!(script.runs(), 0, "a handler began under a claim that was over");
    assert_eq!(receiver.receive(request(&payload)).await.status(), 200);

    let fences: Arc<Mutex<Vec<u64>>> = Arc::default();
    let handler = handler_fn({
        let fences = fences.clone();
        move |event: WebhookEvent| {
            fences.lock().unwrap().push(event.job().fence());
            async { Ok(()) }
        }
    });
    let inbox = FaultyInbox::default().fail(Call::Lease, [Some(Fault::Stop(2))]);
    let job = inbox.add_new().await;
    let worker = InboxWorker::new(inbox.clone(), handler, Verification::Trust);
    let _worker = worker.lease(Duration::from_secs(1)).start();
    inbox.until(&job, InboxState::Done).await;
    let fences = fences.lock().unwrap().clone();
    let first = inbox.leases()[0].fence();
    assert!(fences.len() == 1 && fences[0] > first, "handled under the lease that was over: {fences:?}");
}

#[test]
fn a_handler_does_not_begin_in_a_process_that_was_stopped_for_longer_than_its_claim_or_lease() {
    let test = "stopped::a_process_that_stops_while_it_claims_and_leases";
    let program = std::env::current_exe().unwrap();
    let output = Command::new(program).args(["--ignored", "--exact", test]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}
