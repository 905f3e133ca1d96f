//! Events that wait to be stored, and those of one statement.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::queue::{self, Caller, Queue, Queued};
use super::{Inner, batch, capacity};
use crate::event::{Envelope, JobId};
use crate::inbox::Receipt;
use crate::store::StoreError;

/// The most events and bytes of one statement; a larger body goes alone.
const BATCH_EVENTS: usize = 256;
const BATCH_BYTES: usize = 1 << 20;
/// From this size on, a body lets another statement begin: one connection compresses one body after another.
const LARGE: usize = 16 << 10;

/// An event that waits.
pub(super) struct Arrived {
    event: Envelope,
    caller: Caller<Receipt>,
}

/// An event and the callers that received it.
pub(super) struct Received {
    pub(super) event: Envelope,
    callers: Vec<Caller<Receipt>>,
}

/// Queues an event, and waits for its receipt.
pub(super) async fn receive(inner: &Arc<Inner>, event: &Envelope) -> Result<Receipt, StoreError> {
    let receive = || queue::call(inner, |caller| Arrived { event: event.clone(), caller });
    capacity::refuse_by_a_new_count(inner, receive).await
}

impl Queued for Arrived {
    type Batch = Vec<Received>;

    fn queue(inner: &Inner) -> &Queue<Self> {
        &inner.arrived
    }

    fn is_abandoned(&self) -> bool {
        self.caller.is_closed()
    }

    fn is_large(&self) -> bool {
        self.event.body().len() >= LARGE
    }

    /// Duplicates of one event become one. Another event of a job in the batch waits for the next batch: its receipt
    /// depends on that of the first.
    fn next_batch(waiting: &mut VecDeque<Self>) -> Option<Vec<Received>> {
        let mut batch: Vec<Received> = Vec::new();
        let mut places: HashMap<JobId, usize> = HashMap::new();
        let (mut later, mut bytes) = (Vec::new(), 0);
        while batch.len() < BATCH_EVENTS
            && let Some(arrived) = waiting.pop_front()
        {
            if arrived.is_abandoned() {
                continue;
            }
            match places.entry(arrived.event.job().clone()) {
                Entry::Occupied(place) => match batch.get_mut(*place.get()) {
                    Some(first) if first.is_duplicated_by(&arrived.event) => {
                        first.callers.push(arrived.caller);
                    }
                    _ => later.push(arrived),
                },
                Entry::Vacant(_) if bytes > 0 && bytes + arrived.event.body().len() > BATCH_BYTES => {
                    later.push(arrived);
                    break;
                }
                Entry::Vacant(place) => {
                    place.insert(batch.len());
                    bytes += arrived.event.body().len();
                    batch.push(Received { event: arrived.event, callers: vec![arrived.caller] });
                }
            }
        }
        for arrived in later.into_iter().rev() {
            waiting.push_front(arrived);
        }
        (!batch.is_empty()).then_some(batch)
    }

    async fn send(inner: &Arc<Inner>, batch: Vec<Received>) {
        batch::store(inner, batch).await;
        capacity::count_if_due(inner);
    }
}

impl Received {
    fn is_duplicated_by(&self, event: &Envelope) -> bool {
        self.event.body() == event.body()
    }

    /// Whether a caller still waits.
    pub(super) fn is_awaited(&self) -> bool {
        !self.callers.iter().all(Caller::is_closed)
    }

    /// Answers every caller. All but the first brought a duplicate.
    pub(super) fn answer(self, receipt: Receipt) {
        let of_duplicate = if receipt == Receipt::Stored { Receipt::Duplicate } else { receipt };
        for (number, caller) in self.callers.into_iter().enumerate() {
            // A caller that has left needs no answer.
            let _ = caller.send(Ok(if number == 0 { receipt } else { of_duplicate }));
        }
    }

    /// Answers every caller with an error.
    pub(super) fn refuse(self, error: impl Fn() -> StoreError) {
        for caller in self.callers {
            let _ = caller.send(Err(error()));
        }
    }
}
