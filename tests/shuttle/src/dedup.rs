//! The dedup store in memory: claims of one job by several threads, and a store that is full.

use qomplement_webhooks::DedupStore;
use qomplement_webhooks::dedup::{Claim, ClaimToken};

mod memory {
    use crate::map::{dashmap, foldhash};

    include!(concat!(env!("OUT_DIR"), "/memory.rs"));

    impl MemoryDedupStore {
        /// Checks what holds while no call is under way: every job is counted once, and has a place in an order. If claims
        /// `expire` while their own call is still under way, which takes as long as a lease, a job may have two places, or
        /// one after it is forgotten: such a place is forgotten in its turn.
        pub(super) fn check(&self, expire: bool) {
            let jobs: usize = self.inner.jobs.shards().iter().map(|shard| shard.write().len()).sum();
            let mut hashes: Vec<u64> = Vec::new();
            for order in &self.inner.orders {
                hashes.extend(&order.lock().unwrap().hashes);
            }
            let places = hashes.len();
            hashes.sort_unstable();
            hashes.dedup();
            assert_eq!(self.len(), jobs, "the number of jobs");
            let of_jobs = (places, hashes.len());
            let is_right = of_jobs == (jobs, jobs) || (expire && hashes.len() >= jobs);
            assert!(is_right, "{jobs} jobs have {places} places, {} of them different", hashes.len());
            assert!(jobs <= self.inner.capacity, "{jobs} jobs of at most {}", self.inner.capacity);
        }
    }
}

mod tests {
    use std::time::Duration;

    use qomplement_webhooks::JobId;
    use qomplement_webhooks::store::{Fenced, StoreError};
    use shuttle::future::block_on;
    use shuttle::sync::Arc;
    use shuttle::sync::atomic::{AtomicUsize, Ordering};
    use shuttle::thread;

    use super::memory::MemoryDedupStore;
    use super::{Claim, ClaimToken, DedupStore};
    use crate::race;

    const HOUR: Duration = Duration::from_secs(3600);

    fn token(job: &str) -> ClaimToken {
        ClaimToken::new(&job.parse::<JobId>().unwrap())
    }

    /// Runs it on threads at once.
    fn at_once(
        store: MemoryDedupStore,
        threads: usize,
        run: impl Fn(&MemoryDedupStore, usize) + Send + Sync + 'static,
    ) -> Arc<MemoryDedupStore> {
        let (store, run) = (Arc::new(store), Arc::new(run));
        let threads: Vec<_> = (0..threads)
            .map(|number| {
                let (store, run) = (store.clone(), run.clone());
                thread::spawn(move || run(&store, number))
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        store
    }

    #[test]
    fn one_of_several_claims_runs_and_after_a_success_none() {
        race(|| {
            let (running, runs) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
            let counted = runs.clone();
            let store = at_once(MemoryDedupStore::new(), 3, move |store, _| {
                let token = token("job");
                if block_on(store.claim(&token, HOUR)).unwrap() == Claim::Acquired {
                    assert_eq!(running.fetch_add(1, Ordering::SeqCst), 0, "two handlers at once");
                    counted.fetch_add(1, Ordering::SeqCst);
                    assert_eq!(block_on(store.renew(&token, HOUR)).unwrap(), Fenced::Applied);
                    running.fetch_sub(1, Ordering::SeqCst);
                    assert_eq!(block_on(store.complete(&token, HOUR)).unwrap(), Fenced::Applied);
                }
            });
            store.check(false);
            assert_eq!(runs.load(Ordering::SeqCst), 1);
        });
    }

    #[test]
    fn released_claims_are_taken_one_at_a_time_and_leave_nothing_behind() {
        race(|| {
            let running = AtomicUsize::new(0);
            let store = at_once(MemoryDedupStore::new(), 3, move |store, _| {
                for _ in 0..2 {
                    let token = token("job");
                    if block_on(store.claim(&token, HOUR)).unwrap() == Claim::Acquired {
                        assert_eq!(running.fetch_add(1, Ordering::SeqCst), 0, "two handlers at once");
                        running.fetch_sub(1, Ordering::SeqCst);
                        assert_eq!(block_on(store.release(&token)).unwrap(), Fenced::Applied);
                    }
                }
            });
            store.check(false);
        });
    }

    #[test]
    fn a_job_that_is_claimed_while_it_is_released_can_be_forgotten() {
        race(|| {
            // Full, so that another job looks for room in the same order.
            let store = MemoryDedupStore::with_capacity(2);
            let released = token("a");
            for token in [&released, &token("held")] {
                assert_eq!(block_on(store.claim(token, HOUR)).unwrap(), Claim::Acquired);
            }
            let store = at_once(store, 3, move |store, number| match number {
                0 => assert_eq!(block_on(store.release(&released)).unwrap(), Fenced::Applied),
                1 => drop(block_on(store.claim(&token("a"), HOUR))),
                _ => drop(block_on(store.claim(&token("b"), HOUR))),
            });
            store.check(false);
        });
    }

    #[test]
    fn an_expired_job_that_is_claimed_anew_is_not_forgotten() {
        race(|| {
            // Full, so that another job has the expired one forgotten.
            let store = MemoryDedupStore::with_capacity(2);
            for (job, lease) in [("a", Duration::ZERO), ("held", HOUR)] {
                assert_eq!(block_on(store.claim(&token(job), lease)).unwrap(), Claim::Acquired);
            }
            let store = at_once(store, 2, |store, number| match number {
                0 => {
                    if let Ok(Claim::Acquired) = block_on(store.claim(&token("a"), HOUR)) {
                        let duplicate = block_on(store.claim(&token("a"), HOUR));
                        assert!(matches!(duplicate, Ok(Claim::InProgress { .. })), "{duplicate:?}");
                    }
                }
                _ => drop(block_on(store.claim(&token("b"), HOUR))),
            });
            store.check(true);
        });
    }

    #[test]
    fn a_full_store_forgets_expired_jobs_and_never_holds_more_than_it_may() {
        race(|| {
            let store = at_once(MemoryDedupStore::with_capacity(2), 3, |store, number| {
                for job in ["a", "b", "c"] {
                    let token = token(job);
                    // A claim of no time has expired at once.
                    let lease = if number == 0 { HOUR } else { Duration::ZERO };
                    match block_on(store.claim(&token, lease)) {
                        Ok(Claim::Acquired) if number == 1 => drop(block_on(store.release(&token)).unwrap()),
                        Ok(Claim::Acquired) => drop(block_on(store.complete(&token, Duration::ZERO))),
                        Ok(_) | Err(StoreError::Full) => {}
                        Err(error) => panic!("{error:?}"),
                    }
                }
            });
            store.check(true);
        });
    }
}
