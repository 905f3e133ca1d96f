//! The id of a job, which is the dedup key.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;
use uuid::fmt::Hyphenated;

/// The opaque id of a job: 1 to 255 visible ASCII characters, compared exactly.
///
/// Two spellings of one UUID are two ids, because the sender does not say that they mean the same job.
/// A UUID in the usual spelling (lower case, hyphens), which every documented id is, takes 16 bytes;
/// any other text is kept as it is.
///
/// # Examples
///
/// ```
/// use qomplement_webhooks::JobId;
///
/// let id: JobId = "550e8400-e29b-41d4-a716-446655440000".parse()?;
/// assert_eq!(&*id.as_str(), "550e8400-e29b-41d4-a716-446655440000");
/// assert!("".parse::<JobId>().is_err());
/// # Ok::<(), qomplement_webhooks::event::InvalidJobId>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(Repr);

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Repr {
    /// A UUID whose canonical spelling is the id.
    Uuid([u8; 16]),
    Text(Box<str>),
}

impl Hash for Repr {
    /// As one number: hashers take a number in fewer steps than its bytes, and a request hashes its job four times.
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Self::Uuid(bytes) => u128::from_ne_bytes(*bytes).hash(state),
            Self::Text(text) => text.hash(state),
        }
    }
}

/// The error of a text that is not a job id: it is empty, longer than 255 characters, or contains
/// anything but visible ASCII.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a job id is 1 to {} visible ASCII characters", JobId::MAX_LEN)]
#[non_exhaustive]
pub struct InvalidJobId;

impl JobId {
    /// The length of the longest id, in characters.
    pub const MAX_LEN: usize = 255;

    fn parse(text: &str) -> Result<Self, InvalidJobId> {
        if text.is_empty() || text.len() > Self::MAX_LEN {
            return Err(InvalidJobId);
        }
        if let Some(uuid) = canonical_uuid(text) {
            return Ok(Self(Repr::Uuid(uuid.into_bytes())));
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(InvalidJobId);
        }
        Ok(Self(Repr::Text(text.into())))
    }

    /// The id's text, without an allocation. Write `&*id.as_str()` for a `&str`, or `&id.as_str()`
    /// where a `&str` is expected.
    ///
    /// The return value is not a `&str` itself because a UUID's 16 bytes do not contain its text.
    #[must_use]
    pub fn as_str(&self) -> JobIdStr<'_> {
        JobIdStr(match &self.0 {
            Repr::Uuid(bytes) => {
                let mut text = [0; Hyphenated::LENGTH];
                Uuid::from_bytes(*bytes).hyphenated().encode_lower(&mut text);
                StrRepr::Uuid(text)
            }
            Repr::Text(text) => StrRepr::Text(text),
        })
    }
}

/// The text of a [`JobId`], from [`JobId::as_str`]: a `&str` that may stand on the stack.
#[derive(Clone, Copy)]
pub struct JobIdStr<'a>(StrRepr<'a>);

#[derive(Clone, Copy)]
enum StrRepr<'a> {
    Uuid([u8; Hyphenated::LENGTH]),
    Text(&'a str),
}

impl Deref for JobIdStr<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match &self.0 {
            // Always UTF-8: hexadecimal digits and hyphens.
            StrRepr::Uuid(text) => std::str::from_utf8(text).unwrap_or_default(),
            StrRepr::Text(text) => text,
        }
    }
}

impl AsRef<str> for JobIdStr<'_> {
    fn as_ref(&self) -> &str {
        self
    }
}

impl fmt::Display for JobIdStr<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self)
    }
}

impl fmt::Debug for JobIdStr<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

/// Parses a UUID in the one spelling that its 16 bytes reproduce unchanged.
fn canonical_uuid(text: &str) -> Option<Uuid> {
    // Without an early end, so that the compiler checks many bytes at once.
    let has_capitals = text.bytes().fold(false, |found, byte| found | byte.is_ascii_uppercase());
    let canonical = text.len() == Hyphenated::LENGTH && !has_capitals;
    // `try_parse` also accepts braces and URNs, but neither has this length.
    if canonical { Uuid::try_parse(text).ok() } else { None }
}

impl FromStr for JobId {
    type Err = InvalidJobId;

    fn from_str(text: &str) -> Result<Self, InvalidJobId> {
        Self::parse(text)
    }
}

impl TryFrom<&str> for JobId {
    type Error = InvalidJobId;

    fn try_from(text: &str) -> Result<Self, InvalidJobId> {
        Self::parse(text)
    }
}

impl TryFrom<String> for JobId {
    type Error = InvalidJobId;

    fn try_from(text: String) -> Result<Self, InvalidJobId> {
        Self::parse(&text)
    }
}

impl PartialEq<str> for JobId {
    fn eq(&self, other: &str) -> bool {
        *self.as_str() == *other
    }
}

impl PartialEq<&str> for JobId {
    fn eq(&self, other: &&str) -> bool {
        self == *other
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            // Not by `as_str`, whose text is checked for UTF-8 once more: a subscriber writes the id of every request.
            Repr::Uuid(bytes) => {
                f.pad(Uuid::from_bytes(*bytes).hyphenated().encode_lower(&mut [0; Hyphenated::LENGTH]))
            }
            Repr::Text(text) => f.pad(text),
        }
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JobId({})", self.as_str())
    }
}

impl Serialize for JobId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.as_str())
    }
}

impl<'de> Deserialize<'de> for JobId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}
