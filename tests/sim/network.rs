//! The way of a webhook from the sender to a process, and of its answer.

use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use qomplement_webhooks::BoxError;
use qomplement_webhooks::event::Envelope;
use tokio::time::{sleep, timeout};
use tower_service::Service;

use crate::process::Node;
use crate::world::World;

type Answer = Result<Response<Full<Bytes>>, BoxError>;

/// The time in which a request must be answered: the ack deadline, and the tick of the clock.
const ANSWERED: Duration = Duration::from_millis(4502);

#[derive(Clone)]
pub struct Network(pub Arc<World>);

impl Service<Request<Full<Bytes>>> for Network {
    type Response = Response<Full<Bytes>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Answer> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Full<Bytes>>) -> Self::Future {
        let world = self.0.clone();
        Box::pin(async move {
            let body = request.into_body().collect().await?.to_bytes();
            carry(world, body).await
        })
    }
}

async fn carry(world: Arc<World>, body: Bytes) -> Answer {
    let Some(dice) = world.strikes("network", 0) else { return deliver(&world, body).await };
    let (which, time) = (dice.of("fault", 0).below(6), dice.of("time", 0).millis(1..=9000));
    world.note(format_args!("network: fault {which}, {time:?}"));
    match which {
        0 => Err("the connection was refused".into()),
        1 => {
            sleep(time).await;
            deliver(&world, body).await
        }
        // The answer is lost.
        2 => {
            let _ = deliver(&world, body).await;
            pending().await
        }
        // The connection breaks.
        3 => timeout(time, deliver(&world, body)).await?,
        // The request arrives twice.
        4 => {
            let (other, duplicate) = (world.clone(), body.clone());
            tokio::spawn(async move { deliver(&other, duplicate).await });
            deliver(&world, body).await
        }
        // The request arrives although the sender has left.
        _ => {
            tokio::spawn(async move {
                sleep(time).await;
                deliver(&world, body).await
            });
            pending().await
        }
    }
}

async fn deliver(world: &Arc<World>, body: Bytes) -> Answer {
    let Some(node) = world.route() else { return Err("no process listens".into()) };
    let event = Envelope::try_from(body.clone())?;
    let began = world.now();
    world.tell(|ledger| {
        ledger.sent(&event);
        Ok(())
    });
    let response = received(&node, body).await?;
    let (status, took) = (response.status(), world.now() - began);
    world.note(format_args!("{}: p{} answers {status} after {took:?}", event.job(), node.process.number));
    if took > ANSWERED && !world.tell(|ledger| Ok(ledger.disturbed_since(began))) {
        world.fail(format!("{}: answered after {took:?}", event.job()));
    }
    if status.is_success() {
        let row = if world.is_durable() { world.database.row(event.job()) } else { None };
        world.tell(|ledger| ledger.acknowledged(&event, row));
    }
    Ok(response)
}

/// Lets a process receive a webhook.
async fn received(node: &Node, body: Bytes) -> Answer {
    let request = Request::post("/").header("content-type", "application/json").body(Full::new(body))?;
    tokio::select! {
        biased;
        () = node.process.died() => Err("the connection broke".into()),
        response = node.receiver.receive(request) => Ok(response),
    }
}
