//! Many receivers' events, stored by one statement.
//!
//! Events queue up while statements are under way; a task takes what has queued up, stores it, and ends when
//! the queue is empty. So a single event waits for nothing, and many share a commit.

use std::borrow::Cow;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};
use tokio_postgres::types::{ToSql, Type};
use tracing::debug;

use super::{Inner, storable};
use crate::event::{Envelope, JobId};
use crate::guard::chain;
use crate::inbox::Receipt;
use crate::postgres::{self, column};
use crate::store::StoreError;

/// How many statements of one handle are under way at once, at most. The fewer there are, the more events share
/// one; so another is sent only when so many events wait, or the last one was sent so long ago.
const SENDERS: usize = 4;
const ENOUGH_EVENTS: usize = 64;
const LONG_AGO: Duration = Duration::from_millis(50);
/// What one statement stores at most; a body that is larger goes alone.
const BATCH_EVENTS: usize = 256;
const BATCH_BYTES: usize = 8 << 20;
/// How long a statement may take.
const BATCH_TIME: Duration = Duration::from_secs(30);

type Reply = oneshot::Sender<Result<Receipt, StoreError>>;

#[derive(Default)]
pub(super) struct Queue(Mutex<State>);

#[derive(Default)]
struct State {
    waiting: VecDeque<(Envelope, Reply)>,
    senders: usize,
    /// When the last statement was sent.
    last: Option<Instant>,
}

/// One event, and everybody who brought it.
struct Received {
    event: Envelope,
    replies: Vec<Reply>,
}

/// What one statement found out about an event.
enum Found {
    Receipt(Receipt),
    Full,
    /// The job is known, or became so after the statement had looked: another statement tells.
    Later,
}

/// A task that stores what has queued up.
struct Sender {
    inner: Arc<Inner>,
    /// Whether it noted its own end.
    ended: bool,
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Queues an event up and waits for what becomes of it.
pub(super) async fn receive(inner: &Arc<Inner>, event: &Envelope) -> Result<Receipt, StoreError> {
    let mut tries_left = 2;
    loop {
        match queue(inner, event)?.await {
            Ok(receipt) => return receipt,
            // The task was of another runtime, which has ended under it.
            Err(_) if tries_left > 0 => tries_left -= 1,
            Err(ended) => return Err(StoreError::unavailable(ended)),
        }
    }
}

fn queue(
    inner: &Arc<Inner>,
    event: &Envelope,
) -> Result<oneshot::Receiver<Result<Receipt, StoreError>>, StoreError> {
    let runtime = Handle::try_current().map_err(StoreError::unavailable)?;
    let (reply, receipt) = oneshot::channel();
    let start = {
        let mut state = inner.queue.state();
        state.waiting.push_back((event.clone(), reply));
        let start = state.wants_sender();
        state.senders += usize::from(start);
        start
    };
    if start {
        runtime.spawn(Sender { inner: inner.clone(), ended: false }.run());
    }
    Ok(receipt)
}

impl Sender {
    async fn run(mut self) {
        while let Some(batch) = self.next_batch() {
            store(&self.inner, batch).await;
            if self.inner.room.is_counted() && self.inner.room.is_count_due() {
                count(&self.inner).await;
            }
        }
    }

    /// Takes what has queued up, as far as it fits into a statement; `None` at the end.
    ///
    /// Copies of one event become one. Another event of a job that is in the batch waits for the next: it
    /// depends on what becomes of the first.
    fn next_batch(&mut self) -> Option<Vec<Received>> {
        let mut state = self.inner.queue.state();
        let mut batch: Vec<Received> = Vec::new();
        let mut places: HashMap<JobId, usize> = HashMap::new();
        let (mut later, mut bytes) = (Vec::new(), 0);
        while batch.len() < BATCH_EVENTS
            && let Some((event, reply)) = state.waiting.pop_front()
        {
            if reply.is_closed() {
                continue;
            }
            match places.entry(event.job().clone()) {
                Entry::Occupied(place) => match batch.get_mut(*place.get()) {
                    Some(first) if first.is_copied_by(&event) => first.replies.push(reply),
                    _ => later.push((event, reply)),
                },
                Entry::Vacant(_) if bytes > 0 && bytes + event.body().len() > BATCH_BYTES => {
                    later.push((event, reply));
                    break;
                }
                Entry::Vacant(place) => {
                    place.insert(batch.len());
                    bytes += event.body().len();
                    batch.push(Received { event, replies: vec![reply] });
                }
            }
        }
        for waiting in later.into_iter().rev() {
            state.waiting.push_front(waiting);
        }
        if batch.is_empty() {
            state.senders -= 1;
            self.ended = true;
            return None;
        }
        state.last = Some(Instant::now());
        Some(batch)
    }
}

impl State {
    fn wants_sender(&self) -> bool {
        match self.senders {
            0 => true,
            1..SENDERS => {
                self.waiting.len() >= ENOUGH_EVENTS || self.last.is_some_and(|last| last.elapsed() > LONG_AGO)
            }
            _ => false,
        }
    }
}

impl Drop for Sender {
    /// Notes the end also when the runtime is shut down under the task. Who waits then for a task that will not
    /// come is told so.
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let mut state = self.inner.queue.state();
        state.senders -= 1;
        if state.senders == 0 {
            state.waiting.clear();
        }
    }
}

impl Received {
    fn is_copied_by(&self, event: &Envelope) -> bool {
        self.event.body() == event.body()
    }

    /// Tells everybody who brought the event. All but the first brought a copy.
    fn tell(self, receipt: Receipt) {
        let copied = if receipt == Receipt::Stored { Receipt::Duplicate } else { receipt };
        for (number, reply) in self.replies.into_iter().enumerate() {
            // Who has left does not want to know.
            let _ = reply.send(Ok(if number == 0 { receipt } else { copied }));
        }
    }

    fn refuse(self, error: impl Fn() -> StoreError) {
        for reply in self.replies {
            let _ = reply.send(Err(error()));
        }
    }
}

/// Stores a batch and tells everybody.
async fn store(inner: &Inner, mut batch: Vec<Received>) {
    let mut may_be_known = false;
    while !batch.is_empty() {
        let sent = send(inner, &batch, may_be_known).await;
        may_be_known = true;
        let error = match sent {
            Ok(found) => {
                let mut later = Vec::new();
                for (received, found) in batch.into_iter().zip(found) {
                    match found {
                        Found::Receipt(receipt) => {
                            if receipt == Receipt::Stored {
                                inner.arrived.notify_one();
                            }
                            received.tell(receipt);
                        }
                        Found::Full => received.refuse(|| StoreError::Full),
                        Found::Later => later.push(received),
                    }
                }
                batch = later;
                continue;
            }
            Err(error) => error,
        };
        match error {
            StoreError::Unavailable(cause) if batch.len() > 1 && is_on_account_of_a_row(&*cause) => {
                debug!(error = %chain(&*cause), "a batch was refused; trying its events one by one");
                for received in batch {
                    Box::pin(store(inner, vec![received])).await;
                }
                return;
            }
            StoreError::Unavailable(cause) => {
                let cause: Arc<dyn Error + Send + Sync> = Arc::from(cause);
                for received in batch {
                    received.refuse(|| StoreError::unavailable(cause.clone()));
                }
                return;
            }
            StoreError::Full => {
                for received in batch {
                    received.refuse(|| StoreError::Full);
                }
                return;
            }
        }
    }
}

/// Sends a statement, and returns what it found out about each event: whether it is its job's first and was stored,
/// or, if the job may be known, anything.
async fn send(inner: &Inner, batch: &[Received], may_be_known: bool) -> Result<Vec<Found>, StoreError> {
    let fits = Taken::of(inner, batch).await;
    let each = |read: fn(&Envelope) -> &str| -> Vec<Cow<'_, str>> {
        batch.iter().map(|received| storable(read(&received.event))).collect()
    };
    let jobs: Vec<String> = batch.iter().map(|received| received.event.job().to_string()).collect();
    let types = each(|event| event.job_type().as_str());
    let statuses = each(|event| event.status().as_str());
    let bodies: Vec<&[u8]> = batch.iter().map(|received| &**received.event.body()).collect();
    let parameters: [(&(dyn ToSql + Sync), Type); 6] = [
        (&jobs, Type::TEXT_ARRAY),
        (&types, Type::TEXT_ARRAY),
        (&statuses, Type::TEXT_ARRAY),
        (&bodies, Type::BYTEA_ARRAY),
        (&fits.0, Type::BOOL_ARRAY),
        (&inner.payload, Type::TEXT),
    ];
    let statements = &inner.statements;
    let statement = if may_be_known { &statements.receive } else { &statements.receive_new };
    let query = postgres::query(&inner.database, statement, &parameters);
    let rows = timeout(BATCH_TIME, query).await.unwrap_or_else(|late| Err(StoreError::unavailable(late)));
    let stored: Result<Vec<Found>, StoreError> = rows.and_then(|rows| {
        let full = |fits: &bool| may_be_known && !fits;
        let mut found: Vec<Found> =
            fits.0.iter().map(|fits| if full(fits) { Found::Full } else { Found::Later }).collect();
        for row in &rows {
            let place = usize::try_from(column::<i64>(row, "place")? - 1).unwrap_or(usize::MAX);
            let receipt = match (column(row, "stored")?, column(row, "conflict")?) {
                (true, _) => Receipt::Stored,
                (false, Some(true)) => Receipt::Conflict,
                (false, Some(false)) => Receipt::Duplicate,
                (false, None) => continue,
            };
            if let Some(found) = found.get_mut(place) {
                *found = Found::Receipt(receipt);
            }
        }
        Ok(found)
    });
    fits.settle(inner, batch, stored.as_deref().unwrap_or_default());
    stored
}

/// For which events of a batch there is room, and it was taken.
struct Taken(Vec<bool>);

impl Taken {
    async fn of(inner: &Inner, batch: &[Received]) -> Self {
        if !inner.room.is_counted() {
            count(inner).await;
        }
        let take = || Self(batch.iter().map(|one| inner.room.take(one.event.body().len())).collect());
        let taken = take();
        // What seemed full a while ago may not be by now.
        if taken.0.contains(&false) && inner.room.is_count_due() {
            taken.settle(inner, batch, &[]);
            count(inner).await;
            return take();
        }
        taken
    }

    /// Gives the room back, or notes that it is used.
    fn settle(&self, inner: &Inner, batch: &[Received], found: &[Found]) {
        for (place, (received, _)) in batch.iter().zip(&self.0).enumerate().filter(|(_, (_, fits))| **fits) {
            let stored = matches!(found.get(place), Some(Found::Receipt(Receipt::Stored)));
            inner.room.settle(received.event.body().len(), stored);
        }
    }
}

/// Whether one more job may be expected.
pub(super) async fn has_room_to_expect(inner: &Inner) -> bool {
    if !inner.room.is_counted() {
        count(inner).await;
    }
    if !inner.room.has_room_to_expect() && inner.room.is_count_due() {
        count(inner).await;
    }
    inner.room.has_room_to_expect()
}

/// Counts what waits to be handled, and what is expected. When that fails, what was known stands.
async fn count(inner: &Inner) {
    let count = inner.room.begin_count();
    let most = i64::try_from(inner.room.limits().rows).unwrap_or(i64::MAX);
    let parameters: [(&(dyn ToSql + Sync), Type); 1] = [(&most, Type::INT8)];
    let query = postgres::query(&inner.database, &inner.statements.count, &parameters);
    let counted = match timeout(BATCH_TIME, query).await {
        Ok(rows) => rows.and_then(|rows| {
            let Some(row) = rows.first() else { return Ok([0; 4]) };
            let number = |name| column::<i64>(row, name);
            Ok([number("rows")?, number("bytes")?, number("expected")?, number("took")?])
        }),
        Err(late) => Err(StoreError::unavailable(late)),
    };
    match counted {
        Ok(counted) => {
            let [rows, bytes, expected, took] = counted.map(i64::unsigned_abs);
            inner.room.counted(&count, [rows, bytes, expected], Duration::from_micros(took));
        }
        Err(error) => debug!(error = %chain(&error), "what waits cannot be counted"),
    }
}

/// Whether a statement failed because of what one of its rows holds: data, constraints, limits of a row, and
/// triggers.
fn is_on_account_of_a_row(error: &(dyn Error + 'static)) -> bool {
    let code = error.downcast_ref::<tokio_postgres::Error>().and_then(tokio_postgres::Error::code);
    code.is_some_and(|code| ["22", "23", "44", "54", "P0"].iter().any(|class| code.code().starts_with(class)))
}
