//! The drain: work that enters and ends while the shutdown begins.

include!(concat!(env!("OUT_DIR"), "/drain.rs"));

mod tests {
    use shuttle::{future, thread};

    use super::*;
    use crate::race;

    const GRACE: Duration = Duration::from_secs(1);

    #[test]
    fn a_shutdown_waits_for_all_admitted_work_and_admits_none_afterwards() {
        race(|| {
            let drain = Arc::new(Drain::default());
            let ended = Arc::new(AtomicUsize::new(0));
            let admitted = Arc::new(AtomicUsize::new(0));
            let work: Vec<_> = (0..3)
                .map(|_| {
                    let (drain, ended, admitted) = (drain.clone(), ended.clone(), admitted.clone());
                    thread::spawn(move || {
                        let Some(under_way) = drain.enter() else { return };
                        admitted.fetch_add(1, Ordering::SeqCst);
                        let more = under_way.more();
                        drop(under_way);
                        ended.fetch_add(1, Ordering::SeqCst);
                        drop(more);
                    })
                })
                .collect();
            let told = [(); 2].map(|()| {
                let drain = drain.clone();
                future::spawn(async move { drain.closed().await })
            });
            // No time passes, so it returns because all has ended.
            assert_eq!(future::block_on(drain.finish(GRACE)), 0);
            assert_eq!(ended.load(Ordering::SeqCst), admitted.load(Ordering::SeqCst), "it did not wait");
            // Before further work, whose end wakes all that wait.
            told.into_iter().for_each(|told| future::block_on(told).unwrap());
            assert!(drain.enter().is_none(), "admitted after the shutdown");
            work.into_iter().for_each(|thread| thread.join().unwrap());
        });
    }

    #[test]
    fn work_that_does_not_end_is_told_to() {
        race(|| {
            tokio::time::clear_triggers();
            let drain = Arc::new(Drain::default());
            let work: Vec<_> = (0..2)
                .map(|_| {
                    let under_way = drain.enter().unwrap();
                    future::spawn(async move {
                        let part = under_way.0.unless_aborted(std::future::pending::<()>()).await;
                        assert!(part.is_none());
                    })
                })
                .collect();
            // The grace has passed.
            tokio::time::trigger_timeouts(|_| true);
            assert_eq!(future::block_on(drain.finish(GRACE)), 2);
            work.into_iter().for_each(|task| future::block_on(task).unwrap());
            tokio::time::clear_triggers();
        });
    }
}
