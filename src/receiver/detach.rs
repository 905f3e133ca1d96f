//! Work that may outlive its request.

use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use tokio::runtime::Handle;
use tokio::time::{Instant, sleep_until};
use tracing::{Instrument, Span, error, info};

use super::reply::WebhookReply;
use crate::execution::isolation::{isolate, until};

/// The reply to a request, due at the ack deadline even if the work is not done.
#[derive(Debug, Clone)]
pub(super) struct PendingReply {
    deadline: Instant,
    sent: Arc<OnceLock<WebhookReply>>,
}

impl PendingReply {
    pub(super) fn due_at(deadline: Instant) -> Self {
        Self { deadline, sent: Arc::default() }
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Replies now; the work continues. Only the first reply counts.
    pub(super) fn send(&self, reply: WebhookReply) {
        let _ = self.sent.set(reply);
    }

    /// Runs a future to its end, and sends the reply at the deadline if the future has not ended by then.
    pub(super) async fn or_at_deadline<F: Future + Unpin>(
        &self,
        reply: WebhookReply,
        mut future: F,
    ) -> F::Output {
        if self.sent.get().is_none() {
            match until(&mut future, || sleep_until(self.deadline)).await {
                Ok(output) => return output,
                Err(()) => self.send(reply),
            }
        }
        future.await
    }
}

/// Work that is polled as a part of its request, and moves to a task of its own if the request ends first:
/// because the client left, or because the [`PendingReply`] was due. A task for every request would cost more.
pub(super) struct Detachable {
    /// `None` once the work is done.
    work: Option<Pin<Box<dyn Future<Output = WebhookReply> + Send>>>,
    pending: PendingReply,
    /// The runtime in which the work began, because a drop can happen outside any runtime.
    runtime: Handle,
    span: Span,
}

impl Detachable {
    pub(super) fn new(
        pending: PendingReply,
        runtime: Handle,
        work: impl Future<Output = WebhookReply> + Send + 'static,
    ) -> Self {
        Self { work: Some(Box::pin(work)), pending, runtime, span: Span::current() }
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
        let polled = self.work.as_mut().map(|work| pin!(caught(work)).poll(context));
        if let Some(Poll::Ready(reply)) = polled {
            self.work = None;
            return Poll::Ready(reply);
        }
        match self.pending.sent.get() {
            Some(reply) => Poll::Ready(*reply),
            None => Poll::Pending,
        }
    }
}

impl Drop for Detachable {
    fn drop(&mut self) {
        let Some(work) = self.work.take() else { return };
        let remainder = async move {
            let reply = caught(work).await;
            info!(outcome = reply.outcome(), "finished after the request had ended");
        };
        self.runtime.spawn(remainder.instrument(self.span.clone()));
    }
}
