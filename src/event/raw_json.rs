//! A JSON value that is parsed on demand.

use std::fmt;

use bytes::Bytes;
use bytestring::ByteString;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use serde_json::error::Category;
use serde_json::value::RawValue;

use super::cursor::{Cursor, Malformed};

/// One JSON value, kept as the received text and parsed on demand.
///
/// It is a slice of the webhook's body: to make or clone one copies nothing, and each one keeps the
/// whole body in memory. The text is always one valid JSON value. Two are equal if their JSON values
/// are equal, regardless of whitespace and the order of keys.
///
/// `Debug` shows the kind and the size of the value only, because the value is the user's document.
/// [`as_str`](Self::as_str) and `Display` show the text.
///
/// # Examples
///
/// ```
/// use qomplement_webhooks::event::RawJson;
///
/// let fields: RawJson = r#"{"invoice_number": "INV-7", "total": "1500.50"}"#.parse()?;
/// assert_eq!(fields.get::<String>("invoice_number")?.as_deref(), Some("INV-7"));
/// assert_eq!(fields.get::<String>("vendor")?, None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct RawJson(ByteString);

/// The error of a [`RawJson`] that does not parse into a type: names the type, the problem, and its line and column in
/// the parsed value.
///
/// Shows nothing of the value, which is the user's document. serde's own error would quote the value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the JSON does not parse as {into}: {problem} at line {line}, column {column}")]
pub struct RawJsonError {
    into: &'static str,
    problem: &'static str,
    line: usize,
    column: usize,
}

impl RawJsonError {
    fn of<T>(error: serde_json::Error) -> Self {
        let problem = match error.classify() {
            Category::Data => "the value has another shape",
            _ => "the type cannot hold the number, the text or the nesting",
        };
        Self { into: std::any::type_name::<T>(), problem, line: error.line(), column: error.column() }
    }
}

/// Parses text that has been checked to be one JSON value.
fn parse<T: DeserializeOwned>(text: &str) -> Result<T, RawJsonError> {
    serde_json::from_str(text).map_err(RawJsonError::of::<T>)
}

impl RawJson {
    /// Wraps text that has been checked to be one JSON value.
    pub(super) fn from_checked(text: ByteString) -> Self {
        Self(text)
    }

    /// The JSON text, exactly as received.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The JSON text as bytes, exactly as received.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// Whether the value is `null`.
    #[must_use]
    pub fn is_null(&self) -> bool {
        self.as_str() == "null"
    }

    /// Parses the value into any type.
    ///
    /// # Errors
    ///
    /// Returns an error if the value does not have the shape of `T`.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, RawJsonError> {
        parse(self.as_str())
    }

    /// Parses one member of the object, without building its other members.
    ///
    /// Returns `None` if the value is not an object or has no such member. The last value of a
    /// repeated key counts.
    ///
    /// # Errors
    ///
    /// Returns an error if the member does not have the shape of `T`. If the member may be `null`,
    /// `T` must be an `Option`.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, RawJsonError> {
        let mut cursor = Cursor::new(self.as_str());
        let mut found = None;
        if cursor.peek() == Some(b'{') {
            let members = cursor.members(|name, cursor| {
                let value = cursor.value()?;
                if name == key.as_bytes() {
                    found = Some(value);
                }
                Ok(())
            });
            members.map_err(|_: Malformed| RawJsonError::of::<T>(cursor.error()))?;
        }
        found.map(|json| parse(json.of(self.as_str()))).transpose()
    }

    /// Parses the value into a tree.
    ///
    /// # Errors
    ///
    /// Returns an error if the tree cannot hold the value, although it is valid JSON: a number beyond
    /// `f64`, more than 128 levels of nesting, or an escaped surrogate without its other half.
    pub fn to_value(&self) -> Result<Value, RawJsonError> {
        self.parse()
    }
}

/// Whether two JSON texts hold the same value.
pub(super) fn same_json(left: &[u8], right: &[u8]) -> bool {
    if left == right {
        return true;
    }
    let value = |text| serde_json::from_slice::<Value>(text).ok();
    match (value(left), value(right)) {
        (Some(left), Some(right)) => left == right,
        _ => false,
    }
}

impl std::str::FromStr for RawJson {
    type Err = serde_json::Error;

    fn from_str(text: &str) -> Result<Self, serde_json::Error> {
        let value: &RawValue = serde_json::from_str(text)?;
        Ok(Self(value.get().into()))
    }
}

impl TryFrom<Bytes> for RawJson {
    type Error = serde_json::Error;

    /// Wraps the bytes without copying them.
    ///
    /// # Errors
    ///
    /// Returns an error if the bytes are not one JSON value in UTF-8.
    fn try_from(bytes: Bytes) -> Result<Self, serde_json::Error> {
        let value: &RawValue = serde_json::from_slice(&bytes)?;
        let slice = bytes.slice_ref(value.get().as_bytes());
        ByteString::try_from(slice).map(Self).map_err(serde::de::Error::custom)
    }
}

impl PartialEq for RawJson {
    fn eq(&self, other: &Self) -> bool {
        same_json(self.as_bytes(), other.as_bytes())
    }
}

impl fmt::Debug for RawJson {
    /// Leaves out the value, which is the user's document.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.as_bytes().first() {
            Some(b'{') => "object",
            Some(b'[') => "array",
            Some(b'"') => "string",
            Some(b't' | b'f') => "boolean",
            Some(b'n') => "null",
            _ => "number",
        };
        write!(f, "RawJson({kind}, {} bytes)", self.as_bytes().len())
    }
}

impl fmt::Display for RawJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for RawJson {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let value: &RawValue = serde_json::from_str(self.as_str()).map_err(serde::ser::Error::custom)?;
        value.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for RawJson {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Box::<RawValue>::deserialize(deserializer)?;
        Ok(Self(String::from(Box::<str>::from(value)).into()))
    }
}
