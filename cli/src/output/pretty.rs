//! JSON as people like to read it.

/// JSON that was laid out.
pub(super) struct Pretty {
    pub(super) text: String,
    /// Whether all of it is laid out. What lies too deep stands in one line.
    pub(super) is_whole: bool,
}

/// How deep is laid out: every line of a level is indented by as much as all levels above it.
const LEVELS: usize = 32;
/// How many bytes of white space there may be, beside four for each byte of the JSON.
const WHITE_SPACE: usize = 64 << 10;

/// JSON laid out in its own order; `None` if it is none.
pub(super) fn pretty(json: &[u8]) -> Option<Pretty> {
    let json = text_of_json(json)?;
    let (mut text, mut depth, mut in_text, mut escaped) = (String::new(), 0_usize, false, false);
    let (mut is_whole, mut left) = (true, json.len() * 4 + WHITE_SPACE);
    let mut new_line = |text: &mut String, depth: usize| {
        let indented = 1 + 2 * depth;
        if depth > LEVELS || indented > left {
            is_whole = false;
            return;
        }
        left -= indented;
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
                // Where the last item stands, so that what was opened in one line is closed in it.
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

/// The text of a body that is JSON.
pub(super) fn text_of_json(json: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(json).ok()?;
    serde_json::from_str::<serde::de::IgnoredAny>(text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::pretty;

    #[test]
    fn json_is_laid_out_in_its_own_order_and_nothing_in_it_changes() {
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
        let laid_out = pretty(json).unwrap();
        assert_eq!((laid_out.text.as_str(), laid_out.is_whole), (expected, true));
        assert!(pretty(b"{\"a\"").is_none());
        assert!(pretty(b"\"\xff\"").is_none());
    }

    #[test]
    fn deep_json_grows_no_more_than_by_a_few_times() {
        let brackets = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
        let comb = format!("{}{}1{}", "[".repeat(30), "[],".repeat(60_000), "]".repeat(30));
        for json in [brackets, comb] {
            let laid_out = pretty(json.as_bytes()).unwrap();
            assert!(!laid_out.is_whole);
            assert!(laid_out.text.len() <= json.len() * 5 + super::WHITE_SPACE, "{}", laid_out.text.len());
            assert_eq!(laid_out.text.replace(['\n', ' '], ""), json, "something is missing");
        }
    }
}
