//! Texts of events and errors as people may see them: nothing in them acts on the reader's browser or eyes.

use std::fmt;

use askama::filters::HtmlSafe;

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
        let (mut shown, end) = visible(text, most, |_| false);
        if end < text.len() {
            shown += &format!("… ({} of {} bytes)", grouped(end as u64), grouped(text.len() as u64));
        }
        Self(shown)
    }

    /// A body of several lines, of at most `most` characters.
    pub(super) fn block(text: &str, most: usize) -> Self {
        let (mut shown, end) = visible(text, most, |char| char == '\n');
        if end < text.len() {
            // Without a number: that of the indented text is not the size of the body.
            shown += "… (the download has the rest)";
        }
        Self(shown)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The first `most` characters of a text, with those visible that are not kept, and the byte at which they end.
fn visible(text: &str, most: usize, is_kept: impl Fn(char) -> bool) -> (String, usize) {
    let end = text.char_indices().nth(most).map_or(text.len(), |(end, _)| end);
    let mut shown = String::with_capacity(end);
    for char in text[..end].chars() {
        if is_hidden(char) && !is_kept(char) {
            shown.extend(char.escape_default());
        } else {
            shown.push(char);
        }
    }
    (shown, end)
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

/// A number of bytes, rounded, with the exact number in its title.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size(pub(super) u64);

impl Size {
    fn rounded(self) -> String {
        if self.0 < 1024 {
            return self.exact();
        }
        let mut size = self.0 as f64 / 1024.0;
        for unit in ["KiB", "MiB"] {
            // Not `1024.0 KiB`.
            if size < 1023.95 {
                return format!("{size:.1} {unit}");
            }
            size /= 1024.0;
        }
        format!("{size:.1} GiB")
    }

    fn exact(self) -> String {
        format!("{} {}", grouped(self.0), if self.0 == 1 { "byte" } else { "bytes" })
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, r#"<span title="{}">{}</span>"#, self.exact(), self.rounded())
    }
}

/// Made of digits and words of this file.
impl HtmlSafe for Size {}

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
        assert_eq!(Shown::block("ééé", 2).to_string(), "éé… (the download has the rest)");
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

    #[test]
    fn sizes_are_rounded_and_the_exact_number_is_in_the_title() {
        for (bytes, rounded) in [
            (0, "0 bytes"),
            (1, "1 byte"),
            (1023, "1,023 bytes"),
            (1024, "1.0 KiB"),
            (1587, "1.5 KiB"),
            (1588, "1.6 KiB"),
            ((1 << 20) - 52, "1023.9 KiB"),
            ((1 << 20) - 51, "1.0 MiB"),
            (10 << 30, "10.0 GiB"),
            (u64::MAX, "17179869184.0 GiB"),
        ] {
            assert_eq!(Size(bytes).rounded(), rounded);
        }
        assert_eq!(Size(1_234_567).to_string(), r#"<span title="1,234,567 bytes">1.2 MiB</span>"#);
    }
}
