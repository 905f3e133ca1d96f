//! Servers that go away in the middle of traffic, and come back.

use std::time::Duration;

use ::redis::Client;
use qomplement_webhooks::sender::{Delivery, Payload, Sender};
use qomplement_webhooks::{PostgresDedupStore, RedisDedupStore, WebhookReceiver};
use tokio::task::{JoinSet, block_in_place};
use tokio::time::{Instant, interval, sleep, sleep_until, timeout};

use crate::support::Script;
use crate::support::databases::{PASSWORD, Server, postgres, redis};
use crate::support::fleet::{End, Fact, Fleet, Line, MACHINE};
use crate::support::proxy::Proxy;

const LEASE: Duration = Duration::from_secs(5);
/// The sender waits no longer.
const IN_TIME: Duration = Duration::from_secs(5);
/// For a machine that is busy with other things.
const SLACK: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq)]
enum Store {
    Redis,
    Postgres,
}

/// How a server goes away.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Outage {
    /// It is killed, and started again.
    Killed,
    /// It says nothing, and keeps its connections; what was sent to it is carried out when it goes on.
    Paused,
}

const CASES: [(Store, Outage); 4] = [
    (Store::Redis, Outage::Killed),
    (Store::Redis, Outage::Paused),
    (Store::Postgres, Outage::Killed),
    (Store::Postgres, Outage::Paused),
];

impl Store {
    fn server(self) -> Server {
        block_in_place(|| match self {
            Self::Redis => Server::redis(&[], &[]),
            Self::Postgres => Server::postgres(&[], &[]),
        })
    }
}

impl Outage {
    fn begin(self, server: &mut Server) {
        block_in_place(|| match self {
            Self::Killed => server.kill(),
            Self::Paused => server.pause(),
        });
    }

    fn end(self, server: &mut Server) {
        block_in_place(|| match self {
            Self::Killed => server.restart(),
            Self::Paused => server.resume(),
        });
    }
}

/// Runs a test for each store and each outage, all at once.
async fn in_all_cases<F: Future<Output = ()> + Send + 'static>(test: impl Fn(Store, Outage) -> F) {
    let _machine = MACHINE.read().await;
    let tests: JoinSet<()> = CASES.into_iter().map(|(store, outage)| test(store, outage)).collect();
    tests.join_all().await;
}

fn job(payload: &Payload) -> String {
    payload.event().unwrap().job().id().to_string()
}

async fn post(to: &Sender, payload: &Payload) -> Delivery {
    let report = to.deliver(payload).await;
    report.deliveries.into_iter().next().unwrap()
}

/// Posts each of them at the same time.
async fn post_all(to: &Sender, payloads: &[Payload]) -> Vec<Delivery> {
    let post = |payload: &Payload| {
        let (to, payload) = (to.clone(), payload.clone());
        async move { post(&to, &payload).await }
    };
    payloads.iter().map(post).collect::<JoinSet<_>>().join_all().await
}

fn payloads<const N: usize>() -> [Payload; N] {
    std::array::from_fn(|_| Payload::extract_completed())
}

fn status(delivery: &Delivery) -> u16 {
    delivery.status().unwrap_or_else(|| panic!("no answer: {delivery:?}")).as_u16()
}

/// Whether the answer says that the store was not reached.
fn is_refusal(delivery: &Delivery) -> bool {
    let body = delivery.result.as_ref().map(|answer| String::from_utf8_lossy(answer.body()).into_owned());
    status(delivery) == 503 && body.is_ok_and(|body| body.contains(r#""code":"unavailable""#))
}

/// Posts it again and again until it is handled, at most a minute; returns the time that took.
async fn post_until_done(to: &Sender, payload: &Payload) -> Duration {
    let began = Instant::now();
    let sender = to.clone().retry_delays([Duration::from_millis(100); 600]);
    let report = timeout(Duration::from_secs(60), sender.deliver(payload)).await;
    assert!(report.is_ok_and(|report| report.is_delivered()), "{} is never handled", job(payload));
    began.elapsed()
}

async fn is_refused_and_recovers(store: Store, outage: Outage) {
    let case = format!("{store:?}, {outage:?}");
    let mut server = store.server();
    let fleet = Fleet::on(server.url());
    let receiver = fleet.start("actix_web", &[("WORK_MS", "300")]).await;
    let to = receiver.sender.clone();
    let done: [_; 8] = payloads();
    for answer in post_all(&to, &done).await {
        assert_eq!(status(&answer), 200, "{case}: {answer:?}");
    }

    let under_way: [_; 16] = payloads();
    let traffic = tokio::spawn({
        let (to, under_way) = (to.clone(), under_way.clone());
        async move { post_all(&to, &under_way).await }
    });
    let begun = |lines: &[Line]| {
        let begins = lines.iter().filter(|line| under_way.iter().any(|job_| line.fact.is_begin(&job(job_))));
        (begins.count() >= 4).then_some(())
    };
    fleet.until("traffic", begun).await;
    outage.begin(&mut server);
    fleet.note("away");

    // Longer than a lease, so that all that was claimed before has run out.
    let (mut refused, mut seconds) = (Vec::new(), interval(Duration::from_secs(1)));
    for _ in 0..6 {
        seconds.tick().await;
        let fresh: [_; 8] = payloads();
        let copies = &done[..2];
        for answer in post_all(&to, &[&fresh[..], copies].concat()).await {
            assert!(is_refusal(&answer), "{case}: {answer:?}");
            assert!(answer.took < IN_TIME, "{case}: {answer:?}");
        }
        refused.extend(fresh);
    }
    for answer in traffic.await.unwrap() {
        assert!([200, 503].contains(&status(&answer)), "{case}, under way: {answer:?}");
        assert!(answer.took < IN_TIME, "{case}, under way: {answer:?}");
    }

    fleet.note("back");
    outage.end(&mut server);
    let recovering = refused.iter().chain(&under_way).chain(&done).map(|payload| {
        let (to, payload) = (to.clone(), payload.clone());
        async move { post_until_done(&to, &payload).await }
    });
    let recovering: JoinSet<_> = recovering.collect();
    // Nobody has claimed this one: it takes as long as the receiver and the machine need.
    let unclaimed = post_until_done(&to, &Payload::extract_completed()).await;
    assert!(unclaimed < SLACK * 6, "{case}: the receiver is stuck: it took {unclaimed:?}");
    for took in recovering.join_all().await {
        assert!(
            took < unclaimed + LEASE + SLACK,
            "{case}: a claim is stuck: {took:?}, without {unclaimed:?}"
        );
    }

    let (lines, runs) = (fleet.lines().await, fleet.runs().await);
    let at = |note: &str| lines.iter().position(|line| line.fact == Fact::Noted(note.to_owned())).unwrap();
    for payload in &refused {
        let began = lines.iter().position(|line| line.fact.is_begin(&job(payload))).unwrap();
        assert!(began > at("back"), "{case}: handled without a claim, while the server was away");
        assert_eq!(runs[&job(payload)].len(), 1, "{case}: {:?}", runs[&job(payload)]);
    }
    for payload in &done {
        assert_eq!(runs[&job(payload)].len(), 1, "{case}: what was done before is forgotten");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_server_is_away_nothing_is_handled_and_afterwards_nothing_is_stuck() {
    in_all_cases(is_refused_and_recovers).await;
}

/// Longer than what is left of a lease in every case.
const LONG_WORK: [(&str, &str); 1] = [("WORK_MS", "6000")];

async fn is_dropped(store: Store, outage: Outage) {
    let case = format!("{store:?}, {outage:?}");
    let mut server = store.server();
    let fleet = Fleet::on(server.url());
    let receiver = fleet.start("hyper", &LONG_WORK).await;
    let payload = Payload::extract_completed();
    let job = job(&payload);
    let first = tokio::spawn({
        let (to, payload) = (receiver.sender.clone(), payload.clone());
        async move { post(&to, &payload).await }
    });
    fleet.line("the run", |fact| fact.is_begin(&job)).await;
    outage.begin(&mut server);
    fleet.line("the run's end", |fact| fact.is_end(&job, End::Dropped)).await;
    let answer = first.await.unwrap();
    assert!(status(&answer) == 503 && answer.took < IN_TIME, "{case}: {answer:?}");

    outage.end(&mut server);
    post_until_done(&receiver.sender, &payload).await;
    let runs = &fleet.runs().await[&job];
    let ends: Vec<_> = runs.iter().filter_map(|run| Some((run.ended?.1, run.ended?.0 - run.began))).collect();
    assert!(
        matches!(ends[..], [(End::Dropped, after), (End::Handled, _)] if after < LEASE + SLACK),
        "{case}: {ends:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_whose_claim_ends_while_the_server_is_away_is_dropped_and_run_again() {
    in_all_cases(is_dropped).await;
}

async fn goes_on(store: Store, outage: Outage) {
    // On a busy machine the server may come back too late.
    for _ in 0..5 {
        if goes_on_after_an_outage(store, outage).await < LEASE / 2 {
            return;
        }
    }
    panic!("{store:?}, {outage:?}: the server took too long to come back, five times");
}

/// Returns how long the server was away.
async fn goes_on_after_an_outage(store: Store, outage: Outage) -> Duration {
    let case = format!("{store:?}, {outage:?}");
    let mut server = store.server();
    let fleet = Fleet::on(server.url());
    let receiver = fleet.start("warp", &LONG_WORK).await;
    let payload = Payload::extract_completed();
    let job = job(&payload);
    let first = tokio::spawn({
        let (to, payload) = (receiver.sender.clone(), payload.clone());
        async move { post(&to, &payload).await }
    });
    fleet.line("the run", |fact| fact.is_begin(&job)).await;
    let began = Instant::now();
    outage.begin(&mut server);
    if outage == Outage::Paused {
        // So long that a renewal has to wait. One that is refused has time to be tried again.
        sleep(Duration::from_secs(2)).await;
    }
    outage.end(&mut server);
    let away = began.elapsed();
    fleet.line("the run's end", |fact| matches!(fact, Fact::Ended { job: of, .. } if *of == job)).await;
    first.await.unwrap();
    post_until_done(&receiver.sender, &payload).await;
    let runs = &fleet.runs().await[&job];
    assert!(away >= LEASE / 2 || runs.len() == 1 && runs[0].was(End::Handled), "{case}: {runs:?}");
    away
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_goes_on_when_the_server_comes_back_before_its_claim_ends() {
    in_all_cases(goes_on).await;
}

async fn is_dropped_before_another_begins(server: &Server) {
    let proxy = Proxy::before(server.port()).await;
    let behind = server.url().replace(&format!(":{}", server.port()), &format!(":{}", proxy.port));
    assert!(behind.contains(PASSWORD));
    let fleet = Fleet::on(server.url());
    let cut_off = fleet.start("axum", &[("DEDUP_URL", &behind), ("WORK_MS", "60000")]).await;
    let other = fleet.start("hyper", &[("WORK_MS", "10")]).await;
    let payloads: [_; 8] = payloads();
    let first = tokio::spawn({
        let (to, payloads) = (cut_off.sender.clone(), payloads.clone());
        async move { post_all(&to, &payloads).await }
    });
    for payload in &payloads {
        let job = job(payload);
        fleet.line("the run", |fact| fact.is_begin(&job)).await;
    }
    proxy.fall_silent();
    for payload in &payloads {
        post_until_done(&other.sender, payload).await;
    }
    first.await.unwrap();
    // In which runs that overlap are found.
    let runs = fleet.runs().await;
    for payload in &payloads {
        let ends: Vec<_> = runs[&job(payload)].iter().map(|run| run.ended.unwrap().1).collect();
        assert_eq!(ends, [End::Dropped, End::Handled]);
    }
}

#[tokio::test]
async fn a_process_that_is_cut_off_drops_its_handlers_before_another_begins() {
    let _machine = MACHINE.read().await;
    tokio::join!(is_dropped_before_another_begins(redis()), is_dropped_before_another_begins(postgres()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_redis_refuses_new_jobs_completes_those_it_holds_and_loses_none() {
    let _machine = MACHINE.read().await;
    let server = Store::Redis.server();
    let mut connection = Client::open(server.url()).unwrap().get_connection().unwrap();
    let mut limit = |bytes: &str| {
        let mut set = ::redis::cmd("CONFIG");
        set.arg("SET").arg("maxmemory").arg(bytes).arg("maxmemory-policy").arg("noeviction");
        let () = set.query(&mut connection).unwrap();
    };
    let fleet = Fleet::on(server.url());
    // Long enough for a renewal.
    let receiver = fleet.start("axum", &[("WORK_MS", "3000")]).await;
    let to = receiver.sender.clone();
    let held: [_; 8] = payloads();
    let holding = tokio::spawn({
        let (to, held) = (to.clone(), held.clone());
        async move { post_all(&to, &held).await }
    });
    for payload in &held {
        let job = job(payload);
        fleet.line("a run", |fact| fact.is_begin(&job)).await;
    }
    limit("1");
    let refused: [_; 8] = payloads();
    for answer in post_all(&to, &refused).await {
        assert!(is_refusal(&answer), "{answer:?}");
    }
    for answer in holding.await.unwrap() {
        assert_eq!(status(&answer), 200, "a claim that was held: {answer:?}");
    }
    limit("0");
    for answer in post_all(&to, &[&refused[..], &held].concat()).await {
        assert_eq!(status(&answer), 200, "after room was made: {answer:?}");
    }
    let runs = fleet.runs().await;
    for payload in held.iter().chain(&refused) {
        let runs = &runs[&job(payload)];
        assert!(runs.len() == 1 && runs[0].was(End::Handled), "{runs:?}");
    }
}

/// A server stands still for longer than the sender's first two deliveries, and carries out their claims when it goes on.
async fn no_claim_is_left_behind(store: Store) {
    let server = store.server();
    let script = Script::default();
    let builder = WebhookReceiver::builder(script.handler()).unauthenticated();
    let receiver = match store {
        Store::Redis => builder.dedup_store(RedisDedupStore::from_url(&server.url(), "still").unwrap()),
        Store::Postgres => {
            let store = PostgresDedupStore::from_url(&server.url()).unwrap();
            store.migrate().await.unwrap();
            builder.dedup_store(store)
        }
    };
    let to = Sender::to_service(receiver.build().unwrap()).retry_delays([]);
    // So that there is a connection.
    post_until_done(&to, &Payload::extract_completed()).await;
    let payload = Payload::extract_completed();
    block_in_place(|| server.pause());
    let began = Instant::now();
    for next in [5, 15] {
        let answer = post(&to, &payload).await;
        assert!(is_refusal(&answer) && answer.took < IN_TIME, "{store:?}: {answer:?}");
        sleep_until(began + Duration::from_secs(next)).await;
    }
    block_in_place(|| server.resume());
    // A claim that is carried out now lasts longer than the sender waits for this answer.
    let answer = post(&to, &payload).await;
    assert_eq!(status(&answer), 200, "{store:?}: {answer:?}");
    assert_eq!(script.runs(), 2, "{store:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_claims_of_abandoned_attempts_keep_no_later_attempt_out() {
    let _machine = MACHINE.read().await;
    tokio::join!(no_claim_is_left_behind(Store::Redis), no_claim_is_left_behind(Store::Postgres));
}
