//! The dedup store as a process sees it: over a network, with faults in every call.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use qomplement_webhooks::DedupStore;
use qomplement_webhooks::dedup::{Claim, ClaimToken};
use qomplement_webhooks::store::{Fenced, StoreError};

use crate::inbox::call;
use crate::process::Process;
use crate::world::World;

/// The claims of the database, for one process.
#[derive(Debug, Clone)]
pub struct RemoteClaims {
    world: Arc<World>,
    process: Arc<Process>,
}

impl RemoteClaims {
    pub fn new(world: &Arc<World>, process: &Arc<Process>) -> Self {
        Self { world: world.clone(), process: process.clone() }
    }
}

#[async_trait]
impl DedupStore for RemoteClaims {
    async fn claim(&self, claim: &ClaimToken, lease: Duration) -> Result<Claim, StoreError> {
        let (token, number) = (claim.clone(), self.process.number);
        call(&self.world, &self.process, "claim", move |world| {
            let claim = world.database.at_once(world.database.claims.claim(&token, lease))?;
            world.note(format_args!("{}: claim of p{number} {claim:?}", token.job()));
            Ok(claim)
        })
        .await
    }

    async fn renew(&self, claim: &ClaimToken, lease: Duration) -> Result<Fenced, StoreError> {
        let token = claim.clone();
        call(&self.world, &self.process, "renew", move |world| {
            let fenced = world.database.at_once(world.database.claims.renew(&token, lease))?;
            world.note(format_args!("{}: renew {fenced:?}", token.job()));
            Ok(fenced)
        })
        .await
    }

    async fn complete(&self, claim: &ClaimToken, retention: Duration) -> Result<Fenced, StoreError> {
        let token = claim.clone();
        call(&self.world, &self.process, "complete", move |world| {
            let fenced = world.database.at_once(world.database.claims.complete(&token, retention))?;
            world.note(format_args!("{}: complete {fenced:?}", token.job()));
            world.tell(|ledger| ledger.completed(token.job(), fenced));
            Ok(fenced)
        })
        .await
    }

    async fn release(&self, claim: &ClaimToken) -> Result<Fenced, StoreError> {
        let token = claim.clone();
        call(&self.world, &self.process, "release", move |world| {
            let fenced = world.database.at_once(world.database.claims.release(&token))?;
            world.note(format_args!("{}: release {fenced:?}", token.job()));
            Ok(fenced)
        })
        .await
    }
}
