//! The dedup store in Redis.

mod connection;
mod scripts;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

#[cfg(feature = "redis-tls")]
use ::redis::ConnectionAddr;
use ::redis::aio::ConnectionLike;
use ::redis::{
    Client, Cmd, ErrorKind, IntoConnectionInfo, RedisError, RedisResult, ServerErrorKind, ToRedisArgs, Value,
    cmd,
};
use async_trait::async_trait;
use tracing::debug;

use self::connection::{Managed, SendCommand, tcp_settings, warn_of_eviction};
use self::scripts::{Script, Scripts};
use super::{Claim, ClaimToken, DedupStore};
use crate::event::JobId;
use crate::store::{Fenced, StoreError};

/// A [`DedupStore`] in Redis (feature `redis`): the processes that share it run a job's handler one at a time.
///
/// The store needs Redis 7.0 or newer, or Valkey. One key per job, `NAMESPACE:JOB_ID`, holds first the claim, then the
/// completion, and expires by itself; a key takes about 150 bytes. Two namespaces never share a key. A fresh job costs
/// one `SET` and one script of two commands; a duplicate costs one `SET` that changes nothing.
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
/// # Guarantees and limits
///
/// The store keeps [`DedupStore`]'s contract as long as Redis keeps the writes that it acknowledged. Redis loses writes
/// when it restarts without persistence (or with less than `appendfsync always`), when it fails over to a
/// replica that had not received them, and when it evicts keys. Then the handler may run again for a job that is claimed
/// or done.
///
/// The store logs a warning if the server's `maxmemory-policy` evicts keys; set it to `noeviction`. A full server then
/// refuses new claims ([`StoreError::Full`]), and still renews and completes the claims that it granted.
///
/// # Connections
///
/// With [`from_url`](Self::from_url), a call waits up to one second for a connection and up to 1.5 for a reply. If the
/// connection breaks, the call is repeated once on a new one, with the same owner, so a claim whose reply was lost is
/// recognised as the token's own. After a call without a reply, also one that was dropped after 0.9 seconds, and when the
/// server has become a replica or refuses the credentials, the next call resolves the URL again and connects anew.
///
/// All clones are one store, with the same connection.
#[derive(Clone)]
pub struct RedisDedupStore {
    namespace: Arc<str>,
    connection: Arc<dyn SendCommand>,
    scripts: Arc<Scripts>,
    /// Whether the server's eviction policy was checked, or a check is under way.
    looked: Arc<AtomicBool>,
}

/// Why a [`RedisDedupStore`] cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RedisStoreError {
    /// The text is not the URL of a Redis server.
    #[error("not a URL of a Redis server, such as redis://user:password@host:6379/0")]
    Url(#[source] RedisError),
    /// The namespace is empty, longer than 64 bytes, or contains a character that it may not.
    #[error("a namespace has 1 to 64 characters of A-Z, a-z, 0-9, '.', '_', '-' and '/'")]
    Namespace,
}

impl RedisDedupStore {
    /// Makes a store on the server at a URL: `redis://`, `redis+unix://` or `valkey://`, and with the feature
    /// `redis-tls` also `rediss://` or `valkeys://`.
    ///
    /// The store connects on first use, and again after a connection broke; [`check`](Self::check) tells whether the server
    /// is reachable. `namespace` separates its keys from others on the server: 1 to 64 characters of `A-Z`, `a-z`, `0-9`,
    /// `.`, `_`, `-` and `/`.
    ///
    /// A URL with TLS makes `aws_lc_rs` the process's default provider of rustls, unless one is installed: install another
    /// one before.
    ///
    /// # Errors
    ///
    /// Returns [`RedisStoreError::Url`] or [`RedisStoreError::Namespace`] if the URL or the namespace is not valid.
    pub fn from_url(url: &str, namespace: &str) -> Result<Self, RedisStoreError> {
        let address = url.into_connection_info().map_err(RedisStoreError::Url)?;
        let address = address.set_tcp_settings(tcp_settings());
        #[cfg(feature = "redis-tls")]
        if matches!(address.addr(), ConnectionAddr::TcpTls { .. }) {
            connection::install_tls_provider();
        }
        let client = Client::open(address).map_err(RedisStoreError::Url)?;
        Self::new(Managed::new(client), namespace)
    }

    /// Makes a store on your own connection: a `ConnectionManager` or a `ClusterConnection`, with its timeouts.
    ///
    /// The connection must reconnect by itself. A `MultiplexedConnection` does not: once it breaks, every call fails. A
    /// `ConnectionManager` reconnects only when its connection breaks: it stays with a server that became a replica or no
    /// longer answers, and never connects again once a server refused its credentials. [`from_url`](Self::from_url)
    /// connects anew in these cases.
    ///
    /// # Errors
    ///
    /// Returns [`RedisStoreError::Namespace`] if the namespace is not valid; [`from_url`](Self::from_url) says which are.
    pub fn from_connection(
        connection: impl ConnectionLike + Clone + Send + Sync + 'static,
        namespace: &str,
    ) -> Result<Self, RedisStoreError> {
        Self::new(connection, namespace)
    }

    fn new(connection: impl SendCommand + 'static, namespace: &str) -> Result<Self, RedisStoreError> {
        // A colon ends the namespace in a key. If a namespace could contain one, two could share a key.
        let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte);
        if namespace.is_empty() || namespace.len() > 64 || !namespace.bytes().all(is_valid) {
            return Err(RedisStoreError::Namespace);
        }
        Ok(Self {
            namespace: namespace.into(),
            connection: Arc::new(connection),
            scripts: Arc::new(Scripts::new()),
            looked: Arc::new(AtomicBool::new(false)),
        })
    }

    /// Claims, renews, releases and completes a job of the check's own, under a key that expires at once, and logs a
    /// warning if the server is configured to evict keys. For a program's start and for health checks.
    ///
    /// Without a check, the first claim makes the store look at that configuration.
    ///
    /// # Errors
    ///
    /// Returns [`StoreError::Unavailable`] if the server is not reachable, refuses the credentials, takes no writes, or
    /// does not let the user run the store's commands and scripts on the keys `NAMESPACE:*`; the error names the missing
    /// rights.
    pub async fn check(&self) -> Result<(), StoreError> {
        // Keeps the claim below from looking, too.
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
        // A job id of its own, so that any number of processes may check at once.
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
            return Err(StoreError::unavailable(
                "Redis acknowledged a write and lost it; check its configuration",
            ));
        }
        Ok(())
    }

    /// Looks at the server's configuration once, in the background.
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
        /// Refusals of a command, and of a command in a script, by servers of several versions.
        const REFUSALS: [&str; 3] =
            ["unknown command", "ACL failure in script", "The user executing the script"];
        let detail = error.detail().unwrap_or_default();
        match error.code() {
            Some(FULL) => StoreError::Full,
            code if code == Some("NOPERM") || REFUSALS.iter().any(|text| detail.contains(text)) => {
                StoreError::unavailable(MissingRights { namespace: self.namespace.clone(), source: error })
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
            _ => Err(StoreError::unavailable("Redis answered a script with something other than a number")),
        }
    }

    /// Sends a command, and sends it once more if the connection broke. Every command of this store may be repeated with
    /// the same owner.
    async fn call(&self, command: &Cmd) -> RedisResult<Value> {
        match self.connection.call(command).await {
            Err(error) if error.is_connection_dropped() && !error.is_connection_refusal() => {
                debug!(%error, "the connection to Redis broke; repeating the command now");
                match self.connection.call(command).await {
                    // The first sending may have taken effect, so this is no refusal.
                    Err(again) if again.code() == Some(FULL) => Err(error),
                    answer => answer,
                }
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
                // The claim is repeated, because its reply was lost: its lease may have begun long ago.
                Value::BulkString(held) if held == claimed.as_bytes() => {
                    if self.renew(claim, lease).await? == Fenced::Applied {
                        break;
                    }
                    continue;
                }
                Value::BulkString(held) if held.starts_with(DONE.as_bytes()) => return Ok(Claim::Done),
                Value::BulkString(held) if held.starts_with(CLAIMED.as_bytes()) => {}
                _ => {
                    return Err(StoreError::unavailable(format!(
                        "the key {key} is another program's; use another namespace"
                    )));
                }
            }
            match self.command(cmd("PTTL").arg(&key)).await? {
                // The key expired between the two commands.
                Value::Int(-2) => {}
                Value::Int(left) => {
                    let left = u64::try_from(left).map_or(lease, Duration::from_millis);
                    return Ok(Claim::InProgress { retry_after: left });
                }
                _ => {
                    return Err(StoreError::unavailable(
                        "Redis answered PTTL with something other than a number",
                    ));
                }
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

/// Begins a command of `words` words, with room for all: growing a command costs more than filling it.
fn begin(name: &str, words: usize) -> Cmd {
    let mut command = Cmd::with_capacity(words, 256);
    command.arg(name);
    command
}

/// The error code of a server without memory for a write.
const FULL: &str = "OOM";

/// The beginning of a key's value, before the owner.
const CLAIMED: &str = "claimed:";
const DONE: &str = "done:";

fn claimed(token: &ClaimToken) -> String {
    format!("{CLAIMED}{:032x}", token.owner())
}

fn done(token: &ClaimToken) -> String {
    format!("{DONE}{:032x}", token.owner())
}

/// A duration in Redis's unit: at least one millisecond, at most a century.
fn milliseconds(duration: Duration) -> u64 {
    const CENTURY: u64 = 100 * 365 * 24 * 3600 * 1000;
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).map_or(CENTURY, |time| time.clamp(1, CENTURY))
}

/// The user lacks rights on the server.
#[derive(Debug, thiserror::Error)]
#[error(
    "Redis refuses a command of the store; allow its user these commands and keys: \
     ACL SETUSER <name> +set +get +del +pttl +evalsha +eval ~{namespace}:*"
)]
struct MissingRights {
    namespace: Arc<str>,
    source: RedisError,
}

fn check_job(text: &str) -> Result<JobId, StoreError> {
    text.parse().map_err(StoreError::unavailable)
}

impl fmt::Debug for RedisDedupStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisDedupStore").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}
