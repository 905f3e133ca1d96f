//! Connecting to a server: the URL, its hosts one after another, and TLS.

use std::future::{pending, poll_fn};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use deadpool_postgres::{Connect, Manager, ManagerConfig, Pool, Runtime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::lookup_host;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_postgres::config::{Host, LoadBalanceHosts, SslMode, TargetSessionAttrs};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{
    AsyncMessage, CancelToken, Client, Config, Connection, Error, NoTls, Notification, Socket,
};
use tracing::debug;

use super::{PostgresStoreError, quote};
use crate::error::BoxError;
use crate::random;

/// The size of the pool for a URL.
const CONNECTIONS: usize = 16;
/// The time after which an idle connection is probed. Firewalls forget idle connections sooner than the system probes
/// them by itself, and without a word.
const KEEPALIVES_IDLE: Duration = Duration::from_secs(60);
/// How long a call waits for a connection from the pool, and how long a new connection may take with all hosts
/// together.
const CONNECT_TIME: Duration = Duration::from_secs(2);

/// Connects to the hosts of a URL.
#[derive(Clone)]
pub(crate) struct Connector {
    config: Config,
    tls: Option<Tls>,
    /// How long a connection may take, with all hosts together.
    time: Duration,
    /// The host of the last connection. It comes first next time.
    last: Arc<AtomicUsize>,
}

#[cfg(feature = "postgres-tls")]
type Tls = ::tokio_postgres_rustls::MakeRustlsConnect;
#[cfg(not(feature = "postgres-tls"))]
type Tls = NoTls;

impl Connector {
    pub(crate) fn from_url(url: &str) -> Result<Self, PostgresStoreError> {
        let mut config = parse(url)?;
        if config.get_tcp_user_timeout().is_none() {
            // Otherwise a connection to a host that has lost its power stays open for a quarter of an hour.
            config.tcp_user_timeout(Duration::from_secs(5));
        }
        if config.get_keepalives_idle() == Config::new().get_keepalives_idle() {
            config.keepalives_idle(KEEPALIVES_IDLE);
        }
        if config.get_application_name().is_none() {
            config.application_name(env!("CARGO_PKG_NAME"));
        }
        if hosts(&config) > 1 && config.get_target_session_attrs() == TargetSessionAttrs::Any {
            // All but one can be standbys, and a store writes.
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        let tls = match config.get_ssl_mode() {
            SslMode::Disable | SslMode::Prefer => None,
            _ => Some(tls().map_err(PostgresStoreError::Tls)?),
        };
        let time = config.get_connect_timeout().map_or(CONNECT_TIME, |time| CONNECT_TIME.max(*time));
        Ok(Self { config, tls, time, last: Arc::default() })
    }

    pub(crate) fn canceller(&self) -> Canceller {
        Canceller(Option::clone(&self.tls))
    }

    /// Makes a pool that connects on first use.
    pub(crate) fn pool(&self) -> Result<Pool, PostgresStoreError> {
        let manager = Manager::from_connect(self.config.clone(), self.clone(), ManagerConfig::default());
        let pool = Pool::builder(manager)
            .max_size(CONNECTIONS)
            .wait_timeout(Some(CONNECT_TIME))
            .create_timeout(Some(self.time))
            .runtime(Runtime::Tokio1)
            .build();
        // The builder fails only without a runtime.
        pool.map_err(|_| PostgresStoreError::Url(None))
    }

    /// Listens to a channel on a connection of its own, and calls `notified` with each notification until the connection
    /// ends. The first call, with `None`, means that no notification is missed from now on.
    pub(crate) async fn listen(
        &self,
        channel: &str,
        notified: impl Fn(Option<&Notification>),
    ) -> Result<(), Error> {
        let until = Instant::now() + self.time;
        match &self.tls {
            None => match timeout_at(until, self.connect_to_any(&self.config, NoTls)).await {
                Ok(connected) => listen(connected?, channel, notified).await,
                Err(_) => Ok(()),
            },
            Some(tls) => match timeout_at(until, self.connect_to_any(&self.config, Tls::clone(tls))).await {
                Ok(connected) => listen(connected?, channel, notified).await,
                Err(_) => Ok(()),
            },
        }
    }

    /// Connects to the first host that is reachable and, if there are several, takes writes. Each host gets a share of
    /// the time, so a silent host leaves some for the others.
    ///
    /// Never returns if all hosts are silent: the caller limits the time.
    async fn connect_to_any<T>(
        &self,
        config: &Config,
        tls: T,
    ) -> Result<(Client, Connection<Socket, T::Stream>), Error>
    where
        T: MakeTlsConnect<Socket> + Clone,
    {
        let (hosts, until) = (hosts(config), Instant::now() + self.time);
        let (names, addresses) = (config.get_hosts().len(), config.get_hostaddrs().len());
        let ports = config.get_ports().len();
        if hosts == 0 || (addresses > 0 && names > 0 && addresses != names) || (ports > 1 && ports != hosts) {
            // The driver's error says what is wrong with the URL.
            return config.connect(tls).await;
        }
        let first = match config.get_load_balance_hosts() {
            LoadBalanceHosts::Random => usize::try_from(random::u64() >> 32).unwrap_or(0),
            _ => self.last.load(Ordering::Relaxed),
        };
        let mut failed = None;
        for tried in 0..hosts {
            let host = (first + tried) % hosts;
            let host_until = share(until, hosts - tried);
            let Ok(endpoints) = timeout_at(host_until, endpoints(config, host)).await else { continue };
            let left = endpoints.len();
            for (number, endpoint) in endpoints.into_iter().enumerate() {
                let until = share(host_until, left - number);
                let config = at(config, endpoint, until.saturating_duration_since(Instant::now()));
                match timeout_at(until, config.connect(tls.clone())).await {
                    Ok(Ok(connected)) => {
                        self.last.store(host, Ordering::Relaxed);
                        return Ok(connected);
                    }
                    Ok(Err(error)) => failed = Some(error),
                    Err(_) => debug!("a host of the database is silent; connecting to the next one now"),
                }
            }
        }
        match failed {
            Some(error) => Err(error),
            None => pending().await,
        }
    }
}

/// Cancels statements whose callers have left. Otherwise a statement that waits, as for a lock, keeps its session on the
/// server, however many connections take its place meanwhile.
#[derive(Clone, Default)]
pub(crate) struct Canceller(Option<Tls>);

impl Canceller {
    /// Sends the request for a session, beside the caller.
    pub(super) fn cancel(&self, token: CancelToken) {
        let (Ok(runtime), tls) = (Handle::try_current(), Option::clone(&self.0)) else { return };
        runtime.spawn(async move {
            let cancelled = async {
                match tls {
                    None => token.cancel_query(NoTls).await,
                    Some(tls) => token.cancel_query(tls).await,
                }
            };
            if let Ok(Err(error)) = timeout(CONNECT_TIME, cancelled).await {
                debug!(%error, "a statement whose caller has left was not cancelled; its session ends after it");
            }
        });
    }
}

impl Connect for Connector {
    fn connect(
        &self,
        config: &Config,
    ) -> Pin<Box<dyn Future<Output = Result<(Client, JoinHandle<()>), Error>> + Send + '_>> {
        let config = config.clone();
        Box::pin(async move {
            match &self.tls {
                None => self.connect_to_any(&config, NoTls).await.map(run),
                Some(tls) => self.connect_to_any(&config, Tls::clone(tls)).await.map(run),
            }
        })
    }
}

/// Starts the task that drives a connection.
fn run<T>((client, connection): (Client, Connection<Socket, T>)) -> (Client, JoinHandle<()>)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let task = tokio::spawn(async move {
        if let Err(error) = connection.await {
            debug!(%error, "a connection to the database broke; the pool opens another when one is needed");
        }
    });
    (client, task)
}

/// The number of hosts in a URL.
fn hosts(config: &Config) -> usize {
    config.get_hosts().len().max(config.get_hostaddrs().len())
}

/// The time at which the next of `among` equal shares of the time until `until` ends.
fn share(until: Instant, among: usize) -> Instant {
    let now = Instant::now();
    now + until.saturating_duration_since(now) / u32::try_from(among.max(1)).unwrap_or(u32::MAX)
}

/// A host's name, its address and its port.
type Endpoint = (Option<Host>, Option<IpAddr>, u16);

/// Resolves one of the hosts.
async fn endpoints(config: &Config, number: usize) -> Vec<Endpoint> {
    let ports = config.get_ports();
    let port = ports.get(number).or(ports.first()).copied().unwrap_or(5432);
    let host = config.get_hosts().get(number).cloned();
    let address = config.get_hostaddrs().get(number).copied();
    let (None, Some(Host::Tcp(name))) = (address, &host) else { return vec![(host, address, port)] };
    let found = lookup_host((&**name, port)).await;
    match found {
        Ok(found) => found.map(|found| (host.clone(), Some(found.ip()), port)).collect(),
        // The driver resolves the name again, and its error says why that fails.
        Err(_) => vec![(host.clone(), None, port)],
    }
}

/// Copies a configuration for one endpoint. The driver cannot replace the hosts of a configuration.
fn at(from: &Config, (host, address, port): Endpoint, time: Duration) -> Config {
    let mut config = Config::new();
    match host {
        Some(Host::Tcp(name)) => drop(config.host(name)),
        #[cfg(unix)]
        Some(Host::Unix(path)) => drop(config.host_path(path)),
        None => {}
    }
    if let Some(address) = address {
        config.hostaddr(address);
    }
    if let Some(user) = from.get_user() {
        config.user(user);
    }
    if let Some(password) = from.get_password() {
        config.password(password);
    }
    if let Some(name) = from.get_dbname() {
        config.dbname(name);
    }
    if let Some(options) = from.get_options() {
        config.options(options);
    }
    if let Some(name) = from.get_application_name() {
        config.application_name(name);
    }
    if let Some(time) = from.get_tcp_user_timeout() {
        config.tcp_user_timeout(*time);
    }
    if let Some(interval) = from.get_keepalives_interval() {
        config.keepalives_interval(interval);
    }
    if let Some(retries) = from.get_keepalives_retries() {
        config.keepalives_retries(retries);
    }
    let time = from.get_connect_timeout().map_or(time, |most| time.min(*most));
    config
        .port(port)
        .connect_timeout(time)
        .ssl_mode(from.get_ssl_mode())
        .ssl_negotiation(from.get_ssl_negotiation())
        .keepalives(from.get_keepalives())
        .keepalives_idle(from.get_keepalives_idle())
        .target_session_attrs(from.get_target_session_attrs())
        .channel_binding(from.get_channel_binding());
    config
}

async fn listen<S, T>(
    (client, mut connection): (Client, Connection<S, T>),
    channel: &str,
    notified: impl Fn(Option<&Notification>),
) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    let listen = async {
        client.batch_execute(&format!("LISTEN {}", quote(channel))).await?;
        notified(None);
        pending().await
    };
    let messages = async {
        while let Some(message) = poll_fn(|context| connection.poll_message(context)).await {
            if let AsyncMessage::Notification(notification) = message? {
                notified(Some(&notification));
            }
        }
        Ok(())
    };
    tokio::select! {
        failed = listen => failed,
        ended = messages => ended,
    }
}

/// The settings of a URL that can have an invalid value, and those for other programs that are not supported.
const SETTINGS: [&str; 17] = [
    "sslmode",
    "target_session_attrs",
    "sslnegotiation",
    "connect_timeout",
    "tcp_user_timeout",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_retries",
    "channel_binding",
    "load_balance_hosts",
    "hostaddr",
    "port",
    "options",
    "sslrootcert",
    "sslcert",
    "sslkey",
];

fn parse(url: &str) -> Result<Config, PostgresStoreError> {
    let rest = ["postgres://", "postgresql://"].iter().find_map(|scheme| url.strip_prefix(scheme));
    let Some(rest) = rest else { return Err(PostgresStoreError::Url(None)) };
    url.parse().map_err(|_| {
        // The driver's error quotes settings that it does not know, which can be pieces of a password. Its error about the
        // hosts and the database alone quotes nothing. Without such an error, the fault is elsewhere.
        let server = rest.rsplit_once('@').map_or(rest, |(_, server)| server);
        let (server, settings) = server.split_once('?').unwrap_or((server, ""));
        let mut wrong = settings.split('&').filter_map(|setting| {
            let (name, _) = setting.split_once('=')?;
            let known = SETTINGS.into_iter().find(|known| *known == name)?;
            let is_wrong = format!("postgres://localhost?{setting}").parse::<Config>().is_err();
            is_wrong.then_some(PostgresStoreError::Setting { setting: known })
        });
        wrong.next().unwrap_or_else(|| {
            PostgresStoreError::Url(format!("postgres://{server}").parse::<Config>().err())
        })
    })
}

#[cfg(feature = "postgres-tls")]
fn tls() -> Result<Tls, BoxError> {
    let mut roots = ::rustls::RootCertStore::empty();
    let found = ::rustls_native_certs::load_native_certs();
    if let (true, Some(error)) = (found.certs.is_empty(), found.errors.into_iter().next()) {
        return Err(error.into());
    }
    roots.add_parsable_certificates(found.certs);
    let provider = ::rustls::crypto::aws_lc_rs::default_provider();
    let tls = ::rustls::ClientConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Tls::new(tls))
}

#[cfg(not(feature = "postgres-tls"))]
fn tls() -> Result<Tls, BoxError> {
    Err("enable the feature postgres-tls, or make a pool with TLS yourself".into())
}
