//! The plainest reader of JSON: a tree with every member, also repeated ones, and every value that no Rust type holds.

use serde_json::Value;

/// A value and its text.
#[derive(Debug)]
pub struct Node<'a> {
    pub text: &'a str,
    pub tree: Tree<'a>,
}

#[derive(Debug)]
pub enum Tree<'a> {
    Null,
    Bool(bool),
    Number,
    /// `None` for a string with half of a surrogate pair.
    String(Option<String>),
    Array(Vec<Node<'a>>),
    /// The members in their order. The name is `None` as for a string.
    Object(Vec<(Option<String>, Node<'a>)>),
}

/// Reads a text that is one JSON value.
pub fn read(text: &str) -> Option<Node<'_>> {
    let mut reader = Reader { text, at: 0 };
    let node = reader.value()?;
    reader.blank();
    (reader.at == text.len()).then_some(node)
}

/// Reads bytes that are one JSON value in UTF-8.
pub fn read_bytes(bytes: &[u8]) -> Option<Node<'_>> {
    read(std::str::from_utf8(bytes).ok()?)
}

impl<'a> Node<'a> {
    pub fn members(&self) -> Option<&[(Option<String>, Node<'a>)]> {
        match &self.tree {
            Tree::Object(members) => Some(members),
            _ => None,
        }
    }

    /// All values of one key, in their order.
    pub fn all(&self, key: &str) -> Vec<&Node<'a>> {
        let members = self.members().unwrap_or_default().iter();
        members.filter(|(name, _)| name.as_deref() == Some(key)).map(|(_, value)| value).collect()
    }

    pub fn first(&self, key: &str) -> Option<&Node<'a>> {
        self.all(key).first().copied()
    }

    pub fn last(&self, key: &str) -> Option<&Node<'a>> {
        self.all(key).last().copied()
    }

    pub fn string(&self) -> Option<&str> {
        match &self.tree {
            Tree::String(content) => content.as_deref(),
            _ => None,
        }
    }

    /// Compares with serde_json's tree of the same text. Numbers are compared by kind only: serde_json rounds some floats
    /// in another way.
    pub fn is(&self, value: &Value) -> bool {
        match (&self.tree, value) {
            (Tree::Null, Value::Null) | (Tree::Number, Value::Number(_)) => true,
            (Tree::Bool(one), Value::Bool(other)) => one == other,
            (Tree::String(Some(one)), Value::String(other)) => one == other,
            (Tree::Array(items), Value::Array(values)) => {
                items.len() == values.len() && items.iter().zip(values).all(|(item, value)| item.is(value))
            }
            (Tree::Object(members), Value::Object(map)) => {
                // serde_json keeps the last value of a repeated key.
                let last = |name: &Option<String>| name.as_deref().and_then(|name| self.last(name));
                let is_there =
                    |(name, value): (&String, &Value)| self.last(name).is_some_and(|member| member.is(value));
                members.iter().all(|(name, _)| last(name).is_some())
                    && map.iter().all(is_there)
                    && members
                        .iter()
                        .all(|(name, _)| name.as_ref().is_some_and(|name| map.contains_key(name)))
            }
            _ => false,
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn next(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn eat(&mut self, byte: u8) -> Option<()> {
        if self.next() != Some(byte) {
            return None;
        }
        self.at += 1;
        Some(())
    }

    fn blank(&mut self) {
        while matches!(self.next(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn word(&mut self, word: &str) -> Option<()> {
        word.bytes().try_for_each(|byte| self.eat(byte))
    }

    fn value(&mut self) -> Option<Node<'a>> {
        self.blank();
        let start = self.at;
        let tree = match self.next()? {
            b'n' => self.word("null").map(|()| Tree::Null),
            b't' => self.word("true").map(|()| Tree::Bool(true)),
            b'f' => self.word("false").map(|()| Tree::Bool(false)),
            b'"' => self.string().map(Tree::String),
            b'[' => self.list(b'[', b']', Self::value).map(Tree::Array),
            b'{' => self.list(b'{', b'}', Self::member).map(Tree::Object),
            _ => self.number().map(|()| Tree::Number),
        }?;
        Some(Node { text: &self.text[start..self.at], tree })
    }

    fn list<T>(&mut self, open: u8, close: u8, item: impl Fn(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        self.eat(open)?;
        let mut items = Vec::new();
        self.blank();
        if self.eat(close).is_some() {
            return Some(items);
        }
        loop {
            items.push(item(self)?);
            self.blank();
            if self.eat(b',').is_none() {
                return self.eat(close).map(|()| items);
            }
        }
    }

    fn member(&mut self) -> Option<(Option<String>, Node<'a>)> {
        self.blank();
        let name = self.string()?;
        self.blank();
        self.eat(b':')?;
        Some((name, self.value()?))
    }

    /// As a sequence of UTF-16 units, of which escapes write one each.
    fn string(&mut self) -> Option<Option<String>> {
        self.eat(b'"')?;
        let mut units = Vec::new();
        loop {
            let char = self.text[self.at..].chars().next()?;
            self.at += char.len_utf8();
            match char {
                '"' => return Some(String::from_utf16(&units).ok()),
                '\\' => units.push(self.escape()?),
                '\0'..' ' => return None,
                char => units.extend_from_slice(char.encode_utf16(&mut [0; 2])),
            }
        }
    }

    fn escape(&mut self) -> Option<u16> {
        let kind = self.next()?;
        self.at += 1;
        Some(match kind {
            b'"' | b'\\' | b'/' => kind.into(),
            b'b' => 0x08,
            b'f' => 0x0c,
            b'n' => 0x0a,
            b'r' => 0x0d,
            b't' => 0x09,
            b'u' => {
                let mut unit = 0;
                for _ in 0..4 {
                    let digit = char::from(self.next()?).to_digit(16)?;
                    self.at += 1;
                    unit = unit << 4 | u16::try_from(digit).ok()?;
                }
                unit
            }
            _ => return None,
        })
    }

    fn digits(&mut self) -> Option<()> {
        let start = self.at;
        while self.next().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        (self.at > start).then_some(())
    }

    fn number(&mut self) -> Option<()> {
        let _ = self.eat(b'-');
        let integer = self.at;
        self.digits()?;
        if self.text[integer..self.at].len() > 1 && self.text[integer..].starts_with('0') {
            return None;
        }
        if self.eat(b'.').is_some() {
            self.digits()?;
        }
        if self.eat(b'e').or_else(|| self.eat(b'E')).is_some() {
            let _ = self.eat(b'+').or_else(|| self.eat(b'-'));
            self.digits()?;
        }
        Some(())
    }
}
