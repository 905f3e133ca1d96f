//! Texts that rows keep for people: errors, types and statuses.

use std::borrow::Cow;

/// The most bytes of a text.
const MOST: usize = 4096;
/// Ends a text that was cut. ASCII, so that every database can hold it.
pub(super) const CUT: &str = " [cut]";

/// A text as every inbox keeps it: cut if it is long, and without NUL, which PostgreSQL cannot hold. So no text keeps
/// an outcome or an event from being stored.
pub(super) fn storable(text: &str) -> Cow<'_, str> {
    let kept = if text.len() > MOST {
        let most = MOST - CUT.len();
        let end = (0..=most).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        Cow::Owned(format!("{}{CUT}", &text[..end]))
    } else {
        Cow::Borrowed(text)
    };
    if kept.contains('\0') { kept.replace('\0', "\u{fffd}").into() } else { kept }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_characters_and_says_so() {
        for text in ["", "short", &"x".repeat(MOST)] {
            assert_eq!(storable(text), text);
        }
        for character in ["x", "é", "…", "\u{1f4a3}", "\0"] {
            for before in 0..5 {
                let text = format!("{}{}", "y".repeat(before), character.repeat(MOST + 1));
                let kept = storable(&text);
                let beginning = kept.strip_suffix(CUT).unwrap().replace('\u{fffd}', "\0");
                assert!(text.starts_with(&beginning) && beginning.len() > MOST - 16, "{}", beginning.len());
                assert!(kept.replace('\u{fffd}', "\0").len() <= MOST, "{}", kept.len());
            }
        }
        assert_eq!(storable(&"x".repeat(1 << 20)).len(), MOST);
        assert_eq!(storable("a\0b"), "a\u{fffd}b");
    }
}
