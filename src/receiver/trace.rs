//! Reads the trace that a request belongs to.

use http::{HeaderMap, HeaderName};

use crate::event::TraceParent;

static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The one valid `traceparent` among the headers. An invalid one is no reason to refuse a webhook, and is not logged:
/// anybody may have sent it. Of two, neither is known to be the sender's.
///
/// `tracestate` is not read: its up to 512 characters are for the systems that continue a trace, and a link names a span
/// by its ids alone.
pub(super) fn traceparent(headers: &HeaderMap) -> Option<TraceParent> {
    let mut values = headers.get_all(&TRACEPARENT).iter();
    match (values.next()?, values.next()) {
        (value, None) => value.to_str().ok()?.parse().ok(),
        (_, Some(_)) => None,
    }
}
