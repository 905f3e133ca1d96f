//! Times: relative for the eye, exact for the rest.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use askama::filters::HtmlSafe;

/// A point in time, to the second, as the page shows it: an element `time` whose text is relative to now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment {
    /// Seconds since 1970.
    seconds: i64,
    /// The same of the page's own time.
    now: i64,
}

const DAY: i64 = 24 * 60 * 60;

/// The time at which a page is made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now(SystemTime);

impl Now {
    pub(super) fn new() -> Self {
        Self(SystemTime::now())
    }

    pub(super) fn ago(self, age: Duration) -> Moment {
        self.at(self.0.checked_sub(age).unwrap_or(UNIX_EPOCH))
    }

    pub(super) fn after(self, wait: Duration) -> Moment {
        self.at(self.0.checked_add(wait).unwrap_or(self.0))
    }

    fn at(self, time: SystemTime) -> Moment {
        Moment { seconds: seconds(time), now: seconds(self.0) }
    }
}

fn seconds(time: SystemTime) -> i64 {
    let passed = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(passed.as_secs()).unwrap_or(i64::MAX)
}

impl Moment {
    /// The exact time, as in `2026-11-28T20:45:00Z`.
    pub(super) fn exact(self) -> String {
        let (days, second) = (self.seconds.div_euclid(DAY), self.seconds.rem_euclid(DAY));
        let (year, month, day) = date(days);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }

    fn relative(self) -> String {
        match self.seconds - self.now {
            0 => "now".to_owned(),
            ahead @ 1.. => format!("in {}", length(ahead)),
            behind => format!("{} ago", length(-behind)),
        }
    }
}

/// A length of time in its largest unit.
fn length(seconds: i64) -> String {
    match seconds {
        ..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..DAY => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / DAY),
    }
}

/// A measured time, with two or three digits.
pub(super) fn measured(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        ..1.0 => format!("{:.0} ms", seconds * 1000.0),
        ..10.0 => format!("{seconds:.1} s"),
        _ => length(i64::try_from(time.as_secs()).unwrap_or(i64::MAX)),
    }
}

/// The date of a day since 1970, in the proleptic Gregorian calendar: years begin in March, so that the day that some
/// years lack is the last.
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = self.exact();
        write!(f, r#"<time datetime="{exact}" title="{exact}">{}</time>"#, self.relative())
    }
}

/// Made of digits and words of this file.
impl HtmlSafe for Moment {}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(seconds: i64, now: i64) -> Moment {
        Moment { seconds, now }
    }

    #[test]
    fn the_exact_time_is_right_in_leap_years_and_at_their_ends() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_164_800, "2024-02-29T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (1_795_898_700, "2026-11-28T20:45:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(moment(seconds, 0).exact(), expected);
        }
    }

    #[test]
    fn the_relative_time_is_in_its_largest_unit() {
        for (seconds, expected) in [
            (0, "now"),
            (-1, "1 s ago"),
            (59, "in 59 s"),
            (-61, "1 min ago"),
            (7200, "in 2 h"),
            (-3 * DAY, "3 d ago"),
        ] {
            assert_eq!(moment(seconds, 0).relative(), expected);
        }
    }
}
