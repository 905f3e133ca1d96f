//! Texts of events and errors as people may see them: nothing in them acts on the reader's browser or eyes.

use std::fmt;

use super::hidden::is_hidden;

/// A text for the page. Characters that a browser obeys or hides stand as `\u{…}`, and a long text is cut. The templates
/// escape it for HTML.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Shown(String);

impl Shown {
    /// The most characters of a text in a table.
    pub(super) const CELL: usize = 120;
    /// The most characters of a text that stands by itself.
    pub(super) const LINE: usize = 5_000;

    /// A text in one line, of at most `most` characters.
    pub(super) fn line(text: &str, most: usize) -> Self {
        Self::of(text, most, |_| false)
    }

    /// A text of several lines, of at most `most` characters.
    pub(super) fn block(text: &str, most: usize) -> Self {
        Self::of(text, most, |char| char == '\n')
    }

    fn of(text: &str, most: usize, is_kept: impl Fn(char) -> bool) -> Self {
        let end = text.char_indices().nth(most).map_or(text.len(), |(end, _)| end);
        let mut shown = String::with_capacity(end);
        for char in text[..end].chars() {
            if is_hidden(char) && !is_kept(char) {
                shown.extend(char.escape_default());
            } else {
                shown.push(char);
            }
        }
        if end < text.len() {
            shown += &format!("… ({} of {} bytes)", grouped(end as u64), grouped(text.len() as u64));
        }
        Self(shown)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A number with its digits in groups of three.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_that_act_are_made_visible_and_long_texts_are_cut() {
        for (text, expected) in [
            ("café — 工作 🎉", "café — 工作 🎉"),
            ("a\0b\u{1b}[2J\u{7f}\u{9b}", "a\\u{0}b\\u{1b}[2J\\u{7f}\\u{9b}"),
            ("\u{202e}fdp.exe\u{2066}", "\\u{202e}fdp.exe\\u{2066}"),
            ("a\u{200b}b\u{feff}\u{e0041}", "a\\u{200b}b\\u{feff}\\u{e0041}"),
            ("two\nlines\r\n", "two\\nlines\\r\\n"),
        ] {
            assert_eq!(Shown::line(text, 100).to_string(), expected);
        }
        assert_eq!(Shown::block("two\nlines\r", 100).to_string(), "two\nlines\\r");
        assert_eq!(Shown::line("ééé", 2).to_string(), "éé… (4 of 6 bytes)");
        assert_eq!(Shown::line("éé", 2).to_string(), "éé");
        let long = Shown::line(&"\u{202e}".repeat(1 << 20), Shown::LINE).to_string();
        assert!(long.len() < 60_000 && long.ends_with("… (15,000 of 3,145,728 bytes)"), "{}", long.len());
    }

    #[test]
    fn numbers_are_read_in_groups() {
        for (number, expected) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), expected);
        }
    }
}
