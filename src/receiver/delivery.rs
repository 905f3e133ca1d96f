//! A delivery whose body has been read, and its work, which may outlive the request.

use std::fmt;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::runtime::Handle;
use tokio::task::{Unconstrained, unconstrained};
use tokio::time::{Instant, Sleep, sleep_until};
use tracing::{Instrument, Span, error, info};

use super::body::BytesInFlight;
use super::claims::ClaimHandle;
use super::reply::WebhookReply;
use crate::execution::drain::UnderWay;
use crate::execution::isolation::isolate;

/// One delivery, shared by its request, its work and the renewals of its claim.
pub(super) struct Delivery {
    /// The claim on the delivery's job; `None` in durable mode. Dropped before `under_way`, because the release of an
    /// abandoned claim counts as further work.
    pub(super) claim: Option<ClaimHandle>,
    /// The ack deadline.
    pub(super) deadline: Instant,
    /// The runtime in which the work began, because a drop can happen outside any runtime.
    pub(super) runtime: Handle,
    pub(super) span: Span,
    early: Mutex<EarlyReply>,
    _in_flight: BytesInFlight,
    _under_way: UnderWay,
}

/// The reply to a delivery whose work has not ended.
#[derive(Default)]
struct EarlyReply {
    /// `None` while the work itself looks at the ack deadline.
    reply: Option<WebhookReply>,
    /// Whether the reply is sent as soon as there is one: the ack deadline has passed, or the work wants no more time.
    is_due: bool,
}

impl Delivery {
    pub(super) fn new(
        claim: Option<ClaimHandle>,
        deadline: Instant,
        runtime: Handle,
        span: Span,
        in_flight: BytesInFlight,
        under_way: UnderWay,
    ) -> Self {
        let early = Mutex::default();
        Self { claim, deadline, runtime, span, early, _in_flight: in_flight, _under_way: under_way }
    }

    /// Replies at the ack deadline if the work has not ended by then; the work continues.
    pub(super) fn reply_at_deadline(&self, reply: WebhookReply) {
        self.early().reply = Some(reply);
    }

    /// Replies now, as at the ack deadline.
    pub(super) fn reply_now(&self) {
        self.early().is_due = true;
    }

    fn early(&self) -> MutexGuard<'_, EarlyReply> {
        self.early.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EarlyReply {
    /// Waits until a reply is due although the work has not ended. The work has been polled just before: it may have
    /// named the reply then.
    fn poll(
        &mut self,
        timer: &mut Option<Pin<Box<Unconstrained<Sleep>>>>,
        deadline: Instant,
        context: &mut Context<'_>,
    ) -> Poll<WebhookReply> {
        if !self.is_due {
            // Without a budget, which the work may have used up.
            let timer = timer.get_or_insert_with(|| Box::pin(unconstrained(sleep_until(deadline))));
            self.is_due = timer.as_mut().poll(context).is_ready();
        }
        match self.reply {
            Some(reply) if self.is_due => Poll::Ready(reply),
            _ => Poll::Pending,
        }
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery").field("claim", &self.claim).finish_non_exhaustive()
    }
}

type Work = Pin<Box<dyn Future<Output = WebhookReply> + Send>>;

/// Work that is polled as a part of its request, and moves to a task of its own if the request ends first:
/// because the client left, or because the reply was due. A task for every request would cost more.
pub(super) struct Detachable {
    /// The work, and the delivery that it is about; `None` once the work is done.
    under_way: Option<(Work, Arc<Delivery>)>,
    /// Made when the work first waits: nearly all work does not.
    ack_deadline: Option<Pin<Box<Unconstrained<Sleep>>>>,
}

impl Detachable {
    pub(super) fn new(
        delivery: Arc<Delivery>,
        work: impl Future<Output = WebhookReply> + Send + 'static,
    ) -> Self {
        Self { under_way: Some((Box::pin(work), delivery)), ack_deadline: None }
    }
}

/// Catches the panics of work. The handler's own panics are caught before, so that its claim is released;
/// the rest are rare, such as a handler's future that panics in its drop.
fn caught(work: impl Future<Output = WebhookReply> + Unpin) -> impl Future<Output = WebhookReply> {
    let mut work = isolate(work);
    std::future::poll_fn(move |context| {
        Pin::new(&mut work).poll(context).map(|reply| {
            reply.unwrap_or_else(|panicked| {
                error!(%panicked, "processing the webhook panicked; answering 500");
                WebhookReply::HandlerPanicked
            })
        })
    })
}

impl Future for Detachable {
    type Output = WebhookReply;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<WebhookReply> {
        let Self { under_way, ack_deadline } = &mut *self;
        let Some((work, delivery)) = under_way else { return Poll::Pending };
        let polled = pin!(caught(work)).poll(context);
        if let Poll::Ready(reply) = polled {
            *under_way = None;
            return Poll::Ready(reply);
        }
        delivery.early().poll(ack_deadline, delivery.deadline, context)
    }
}

impl Drop for Detachable {
    fn drop(&mut self) {
        let Some((work, delivery)) = self.under_way.take() else { return };
        let (runtime, span) = (delivery.runtime.clone(), delivery.span.clone());
        // Before the work can end in another thread: the last holder releases an abandoned claim, which needs a runtime.
        drop(delivery);
        let remainder = async move {
            let reply = caught(work).await;
            info!(outcome = reply.outcome(), "finished after the request had ended");
        };
        runtime.spawn(remainder.instrument(span));
    }
}
