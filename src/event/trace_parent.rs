//! The position of a delivery in its distributed trace.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The `traceparent` of a delivery ([W3C Trace Context](https://www.w3.org/TR/trace-context/)): the trace that the request
/// belongs to, and the span that sent it. Cheap to clone.
///
/// It is 55 characters of version `00`: a trace id of 32 and a span id of 16 lower-case hexadecimal digits, neither of them
/// all zeros, and two digits of flags. The header of a later version is rewritten to that, as the standard demands:
/// the two ids and the flag *sampled* are kept, anything else is dropped.
///
/// # Examples
///
/// ```
/// use qomplement_webhooks::event::TraceParent;
///
/// let sent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
/// let parent: TraceParent = sent.parse()?;
/// assert_eq!(parent.as_str(), sent);
/// assert_eq!(parent.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
/// assert_eq!((parent.span_id(), parent.flags()), ("00f067aa0ba902b7", 1));
/// assert_eq!("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-09-new".parse(), Ok(parent));
/// assert!("00-00000000000000000000000000000000-00f067aa0ba902b7-01".parse::<TraceParent>().is_err());
/// # Ok::<(), qomplement_webhooks::event::InvalidTraceParent>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TraceParent(Arc<str>);

/// The error of a text that is not a [`TraceParent`]. It does not show the text, which anybody may have sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a traceparent is 00-<32 hexadecimal digits>-<16 hexadecimal digits>-<2 hexadecimal digits>")]
#[non_exhaustive]
pub struct InvalidTraceParent;

impl TraceParent {
    /// The length of version `00`, and of the part that is read of later versions.
    const LEN: usize = 55;
    /// The length of the longest text of a later version that is read.
    const MOST: usize = 256;

    /// The text of version `00`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id of the trace, 32 hexadecimal digits.
    #[must_use]
    pub fn trace_id(&self) -> &str {
        &self.0[3..35]
    }

    /// The id of the span that sent the request, 16 hexadecimal digits.
    #[must_use]
    pub fn span_id(&self) -> &str {
        &self.0[36..52]
    }

    /// The flags. The lowest bit says that the trace is sampled.
    #[must_use]
    pub fn flags(&self) -> u8 {
        // Always two hexadecimal digits.
        u8::from_str_radix(&self.0[53..], 16).unwrap_or_default()
    }
}

impl FromStr for TraceParent {
    type Err = InvalidTraceParent;

    fn from_str(text: &str) -> Result<Self, InvalidTraceParent> {
        let (known, rest) = text.split_at_checked(Self::LEN).ok_or(InvalidTraceParent)?;
        let mut parts = known.split('-');
        let mut part = |length| {
            parts.next().filter(|part| part.len() == length && is_lower_hex(part)).ok_or(InvalidTraceParent)
        };
        let (version, trace, span, flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
        let is_known_version = match version {
            "00" => rest.is_empty(),
            "ff" => false,
            _ => (rest.is_empty() || rest.starts_with('-')) && text.len() <= Self::MOST,
        };
        if !is_known_version || is_zero(trace) || is_zero(span) {
            return Err(InvalidTraceParent);
        }
        if version == "00" {
            return Ok(Self(known.into()));
        }
        let is_sampled = u8::from_str_radix(flags, 16).is_ok_and(|flags| flags & 1 == 1);
        Ok(Self(format!("00-{trace}-{span}-0{}", u8::from(is_sampled)).into()))
    }
}

fn is_lower_hex(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_zero(digits: &str) -> bool {
    digits.bytes().all(|digit| digit == b'0')
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TraceParent({self})")
    }
}
