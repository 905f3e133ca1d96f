//! Text that is safe to print.

use std::fmt::Display;

use console::{StyledObject, measure_text_width, style, truncate_str};

use super::text::printable;

/// A text in which only line ends and this program's own colours reach the terminal unescaped.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Line(String);

impl Line {
    /// A text in a colour, if the output is a terminal.
    pub(crate) fn styled(
        text: impl Display,
        paint: impl FnOnce(StyledObject<String>) -> StyledObject<String>,
    ) -> Self {
        Self(paint(style(printable(&text.to_string()))).to_string())
    }

    /// Appends another text.
    pub(crate) fn and(mut self, next: impl Into<Self>) -> Self {
        self.0 += &next.into().0;
        self
    }

    /// Cuts the text off after `columns` columns.
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
        Self(printable(&text.to_string()))
    }
}
