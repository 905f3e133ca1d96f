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
            let sender = Sender::new(url, &in_flight);
            senders.spawn(sender.send(stopped.clone(), ledger.clone()));
        }
        Self { stopped, in_flight, senders }
    }

    pub async fn stop(self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.senders.join_all().await;
    }
}

/// Delivers one new webhook at a time, when it is told to.
pub struct Probe {
    sender: Sender,
    ledger: Arc<Ledger>,
}

impl Probe {
    pub fn new(url: &watch::Receiver<String>, ledger: &Arc<Ledger>) -> Self {
        Self { sender: Sender::new(url, &Arc::default()), ledger: ledger.clone() }
    }

    /// The status of the answer.
    pub async fn deliver(&self) -> Option<u16> {
        let payload = Payload::extract_completed().job_id(Uuid::new_v4());
        let job = payload.event().unwrap().job().id().clone();
        let status = self.sender.post(&payload).await;
        if status == Some(200) {
            self.ledger.acknowledge(&job);
        }
        status
    }
}

struct Sender {
    client: reqwest::Client,
    url: watch::Receiver<String>,
    in_flight: Arc<AtomicUsize>,
}

impl Sender {
    fn new(url: &watch::Receiver<String>, in_flight: &Arc<AtomicUsize>) -> Self {
        let client = reqwest::Client::builder().timeout(Duration::from_secs(20)).build().unwrap();
        Self { client, url: url.clone(), in_flight: in_flight.clone() }
    }

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

    /// Delivers it as often as the sender does, only faster; whether the server acknowledged it.
    async fn deliver(&self, payload: &Payload) -> bool {
        for _ in 0..3 {
            if self.post(payload).await == Some(200) {
                return true;
            }
            tokio::time::sleep(PAUSE * 2).await;
        }
        false
    }

    /// The status of the answer, if there is one.
    async fn post(&self, payload: &Payload) -> Option<u16> {
        let url = self.url.borrow().clone();
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        let request =
            self.client.post(url).header("content-type", "application/json").body(payload.to_bytes());
        let sent = request.send().await;
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
        Some(sent.ok()?.status().as_u16())
    }
}
