//! The work that a parsed body leads to.

use std::sync::Arc;

use bytes::Bytes;

use super::detach::PendingReply;
use super::durable::Durable;
use super::inline::Inline;
use super::reply::WebhookReply;
use crate::event::{Envelope, JobId, ParseError, WebhookEvent};

/// The meaning of an acknowledgement.
#[derive(Debug)]
pub(super) enum Mode {
    /// The handler has finished.
    Inline(Arc<Inline>),
    /// The event is committed.
    Durable(Arc<Durable>),
}

/// The work for one body.
pub(super) enum Work {
    Handle(Arc<Inline>, Box<WebhookEvent>),
    Store(Arc<Durable>, Envelope),
}

impl Mode {
    /// Parses a body, as far as the mode needs it.
    pub(super) fn parse(&self, body: Bytes) -> Result<Work, ParseError> {
        Ok(match self {
            Self::Inline(inline) => Work::Handle(inline.clone(), Box::new(WebhookEvent::try_from(body)?)),
            Self::Durable(durable) => Work::Store(durable.clone(), Envelope::try_from(body)?),
        })
    }
}

impl Work {
    pub(super) fn job(&self) -> &JobId {
        match self {
            Self::Handle(_, event) => event.job().id(),
            Self::Store(_, event) => event.job(),
        }
    }

    /// The event's name; `None` in durable mode, which parses the envelope only.
    pub(super) fn event_name(&self) -> Option<&'static str> {
        match self {
            Self::Handle(_, event) => Some(event.name()),
            Self::Store(..) => None,
        }
    }

    pub(super) async fn run(self, pending: &PendingReply) -> WebhookReply {
        match self {
            Self::Handle(inline, event) => inline.handle(event, pending).await,
            Self::Store(durable, event) => durable.store(&event, pending).await,
        }
    }
}
