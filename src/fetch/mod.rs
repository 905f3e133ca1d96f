//! Fetches results from the API: to recover webhooks that never came, and to verify those that did.

mod account;
mod budget;
#[cfg(feature = "client")]
mod client;
pub(crate) mod fetcher;
pub(crate) mod reconciler;
mod source;

pub(crate) use self::budget::FetchTime;
pub use self::budget::{BudgetClosed, RequestBudget, RequestPermit};
#[cfg(feature = "client")]
pub use self::client::{
    ApiKey, ApiKeyError, Download, DownloadError, JobsClient, JobsClientBuilder, JobsClientError,
};
pub use self::reconciler::{Reconciler, RunningReconciler};
pub use self::source::{FetchError, Fetched, JobSource};
