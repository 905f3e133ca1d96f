//! What is printed: results on standard output, everything else on standard error; colours on a terminal alone.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use console::style;
use serde_json::Value;

use crate::failure::Failure;

/// For people, or for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Text,
    /// For programs: one JSON object a line
    Json,
}

/// Prints a line of the result.
pub(crate) fn line(text: impl Display) -> Result<(), Failure> {
    writeln!(io::stdout().lock(), "{text}").map_err(|error| Failure::output(&error))
}

/// Prints an object of the result.
pub(crate) fn json(value: &Value) -> Result<(), Failure> {
    line(value)
}

/// Prints an object of the result with a body in it, whose members and numbers stay as they are.
pub(crate) fn json_with_body(value: &Value, body: Option<&[u8]>) -> Result<(), Failure> {
    let body =
        body.and_then(text_of_json).map_or_else(|| "null".to_owned(), |body| body.replace(['\n', '\r'], " "));
    let members = value.to_string();
    line(format_args!("{},\"body\":{body}}}", members.strip_suffix('}').unwrap_or(&members)))
}

/// JSON as people like to read it, in its own order; `None` if it is none.
pub(crate) fn pretty(json: &[u8]) -> Option<String> {
    let json = text_of_json(json)?;
    let (mut pretty, mut depth, mut in_text, mut escaped) = (String::new(), 0, false, false);
    let new_line = |pretty: &mut String, depth| {
        pretty.push('\n');
        pretty.extend(std::iter::repeat_n("  ", depth));
    };
    let mut chars = json.chars().filter(|char| !matches!(char, '\n' | '\r' | '\t')).peekable();
    while let Some(char) = chars.next() {
        if in_text {
            pretty.push(char);
            in_text = char != '"' || escaped;
            escaped = char == '\\' && !escaped;
            continue;
        }
        match char {
            ' ' => {}
            '{' | '[' => {
                pretty.push(char);
                while chars.next_if_eq(&' ').is_some() {}
                match chars.next_if(|next| matches!(next, '}' | ']')) {
                    Some(close) => pretty.push(close),
                    None => {
                        depth += 1;
                        new_line(&mut pretty, depth);
                    }
                }
            }
            '}' | ']' => {
                depth -= 1;
                new_line(&mut pretty, depth);
                pretty.push(char);
            }
            ',' => {
                pretty.push(char);
                new_line(&mut pretty, depth);
            }
            ':' => pretty += ": ",
            _ => {
                pretty.push(char);
                in_text = char == '"';
            }
        }
    }
    Some(pretty)
}

fn text_of_json(json: &[u8]) -> Option<&str> {
    serde_json::from_slice::<serde::de::IgnoredAny>(json).ok()?;
    std::str::from_utf8(json).ok()
}

/// Prints a part of the result as it is.
pub(crate) fn bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|error| Failure::output(&error))
}

/// Tells something beside the result. If nobody can read it, that is no failure.
pub(crate) fn note(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Tells of something that is not as it should be.
pub(crate) fn warning(text: impl Display) {
    note(format_args!("{} {text}", style("warning:").yellow().bold().for_stderr()));
}

pub(crate) fn error(text: impl Display) {
    note(format_args!("{} {text}", style("error:").red().bold().for_stderr()));
}

/// So many of something, such as `1 row` or `2 rows`.
pub(crate) fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

pub(crate) fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// A text from elsewhere in one line, without characters that a terminal would obey.
pub(crate) fn clean(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for char in text.chars() {
        if char.is_control() { clean.extend(char.escape_default()) } else { clean.push(char) }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::{clean, pretty};

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
        assert_eq!(pretty(json).as_deref(), Some(expected));
        assert_eq!(pretty(b"{\"a\""), None);
        assert_eq!(pretty(b"\"\xff\""), None);
    }

    #[test]
    fn a_terminal_obeys_nothing_that_comes_from_elsewhere() {
        assert_eq!(clean("a\u{1b}[31m\r\n\u{9b}2Jé"), "a\\u{1b}[31m\\r\\n\\u{9b}2Jé");
    }
}
