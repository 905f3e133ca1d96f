//! Times: relative for the eye, exact for the rest.

use std::cmp::Ordering;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use askama::filters::HtmlSafe;
use humantime::format_rfc3339_seconds;

/// A point in time, to the second, as the page shows it: an element `time` whose text is relative to now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment {
    /// Seconds since 1970, at most [`LATEST`].
    seconds: u64,
    /// The same of the page's own time.
    now: u64,
}

/// A [`Moment`] with its exact time beside it: a title needs a mouse.
#[derive(Debug, Clone, Copy)]
pub(super) struct Exactly(Moment);

const DAY: u64 = 24 * 60 * 60;
/// The last second of the year 9999: no later one can be written, or read by a browser.
const LATEST: u64 = 253_402_300_799;

/// The time at which a page is made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now(SystemTime);

impl Now {
    pub(super) fn new() -> Self {
        Self(SystemTime::now())
    }

    /// The exact time.
    pub(super) fn exact(self) -> String {
        self.ago(Duration::ZERO).exact()
    }

    pub(super) fn ago(self, age: Duration) -> Moment {
        self.at(self.0.checked_sub(age).map_or(0, seconds))
    }

    pub(super) fn after(self, wait: Duration) -> Moment {
        self.at(self.0.checked_add(wait).map_or(LATEST, seconds))
    }

    fn at(self, at: u64) -> Moment {
        Moment { seconds: at, now: seconds(self.0) }
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs().min(LATEST)
}

impl Moment {
    /// The exact time, as in `2026-11-28T20:45:00Z`.
    pub(super) fn exact(self) -> String {
        format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(self.seconds)).to_string()
    }

    /// The time with the exact one beside it.
    pub(super) fn exactly(self) -> Exactly {
        Exactly(self)
    }

    fn relative(self) -> String {
        match self.seconds.cmp(&self.now) {
            Ordering::Less => format!("{} ago", length(self.now - self.seconds)),
            Ordering::Equal => "now".to_owned(),
            Ordering::Greater => format!("in {}", length(self.seconds - self.now)),
        }
    }
}

/// A length of time in its largest unit.
fn length(seconds: u64) -> String {
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
        _ => length(time.as_secs()),
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = self.exact();
        write!(f, r#"<time datetime="{exact}" title="{exact}">{}</time>"#, self.relative())
    }
}

impl fmt::Display for Exactly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} <small class=\"exact\">({})</small>", self.0, self.0.exact())
    }
}

/// Made of digits and words of this file.
impl HtmlSafe for Moment {}

impl HtmlSafe for Exactly {}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(seconds: u64, now: u64) -> Moment {
        Moment { seconds, now }
    }

    #[test]
    fn a_time_without_end_is_the_last_one_that_can_be_written() {
        let now = Now::new();
        let last = "9999-12-31T23:59:59Z";
        for wait in [Duration::from_secs(300_000 * 365 * DAY), Duration::MAX] {
            assert_eq!(now.after(wait).exact(), last);
        }
        assert_eq!(moment(1_795_898_700, 0).exact(), "2026-11-28T20:45:00Z");
        assert_eq!(now.ago(Duration::MAX).exact(), "1970-01-01T00:00:00Z");
    }

    #[test]
    fn the_relative_time_is_in_its_largest_unit() {
        const NOW: u64 = 10 * DAY;
        for (seconds, expected) in [
            (NOW, "now"),
            (NOW - 1, "1 s ago"),
            (NOW + 59, "in 59 s"),
            (NOW - 61, "1 min ago"),
            (NOW + 7200, "in 2 h"),
            (NOW - 3 * DAY, "3 d ago"),
        ] {
            assert_eq!(moment(seconds, NOW).relative(), expected);
        }
    }

    #[test]
    fn an_exact_time_stands_beside_the_relative_one() {
        let exactly = moment(1_795_898_700, 1_795_898_760).exactly().to_string();
        let exact = "2026-11-28T20:45:00Z";
        assert_eq!(
            exactly,
            format!(
                r#"<time datetime="{exact}" title="{exact}">1 min ago</time> <small class="exact">({exact})</small>"#
            )
        );
    }
}
