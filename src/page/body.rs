//! The body of an event, for people: indented, and as a command.

use std::borrow::Cow;

/// The largest body in a command: a terminal takes no longer line.
const MOST_IN_COMMAND: usize = 32 << 10;
/// The deepest level that is indented: without a limit, the text grows with the square of the depth.
const LEVELS: usize = 32;
/// The deepest level of JSON that goes into other JSON: parsers refuse more, some from 128 on.
const PORTABLE_LEVELS: usize = 100;
/// The most characters of a body on the page. The download has all.
pub(super) const MOST_SHOWN: usize = 100_000;
/// The text after this many bytes is not indented: even with four bytes for each character, nobody sees it.
const MOST_INDENTED: usize = 4 * MOST_SHOWN;

/// The text of a body, if it is JSON.
fn json(body: &[u8]) -> Option<&str> {
    serde_json::from_slice::<serde::de::IgnoredAny>(body).ok()?;
    std::str::from_utf8(body).ok()
}

/// The text of a body, if it is JSON that does not keep parsers from reading the JSON around it.
pub(super) fn portable_json(body: &[u8]) -> Option<&str> {
    let json = json(body)?;
    let mut depth = 0_usize;
    let mut tokens = Tokens(json);
    let is_portable = tokens.all(|token| match token.as_bytes() {
        [b'{' | b'[', ..] => {
            depth += 1;
            depth <= PORTABLE_LEVELS
        }
        [b'}' | b']', ..] => {
            depth = depth.saturating_sub(1);
            true
        }
        // An escape may be half of a character.
        [b'"', ..] => serde_json::from_str::<Cow<'_, str>>(token).is_ok(),
        _ => true,
    });
    is_portable.then_some(json)
}

/// The body indented as far as it is shown, with its members in their order and its numbers as they are; if it is not
/// JSON, as it is.
pub(super) fn indented(body: &[u8]) -> String {
    let Some(json) = json(body) else { return String::from_utf8_lossy(body).into_owned() };
    let mut text = String::with_capacity(json.len());
    let mut depth = 0_usize;
    let new_line = |text: &mut String, depth: usize| {
        if depth <= LEVELS && text.len() < MOST_INDENTED {
            text.push('\n');
            text.extend(std::iter::repeat_n("  ", depth));
        }
    };
    for token in Tokens(json) {
        match token {
            "{" | "[" => {
                text.push_str(token);
                depth += 1;
                new_line(&mut text, depth);
            }
            "}" | "]" => {
                depth = depth.saturating_sub(1);
                if text.trim_end().ends_with(if token == "}" { '{' } else { '[' }) {
                    text.truncate(text.trim_end().len());
                } else {
                    new_line(&mut text, depth);
                }
                text.push_str(token);
            }
            "," => {
                text.push(',');
                new_line(&mut text, depth);
            }
            ":" => text.push_str(": "),
            token => text.push_str(token),
        }
    }
    text
}

/// A command that delivers the body to the receiver whose URL, with its token, is in `WEBHOOK_URL`; `None` if the body is
/// not JSON.
pub(super) fn curl(body: &[u8]) -> Option<String> {
    const HEAD: &str = "curl \"$WEBHOOK_URL\" -H 'content-type: application/json'";
    let json = json(body)?;
    if json.len() > MOST_IN_COMMAND {
        return Some(format!("{HEAD} --data-binary @event.json"));
    }
    // Outside of its strings, JSON is printable ASCII. Inside, everything else is escaped, and the quote that would end
    // the shell's string: so nothing in the body acts on the shell, or on the terminal that it is pasted into.
    let mut data = String::with_capacity(json.len());
    for char in Tokens(json).flat_map(str::chars) {
        if matches!(char, ' '..='~') && char != '\'' {
            data.push(char);
        } else {
            for unit in char.encode_utf16(&mut [0; 2]) {
                data += &format!("\\u{unit:04x}");
            }
        }
    }
    Some(format!("{HEAD} --data-raw '{data}'"))
}

/// The tokens of valid JSON, without the white space between them.
struct Tokens<'a>(&'a str);

impl<'a> Iterator for Tokens<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let text = self.0.trim_start_matches([' ', '\n', '\r', '\t']);
        let first = text.chars().next()?;
        let length = match first {
            '{' | '}' | '[' | ']' | ',' | ':' => 1,
            '"' => {
                let mut escaped = false;
                let end = text[1..].find(|char| {
                    let ends = char == '"' && !escaped;
                    escaped = char == '\\' && !escaped;
                    ends
                });
                end.map_or(text.len(), |end| end + 2)
            }
            _ => text.find(['}', ']', ',', ' ', '\n', '\r', '\t']).unwrap_or(text.len()),
        };
        let (token, rest) = text.split_at(length);
        self.0 = rest;
        Some(token)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_body_is_indented_and_stays_the_same_json() {
        let body = r#" {"b":1.50,"a" : [ ],"c":{},"d":[{"e":"\\\"}{,:"},12345678901234567890123,null]}"#;
        let text = indented(body.as_bytes());
        assert_eq!(
            text,
            "{\n  \"b\": 1.50,\n  \"a\": [],\n  \"c\": {},\n  \"d\": [\n    {\n      \"e\": \"\\\\\\\"}{,:\"\n    },\n    \
             12345678901234567890123,\n    null\n  ]\n}"
        );
        assert_eq!(indented(b"not json \xff"), "not json \u{fffd}");
        let deep = format!("{}1{}", "[".repeat(100), "]".repeat(100));
        let text = indented(deep.as_bytes());
        assert_eq!(text.replace(['\n', ' '], ""), deep);
        assert!(text.len() < 3000, "{}", text.len());
    }

    #[test]
    fn a_large_body_is_indented_as_far_as_it_is_shown_and_no_further() {
        let comb = format!("{}{}1{}", "[".repeat(30), "[],".repeat(600_000), "]".repeat(30));
        let list = format!("{}{}1{}", "[".repeat(30), "\"\u{1f4a3}\",".repeat(200_000), "]".repeat(30));
        for json in [comb, list] {
            let text = indented(json.as_bytes());
            assert!(text.len() <= json.len() + MOST_INDENTED + 100, "{}", text.len());
            assert_eq!(text.replace(['\n', ' '], ""), json, "something is missing");
            let end = text.char_indices().nth(MOST_SHOWN).unwrap().0;
            assert!(text[end - 100..end].contains('\n'), "what is shown is not indented to its end");
        }
    }

    #[test]
    fn a_command_holds_nothing_that_acts_on_a_shell_or_a_terminal() {
        let body =
            "{\"a\": \"it's \u{1f4a3} \u{202e}\u{7f} $(id) `id` \\\\ \\\" \\u0000\",\n\"b\": [1, -2.5e3]}";
        let command = curl(body.as_bytes()).unwrap();
        assert!(command.chars().all(|char| matches!(char, ' '..='~')), "{command}");
        assert_eq!(command.matches('\'').count(), 4, "{command}");
        let data = command.split('\'').nth(3).unwrap();
        let [sent, kept] = [data, body].map(|text| serde_json::from_str::<Value>(text).unwrap());
        assert_eq!(sent, kept);
        assert_eq!(curl(b"rm -rf /"), None);
        let large = serde_json::to_vec(&"x".repeat(MOST_IN_COMMAND)).unwrap();
        assert!(curl(&large).unwrap().ends_with("--data-binary @event.json"));
    }
}
