//! The filter of the list, as it stands in a URL and in the fields of a form.

use std::time::Duration;

use form_urlencoded::Serializer;

use super::hidden::is_hidden;
use super::problem::Problem;
use super::route::Fields;
use crate::inbox::{InboxFilter, InboxState};

/// A selection of rows, in the words that a person typed.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct RowFilter {
    pub(super) state: Option<InboxState>,
    pub(super) job_type: String,
    pub(super) status: String,
    /// The beginning of the job id.
    pub(super) prefix: String,
    pub(super) error: String,
    pub(super) older: Option<Age>,
    pub(super) newer: Option<Age>,
}

/// An age with its unit, as `90s`, `5m`, `2h` or `7d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Age {
    number: u32,
    unit: (char, u32),
}

/// The longest text of a field, in bytes.
const MOST: usize = 300;
const UNITS: [(char, u32); 4] = [('s', 1), ('m', 60), ('h', 3600), ('d', 86_400)];

impl Age {
    fn parse(text: &str) -> Option<Self> {
        let text = text.replace(' ', "");
        let unit = UNITS.into_iter().find(|(unit, _)| text.ends_with(*unit))?;
        let number = text[..text.len() - 1].parse().ok()?;
        Some(Self { number, unit })
    }

    fn duration(self) -> Duration {
        Duration::from_secs(u64::from(self.number) * u64::from(self.unit.1))
    }

    pub(super) fn to_text(self) -> String {
        format!("{}{}", self.number, self.unit.0)
    }
}

impl RowFilter {
    pub(super) fn state(state: InboxState) -> Self {
        Self { state: Some(state), ..Self::default() }
    }

    pub(super) fn parse(fields: &Fields<'_>) -> Result<Self, Problem> {
        let text = |name| match fields.get(name).unwrap_or_default() {
            text if text.len() > MOST => Err(Problem::Field("a text of at most 300 bytes")),
            text if text.contains(is_hidden) => Err(Problem::Field("a text of visible characters")),
            text => Ok(text),
        };
        let age = |name| match fields.get(name) {
            None => Ok(None),
            Some(age) => {
                Age::parse(&age).map(Some).ok_or(Problem::Field("an age, such as 90s, 5m, 2h or 7d"))
            }
        };
        let state = match fields.get("state") {
            None => None,
            Some(name) => {
                let state = InboxState::ALL.into_iter().find(|state| state.as_str() == name);
                Some(state.ok_or(Problem::Field("a state"))?)
            }
        };
        Ok(Self {
            state,
            job_type: text("type")?,
            status: text("status")?,
            prefix: text("prefix")?,
            error: text("error")?,
            older: age("older")?,
            newer: age("newer")?,
        })
    }

    /// The fields that are set, with their values.
    pub(super) fn fields(&self) -> Vec<(&'static str, String)> {
        let age = |age: Option<Age>| age.map(Age::to_text).unwrap_or_default();
        let all = [
            ("state", self.state.map_or_else(String::new, |state| state.to_string())),
            ("type", self.job_type.clone()),
            ("status", self.status.clone()),
            ("prefix", self.prefix.clone()),
            ("error", self.error.clone()),
            ("older", age(self.older)),
            ("newer", age(self.newer)),
        ];
        all.into_iter().filter(|(_, value)| !value.is_empty()).collect()
    }

    /// The fields that are set, as people read them.
    pub(super) fn conditions(&self) -> Vec<(&'static str, String)> {
        let label = |name| match name {
            "state" => "State",
            "type" => "Type",
            "status" => "Job status",
            "prefix" => "Job id begins with",
            "error" => "Error contains",
            "older" => "Older than",
            "newer" => "Newer than",
            name => name,
        };
        self.fields().into_iter().map(|(name, value)| (label(name), value)).collect()
    }

    pub(super) fn write(&self, query: &mut Serializer<'static, String>) {
        for (name, value) in self.fields() {
            query.append_pair(name, &value);
        }
    }

    pub(super) fn to_query(&self) -> String {
        let mut query = Serializer::new(String::new());
        self.write(&mut query);
        query.finish()
    }

    pub(super) fn to_inbox(&self) -> InboxFilter {
        let text = |text: &String| (!text.is_empty()).then(|| text.clone());
        InboxFilter {
            state: self.state,
            job_type: text(&self.job_type),
            status: text(&self.status),
            job_prefix: text(&self.prefix),
            error: text(&self.error),
            older_than: self.older.map(Age::duration),
            newer_than: self.newer.map(Age::duration),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_survives_its_url() {
        let typed =
            "state=dead&type=extract&status=failed&prefix=a%2Fb&error=50%25+%26+%3Cb%3E&older=2h&newer=7d";
        let filter = RowFilter::parse(&Fields(typed.as_bytes())).unwrap();
        assert_eq!(RowFilter::parse(&Fields(filter.to_query().as_bytes())).unwrap(), filter);
        let inbox = filter.to_inbox();
        assert_eq!(inbox.job_prefix.as_deref(), Some("a/b"));
        assert_eq!(inbox.error.as_deref(), Some("50% & <b>"));
        assert_eq!(inbox.older_than, Some(Duration::from_secs(7200)));
        assert_eq!(inbox.newer_than, Some(Duration::from_secs(7 * 86_400)));
        assert_eq!(RowFilter::parse(&Fields(b"state=&type=+&x=y")).unwrap(), RowFilter::default());
    }

    #[test]
    fn a_filter_that_nobody_types_is_refused() {
        let long = format!("error={}", "x".repeat(MOST + 1));
        for query in [
            "state=gone",
            "older=2",
            "older=2y",
            "newer=99999999999d",
            "older=%F0%9F%92%A9",
            "error=%E2%80%AE",
            &long,
        ] {
            assert!(RowFilter::parse(&Fields(query.as_bytes())).is_err(), "{query}");
        }
    }
}
