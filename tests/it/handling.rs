//! The answer to what was read: every end of the handler, and what cannot be taken now.

use std::sync::Arc;
use std::time::Duration;

use qomplement_webhooks::MemoryDedupStore;
use qomplement_webhooks::receiver::WebhookReceiverBuilder;

use crate::answers::{LIMIT, body, builder, expected};
use crate::support::http::post;
use crate::support::servers::{Framework, Server};
use crate::support::{Act, Call, FAULTS, FaultyStore, Gate, Script};

#[tokio::test]
async fn each_end_of_the_handler_has_its_answer() {
    for framework in Framework::ALL {
        eprintln!("{framework:?}");
        for (act, status, code) in [
            (Act::Succeed, 200, ""),
            (Act::FailPermanently, 200, ""),
            (Act::Fail, 503, "handler_failed"),
            (Act::FailFor(Duration::from_secs(3600)), 503, "handler_failed"),
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
        // The limit, and whether the body of what is over it is read.
        let limits: [(Limit, bool); 2] = [
            (|builder| builder.max_handlers_in_flight(1), true),
            (|builder| builder.max_body_bytes_in_flight(LIMIT), false),
        ];
        for (limit, read) in limits {
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
            assert_eq!(refused, expected(503, "unavailable", read), "what is over the limit");
            assert_eq!(script.runs(), 1, "what is over the limit was handled");
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
