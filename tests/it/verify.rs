//! A worker that believes the API alone.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use qomplement_webhooks::event::Envelope;
use qomplement_webhooks::inbox::{InboxAdmin, InboxState, Outcome, Receipt};
use qomplement_webhooks::sender::Payload;
use qomplement_webhooks::store::Fenced;
use qomplement_webhooks::{
    InboxStore, InboxWorker, JobId, MemoryInbox, Verification, WebhookEvent, WebhookReceiver, handler_fn,
};
use tokio::time::{Instant, sleep};

use crate::support::api::{Api, Says, finished};
use crate::support::inboxes::FaultyInbox;
use crate::support::inboxes::all_rows;
use crate::support::{Act, Call, FAULTS, Fault, Script};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

fn worker(inbox: &FaultyInbox, script: &Script, api: &Api) -> InboxWorker {
    InboxWorker::new(inbox.clone(), script.handler(), Verification::fetch(api.clone()))
}

/// A worker that keeps the bodies that its handler gets.
fn keeping(inbox: &FaultyInbox, api: &Api) -> (InboxWorker, Arc<Mutex<Vec<Bytes>>>) {
    let bodies = Arc::new(Mutex::new(Vec::new()));
    let kept = bodies.clone();
    let handler = handler_fn(move |event: WebhookEvent| {
        kept.lock().unwrap().push(event.job().raw().clone());
        async { Ok(()) }
    });
    (InboxWorker::new(inbox.clone(), handler, Verification::fetch(api.clone())), bodies)
}

/// What somebody who has learned the token would send.
fn forged(job: &JobId, note: usize) -> Envelope {
    let payload = match note % 3 {
        0 => Payload::fill_pdf_completed(),
        1 => Payload::extract_completed().set("/data/status", "processing"),
        _ => Payload::failed(&qomplement_webhooks::JobType::FillExcel),
    };
    let payload = payload.job_id(job.to_string()).set("/data/note", note);
    payload.to_bytes().try_into().unwrap()
}

fn new_job() -> JobId {
    Envelope::try_from(Payload::extract_completed().to_bytes()).unwrap().job().clone()
}

#[tokio::test(start_paused = true)]
async fn the_handler_gets_what_the_api_says_and_the_row_keeps_it() {
    let (inbox, api) = (FaultyInbox::default(), Api::new(Says::Pending));
    let job = new_job();
    let said = api.finish(&job);
    assert_eq!(inbox.receive(&forged(&job, 0)).await.unwrap(), Receipt::Stored);
    let (worker, bodies) = keeping(&inbox, &api);
    let _worker = worker.start();
    let row = inbox.until(&job, InboxState::Done).await;
    assert!(row.verified, "{row:?}");
    assert_eq!((row.attempts, row.fetches, row.job_type.as_deref()), (1, 0, Some("extract")));
    assert_eq!(*bodies.lock().unwrap(), [said.body().clone()]);
    assert_eq!(inbox.rows.get(&job).await.unwrap().unwrap().1.as_ref(), Some(said.body()));
    assert_eq!(api.fetches(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_verified_event_is_not_fetched_again_when_the_handler_fails() {
    let (inbox, api) = (FaultyInbox::default(), Api::new(Says::Pending));
    let script = Script::new([Act::Fail, Act::Panic, Act::Fail, Act::Succeed]);
    let job = inbox.add_new().await;
    api.finish(&job);
    let _worker = worker(&inbox, &script, &api).start();
    let row = inbox.until(&job, InboxState::Done).await;
    assert_eq!((row.attempts, script.runs(), api.fetches()), (4, 4, 1));
}

#[tokio::test(start_paused = true)]
async fn a_pending_job_is_expected_and_fetched_after_2_to_60_seconds() {
    let (inbox, api, script) = (FaultyInbox::default(), Api::new(Says::Pending), Script::default());
    let job = inbox.add_new().await;
    let _worker = worker(&inbox, &script, &api).start();
    let row = inbox.until(&job, InboxState::Expected).await;
    assert_eq!((row.attempts, row.job_type, row.status), (0, None, None), "its event was kept");
    sleep(MINUTE * 10).await;
    let pauses = api.pauses(&job);
    for (pause, least) in pauses.iter().zip([2, 4, 8, 16, 32, 60, 60, 60, 60]) {
        let (least, most) = (SECOND * least, SECOND * least + SECOND * least / 4 + SECOND * 2);
        assert!((least..=most).contains(pause), "{pause:?} instead of {least:?}: {pauses:?}");
    }
    assert!(pauses.len() >= 9, "{pauses:?}");
    let said = api.finish(&job);
    let row = inbox.until(&job, InboxState::Done).await;
    assert_eq!((row.attempts, row.verified, script.runs()), (1, true, 1));
    assert_eq!(inbox.rows.get(&job).await.unwrap().unwrap().1.as_ref(), Some(said.body()));
}

#[tokio::test(start_paused = true)]
async fn a_job_that_the_api_does_not_know_is_dead_after_five_times_in_ten_minutes_and_may_come_again() {
    let (inbox, api, script) = (FaultyInbox::default(), Api::new(Says::NotFound), Script::default());
    let began = Instant::now();
    let job = inbox.add_new().await;
    let _worker = worker(&inbox, &script, &api).start();
    sleep(MINUTE * 9).await;
    let row = inbox.row(&job).await;
    assert_eq!((row.state, row.attempts), (InboxState::Received, 0));
    assert_eq!(row.error.as_deref(), Some("the API knows no such job"));
    let row = inbox.until(&job, InboxState::Dead).await;
    assert!((MINUTE * 10..MINUTE * 14).contains(&began.elapsed()), "{:?}", began.elapsed());
    assert_eq!((api.fetches(), script.runs()), (5, 0));
    assert_eq!(row.error.as_deref(), Some("fetched 5 times: the API knows no such job"));

    api.finish(&job);
    assert_eq!(inbox.receive(&forged(&job, 0)).await.unwrap(), Receipt::Stored, "it may come again");
    inbox.until(&job, InboxState::Done).await;
    assert_eq!((api.fetches(), script.runs()), (6, 1));
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_of_an_unknown_job_is_fetched_again_when_it_is_replayed() {
    let (inbox, api, script) = (FaultyInbox::default(), Api::new(Says::NotFound), Script::default());
    let job = inbox.add_new().await;
    let _worker = worker(&inbox, &script, &api).start();
    inbox.until(&job, InboxState::Dead).await;
    api.finish(&job);
    assert!(inbox.rows.replay(&job).await.unwrap());
    inbox.until(&job, InboxState::Done).await;
    assert_eq!((api.fetches(), script.runs()), (6, 1));
}

#[tokio::test(start_paused = true)]
async fn while_the_api_is_down_no_attempt_is_used_up_and_then_all_are_handled() {
    let limited = Says::RateLimited(SECOND * 90);
    for says in [Says::Down, Says::Unauthorized, limited, Says::Hang, Says::Panic] {
        let (inbox, api) = (FaultyInbox::default(), Api::new(says.clone()));
        let script = Script::default();
        let mut jobs = Vec::new();
        for _ in 0..20 {
            jobs.push(inbox.add_new().await);
        }
        for job in 0..20 {
            let job = Payload::extract_completed().job_id(format!("expected-{job}"));
            let job = Envelope::try_from(job.to_bytes()).unwrap().job().clone();
            inbox.expect(&job, MINUTE).await.unwrap();
            jobs.push(job);
        }
        let _worker = worker(&inbox, &script, &api).start();
        sleep(HOUR).await;
        for job in &jobs {
            let row = inbox.row(job).await;
            // One that is being asked for is running, and counts the attempt until it is given back.
            let asking = u32::from(row.state == InboxState::Running);
            let state = if row.job_type.is_some() { InboxState::Received } else { InboxState::Expected };
            assert_eq!(row.attempts, asking, "{says:?}: {row:?}");
            assert!(row.state == state || asking == 1, "{says:?}: {row:?}");
            let pauses = api.pauses(job);
            assert!(pauses.len() <= 25, "{says:?}: asked {} times in an hour", pauses.len() + 1);
        }
        for job in &jobs {
            api.finish(job);
        }
        let back = Instant::now();
        for job in &jobs {
            let row = inbox.until(job, InboxState::Done).await;
            assert_eq!((script.runs_of(job), row.attempts), (1, 1), "{says:?}");
        }
        let noticed = back.elapsed();
        assert!(noticed <= MINUTE * 10, "{says:?}: noticed only after {noticed:?} that the API is back");
    }
}

#[tokio::test(start_paused = true)]
async fn when_the_api_is_away_for_72_hours_an_event_is_dead_and_can_be_replayed() {
    let (inbox, api, script) = (FaultyInbox::default(), Api::new(Says::Down), Script::default());
    let began = Instant::now();
    let job = inbox.add_new().await;
    let _worker = worker(&inbox, &script, &api).poll(MINUTE).start();
    while inbox.row(&job).await.state != InboxState::Dead {
        assert!(began.elapsed() < HOUR * 73, "never dead");
        sleep(MINUTE).await;
    }
    assert!(began.elapsed() >= HOUR * 72, "dead after {:?}", began.elapsed());
    let row = inbox.row(&job).await;
    assert_eq!(
        row.error.as_deref(),
        Some("fetches have failed for 72 h: the API cannot be reached: connection refused")
    );
    api.finish(&job);
    assert!(inbox.rows.replay(&job).await.unwrap());
    inbox.until(&job, InboxState::Done).await;
}

#[tokio::test(start_paused = true)]
async fn the_72_hours_count_from_the_first_fetch_without_an_answer() {
    let (inbox, api, script) = (FaultyInbox::default(), Api::new(Says::Down), Script::default());
    let (waited, expected) = (inbox.add_new().await, new_job());
    inbox.expect(&expected, Duration::ZERO).await.unwrap();
    // Nobody worked for so long.
    sleep(HOUR * 73).await;
    let _worker = worker(&inbox, &script, &api).poll(MINUTE).start();
    let began = Instant::now();
    for hours in [1, 70] {
        sleep(HOUR * hours).await;
        for job in [&waited, &expected] {
            let row = inbox.row(job).await;
            assert!(row.state != InboxState::Dead && row.fetches > 0, "dead too early: {row:?}");
        }
    }
    // An answer, and the time counts anew.
    api.says_of(&expected, Says::NotFound);
    let answered = async || inbox.row(&expected).await.error.as_deref() == Some("the API knows no such job");
    while !answered().await && began.elapsed() < HOUR * 72 {
        sleep(MINUTE).await;
    }
    assert!(began.elapsed() < HOUR * 72, "no answer for {:?}", began.elapsed());
    api.says_of(&expected, Says::Down);
    let row = inbox.until(&waited, InboxState::Dead).await;
    // While the API is down, one job at a time is fetched, and either may be the one: the next fetch may come late.
    let pauses = api.pauses(&waited);
    let (last, before) = pauses.split_last().unwrap();
    let before: Duration = before.iter().sum();
    assert!((HOUR * 72 - *last..HOUR * 72).contains(&before), "dead after {before:?} and {last:?}");
    assert!(row.error.is_some_and(|error| error.contains("connection refused")));
    // So it does after a replay.
    assert!(inbox.rows.replay(&waited).await.unwrap());
    sleep(HOUR * 10).await;
    for job in [&waited, &expected] {
        let row = inbox.row(job).await;
        assert!(row.state != InboxState::Dead && row.fetches > 0, "dead too early: {row:?}");
    }
    for job in [&waited, &expected] {
        api.finish(job);
        inbox.until(job, InboxState::Done).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_about_another_job_or_no_last_word_is_not_believed() {
    let (inbox, api, script) = (FaultyInbox::default(), Api::new(Says::Pending), Script::default());
    let job = inbox.add_new().await;
    api.says(Says::Finished(finished(&new_job())));
    let _worker = worker(&inbox, &script, &api).start();
    sleep(MINUTE).await;
    let row = inbox.row(&job).await;
    let error = "the answer is not about this job, or cannot be read: it is about another job";
    assert_eq!((row.state, row.error.as_deref()), (InboxState::Received, Some(error)));
    api.says(Says::Finished(forged(&job, 1)));
    inbox.until(&job, InboxState::Expected).await;
    assert_eq!(script.runs(), 0);
    api.finish(&job);
    inbox.until(&job, InboxState::Done).await;
}

#[tokio::test(start_paused = true)]
async fn whatever_fails_when_the_answer_is_stored_the_event_is_handled_and_the_handler_gets_it() {
    for call in [Call::Verify, Call::Overdue] {
        for fault in FAULTS.into_iter().chain([Fault::Slow, Fault::Late]) {
            for times in [1, 2, 5] {
                let what = format!("{fault:?} at {call:?}, {times} times");
                let api = Api::new(Says::Pending);
                let inbox = FaultyInbox::default().fail(call, vec![Some(fault); times]);
                let (received, expected) = (inbox.add_new().await, new_job());
                inbox.expect(&expected, MINUTE).await.unwrap();
                let said = [api.finish(&received), api.finish(&expected)];
                let (worker, bodies) = keeping(&inbox, &api);
                let (other, _) = keeping(&inbox, &api);
                let began = Instant::now();
                let _workers = [worker.start(), other.concurrency(1).start()];
                for job in [&received, &expected] {
                    inbox.until(job, InboxState::Done).await;
                }
                let most = MINUTE * 3 * (times as u32 + 1);
                assert!(began.elapsed() < most, "{what}: stuck for {:?}", began.elapsed());
                let bodies = bodies.lock().unwrap();
                assert!(bodies.iter().all(|body| said.iter().any(|said| said.body() == body)), "{what}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_releases_the_jobs_being_fetched() {
    let (inbox, script) = (FaultyInbox::default(), Script::default());
    let api = Api::new(Says::Pending).takes(MINUTE / 2);
    let (job, expected) = (inbox.add_new().await, new_job());
    inbox.expect(&expected, Duration::ZERO).await.unwrap();
    let running = worker(&inbox, &script, &api).start();
    inbox.until(&job, InboxState::Running).await;
    sleep(SECOND * 3).await;
    assert_eq!(api.fetches(), 2);
    assert_eq!(running.shutdown(SECOND).await, 2);
    for (job, state) in [(&job, InboxState::Received), (&expected, InboxState::Expected)] {
        let row = inbox.row(job).await;
        assert_eq!((row.state, row.attempts, row.fetches), (state, 0, 0), "{row:?}");
        assert_eq!(row.due_in, Some(Duration::ZERO), "it is not due at once");
        api.finish(job);
    }
    let _worker = worker(&inbox, &script, &api).start();
    for job in [job, expected] {
        inbox.until(&job, InboxState::Done).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_replaced_during_a_fetch_is_verified_once_its_lease_has_ended() {
    let (inbox, script) = (FaultyInbox::default(), Script::default());
    let (api, job) = (Api::new(Says::Pending).takes(SECOND), new_job());
    inbox.receive(&forged(&job, 1)).await.unwrap();
    api.finish(&job);
    let _worker = worker(&inbox, &script, &api).start();
    inbox.until(&job, InboxState::Running).await;
    assert_eq!(inbox.receive(&forged(&job, 0)).await.unwrap(), Receipt::Stored);
    let row = inbox.until(&job, InboxState::Done).await;
    assert!(row.verified);
    assert_eq!((script.runs(), api.fetches()), (1, 2));
}

/// Forged events of every kind for jobs that are known, before, during and after the real one.
#[tokio::test(start_paused = true)]
async fn of_100_000_forged_events_none_reaches_the_handler_and_none_hides_a_job() {
    const JOBS: usize = 50;
    const FORGED: usize = 2000;
    let inbox = FaultyInbox::default();
    let api = Api::new(Says::Pending);
    let (worker, bodies) = keeping(&inbox, &api);
    let mut jobs = Vec::new();
    for number in 0..JOBS {
        let payload = Payload::extract_completed().job_id(format!("job-{number}"));
        let job = Envelope::try_from(payload.to_bytes()).unwrap().job().clone();
        inbox.expect(&job, MINUTE * 15).await.unwrap();
        // Made once for all rounds, which differ in a note.
        let forgeries = [0, 1, 2].map(|kind| String::from_utf8(forged(&job, kind).body().to_vec()).unwrap());
        jobs.push((job, forgeries));
    }
    let _worker = worker.start();
    // Over half an hour; each job ends in the middle, and its real webhook comes with the next forged one.
    for round in 0..FORGED {
        for (number, (job, forgeries)) in jobs.iter().enumerate() {
            let ends = FORGED / 4 + number * 10;
            if round == ends {
                api.finish(job);
            }
            if round == ends + 1 {
                inbox.receive(&finished(job)).await.unwrap();
            }
            let note = round * JOBS + number;
            let forgery = forgeries[note % forgeries.len()].strip_suffix('}').unwrap();
            let forgery = Bytes::from(format!(r#"{forgery},"note":{note}}}"#));
            inbox.receive(&forgery.try_into().unwrap()).await.unwrap();
        }
        sleep(SECOND).await;
    }
    for (job, _) in &jobs {
        let row = inbox.until(job, InboxState::Done).await;
        assert!(row.verified, "{row:?}");
        let (asked, pauses) = (api.times(job).len(), api.pauses(job));
        assert!(pauses.iter().all(|pause| *pause >= SECOND * 2), "asked again at once: {pauses:?}");
        let long = pauses.iter().skip(5).filter(|pause| **pause < MINUTE).count();
        assert_eq!(long, 0, "the pauses did not grow: {pauses:?}");
        assert!(asked <= 30, "asked {asked} times for one job");
    }
    assert_eq!(api.twice_at_once(), 0);
    let bodies = bodies.lock().unwrap();
    assert_eq!(bodies.len(), JOBS, "each job is handled once");
    for (job, _) in &jobs {
        assert!(bodies.contains(finished(job).body()), "the handler never got what the API says of {job}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_fence_is_that_of_the_lease_after_a_verification() {
    let (inbox, api) = (FaultyInbox::default(), Api::new(Says::Pending));
    let job = inbox.add_new().await;
    api.finish(&job);
    let rows = inbox.rows.clone();
    let handler = handler_fn(move |event: WebhookEvent| {
        let rows = rows.clone();
        async move {
            let lease = qomplement_webhooks::inbox::Lease::new(event.job().id().clone(), event.job().fence());
            assert_eq!(rows.renew(&lease, MINUTE).await?, Fenced::Applied);
            assert_eq!(rows.settle(&lease, &Outcome::Done).await?, Fenced::Applied);
            Ok::<_, qomplement_webhooks::HandlerError>(())
        }
    });
    let _worker = InboxWorker::new(inbox.clone(), handler, Verification::fetch(api)).start();
    inbox.until(&job, InboxState::Done).await;
    sleep(MINUTE).await;
    assert_eq!(inbox.row(&job).await.attempts, 1);
}

#[tokio::test(start_paused = true)]
async fn an_inbox_knows_the_jobs_that_it_expects_and_forged_ids_are_neither_stored_nor_fetched() {
    let (inbox, api, script) = (MemoryInbox::new(), Api::new(Says::NotFound), Script::default());
    let receiver = WebhookReceiver::durable(inbox.clone());
    let receiver = receiver.unauthenticated().known_jobs(inbox.clone()).build().unwrap();
    let worker = InboxWorker::new(inbox.clone(), script.handler(), Verification::fetch(api.clone()));
    let _worker = worker.start();
    let deliver = |body: Bytes| {
        let receiver = receiver.clone();
        async move {
            let request = http::Request::post("/").body(http_body_util::Full::new(body)).unwrap();
            receiver.receive(request).await.status().as_u16()
        }
    };
    let mut deliveries = tokio::task::JoinSet::new();
    for _ in 0..1000 {
        deliveries.spawn(deliver(Payload::extract_completed().to_bytes()));
    }
    assert_eq!(deliveries.join_all().await, [404; 1000]);
    assert!(all_rows(&inbox, &Default::default()).await.is_empty(), "it was stored");

    // The webhook is half a second faster than the registration of its job.
    let (job, began) = (new_job(), Instant::now());
    let said = api.finish(&job);
    let delivered = tokio::spawn(deliver(said.body().clone()));
    sleep(SECOND / 2).await;
    inbox.expect(&job, MINUTE).await.unwrap();
    assert_eq!(delivered.await.unwrap(), 200);
    assert!(began.elapsed() < SECOND, "{:?}", began.elapsed());
    script.until("it is handled", |script| script.finished() == 1).await;
    assert_eq!(api.fetches(), 1, "the API was asked for a forged id");
}
