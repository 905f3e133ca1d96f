//! Indents JSON for people.

/// Indented JSON.
pub(super) struct Pretty {
    pub(super) text: String,
    /// Whether all of it is indented. Values nested too deeply stand in one line.
    pub(super) is_whole: bool,
}

/// The deepest indented level. Without a limit, the size of the output grows with the square of the depth.
const LEVELS: usize = 32;
/// The bytes of white space allowed in addition to four for each byte of the JSON.
const WHITE_SPACE: usize = 64 << 10;

/// Indents JSON and keeps the order of members; `None` if the bytes are not JSON.
pub(super) fn pretty(json: &[u8]) -> Option<Pretty> {
    let json = text_of_json(json)?;
    let (mut text, mut depth, mut in_text, mut escaped) = (String::new(), 0_usize, false, false);
    let (mut is_whole, mut left) = (true, json.len() * 4 + WHITE_SPACE);
    let mut new_line = |text: &mut String, depth: usize| {
        let width = 1 + 2 * depth;
        if depth > LEVELS || width > left {
            is_whole = false;
            return;
        }
        left -= width;
        text.push('\n');
        text.extend(std::iter::repeat_n("  ", depth));
    };
    let mut chars = json.chars().filter(|char| !matches!(char, '\n' | '\r' | '\t')).peekable();
    while let Some(char) = chars.next() {
        if in_text {
            text.push(char);
            in_text = char != '"' || escaped;
            escaped = char == '\\' && !escaped;
            continue;
        }
        match char {
            ' ' => {}
            '{' | '[' => {
                text.push(char);
                while chars.next_if_eq(&' ').is_some() {}
                match chars.next_if(|next| matches!(next, '}' | ']')) {
                    Some(close) => text.push(close),
                    None => {
                        depth += 1;
                        new_line(&mut text, depth);
                    }
                }
            }
            '}' | ']' => {
                // The level of the last item: a value opened within a line is closed within it.
                let is_deep = depth > LEVELS;
                depth -= 1;
                if !is_deep {
                    new_line(&mut text, depth);
                }
                text.push(char);
            }
            ',' => {
                text.push(char);
                new_line(&mut text, depth);
            }
            ':' => text += ": ",
            _ => {
                text.push(char);
                in_text = char == '"';
            }
        }
    }
    Some(Pretty { text, is_whole })
}

/// The text of a body; `None` if the body is not JSON.
pub(super) fn text_of_json(json: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(json).ok()?;
    serde_json::from_str::<serde::de::IgnoredAny>(text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::pretty;

    #[test]
    fn json_is_indented_in_its_own_order_and_its_tokens_stay() {
        let json = br#" {"z": [ ], "a" :[1,{ }, 1e400],
            "b\" {[,:": "\\\"x, y: {}", "c":12345678901234567890.10}"#;
        let expected = r#"{
  "z": [],
  "a": [
    1,
    {},
    1e400
  ],
  "b\" {[,:": "\\\"x, y: {}",
  "c": 12345678901234567890.10
}"#;
        let indented = pretty(json).unwrap();
        assert_eq!((indented.text.as_str(), indented.is_whole), (expected, true));
        assert!(pretty(b"{\"a\"").is_none());
        assert!(pretty(b"\"\xff\"").is_none());
    }

    #[test]
    fn deeply_nested_json_grows_by_a_bounded_factor() {
        let brackets = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
        let comb = format!("{}{}1{}", "[".repeat(30), "[],".repeat(60_000), "]".repeat(30));
        for json in [brackets, comb] {
            let indented = pretty(json.as_bytes()).unwrap();
            assert!(!indented.is_whole);
            assert!(indented.text.len() <= json.len() * 5 + super::WHITE_SPACE, "{}", indented.text.len());
            assert_eq!(indented.text.replace(['\n', ' '], ""), json, "something is missing");
        }
    }
}
