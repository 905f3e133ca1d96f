//! Who waits for an arrival, and how it is told.

use std::time::{Duration, Instant};

use qomplement_webhooks::{InboxAdmin, InboxStore, Outcome, PostgresInbox};
use tokio::time::timeout;
use tokio_postgres::NoTls;

use super::{client, completed, count, handle, inbox, lease_one};
use crate::databases::server::postgres;

#[tokio::test(flavor = "multi_thread")]
async fn an_arrival_in_another_process_wakes_who_waits() {
    let (here, there) = (inbox("woken").await, handle("woken"));
    let quiet = || async { while timeout(Duration::from_millis(300), here.wait()).await.is_ok() {} };
    quiet().await;
    for number in 0..5 {
        there.receive(&completed(&format!("job-{number}"))).await.unwrap();
        let began = Instant::now();
        timeout(Duration::from_secs(5), here.wait()).await.expect("nobody was told");
        assert!(began.elapsed() < Duration::from_millis(500), "told after {:?}", began.elapsed());
        quiet().await;
    }
    let lease = lease_one(&there).await.lease;
    let _ = there.settle(&lease, &Outcome::Done).await.unwrap();
    there.replay(lease.job()).await.unwrap();
    timeout(Duration::from_millis(300), here.wait()).await.expect("nobody was told of the replay");
    quiet().await;
    // Another table's arrivals, and duplicates, are nothing to wake for.
    inbox("woken_other").await.receive(&completed("job")).await.unwrap();
    there.receive(&completed("job-0")).await.unwrap();
    assert!(timeout(Duration::from_millis(300), here.wait()).await.is_err());
    // It hears of its own once, and not a second time from the server.
    here.receive(&completed("own")).await.unwrap();
    timeout(Duration::from_millis(300), here.wait()).await.unwrap();
    assert!(timeout(Duration::from_millis(300), here.wait()).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_of_the_users_works_without_listening() {
    inbox("pooled").await;
    let mut config = deadpool_postgres::Config::new();
    config.url = Some(postgres().url());
    let pool = config.create_pool(Some(deadpool_postgres::Runtime::Tokio1), NoTls).unwrap();
    let inbox = PostgresInbox::from_pool(pool).with_table("pooled", "inbox").unwrap();
    let waiting = tokio::spawn({
        let inbox = inbox.clone();
        async move { inbox.wait().await }
    });
    inbox.receive(&completed("job")).await.unwrap();
    timeout(Duration::from_secs(1), waiting).await.expect("its own arrivals wake it").unwrap();
    lease_one(&inbox).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_that_listens_is_made_again() {
    let there = inbox("listening").await;
    let url = format!("{}&application_name=here", postgres().url());
    let here = PostgresInbox::from_url(&url).unwrap().with_table("listening", "inbox").unwrap();
    let listening = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
        WHERE application_name = 'here' AND query LIKE 'LISTEN%'";
    while timeout(Duration::from_millis(300), here.wait()).await.is_ok() {}
    let client = client(postgres()).await;
    assert!(count(&client, listening).await > 0);
    // It says when it is back.
    timeout(Duration::from_secs(8), here.wait()).await.expect("it does not listen again");
    while timeout(Duration::from_millis(300), here.wait()).await.is_ok() {}
    there.receive(&completed("job")).await.unwrap();
    timeout(Duration::from_millis(500), here.wait()).await.expect("nobody was told");
}
