//! Charts of received and handled events, as SVG.

use std::fmt::Write;

use serde_json::{Value, json};

use super::shown::grouped;
use crate::inbox::InboxTraffic;

/// The height of a chart's drawing, in its own units.
const HEIGHT: u64 = 100;
/// The width of a bar and of the gap after it.
const BAR: usize = 8;
const GAP: usize = 2;

/// A chart of equal spans of time.
pub(super) struct Chart {
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    /// The start of the time axis.
    pub(super) since: &'static str,
    pub(super) span: &'static str,
    pub(super) drawing: Drawing,
}

/// The counts of a chart: its sums and its lines, the oldest span first.
pub(super) struct Drawing {
    pub(super) received: String,
    pub(super) handled: String,
    /// The most received or handled events of one span: the height of the chart.
    pub(super) most: String,
    pub(super) width: usize,
    pub(super) height: u64,
    /// The received events: a bar for each span that has some.
    pub(super) bars: String,
    /// The handled events: a line through the middles of the spans that have passed. The current one would always look
    /// like an outage.
    pub(super) line: String,
}

/// The charts of the last hour and of the last day.
pub(super) fn charts(minutes: &[InboxTraffic]) -> [Chart; 2] {
    [
        Chart {
            id: "hour",
            title: "Last hour",
            since: "60 minutes ago",
            span: "minute",
            drawing: Drawing::new(minutes, 60, 1),
        },
        Chart {
            id: "day",
            title: "Last 24 hours",
            since: "24 hours ago",
            span: "quarter of an hour",
            drawing: Drawing::new(minutes, 96, 15),
        },
    ]
}

pub(super) fn as_json(minutes: &[InboxTraffic]) -> Value {
    let minutes = minutes.iter().map(|minute| {
        json!({"minutes_ago": minute.minutes_ago, "received": minute.received, "handled": minute.handled})
    });
    minutes.collect()
}

impl Drawing {
    /// Adds the minutes of each span together.
    fn new(minutes: &[InboxTraffic], spans: usize, minutes_of_span: usize) -> Self {
        let (mut received, mut handled) = (vec![0_u64; spans], vec![0_u64; spans]);
        for minute in minutes {
            let ago = usize::try_from(minute.minutes_ago).unwrap_or(usize::MAX) / minutes_of_span;
            let Some(place) = (spans - 1).checked_sub(ago) else { continue };
            received[place] = received[place].saturating_add(minute.received);
            handled[place] = handled[place].saturating_add(minute.handled);
        }
        let most = received.iter().chain(&handled).copied().max().unwrap_or(0);
        let (mut bars, mut line) = (String::new(), String::new());
        for (place, (received, handled)) in received.iter().zip(&handled).enumerate() {
            let left = place * (BAR + GAP);
            if *received > 0 {
                // Writing to a string never fails.
                let _ = write!(bars, "M{left} {HEIGHT}V{}h{BAR}V{HEIGHT}z", top(*received, most));
            }
            if place + 1 < spans {
                let _ = write!(line, "{},{} ", left + BAR / 2, top(*handled, most));
            }
        }
        let sum =
            |counts: &[u64]| grouped(counts.iter().fold(0, |sum: u64, count| sum.saturating_add(*count)));
        Self {
            received: sum(&received),
            handled: sum(&handled),
            most: grouped(most),
            width: spans * (BAR + GAP) - GAP,
            height: HEIGHT,
            bars,
            line: line.trim_end().to_owned(),
        }
    }
}

/// The upper end of a count, from the top of the drawing. The smallest count can be seen.
fn top(count: u64, most: u64) -> u64 {
    let height = u128::from(count) * u128::from(HEIGHT) / u128::from(most.max(1));
    let height = u64::try_from(height).unwrap_or(HEIGHT);
    HEIGHT - height.max(u64::from(count > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_has_a_bar_for_each_span_and_a_point_for_each_that_has_passed() {
        let minutes = [
            InboxTraffic::new(0, 10, 5),
            InboxTraffic::new(1, 1000, 0),
            InboxTraffic::new(59, 1, 0),
            InboxTraffic::new(60, 7, 500),
        ];
        let [hour, day] = charts(&minutes).map(|chart| chart.drawing);
        assert_eq!(hour.bars, "M0 100V99h8V100zM580 100V0h8V100zM590 100V99h8V100z");
        assert_eq!(hour.line.split(' ').count(), 59);
        assert!(hour.line.starts_with("4,100 ") && hour.line.ends_with(" 574,100 584,100"), "{}", hour.line);
        assert_eq!([hour.received, hour.handled, hour.most], ["1,011", "5", "1,000"]);
        assert_eq!(day.line.split(' ').count(), 95);
        assert!(day.line.ends_with(" 914,51 924,100 934,100 944,100"), "{}", day.line);
        assert_eq!([day.received, day.handled, day.most], ["1,018", "505", "1,010"]);
    }

    #[test]
    fn any_counts_make_a_chart() {
        let minutes = [0, 14, 15, 1439, 1440, u32::MAX].map(|ago| InboxTraffic::new(ago, u64::MAX, u64::MAX));
        for minutes in [&minutes[..], &[]] {
            for Drawing { bars, line, .. } in charts(minutes).map(|chart| chart.drawing) {
                assert_eq!(bars.is_empty(), minutes.is_empty());
                let heights =
                    line.split([',', ' ']).skip(1).step_by(2).map(|top| top.parse::<u64>().unwrap());
                assert!(heights.max().unwrap() <= HEIGHT, "{line}");
            }
        }
    }
}
