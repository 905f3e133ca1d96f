//! Connections: lent for one call each, and some kept back for leases.

use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use deadpool_postgres::{Client, ClientWrapper, Pool, PoolError, TimeoutType};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use super::Isolation;

/// How many connections are kept back. A call on one of them waits for no handler, so they serve some thousand
/// leases.
const CONNECTIONS: usize = 2;

/// Connections that were taken out of a pool for good: the pool opens others in their place. So they are made as the
/// pool makes its own, its hooks included.
#[derive(Clone)]
pub(super) struct Reserve {
    idle: Arc<Mutex<Vec<ClientWrapper>>>,
    /// One permit for each connection that is not lent, whether it is open or not.
    room: Arc<Semaphore>,
    /// Held by the one call that fills it.
    filling: Arc<tokio::sync::Mutex<()>>,
}

impl Default for Reserve {
    fn default() -> Self {
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        Self { idle: Arc::default(), room, filling: Arc::default() }
    }
}

impl Reserve {
    /// Opens the connections that are missing, unless another call is about to.
    pub(super) async fn fill(&self, pool: &Pool) -> Result<(), PoolError> {
        let Ok(_filling) = self.filling.try_lock() else { return Ok(()) };
        while self.is_missing() {
            let client = Client::take(pool.get().await?);
            self.idle().push(client);
        }
        Ok(())
    }

    fn is_missing(&self) -> bool {
        let mut idle = self.idle();
        idle.retain(|client| !client.is_closed());
        idle.len() < self.room.available_permits()
    }

    /// Lends a connection, once one is back.
    pub(super) async fn lend(&self, pool: &Pool) -> Result<Lent, PoolError> {
        let room = self.room.clone().acquire_owned();
        let room = match pool.timeouts().wait {
            Some(wait) => timeout(wait, room).await.map_err(|_| PoolError::Timeout(TimeoutType::Wait))?,
            None => room.await,
        };
        let room = room.map_err(|_| PoolError::Closed)?;
        self.is_missing();
        let client = self.idle().pop();
        let client = match client {
            Some(client) => client,
            None => Client::take(pool.get().await?),
        };
        Ok(Lent(Some(Connection::Reserved(client, self.clone(), room))))
    }

    fn idle(&self) -> MutexGuard<'_, Vec<ClientWrapper>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Connection {
    Pooled(Client),
    Reserved(ClientWrapper, Reserve, OwnedSemaphorePermit),
}

impl Deref for Connection {
    type Target = ClientWrapper;

    fn deref(&self) -> &ClientWrapper {
        match self {
            Self::Pooled(client) => client,
            Self::Reserved(client, ..) => client,
        }
    }
}

/// A connection that goes back only after a call that ended well. What another call left half done, or a server that
/// is no longer the primary, must not be in the way of the next one.
pub(super) struct Lent(Option<Connection>);

impl Lent {
    pub(super) fn pooled(client: Client) -> Self {
        Self(Some(Connection::Pooled(client)))
    }

    pub(super) async fn query(
        mut self,
        statement: &str,
        parameters: &[(&(dyn ToSql + Sync), Type)],
        isolation: Isolation,
    ) -> Result<Vec<Row>, tokio_postgres::Error> {
        let rows = match (self.0.as_deref(), isolation) {
            (Some(client), Isolation::Default) => client.query_typed(statement, parameters).await?,
            (Some(client), Isolation::ReadCommitted) => {
                client.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED").await?;
                let rows = client.query_typed(statement, parameters).await?;
                client.batch_execute("COMMIT").await?;
                rows
            }
            (None, _) => Vec::new(),
        };
        match self.0.take() {
            Some(Connection::Reserved(client, reserve, room)) => {
                reserve.idle().push(client);
                drop(room);
            }
            pooled => drop(pooled),
        }
        Ok(rows)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        match self.0.take() {
            Some(Connection::Pooled(client)) => drop(Client::take(client)),
            reserved => drop(reserved),
        }
    }
}
