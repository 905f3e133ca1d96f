//! Connections to Redis, and the check of the server's eviction policy.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ::redis::aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig};
use ::redis::io::tcp::TcpSettings;
use ::redis::{Client, Cmd, ErrorKind, RedisResult, ServerErrorKind, Value, cmd};
use async_trait::async_trait;
use tracing::{debug, warn};

use crate::error::chain;

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
    manager: Mutex<Option<ConnectionManager>>,
}

impl Managed {
    /// Makes a connection to the server of a client. It connects on first use.
    pub(super) fn new(client: Client) -> Self {
        Self { client, manager: Mutex::default() }
    }

    fn manager(&self) -> RedisResult<ConnectionManager> {
        let mut current = self.manager.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(manager) = &*current {
            return Ok(manager.clone());
        }
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(Duration::from_secs(1)))
            .set_response_timeout(Some(Duration::from_secs(2)))
            .set_number_of_retries(2)
            .set_max_delay(Duration::from_millis(500))
            .set_pipeline_buffer_size(512);
        let manager = ConnectionManager::new_lazy_with_config(self.client.clone(), config)?;
        Ok(current.insert(manager).clone())
    }

    /// Drops the connection if the server has become a replica. The manager reconnects only when its connection breaks,
    /// which that does not; the next call resolves the URL again.
    fn unless_read_only<T>(&self, answer: RedisResult<T>) -> RedisResult<T> {
        if matches!(&answer, Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly)) {
            self.manager.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
        answer
    }
}

#[async_trait]
impl SendCommand for Managed {
    async fn call(&self, command: &Cmd) -> RedisResult<Value> {
        self.unless_read_only(self.manager()?.call(command).await)
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
