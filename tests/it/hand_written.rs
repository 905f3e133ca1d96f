//! Stores, sources, registries and authenticators written without `async_trait`, whose methods panic before their
//! future exists.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use qomplement_webhooks::auth::{Access, Authenticator};
use qomplement_webhooks::dedup::{Claim, ClaimToken};
use qomplement_webhooks::event::Envelope;
use qomplement_webhooks::fetch::{FetchError, Fetched, JobSource};
use qomplement_webhooks::inbox::{InboxState, Lease, Leased, Outcome, Overdue, Pruned, Receipt, Retention};
use qomplement_webhooks::registry::JobRegistry;
use qomplement_webhooks::sender::Payload;
use qomplement_webhooks::store::{Fenced, StoreError};
use qomplement_webhooks::{
    DedupStore, InboxStore, InboxWorker, JobId, MemoryDedupStore, Verification, WebhookReceiver,
};
use tokio::time::sleep;

use crate::support::api::{Api, Says, finished};
use crate::support::inboxes::FaultyInbox;
use crate::support::{Script, request};

const MINUTE: Duration = Duration::from_secs(60);

/// Panics at the first of two calls of a method, then calls the inner one.
#[derive(Debug, Clone)]
pub struct Hasty<T> {
    inner: T,
    calls: Arc<Mutex<HashMap<&'static str, usize>>>,
}

impl<T> Hasty<T> {
    pub fn new(inner: T) -> Self {
        Self { inner, calls: Arc::default() }
    }

    fn note(&self, method: &'static str) {
        let mut calls = self.calls.lock().unwrap();
        let number = calls.entry(method).or_default();
        *number += 1;
        let panics = *number % 2 == 1;
        drop(calls);
        assert!(!panics, "{method} panics before its future exists");
    }

    fn calls(&self, method: &str) -> usize {
        self.calls.lock().unwrap().get(method).copied().unwrap_or_default()
    }
}

/// The signature that `async_trait` gives a method, with a body that runs when it is called.
macro_rules! hasty {
    ($($name:ident <$($life:lifetime),*> ($($argument:ident: $type:ty),*) -> $output:ty;)*) => {
        $(fn $name<'life0, $($life,)* 'async_trait>(
            &'life0 self,
            $($argument: $type),*
        ) -> Pin<Box<dyn Future<Output = $output> + Send + 'async_trait>>
        where
            'life0: 'async_trait,
            $($life: 'async_trait,)*
            Self: 'async_trait,
        {
            self.note(stringify!($name));
            self.inner.$name($($argument),*)
        })*
    };
}

impl InboxStore for Hasty<FaultyInbox> {
    hasty! {
        receive<'life1>(event: &'life1 Envelope) -> Result<Receipt, StoreError>;
        lease<>(most: usize, length: Duration) -> Result<Vec<Leased>, StoreError>;
        begin<'life1>(lease: &'life1 Lease) -> Result<Fenced, StoreError>;
        renew<'life1>(lease: &'life1 Lease, length: Duration) -> Result<Fenced, StoreError>;
        verify<'life1, 'life2>(lease: &'life1 Lease, event: &'life2 Envelope) -> Result<Fenced, StoreError>;
        settle<'life1, 'life2>(lease: &'life1 Lease, outcome: &'life2 Outcome) -> Result<Fenced, StoreError>;
        expect<'life1>(job: &'life1 JobId, deadline: Duration) -> Result<(), StoreError>;
        overdue<>(most: usize, length: Duration) -> Result<Vec<Overdue>, StoreError>;
        contains<'life1>(job: &'life1 JobId) -> Result<bool, StoreError>;
        prune<'life1>(retention: &'life1 Retention) -> Result<Pruned, StoreError>;
        wait<>() -> ();
    }
}

impl DedupStore for Hasty<Arc<MemoryDedupStore>> {
    hasty! {
        claim<'life1>(claim: &'life1 ClaimToken, lease: Duration) -> Result<Claim, StoreError>;
        renew<'life1>(claim: &'life1 ClaimToken, lease: Duration) -> Result<Fenced, StoreError>;
        complete<'life1>(claim: &'life1 ClaimToken, retention: Duration) -> Result<Fenced, StoreError>;
        release<'life1>(claim: &'life1 ClaimToken) -> Result<Fenced, StoreError>;
    }
}

impl JobSource for Hasty<Api> {
    hasty! {
        fetch<'life1>(job: &'life1 JobId) -> Result<Fetched, FetchError>;
    }
}

/// Knows every job, and grants every request.
#[derive(Debug, Clone)]
struct Everything;

impl Everything {
    fn is_known<'a>(&self, _: &'a JobId) -> Pin<Box<dyn Future<Output = Result<bool, Error>> + Send + 'a>> {
        Box::pin(async { Ok(true) })
    }

    fn authenticate<'a>(
        &self,
        _: &'a http::request::Parts,
    ) -> Pin<Box<dyn Future<Output = Result<Access, Error>> + Send + 'a>> {
        Box::pin(async { Ok(Access::Granted) })
    }
}

type Error = Box<dyn std::error::Error + Send + Sync>;

impl JobRegistry for Hasty<Everything> {
    hasty! {
        is_known<'life1>(job: &'life1 JobId) -> Result<bool, Error>;
    }
}

impl Authenticator for Hasty<Everything> {
    hasty! {
        authenticate<'life1>(request: &'life1 http::request::Parts) -> Result<Access, Error>;
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_and_its_reconciler_outlive_methods_that_panic_before_their_future_exists() {
    let (inbox, api, script) = (FaultyInbox::default(), Api::new(Says::Pending), Script::default());
    let (received, expected): (JobId, JobId) = ("received".parse().unwrap(), "expected".parse().unwrap());
    let (hasty, source) = (Hasty::new(inbox.clone()), Hasty::new(api.clone()));
    for job in [&received, &expected] {
        api.finish(job);
    }
    let worker = InboxWorker::new(hasty.clone(), script.handler(), Verification::fetch(source.clone()));
    let _worker = worker.max_attempts(1).start();
    inbox.rows.receive(&finished(&received)).await.unwrap();
    inbox.rows.expect(&expected, MINUTE).await.unwrap();
    sleep(MINUTE / 3).await;
    assert_eq!(inbox.row(&received).await.state, InboxState::Done, "a call took its lease with it");
    sleep(MINUTE * 10).await;
    for job in [&received, &expected] {
        assert_eq!(inbox.row(job).await.state, InboxState::Done, "{job}");
    }
    assert_eq!(script.runs(), 2);
    for method in ["lease", "begin", "verify", "settle", "overdue", "prune", "wait"] {
        assert!(hasty.calls(method) >= 2 || method == "wait", "{method}: {}", hasty.calls(method));
    }
    assert!(source.calls("fetch") >= 2);
}

#[tokio::test(start_paused = true)]
async fn a_receiver_answers_when_methods_panic_before_their_future_exists() {
    let script = Script::default();
    let (store, inbox) = (Arc::new(MemoryDedupStore::new()), FaultyInbox::default());
    let builders: [&dyn Fn() -> qomplement_webhooks::receiver::WebhookReceiverBuilder; 2] =
        [&|| WebhookReceiver::builder(script.handler()).dedup_store(Hasty::new(store.clone())), &|| {
            WebhookReceiver::durable(Hasty::new(inbox.clone()))
        }];
    for builder in builders {
        let everything = Hasty::new(Everything);
        let receiver = builder().authenticator(everything.clone()).known_jobs(everything).build().unwrap();
        let payload = Payload::extract_completed();
        let mut statuses = Vec::new();
        for _ in 0..8 {
            statuses.push(receiver.receive(request(payload.clone())).await.status().as_u16());
        }
        // The authenticator panics at every second request; the registry and the store at the first that reach them.
        assert!(
            statuses.contains(&200) && statuses.iter().all(|status| [200, 503].contains(status)),
            "{statuses:?}"
        );
    }
    assert_eq!(script.runs(), 1);
}
