//! The selection of rows.

use std::time::Duration;

use super::text::storable;
use super::{InboxRow, InboxState};

/// A selection of rows. A default filter selects all rows; each field that is set leaves out rows that differ.
///
/// ```
/// # use std::time::Duration;
/// use qomplement_webhooks::inbox::{InboxFilter, InboxState};
///
/// let old = InboxFilter::default().state(InboxState::Dead).older_than(Duration::from_secs(3600));
/// let refused = InboxFilter::default().error("connection refused");
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct InboxFilter {
    /// Only rows in this state.
    pub state: Option<InboxState>,
    /// Only events of this `type`.
    pub job_type: Option<String>,
    /// Only events with this `status`.
    pub status: Option<String>,
    /// Only jobs whose id begins with this text. An id has visible ASCII characters alone: a text with others selects no
    /// row, and an empty one all.
    pub job_prefix: Option<String>,
    /// Only rows whose last error contains this text. ASCII letters match in either case.
    pub error: Option<String>,
    /// Only rows of at least this [age](InboxRow::age).
    pub older_than: Option<Duration>,
    /// Only rows of less than this age.
    pub newer_than: Option<Duration>,
}

impl InboxFilter {
    /// Selects rows in this state.
    #[must_use]
    pub fn state(mut self, state: InboxState) -> Self {
        self.state = Some(state);
        self
    }

    /// Selects events of this `type`.
    #[must_use]
    pub fn job_type(mut self, job_type: impl Into<String>) -> Self {
        self.job_type = Some(job_type.into());
        self
    }

    /// Selects events with this `status`.
    #[must_use]
    pub fn status(mut self, status: impl Into<String>) -> Self {
        self.status = Some(status.into());
        self
    }

    /// Selects jobs whose id [begins with](Self::job_prefix) this text.
    #[must_use]
    pub fn job_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.job_prefix = Some(prefix.into());
        self
    }

    /// Selects rows whose last error [contains](Self::error) this text.
    #[must_use]
    pub fn error(mut self, part: impl Into<String>) -> Self {
        self.error = Some(part.into());
        self
    }

    /// Selects rows of at least this age.
    #[must_use]
    pub fn older_than(mut self, age: Duration) -> Self {
        self.older_than = Some(age);
        self
    }

    /// Selects rows of less than this age.
    #[must_use]
    pub fn newer_than(mut self, age: Duration) -> Self {
        self.newer_than = Some(age);
        self
    }

    /// Whether the filter selects a row: for stores without a query language, and for tests.
    #[must_use]
    pub fn matches(&self, row: &InboxRow) -> bool {
        let is = |wanted: &Option<String>, text: &Option<String>| {
            wanted.as_deref().is_none_or(|wanted| text.as_deref() == Some(&*storable(wanted)))
        };
        self.state.is_none_or(|state| state == row.state)
            && is(&self.job_type, &row.job_type)
            && is(&self.status, &row.status)
            && self.job_prefix.as_deref().is_none_or(|prefix| {
                Prefix::new(prefix).is_some_and(|prefix| row.job_id.starts_with(prefix.first))
            })
            && self.error.as_deref().is_none_or(|part| {
                let part = storable(part).to_ascii_lowercase();
                row.error.as_deref().is_some_and(|error| error.to_ascii_lowercase().contains(&part))
            })
            && self.older_than.is_none_or(|age| row.age >= age)
            && self.newer_than.is_none_or(|age| row.age < age)
    }
}

/// A beginning of job ids, and the range of ids that have it, in the order of their bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Prefix<'a> {
    /// The first id of the range.
    pub(super) first: &'a str,
    /// The first text after the range.
    #[cfg_attr(not(any(feature = "postgres", feature = "sqlite")), allow(dead_code))]
    pub(super) end: String,
}

impl<'a> Prefix<'a> {
    /// `None` if no id begins with this text.
    pub(super) fn new(prefix: &'a str) -> Option<Self> {
        let is_visible = prefix.bytes().all(|byte| byte.is_ascii_graphic());
        is_visible.then(|| {
            let mut end = prefix.to_owned();
            let last = end.pop().map_or('\u{7f}', |last| char::from(last as u8 + 1));
            end.push(last);
            Self { first: prefix, end }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_has_the_ids_up_to_the_next_character() {
        let ids = ["!", "A", "a", "a!", "a~", "a~~", "b", "~", "~~"];
        for prefix in ["", "a", "a~", "~", "b", "B", "~~~"] {
            let Prefix { first, end } = Prefix::new(prefix).unwrap();
            for id in ids {
                assert_eq!((first..&*end).contains(&id), id.starts_with(prefix), "{id} and {prefix:?}");
            }
        }
        for none in [" ", "a b", "\0", "é", "\u{7f}"] {
            assert_eq!(Prefix::new(none), None, "{none:?}");
        }
    }

    #[test]
    fn a_row_matches_if_every_part_does() {
        let mut row = InboxRow::new(7, "job-1", InboxState::Dead, Duration::from_secs(60));
        (row.job_type, row.status) = (Some("extract".to_owned()), Some("failed".to_owned()));
        row.error = Some("No Connection: É\u{fffd}".to_owned());
        let (any, minute) = (InboxFilter::default, Duration::from_secs(60));
        let all = any().state(InboxState::Dead).job_type("extract").status("failed").job_prefix("job-");
        let all = all.error("connection").older_than(minute).newer_than(minute * 2);
        for filter in [any(), all.clone(), any().job_prefix(""), any().error(""), any().error("É\0")] {
            assert!(filter.matches(&row), "{filter:?}");
        }
        for filter in [
            any().state(InboxState::Done),
            all.clone().job_type("Extract"),
            any().status("fail"),
            any().job_prefix("ob-"),
            any().job_prefix("job-1 "),
            any().error("é"),
            any().error("connections"),
            any().older_than(minute * 2),
            all.newer_than(minute),
        ] {
            assert!(!filter.matches(&row), "{filter:?}");
        }
        assert!(!any().error("").matches(&InboxRow { error: None, ..row }), "no error");
    }
}
