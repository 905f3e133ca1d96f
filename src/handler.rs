//! What the user implements.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use crate::error::BoxError;
use crate::event::{ExtractResult, FillResult, Job, JobError, JobStatus, WebhookEvent};

/// Your code: what to do when a job has ended.
///
/// In inline mode the sender's answer waits for the method: `Ok` becomes 200, an error 503, after
/// which the sender tries again (at 5 and at 15 seconds, then never). What outlives the ack deadline
/// goes on in the background, and its outcome is what the next copy of the webhook meets. In durable mode
/// an [`InboxWorker`](crate::InboxWorker) calls the method, until it returns `Ok` or the event is dead.
///
/// # What is guaranteed
///
/// - Of all copies of one job's webhook, one at a time runs a method, over all receivers that share
///   a [`DedupStore`](crate::DedupStore), or all workers on an [inbox](crate::InboxStore). After `Ok` none
///   runs until the retention ends.
/// - A panic is caught, logged, and counts as a failure that another try may mend.
/// - A method may be dropped at any await: when it runs longer than `max_handler_time`, when the lease
///   is lost, or when a shutdown runs out of grace. A client that disconnects does not drop it.
///
/// It is *at least once*, not exactly once: a process that dies after your effect and before the
/// store's write runs the method again. Make effects idempotent, with [`Job::id`] as the key.
///
/// A method must not block its thread: hand blocking work to `tokio::task::spawn_blocking`.
///
/// # Examples
///
/// ```
/// use qomplement_webhooks::{async_trait, ExtractResult, FillResult, HandlerError, Job, JobError, WebhookHandler};
///
/// struct Invoices;
///
/// #[async_trait]
/// impl WebhookHandler for Invoices {
///     async fn extract_completed(&self, job: &Job, result: ExtractResult) -> Result<(), HandlerError> {
///         let fields = result.fields.ok_or_else(|| HandlerError::permanent("no fields"))?;
///         println!("{}: {}", job.id(), fields.get::<String>("total_amount")?.unwrap_or_default());
///         Ok(())
///     }
///     async fn fill_completed(&self, job: &Job, result: FillResult) -> Result<(), HandlerError> {
///         println!("{}: {:?}", job.id(), result.download_url);
///         Ok(())
///     }
///     async fn job_failed(&self, job: &Job, error: JobError) -> Result<(), HandlerError> {
///         println!("{}: {:?}", job.id(), error.message);
///         Ok(())
///     }
/// }
/// ```
#[async_trait]
pub trait WebhookHandler: Send + Sync + 'static {
    /// An extraction has finished.
    async fn extract_completed(&self, job: &Job, result: ExtractResult) -> Result<(), HandlerError>;

    /// A form has been filled; [`Job::job_type`] says whether PDF or Excel.
    async fn fill_completed(&self, job: &Job, result: FillResult) -> Result<(), HandlerError>;

    /// A job has failed; the sender does not try it again.
    async fn job_failed(&self, job: &Job, error: JobError) -> Result<(), HandlerError>;

    /// A type or status that this version does not know, or a result that it cannot read. `status` is
    /// the job's, as the body says it; [`Job::raw`] has the body.
    ///
    /// Fails unless implemented, so that nothing is acknowledged that nobody handled; in durable mode the event
    /// is dead in the end, and can be replayed when this crate, or your handler, knows it. `Ok` after an
    /// unknown *status* is never the last word: a later `completed` is handled.
    async fn unrecognized(&self, job: &Job, status: JobStatus) -> Result<(), HandlerError> {
        let _ = (job, status);
        Err(unhandled())
    }
}

/// Why a handler did not finish its work.
///
/// Made by `?` from any error, from `anyhow::Error` and from strings; then another try may succeed.
/// [`HandlerError::permanent`] makes one that no further try can mend.
///
/// It does not implement [`Error`] itself, as `?` could not convert any error into it then;
/// [`source`](Self::source) is the error within.
pub struct HandlerError {
    source: BoxError,
    permanent: bool,
}

impl HandlerError {
    /// Another try is useless, and the error is logged. Inline, the webhook is acknowledged, and the job
    /// remembered as done; in durable mode the event is dead.
    pub fn permanent(error: impl Into<BoxError>) -> Self {
        Self { source: error.into(), permanent: true }
    }

    /// Whether another try is useless.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        self.permanent
    }

    /// The error that the handler returned.
    #[must_use]
    pub fn source(&self) -> &(dyn Error + Send + Sync + 'static) {
        &*self.source
    }
}

impl<E: Into<BoxError>> From<E> for HandlerError {
    fn from(error: E) -> Self {
        Self { source: error.into(), permanent: false }
    }
}

impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

impl fmt::Debug for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandlerError")
            .field("source", &self.source)
            .field("permanent", &self.permanent)
            .finish()
    }
}

/// The error is logged, so it says nothing of the body, the type included; the id is in the span.
fn unhandled() -> HandlerError {
    "nothing handles an unrecognized webhook".into()
}

/// Makes a handler of a function that gets every recognized event.
///
/// What is [`Unrecognized`](WebhookEvent::Unrecognized) does not get to the function and fails, as with
/// the [trait](WebhookHandler::unrecognized): a function that does not look at it must not acknowledge it.
/// [`HandlerFn::with_unrecognized`] hands it over, too.
///
/// # Examples
///
/// ```
/// use qomplement_webhooks::{handler_fn, HandlerError, WebhookEvent};
///
/// let handler = handler_fn(|event: WebhookEvent| async move {
///     match event {
///         WebhookEvent::ExtractCompleted { job, result } => println!("{}: {:?}", job.id(), result.confidence),
///         other => return Err(HandlerError::permanent(format!("not expected: {}", other.name()))),
///     }
///     Ok(())
/// });
/// # let _ = handler;
/// ```
pub fn handler_fn<F, Fut>(function: F) -> HandlerFn<F>
where
    F: Fn(WebhookEvent) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), HandlerError>> + Send + 'static,
{
    HandlerFn { function, with_unrecognized: false }
}

/// A function as a [`WebhookHandler`]: see [`handler_fn`].
#[derive(Clone, Copy)]
pub struct HandlerFn<F> {
    function: F,
    with_unrecognized: bool,
}

impl<F> HandlerFn<F> {
    /// Hands the function what is [`Unrecognized`](WebhookEvent::Unrecognized), too; its `Ok` then
    /// acknowledges that.
    ///
    /// # Examples
    ///
    /// ```
    /// use qomplement_webhooks::{handler_fn, WebhookEvent};
    ///
    /// let handler = handler_fn(|event: WebhookEvent| async move {
    ///     match event {
    ///         WebhookEvent::Unrecognized { job, status } => println!("{}: {status}", job.id()),
    ///         event => println!("{}: {}", event.job().id(), event.name()),
    ///     }
    ///     Ok(())
    /// })
    /// .with_unrecognized();
    /// # let _ = handler;
    /// ```
    #[must_use]
    pub fn with_unrecognized(mut self) -> Self {
        self.with_unrecognized = true;
        self
    }
}

impl<F> fmt::Debug for HandlerFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandlerFn")
            .field("with_unrecognized", &self.with_unrecognized)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl<F, Fut> WebhookHandler for HandlerFn<F>
where
    F: Fn(WebhookEvent) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), HandlerError>> + Send + 'static,
{
    async fn extract_completed(&self, job: &Job, result: ExtractResult) -> Result<(), HandlerError> {
        (self.function)(WebhookEvent::ExtractCompleted { job: job.clone(), result }).await
    }

    async fn fill_completed(&self, job: &Job, result: FillResult) -> Result<(), HandlerError> {
        (self.function)(WebhookEvent::FillCompleted { job: job.clone(), result }).await
    }

    async fn job_failed(&self, job: &Job, error: JobError) -> Result<(), HandlerError> {
        (self.function)(WebhookEvent::JobFailed { job: job.clone(), error }).await
    }

    async fn unrecognized(&self, job: &Job, status: JobStatus) -> Result<(), HandlerError> {
        if !self.with_unrecognized {
            return Err(unhandled());
        }
        (self.function)(WebhookEvent::Unrecognized { job: job.clone(), status }).await
    }
}

#[async_trait]
impl<H: WebhookHandler + ?Sized> WebhookHandler for Arc<H> {
    async fn extract_completed(&self, job: &Job, result: ExtractResult) -> Result<(), HandlerError> {
        (**self).extract_completed(job, result).await
    }

    async fn fill_completed(&self, job: &Job, result: FillResult) -> Result<(), HandlerError> {
        (**self).fill_completed(job, result).await
    }

    async fn job_failed(&self, job: &Job, error: JobError) -> Result<(), HandlerError> {
        (**self).job_failed(job, error).await
    }

    async fn unrecognized(&self, job: &Job, status: JobStatus) -> Result<(), HandlerError> {
        (**self).unrecognized(job, status).await
    }
}

/// Hands an event to the method for it.
pub(crate) async fn dispatch(
    handler: &dyn WebhookHandler,
    event: Box<WebhookEvent>,
) -> Result<(), HandlerError> {
    match *event {
        WebhookEvent::ExtractCompleted { job, result } => handler.extract_completed(&job, result).await,
        WebhookEvent::FillCompleted { job, result } => handler.fill_completed(&job, result).await,
        WebhookEvent::JobFailed { job, error } => handler.job_failed(&job, error).await,
        WebhookEvent::Unrecognized { job, status } => handler.unrecognized(&job, status).await,
    }
}
