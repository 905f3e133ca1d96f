//! Where the example servers remember jobs.

use std::error::Error;
use std::sync::Arc;

use qomplement_webhooks::{DedupStore, MemoryDedupStore};

use crate::support::causes;

/// The store at `DEDUP_URL`; without one, this process's memory.
pub(crate) async fn dedup_store() -> Result<Arc<dyn DedupStore>, Box<dyn Error>> {
    match std::env::var("DEDUP_URL") {
        Ok(url) => open(&url).await.map_err(|error| format!("DEDUP_URL: {}", causes(&*error)).into()),
        Err(_) => Ok(Arc::new(MemoryDedupStore::new())),
    }
}

async fn open(url: &str) -> Result<Arc<dyn DedupStore>, Box<dyn Error>> {
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
