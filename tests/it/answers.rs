//! The answer to every request: one table, over real connections.

use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use qomplement_webhooks::sender::Payload;
use qomplement_webhooks::{
    Access, Authenticator, MemoryDedupStore, SharedToken, WebhookReceiver, WebhookReceiverBuilder,
    async_trait,
};

use crate::http::{Draft, Reply, chunked, post};
use crate::servers::{Framework, Server};
use crate::support::{Act, Call, FAULTS, FaultyStore, Gate, PATH, Script, TOKEN};

pub const RECEIVED: &str = r#"{"received":true}"#;

pub fn builder(script: &Script) -> WebhookReceiverBuilder {
    WebhookReceiver::builder(script.handler()).token(SharedToken::new(TOKEN).unwrap()).max_body_bytes(2000)
}

pub fn body() -> Vec<u8> {
    Payload::extract_completed().to_bytes().to_vec()
}

/// A reply as it must be, byte for byte.
pub fn expected(status: u16, code: &str, read: bool) -> Reply {
    let message = match code {
        "" => "",
        "in_progress" => "another copy of this webhook is still being handled",
        "handler_failed" => "the handler failed",
        "handler_panicked" => "the handler panicked",
        "handler_timeout" => "the handler did not finish in time",
        "unavailable" => "the receiver cannot take webhooks at the moment",
        "method_not_allowed" => "webhooks are sent with POST",
        "unauthorized" => "the token is missing, wrong or given twice",
        "unsupported_media_type" => "the content type must be JSON",
        "unsupported_encoding" => "the body must not be encoded",
        "body_too_large" => "the body is too large",
        "body_timeout" => "the body was not complete in time",
        "invalid_json" => "the body is not one JSON value in UTF-8",
        "invalid_payload" => "job_id, data.id, data.type or data.status is missing or unreadable",
        "job_id_mismatch" => "job_id is not data.id",
        "unknown_job" => "no such job was started here",
        other => panic!("{other} is not in the table"),
    };
    let body = match code {
        "" => RECEIVED.to_owned(),
        code => format!(r#"{{"received":false,"error":{{"code":"{code}","message":"{message}"}}}}"#),
    };
    let length = body.len().to_string();
    let mut headers = vec![("content-type", "application/json"), ("content-length", &length)];
    match status {
        503 => headers.push(("retry-after", "5")),
        405 => headers.push(("allow", "POST")),
        401 => headers.push(("www-authenticate", "Bearer")),
        _ => {}
    }
    if !read {
        headers.push(("connection", "close"));
    }
    let headers = headers.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    Reply { status, headers, body }
}

#[tokio::test]
async fn every_request_gets_the_answer_of_its_row() {
    for framework in Framework::ALL {
        eprintln!("{framework:?}");
        let script = Script::default();
        let server = Server::start(framework, builder(&script).build().unwrap()).await;
        let bearer = format!("Bearer {TOKEN}");
        let with = |text: &str| post(text);
        let large = vec![b' '; 2001];
        let mut exact = body();
        exact.resize(2000, b' ');
        // (what it is, the request, the status, the code, whether the body was read)
        let rows: Vec<(&str, Draft, u16, &str, bool)> = vec![
            ("good", post(body()), 200, "", true),
            ("bearer", post(body()).query("").header("authorization", &bearer), 200, "", true),
            ("percent-encoded token", post(body()).query(&format!("?x=%20&%74oken={TOKEN}")), 200, "", true),
            ("no content type", post(body()).without("content-type"), 200, "", true),
            (
                "parameters",
                post(body()).without("content-type").header("content-type", "Application/JSON ; charset=x"),
                200,
                "",
                true,
            ),
            (
                "+json",
                post(body()).without("content-type").header("content-type", "application/vnd.q+JSON"),
                200,
                "",
                true,
            ),
            ("identity", post(body()).header("content-encoding", "Identity"), 200, "", true),
            ("exactly at the limit", post(&exact), 200, "", true),
            ("PUT", post(body()).method("PUT"), 405, "method_not_allowed", false),
            ("DELETE without a body", post("").method("DELETE"), 405, "method_not_allowed", true),
            ("GET", post("").method("GET"), 405, "method_not_allowed", true),
            ("OPTIONS", post("").method("OPTIONS"), 405, "method_not_allowed", true),
            ("no token", post(body()).query(""), 401, "unauthorized", false),
            ("no token and no body", post("").query(""), 401, "unauthorized", true),
            ("wrong token", post(body()).query("?token=x"), 401, "unauthorized", false),
            (
                "token twice",
                post(body()).query(&format!("?token={TOKEN}&token={TOKEN}")),
                401,
                "unauthorized",
                false,
            ),
            (
                "token in both places",
                post(body()).header("authorization", &bearer),
                401,
                "unauthorized",
                false,
            ),
            (
                "bearer twice",
                post(body()).query("").header("authorization", &bearer).header("authorization", &bearer),
                401,
                "unauthorized",
                false,
            ),
            (
                "text",
                post(body()).without("content-type").header("content-type", "text/plain"),
                415,
                "unsupported_media_type",
                false,
            ),
            (
                "jsonx",
                post(body()).without("content-type").header("content-type", "application/jsonx"),
                415,
                "unsupported_media_type",
                false,
            ),
            (
                "+json of nothing",
                post(body()).without("content-type").header("content-type", "application/+json"),
                415,
                "unsupported_media_type",
                false,
            ),
            (
                "two types",
                post(body()).header("content-type", "text/plain"),
                415,
                "unsupported_media_type",
                false,
            ),
            ("gzip", post(body()).header("content-encoding", "gzip"), 415, "unsupported_encoding", false),
            (
                "gzip after identity",
                post(body()).header("content-encoding", "identity").header("content-encoding", "gzip"),
                415,
                "unsupported_encoding",
                false,
            ),
            ("too large", post(&large), 413, "body_too_large", false),
            (
                "too large in chunks",
                post(chunked(&large, 700)).undeclared().header("transfer-encoding", "chunked"),
                413,
                "body_too_large",
                false,
            ),
            (
                "chunks",
                post(chunked(&body(), 7)).undeclared().header("transfer-encoding", "chunked"),
                200,
                "",
                true,
            ),
            ("no body", post(""), 400, "invalid_json", true),
            ("cut off", with(r#"{"job_id""#), 400, "invalid_json", true),
            ("not UTF-8", post(b"\"\xff\""), 400, "invalid_json", true),
            ("byte-order mark", post(b"\xef\xbb\xbf{}"), 400, "invalid_json", true),
            ("two values", with("{}{}"), 400, "invalid_json", true),
            ("repeated key", with(r#"{"job_id":"j","job\u005fid":"j"}"#), 400, "invalid_json", true),
            ("no object", with("[]"), 422, "invalid_payload", true),
            ("no data", with(r#"{"job_id":"j"}"#), 422, "invalid_payload", true),
            (
                "bad id",
                with(r#"{"job_id":"j j","data":{"id":"j j","type":"extract","status":"failed"}}"#),
                422,
                "invalid_payload",
                true,
            ),
            (
                "two jobs",
                with(r#"{"job_id":"j","data":{"id":"k","type":"extract","status":"failed"}}"#),
                422,
                "job_id_mismatch",
                true,
            ),
        ];
        let mut handled = 0;
        for (what, request, status, code, read) in rows {
            let reply = request.send(server.address).await;
            assert_eq!(reply, expected(status, code, read), "{what}");
            handled += usize::from(status == 200);
            assert_eq!(script.runs(), handled, "{what}: acknowledged and handled are not the same");
        }
        let head = post("").method("HEAD").send(server.address).await;
        assert_eq!((head.status, head.headers["allow"].as_str(), head.body.as_str()), (405, "POST", ""));
    }
}

#[tokio::test]
async fn of_several_faults_the_first_in_the_order_of_checks_is_answered() {
    for framework in Framework::ALL {
        eprintln!("{framework:?}");
        let script = Script::default();
        let store = FaultyStore::new();
        let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let count = asked.clone();
        let known = move |_| {
            count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            async { Err::<bool, _>("the registry was asked") }
        };
        let receiver = builder(&script).dedup_store(store.clone()).known_jobs(known).build().unwrap();
        let server = Server::start(framework, receiver).await;
        // Everything is wrong, then one thing less each time.
        let all = post("{")
            .method("PUT")
            .query("")
            .without("content-type")
            .header("content-type", "x/y")
            .header("content-encoding", "gzip");
        let token = format!("?token={TOKEN}");
        let steps = [
            (all.clone(), "method_not_allowed"),
            (all.clone().method("POST"), "unauthorized"),
            (all.clone().method("POST").query(&token), "unsupported_media_type"),
            (all.clone().method("POST").query(&token).without("content-type"), "unsupported_encoding"),
            (post("{"), "invalid_json"),
            (post("{}"), "invalid_payload"),
        ];
        for (request, code) in steps {
            let reply = request.send(server.address).await;
            assert!(reply.body.contains(&format!("\"{code}\"")), "{code}: {reply:?}");
            assert_eq!(
                asked.load(std::sync::atomic::Ordering::SeqCst),
                0,
                "the registry was asked before: {code}"
            );
        }
        let reply = post(body()).send(server.address).await;
        assert_eq!(reply, expected(503, "unavailable", true));
        assert_eq!(
            (store.calls(Call::Claim), script.runs()),
            (0, 0),
            "the store was asked about an unknown job"
        );
    }
}

#[tokio::test]
async fn each_end_of_the_handler_has_its_answer() {
    for framework in Framework::ALL {
        eprintln!("{framework:?}");
        for (act, status, code) in [
            (Act::Succeed, 200, ""),
            (Act::FailForGood, 200, ""),
            (Act::Fail, 503, "handler_failed"),
            (Act::Panic, 500, "handler_panicked"),
            (Act::Hang, 503, "handler_timeout"),
        ] {
            let script = Script::new([act]);
            let deadline = Duration::from_millis(300);
            let server =
                Server::start(framework, builder(&script).ack_deadline(deadline).build().unwrap()).await;
            let request = post(body());
            assert_eq!(request.send(server.address).await, expected(status, code, true));
            let again = request.send(server.address).await;
            match status {
                200 => {
                    assert_eq!(
                        (again, script.runs()),
                        (expected(200, "", true), 1),
                        "the copy of a finished job"
                    );
                }
                _ if code == "handler_timeout" => {
                    assert_eq!(
                        (again, script.runs()),
                        (expected(503, "in_progress", true), 1),
                        "it still runs"
                    );
                }
                _ => assert_eq!(
                    (again, script.runs()),
                    (expected(status, code, true), 2),
                    "a failure is tried again"
                ),
            }
        }
    }
}

#[tokio::test]
async fn what_cannot_be_taken_now_is_answered_503_and_handled_later() {
    for framework in Framework::ALL {
        eprintln!("{framework:?}");
        let script = Script::default();
        let store = FaultyStore::new().fail(Call::Claim, FAULTS.map(Some));
        let deadline = Duration::from_millis(300);
        let receiver = builder(&script).dedup_store(store).ack_deadline(deadline).build().unwrap();
        let server = Server::start(framework, receiver.clone()).await;
        for fault in FAULTS {
            let reply = post(body()).send(server.address).await;
            assert_eq!(reply, expected(503, "unavailable", true), "{fault:?}");
        }
        assert_eq!(script.runs(), 0);
        assert_eq!(post(body()).send(server.address).await, expected(200, "", true));
        assert_eq!(receiver.shutdown(Duration::from_secs(5)).await, 0);
        assert_eq!(
            post(body()).send(server.address).await,
            expected(503, "unavailable", false),
            "it is shutting down"
        );
        assert_eq!(
            post(body()).query("").send(server.address).await.status,
            401,
            "strangers learn nothing of it"
        );

        let full = Arc::new(MemoryDedupStore::with_capacity(1));
        let receiver = builder(&script).dedup_store(full).build().unwrap();
        let server = Server::start(framework, receiver).await;
        assert_eq!(post(body()).send(server.address).await, expected(200, "", true));
        assert_eq!(
            post(body()).send(server.address).await,
            expected(503, "unavailable", true),
            "the store is full"
        );
    }
}

#[tokio::test]
async fn the_limits_on_what_is_in_flight_hold_and_end_with_the_work() {
    for framework in Framework::ALL {
        eprintln!("{framework:?}");
        type Limit = fn(WebhookReceiverBuilder) -> WebhookReceiverBuilder;
        let limits: [Limit; 2] =
            [|builder| builder.max_handlers_in_flight(1), |builder| builder.max_body_bytes_in_flight(2000)];
        for limit in limits {
            let gate = Arc::new(Gate::default());
            let script = Script::new([Act::Wait(gate.clone()), Act::Succeed]);
            let receiver = limit(builder(&script)).ack_deadline(Duration::from_millis(300)).build().unwrap();
            let server = Server::start(framework, receiver).await;
            let (mut large, mut second) = (body(), body());
            large.resize(1900, b' ');
            second.resize(1000, b' ');
            assert_eq!(post(&large).send(server.address).await, expected(503, "handler_timeout", true));
            // The first request is answered, but its handler runs and its body is in memory.
            let refused = post(&second).send(server.address).await;
            assert_eq!((refused.status, script.runs()), (503, 1), "{refused:?}");
            gate.go_on.notify_one();
            script.until("the first handler ends", |script| script.finished() == 1).await;
            let copy = post(&large).send(server.address).await;
            assert_eq!(copy, expected(200, "", true), "the first is not done");
            assert_eq!(
                post(&second).send(server.address).await,
                expected(200, "", true),
                "the room is not given back"
            );
        }
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
            let nobody = |_| async { Ok::<_, std::convert::Infallible>(false) };
            let server = Server::start(framework, builder(&script).known_jobs(nobody).build().unwrap()).await;
            let began = std::time::Instant::now();
            let reply = post(body()).send(server.address).await;
            assert_eq!(reply, expected(404, "unknown_job", true), "{framework:?}");
            assert_eq!((began.elapsed().as_secs(), script.runs()), (2, 0), "{framework:?}");
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
