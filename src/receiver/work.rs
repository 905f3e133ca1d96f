//! The work that a parsed body leads to.

use std::sync::Arc;

use bytes::Bytes;

use super::claims::ClaimHandle;
use super::durable::Durable;
use super::inline::Inline;
use crate::event::{Envelope, Event, JobId, ParseError, TraceParent};

/// The meaning of an acknowledgement.
#[derive(Debug)]
pub(super) enum Mode {
    /// The handler has finished.
    Inline(Arc<Inline>),
    /// The event is committed.
    Durable(Arc<Durable>),
}

/// The work for one body.
#[expect(clippy::large_enum_variant, reason = "a box for the event would cost each webhook an allocation")]
pub(super) enum Work {
    Handle(Arc<Inline>, Event),
    Store(Arc<Durable>, Envelope),
}

impl Mode {
    /// Parses a body, as far as the mode needs it.
    pub(super) fn parse(&self, body: Bytes) -> Result<Work, ParseError> {
        Ok(match self {
            Self::Inline(inline) => Work::Handle(inline.clone(), Event::try_from(body)?),
            Self::Durable(durable) => Work::Store(durable.clone(), Envelope::try_from(body)?),
        })
    }
}

impl Work {
    pub(super) fn job(&self) -> &JobId {
        match self {
            Self::Handle(_, event) => event.job.id(),
            Self::Store(_, event) => event.job(),
        }
    }

    /// Sets the `traceparent` of the request.
    pub(super) fn set_traceparent(&mut self, traceparent: Option<TraceParent>) {
        match self {
            Self::Handle(_, event) => event.job.traceparent = traceparent,
            Self::Store(_, event) => event.traceparent = traceparent,
        }
    }

    /// The event's name; `None` in durable mode, which parses the envelope only.
    pub(super) fn event_name(&self) -> Option<&'static str> {
        match self {
            Self::Handle(_, event) => Some(event.content.name()),
            Self::Store(..) => None,
        }
    }

    /// Prepares the claim on the job; `None` in durable mode, which makes none.
    pub(super) fn claim(&self) -> Option<ClaimHandle> {
        match self {
            Self::Handle(inline, event) => Some(inline.claims.prepare(event.job.id())),
            Self::Store(..) => None,
        }
    }
}
