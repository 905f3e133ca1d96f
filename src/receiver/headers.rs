//! The headers that the receiver reads beside those of the authentication.

use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::reply::WebhookReply;
use crate::event::TraceParent;

static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Checks the headers that describe the body, and returns the trace that the request belongs to.
pub(super) fn read(headers: &HeaderMap, max_body_bytes: usize) -> Result<Option<TraceParent>, WebhookReply> {
    let (mut is_json, mut is_encoded, mut length) = (true, false, None);
    let (mut traceparent, mut traceparents) = (None, 0);
    // A request has few headers: to pass over all of them costs less than to look four up.
    for (name, value) in headers {
        match *name {
            CONTENT_TYPE => is_json &= names_json(value.as_bytes()),
            CONTENT_ENCODING => {
                is_encoded |= !value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity");
            }
            CONTENT_LENGTH => length = length.or(Some(value.as_bytes())),
            _ if name == TRACEPARENT => {
                traceparent = Some(value);
                traceparents += 1;
            }
            _ => {}
        }
    }
    if !is_json {
        return Err(WebhookReply::UnsupportedMediaType);
    }
    if is_encoded {
        return Err(WebhookReply::UnsupportedEncoding);
    }
    // An unreadable length is the server's to refuse; the bytes are counted anyway.
    let declared = length.and_then(|length| std::str::from_utf8(length).ok()?.parse::<u64>().ok());
    if !usize::try_from(declared.unwrap_or(0)).is_ok_and(|declared| declared <= max_body_bytes) {
        return Err(WebhookReply::BodyTooLarge);
    }
    // Of two, neither is known to be the sender's.
    Ok(traceparent.filter(|_| traceparents == 1).and_then(parsed))
}

/// An invalid `traceparent` is no reason to refuse a webhook, and is not logged: anybody may have sent it.
///
/// `tracestate` is not read: its up to 512 characters are for the systems that continue a trace, and a link names a span
/// by its ids alone.
fn parsed(traceparent: &HeaderValue) -> Option<TraceParent> {
    traceparent.to_str().ok()?.parse().ok()
}

/// Whether the client sends its body only after `100 Continue`.
pub(super) fn waits_for_continue(headers: &HeaderMap) -> bool {
    headers.get_all(EXPECT).iter().any(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Whether a content type is `application/json` or `application/*+json`, with any parameters.
fn names_json(content_type: &[u8]) -> bool {
    if content_type == b"application/json" {
        return true;
    }
    let essence = content_type.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
    let Some((kind, subtype)) = essence.split_at_checked("application/".len()) else { return false };
    let suffix = subtype.len().checked_sub("+json".len()).map(|at| &subtype[at..]);
    kind.eq_ignore_ascii_case(b"application/")
        && (subtype.eq_ignore_ascii_case(b"json")
            || subtype.len() > "+json".len()
                && suffix.is_some_and(|suffix| suffix.eq_ignore_ascii_case(b"+json")))
}
