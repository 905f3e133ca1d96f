//! The handler: the user's code.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::error::BoxError;
use crate::event::{Content, ExtractResult, FillResult, Job, JobError, WebhookEvent};

/// Your code: handles the events of ended jobs, with one method for each kind of event.
///
/// In inline mode the answer waits for the method: `Ok` becomes 200, and an error becomes 503, after
/// which the sender delivers again (5 s and 15 s after the first delivery, then no more). A method that
/// outlives the ack deadline continues in the background, and its outcome decides the answer to the next
/// delivery. In durable mode an [`InboxWorker`](crate::InboxWorker) calls the method until it returns
/// `Ok` or the event is a dead letter.
///
/// # Guarantees
///
/// - At most one method runs for a job at a time, over all receivers that share a
///   [`DedupStore`](crate::DedupStore), or all workers on an [inbox](crate::InboxStore), as long as the store keeps the
///   writes that it acknowledged and no process stands still until its claim or lease has ended. After `Ok`, no
///   duplicate runs a method until retention ends. A [`MemoryDedupStore`](crate::MemoryDedupStore), the default, also
///   forgets at a restart, and when it is full.
/// - A panic is caught and logged, and counts as a transient failure.
/// - A method may be dropped at any await: if it exceeds `max_handler_time`, if the lease is lost, or
///   if a shutdown runs out of grace. A client that disconnects does not drop it.
///
/// Methods run *at least once*, not exactly once: after a crash between your effect and the store's
/// write, the method runs again. Make effects idempotent, with [`Job::id`] as the key.
///
/// A method must not block its thread. On a current-thread runtime, and each worker of actix-web is one, a blocked thread
/// renews no claim and no lease: a block that outlasts them lets another process run the job at the same time. Move blocking
/// work to `tokio::task::spawn_blocking`. A drop of the method does not stop such a closure: give the closure a time limit of
/// its own, below `max_handler_time`, and expect another run of the job beside it.
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
    /// Handles the result of a finished extraction.
    async fn extract_completed(&self, job: &Job, result: ExtractResult) -> Result<(), HandlerError>;

    /// Handles a filled form; [`Job::job_type`] says whether PDF or Excel.
    async fn fill_completed(&self, job: &Job, result: FillResult) -> Result<(), HandlerError>;

    /// Handles the failure of a job. The API does not run the job again.
    async fn job_failed(&self, job: &Job, error: JobError) -> Result<(), HandlerError>;

    /// Handles a type or status that this version does not know, or a result that is missing or not an
    /// object. [`Job::job_type`], [`Job::status`] and [`Job::raw`] have the content.
    ///
    /// The default implementation fails, so that no unhandled event is acknowledged. In durable mode
    /// the event then becomes a dead letter, to be replayed when this crate or your handler knows it.
    ///
    /// `Ok` for an unknown *status* does not complete the job: a later `completed` is handled too.
    async fn unrecognized(&self, job: &Job) -> Result<(), HandlerError> {
        let _ = job;
        Err(unhandled())
    }
}

/// The failure of a handler: transient or permanent.
///
/// `?` converts any error, `anyhow::Error` and strings into a transient failure, after which another
/// attempt may succeed. [`HandlerError::permanent`] makes a permanent one, [`HandlerError::retry_after`] a transient one
/// that names the time of the next attempt.
///
/// This type does not implement [`Error`] itself, because `?` could then not convert every error into it;
/// [`source`](Self::source) is the error inside.
pub struct HandlerError {
    source: BoxError,
    next: NextAttempt,
}

/// The time of the attempt after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NextAttempt {
    /// After the worker's backoff.
    Backoff,
    After(Duration),
    Never,
}

impl HandlerError {
    /// The longest delay of [`retry_after`](Self::retry_after): seven days.
    pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(7 * 24 * 60 * 60);

    /// Makes a permanent failure: no further attempt is useful. The error is logged. In inline mode the
    /// webhook is acknowledged and the job counts as done; in durable mode the event becomes a dead letter.
    pub fn permanent(error: impl Into<BoxError>) -> Self {
        Self { source: error.into(), next: NextAttempt::Never }
    }

    /// Makes a transient failure after which the next attempt should begin no earlier than `delay` from now, as when a
    /// service answers with `Retry-After`. A longer delay than [`MAX_RETRY_AFTER`](Self::MAX_RETRY_AFTER) counts as that.
    ///
    /// In durable mode, the delay takes the place of the worker's [`backoff`](crate::InboxWorker::backoff). The attempt
    /// counts: after the last one, the event is a dead letter. A delay of zero makes the event due at once. In inline
    /// mode, the sender's schedule decides when the next delivery comes, and the delay is only logged.
    ///
    /// An event that waits counts towards the inbox's limits of unfinished rows and bytes, at which new webhooks are
    /// answered 503. An event of a registered job without a final status waits no longer than to the job's deadline:
    /// then the job is fetched instead.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use qomplement_webhooks::HandlerError;
    ///
    /// # fn check(retry_after: Option<u64>) -> Result<(), HandlerError> {
    /// if let Some(seconds) = retry_after {
    ///     return Err(HandlerError::retry_after("the ledger is busy", Duration::from_secs(seconds)));
    /// }
    /// # Ok(()) }
    /// # assert_eq!(check(Some(30)).unwrap_err().retry_delay(), Some(Duration::from_secs(30)));
    /// ```
    pub fn retry_after(error: impl Into<BoxError>, delay: Duration) -> Self {
        Self { source: error.into(), next: NextAttempt::After(delay.min(Self::MAX_RETRY_AFTER)) }
    }

    /// Whether the failure is permanent.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        self.next == NextAttempt::Never
    }

    /// The delay of a failure that [`retry_after`](Self::retry_after) made.
    #[must_use]
    pub fn retry_delay(&self) -> Option<Duration> {
        match self.next {
            NextAttempt::After(delay) => Some(delay),
            NextAttempt::Backoff | NextAttempt::Never => None,
        }
    }

    /// The error that the handler returned.
    #[must_use]
    pub fn source(&self) -> &(dyn Error + Send + Sync + 'static) {
        &*self.source
    }
}

impl<E: Into<BoxError>> From<E> for HandlerError {
    fn from(error: E) -> Self {
        Self { source: error.into(), next: NextAttempt::Backoff }
    }
}

impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

impl fmt::Debug for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandlerError").field("source", &self.source).field("next", &self.next).finish()
    }
}

/// Quotes nothing of the body, the type included, because the error is logged. The span has the job's id.
fn unhandled() -> HandlerError {
    "the handler does not handle unrecognized webhooks".into()
}

/// Makes a handler from a function that gets every recognized event.
///
/// An [`Unrecognized`](WebhookEvent::Unrecognized) event fails without a call of the function, as with
/// the [trait](WebhookHandler::unrecognized): otherwise a function that ignores the kind of event would
/// acknowledge it. [`HandlerFn::with_unrecognized`] passes those events too.
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

/// A [`WebhookHandler`] made from a function by [`handler_fn`].
#[derive(Clone, Copy)]
pub struct HandlerFn<F> {
    function: F,
    with_unrecognized: bool,
}

impl<F> HandlerFn<F> {
    /// Passes [`Unrecognized`](WebhookEvent::Unrecognized) events to the function too, whose `Ok` then
    /// acknowledges them.
    ///
    /// # Examples
    ///
    /// ```
    /// use qomplement_webhooks::{handler_fn, WebhookEvent};
    ///
    /// let handler = handler_fn(|event: WebhookEvent| async move {
    ///     match event {
    ///         WebhookEvent::Unrecognized { job } => println!("{}: {}", job.id(), job.status()),
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

    async fn unrecognized(&self, job: &Job) -> Result<(), HandlerError> {
        if !self.with_unrecognized {
            return Err(unhandled());
        }
        (self.function)(WebhookEvent::Unrecognized { job: job.clone() }).await
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

    async fn unrecognized(&self, job: &Job) -> Result<(), HandlerError> {
        (**self).unrecognized(job).await
    }
}

/// Calls the handler's method for an event. The future is the method's own, so that it is boxed once.
pub(crate) fn dispatch<'a>(
    handler: &'a dyn WebhookHandler,
    job: &'a Job,
    content: Content,
) -> Pin<Box<dyn Future<Output = Result<(), HandlerError>> + Send + 'a>> {
    match content {
        Content::Extracted(result) => handler.extract_completed(job, result),
        Content::Filled(result) => handler.fill_completed(job, result),
        Content::Failed(error) => handler.job_failed(job, error),
        Content::Unrecognized => handler.unrecognized(job),
    }
}
