//! A PostgreSQL server, its synchronous replica, and statements for either.

use std::time::{Duration, Instant};

use tokio::task::block_in_place;
use tokio::time::sleep;
use tokio_postgres::NoTls;

use crate::server::{PASSWORD, Server};

pub struct Pair {
    pub primary: Server,
    pub replica: Server,
    /// Whether a commit waits for the replica.
    synchronous: bool,
    ports: [u16; 2],
}

impl Pair {
    /// Starts both, the replica `synchronous` or not.
    pub async fn start(synchronous: bool) -> Self {
        let servers = tokio::task::spawn_blocking(|| {
            let primary = Server::postgres(&[], &[]);
            let replica = Server::replica_of(&primary);
            (primary, replica)
        });
        let (primary, replica) = servers.await.unwrap();
        let ports = [primary.port(), replica.port()];
        let pair = Self { primary, replica, synchronous, ports };
        pair.wait_for_replica().await;
        pair
    }

    /// Names both servers, in the same order whichever is the primary.
    pub fn url(&self) -> String {
        let [one, other] = self.ports;
        format!(
            "postgres://postgres:{PASSWORD}@127.0.0.1:{one},127.0.0.1:{other}/postgres\
            ?connect_timeout=10&target_session_attrs=read-write"
        )
    }

    /// Lets the replica receive nothing any more.
    pub async fn cut_off(&self) {
        execute(&self.replica, "ALTER SYSTEM SET primary_conninfo = ''").await;
        execute(&self.replica, "SELECT pg_reload_conf()").await;
        while value(&self.replica, "SELECT count(*) FROM pg_stat_wal_receiver").await != "0" {
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Kills the primary, and promotes the replica after a pause. Returns the time that the promotion took.
    pub async fn fail_over(&mut self, pause: Duration) -> Duration {
        block_in_place(|| self.primary.kill());
        sleep(pause).await;
        let began = Instant::now();
        execute(&self.replica, "SELECT pg_promote(true, 60)").await;
        std::mem::swap(&mut self.primary, &mut self.replica);
        began.elapsed()
    }

    /// Makes a replica of the server that was killed.
    pub async fn replace_replica(&mut self) {
        block_in_place(|| self.replica.replicate(&self.primary));
        self.wait_for_replica().await;
    }

    /// Waits until the replica has all that was committed before, and lets commits wait for it from then on.
    async fn wait_for_replica(&self) {
        if self.synchronous {
            execute(&self.primary, "ALTER SYSTEM SET synchronous_standby_names = '*'").await;
            execute(&self.primary, "SELECT pg_reload_conf()").await;
        }
        let is_there = format!(
            "SELECT FROM pg_stat_replication WHERE state = 'streaming' AND flush_lsn >= '{}'",
            value(&self.primary, "SELECT pg_current_wal_flush_lsn()").await
        ) + if self.synchronous { " AND sync_state = 'sync'" } else { "" };
        let began = Instant::now();
        while value(&self.primary, &format!("SELECT EXISTS ({is_there})")).await != "t" {
            assert!(began.elapsed() < Duration::from_secs(60), "no replica: {}", self.replica.log());
            sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Runs a statement.
pub async fn execute(server: &Server, statement: &str) {
    value(server, statement).await;
}

/// Runs a statement, and returns the first value of its first row.
pub async fn value(server: &Server, statement: &str) -> String {
    let (client, connection) = tokio_postgres::connect(&server.url(), NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    let messages = client.simple_query(statement).await.unwrap();
    drop(client);
    connection.await.unwrap().unwrap();
    let row = messages.iter().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    row.unwrap_or_default().to_owned()
}
