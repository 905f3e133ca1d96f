//! Many receivers' events, stored by one statement.
//!
//! Events queue up while statements are under way; a task takes what has queued up, stores it, and ends when
//! the queue is empty. So a single event waits for nothing, and many share a commit. An event whose turn does not
//! come starts another task itself: no event depends on a statement that is stuck, or on a runtime that has ended.

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

use super::room::Room;
use super::{Inner, tell};
use crate::error::chain;
use crate::event::{Envelope, JobId};
use crate::inbox::Receipt;
use crate::postgres::{self, column};
use crate::store::StoreError;

/// How many statements of one handle are under way at once, at most. The fewer there are, the more events share
/// one; so another is sent only when so many events wait, or the last one was sent so long ago.
const SENDERS: usize = 4;
/// A statement that takes so long is stuck, as behind a row that somebody has locked: it is no reason to send no other.
const STUCK: Duration = Duration::from_secs(1);
const ENOUGH_EVENTS: usize = 64;
const LONG_AGO: Duration = Duration::from_millis(50);
/// What one statement stores at most; a body that is larger goes alone.
const BATCH_EVENTS: usize = 256;
const BATCH_BYTES: usize = 8 << 20;
/// How long a statement may take.
const BATCH_TIME: Duration = Duration::from_secs(30);

type Reply = oneshot::Sender<Result<Receipt, StoreError>>;

pub(super) struct Queue {
    state: Mutex<State>,
    /// How many statements are under way at once, at most, with those that are stuck.
    most_senders: usize,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<(Envelope, Reply)>,
    /// When each task last began to store something.
    senders: HashMap<u64, Instant>,
    /// How many tasks there have been.
    started: u64,
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
    number: u64,
}

impl Queue {
    /// For a pool of so many connections: what is stuck leaves some of them to other calls.
    pub(super) fn new(connections: usize) -> Self {
        Self { state: Mutex::default(), most_senders: SENDERS.max(connections / 4 * 3) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Queues an event up and waits for what becomes of it.
pub(super) async fn receive(inner: &Arc<Inner>, event: &Envelope) -> Result<Receipt, StoreError> {
    let mut tries_left = 2;
    loop {
        let (reply, mut receipt) = oneshot::channel();
        inner.queue.push(event.clone(), reply);
        let received = loop {
            start_sender(inner)?;
            if let Ok(received) = timeout(LONG_AGO, &mut receipt).await {
                break received;
            }
        };
        match received {
            Ok(receipt) => return receipt,
            // The task was of another runtime, which has ended under it.
            Err(_) if tries_left > 0 => tries_left -= 1,
            Err(ended) => return Err(StoreError::unavailable(ended)),
        }
    }
}

/// Starts a task, if what waits needs one.
fn start_sender(inner: &Arc<Inner>) -> Result<(), StoreError> {
    let runtime = Handle::try_current().map_err(StoreError::unavailable)?;
    let started = inner.queue.state().start_sender(inner.queue.most_senders);
    if let Some(number) = started {
        runtime.spawn(Sender { inner: inner.clone(), number }.run());
    }
    Ok(())
}

impl Queue {
    fn push(&self, event: Envelope, reply: Reply) {
        let mut state = self.state();
        // What nobody waits for any more takes no memory, even when all statements are stuck.
        while state.waiting.front().is_some_and(|(_, reply)| reply.is_closed()) {
            state.waiting.pop_front();
        }
        state.waiting.push_back((event, reply));
    }
}

impl Sender {
    async fn run(self) {
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
    fn next_batch(&self) -> Option<Vec<Received>> {
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
            // Under the same lock as the look at the queue: what comes next starts another task.
            state.senders.remove(&self.number);
            return None;
        }
        let now = Instant::now();
        state.last = Some(now);
        state.senders.insert(self.number, now);
        Some(batch)
    }
}

impl State {
    /// Notes another task, if what waits needs one, and returns its number.
    fn start_sender(&mut self, most: usize) -> Option<u64> {
        let now = Instant::now();
        if self.waiting.is_empty() || self.senders.len() >= most {
            return None;
        }
        let is_wanted = match self.senders.values().filter(|began| now - **began < STUCK).count() {
            0 => true,
            1..SENDERS => {
                self.waiting.len() >= ENOUGH_EVENTS || self.last.is_some_and(|last| now - last >= LONG_AGO)
            }
            _ => false,
        };
        if !is_wanted {
            return None;
        }
        self.started += 1;
        self.senders.insert(self.started, now);
        Some(self.started)
    }
}

impl Drop for Sender {
    /// Notes the end also when the runtime is shut down under the task. What waits starts another.
    fn drop(&mut self) {
        self.inner.queue.state().senders.remove(&self.number);
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
async fn store(inner: &Arc<Inner>, mut batch: Vec<Received>) {
    let mut may_be_known = false;
    while !batch.is_empty() {
        let sent = send(inner, &batch, may_be_known).await;
        may_be_known = true;
        let error = match sent {
            Ok(found) => {
                let mut later = Vec::new();
                let mut arrived = 0;
                for (received, found) in batch.into_iter().zip(found) {
                    match found {
                        Found::Receipt(receipt) => {
                            arrived += usize::from(receipt == Receipt::Stored);
                            received.tell(receipt);
                        }
                        Found::Full => received.refuse(|| StoreError::Full),
                        Found::Later => later.push(received),
                    }
                }
                tell::arrived(inner, arrived);
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
    let taken = Taken::of(inner, batch).await;
    let jobs: Vec<String> = batch.iter().map(|received| received.event.job().to_string()).collect();
    let bodies: Vec<&[u8]> = batch.iter().map(|received| &**received.event.body()).collect();
    let statements = &inner.statements;
    let statement = if may_be_known { &statements.receive } else { &statements.receive_new };
    let rows = loop {
        let texts = inner.texts();
        let each = |read: fn(&Envelope) -> &str| -> Vec<Cow<'_, str>> {
            batch.iter().map(|received| texts.storable(read(&received.event))).collect()
        };
        let types = each(|event| event.job_type().as_str());
        let statuses = each(|event| event.status().as_str());
        let parameters: [(&(dyn ToSql + Sync), Type); 5] = [
            (&jobs, Type::TEXT_ARRAY),
            (&types, Type::TEXT_ARRAY),
            (&statuses, Type::TEXT_ARRAY),
            (&bodies, Type::BYTEA_ARRAY),
            (&taken.fits, Type::BOOL_ARRAY),
        ];
        let query = postgres::query(&inner.database, statement, &parameters);
        match timeout(BATCH_TIME, query).await {
            Ok(Err(error)) if inner.must_escape(texts, &error) => {}
            Ok(rows) => break rows,
            Err(late) => break Err(StoreError::unavailable(late)),
        }
    };
    let stored: Result<Vec<Found>, StoreError> = rows.and_then(|rows| {
        let full = |fits: &bool| may_be_known && !fits;
        let mut found: Vec<Found> =
            taken.fits.iter().map(|fits| if full(fits) { Found::Full } else { Found::Later }).collect();
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
    taken.settle(stored.as_deref().unwrap_or_default());
    stored
}

/// Room that was taken for a batch: given back when this is dropped, as with the runtime under a statement.
struct Taken<'a> {
    room: &'a Room,
    lengths: Vec<usize>,
    /// For which events there is room.
    fits: Vec<bool>,
}

impl<'a> Taken<'a> {
    async fn of(inner: &'a Inner, batch: &[Received]) -> Self {
        if !inner.room.is_counted() {
            count(inner).await;
        }
        let taken = Self::take(&inner.room, batch);
        // What seemed full a while ago may not be by now.
        if taken.fits.contains(&false) && inner.room.is_count_due() {
            drop(taken);
            count(inner).await;
            return Self::take(&inner.room, batch);
        }
        taken
    }

    fn take(room: &'a Room, batch: &[Received]) -> Self {
        let lengths: Vec<usize> = batch.iter().map(|received| received.event.body().len()).collect();
        let fits = lengths.iter().map(|length| room.take(*length)).collect();
        Self { room, lengths, fits }
    }

    /// Notes what is used, and gives the rest back.
    fn settle(mut self, found: &[Found]) {
        self.release(found);
        self.fits.clear();
    }

    fn release(&self, found: &[Found]) {
        let taken = self.lengths.iter().zip(&self.fits).enumerate().filter(|(_, (_, fits))| **fits);
        for (place, (length, _)) in taken {
            let stored = matches!(found.get(place), Some(Found::Receipt(Receipt::Stored)));
            self.room.settle(*length, stored);
        }
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.release(&[]);
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
