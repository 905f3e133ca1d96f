//! Connections to Redis, and the check of the server's eviction policy.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::redis::aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig};
use ::redis::io::tcp::TcpSettings;
use ::redis::{Client, Cmd, ErrorKind, RedisError, RedisResult, ServerErrorKind, Value, cmd};
#[cfg(feature = "redis-tls")]
use ::rustls::crypto::{CryptoProvider, aws_lc_rs};
use async_trait::async_trait;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::error::chain;

/// A call that is dropped after this time without an answer counts as timed out. Shorter than the receiver waits for a
/// call that records an outcome.
const SILENCE: Duration = Duration::from_millis(900);
/// The age from which a manager is left after an `ERR`: a server that answers a command of the store so gets few connections.
const REFUSED_AGE: Duration = Duration::from_millis(500);

/// A connection of any of the driver's types.
#[async_trait]
pub(super) trait SendCommand: Send + Sync {
    async fn call(&self, command: &Cmd) -> RedisResult<Value>;
}

#[async_trait]
impl<C: ConnectionLike + Clone + Send + Sync> SendCommand for C {
    async fn call(&self, command: &Cmd) -> RedisResult<Value> {
        command.query_async(&mut self.clone()).await
    }
}

/// A connection to a URL. It is made on first use, because that needs a runtime.
pub(super) struct Managed {
    client: Client,
    manager: Mutex<Option<Arc<Manager>>>,
}

/// The driver's manager of a connection.
struct Manager {
    driver: ConnectionManager,
    made: Instant,
}

impl Managed {
    /// Makes a connection to the server of a client. It connects on first use.
    pub(super) fn new(client: Client) -> Self {
        Self { client, manager: Mutex::default() }
    }

    fn manager(&self) -> RedisResult<Arc<Manager>> {
        let mut current = self.manager.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(manager) = &*current {
            return Ok(manager.clone());
        }
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(Duration::from_secs(1)))
            // Shorter than the receiver waits for a claim or a renewal, which otherwise would be dropped before it can
            // fail. Longer than `SILENCE`, so that a slow server still grants claims.
            .set_response_timeout(Some(Duration::from_millis(1500)))
            .set_number_of_retries(2)
            .set_max_delay(Duration::from_millis(500))
            .set_pipeline_buffer_size(512);
        let driver = ConnectionManager::new_lazy_with_config(self.client.clone(), config)?;
        Ok(current.insert(Arc::new(Manager { driver, made: Instant::now() })).clone())
    }

    /// Drops a manager, unless another call has done so: the next call makes one, which resolves the URL again.
    fn leave(&self, manager: &Arc<Manager>) {
        let mut current = self.manager.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, manager)) {
            *current = None;
        }
    }
}

#[async_trait]
impl SendCommand for Managed {
    async fn call(&self, command: &Cmd) -> RedisResult<Value> {
        let manager = self.manager()?;
        let mut call = Call { managed: self, manager: &manager, began: Instant::now(), answered: false };
        let answer = manager.driver.call(command).await;
        call.answered = true;
        if answer.as_ref().is_err_and(|error| needs_a_new_manager(error, manager.made.elapsed())) {
            self.leave(&manager);
        }
        answer
    }
}

/// A call under way. Its drop leaves the manager of a server that did not answer.
struct Call<'a> {
    managed: &'a Managed,
    manager: &'a Arc<Manager>,
    began: Instant,
    answered: bool,
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if !self.answered && self.began.elapsed() >= SILENCE {
            self.managed.leave(self.manager);
        }
    }
}

/// Whether a manager's further calls would fail, too. It connects again only when its connection breaks or an attempt to
/// connect ends with an I/O error. It keeps every other error of an attempt for ever.
fn needs_a_new_manager(error: &RedisError, age: Duration) -> bool {
    match error.kind() {
        // A server that hangs keeps its connections open.
        ErrorKind::Io => error.is_timeout(),
        // The server became a replica.
        ErrorKind::Server(ServerErrorKind::ReadOnly) => true,
        // The server refused a command that sets the connection up, or does not know one of the store's own.
        ErrorKind::Server(ServerErrorKind::ResponseError) => age >= REFUSED_AGE,
        ErrorKind::Server(_) => false,
        ErrorKind::Extension => matches!(error.code(), Some("WRONGPASS" | "NOAUTH" | "DENIED")),
        _ => true,
    }
}

/// Settings of the connections to a URL.
pub(super) fn tcp_settings() -> TcpSettings {
    let settings = TcpSettings::default().set_nodelay(true);
    // Otherwise a connection to a server that has lost its power stays open for a quarter of an hour.
    #[cfg(target_os = "linux")]
    let settings = settings.set_user_timeout(Duration::from_secs(5));
    settings
}

/// Makes rustls's provider the one that this crate brings, unless one is installed. The driver takes the default, and panics
/// without one if the program has several.
#[cfg(feature = "redis-tls")]
pub(super) fn install_tls_provider() {
    if CryptoProvider::get_default().is_none() {
        // Fails if another thread has just installed one.
        let _ = aws_lc_rs::default_provider().install_default();
    }
}

/// Logs a warning if the server is configured to evict keys.
pub(super) async fn warn_of_eviction(connection: &dyn SendCommand) {
    match connection.call(cmd("INFO").arg("memory")).await {
        Ok(info) if evicts(&info) => warn!(
            "Redis is configured to evict keys when its memory is full, after which handlers run again for the \
             evicted jobs; set its maxmemory-policy to noeviction"
        ),
        Ok(_) => {}
        Err(error) => {
            debug!(
                error = %chain(&error),
                "reading the configuration of Redis failed and is not repeated; whether it evicts keys is unknown"
            );
        }
    }
}

/// Whether one of the servers behind a connection evicts keys, by its answer to `INFO memory`.
fn evicts(info: &Value) -> bool {
    match info {
        Value::BulkString(text) => String::from_utf8_lossy(text)
            .lines()
            .any(|line| line.strip_prefix("maxmemory_policy:").is_some_and(|policy| policy != "noeviction")),
        Value::VerbatimString { text, .. } => evicts(&Value::BulkString(text.clone().into_bytes())),
        Value::Map(servers) => servers.iter().any(|(_, info)| evicts(info)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_manager_that_failed_is_left() {
        let managed = Managed::new(Client::open("redis://localhost").unwrap());
        let failed = managed.manager().unwrap();
        managed.leave(&failed);
        let next = managed.manager().unwrap();
        assert!(!Arc::ptr_eq(&failed, &next));
        // A second call on the first manager fails late.
        managed.leave(&failed);
        assert!(Arc::ptr_eq(&managed.manager().unwrap(), &next));
    }

    #[cfg(feature = "redis-tls")]
    #[test]
    fn a_url_with_tls_settles_the_provider_of_rustls() {
        crate::RedisDedupStore::from_url("rediss://localhost", "tls").unwrap();
        assert!(CryptoProvider::get_default().is_some());
    }
}
