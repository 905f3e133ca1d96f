//! A cursor that walks over JSON text member by member.
//!
//! serde_json checks and skips every value; the cursor itself reads only the punctuation of the objects
//! that an event consists of. To deserialize those objects through serde would refuse the whole event
//! for one value that is JSON but fits no Rust number or string (`1e999`, `"\ud800"`).

use std::borrow::Cow;

use memchr::{memchr, memchr2};
use serde::de::Error as _;
use serde_json::value::RawValue;

/// A position in a JSON text. Everything before it has been read.
#[derive(Debug)]
pub(crate) struct Cursor<'a> {
    rest: &'a str,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { rest: text }
    }

    /// The next byte that is not whitespace.
    pub(crate) fn peek(&mut self) -> Option<u8> {
        while let Some(&byte) = self.rest.as_bytes().first() {
            if !matches!(byte, b' ' | b'\n' | b'\t' | b'\r') {
                return Some(byte);
            }
            self.rest = &self.rest[1..];
        }
        None
    }

    /// Reads one value of any kind and returns its text.
    pub(crate) fn value(&mut self) -> Result<&'a str, serde_json::Error> {
        if self.peek() == Some(b'"')
            && let Some(string) = plain_string(self.rest)
        {
            self.rest = &self.rest[string.len()..];
            return Ok(string);
        }
        let mut values = serde_json::Deserializer::from_str(self.rest).into_iter::<&RawValue>();
        let value = values.next().unwrap_or_else(|| Err(serde_json::Error::custom("a value is missing")))?;
        self.rest = &self.rest[values.byte_offset()..];
        Ok(value.get())
    }

    /// Reads an object. Calls `member` with each key, its escapes resolved, while the cursor stands
    /// before the key's value, which `member` must read. Skips a member whose key no Rust string can
    /// hold (`"\ud800"`): it equals no key that an event has.
    pub(crate) fn members<E: From<serde_json::Error>>(
        &mut self,
        mut member: impl FnMut(&str, &mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        self.expect(b'{')?;
        if self.skip(b'}') {
            return Ok(());
        }
        loop {
            let key = self.key()?;
            self.expect(b':')?;
            match key {
                Some(key) => member(&key, self)?,
                None => {
                    self.value()?;
                }
            }
            if self.skip(b'}') {
                return Ok(());
            }
            self.expect(b',')?;
        }
    }

    /// The next key; `None` for one that no Rust string can hold.
    fn key(&mut self) -> Result<Option<Cow<'a, str>>, serde_json::Error> {
        if self.peek() != Some(b'"') {
            return Err(serde_json::Error::custom("a key is missing"));
        }
        if let Some(string) = plain_string(self.rest) {
            self.rest = &self.rest[string.len()..];
            return Ok(Some(Cow::Borrowed(&string[1..string.len() - 1])));
        }
        // `value` has checked the syntax, so the only possible error is half of a surrogate pair.
        Ok(unquote(self.value()?).ok())
    }

    /// Checks that only whitespace is left.
    pub(crate) fn end(&mut self) -> Result<(), serde_json::Error> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(serde_json::Error::custom("something follows the value")),
        }
    }

    fn skip(&mut self, punctuation: u8) -> bool {
        let found = self.peek() == Some(punctuation);
        if found {
            self.rest = &self.rest[1..];
        }
        found
    }

    fn expect(&mut self, punctuation: u8) -> Result<(), serde_json::Error> {
        if self.skip(punctuation) {
            return Ok(());
        }
        Err(serde_json::Error::custom(format_args!("`{}` is missing", char::from(punctuation))))
    }
}

/// The string at the beginning of the text, if it has no escapes: a short cut for nearly all keys and
/// strings. Every other text is left to serde_json.
fn plain_string(text: &str) -> Option<&str> {
    let content = &text.as_bytes()[1..];
    let end = memchr2(b'"', b'\\', content)?;
    let plain =
        content[end] == b'"' && !content[..end].iter().fold(false, |found, &byte| found | (byte < b' '));
    plain.then(|| &text[..end + 2])
}

/// The content of a JSON string, borrowed if it has no escapes.
pub(crate) fn unquote(json: &str) -> Result<Cow<'_, str>, serde_json::Error> {
    match json.strip_prefix('"').and_then(|json| json.strip_suffix('"')) {
        Some(content) if memchr(b'\\', content.as_bytes()).is_none() => Ok(Cow::Borrowed(content)),
        _ => serde_json::from_str(json).map(Cow::Owned),
    }
}
