//! The queue of calls that share statements: each call is answered, with its own result.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};

use qomplement_webhooks::BoxError;
use shuttle::sync::Arc;

use self::copied::{Caller, Queue, Queued};

mod copied {
    include!(concat!(env!("OUT_DIR"), "/queue.rs"));

    impl<C> Queue<C> {
        /// Waits until no task is left. Shuttle ends a race with its first thread, and the others must not hold locks then.
        pub(super) async fn idle(&self) {
            while !self.state().tasks.is_empty() {
                tokio::task::yield_now().await;
            }
        }
    }
}

/// The error of a store, with its variants.
#[derive(Debug)]
enum StoreError {
    Full,
    Unavailable(BoxError),
}

impl StoreError {
    fn unavailable(error: impl Into<BoxError>) -> Self {
        Self::Unavailable(error.into())
    }
}

struct Inner {
    doubled: Queue<Double>,
    statements: AtomicUsize,
}

/// A call that doubles a number.
struct Double(u64, Caller<u64>);

impl Queued for Double {
    type Batch = Vec<Double>;

    fn queue(inner: &Inner) -> &Queue<Self> {
        &inner.doubled
    }

    fn is_abandoned(&self) -> bool {
        self.1.is_closed()
    }

    fn next_batch(waiting: &mut VecDeque<Self>) -> Option<Vec<Self>> {
        copied::take(waiting, 2)
    }

    async fn send(inner: &Arc<Inner>, batch: Vec<Self>) {
        inner.statements.fetch_add(1, Ordering::SeqCst);
        tokio::task::yield_now().await;
        let (results, callers): (Vec<_>, Vec<_>) =
            batch.into_iter().map(|Self(number, caller)| (number * 2, caller)).unzip();
        copied::end(callers, Ok(results));
    }
}

mod tests {
    use shuttle::future;

    use super::*;
    use crate::race;

    #[test]
    fn every_call_gets_its_own_result() {
        race(|| {
            let inner = Arc::new(Inner { doubled: Queue::new(4), statements: AtomicUsize::new(0) });
            let calls: Vec<_> = (0..5)
                .map(|number| {
                    let inner = inner.clone();
                    future::spawn(async move {
                        let doubled = copied::call(&inner, |caller| Double(number, caller)).await;
                        assert_eq!(doubled.unwrap(), number * 2);
                    })
                })
                .collect();
            calls.into_iter().for_each(|call| future::block_on(call).unwrap());
            future::block_on(inner.doubled.idle());
            let statements = inner.statements.load(Ordering::SeqCst);
            assert!((3..=5).contains(&statements), "{statements} statements for 5 calls");
        });
    }

    #[test]
    fn a_call_that_is_dropped_keeps_no_other_waiting() {
        race(|| {
            let inner = Arc::new(Inner { doubled: Queue::new(4), statements: AtomicUsize::new(0) });
            let calls: Vec<_> = (0..4)
                .map(|number| {
                    let inner = inner.clone();
                    future::spawn(async move { copied::call(&inner, |caller| Double(number, caller)).await })
                })
                .collect();
            for (number, call) in (0..).zip(calls) {
                if number % 2 == 0 {
                    call.abort();
                } else {
                    assert_eq!(future::block_on(call).unwrap().unwrap(), number * 2);
                }
            }
            future::block_on(inner.doubled.idle());
        });
    }
}
