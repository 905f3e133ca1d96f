//! The closure that is told of dead letters.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use qomplement_webhooks::event::Envelope;
use qomplement_webhooks::fetch::{FetchError, Fetched, JobSource};
use qomplement_webhooks::inbox::{DeadLetter, InboxAdmin, InboxRow, InboxState, NoResult, Outcome};
use qomplement_webhooks::sender::Payload;
use qomplement_webhooks::store::Fenced;
use qomplement_webhooks::{
    BoxError, InboxStore, InboxWorker, JobId, MemoryInbox, Reconciler, Verification, async_trait,
};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::support::api::{Api, Says};
use crate::support::inboxes::{self, FaultyInbox};
use crate::support::{Act, Call, FAULTS, Fault, Script, eventually};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

type Ends = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

/// The dead letters that a closure was told of, each with its row at that time.
#[derive(Clone)]
struct Told {
    inbox: FaultyInbox,
    letters: Arc<Mutex<Vec<(DeadLetter, InboxRow)>>>,
}

impl Told {
    fn of(inbox: &FaultyInbox) -> Self {
        Self { inbox: inbox.clone(), letters: Arc::default() }
    }

    fn closure(&self) -> impl Fn(DeadLetter) -> Ends + Send + Sync + 'static {
        let told = self.clone();
        move |letter| {
            let told = told.clone();
            Box::pin(async move {
                let row = told.inbox.row(&letter.job).await;
                told.letters.lock().unwrap().push((letter, row));
                Ok(())
            })
        }
    }

    /// Checks that the closure was told once, of this job, when its row was dead, and with the row's error.
    async fn once(&self, job: &JobId, what: &str) {
        let began = Instant::now();
        while self.letters.lock().unwrap().is_empty() {
            assert!(began.elapsed() < HOUR * 3, "{what}: not told");
            sleep(SECOND).await;
        }
        sleep(MINUTE * 10).await;
        let letters = self.letters.lock().unwrap();
        let [(letter, row)] = &letters[..] else { panic!("{what}: {letters:?}") };
        assert_eq!(&letter.job, job, "{what}");
        assert_eq!((row.state, row.error.as_ref()), (InboxState::Dead, Some(&letter.error)), "{what}");
    }
}

/// An inbox with a webhook in it.
async fn with_event() -> (FaultyInbox, JobId) {
    let inbox = FaultyInbox::default();
    let job = inbox.add_new().await;
    (inbox, job)
}

fn report(job: &JobId) -> Envelope {
    let payload = Payload::extract_completed().job_id(job.to_string()).set("/data/status", "processing");
    Envelope::try_from(payload.to_bytes()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_event_that_dies_in_its_attempts_is_told_once_after_its_commit() {
    for (what, act) in [
        ("a permanent failure", Act::FailPermanently),
        ("the last failure", Act::Fail),
        ("the last panic", Act::Panic),
        ("the last hang", Act::Hang),
    ] {
        let (inbox, job) = with_event().await;
        let (told, script) = (Told::of(&inbox), Script::new([act]));
        let _worker = inbox.worker(&script).max_attempts(3).on_dead_letter(told.closure()).start();
        told.once(&job, what).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_that_cannot_be_read_or_whose_last_attempt_did_not_end_is_told_once() {
    let inbox = FaultyInbox::default().spoiling();
    let job = inbox.add_new().await;
    let (told, script) = (Told::of(&inbox), Script::default());
    let _worker = inbox.worker(&script).on_dead_letter(told.closure()).start();
    told.once(&job, "an event that cannot be read").await;

    let (inbox, job) = with_event().await;
    for _ in 0..2 {
        let leased = inbox.rows.lease(1, SECOND).await.unwrap().remove(0);
        assert_eq!(inbox.rows.begin(&leased.lease).await.unwrap(), Fenced::Applied);
        sleep(SECOND).await;
    }
    let told = Told::of(&inbox);
    let _worker = inbox.worker(&script).max_attempts(2).on_dead_letter(told.closure()).start();
    told.once(&job, "a process that died in the last attempt").await;
}

#[tokio::test(start_paused = true)]
async fn dead_letters_are_all_counted_by_their_error_or_there_are_more() {
    inboxes::dead_letters_are_all_counted_or_there_are_more(&Arc::new(MemoryInbox::new())).await;
    // By the lists of a store that does not count them itself.
    inboxes::dead_letters_are_all_counted_or_there_are_more(&FaultyInbox::default()).await;
    inboxes::dead_letters_are_all_counted_or_there_are_more(&FaultyInbox::default().in_pages_of(1)).await;
}

/// A source for which no job can have the id.
#[derive(Debug)]
struct Picky;

#[async_trait]
impl JobSource for Picky {
    async fn fetch(&self, _: &JobId) -> Result<Fetched, FetchError> {
        Err(FetchError::InvalidId)
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_and_an_expected_job_whose_fetches_find_nothing_are_told_once() {
    for is_expected in [false, true] {
        for (what, says) in [
            ("no such job", Some(Says::NotFound)),
            ("no answer for 72 hours", Some(Says::Failing)),
            ("no end within the horizon", is_expected.then_some(Says::Pending)),
            ("no possible id", None),
        ] {
            let verification = match says {
                Some(says) => Verification::fetch(Api::new(says)),
                None if what == "no possible id" => Verification::fetch(Picky),
                None => continue,
            };
            let (inbox, script) = (FaultyInbox::default(), Script::default());
            let job: JobId = "a".parse().unwrap();
            if is_expected {
                inbox.expect(&job, Duration::ZERO).await.unwrap();
            } else {
                let event = Payload::extract_completed().job_id("a").to_bytes();
                inbox.receive(&Envelope::try_from(event).unwrap()).await.unwrap();
            }
            // The last fetch is this worker's: days without any work pass at once.
            let failed = NoResult::Failed { error: "no answer".to_owned() };
            let again = Outcome::FetchAgain { after: Duration::ZERO, answer: failed };
            if what.ends_with("hours") {
                let lease = if is_expected {
                    inbox.rows.overdue(1, MINUTE).await.unwrap().remove(0).lease
                } else {
                    inbox.rows.lease(1, MINUTE).await.unwrap().remove(0).lease
                };
                assert_eq!(inbox.rows.settle(&lease, &again).await.unwrap(), Fenced::Applied);
            }
            if !what.starts_with("no such") {
                sleep(HOUR * 72).await;
            }
            let told = Told::of(&inbox);
            let worker = InboxWorker::new(inbox.clone(), script.handler(), verification);
            let worker = worker.on_dead_letter(told.closure()).start();
            told.once(&job, &format!("{what}, expected: {is_expected}")).await;
            worker.shutdown(SECOND).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_reconciler_tells_of_the_jobs_that_it_gives_up() {
    let (inbox, job) = (FaultyInbox::default(), "a".parse().unwrap());
    inbox.expect(&job, MINUTE).await.unwrap();
    let told = Told::of(&inbox);
    let reconciler = Reconciler::new(inbox.clone(), Api::new(Says::Pending)).horizon(HOUR);
    let _reconciler = reconciler.on_dead_letter(told.closure()).start();
    told.once(&job, "a job that does not end").await;
}

#[tokio::test(start_paused = true)]
async fn what_is_no_dead_letter_is_not_told() {
    let (inbox, job) = with_event().await;
    let (told, script) = (Told::of(&inbox), Script::new([Act::Fail, Act::Panic, Act::Succeed]));
    let _worker = inbox.worker(&script).on_dead_letter(told.closure()).start();
    inbox.until(&job, InboxState::Done).await;

    // A registered job whose event has no final status is expected again, whatever ended the attempts.
    for act in [Act::FailPermanently, Act::Fail] {
        let (inbox, job) = (FaultyInbox::default(), "a".parse().unwrap());
        inbox.expect(&job, HOUR * 24 * 40).await.unwrap();
        inbox.receive(&report(&job)).await.unwrap();
        let script = Script::new([act]);
        let told = Told { inbox: inbox.clone(), ..told.clone() };
        let _worker = inbox.worker(&script).on_dead_letter(told.closure()).start();
        inbox.until(&job, InboxState::Expected).await;
    }

    // The row is settled by something else before the outcome is recorded.
    let (inbox, job) = with_event().await;
    let script = Script::new([Act::FailPermanently]);
    inbox.faults.fail(Call::Settle, [Some(Fault::Late); 20]);
    let told = Told { inbox: inbox.clone(), ..told.clone() };
    let _worker = inbox.worker(&script).on_dead_letter(told.closure()).start();
    script.until("it is handled", |script| script.runs() == 1).await;
    assert_eq!(inbox.rows.settle(&inbox.leases()[0], &Outcome::Done).await.unwrap(), Fenced::Applied);
    sleep(MINUTE * 10).await;
    assert_eq!(inbox.row(&job).await.state, InboxState::Done);
    assert!(told.letters.lock().unwrap().is_empty(), "{:?}", told.letters);
}

#[tokio::test(start_paused = true)]
async fn a_registered_job_without_a_final_status_is_told_when_its_fetched_event_dies() {
    let (inbox, api) = (FaultyInbox::default(), Api::new(Says::Pending));
    let job = "a".parse().unwrap();
    api.finish(&job);
    inbox.expect(&job, HOUR).await.unwrap();
    inbox.receive(&report(&job)).await.unwrap();
    let (told, script) = (Told::of(&inbox), Script::new([Act::FailPermanently]));
    let worker = InboxWorker::new(inbox.clone(), script.handler(), Verification::fetch(api));
    let _worker = worker.on_dead_letter(told.closure()).start();
    told.once(&job, "a permanent failure of the fetched event").await;
}

#[tokio::test(start_paused = true)]
async fn whatever_fails_when_the_outcome_is_recorded_the_closure_is_told_once() {
    for fault in FAULTS {
        let (inbox, job) = with_event().await;
        inbox.faults.fail(Call::Settle, [Some(fault); 2]);
        let (told, script) = (Told::of(&inbox), Script::new([Act::FailPermanently]));
        let _worker = inbox.worker(&script).on_dead_letter(told.closure()).start();
        told.once(&job, &format!("{fault:?}")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_replayed_event_that_dies_again_is_told_again() {
    let (inbox, job) = with_event().await;
    let (told, script) = (Told::of(&inbox), Script::new([Act::FailPermanently]));
    let _worker = inbox.worker(&script).on_dead_letter(told.closure()).start();
    for times in 1..4 {
        inbox.until(&job, InboxState::Dead).await;
        sleep(SECOND).await;
        assert_eq!(told.letters.lock().unwrap().len(), times);
        assert!(inbox.rows.replay(&job).await.unwrap());
        sleep(SECOND * 2).await;
    }
}

/// A future that panics when it is dropped.
struct PanicsAtItsDrop;

impl Future for PanicsAtItsDrop {
    type Output = Result<(), BoxError>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(Ok(()))
    }
}

impl Drop for PanicsAtItsDrop {
    fn drop(&mut self) {
        panic!("at its drop");
    }
}

#[tokio::test(start_paused = true)]
async fn a_closure_that_fails_changes_nothing() {
    let inbox = FaultyInbox::default();
    let (calls, script) = (Arc::new(AtomicUsize::new(0)), Script::new([Act::FailPermanently]));
    let counted = calls.clone();
    let closure = move |letter: DeadLetter| {
        let call = counted.fetch_add(1, Ordering::SeqCst);
        assert!(call != 0, "before there is a future, for {}", letter.job);
        let future: Ends = match call {
            1 => Box::pin(async { panic!("in the future") }),
            2 => Box::pin(async { Err("the mail server is away".into()) }),
            3 => Box::pin(PanicsAtItsDrop),
            4 | 5 => Box::pin(std::future::pending()),
            _ => Box::pin(async { Ok(()) }),
        };
        future
    };
    let worker = inbox.worker(&script).concurrency(1).on_dead_letter(closure).start();
    for call in 1..=7 {
        let began = Instant::now();
        let job = inbox.add_new().await;
        inbox.until(&job, InboxState::Dead).await;
        // The two calls before hang. The first of them holds up nothing: one more event than is handled may be unsettled.
        let waited = if call == 7 { SECOND * 9..SECOND * 12 } else { Duration::ZERO..SECOND * 2 };
        assert!(waited.contains(&began.elapsed()), "call {call}: {:?}", began.elapsed());
        eventually("it is called", async || calls.load(Ordering::SeqCst) == call).await;
    }
    assert_eq!(worker.shutdown(SECOND * 5).await, 0, "nothing is left under way");
    assert_eq!((script.runs(), calls.load(Ordering::SeqCst)), (7, 7));
    assert_eq!(inbox.rows.stats().await.unwrap().dead, 7);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_waits_for_the_closure_and_drops_it_after_its_grace() {
    for (takes, grace, is_dropped) in [(SECOND, SECOND * 5, false), (SECOND * 9, SECOND * 2, true)] {
        let (inbox, _) = with_event().await;
        let script = Script::new([Act::FailPermanently]);
        let (begun, ended) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
        let (begins, ends) = (begun.clone(), ended.clone());
        let closure = move |_| {
            let (begins, ends) = (begins.clone(), ends.clone());
            async move {
                begins.notify_one();
                sleep(takes).await;
                ends.fetch_add(1, Ordering::SeqCst);
                Ok(())
            }
        };
        let worker = inbox.worker(&script).on_dead_letter(closure).start();
        begun.notified().await;
        let began = Instant::now();
        assert_eq!(worker.shutdown(grace).await, usize::from(is_dropped));
        assert!(began.elapsed() < takes.min(grace) + SECOND / 2, "{:?}", began.elapsed());
        assert_eq!(ended.load(Ordering::SeqCst), usize::from(!is_dropped));
        assert_eq!(inbox.rows.stats().await.unwrap().dead, 1);
    }
}
