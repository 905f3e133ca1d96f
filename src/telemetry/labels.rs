//! The values of the metrics' labels.

/// How a request was answered. The outcome of an error is also the `code` in its body.
pub mod outcome {
    /// 200: the handler finished.
    pub const HANDLED: &str = "handled";
    /// 200: the event is stored.
    pub const STORED: &str = "stored";
    /// 200: a duplicate; the job is already done, or its event is already stored.
    pub const DUPLICATE: &str = "duplicate";
    /// 200: another event of the job, with other bytes, is already stored, and is kept.
    pub const CONFLICT: &str = "conflict";
    /// 200: the handler returned a permanent failure.
    pub const HANDLER_FAILED_PERMANENTLY: &str = "handler_failed_permanently";
    /// 503: another delivery of the job's event is being handled.
    pub const IN_PROGRESS: &str = "in_progress";
    /// 503: the handler failed.
    pub const HANDLER_FAILED: &str = "handler_failed";
    /// 500: the handler panicked.
    pub const HANDLER_PANICKED: &str = "handler_panicked";
    /// 503: the handler is still running, or was dropped after `max_handler_time`.
    pub const HANDLER_TIMEOUT: &str = "handler_timeout";
    /// 503: a store, registry or authenticator failed or hung, a limit was reached, or the receiver is shutting down.
    pub const UNAVAILABLE: &str = "unavailable";
    /// 405: the method is not POST.
    pub const METHOD_NOT_ALLOWED: &str = "method_not_allowed";
    /// 401: not authenticated.
    pub const UNAUTHORIZED: &str = "unauthorized";
    /// 415: the content type is not JSON.
    pub const UNSUPPORTED_MEDIA_TYPE: &str = "unsupported_media_type";
    /// 415: the content is encoded.
    pub const UNSUPPORTED_ENCODING: &str = "unsupported_encoding";
    /// 413: the body is over the limit.
    pub const BODY_TOO_LARGE: &str = "body_too_large";
    /// 408: the body was not complete in time.
    pub const BODY_TIMEOUT: &str = "body_timeout";
    /// 400: the body is not one JSON value, or the connection ended within the body.
    pub const INVALID_JSON: &str = "invalid_json";
    /// 422: the envelope cannot be read.
    pub const INVALID_PAYLOAD: &str = "invalid_payload";
    /// 422: `job_id` is not `data.id`.
    pub const JOB_ID_MISMATCH: &str = "job_id_mismatch";
    /// 404: not a job that you have started.
    pub const UNKNOWN_JOB: &str = "unknown_job";
}

/// How a run of the handler ended.
pub mod result {
    /// The handler returned `Ok`.
    pub const OK: &str = "ok";
    /// The handler returned a transient failure.
    pub const FAILED: &str = "failed";
    /// The handler returned a permanent failure.
    pub const PERMANENT_FAILURE: &str = "permanent_failure";
    /// The handler panicked.
    pub const PANICKED: &str = "panicked";
    /// The handler was dropped after `max_handler_time`.
    pub const TIMED_OUT: &str = "timed_out";
    /// The handler was dropped: its claim or lease expired, or has passed to another holder. A handler that was not
    /// called for this reason is not measured.
    pub const LEASE_LOST: &str = "lease_lost";
    /// The handler was dropped: the grace of a shutdown ended. A handler that was not called for this reason is not
    /// measured.
    pub const ABORTED: &str = "aborted";
}

/// How a worker settled a leased event.
pub mod settled {
    /// The event was handled.
    pub const DONE: &str = "done";
    /// The attempt failed; another attempt follows.
    pub const RETRY: &str = "retry";
    /// The event is a dead letter. See [`REJECTED`] for another kind.
    pub const DEAD: &str = "dead";
    /// The lease was released; no attempt was counted.
    pub const RELEASED: &str = "released";
    /// The job was fetched without a result; another fetch follows.
    pub const FETCH_AGAIN: &str = "fetch_again";
    /// The API knows no such job; the event was dropped, and the row is a dead letter.
    pub const REJECTED: &str = "rejected";
}

/// How a fetch of a job ended.
pub mod fetch_result {
    /// The job has ended; its event was fetched.
    pub const FINISHED: &str = "finished";
    /// The job has not ended.
    pub const PENDING: &str = "pending";
    /// The API knows no such job.
    pub const NOT_FOUND: &str = "not_found";
    /// The API refused the key.
    pub const UNAUTHORIZED: &str = "unauthorized";
    /// The API got too many requests.
    pub const RATE_LIMITED: &str = "rate_limited";
    /// There was no connection.
    pub const UNREACHABLE: &str = "unreachable";
    /// The API refused the request.
    pub const REFUSED: &str = "refused";
    /// There was no answer in time, or a temporary failure.
    pub const UNAVAILABLE: &str = "unavailable";
    /// The answer cannot be read.
    pub const UNREADABLE: &str = "unreadable";
    /// The id has a character that no job of the API has in its id; no request was made.
    pub const INVALID_ID: &str = "invalid_id";
    /// The budget is closed; no request was made.
    pub const BUDGET_CLOSED: &str = "budget_closed";
}

/// A call of a store.
pub mod call {
    /// A receiver claims a job.
    pub const CLAIM: &str = "claim";
    /// A receiver records a job as done.
    pub const COMPLETE: &str = "complete";
    /// A receiver releases a claim.
    pub const RELEASE: &str = "release";
    /// A receiver stores an event.
    pub const RECEIVE: &str = "receive";
    /// A worker leases events.
    pub const LEASE: &str = "lease";
    /// A worker notes that a last attempt begins.
    pub const BEGIN: &str = "begin";
    /// A receiver renews a claim, or a worker or a reconciler a lease.
    pub const RENEW: &str = "renew";
    /// A worker or a reconciler stores a fetched event.
    pub const VERIFY: &str = "verify";
    /// A worker or a reconciler records an outcome.
    pub const SETTLE: &str = "settle";
    /// A reconciler leases overdue jobs.
    pub const OVERDUE: &str = "overdue";
    /// A worker prunes.
    pub const PRUNE: &str = "prune";
    /// A worker samples its gauges.
    pub const STATS: &str = "stats";
}
