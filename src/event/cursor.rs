//! A cursor that walks over JSON text member by member.
//!
//! Checks the syntax exactly as serde_json does when it skips a value, and builds nothing. To deserialize an event
//! through serde would refuse the whole event for one value that is JSON but fits no Rust number or string (`1e999`,
//! `"\ud800"`), and to skip each value with a parser of its own is slower.

use std::borrow::Cow;

use serde::de::{Error as _, IgnoredAny};
use serde_json::value::RawValue;

/// The levels of arrays and objects that are skipped by recursion. serde_json, which needs no stack, skips the deeper
/// ones.
const LEVELS: u32 = 64;

/// The text of one JSON value, whose syntax has been checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Json<'a> {
    text: &'a str,
    /// Whether the value is a string without escapes.
    is_plain_string: bool,
}

impl<'a> Json<'a> {
    pub(crate) fn as_str(self) -> &'a str {
        self.text
    }

    /// The content of a string, its escapes resolved; `None` for any other value, and for a string that no Rust string
    /// can hold because it has half of a surrogate pair.
    pub(crate) fn string(self) -> Option<Cow<'a, str>> {
        if self.is_plain_string {
            Some(Cow::Borrowed(&self.text[1..self.text.len() - 1]))
        } else if self.text.starts_with('"') {
            serde_json::from_str(self.text).ok().map(Cow::Owned)
        } else {
            None
        }
    }
}

/// A position in a JSON text. Everything before it has been read.
#[derive(Debug)]
pub(crate) struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// The next byte that is not whitespace.
    pub(crate) fn peek(&mut self) -> Option<u8> {
        loop {
            let byte = *self.text.as_bytes().get(self.at)?;
            if !matches!(byte, b' ' | b'\n' | b'\t' | b'\r') {
                return Some(byte);
            }
            self.at += 1;
        }
    }

    /// Reads one value of any kind.
    pub(crate) fn value(&mut self) -> Result<Json<'a>, serde_json::Error> {
        let first = self.peek();
        let began = self.at;
        let is_plain_string = if first == Some(b'"') {
            self.skip_string()?
        } else {
            self.skip_value(first, LEVELS)?;
            false
        };
        Ok(Json { text: &self.text[began..self.at], is_plain_string })
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
            match key.string() {
                Some(key) => member(&key, self)?,
                None => self.value().map(drop)?,
            }
            if self.skip(b'}') {
                return Ok(());
            }
            self.expect(b',')?;
        }
    }

    /// Checks that only whitespace is left.
    pub(crate) fn end(&mut self) -> Result<(), serde_json::Error> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.error()),
        }
    }

    /// Reads the next key and its colon.
    fn key(&mut self) -> Result<Json<'a>, serde_json::Error> {
        if self.peek() != Some(b'"') {
            return Err(self.error());
        }
        let began = self.at;
        let is_plain_string = self.skip_string()?;
        let text = &self.text[began..self.at];
        self.expect(b':')?;
        Ok(Json { text, is_plain_string })
    }

    /// Skips the value that begins at the cursor, with this byte.
    fn skip_value(&mut self, first: Option<u8>, levels: u32) -> Result<(), serde_json::Error> {
        match first {
            Some(b'"') => self.skip_string().map(drop),
            Some(b'-' | b'0'..=b'9') => self.skip_number(),
            Some(b'{' | b'[') if levels == 0 => self.skip_deep(),
            Some(b'{') => self.skip_object(levels - 1),
            Some(b'[') => self.skip_array(levels - 1),
            Some(b't') => self.skip_word("true"),
            Some(b'f') => self.skip_word("false"),
            Some(b'n') => self.skip_word("null"),
            _ => Err(self.error()),
        }
    }

    fn skip_object(&mut self, levels: u32) -> Result<(), serde_json::Error> {
        self.at += 1;
        if self.skip(b'}') {
            return Ok(());
        }
        loop {
            if self.peek() != Some(b'"') {
                return Err(self.error());
            }
            self.skip_string()?;
            self.expect(b':')?;
            let first = self.peek();
            self.skip_value(first, levels)?;
            if self.skip(b'}') {
                return Ok(());
            }
            self.expect(b',')?;
        }
    }

    fn skip_array(&mut self, levels: u32) -> Result<(), serde_json::Error> {
        self.at += 1;
        if self.skip(b']') {
            return Ok(());
        }
        loop {
            let first = self.peek();
            self.skip_value(first, levels)?;
            if self.skip(b']') {
                return Ok(());
            }
            self.expect(b',')?;
        }
    }

    #[cold]
    fn skip_deep(&mut self) -> Result<(), serde_json::Error> {
        let mut values = serde_json::Deserializer::from_str(&self.text[self.at..]).into_iter::<&RawValue>();
        match values.next() {
            Some(Ok(_)) => self.at += values.byte_offset(),
            _ => return Err(self.error()),
        }
        Ok(())
    }

    /// Skips a string, and returns whether it has no escapes.
    #[inline]
    fn skip_string(&mut self) -> Result<bool, serde_json::Error> {
        let text = self.text.as_bytes();
        let (mut at, mut is_plain) = (self.at + 1, true);
        loop {
            at += plain_bytes(&text[at..]);
            match text.get(at) {
                Some(b'"') => {
                    self.at = at + 1;
                    return Ok(is_plain);
                }
                Some(b'\\') => is_plain = false,
                _ => return Err(self.error()),
            }
            at += match text.get(at + 1..) {
                Some([b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', ..]) => 2,
                Some([b'u', digits @ ..])
                    if digits.len() >= 4 && digits[..4].iter().all(u8::is_ascii_hexdigit) =>
                {
                    6
                }
                _ => return Err(self.error()),
            };
        }
    }

    fn skip_number(&mut self) -> Result<(), serde_json::Error> {
        let text = self.text.as_bytes();
        let integer = self.at + usize::from(text[self.at] == b'-');
        let mut at = self.after_digits(integer)?;
        if text[integer] == b'0' && at > integer + 1 {
            return Err(self.error());
        }
        if text.get(at) == Some(&b'.') {
            at = self.after_digits(at + 1)?;
        }
        if matches!(text.get(at), Some(b'e' | b'E')) {
            let has_sign = matches!(text.get(at + 1), Some(b'+' | b'-'));
            at = self.after_digits(at + 1 + usize::from(has_sign))?;
        }
        self.at = at;
        Ok(())
    }

    /// The place after one or more digits.
    fn after_digits(&self, from: usize) -> Result<usize, serde_json::Error> {
        let digits = self.text.as_bytes()[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits > 0 { Ok(from + digits) } else { Err(self.error()) }
    }

    fn skip_word(&mut self, word: &str) -> Result<(), serde_json::Error> {
        if !self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            return Err(self.error());
        }
        self.at += word.len();
        Ok(())
    }

    fn skip(&mut self, punctuation: u8) -> bool {
        let found = self.peek() == Some(punctuation);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, punctuation: u8) -> Result<(), serde_json::Error> {
        if self.skip(punctuation) { Ok(()) } else { Err(self.error()) }
    }

    /// serde_json's error for the text, with its place.
    #[cold]
    fn error(&self) -> serde_json::Error {
        let found = serde_json::from_str::<IgnoredAny>(self.text);
        found.err().unwrap_or_else(|| serde_json::Error::custom("the value is not an object"))
    }
}

/// The number of bytes before the first that is a quote, a backslash or a control character.
fn plain_bytes(text: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([0x01; 8]);
    const HIGHS: u64 = u64::from_ne_bytes([0x80; 8]);
    let mut plain = 0;
    while let Some(eight) = text[plain..].first_chunk() {
        let eight = u64::from_le_bytes(*eight);
        // The high bit of a byte is set if the byte is zero, or less than a space. A carry may set further bits, but
        // only above the first.
        let zero = |bytes: u64| bytes.wrapping_sub(ONES) & !bytes;
        let quote = zero(eight ^ (ONES * u64::from(b'"')));
        let backslash = zero(eight ^ (ONES * u64::from(b'\\')));
        let control = eight.wrapping_sub(ONES * u64::from(b' ')) & !eight;
        let found = (quote | backslash | control) & HIGHS;
        if found != 0 {
            return plain + found.trailing_zeros() as usize / 8;
        }
        plain += 8;
    }
    let special = |byte: &u8| matches!(byte, b'"' | b'\\' | ..b' ');
    text[plain..].iter().position(special).map_or(text.len(), |at| plain + at)
}
