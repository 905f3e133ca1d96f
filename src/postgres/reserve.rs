//! Connections: each lent for one call, and two kept in reserve for leases.

use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use deadpool_postgres::{Client, ClientWrapper, Pool, PoolError, TimeoutType};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;

use super::connect::Canceller;
use super::{Isolation, Parameter};

/// The size of the reserve. No handler holds its connections, so two are enough for some thousand leases.
const CONNECTIONS: usize = 2;

/// Connections that were taken out of a pool permanently; the pool opens others in their place. So they are made as the
/// pool makes its own, with its hooks.
#[derive(Clone)]
pub(super) struct Reserve {
    idle: Arc<Mutex<Vec<ClientWrapper>>>,
    /// A permit for each connection that is not lent, open or still to be opened.
    room: Arc<Semaphore>,
    /// Held by the call that fills the reserve.
    filling: Arc<tokio::sync::Mutex<()>>,
}

impl Default for Reserve {
    fn default() -> Self {
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        Self { idle: Arc::default(), room, filling: Arc::default() }
    }
}

impl Reserve {
    /// Opens the missing connections, unless another call is doing so.
    pub(super) async fn fill(&self, pool: &Pool) -> Result<(), PoolError> {
        let Ok(_filling) = self.filling.try_lock() else { return Ok(()) };
        while self.is_missing() {
            let client = Client::take(pool.get().await?);
            self.idle().push(client);
        }
        Ok(())
    }

    /// Drops connections that have closed, and tells whether any is missing.
    fn is_missing(&self) -> bool {
        let mut idle = self.idle();
        idle.retain(|client| !client.is_closed());
        idle.len() < self.room.available_permits()
    }

    /// Lends a connection; waits until one is free, for the pool's wait timeout at most.
    pub(super) async fn lend(&self, pool: &Pool) -> Result<AnyConnection, PoolError> {
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
        Ok(AnyConnection::Reserved(client, self.clone(), room))
    }

    fn idle(&self) -> MutexGuard<'_, Vec<ClientWrapper>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection of the pool or of the reserve.
pub(super) enum AnyConnection {
    Pooled(Client),
    Reserved(ClientWrapper, Reserve, OwnedSemaphorePermit),
}

impl Deref for AnyConnection {
    type Target = ClientWrapper;

    fn deref(&self) -> &ClientWrapper {
        match self {
            Self::Pooled(client) => client,
            Self::Reserved(client, ..) => client,
        }
    }
}

/// A connection that is used again only after a call that succeeded, or waited for a lock in vain. After any other it is
/// closed: a statement may still be running on it, which is then cancelled, or the server may no longer be the primary.
pub(super) struct Lent {
    connection: Option<AnyConnection>,
    is_running: bool,
    canceller: Canceller,
}

impl Lent {
    pub(super) fn new(connection: AnyConnection, canceller: Canceller) -> Self {
        Self { connection: Some(connection), is_running: false, canceller }
    }

    pub(super) async fn query(
        mut self,
        statement: &str,
        parameters: &[Parameter<'_>],
        isolation: Isolation,
        prepares: bool,
    ) -> Result<Vec<Row>, tokio_postgres::Error> {
        self.is_running = true;
        let ran = match (self.connection.as_deref(), isolation) {
            (Some(client), Isolation::Default) if prepares => prepared(client, statement, parameters).await,
            (Some(client), Isolation::Default) => client.query_typed(statement, parameters).await,
            (Some(client), Isolation::ReadCommitted) => read_committed(client, statement, parameters).await,
            (None, _) => Ok(Vec::new()),
        };
        self.is_running = false;
        let is_clean = match (&ran, isolation) {
            (Ok(_), _) => true,
            (Err(error), Isolation::Default) => error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE),
            (Err(_), Isolation::ReadCommitted) => false,
        };
        if !is_clean {
            return ran;
        }
        match self.connection.take() {
            Some(AnyConnection::Reserved(client, reserve, room)) => {
                reserve.idle().push(client);
                drop(room);
            }
            pooled => drop(pooled),
        }
        ran
    }
}

async fn read_committed(
    client: &ClientWrapper,
    statement: &str,
    parameters: &[Parameter<'_>],
) -> Result<Vec<Row>, tokio_postgres::Error> {
    client.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED").await?;
    let rows = client.query_typed(statement, parameters).await?;
    client.batch_execute("COMMIT").await?;
    Ok(rows)
}

/// Runs a statement that the connection prepares once.
async fn prepared(
    client: &ClientWrapper,
    statement: &str,
    parameters: &[Parameter<'_>],
) -> Result<Vec<Row>, tokio_postgres::Error> {
    let (values, types): (Vec<_>, Vec<_>) = parameters.iter().cloned().unzip();
    let statement = client.prepare_typed_cached(statement, &types).await?;
    client.query(&statement, &values).await
}

impl Drop for Lent {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        if self.is_running {
            self.canceller.cancel(connection.cancel_token());
        }
        match connection {
            AnyConnection::Pooled(client) => drop(Client::take(client)),
            reserved @ AnyConnection::Reserved(..) => drop(reserved),
        }
    }
}
