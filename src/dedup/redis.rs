//! The store that processes share through Redis.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::redis::aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig};
use ::redis::io::tcp::TcpSettings;
use ::redis::{
    Client, Cmd, ErrorKind, IntoConnectionInfo, RedisError, RedisResult, ServerErrorKind, ToRedisArgs, Value,
    cmd,
};
use async_trait::async_trait;
use tracing::{debug, warn};

use super::{Claim, ClaimToken, DedupStore};
use crate::error::chain;
use crate::event::JobId;
use crate::store::{Fenced, StoreError};

/// A [`DedupStore`] in Redis (feature `redis`): processes that share it run a job's handler one at a time.
///
/// It needs Redis 7.0 or newer, or Valkey. One key per job, `NAMESPACE:JOB_ID`, holds the claim, then the
/// completion, and expires by itself; a key takes about 150 bytes. The keys of two namespaces are never
/// the same. A fresh job costs one `SET` and one script of two commands; a duplicate costs one `SET` that
/// changes nothing.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let handler = qomplement_webhooks::handler_fn(|_| async { Ok(()) });
/// use qomplement_webhooks::{RedisDedupStore, SharedToken, WebhookReceiver};
///
/// let store = RedisDedupStore::from_url("redis://:password@127.0.0.1:6379/0", "invoices")?;
/// let receiver = WebhookReceiver::builder(handler)
///     .token(SharedToken::from_env("WEBHOOK_TOKEN")?)
///     .dedup_store(store)
///     .build()?;
/// # Ok(()) }
/// ```
///
/// # What it promises, and what it cannot
///
/// It keeps [`DedupStore`]'s contract for as long as Redis keeps what it acknowledged. Redis forgets
/// when it restarts without persistence (or with less than `appendfsync always`), when it fails over to a
/// replica that had not received the last writes, and when it evicts keys. Then a job that is being
/// handled, or that is done, may be handled again. The store logs a warning when the server's
/// `maxmemory-policy` evicts; set it to `noeviction`. A server that is full then refuses new claims
/// ([`StoreError::Full`]), and still renews and completes the claims that it granted.
///
/// # Errors
///
/// A call waits up to a second for a connection and up to two for an answer. When the connection breaks,
/// the call is tried once more on a new one, with the same owner: a claim whose reply was lost is
/// recognised as its own.
pub struct RedisDedupStore {
    namespace: Box<str>,
    connection: Arc<dyn Connection>,
    scripts: Scripts,
    /// Whether the server was asked if it evicts keys.
    looked: AtomicBool,
}

/// Why a [`RedisDedupStore`] cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RedisStoreError {
    /// The URL is not one of a Redis server.
    #[error("not a URL of a Redis server, such as redis://user:password@host:6379/0")]
    Url(#[source] RedisError),
    /// The namespace is empty, longer than 64 bytes, or holds something else than what it may.
    #[error("a namespace has 1 to 64 characters out of A-Z, a-z, 0-9, '.', '_', '-' and '/'")]
    Namespace,
}

impl RedisDedupStore {
    /// Makes a store on the server at a URL: `redis://`, `redis+unix://`, `valkey://`; with feature
    /// `redis-tls` also `rediss://`, and `valkeys://`.
    ///
    /// It connects when it is first used, and again whenever the connection is lost. `namespace` sets
    /// its keys apart from whatever else the server holds: 1 to 64 characters out of `A-Z`, `a-z`, `0-9`,
    /// `.`, `_`, `-` and `/`.
    ///
    /// # Errors
    ///
    /// When one of the two is not what it should be. Whether the server is there, [`check`](Self::check)
    /// says.
    pub fn from_url(url: &str, namespace: &str) -> Result<Self, RedisStoreError> {
        let address = url.into_connection_info().map_err(RedisStoreError::Url)?;
        let address = address.set_tcp_settings(tcp_settings());
        let client = Client::open(address).map_err(RedisStoreError::Url)?;
        Self::new(Managed { client, manager: Mutex::default() }, namespace)
    }

    /// Makes a store on a connection of your own: a `ConnectionManager`, or a `ClusterConnection`.
    ///
    /// Timeouts and reconnecting are the connection's own. A `MultiplexedConnection` is accepted, too, but
    /// does not come back when it is lost.
    ///
    /// # Errors
    ///
    /// When the namespace is not as [`from_url`](Self::from_url) asks.
    pub fn from_connection(
        connection: impl ConnectionLike + Clone + Send + Sync + 'static,
        namespace: &str,
    ) -> Result<Self, RedisStoreError> {
        Self::new(connection, namespace)
    }

    fn new(connection: impl Connection + 'static, namespace: &str) -> Result<Self, RedisStoreError> {
        // No colon: it ends the namespace, so that no two namespaces share a key.
        let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte);
        if namespace.is_empty() || namespace.len() > 64 || !namespace.bytes().all(fine) {
            return Err(RedisStoreError::Namespace);
        }
        Ok(Self {
            namespace: namespace.into(),
            connection: Arc::new(connection),
            scripts: Scripts::new(),
            looked: AtomicBool::new(false),
        })
    }

    /// Claims, renews, releases and completes a job of its own, under a key that expires at once, and logs a
    /// warning when the server is set to evict keys.
    ///
    /// Good for a program's start and for health checks. The first claim looks at the configuration by
    /// itself.
    ///
    /// # Errors
    ///
    /// Returns an error if the server is not reached, refuses the credentials, takes no writes, or does not let
    /// the user run the store's commands and scripts on the keys `NAMESPACE:*`; the error names the missing rights.
    pub async fn check(&self) -> Result<(), StoreError> {
        // Not by the claim as well.
        let looked = self.looked.swap(true, Ordering::Relaxed);
        let tried = self.try_out().await;
        if tried.is_ok() {
            warn_of_eviction(&*self.connection).await;
        } else {
            self.looked.store(looked, Ordering::Relaxed);
        }
        tried
    }

    async fn try_out(&self) -> Result<(), StoreError> {
        const LEASE: Duration = Duration::from_secs(5);
        // Nobody else's, so that any number of processes may check at once.
        let unique = ClaimToken::new(&check_job("check")?);
        let job = check_job(&format!("check:{:032x}", unique.owner()))?;
        let (claim, other) = (ClaimToken::new(&job), ClaimToken::new(&job));
        let answers = [
            (self.claim(&claim, LEASE).await? == Claim::Acquired),
            (matches!(self.claim(&other, LEASE).await?, Claim::InProgress { .. })),
            (self.renew(&claim, LEASE).await? == Fenced::Applied),
            (self.release(&claim).await? == Fenced::Applied),
            (self.complete(&claim, Duration::from_millis(1)).await? == Fenced::Applied),
        ];
        if answers.contains(&false) {
            return Err(StoreError::unavailable("Redis does not keep what it acknowledges"));
        }
        Ok(())
    }

    /// Looks at the server's configuration, once, and while a claim's caller goes on.
    fn look_once(&self) {
        if !self.looked.load(Ordering::Relaxed) && !self.looked.swap(true, Ordering::Relaxed) {
            let connection = self.connection.clone();
            tokio::spawn(async move { warn_of_eviction(&*connection).await });
        }
    }

    fn key(&self, job: &JobId) -> String {
        format!("{}:{job}", self.namespace)
    }

    async fn command(&self, command: &Cmd) -> Result<Value, StoreError> {
        self.call(command).await.map_err(|error| self.error(error))
    }

    fn error(&self, error: RedisError) -> StoreError {
        /// What servers of several versions say of a command, and of one in a script.
        const REFUSALS: [&str; 3] =
            ["unknown command", "ACL failure in script", "The user executing the script"];
        let detail = error.detail().unwrap_or_default();
        match error.code() {
            Some("OOM") => StoreError::Full,
            code if code == Some("NOPERM") || REFUSALS.iter().any(|text| detail.contains(text)) => {
                StoreError::unavailable(Refused { namespace: self.namespace.clone(), source: error })
            }
            _ => StoreError::unavailable(error),
        }
    }

    async fn script(
        &self,
        script: &Script,
        job: &JobId,
        arguments: impl ToRedisArgs,
    ) -> Result<Fenced, StoreError> {
        let mut command = begin("EVALSHA", 7);
        command.arg(&script.hash).arg(1).arg(self.key(job)).arg(&arguments);
        let answer = match self.call(&command).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                let mut command = cmd("EVAL");
                command.arg(&script.code).arg(1).arg(self.key(job)).arg(&arguments);
                self.call(&command).await
            }
            answer => answer,
        };
        match answer.map_err(|error| self.error(error))? {
            Value::Int(0) => Ok(Fenced::Stale),
            Value::Int(_) => Ok(Fenced::Applied),
            _ => Err(StoreError::unavailable("a script was not answered with a number")),
        }
    }

    /// Calls, and calls once more when the connection broke. All that this store sends may be repeated
    /// with the same owner.
    async fn call(&self, command: &Cmd) -> RedisResult<Value> {
        match self.connection.call(command).await {
            Err(error) if error.is_connection_dropped() && !error.is_connection_refusal() => {
                debug!(%error, "the connection to Redis was lost; trying again");
                self.connection.call(command).await
            }
            answer => answer,
        }
    }
}

#[async_trait]
impl DedupStore for RedisDedupStore {
    async fn claim(&self, claim: &ClaimToken, lease: Duration) -> Result<Claim, StoreError> {
        let (key, claimed) = (self.key(claim.job()), claimed(claim));
        let mut set = begin("SET", 8);
        set.arg(&key).arg(&claimed).arg("NX").arg("GET").arg("PX").arg(milliseconds(lease));
        loop {
            match self.command(&set).await? {
                Value::Nil => break,
                // It is repeated, as the reply to it was lost.
                Value::BulkString(held) if held == claimed.as_bytes() => break,
                Value::BulkString(held) if held.starts_with(DONE.as_bytes()) => return Ok(Claim::Done),
                Value::BulkString(held) if held.starts_with(CLAIMED.as_bytes()) => {}
                _ => return Err(StoreError::unavailable(format!("the key {key} is not this store's"))),
            }
            match self.command(cmd("PTTL").arg(&key)).await? {
                // It expired between the two commands.
                Value::Int(-2) => {}
                Value::Int(left) => {
                    let left = u64::try_from(left).map_or(lease, Duration::from_millis);
                    return Ok(Claim::InProgress { retry_after: left });
                }
                _ => return Err(StoreError::unavailable("PTTL was not answered with a number")),
            }
        }
        self.look_once();
        Ok(Claim::Acquired)
    }

    async fn renew(&self, claim: &ClaimToken, lease: Duration) -> Result<Fenced, StoreError> {
        let arguments = (claimed(claim), milliseconds(lease));
        self.script(&self.scripts.renew, claim.job(), arguments).await
    }

    async fn complete(&self, claim: &ClaimToken, retention: Duration) -> Result<Fenced, StoreError> {
        let arguments = (claimed(claim), done(claim), milliseconds(retention));
        self.script(&self.scripts.complete, claim.job(), arguments).await
    }

    async fn release(&self, claim: &ClaimToken) -> Result<Fenced, StoreError> {
        self.script(&self.scripts.release, claim.job(), claimed(claim)).await
    }
}

/// Begins a command of so many words. It has room for them: to grow costs more than to fill it.
fn begin(name: &str, words: usize) -> Cmd {
    let mut command = Cmd::with_capacity(words, 256);
    command.arg(name);
    command
}

/// What a key holds: one of these and the owner.
const CLAIMED: &str = "claimed:";
const DONE: &str = "done:";

fn claimed(token: &ClaimToken) -> String {
    format!("{CLAIMED}{:032x}", token.owner())
}

fn done(token: &ClaimToken) -> String {
    format!("{DONE}{:032x}", token.owner())
}

/// What Redis counts in; at least one, and no more than it takes.
fn milliseconds(duration: Duration) -> u64 {
    const CENTURY: u64 = 100 * 365 * 24 * 3600 * 1000;
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).map_or(CENTURY, |time| time.clamp(1, CENTURY))
}

/// The steps that look before they write.
struct Scripts {
    renew: Script,
    complete: Script,
    release: Script,
}

impl Scripts {
    fn new() -> Self {
        Self {
            // Key; the claim, milliseconds.
            renew: Script::new(
                "local held = redis.call('GET', KEYS[1])
                 if held and held ~= ARGV[1] then return 0 end
                 redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
                 return 1",
            ),
            // Key; the claim, the completion, milliseconds.
            complete: Script::new(
                "local held = redis.call('GET', KEYS[1])
                 if held == ARGV[2] then return 1 end
                 if held and held ~= ARGV[1] then return 0 end
                 redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
                 return 1",
            ),
            // Key; the claim.
            release: Script::new(
                "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
                 return redis.call('DEL', KEYS[1])",
            ),
        }
    }
}

/// The driver has such a type, too; it copies every argument twice.
struct Script {
    code: String,
    /// The name that the server knows it by, once it has run it.
    hash: String,
}

impl Script {
    fn new(code: &str) -> Self {
        // A claim that was granted is renewed and completed also when the memory is full.
        let code = format!("#!lua flags=allow-oom\n{code}");
        let hash = ::redis::Script::new(&code).get_hash().to_owned();
        Self { code, hash }
    }
}

/// A connection of any of the driver's types.
#[async_trait]
trait Connection: Send + Sync {
    async fn call(&self, command: &Cmd) -> RedisResult<Value>;
}

#[async_trait]
impl<C: ConnectionLike + Clone + Send + Sync> Connection for C {
    async fn call(&self, command: &Cmd) -> RedisResult<Value> {
        command.query_async(&mut self.clone()).await
    }
}

/// A connection to a URL, made when it is first used: that needs a runtime.
struct Managed {
    client: Client,
    manager: Mutex<Option<ConnectionManager>>,
}

impl Managed {
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

    /// The manager connects anew when its connection breaks. One that leads to a server that has become a
    /// replica does not break: the next call looks again for where the URL leads.
    fn unless_read_only<T>(&self, answer: RedisResult<T>) -> RedisResult<T> {
        if matches!(&answer, Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly)) {
            self.manager.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
        answer
    }
}

#[async_trait]
impl Connection for Managed {
    async fn call(&self, command: &Cmd) -> RedisResult<Value> {
        self.unless_read_only(self.manager()?.call(command).await)
    }
}

fn tcp_settings() -> TcpSettings {
    let settings = TcpSettings::default().set_nodelay(true);
    // A server that vanished without a word is given up, and connected to anew.
    #[cfg(target_os = "linux")]
    let settings = settings.set_user_timeout(Duration::from_secs(5));
    settings
}

/// The server does not let the user do something that the store does.
#[derive(Debug, thiserror::Error)]
#[error(
    "Redis refuses a command of the store; allow its user the commands and the keys: \
     ACL SETUSER <name> +set +get +del +pttl +evalsha +eval ~{namespace}:*"
)]
struct Refused {
    namespace: Box<str>,
    source: RedisError,
}

fn check_job(text: &str) -> Result<JobId, StoreError> {
    text.parse().map_err(StoreError::unavailable)
}

async fn warn_of_eviction(connection: &dyn Connection) {
    match connection.call(cmd("INFO").arg("memory")).await {
        Ok(info) if evicts(&info) => warn!(
            "Redis is set to evict keys when its memory is full: jobs may be handled twice then; \
             set its maxmemory-policy to noeviction"
        ),
        Ok(_) => {}
        Err(error) => debug!(error = %chain(&error), "Redis does not say whether it evicts keys"),
    }
}

/// Whether one of the servers behind the connection evicts keys.
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

impl fmt::Debug for RedisDedupStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisDedupStore").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}
