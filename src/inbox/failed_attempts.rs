//! The failed attempts of a row.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::time::Duration;

use super::text::CUT;
use super::timestamp::Timestamp;

/// The most failed attempts that a row keeps: the last ones.
pub(super) const MOST: usize = 20;
/// The most characters of the error of each.
pub(super) const MOST_CHARACTERS: usize = 500;
/// The error of an attempt whose lease expired.
pub(super) const EXPIRED: &str = "its lease expired: the process died, was stopped, or lost the store";

/// A failed attempt, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FailedAttempt {
    /// The number of the attempt, over replays, as [`Job::attempt`](crate::Job::attempt) has it.
    pub number: u32,
    /// The time since the attempt failed.
    pub age: Duration,
    /// The time from its lease to its end; `None` if its lease expired.
    pub took: Option<Duration>,
    /// The error, for people. A long one is cut to 500 characters.
    pub error: String,
}

impl FailedAttempt {
    /// Makes a failed attempt, for a store.
    #[must_use]
    pub fn new(number: u32, age: Duration, took: Option<Duration>, error: impl Into<String>) -> Self {
        Self { number, age, took, error: error.into() }
    }
}

/// The last failed attempts of a row, the oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct FailedAttempts(VecDeque<KeptAttempt>);

/// A failed attempt, as a row keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct KeptAttempt {
    pub(super) number: u32,
    pub(super) at: Timestamp,
    pub(super) took: Option<Duration>,
    pub(super) error: String,
}

impl FailedAttempts {
    pub(super) fn push(&mut self, attempt: KeptAttempt) {
        while self.0.len() >= MOST {
            self.0.pop_front();
        }
        self.0.push_back(attempt);
    }

    pub(super) fn view(&self, now: Timestamp) -> Vec<FailedAttempt> {
        let view = |kept: &KeptAttempt| FailedAttempt {
            number: kept.number,
            age: now.since(kept.at),
            took: kept.took,
            error: kept.error.clone(),
        };
        self.0.iter().map(view).collect()
    }
}

/// Bounds the error of a failed attempt: a row keeps many.
pub(super) fn brief(error: &str) -> Cow<'_, str> {
    if error.char_indices().nth(MOST_CHARACTERS).is_none() {
        return error.into();
    }
    let kept = error.chars().take(MOST_CHARACTERS - CUT.len());
    kept.chain(CUT.chars()).collect()
}

/// The text of a column: an array of objects, their times and durations in microseconds.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod column {
    use serde_json::Value;
    #[cfg(feature = "sqlite")]
    use serde_json::json;

    use super::{Duration, FailedAttempts, KeptAttempt, Timestamp};

    impl FailedAttempts {
        /// `None` without an attempt.
        #[cfg(feature = "sqlite")]
        pub(in crate::inbox) fn to_column(&self) -> Option<String> {
            if self.0.is_empty() {
                return None;
            }
            let object = |kept: &KeptAttempt| {
                let took = kept.took.map(|took| i64::try_from(took.as_micros()).unwrap_or(i64::MAX));
                json!({"number": kept.number, "at": kept.at.0, "took": took, "error": kept.error})
            };
            Some(Value::Array(self.0.iter().map(object).collect()).to_string())
        }

        /// Leaves out what something else than this crate wrote.
        pub(in crate::inbox) fn from_column(text: Option<&str>) -> Self {
            let mut attempts = Self::default();
            let Some(Ok(Value::Array(objects))) = text.map(serde_json::from_str) else { return attempts };
            for object in objects {
                let number = |name: &str| object.get(name).and_then(Value::as_i64);
                let error = object.get("error").and_then(Value::as_str);
                if let (Some(counted), Some(at), Some(error)) = (number("number"), number("at"), error) {
                    attempts.push(KeptAttempt {
                        number: u32::try_from(counted.max(0)).unwrap_or(u32::MAX),
                        at: Timestamp(at),
                        took: number("took")
                            .map(|took| Duration::from_micros(u64::try_from(took).unwrap_or(0))),
                        error: error.to_owned(),
                    });
                }
            }
            attempts
        }
    }
}

#[cfg(all(test, feature = "sqlite"))]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const MICROSECOND: Duration = Duration::from_micros(1);

    #[test]
    fn the_last_attempts_are_kept_and_survive_a_column() {
        let mut attempts = FailedAttempts::default();
        assert_eq!(attempts.to_column(), None);
        assert_eq!(FailedAttempts::from_column(None), attempts);
        for number in 1..=25 {
            let error = format!("\"é\u{1f4a3}\n\\u0000{number}");
            let took = (number != 25).then_some(MICROSECOND * number);
            attempts.push(KeptAttempt { number, at: Timestamp(i64::from(number)), took, error });
        }
        let read = FailedAttempts::from_column(attempts.to_column().as_deref());
        assert_eq!(read, attempts);
        let view = read.view(Timestamp(30));
        assert_eq!(view.len(), MOST);
        let error = |number: u32| format!("\"é\u{1f4a3}\n\\u0000{number}");
        assert_eq!(view[0], FailedAttempt::new(6, MICROSECOND * 24, Some(MICROSECOND * 6), error(6)));
        assert_eq!(view[19], FailedAttempt::new(25, MICROSECOND * 5, None, error(25)));
    }

    #[test]
    fn a_long_error_is_cut_between_characters_and_says_so() {
        for character in ["x", "é", "\u{1f4a3}"] {
            let whole = character.repeat(MOST_CHARACTERS);
            assert_eq!(brief(&whole), whole);
            let cut = brief(&character.repeat(MOST_CHARACTERS + 1)).into_owned();
            assert_eq!(cut.chars().count(), MOST_CHARACTERS);
            assert_eq!(cut.strip_suffix(CUT).unwrap(), character.repeat(MOST_CHARACTERS - CUT.len()));
        }
    }

    #[test]
    fn objects_of_another_program_are_left_out() {
        for text in ["", "{", "null", "3", "{}", "[]", "[3, null, {}, {\"number\": 1}]", &"[".repeat(100_000)]
        {
            assert_eq!(FailedAttempts::from_column(Some(text)), FailedAttempts::default(), "{text:?}");
        }
        let odd = r#"[{"number": -1, "at": -5, "took": -3, "error": "", "more": 1}, {"number": 1e300}]"#;
        let read = FailedAttempts::from_column(Some(odd)).view(Timestamp(0));
        assert_eq!(read, [FailedAttempt::new(0, MICROSECOND * 5, Some(Duration::ZERO), "")]);
    }
}
