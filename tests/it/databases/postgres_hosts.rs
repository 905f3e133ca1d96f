//! URLs with several hosts, and settings in a URL that are refused.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use qomplement_webhooks::inbox::InboxAdmin;
use qomplement_webhooks::postgres::PostgresStoreError;
use qomplement_webhooks::{InboxStore, PostgresDedupStore, PostgresInbox};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::postgres_inbox::{client, count, event};
use crate::support::databases::{PASSWORD, Server, free_port, postgres};
use crate::support::eventually;
use crate::support::proxy::Proxy;

/// A port that lets nobody in: whoever connects is not answered at all, as when a firewall drops what it gets.
struct BlackHole {
    port: u16,
    _open: (TcpListener, Vec<TcpStream>),
}

impl BlackHole {
    async fn new() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut waiting = Vec::new();
        // Nobody accepts them. When there are as many as may wait, the system drops what comes.
        while let Ok(connected) = timeout(Duration::from_millis(500), TcpStream::connect(address)).await {
            waiting.push(connected.unwrap());
        }
        Self { port: address.port(), _open: (listener, waiting) }
    }
}

/// A port that lets everybody in, and says nothing.
struct Silent {
    port: u16,
    connections: Arc<AtomicUsize>,
}

impl Silent {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let silent = Self { port: listener.local_addr().unwrap().port(), connections: Arc::default() };
        let connections = silent.connections.clone();
        tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((connection, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::SeqCst);
                open.push(connection);
            }
        });
        silent
    }
}

fn url(ports: &[u16]) -> String {
    let hosts: Vec<_> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    format!("postgres://postgres:{PASSWORD}@{}/postgres", hosts.join(","))
}

#[tokio::test]
async fn a_host_that_is_silent_or_away_leaves_time_for_the_others() {
    let hole = BlackHole::new().await;
    let silent = Silent::new().await;
    let here = postgres().port();
    let migrated = PostgresInbox::from_url(&postgres().url()).unwrap().with_table("hosts", "inbox").unwrap();
    migrated.migrate().await.unwrap();
    for ports in [
        vec![hole.port, here],
        vec![silent.port, here],
        vec![free_port(), here],
        vec![hole.port, silent.port, here],
        vec![here, hole.port],
    ] {
        let inbox = PostgresInbox::from_url(&url(&ports)).unwrap().with_table("hosts", "inbox").unwrap();
        // A machine that is busy may take longer than a host's share of the time.
        let mut tries = 0;
        while let Err(error) = inbox.check().await {
            tries += 1;
            assert!(tries < 5, "{ports:?}: {error:?}");
        }
        // The host that answered comes first from now on.
        let mut tries = 0;
        loop {
            let before = silent.connections.load(Ordering::SeqCst);
            let mut calls = JoinSet::new();
            for _ in 0..4 {
                let inbox = inbox.clone();
                calls.spawn(async move { inbox.stats().await.is_ok() });
            }
            if calls.join_all().await.into_iter().all(|succeeded| succeeded) {
                assert_eq!(silent.connections.load(Ordering::SeqCst), before, "{ports:?}");
                break;
            }
            tries += 1;
            assert!(tries < 10, "{ports:?}");
        }
    }
    let none = PostgresInbox::from_url(&url(&[hole.port, silent.port])).unwrap();
    let began = Instant::now();
    assert!(none.check().await.is_err());
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}

#[tokio::test]
async fn of_several_hosts_the_one_that_takes_writes_is_used() {
    let read_only = Server::postgres(&["default_transaction_read_only=on"], &[]);
    let ports = [read_only.port(), postgres().port()];
    for attributes in ["", "?target_session_attrs=read-write"] {
        let inbox = PostgresInbox::from_url(&format!("{}{attributes}", url(&ports))).unwrap();
        let inbox = inbox.with_table("hosts_writing", "inbox").unwrap();
        inbox.migrate().await.unwrap();
        inbox.receive(&event(&format!("job{}", attributes.len()), "completed", "")).await.unwrap();
    }
    let stored = "SELECT count(*) FROM hosts_writing.inbox";
    assert_eq!(count(&client(postgres()).await, stored).await, 2);
    let reading = url(&[postgres().port(), read_only.port()]) + "?target_session_attrs=read-only";
    let error = PostgresInbox::from_url(&reading).unwrap().migrate().await.unwrap_err();
    assert!(format!("{error:?}").contains("read-only"), "{error:?}");
}

#[test]
fn a_setting_that_is_refused_is_named_in_the_first_line() {
    for (settings, named, advice) in [
        ("sslmode=verify-full", "sslmode", "`require`"),
        ("application_name=a&sslmode=allow", "sslmode", "`require`"),
        ("target_session_attrs=primary", "target_session_attrs", "`read-write`"),
        ("connect_timeout=soon", "connect_timeout", ""),
        ("sslmode=require&sslrootcert=ca.pem", "sslrootcert", "leave it out"),
    ] {
        let url = format!("postgres://user:hidden-secret@host/db?{settings}");
        let errors =
            [PostgresDedupStore::from_url(&url).unwrap_err(), PostgresInbox::from_url(&url).unwrap_err()];
        for error in errors {
            assert!(
                matches!(error, PostgresStoreError::Setting { setting } if setting == named),
                "{error:?}"
            );
            let said = error.to_string();
            assert!(said.contains(named) && said.contains(advice) && !said.contains("secret"), "{said}");
        }
    }
}

/// The timers of this machine's open connections to a port, as Linux tells: whether each is that of a keepalive, and the
/// time until it ends.
#[cfg(target_os = "linux")]
fn timers(port: u16) -> Vec<(bool, Duration)> {
    let connections = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let open = connections.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let to_port = open.filter(|fields| fields[2].ends_with(&format!(":{port:04X}")) && fields[3] == "01");
    let timers = to_port.map(|fields| {
        let (kind, left) = fields[5].split_once(':').unwrap();
        (kind == "02", Duration::from_millis(10) * u32::from_str_radix(left, 16).unwrap())
    });
    timers.collect()
}

/// A firewall forgets an idle connection without a word.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn idle_connections_are_kept_alive_each_minute_unless_the_url_says_otherwise() {
    for (setting, most) in [("", Some(60)), ("?keepalives_idle=20", Some(20)), ("?keepalives=0", None)] {
        let proxy = Proxy::before(postgres().port()).await;
        let url = format!("postgres://postgres:{PASSWORD}@127.0.0.1:{}/postgres{setting}", proxy.port);
        let inbox = PostgresInbox::from_url(&url).unwrap().with_table("kept_alive", "inbox").unwrap();
        inbox.migrate().await.unwrap();
        // It listens from then on.
        let _ = timeout(Duration::from_secs(1), inbox.wait()).await;
        let are_kept = async || {
            let timers = timers(proxy.port);
            let is_kept = |(is_keepalive, left): &(bool, Duration)| match most {
                Some(most) => *is_keepalive && *left <= Duration::from_secs(most),
                None => !is_keepalive,
            };
            timers.len() >= 2 && timers.iter().all(is_kept)
        };
        eventually(&format!("{setting}: each connection is kept alive"), are_kept).await;
    }
}
