//! A cursor that walks over JSON text member by member.
//!
//! Checks the syntax exactly as serde_json does when it skips a value, and builds nothing. To deserialize an event
//! through serde would refuse the whole event for one value that is JSON but fits no Rust number or string (`1e999`,
//! `"\ud800"`), and to skip each value with a parser of its own is slower.
//!
//! Most strings are short and have no escapes. Their scan is inlined wherever a string is read; everything rarer is a
//! call.

use std::borrow::Cow;

use serde::de::{Error as _, IgnoredAny};
use serde_json::value::RawValue;

/// The levels of arrays and objects that are skipped by recursion. serde_json, which needs no stack, skips the deeper
/// ones.
const LEVELS: u32 = 64;

/// The place of one JSON value in its text. The syntax of the value has been checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Json {
    start: usize,
    end: usize,
    /// Whether the value is a string without escapes.
    is_plain_string: bool,
}

impl Json {
    /// The value in the text that the cursor walked over.
    pub(crate) fn of(self, text: &str) -> &str {
        &text[self.start..self.end]
    }

    /// The content of a string, its escapes resolved; `None` for any other value, and for a string that no Rust string
    /// can hold because it has half of a surrogate pair.
    #[inline]
    pub(crate) fn string(self, text: &str) -> Option<Cow<'_, str>> {
        if self.is_plain_string {
            Some(Cow::Borrowed(&text[self.start + 1..self.end - 1]))
        } else {
            unescaped(self.of(text)).map(Cow::Owned)
        }
    }
}

#[cold]
fn unescaped(json: &str) -> Option<String> {
    // The error about a value of another kind would be allocated.
    if json.starts_with('"') { serde_json::from_str(json).ok() } else { None }
}

/// The text is not JSON. [`Cursor::error`] says where.
#[derive(Debug)]
pub(crate) struct Malformed;

/// A position in a JSON text. Everything before it has been read.
#[derive(Debug)]
pub(crate) struct Cursor<'a> {
    text: &'a str,
    /// The bytes that have not been read.
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, rest: text.as_bytes() }
    }

    /// The next byte that is not whitespace.
    pub(crate) fn peek(&mut self) -> Option<u8> {
        while let [b' ' | b'\n' | b'\t' | b'\r', rest @ ..] = self.rest {
            self.rest = rest;
        }
        self.rest.first().copied()
    }

    /// Reads one value of any kind.
    #[inline(always)]
    pub(crate) fn value(&mut self) -> Result<Json, Malformed> {
        let first = self.take();
        let start = self.at().wrapping_sub(1);
        let is_plain_string = match first {
            b'"' => self.skip_string()?,
            first => {
                self.skip_other(first, LEVELS)?;
                false
            }
        };
        Ok(Json { start, end: self.at(), is_plain_string })
    }

    /// Reads one value that nobody wants.
    #[inline(never)]
    pub(crate) fn skip_value(&mut self) -> Result<(), Malformed> {
        self.value().map(drop)
    }

    /// Reads an object. Calls `member` with each key, its escapes resolved, while the cursor stands before the key's
    /// value, which `member` must read.
    #[inline]
    pub(crate) fn members<E: From<Malformed>>(
        &mut self,
        mut member: impl FnMut(&[u8], &mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        /// Stands for a key that no Rust string can hold (`"\ud800"`): equals none, because it is not UTF-8.
        const NO_STRING: &[u8] = b"\xff";

        self.expect(b'{')?;
        if self.peek() == Some(b'}') {
            return self.expect(b'}').map_err(E::from);
        }
        loop {
            self.expect(b'"')?;
            let text = self.rest;
            let is_plain = self.skip_string()?;
            let mut key = &text[..text.len() - self.rest.len() - 1];
            self.expect(b':')?;
            let unescaped_key;
            if !is_plain {
                unescaped_key =
                    std::str::from_utf8(key).ok().and_then(|key| unescaped(&format!("\"{key}\"")));
                key = unescaped_key.as_deref().map_or(NO_STRING, str::as_bytes);
            }
            member(key, self)?;
            match self.take() {
                b',' => {}
                b'}' => return Ok(()),
                _ => return Err(Malformed.into()),
            }
        }
    }

    /// Checks that only whitespace is left.
    pub(crate) fn end(&mut self) -> Result<(), Malformed> {
        if self.peek().is_none() { Ok(()) } else { Err(Malformed) }
    }

    /// serde_json's error for a malformed text, with its place.
    #[cold]
    pub(crate) fn error(&self) -> serde_json::Error {
        let found = serde_json::from_str::<IgnoredAny>(self.text);
        found.err().unwrap_or_else(|| serde_json::Error::custom("the value is not an object"))
    }

    #[inline(always)]
    fn at(&self) -> usize {
        self.text.len() - self.rest.len()
    }

    /// Passes over the next byte that is not whitespace, and returns it; zero at the end, and no JSON goes on with that.
    #[inline(always)]
    fn take(&mut self) -> u8 {
        match self.rest {
            [byte, rest @ ..] if *byte > b' ' => {
                self.rest = rest;
                *byte
            }
            _ => self.take_after_whitespace(),
        }
    }

    #[inline(never)]
    fn take_after_whitespace(&mut self) -> u8 {
        let byte = self.peek().unwrap_or_default();
        if let [_, rest @ ..] = self.rest {
            self.rest = rest;
        }
        byte
    }

    #[inline(always)]
    fn expect(&mut self, punctuation: u8) -> Result<(), Malformed> {
        if self.take() == punctuation { Ok(()) } else { Err(Malformed) }
    }

    /// Skips the string whose first quote has been taken, and returns whether the string has no escapes.
    #[inline(always)]
    fn skip_string(&mut self) -> Result<bool, Malformed> {
        while let Some((eight, rest)) = self.rest.split_first_chunk() {
            let eight = u64::from_le_bytes(*eight);
            let special = special_bytes(eight);
            if special == 0 {
                self.rest = rest;
                continue;
            }
            let plain = special.trailing_zeros() / 8;
            if (eight >> (plain * 8)) as u8 != b'"' {
                break;
            }
            self.rest = &self.rest[plain as usize + 1..];
            return Ok(true);
        }
        self.skip_rest_of_string()
    }

    /// Skips the rest of a string that has escapes, or ends within the last eight bytes.
    #[inline(never)]
    fn skip_rest_of_string(&mut self) -> Result<bool, Malformed> {
        let mut is_plain = true;
        loop {
            let plain = plain_bytes(self.rest);
            match &self.rest[plain..] {
                [b'"', rest @ ..] => {
                    self.rest = rest;
                    return Ok(is_plain);
                }
                [b'\\', b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', rest @ ..] => {
                    self.rest = rest;
                }
                [b'\\', b'u', digits @ ..] => {
                    let (digits, rest) = digits.split_first_chunk::<4>().ok_or(Malformed)?;
                    if !digits.iter().all(u8::is_ascii_hexdigit) {
                        return Err(Malformed);
                    }
                    self.rest = rest;
                }
                _ => return Err(Malformed),
            }
            is_plain = false;
        }
    }

    /// Skips the rest of a value that is not a string and begins with this byte.
    #[inline(never)]
    fn skip_other(&mut self, first: u8, levels: u32) -> Result<(), Malformed> {
        match first {
            b'-' | b'0'..=b'9' => self.skip_number(first),
            b'{' | b'[' if levels == 0 => self.skip_deep(),
            b'{' => self.skip_nested::<b'{'>(levels - 1),
            b'[' => self.skip_nested::<b'['>(levels - 1),
            b't' => self.skip_word(b"rue"),
            b'f' => self.skip_word(b"alse"),
            b'n' => self.skip_word(b"ull"),
            _ => Err(Malformed),
        }
    }

    /// Skips the rest of an object or an array.
    fn skip_nested<const OPEN: u8>(&mut self, levels: u32) -> Result<(), Malformed> {
        let close = if OPEN == b'{' { b'}' } else { b']' };
        if self.peek() == Some(close) {
            return self.expect(close);
        }
        loop {
            if OPEN == b'{' {
                self.expect(b'"')?;
                self.skip_string()?;
                self.expect(b':')?;
            }
            match self.take() {
                b'"' => drop(self.skip_string()?),
                first => self.skip_other(first, levels)?,
            }
            match self.take() {
                b',' => {}
                byte if byte == close => return Ok(()),
                _ => return Err(Malformed),
            }
        }
    }

    /// Skips the rest of an object or an array whose first byte has been taken.
    #[cold]
    fn skip_deep(&mut self) -> Result<(), Malformed> {
        let start = self.at() - 1;
        let mut values = serde_json::Deserializer::from_str(&self.text[start..]).into_iter::<&RawValue>();
        match values.next() {
            Some(Ok(_)) => self.rest = &self.text.as_bytes()[start + values.byte_offset()..],
            _ => return Err(Malformed),
        }
        Ok(())
    }

    #[inline]
    fn skip_number(&mut self, first: u8) -> Result<(), Malformed> {
        let mut rest = self.rest;
        let first = match (first, rest) {
            (b'-', [first @ b'0'..=b'9', after @ ..]) => {
                rest = after;
                *first
            }
            (b'-', _) => return Err(Malformed),
            (first, _) => first,
        };
        // A digit after the zero is left over, and no value goes on with it.
        if first != b'0' {
            rest = after_digits(rest);
        }
        if let [b'.', b'0'..=b'9', fraction @ ..] = rest {
            rest = after_digits(fraction);
        } else if let [b'.', ..] = rest {
            return Err(Malformed);
        }
        if let [b'e' | b'E', exponent @ ..] = rest {
            rest = match exponent {
                [b'+' | b'-', b'0'..=b'9', digits @ ..] | [b'0'..=b'9', digits @ ..] => after_digits(digits),
                _ => return Err(Malformed),
            };
        }
        self.rest = rest;
        Ok(())
    }

    fn skip_word(&mut self, rest: &[u8]) -> Result<(), Malformed> {
        self.rest = self.rest.strip_prefix(rest).ok_or(Malformed)?;
        Ok(())
    }
}

/// The bytes after all digits.
#[inline]
fn after_digits(text: &[u8]) -> &[u8] {
    let mut rest = text;
    while let [b'0'..=b'9', after @ ..] = rest {
        rest = after;
    }
    rest
}

/// The high bits of the bytes that are a quote, a backslash or a control character; zero if no byte is. Further bits
/// may be set, but only above the first.
#[inline(always)]
fn special_bytes(eight: u64) -> u64 {
    const ONES: u64 = u64::from_ne_bytes([0x01; 8]);
    const HIGHS: u64 = u64::from_ne_bytes([0x80; 8]);
    // The exclusive or makes a space of a quote, keeps control characters below the space, and moves nothing else there:
    // it exchanges the space itself with the quote. So both are found by one subtraction, whose borrows go upwards.
    let quote_or_control = (eight ^ (ONES * 2)).wrapping_sub(ONES * 0x21);
    let backslash = (eight ^ (ONES * u64::from(b'\\'))).wrapping_sub(ONES);
    (quote_or_control | backslash) & !eight & HIGHS
}

/// The number of bytes before the first that is a quote, a backslash or a control character.
fn plain_bytes(text: &[u8]) -> usize {
    let mut rest = text;
    while let Some((eight, after)) = rest.split_first_chunk() {
        let special = special_bytes(u64::from_le_bytes(*eight));
        if special != 0 {
            return text.len() - rest.len() + special.trailing_zeros() as usize / 8;
        }
        rest = after;
    }
    let special = |byte: &u8| matches!(byte, b'"' | b'\\' | ..b' ');
    text.len() - rest.len() + rest.iter().position(special).unwrap_or(rest.len())
}
