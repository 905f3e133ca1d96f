//! The sender: new jobs, copies, and jobs that have not ended, all the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use qomplement_webhooks::JobType;
use qomplement_webhooks::sender::Payload;
use tokio::sync::watch;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::ledger::Ledger;

/// How many deliveries are under way at once.
const CONNECTIONS: usize = 16;
/// Keeps the number of jobs in proportion to the number of kills.
const PAUSE: Duration = Duration::from_millis(40);

pub struct Load {
    stopped: Arc<AtomicBool>,
    pub in_flight: Arc<AtomicUsize>,
    senders: JoinSet<()>,
}

impl Load {
    /// Begins to send to wherever the server listens.
    pub fn start(url: &watch::Receiver<String>, ledger: &Arc<Ledger>) -> Self {
        let (stopped, in_flight) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let mut senders = JoinSet::new();
        for _ in 0..CONNECTIONS {
            let sender = Sender {
                client: reqwest::Client::builder().timeout(Duration::from_secs(5)).build().unwrap(),
                url: url.clone(),
                in_flight: in_flight.clone(),
            };
            senders.spawn(sender.send(stopped.clone(), ledger.clone()));
        }
        Self { stopped, in_flight, senders }
    }

    pub async fn stop(self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.senders.join_all().await;
    }
}

struct Sender {
    client: reqwest::Client,
    url: watch::Receiver<String>,
    in_flight: Arc<AtomicUsize>,
}

impl Sender {
    async fn send(self, stopped: Arc<AtomicBool>, ledger: Arc<Ledger>) {
        for number in 0.. {
            if stopped.load(Ordering::SeqCst) {
                return;
            }
            let payload = match number % 3 {
                0 => Payload::extract_completed(),
                1 => Payload::fill_pdf_completed(),
                _ => Payload::failed(&JobType::Extract),
            };
            let payload = payload.job_id(Uuid::new_v4());
            let job = payload.event().unwrap().job().id().clone();
            if number % 10 == 0 {
                self.deliver(&payload.clone().set("/data/status", "processing")).await;
            }
            if self.deliver(&payload).await {
                ledger.acknowledge(&job);
            }
            if number % 10 == 5 {
                self.deliver(&payload).await;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Tries as often as the sender does, only faster; whether the server acknowledged it.
    async fn deliver(&self, payload: &Payload) -> bool {
        for _ in 0..3 {
            let url = self.url.borrow().clone();
            self.in_flight.fetch_add(1, Ordering::SeqCst);
            let sent = self
                .client
                .post(url)
                .header("content-type", "application/json")
                .body(payload.to_bytes())
                .send()
                .await;
            self.in_flight.fetch_sub(1, Ordering::SeqCst);
            if sent.is_ok_and(|answer| answer.status() == 200) {
                return true;
            }
            tokio::time::sleep(PAUSE * 2).await;
        }
        false
    }
}
