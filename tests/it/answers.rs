//! The answer to every request that one request can show: a table, over real connections, and the order of
//! its rows.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http_body::{Body, Frame};
use qomplement_webhooks::auth::{Access, Authenticator};
use qomplement_webhooks::inbox::InboxAdmin;
use qomplement_webhooks::receiver::WebhookReceiverBuilder;
use qomplement_webhooks::{SharedToken, WebhookReceiver, async_trait};

pub use crate::support::answers::{LIMIT, RECEIVED, body, expected};
use crate::support::answers::{good, refused};
use crate::support::http::{Draft, Reply, post};
use crate::support::inboxes::FaultyInbox;
use crate::support::servers::{Framework, Server};
use crate::support::{Call, FaultyStore, PATH, Script, TOKEN};

pub fn builder(script: &Script) -> WebhookReceiverBuilder {
    WebhookReceiver::builder(script.handler()).token(SharedToken::new(TOKEN).unwrap()).max_body_bytes(LIMIT)
}

#[tokio::test]
async fn every_request_gets_the_answer_of_its_row() {
    for framework in Framework::ALL {
        eprintln!("{framework:?}");
        let script = Script::default();
        let store = FaultyStore::new();
        let server =
            Server::start(framework, builder(&script).dedup_store(store.clone()).build().unwrap()).await;
        for (status, code, read, rows) in refused() {
            for (what, request) in rows {
                let reply = request.send(server.address).await;
                assert_eq!(reply, expected(status, code, read), "{code}: {what}");
                assert_eq!(
                    (store.calls(Call::Claim), script.runs()),
                    (0, 0),
                    "{code}: {what}: it was handled"
                );
            }
        }
        for (before, (what, request)) in good().into_iter().enumerate() {
            let reply = request.send(server.address).await;
            assert_eq!(reply, expected(200, "", true), "{what}");
            assert_eq!(script.runs(), before + 1, "{what}: it was acknowledged and not handled");
        }
        let head = post("").method("HEAD").send(server.address).await;
        let as_get = Reply { body: String::new(), ..expected(405, "method_not_allowed", true) };
        assert_eq!(head, as_get, "HEAD");
    }
}

#[tokio::test]
async fn a_receiver_that_stores_answers_by_the_same_table() {
    for framework in Framework::ALL {
        eprintln!("{framework:?}");
        let inbox = FaultyInbox::default();
        let receiver = WebhookReceiver::durable(inbox.clone())
            .token(SharedToken::new(TOKEN).unwrap())
            .max_body_bytes(LIMIT)
            .build()
            .unwrap();
        let server = Server::start(framework, receiver).await;
        for (status, code, read, rows) in refused() {
            for (what, request) in rows {
                let reply = request.send(server.address).await;
                assert_eq!(reply, expected(status, code, read), "{code}: {what}");
                assert_eq!(inbox.calls(Call::Receive), 0, "{code}: {what}: it was stored");
            }
        }
        for (before, (what, request)) in good().into_iter().enumerate() {
            let reply = request.send(server.address).await;
            assert_eq!(reply, expected(200, "", true), "{what}");
            let stored = inbox.rows.stats().await.unwrap().received;
            assert_eq!(stored, before as u64 + 1, "{what}: it was acknowledged and not stored");
        }
    }
}

/// A body that notes whether anybody looks into it.
struct Untouched(Arc<AtomicUsize>);

impl Body for Untouched {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Poll::Ready(None)
    }
}

/// Everything is wrong in the first request, and one thing less in each that follows.
#[tokio::test]
async fn of_several_faults_the_first_is_answered_and_what_comes_after_it_is_not_touched() {
    for framework in Framework::ALL {
        eprintln!("{framework:?}");
        let script = Script::default();
        let store = FaultyStore::new();
        let (asked, read) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let count = asked.clone();
        let known = move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            async { Err::<bool, _>("the registry was asked") }
        };
        let receiver = builder(&script).dedup_store(store.clone()).known_jobs(known).build().unwrap();
        let server = Server::start(framework, receiver.clone()).await;
        let token = format!("?token={TOKEN}");
        let large = post(vec![b' '; 9999]);
        let all = large
            .clone()
            .method("PUT")
            .query("")
            .without("content-type")
            .header("content-type", "x/y")
            .header("content-encoding", "gzip");
        // What is read of a body that nobody asked for is discarded.
        let with_body = |request: &Draft| {
            let request = request.clone().header("expect", "100-continue").header("content-length", "9999");
            request.with_body(Untouched(read.clone()))
        };
        let steps = [
            (all.clone(), 405, "method_not_allowed"),
            (all.clone().method("POST"), 401, "unauthorized"),
            (all.clone().method("POST").query(&token), 415, "unsupported_media_type"),
            (all.clone().method("POST").query(&token).without("content-type"), 415, "unsupported_encoding"),
            (large, 413, "body_too_large"),
        ];
        for (request, status, code) in steps {
            let reply = request.send(server.address).await;
            assert_eq!(reply, expected(status, code, false));
            let reply = receiver.receive(with_body(&request)).await;
            assert_eq!(reply.status(), status, "{code}");
            assert_eq!(read.load(Ordering::SeqCst), 0, "{code}: the body was looked into");
        }
        for (text, status, code) in [("{", 400, "invalid_json"), ("{}", 422, "invalid_payload")] {
            assert_eq!(post(text).send(server.address).await, expected(status, code, true));
        }
        assert_eq!(asked.load(Ordering::SeqCst), 0, "the registry was asked about a request without a job");
        assert_eq!(post(body()).send(server.address).await, expected(503, "unavailable", true));
        assert_eq!(asked.load(Ordering::SeqCst), 1, "the registry was not asked");
        assert_eq!(
            (store.calls(Call::Claim), script.runs()),
            (0, 0),
            "the store was asked about an unknown job"
        );

        // After the method and the authentication, before anything else.
        receiver.shutdown(Duration::ZERO).await;
        for (request, status) in [(all.clone(), 405), (all.clone().method("POST"), 401), (post("{"), 503)] {
            let reply = receiver.receive(with_body(&request)).await;
            assert_eq!(reply.status(), status, "while shutting down");
        }
        assert_eq!(read.load(Ordering::SeqCst), 0, "a body was read while shutting down");
    }
}

struct Judge(&'static str);

#[async_trait]
impl Authenticator for Judge {
    async fn authenticate(
        &self,
        request: &Parts,
    ) -> Result<Access, Box<dyn std::error::Error + Send + Sync>> {
        assert!(request.uri.path().ends_with(PATH), "the target is not whole");
        match self.0 {
            "grants" => Ok(Access::Granted),
            "denies" => Ok(Access::Denied),
            "fails" => Err("the database is away".into()),
            "hangs" => std::future::pending().await,
            _ => panic!("an authenticator's bug"),
        }
    }
}

#[tokio::test]
async fn an_authenticator_that_cannot_decide_is_503_and_nothing_is_read() {
    for framework in Framework::ALL {
        eprintln!("{framework:?}");
        for (conduct, status, code, read) in [
            ("grants", 200, "", true),
            ("denies", 401, "unauthorized", false),
            ("fails", 503, "unavailable", false),
            ("hangs", 503, "unavailable", false),
            ("panics", 503, "unavailable", false),
        ] {
            let script = Script::default();
            let deadline = Duration::from_millis(200);
            let receiver =
                builder(&script).authenticator(Judge(conduct)).ack_deadline(deadline).build().unwrap();
            let server = Server::start(framework, receiver).await;
            let reply = post(body()).query("").send(server.address).await;
            assert_eq!(reply, expected(status, code, read), "{conduct}");
        }
    }
}

#[tokio::test]
async fn a_job_that_was_not_started_here_is_404_after_two_seconds() {
    let answers = Framework::ALL.map(|framework| {
        tokio::spawn(async move {
            let script = Script::default();
            let nobody = |_| async { Ok::<_, Infallible>(false) };
            let server = Server::start(framework, builder(&script).known_jobs(nobody).build().unwrap()).await;
            let began = std::time::Instant::now();
            let reply = post(body()).send(server.address).await;
            assert_eq!(reply, expected(404, "unknown_job", true), "{framework:?}");
            // Two seconds, and what a busy machine adds; the deadline would come after 4.5.
            assert!((2..4).contains(&began.elapsed().as_secs()), "{framework:?}: {:?}", began.elapsed());
            assert_eq!(script.runs(), 0, "{framework:?}");
        })
    });
    for answer in answers {
        answer.await.unwrap();
    }
}

#[tokio::test]
async fn under_a_prefix_it_is_the_same() {
    for framework in Framework::ALL {
        let script = Script::default();
        let server = Server::start(framework, builder(&script).build().unwrap()).await;
        let target = |query: &str| format!("/tenant{PATH}{query}");
        let good = post(body()).target(target(&format!("?x=%2F&token={TOKEN}")));
        assert_eq!(good.send(server.address).await, expected(200, "", true), "{framework:?}");
        let refused = post(body()).target(target("")).send(server.address).await;
        assert_eq!(refused, expected(401, "unauthorized", false), "{framework:?}");
        assert_eq!(script.runs(), 1);
    }
}
