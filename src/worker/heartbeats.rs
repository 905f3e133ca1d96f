//! Renews the leases of running handlers in an inbox.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tracing::Span;

use crate::execution::lease::{Leases, Renew, Times};
use crate::inbox::{InboxStore, Lease};
use crate::store::{Fenced, StoreError};

#[derive(Debug)]
pub(super) struct Heartbeats {
    inbox: Arc<dyn InboxStore>,
    lease: Duration,
}

impl Heartbeats {
    /// Renews leases of this length.
    pub(super) fn leases(inbox: Arc<dyn InboxStore>, lease: Duration) -> Arc<Leases<Self>> {
        let times = Times { lease, renew_every: lease / 3, call: lease / 3, tick: lease / 20 };
        Leases::new(Self { inbox, lease }, times)
    }
}

#[async_trait]
impl Renew for Heartbeats {
    type Token = (Lease, Span);

    fn span((_, span): &(Lease, Span)) -> Span {
        span.clone()
    }

    async fn renew(&self, (lease, _): &(Lease, Span)) -> Result<Fenced, StoreError> {
        self.inbox.renew(lease, self.lease).await
    }
}
