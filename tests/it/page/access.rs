//! The access closure.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Empty;
use qomplement_webhooks::MemoryInbox;
use qomplement_webhooks::page::{InboxPage, PageAccess};
use tokio::time::Instant;
use tracing_subscriber::fmt::MakeWriter;

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

/// The log, as text.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;
    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn each_action_is_one_line_of_the_log_with_a_name() {
    // With one subscriber alone, a log line is enabled or not by the thread that first reaches it.
    let _other = tracing::Dispatch::new(tracing_subscriber::registry());
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().with_writer(log.clone()).with_ansi(false).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let inbox = MemoryInbox::new();
    dead(&inbox, "job-7", "no").await;
    dead(&inbox, "job-8", "no").await;
    let page = InboxPage::new(inbox.clone(), |_| async { PageAccess::full("ada\nINFO forged") });
    let mut visitor = Visitor::of(page);
    let question = visitor.open("?view=confirm&action=replay&job=job-7").await;
    visitor.submit(&question).await;
    let question = visitor.open("?view=confirm&action=discard&state=dead").await;
    visitor.submit(&question).await;
    visitor.open("?view=job&job=job-7&body=1").await;
    let forged = visitor.send(Method::POST, "?do=replay", &[], "job=job-7").await;
    assert_eq!(forged.status, 403);
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    for (line, count) in [
        (r#"action on the inbox who="ada\nINFO forged" action="replay" job_id=job-7 rows=1"#, 1),
        (
            r#"action on the inbox who="ada\nINFO forged" action="discard" filter=state=dead rows=1 more=false"#,
            1,
        ),
        (r#"body shown on the inbox page who="ada\nINFO forged" job_id=job-7"#, 1),
        (r#"WARN"#, 1),
    ] {
        assert_eq!(log.matches(line).count(), count, "{line}:\n{log}");
    }
}
