//! The access closure.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Empty;
use qomplement_webhooks::MemoryInbox;
use qomplement_webhooks::page::{InboxPage, PageAccess};
use tokio::time::Instant;

use super::dead;
use super::visitor::Visitor;

#[tokio::test(start_paused = true)]
async fn a_reader_sees_everything_and_no_action() {
    let inbox = MemoryInbox::new();
    dead(&inbox, "job-7", "no").await;
    let page = InboxPage::new(inbox, |_| async { PageAccess::read_only("bob") });
    let mut visitor = Visitor::of(page);
    for link in ["", "?view=list&state=dead", "?view=job&job=job-7&body=1"] {
        let shown = visitor.open(link).await;
        assert!(shown.text.contains("bob, read-only"), "{link}");
        for action in ["Replay", "Discard", "method=\"post\""] {
            assert!(!shown.text.contains(action), "{link}: {action}");
        }
    }
    let question = visitor.send(Method::GET, "?view=confirm&action=replay&job=job-7", &[], "").await;
    assert_eq!(question.status, 403);
}

#[tokio::test(start_paused = true)]
async fn a_closure_that_fails_lets_nobody_in() {
    let inbox = MemoryInbox::new();
    let request = || Request::get("/inbox").body(Empty::<Bytes>::new()).unwrap();
    let panics = InboxPage::new(inbox.clone(), |_| async { panic!("no") });
    assert_eq!(panics.answer(request()).await.status(), 503);
    let panics = InboxPage::new(inbox.clone(), |_| -> std::future::Ready<PageAccess> { panic!("no") });
    assert_eq!(panics.answer(request()).await.status(), 503);
    let began = Instant::now();
    let hangs = InboxPage::new(inbox, |_| std::future::pending());
    assert_eq!(hangs.answer(request()).await.status(), 503);
    assert_eq!(began.elapsed(), Duration::from_secs(10));
}
