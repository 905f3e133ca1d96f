//! Work that outlives its request.

use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use tokio::runtime::Handle;
use tokio::time::{Instant, sleep_until};
use tracing::{Instrument, Span, error, info};

use super::Reply;
use crate::execution::isolation::{isolate, until};

/// The answer that is due at the ack deadline, whether or not the work is done.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    deadline: Instant,
    given: Arc<OnceLock<Reply>>,
}

impl Answer {
    pub(super) fn due_at(deadline: Instant) -> Self {
        Self { deadline, given: Arc::default() }
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Answers now; the work goes on. Only the first answer counts.
    pub(super) fn give(&self, reply: Reply) {
        let _ = self.given.set(reply);
    }

    /// Waits for a future to its end, and answers in the middle of it if the deadline passes.
    pub(super) async fn or_at_deadline<F: Future + Unpin>(&self, reply: Reply, mut future: F) -> F::Output {
        if self.given.get().is_none() {
            match until(&mut future, || sleep_until(self.deadline)).await {
                Ok(output) => return output,
                Err(()) => self.give(reply),
            }
        }
        future.await
    }
}

/// Polls work as a part of its request for as long as there is one, which costs nothing, and hands
/// the remainder to the runtime when the request ends first: because the client left, or because
/// the [`Answer`] was due.
pub(super) struct Detachable {
    /// `None` when it is done.
    work: Option<Pin<Box<dyn Future<Output = Reply> + Send>>>,
    answer: Answer,
    /// Of the moment when the work began: a drop can happen outside of every runtime.
    runtime: Handle,
    span: Span,
}

impl Detachable {
    pub(super) fn new(
        answer: Answer,
        runtime: Handle,
        work: impl Future<Output = Reply> + Send + 'static,
    ) -> Self {
        Self { work: Some(Box::pin(work)), answer, runtime, span: Span::current() }
    }
}

/// Work whose panics are caught. The handler has a catch of its own, which releases its claim; this one
/// is for what no row of the table foresees, such as a handler's future that panics while it is dropped.
fn caught(work: impl Future<Output = Reply> + Unpin) -> impl Future<Output = Reply> {
    let mut work = isolate(work);
    std::future::poll_fn(move |context| {
        Pin::new(&mut work).poll(context).map(|reply| {
            reply.unwrap_or_else(|panicked| {
                error!(%panicked, "the webhook was not handled to the end");
                Reply::HandlerPanicked
            })
        })
    })
}

impl Future for Detachable {
    type Output = Reply;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Reply> {
        let polled = self.work.as_mut().map(|work| pin!(caught(work)).poll(context));
        if let Some(Poll::Ready(reply)) = polled {
            self.work = None;
            return Poll::Ready(reply);
        }
        match self.answer.given.get() {
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
