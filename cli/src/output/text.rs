//! Escapes the characters that a terminal obeys or hides, the same as on the inbox page.

use qomplement_webhooks::page::is_hidden;

/// A text in one line, escaped.
pub(crate) fn clean(text: &str) -> String {
    escape(text, |_| false)
}

/// A text of several lines, escaped.
pub(crate) fn printable(text: &str) -> String {
    escape(text, |char| char == '\n')
}

/// The first `most` characters of a text, in one line, escaped.
pub(crate) fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", clean(&text[..end])),
        None => clean(text),
    }
}

fn escape(text: &str, is_kept: impl Fn(char) -> bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        if is_hidden(char) && !is_kept(char) {
            escaped.extend(char.escape_default());
        } else {
            escaped.push(char);
        }
    }
    escaped
}

/// Escapes a JSON text without changing its meaning. Each line end becomes `line_end`, and other white space a space:
/// JSON strings hold neither.
pub(super) fn json(text: &str, line_end: char) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '\n' => escaped.push(line_end),
            '\r' | '\t' => escaped.push(' '),
            char if is_hidden(char) => {
                for unit in char.encode_utf16(&mut [0; 2]) {
                    escaped += &format!("\\u{unit:04x}");
                }
            }
            char => escaped.push(char),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::{clean, cut, json, printable};

    #[test]
    fn what_a_terminal_obeys_or_hides_is_escaped() {
        assert_eq!(clean("a\u{1b}[31m\r\n\u{9b}2Jé"), "a\\u{1b}[31m\\r\\n\\u{9b}2Jé");
        assert_eq!(printable("a\n\u{202e}b\u{2028}"), "a\n\\u{202e}b\\u{2028}");
        assert_eq!(clean("\u{7f}\u{61c}\u{200b}\u{feff}").len(), 29);
        assert_eq!(clean("日本語 العربية ❤\u{fe0f} –"), "日本語 العربية ❤\u{fe0f} –");
        assert_eq!((cut("abcd", 3).as_str(), cut("ab\u{7f}", 3).as_str()), ("abc…", "ab\\u{7f}"));
    }

    #[test]
    fn json_stays_the_same_json() {
        let text = "{\"a\u{202e}\u{e0041}\u{9b}\":\r\t[\n1]}";
        let escaped = json(text, ' ');
        assert_eq!(escaped, "{\"a\\u202e\\udb40\\udc41\\u009b\":  [ 1]}");
        let [one, other] =
            [text, &escaped].map(|text| serde_json::from_str::<serde_json::Value>(text).unwrap());
        assert_eq!(one, other);
    }
}
