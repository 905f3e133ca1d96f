//! Changes values in a JSON text, and keeps all other bytes: numbers, escapes, white space, the order of members.

use std::ops::Range;

use serde_json::Value;

use crate::output::cut;

/// Sets the value at the end of the keys. Adds missing members. In an array, a key is an index; the index after the last
/// item, or `-`, adds an item.
pub(super) fn set(json: &str, keys: &[String], value: &str) -> Result<String, String> {
    let mut place = Scanner { text: json.as_bytes(), at: 0 }.value();
    for (depth, key) in keys.iter().enumerate() {
        let rest = &keys[depth + 1..];
        let mut scanner = Scanner { text: json.as_bytes(), at: place.start };
        place = match scanner.peek() {
            Some(b'{') => {
                let members = scanner.members();
                let is_named = |member: &&Member| text_of(&json[member.key.clone()]).as_ref() == Some(key);
                // Of two members with one name, most parsers take the last.
                match members.iter().rev().find(is_named) {
                    Some(member) => member.value.clone(),
                    None => {
                        let last = members.last().map(|member| member.value.end);
                        let new = format!("{}:{}", quoted(key), nested(rest, value));
                        return Ok(with_item(json, place.start, last, &new));
                    }
                }
            }
            Some(b'[') => {
                let items = scanner.items();
                let index = if key == "-" { Some(items.len()) } else { key.parse().ok() };
                match index.filter(|index| *index <= items.len()) {
                    Some(index) if index < items.len() => items[index].clone(),
                    Some(_) => {
                        let last = items.last().map(|item| item.end);
                        return Ok(with_item(json, place.start, last, &nested(rest, value)));
                    }
                    None => {
                        let array = match items.len() {
                            0 => "an empty array".to_owned(),
                            count => format!("an array with the items 0 to {}", count - 1),
                        };
                        return Err(format!("{} is {array} and has no item {key}", path(&keys[..depth])));
                    }
                }
            }
            Some(b'n') => return Ok(replaced(json, &[place], &nested(&keys[depth..], value))),
            _ => {
                return Err(format!(
                    "{} is {}, which has no member {key}; set {0} itself",
                    path(&keys[..depth]),
                    cut(&json[place], 40)
                ));
            }
        };
    }
    Ok(replaced(json, &[place], value))
}

/// The places of an id: a whole string, or a part of a path. Strings are compared by meaning, whatever their escapes.
pub(super) fn places_of(json: &str, id: &str) -> Vec<Range<usize>> {
    let mut scanner = Scanner { text: json.as_bytes(), at: 0 };
    let mut places = Vec::new();
    while let Some(byte) = scanner.peek() {
        if byte != b'"' {
            scanner.at += 1;
            continue;
        }
        let string = scanner.string();
        if scanner.peek() == Some(b':') {
            // A member's name.
            continue;
        }
        let content = string.start + 1..string.end - 1;
        let is_id = |part: &Range<usize>| {
            let part = &json[part.clone()];
            if part.contains('\\') {
                text_of(&format!("\"{part}\"")).as_deref() == Some(id)
            } else {
                part == id
            }
        };
        if is_id(&content) {
            places.push(content);
        } else {
            places.extend(parts(json, content).into_iter().filter(is_id));
        }
    }
    places
}

/// Replaces places of a text, given in order.
pub(super) fn replaced(text: &str, places: &[Range<usize>], new: &str) -> String {
    let (mut changed, mut rest) = (String::with_capacity(text.len()), 0);
    for place in places {
        changed += &text[rest..place.start];
        changed += new;
        rest = place.end;
    }
    changed + &text[rest..]
}

/// A text as a JSON string.
pub(super) fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// The meaning of a JSON string; `None` for a lone surrogate, which a Rust string cannot hold.
fn text_of(string: &str) -> Option<String> {
    serde_json::from_str(string).ok()
}

/// A value within the objects of the missing keys.
fn nested(keys: &[String], value: &str) -> String {
    keys.iter().rev().fold(value.to_owned(), |value, key| format!("{{{}:{value}}}", quoted(key)))
}

/// Adds an item at the end of an object or array.
fn with_item(json: &str, start: usize, last: Option<usize>, new: &str) -> String {
    match last {
        Some(last) => format!("{},{new}{}", &json[..last], &json[last..]),
        None => format!("{}{new}{}", &json[..=start], &json[start + 1..]),
    }
}

fn path(keys: &[String]) -> String {
    if keys.is_empty() { "the body".to_owned() } else { keys.join(".") }
}

/// The parts of a string between slashes. A slash can be escaped.
fn parts(json: &str, string: Range<usize>) -> Vec<Range<usize>> {
    let (mut parts, mut start, mut at) = (Vec::new(), string.start, string.start);
    while at < string.end {
        let rest = &json[at..string.end];
        let slash = ["/", "\\/", "\\u002f", "\\u002F"].into_iter().find(|slash| rest.starts_with(slash));
        if let Some(slash) = slash {
            parts.push(start..at);
            at += slash.len();
            start = at;
        } else {
            // A slash after a backslash belongs to the escape.
            let escaped = usize::from(rest.starts_with('\\'));
            at += rest.chars().take(1 + escaped).map(char::len_utf8).sum::<usize>();
        }
    }
    parts.push(start..string.end);
    parts
}

/// A cursor in a text that is valid JSON.
struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
}

struct Member {
    key: Range<usize>,
    value: Range<usize>,
}

impl Scanner<'_> {
    /// The next byte that is not white space.
    fn peek(&mut self) -> Option<u8> {
        while let Some(byte) = self.text.get(self.at) {
            if !byte.is_ascii_whitespace() {
                return Some(*byte);
            }
            self.at += 1;
        }
        None
    }

    /// Reads a string with its quotes.
    fn string(&mut self) -> Range<usize> {
        let start = self.at;
        self.at += 1;
        while let Some(byte) = self.text.get(self.at) {
            self.at += match byte {
                b'\\' => 2,
                _ => 1,
            };
            if *byte == b'"' {
                break;
            }
        }
        start..self.at
    }

    /// Reads a value.
    fn value(&mut self) -> Range<usize> {
        let first = self.peek();
        let start = self.at;
        match first {
            Some(b'"') => return self.string(),
            Some(b'{' | b'[') => {}
            _ => {
                let is_more = |byte: &u8| !byte.is_ascii_whitespace() && !b",]}".contains(byte);
                while self.text.get(self.at).is_some_and(is_more) {
                    self.at += 1;
                }
                return start..self.at;
            }
        }
        let mut depth = 0_usize;
        while let Some(byte) = self.peek() {
            match byte {
                b'"' => {
                    self.string();
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth = depth.saturating_sub(1),
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                break;
            }
        }
        start..self.at
    }

    /// Reads the members of an object.
    fn members(&mut self) -> Vec<Member> {
        let mut members = Vec::new();
        self.at += 1;
        while self.peek() == Some(b'"') {
            let key = self.string();
            // The colon.
            self.peek();
            self.at += 1;
            members.push(Member { key, value: self.value() });
            if self.peek() == Some(b',') {
                self.at += 1;
            }
        }
        members
    }

    /// Reads the items of an array.
    fn items(&mut self) -> Vec<Range<usize>> {
        let mut items = Vec::new();
        self.at += 1;
        while self.peek().is_some_and(|byte| byte != b']') {
            items.push(self.value());
            if self.peek() == Some(b',') {
                self.at += 1;
            }
        }
        items
    }
}

#[cfg(test)]
mod tests {
    use super::{places_of, replaced, set};

    fn keys(path: &str) -> Vec<String> {
        path.split('.').map(str::to_owned).collect()
    }

    #[test]
    fn only_the_bytes_of_the_set_value_change() {
        let json = r#" { "z" : 1.0 , "a":{"n": 12345678901234567890.10,"a\u0062":"\/x\u00e9", "l":[1e400,{ "k":null} ]},
            "d":1,"d": 2, "empty":[ ], "e": { } , "\ud83d":"\ud83d", "s":"}\"]" }
        "#;
        for (path, value, old, new) in [
            ("z", "2.50", "\"z\" : 1.0 ,", "\"z\" : 2.50 ,"),
            ("a.n", "0", "12345678901234567890.10", "0"),
            ("a.ab", "{}", r#""\/x\u00e9""#, "{}"),
            ("a.l.0", "[]", "1e400", "[]"),
            ("a.l.1.k", "7", "\"k\":null", "\"k\":7"),
            ("a.l.1.k.x.y", "7", "\"k\":null", r#""k":{"x":{"y":7}}"#),
            ("a.l.2", "3", "null} ]", "null},3 ]"),
            ("a.l.-", "3", "null} ]", "null},3 ]"),
            ("d", "9", "\"d\": 2", "\"d\": 9"),
            ("e.x\"", "true", "\"e\": { }", r#""e": {"x\"":true }"#),
            ("s", "\"\"", r#""}\"]""#, r#""""#),
            ("new.one", "1e999", r#""}\"]" }"#, r#""}\"]","new":{"one":1e999} }"#),
        ] {
            assert_eq!(json.matches(old).count(), 1, "{old}");
            assert_eq!(set(json, &keys(path), value).unwrap(), json.replace(old, new), "{path}");
        }
        for (path, expected) in [
            ("a.l.3", "a.l is an array with the items 0 to 1 and has no item 3"),
            ("a.l.x", "a.l is an array with the items 0 to 1 and has no item x"),
            ("empty.5", "empty is an empty array and has no item 5"),
            ("z.x", "z is 1.0, which has no member x; set z itself"),
        ] {
            assert_eq!(set(json, &keys(path), "1").unwrap_err(), expected);
        }
        assert_eq!(set("[]", &keys("0.a"), "1").unwrap(), "[{\"a\":1}]");
        assert_eq!(set(" null ", &keys("a"), "1").unwrap(), " {\"a\":1} ");
    }

    #[test]
    fn an_id_is_found_by_its_meaning() {
        let json = r#"{"abc":"abc","job_id":"\u0061bc","u":"\/v1\u002fjobs/a\u0062c\/download","no":"abcd","n":["xabc","abc "],
            "e":"\\/abc","s":"\ud83d/abc","q":"\"abc","b":"a/bc","d":"\\abc","f":"\\\/abc"}"#;
        let expected = r#"{"abc":"ID","job_id":"ID","u":"\/v1\u002fjobs/ID\/download","no":"abcd","n":["xabc","abc "],
            "e":"\\/ID","s":"\ud83d/ID","q":"\"abc","b":"a/bc","d":"\\abc","f":"\\\/ID"}"#;
        assert_eq!(replaced(json, &places_of(json, "abc"), "ID"), expected);
        let json = r#"["a/b","a\/b","a\u002fb/c"]"#;
        assert_eq!(replaced(json, &places_of(json, "a/b"), "ID"), r#"["ID","ID","a\u002fb/c"]"#);
        let json = r#"["a\nb","a\\nb"]"#;
        assert_eq!(replaced(json, &places_of(json, r"a\nb"), "ID"), r#"["a\nb","ID"]"#);
    }
}
