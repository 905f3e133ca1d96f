//! Processes whose clocks differ by an hour.

use std::time::Duration;

use qomplement_webhooks::sender::Payload;
use tokio::time::Instant;

use crate::support::databases::{Server, postgres, redis};
use crate::support::faketime;
use crate::support::fleet::{End, Fleet, MACHINE, Receiver};

/// Longer than a lease, so that a claim is held for so long only if it is renewed.
const WORK: &str = "8000";

/// Starts a receiver whose clock goes right or an hour wrong; its timers go right.
async fn start(fleet: &Fleet, example: &str, wrong: Option<&str>, work: &str) -> Receiver {
    let fake = wrong.map(faketime::environment);
    let fake = fake.iter().flatten().map(|(name, value)| (*name, value.as_str()));
    let settings: Vec<_> = fake.chain([("WORK_MS", work)]).collect();
    fleet.start(example, &settings).await
}

/// What the receiver takes for the time.
async fn date(receiver: &Receiver) -> String {
    let answer =
        reqwest::Client::builder().no_proxy().build().unwrap().get(&receiver.url).send().await.unwrap();
    answer.headers()["date"].to_str().unwrap().to_owned()
}

async fn clocks_do_not_matter(store: &Server, holders: Option<&str>, others: Option<&str>) {
    let fleet = Fleet::on(store.url());
    let holder = start(&fleet, "axum", holders, WORK).await;
    let mut dying = start(&fleet, "warp", holders, WORK).await;
    let other = start(&fleet, "hyper", others, "10").await;
    let hour = |date: String| date[17..19].to_owned();
    assert_ne!(hour(date(&holder).await), hour(date(&other).await), "both clocks show the same hour");

    let (held, orphaned) = (Payload::extract_completed(), Payload::extract_completed());
    let job = |payload: &Payload| payload.event().unwrap().job().id().to_string();
    let to = |receiver: &Receiver| receiver.sender.clone().delivery_timeout(Duration::from_secs(20));

    let renewed = async {
        let (first, copies) = (to(&holder), to(&other).retry_delays([Duration::ZERO; 2]));
        let copies = async {
            fleet.line("the run that is renewed", |fact| fact.is_begin(&job(&held))).await;
            copies.deliver(&held).await
        };
        let (first, copies) = tokio::join!(first.deliver(&held), copies);
        assert_eq!(first.statuses(), [Some(503)], "the handler outlives the request");
        assert_eq!(copies.statuses(), [Some(503), Some(200)], "the copies wait for the end of the run");
        let back = to(&holder).deliver(&held).await;
        assert_eq!(back.statuses(), [Some(200)]);
    };
    let taken_over = async {
        let (first, copies) = (to(&dying), to(&other).retry_delays([Duration::ZERO; 9]));
        let dies = async {
            fleet.line("the run that dies", |fact| fact.is_begin(&job(&orphaned))).await;
            fleet.kill(&mut dying).await;
            let killed = Instant::now();
            assert!(copies.deliver(&orphaned).await.is_delivered());
            killed.elapsed()
        };
        let (_, took) = tokio::join!(first.deliver(&orphaned), dies);
        assert!(took > Duration::from_secs(3), "taken over before the lease ended: after {took:?}");
        assert!(took < Duration::from_secs(15), "not free when the lease ended: taken over after {took:?}");
    };
    tokio::join!(renewed, taken_over);

    let runs = fleet.runs().await;
    let ends = |payload: &Payload| -> Vec<_> {
        runs[&job(payload)].iter().filter_map(|run| run.ended).map(|(_, end)| end).collect()
    };
    assert_eq!(ends(&held), [End::Handled], "taken over while its claim was renewed");
    assert_eq!(ends(&orphaned), [End::Killed, End::Handled]);
}

#[tokio::test]
async fn a_clock_that_is_an_hour_wrong_neither_ends_a_claim_nor_keeps_it() {
    let _machine = MACHINE.read().await;
    let (right, wrong) = (None, Some("+1h"));
    tokio::join!(
        clocks_do_not_matter(redis(), right, wrong),
        clocks_do_not_matter(redis(), wrong, right),
        clocks_do_not_matter(postgres(), right, wrong),
        clocks_do_not_matter(postgres(), wrong, right),
    );
}
