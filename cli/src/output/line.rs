//! A line to print.

use std::fmt::Display;

use console::{StyledObject, measure_text_width, style, truncate_str};

use super::text::showable;

/// A text that a terminal only shows: all that it would obey is escaped, but line ends and colours of our own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Line(String);

impl Line {
    /// A text in a colour, on a terminal.
    pub(crate) fn styled(
        text: impl Display,
        paint: impl FnOnce(StyledObject<String>) -> StyledObject<String>,
    ) -> Self {
        Self(paint(style(showable(&text.to_string()))).to_string())
    }

    /// With another text behind it.
    pub(crate) fn and(mut self, next: impl Into<Self>) -> Self {
        self.0 += &next.into().0;
        self
    }

    /// Cut off after so many columns.
    pub(crate) fn fit(&self, columns: usize) -> Self {
        Self(truncate_str(&self.0, columns, "…").into_owned())
    }

    pub(crate) fn width(&self) -> usize {
        measure_text_width(&self.0)
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl<T: Display> From<T> for Line {
    fn from(text: T) -> Self {
        Self(showable(&text.to_string()))
    }
}
