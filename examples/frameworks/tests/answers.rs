//! Every request of the library's table gets the same answer in each framework, over real connections.

mod gateway;
mod support;
#[path = "../src/bin/with_lambda.rs"]
#[allow(dead_code)]
mod with_lambda;
#[path = "../src/bin/with_poem.rs"]
#[allow(dead_code)]
mod with_poem;
#[path = "../src/bin/with_salvo.rs"]
#[allow(dead_code)]
mod with_salvo;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use poem::listener::TcpAcceptor;
use qomplement_webhooks::{SharedToken, WebhookEvent, WebhookReceiver, handler_fn};
use salvo::conn::tcp::TcpAcceptor as SalvoAcceptor;
use tokio::net::TcpListener;

use self::support::answers::{LIMIT, body, expected, good, refused};
use self::support::http::{Reply, post};
use self::support::{PATH, TOKEN};

/// A receiver, and the number of events that it has handled.
fn receiver() -> (WebhookReceiver, Arc<AtomicUsize>) {
    let handled = Arc::new(AtomicUsize::new(0));
    let count = handled.clone();
    let handler = handler_fn(move |_: WebhookEvent| {
        count.fetch_add(1, Ordering::SeqCst);
        async { Ok(()) }
    });
    let receiver = WebhookReceiver::builder(handler).token(SharedToken::new(TOKEN).unwrap());
    (receiver.max_body_bytes(LIMIT).build().unwrap(), handled)
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Sends every request of the table.
async fn answers_by_the_table(address: SocketAddr) {
    for (status, code, read, rows) in refused() {
        for (what, request) in rows {
            assert_eq!(request.send(address).await, expected(status, code, read), "{code}: {what}");
        }
    }
    for (what, request) in good() {
        assert_eq!(request.send(address).await, expected(200, "", true), "{what}");
    }
    let head = post("").method("HEAD").send(address).await;
    assert_eq!(head, Reply { body: String::new(), ..expected(405, "method_not_allowed", true) }, "HEAD");
    let nested = post(body()).target(format!("/tenant{PATH}?x=%2F&token={TOKEN}"));
    assert_eq!(nested.send(address).await, expected(200, "", true), "under a prefix");
}

#[tokio::test]
async fn poem_answers_by_the_table() {
    let (receiver, handled) = receiver();
    let (listener, address) = listen().await;
    let app = with_poem::app(receiver.clone()).nest("/tenant", with_poem::app(receiver));
    let acceptor = TcpAcceptor::from_tokio(listener).unwrap();
    tokio::spawn(poem::Server::new_with_acceptor(acceptor).run(app));
    answers_by_the_table(address).await;
    assert_eq!(handled.load(Ordering::SeqCst), good().len() + 1);
}

#[tokio::test]
async fn salvo_answers_by_the_table() {
    let (receiver, handled) = receiver();
    let (listener, address) = listen().await;
    let nested = salvo::Router::with_path("tenant").push(with_salvo::app(receiver.clone()));
    let app = salvo::Router::new().push(with_salvo::app(receiver)).push(nested);
    let acceptor = SalvoAcceptor::try_from(listener).unwrap();
    tokio::spawn(salvo::Server::new(acceptor).serve(app));
    answers_by_the_table(address).await;
    assert_eq!(handled.load(Ordering::SeqCst), good().len() + 1);
}

#[tokio::test]
async fn a_lambda_function_answers_by_the_table() {
    let (listener, address) = listen().await;
    let _function = gateway::serve(listener, address);
    answers_by_the_table(address).await;
}

/// The process of the function above.
#[test]
#[ignore = "started by another test"]
fn function() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(with_lambda::run(receiver().0)).unwrap();
}
