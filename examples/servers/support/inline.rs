//! The receiver of the servers in inline mode.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use qomplement_webhooks::{BoxError, DedupStore, MemoryDedupStore, WebhookReceiver};

use crate::support::{Printer, build, causes};

/// Builds a receiver on the store at `DEDUP_URL`.
pub(crate) async fn receiver() -> Result<WebhookReceiver, BoxError> {
    build(WebhookReceiver::builder(Printer).dedup_store(dedup_store().await?))
}

/// Waits for the handlers that run.
pub(crate) async fn shutdown(receiver: &WebhookReceiver) {
    match receiver.shutdown(Duration::from_secs(10)).await {
        0 => eprintln!("stopped; nothing was left unfinished"),
        unfinished => eprintln!("stopped; {unfinished} handlers were dropped"),
    }
}

/// Opens the store at `DEDUP_URL`; a memory store if that is unset.
async fn dedup_store() -> Result<Arc<dyn DedupStore>, BoxError> {
    match std::env::var("DEDUP_URL") {
        Ok(url) => {
            open(&url).await.map_err(|error| format!("DEDUP_URL: {}", causes(&*error as &dyn Error)).into())
        }
        Err(_) => Ok(Arc::new(MemoryDedupStore::new())),
    }
}

async fn open(url: &str) -> Result<Arc<dyn DedupStore>, BoxError> {
    #[cfg(feature = "redis")]
    if url.starts_with("redis://") || url.starts_with("rediss://") {
        let store = qomplement_webhooks::RedisDedupStore::from_url(url, "qomplement-example")?;
        store.check().await?;
        return Ok(Arc::new(store));
    }
    #[cfg(feature = "postgres")]
    if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        let store = qomplement_webhooks::PostgresDedupStore::from_url(url)?;
        store.migrate().await?;
        return Ok(Arc::new(store));
    }
    let scheme = url.split_once("://").map_or("without a scheme", |(scheme, _)| scheme);
    Err(format!("a URL {scheme} needs to be redis:// or postgres://, and the feature redis or postgres")
        .into())
}
