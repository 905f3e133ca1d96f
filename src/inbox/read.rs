//! Checks of stored rows that this crate may not have written, for every database.

use std::error::Error;

use super::InboxState;
use crate::error::chain;
use crate::event::{InvalidJobId, JobId, TraceParent};

pub(super) const NO_BODY: &str = "its event has no body";
#[cfg(feature = "sqlite")]
pub(super) const NO_EVENT: &str = "it has no event";

pub(super) fn job(text: &str) -> Result<JobId, InvalidJobId> {
    text.parse()
}

/// The trace of a delivery. An unreadable one is no reason to give up an event.
pub(super) fn traceparent(text: Option<impl AsRef<str>>) -> Option<TraceParent> {
    text?.as_ref().parse().ok()
}

/// A fencing token that a lease can have.
pub(super) fn fence(number: i64) -> Result<u64, &'static str> {
    match u64::try_from(number) {
        Ok(number @ 1..) if number < i64::MAX.unsigned_abs() => Ok(number),
        _ => Err("its fencing token is not between 1 and 2^63 - 2"),
    }
}

/// The error of a row that is set aside.
pub(super) fn reason(error: &(dyn Error + 'static)) -> String {
    format!("this row cannot be read: {}", chain(error))
}

/// The state with this name, and the row's error. A row in an unknown state never changes again, so it is shown as dead.
pub(super) fn state(name: &str, error: Option<String>) -> (InboxState, Option<String>) {
    match InboxState::ALL.into_iter().find(|state| state.as_str() == name) {
        Some(state) => (state, error),
        None => (InboxState::Dead, Some(reason(&*Box::<dyn Error>::from(format!("its state is {name:?}"))))),
    }
}
