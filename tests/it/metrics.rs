//! Every metric: its name, its values, and when it changes.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use qomplement_webhooks::fetch::{FetchError, Fetched, JobSource, RequestBudget};
use qomplement_webhooks::inbox::{InboxAdmin, InboxState, Outcome, Receipt, Retention};
use qomplement_webhooks::sender::Payload;
use qomplement_webhooks::telemetry::{self, METRICS, MetricKind, call, fetch_result};
use qomplement_webhooks::{
    InboxStore, InboxWorker, JobId, MemoryInbox, Reconciler, SharedToken, Verification, WebhookReceiver,
    async_trait,
};
use tokio::time::sleep;

use crate::answers::builder;
use crate::hand_written::Hasty;
use crate::support::api::{Api, Says, finished};
use crate::support::inboxes::FaultyInbox;
use crate::support::metrics::{Metrics, paused};
use crate::support::{Act, Call, Fault, FaultyStore, PATH, Script, TOKEN};
use crate::telemetry::{attempt_all_kinds, send_all_kinds};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// Long enough for what is due at once, and shorter than any pause.
async fn soon() {
    sleep(Duration::from_millis(50)).await;
}

/// Answers each job with the result that is its id.
#[derive(Debug)]
struct Answers;

#[async_trait]
impl JobSource for Answers {
    async fn fetch(&self, job: &JobId) -> Result<Fetched, FetchError> {
        match &*job.to_string() {
            fetch_result::FINISHED => Ok(Fetched::Finished(finished(job))),
            fetch_result::PENDING => Ok(Fetched::Pending),
            fetch_result::NOT_FOUND => Ok(Fetched::NotFound),
            fetch_result::UNAUTHORIZED => Err(FetchError::Unauthorized),
            fetch_result::RATE_LIMITED => Err(FetchError::RateLimited { retry_after: None }),
            fetch_result::UNREACHABLE => Err(FetchError::unreachable("no connection")),
            fetch_result::REFUSED => Err(FetchError::Refused("403".into())),
            fetch_result::UNREADABLE => Err(FetchError::Unreadable("no JSON".into())),
            fetch_result::INVALID_ID => Err(FetchError::InvalidId),
            _ => Err(FetchError::unavailable("500")),
        }
    }
}

/// Fetches with every result, for received events and for expected jobs.
async fn fetch_all_kinds() {
    let (inbox, results) =
        (MemoryInbox::new(), METRICS.iter().find(|metric| metric.name == telemetry::FETCHES));
    for id in results.unwrap().values {
        let job: JobId = id.parse().unwrap();
        inbox.expect(&job, Duration::ZERO).await.unwrap();
        inbox.receive(&finished(&format!("{job}-received").parse().unwrap())).await.unwrap();
    }
    let not_found = finished(&fetch_result::NOT_FOUND.parse().unwrap());
    assert_eq!(inbox.receive(&not_found).await.unwrap(), Receipt::Stored);
    let worker = InboxWorker::new(inbox, Script::default().handler(), Verification::fetch(Answers)).start();
    sleep(HOUR).await;
    worker.shutdown(SECOND).await;
}

/// Lets each call of an inbox and of a dedup store fail once.
async fn fail_every_call() {
    let calls = [
        Call::Receive,
        Call::Lease,
        Call::Begin,
        Call::Renew,
        Call::Verify,
        Call::Settle,
        Call::Overdue,
        Call::Prune,
        Call::Stats,
    ];
    let inbox =
        calls.iter().fold(FaultyInbox::default(), |inbox, call| inbox.fail(*call, [Some(Fault::Error)]));
    let api = Api::new(Says::Pending);
    let payload = Payload::extract_completed();
    api.finish(payload.event().unwrap().job().id());
    let receiver =
        WebhookReceiver::durable(inbox.clone()).token(SharedToken::new(TOKEN).unwrap()).build().unwrap();
    let deliver = async |receiver: &WebhookReceiver, body: Bytes| {
        let request = http::Request::post(format!("{PATH}?token={TOKEN}"));
        receiver.receive(request.body(http_body_util::Full::new(body)).unwrap()).await.status().as_u16()
    };
    assert_eq!(deliver(&receiver, payload.to_bytes()).await, 503);
    assert_eq!(deliver(&receiver, payload.to_bytes()).await, 200);
    let script = Script::new([Act::Take(SECOND * 20)]);
    let worker = InboxWorker::new(inbox, script.handler(), Verification::fetch(api)).max_attempts(1).start();
    sleep(SECOND * 150).await;
    worker.shutdown(SECOND).await;
    assert_eq!(script.finished(), 1);

    let store = FaultyStore::new();
    let calls = [Call::Claim, Call::Renew, Call::Complete, Call::Release];
    let store = calls.iter().fold(store, |store, call| store.fail(*call, [Some(Fault::Error)]));
    let receiver =
        builder(&Script::new([Act::Take(SECOND * 3), Act::Fail])).dedup_store(store).build().unwrap();
    for status in [503, 200, 503] {
        assert_eq!(deliver(&receiver, Payload::extract_completed().to_bytes()).await, status);
    }
    receiver.shutdown(SECOND * 60).await;
}

#[test]
fn a_claim_that_the_ack_deadline_cuts_short_is_no_error_of_the_store() {
    Metrics::recorded(async |metrics| {
        let errors = || metrics.of(telemetry::STORE_ERRORS, "call", call::CLAIM).unwrap_or_default();
        let deliver = async |receiver: &WebhookReceiver| {
            let request = http::Request::post(format!("{PATH}?token={TOKEN}"));
            let body = http_body_util::Full::new(Payload::extract_completed().to_bytes());
            receiver.receive(request.body(body).unwrap()).await.status().as_u16()
        };
        // The claim has 1.9 s, then its whole time of 2 s: a store that hangs has used it up.
        for (known_after, counted) in [(100, 0.0), (0, 1.0)] {
            let store = FaultyStore::new().fail(Call::Claim, [Some(Fault::Hang)]);
            let script = Script::default();
            let known = move |_| async move {
                sleep(Duration::from_millis(known_after)).await;
                Ok::<_, std::convert::Infallible>(true)
            };
            let receiver = builder(&script).dedup_store(store.clone()).known_jobs(known);
            let receiver = receiver.ack_deadline(SECOND * 2).build().unwrap();
            assert_eq!(deliver(&receiver).await, 503, "{known_after}");
            assert_eq!((errors(), store.calls(Call::Claim), script.runs()), (counted, 1, 0), "{known_after}");
        }
        // A delivery that waits for room, and whose last check of whether its job is done begins at 4 s.
        let hangs = [None, None, None, None, None, Some(Fault::Hang)];
        let store = FaultyStore::new().fail(Call::Claim, hangs);
        let script = Script::new([Act::Hang]);
        let receiver = builder(&script).dedup_store(store.clone()).max_handlers_in_flight(1).build().unwrap();
        let (first, second) = tokio::join!(deliver(&receiver), deliver(&receiver));
        assert_eq!((first, second, store.calls(Call::Claim)), (503, 503, 6));
        assert_eq!(errors(), 1.0, "a check that waits for room");
    });
}

/// Prunes a row, and the body of another.
async fn prune_both_kinds() {
    let inbox = FaultyInbox::default();
    let mut retention = Retention::default();
    (retention.payload, retention.row) = (SECOND * 200, SECOND * 400);
    let worker = inbox.worker(&Script::default()).retention(retention).start();
    inbox.add_new().await;
    sleep(SECOND * 300).await;
    inbox.add_new().await;
    sleep(SECOND * 290).await;
    worker.shutdown(SECOND).await;
}

#[test]
fn every_metric_is_described_and_has_every_value_of_its_label_and_there_is_no_other() {
    Metrics::recorded(async |metrics| {
        send_all_kinds("x").await;
        attempt_all_kinds("x").await;
        fetch_all_kinds().await;
        fail_every_call().await;
        prune_both_kinds().await;

        let (text, all) = (metrics.text(), metrics.all());
        let mut wrong = Vec::new();
        let mut expected = BTreeSet::new();
        for metric in METRICS {
            let name = metric.name;
            let (kind, suffixes): (_, &[&str]) = match metric.kind {
                MetricKind::Counter => ("counter", &[""]),
                MetricKind::Gauge => ("gauge", &[""]),
                MetricKind::Histogram => ("histogram", &["_bucket", "_sum", "_count"]),
                other => panic!("{other:?}"),
            };
            for line in [format!("# TYPE {name} {kind}"), format!("# HELP {name} {}", metric.description)] {
                if !text.lines().any(|found| found == line) {
                    wrong.push(format!("missing: {line}"));
                }
            }
            let labels = metric.values.iter().map(|value| format!("{}=\"{value}\"", metric.label.unwrap()));
            for labels in if metric.label.is_some() { labels.collect() } else { vec![String::new()] } {
                for suffix in suffixes {
                    let series = format!("{name}{suffix}{{{labels}}}");
                    if *suffix != "_bucket" && metric.kind != MetricKind::Gauge {
                        let value = all.get(series.trim_end_matches("{}")).copied();
                        // A histogram's sum may be 0 under paused time.
                        if value.is_none() || *suffix != "_sum" && value == Some(0.0) {
                            wrong.push(format!("{series} is {value:?}"));
                        }
                    }
                    expected.insert(series);
                }
            }
        }
        let without_le = |series: &String| {
            let series = if series.contains('{') { series.clone() } else { format!("{series}{{}}") };
            let (name, labels) = series.trim_end_matches('}').split_once('{').unwrap();
            let labels: Vec<_> = labels.split(',').filter(|label| !label.starts_with("le=")).collect();
            format!("{name}{{{}}}", labels.join(","))
        };
        let mut found: BTreeSet<_> = all.keys().map(without_le).collect();
        // The inbox in memory has no limits.
        for name in [telemetry::INBOX_MAX_UNFINISHED_ROWS, telemetry::INBOX_MAX_UNFINISHED_BYTES] {
            assert!(found.insert(format!("{name}{{}}")));
            wrong.retain(|line| !line.contains(name));
        }
        wrong.extend(expected.difference(&found).map(|series| format!("missing: {series}")));
        wrong.extend(found.difference(&expected).map(|series| format!("not in the list: {series}")));
        assert!(wrong.is_empty(), "{wrong:#?}");
    });
}

#[test]
fn each_failed_call_of_each_store_counts_once() {
    Metrics::recorded(async |metrics| {
        fail_every_call().await;
        let errors = METRICS.iter().find(|metric| metric.name == telemetry::STORE_ERRORS).unwrap();
        for call in errors.values {
            // Both stores renew.
            let failed = if *call == call::RENEW { 2.0 } else { 1.0 };
            assert_eq!(metrics.of(telemetry::STORE_ERRORS, telemetry::CALL, call), Some(failed), "{call}");
        }
    });
}

#[test]
fn pruned_dead_letters_count_as_rows_and_bodies_of_rows_that_stay_apart() {
    Metrics::recorded(async |metrics| {
        let inbox = FaultyInbox::default();
        let retention = Retention::default().payload(SECOND * 200).row(SECOND * 600).dead(SECOND * 600);
        let worker = inbox
            .worker(&Script::new([Act::Fail, Act::Succeed]))
            .max_attempts(1)
            .retention(retention)
            .start();
        for _ in 0..3 {
            inbox.add_new().await;
        }
        let pruned = || [telemetry::PRUNED_ROWS, telemetry::PRUNED_PAYLOADS].map(|name| metrics.get(name));
        sleep(SECOND * 400).await;
        assert_eq!(pruned(), [0.0, 2.0].map(Some));
        sleep(SECOND * 400).await;
        assert_eq!(pruned(), [3.0, 2.0].map(Some));
        worker.shutdown(SECOND).await;
    });
}

#[test]
fn a_name_tells_the_unit_and_the_kind() {
    for metric in METRICS {
        let name = metric.name;
        assert!(name.starts_with("qomplement_webhooks_"), "{name}");
        assert_eq!(name.ends_with("_total"), metric.kind == MetricKind::Counter, "{name}");
        assert!(name.ends_with("_seconds") || metric.kind != MetricKind::Histogram, "{name}");
        assert_eq!(metric.label.is_some(), !metric.values.is_empty(), "{name}");
    }
    let names: BTreeSet<_> = METRICS.iter().map(|metric| metric.name).collect();
    assert_eq!(names.len(), METRICS.len(), "a metric twice");
}

#[test]
fn counters_begin_with_zero_once_they_are_described() {
    Metrics::recorded(async |metrics| {
        assert_eq!(metrics.all().len(), 0);
        telemetry::describe();
        telemetry::describe();
        let counters: Vec<_> = METRICS.iter().filter(|metric| metric.kind == MetricKind::Counter).collect();
        let series: usize = counters.iter().map(|metric| metric.values.len().max(1)).sum();
        let all = metrics.all();
        assert_eq!((all.len(), all.values().sum::<f64>()), (series, 0.0));
        assert_eq!(metrics.of(telemetry::ATTEMPTS, telemetry::SETTLED, "dead"), Some(0.0));
        assert_eq!(metrics.get(telemetry::PRUNED_ROWS), Some(0.0));
    });
}

/// The gauges of the rows in a state.
fn rows(metrics: &Metrics, state: InboxState) -> Option<f64> {
    metrics.of(telemetry::INBOX_ROWS, telemetry::STATE, state.as_str())
}

#[test]
fn a_worker_samples_its_inbox_every_fifteen_seconds() {
    Metrics::recorded(async |metrics| {
        let inbox = FaultyInbox::default();
        let worker = inbox.worker(&Script::new([Act::Hang])).concurrency(1).start();
        soon().await;
        let states = [
            InboxState::Expected,
            InboxState::Received,
            InboxState::Running,
            InboxState::Done,
            InboxState::Dead,
        ];
        assert_eq!(states.map(|state| rows(metrics, state)), [Some(0.0); 5]);
        assert_eq!(metrics.get(telemetry::INBOX_OLDEST_DUE_SECONDS), Some(0.0));

        for _ in 0..3 {
            inbox.add_new().await;
        }
        inbox.rows.expect(&"overdue".parse().unwrap(), SECOND).await.unwrap();
        sleep(SECOND * 14).await;
        assert_eq!(rows(metrics, InboxState::Received), Some(0.0), "sampled too early");
        sleep(SECOND).await;
        assert_eq!(states.map(|state| rows(metrics, state)), [1.0, 2.0, 1.0, 0.0, 0.0].map(Some));
        let seconds = |name| metrics.get(name).unwrap().round();
        assert_eq!(seconds(telemetry::INBOX_OLDEST_DUE_SECONDS), 15.0);
        assert_eq!(seconds(telemetry::INBOX_OLDEST_OVERDUE_SECONDS), 14.0);
        let bytes = inbox.rows.stats().await.unwrap().bytes;
        assert_eq!(metrics.get(telemetry::INBOX_UNFINISHED_BYTES), Some(bytes as f64));
        assert_eq!(
            metrics.get(telemetry::INBOX_MAX_UNFINISHED_ROWS),
            None,
            "a limit of an inbox without one"
        );
        assert_eq!(inbox.calls(Call::Stats), 2);
        worker.shutdown(Duration::ZERO).await;
    });
}

#[test]
fn the_limits_of_an_inbox_are_sampled() {
    let folder = std::env::temp_dir().join(format!("qomplement-webhooks-limits-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let inbox = qomplement_webhooks::SqliteInbox::builder(folder.join("inbox.db"));
    let inbox = inbox.max_unfinished_rows(7).max_unfinished_bytes(u64::MAX).open().unwrap();
    // SQLite answers by the machine's clock.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    Metrics::recorded_on(&runtime, async |metrics| {
        let worker = InboxWorker::new(inbox, Script::default().handler(), Verification::Trust).start();
        crate::support::eventually("the inbox is sampled", async || {
            metrics.get(telemetry::INBOX_UNFINISHED_BYTES).is_some()
        })
        .await;
        assert_eq!(metrics.get(telemetry::INBOX_MAX_UNFINISHED_ROWS), Some(7.0));
        assert_eq!(metrics.get(telemetry::INBOX_MAX_UNFINISHED_BYTES), None, "no limit is a limit");
        worker.shutdown(SECOND).await;
    });
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_worker_that_shuts_down_reports_no_old_state() {
    Metrics::recorded(async |metrics| {
        let inbox = FaultyInbox::default();
        inbox.add_new().await;
        let worker = inbox.worker(&Script::new([Act::Hang])).start();
        sleep(SECOND * 20).await;
        assert_eq!(rows(metrics, InboxState::Running), Some(1.0));
        worker.shutdown(Duration::ZERO).await;
        soon().await;
        assert!(rows(metrics, InboxState::Running).unwrap().is_nan());
        assert!(metrics.get(telemetry::INBOX_OLDEST_DUE_SECONDS).unwrap().is_nan());
        for name in
            [telemetry::WORKER_SLOTS, telemetry::WORKER_FREE_SLOTS, telemetry::WORKER_RUNNING_HANDLERS]
        {
            assert_eq!(metrics.get(name), Some(0.0), "{name}");
        }
        let sampled = inbox.calls(Call::Stats);
        sleep(SECOND * 60).await;
        assert_eq!(inbox.calls(Call::Stats), sampled, "sampled after the shutdown");
    });
}

#[test]
fn nothing_is_sampled_without_a_recorder_and_one_that_is_installed_later_gets_everything() {
    let (runtime, inbox) = (paused(), FaultyInbox::default());
    let worker = runtime.block_on(async {
        let worker = inbox.worker(&Script::default()).start();
        sleep(SECOND * 60).await;
        worker
    });
    assert_eq!(inbox.calls(Call::Stats), 0, "sampled for nobody");
    Metrics::recorded_on(&runtime, async |metrics| {
        sleep(SECOND * 16).await;
        assert_eq!(rows(metrics, InboxState::Done), Some(0.0));
        assert_eq!(metrics.of(telemetry::STORE_ERRORS, telemetry::CALL, call::SETTLE), Some(0.0));
        assert!(metrics.text().contains("# HELP qomplement_webhooks_inbox_rows Rows of the inbox"));
        assert!(metrics.get(telemetry::LAST_LEASE).is_some());
        worker.shutdown(SECOND).await;
    });
}

#[test]
fn an_inbox_that_is_slow_to_count_is_sampled_less_often_and_one_that_fails_keeps_its_last_state() {
    Metrics::recorded(async |metrics| {
        let inbox = FaultyInbox::default()
            .fail(Call::Stats, [None, Some(Fault::Error), Some(Fault::Slow), Some(Fault::Hang)]);
        inbox.rows.expect(&"expected".parse().unwrap(), HOUR).await.unwrap();
        let worker = inbox.worker(&Script::default()).start();
        sleep(SECOND * 16).await;
        assert_eq!(inbox.calls(Call::Stats), 2);
        assert_eq!(rows(metrics, InboxState::Expected), Some(1.0), "the state before a failure");
        let errors = || metrics.of(telemetry::STORE_ERRORS, telemetry::CALL, call::STATS);
        assert_eq!(errors(), Some(1.0));
        // The sample begins after 30 seconds, takes 1.9, and the pause is twenty times as long.
        sleep(SECOND * (16 + 36)).await;
        assert_eq!(inbox.calls(Call::Stats), 3);
        sleep(SECOND * 20).await;
        assert_eq!((inbox.calls(Call::Stats), errors()), (4, Some(2.0)), "a call that hangs");
        worker.shutdown(SECOND).await;
    });
}

#[test]
fn an_inbox_without_administration_is_not_sampled() {
    Metrics::recorded(async |metrics| {
        let inbox = FaultyInbox::default();
        let worker =
            InboxWorker::new(Hasty::new(inbox.clone()), Script::default().handler(), Verification::Trust)
                .start();
        sleep(SECOND * 60).await;
        assert_eq!((rows(metrics, InboxState::Done), inbox.calls(Call::Stats)), (None, 0));
        assert_eq!(metrics.get(telemetry::WORKER_SLOTS), Some(16.0));
        worker.shutdown(SECOND).await;
        soon().await;
        assert_eq!(rows(metrics, InboxState::Done), None);
    });
}

#[test]
fn slots_are_free_without_an_event_and_handlers_run_once_their_events_are_verified() {
    Metrics::recorded(async |metrics| {
        let (inbox, api) = (FaultyInbox::default(), Api::new(Says::Hang));
        let mut jobs = Vec::new();
        for _ in 0..3 {
            jobs.push(inbox.add_new().await);
        }
        jobs.iter().take(2).for_each(|job| drop(api.finish(job)));
        // A lease under way holds the free slots, which are free all the same.
        inbox.faults.fail(Call::Lease, [None, Some(Fault::Hang), Some(Fault::Hang)]);
        let script = Script::new([Act::Hang]);
        let worker =
            InboxWorker::new(inbox, script.handler(), Verification::fetch(api)).concurrency(8).start();
        sleep(SECOND * 16).await;
        let gauges =
            [telemetry::WORKER_SLOTS, telemetry::WORKER_FREE_SLOTS, telemetry::WORKER_RUNNING_HANDLERS];
        assert_eq!(gauges.map(|name| metrics.get(name).unwrap()), [8.0, 5.0, 2.0]);
        worker.shutdown(Duration::ZERO).await;
    });
}

#[test]
fn the_time_of_the_last_lease_stands_still_while_the_store_fails() {
    Metrics::recorded(async |metrics| {
        let last = || metrics.get(telemetry::LAST_LEASE).unwrap();
        let inbox = FaultyInbox::default().fail(Call::Lease, [Some(Fault::Error); 100]);
        let worker = inbox.worker(&Script::default()).start();
        soon().await;
        let at_start = last();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        assert!(
            (now - 60.0..=now).contains(&at_start),
            "{at_start} is not the time of the start, about {now}"
        );
        sleep(SECOND * 60).await;
        assert!(inbox.calls(Call::Lease) > 10);
        assert_eq!(last(), at_start, "a failed lease counts");
        inbox.faults.mend(Call::Lease);
        sleep(SECOND * 10).await;
        assert!(last() > at_start, "a lease without events does not count");
        worker.shutdown(SECOND).await;
    });
}

#[test]
fn the_wait_ends_with_the_first_attempt_and_the_whole_time_when_the_event_is_done() {
    Metrics::recorded(async |metrics| {
        let inbox = FaultyInbox::default();
        let job = inbox.add_new().await;
        sleep(SECOND * 30).await;
        let acts = [Act::FailAfter(SECOND * 5), Act::Take(SECOND * 10)];
        let worker = inbox.worker(&Script::new(acts)).backoff(SECOND, SECOND).start();
        inbox.until(&job, InboxState::Done).await;
        let (waits, waited) = metrics.measured(telemetry::WAIT_SECONDS);
        assert_eq!((waits, waited.round()), (1, 30.0), "of the first attempt alone");
        let (handled, whole) = metrics.measured(telemetry::END_TO_END_SECONDS);
        assert!(handled == 1 && (45.0..48.0).contains(&whole), "{handled} in {whole} s");

        sleep(HOUR).await;
        assert!(inbox.rows.replay(&job).await.unwrap());
        sleep(SECOND * 60).await;
        inbox.until(&job, InboxState::Done).await;
        for name in [telemetry::WAIT_SECONDS, telemetry::END_TO_END_SECONDS] {
            assert_eq!(metrics.measured(name).0, 1, "{name} of a replay");
        }
        worker.shutdown(SECOND).await;
    });
}

#[test]
fn a_dead_letter_has_no_whole_time_and_an_outcome_that_was_not_recorded_has_none() {
    Metrics::recorded(async |metrics| {
        let inbox = FaultyInbox::default();
        let dead = inbox.add_new().await;
        let script = Script::new([Act::FailPermanently, Act::Succeed]);
        let worker = inbox.worker(&script).start();
        inbox.until(&dead, InboxState::Dead).await;
        inbox.faults.fail(Call::Settle, [Some(Fault::Error); 1000]);
        inbox.add_new().await;
        sleep(SECOND * 20).await;
        assert_eq!(script.finished(), 1);
        assert_eq!(metrics.measured(telemetry::WAIT_SECONDS).0, 2);
        assert_eq!(metrics.measured(telemetry::END_TO_END_SECONDS).0, 0);
        worker.shutdown(SECOND).await;
    });
}

#[test]
fn a_worker_and_a_reconciler_alone_report_the_budget_closed_while_it_is() {
    for of_worker in [true, false] {
        Metrics::recorded(async |metrics| {
            let (inbox, api) = (MemoryInbox::new(), Api::new(Says::RateLimited(SECOND * 90)));
            let closed = || metrics.get(telemetry::FETCH_BUDGET_CLOSED);
            if of_worker {
                let verification = Verification::fetch(api.clone());
                let _worker =
                    InboxWorker::new(inbox.clone(), Script::default().handler(), verification).start();
            } else {
                let _reconciler = Reconciler::new(inbox.clone(), api.clone()).start();
            }
            soon().await;
            assert_eq!(closed(), Some(0.0));
            let job = "job".parse().unwrap();
            inbox.expect(&job, Duration::ZERO).await.unwrap();
            sleep(SECOND * 5).await;
            assert_eq!(closed(), Some(1.0));
            sleep(SECOND * 75).await;
            assert_eq!(closed(), Some(1.0));
            api.finish(&job);
            sleep(SECOND * 30).await;
            assert_eq!(closed(), Some(0.0));
            let fetches =
                |result| metrics.of(telemetry::FETCHES, telemetry::RESULT, result).unwrap_or_default();
            assert_eq!([fetch_result::RATE_LIMITED, fetch_result::FINISHED].map(fetches), [1.0, 1.0]);
        });
    }
}

#[test]
fn the_budget_of_several_accounts_is_not_reported() {
    #[derive(Debug)]
    struct Accounts(Api, RequestBudget);

    #[async_trait]
    impl JobSource for Accounts {
        async fn fetch(&self, job: &JobId) -> Result<Fetched, FetchError> {
            let _permit = self.1.acquire().await?;
            self.0.fetch(job).await
        }

        fn is_one_account(&self) -> bool {
            false
        }
    }

    Metrics::recorded(async |metrics| {
        let source = Accounts(Api::new(Says::Pending), RequestBudget::default());
        let inbox = MemoryInbox::new();
        inbox.expect(&"job".parse().unwrap(), Duration::ZERO).await.unwrap();
        let reconciler = Reconciler::new(inbox, source).start();
        sleep(SECOND * 30).await;
        assert_eq!(metrics.get(telemetry::FETCH_BUDGET_CLOSED), None);
        assert!(metrics.of(telemetry::FETCHES, telemetry::RESULT, fetch_result::PENDING) > Some(2.0));
        reconciler.shutdown(SECOND).await;
    });
}

#[test]
fn a_failed_call_counts_once_however_it_fails_and_a_good_one_does_not() {
    Metrics::recorded(async |metrics| {
        let inbox = FaultyInbox::default();
        let errors = |call| metrics.of(telemetry::STORE_ERRORS, telemetry::CALL, call);
        inbox.faults.fail(Call::Settle, [Some(Fault::Error), Some(Fault::Panic), Some(Fault::Hang)]);
        let job = inbox.add_new().await;
        let worker = inbox.worker(&Script::default()).start();
        inbox.until(&job, InboxState::Done).await;
        assert_eq!(errors(call::SETTLE), Some(3.0));
        assert_eq!(inbox.outcomes(), vec![Outcome::Done; 4]);
        assert_eq!(errors(call::LEASE), Some(0.0));
        worker.shutdown(SECOND).await;
    });
}
