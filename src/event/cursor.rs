//! Walks over JSON text member by member.
//!
//! serde_json checks and skips every value; what is here is only the punctuation of the objects
//! that an event is read from. Deserializing those objects through serde instead would give up on
//! values that are JSON but that no Rust number or string can hold (`1e999`, `"\ud800"`), and with
//! them on the whole event.

use std::borrow::Cow;

use memchr::{memchr, memchr2};
use serde::de::Error as _;
use serde_json::value::RawValue;

/// A place in a JSON text; what lies before it has been read.
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

    /// Reads an object: calls `member` with each key, its escapes resolved, and the cursor in front
    /// of the key's value, which `member` must read. A key that no Rust string can hold (`"\ud800"`)
    /// equals no key of ours: its member is skipped.
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
        // Its syntax has been checked: what can be wrong with it is half of a surrogate pair.
        Ok(unquote(self.value()?).ok())
    }

    /// Checks that nothing but whitespace is left.
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

/// The string that the text begins with, if nothing in it is escaped: a short cut for what nearly all keys
/// and strings are. Whatever else it is, serde_json decides.
fn plain_string(text: &str) -> Option<&str> {
    let content = &text.as_bytes()[1..];
    let end = memchr2(b'"', b'\\', content)?;
    let plain =
        content[end] == b'"' && !content[..end].iter().fold(false, |found, &byte| found | (byte < b' '));
    plain.then(|| &text[..end + 2])
}

/// The content of a JSON string, borrowed when nothing in it is escaped.
pub(crate) fn unquote(json: &str) -> Result<Cow<'_, str>, serde_json::Error> {
    match json.strip_prefix('"').and_then(|json| json.strip_suffix('"')) {
        Some(content) if memchr(b'\\', content.as_bytes()).is_none() => Ok(Cow::Borrowed(content)),
        _ => serde_json::from_str(json).map(Cow::Owned),
    }
}
