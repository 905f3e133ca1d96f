//! Calls that are dropped at any of their waits.

use tokio::time::{Instant, sleep};

use super::super::harness::{LAG, LONG, MOST_POLLS, SHORT, applied, cancelled_after, job};
use super::steps::*;
use crate::dedup::{Claim, ClaimToken, DedupStore};

/// A claim dropped at any of its waits leaves nothing, or a claim that ends with its lease: the write that claims also
/// sets the lease.
pub(super) async fn a_cancelled_claim_ends_with_its_lease(store: &dyn DedupStore) {
    for polls in 0..MOST_POLLS {
        let (job, began) = (job(), Instant::now());
        let finished = cancelled_after(polls, claim(store, &job, SHORT)).await;
        let waited = async {
            while !matches!(claim(store, &job, LONG).await, Ok(Claim::Acquired)) {
                assert!(
                    began.elapsed() < (SHORT + LAG) * 2,
                    "a claim dropped after {polls} polls is still held long after its lease ended; set the lease in the \
                     same write as the claim"
                );
                sleep(SHORT / 10).await;
            }
        };
        waited.await;
        if finished {
            return;
        }
    }
}

/// A claim dropped at any of its waits is released by its token, also when its write arrives after the drop: the write
/// that claims also sets the owner.
pub(super) async fn a_cancelled_claim_is_released_by_its_token(store: &dyn DedupStore) {
    for polls in 0..MOST_POLLS {
        let (job, began) = (job(), Instant::now());
        let (dropped, next) = (ClaimToken::new(&job), ClaimToken::new(&job));
        let finished = cancelled_after(polls, store.claim(&dropped, LONG)).await;
        loop {
            if let Err(error) = store.release(&dropped).await {
                panic!("a release after a dropped claim failed: {error:?}");
            }
            match store.claim(&next, LONG).await {
                Ok(Claim::Acquired) => break,
                // The write of the dropped claim came after the release.
                Ok(Claim::InProgress { .. }) => {}
                other => {
                    panic!("a claim after a dropped one: expected Acquired or InProgress, got {other:?}")
                }
            }
            assert!(
                began.elapsed() < LONG / 4,
                "a claim dropped after {polls} polls is not freed by releases of its token; set the owner in the same \
                 write as the claim"
            );
            sleep(SHORT / 10).await;
        }
        let _ = store.release(&dropped).await;
        in_progress(claim(store, &job, LONG).await, LONG, "a claim after a release of the dropped claim");
        applied(store.complete(&next, LONG).await, "a completion by the next owner");
        if finished {
            return;
        }
    }
}

/// A renewal, completion or release dropped at any of its waits can be repeated.
pub(super) async fn a_cancelled_write_can_be_repeated(store: &dyn DedupStore) {
    for polls in 0..MOST_POLLS {
        let completed = job();
        let token = acquire(store, &completed, LONG).await;
        let mut finished = cancelled_after(polls, store.renew(&token, LONG)).await;
        finished &= cancelled_after(polls, store.complete(&token, LONG)).await;
        applied(store.complete(&token, LONG).await, "a completion after a dropped one");
        done(
            claim(store, &completed, LONG).await,
            "a claim after a completion that was dropped and repeated",
        );

        let released = job();
        let token = acquire(store, &released, LONG).await;
        finished &= cancelled_after(polls, store.release(&token)).await;
        if let Err(error) = store.release(&token).await {
            panic!("a release after a dropped one failed: {error:?}");
        }
        let next = acquire(store, &released, LONG).await;
        applied(store.complete(&next, LONG).await, "a completion by the next owner");
        done(
            claim(store, &completed, LONG).await,
            "a claim of the completed job, after a dropped renewal may have arrived late",
        );
        if finished {
            return;
        }
    }
}
