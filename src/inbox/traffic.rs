//! Counts of received and handled events by minute.

use std::collections::BTreeMap;

use super::row::{Phase, Row};
use super::timestamp::Timestamp;
use super::transition::BodyChange;

/// The minutes for which a store keeps counts: a day.
pub(super) const KEPT_MINUTES: u32 = 24 * 60;

const MICROSECONDS: i64 = 60_000_000;

/// The events of one minute, by the store's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct InboxTraffic {
    /// The minutes that have begun since: 0 is the current minute.
    pub minutes_ago: u32,
    /// Events that became the event of a row: by a delivery, or by a fetch of an expected job.
    pub received: u64,
    /// Rows that became done.
    pub handled: u64,
}

impl InboxTraffic {
    /// Makes the counts of a minute, for a store.
    #[must_use]
    pub fn new(minutes_ago: u32, received: u64, handled: u64) -> Self {
        Self { minutes_ago, received, handled }
    }
}

/// Events that were received, and rows that became done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Counts {
    pub(super) received: u64,
    pub(super) handled: u64,
}

impl Counts {
    /// The counts of a new row.
    pub(super) fn of_new(row: &Row) -> Self {
        Self { received: row.event.is_some().into(), handled: 0 }
    }

    /// The counts of a transition. Only a fetched event may take the place of another without being received: that of a
    /// running row.
    pub(super) fn of(before: Phase, after: &Row, change: BodyChange) -> Self {
        let verified = after.event.as_ref().is_some_and(|event| event.verified);
        let received =
            change == BodyChange::Replace && (matches!(before, Phase::Expected { .. }) || !verified);
        let [was_done, is_done] = [before, after.phase].map(|phase| matches!(phase, Phase::Done { .. }));
        Self { received: received.into(), handled: (is_done && !was_done).into() }
    }

    pub(super) fn is_zero(self) -> bool {
        self == Self::default()
    }

    pub(super) fn add(&mut self, other: Self) {
        self.received = self.received.saturating_add(other.received);
        self.handled = self.handled.saturating_add(other.handled);
    }
}

/// The counts of the kept minutes.
#[derive(Debug, Default)]
pub(super) struct Minutes(BTreeMap<i64, Counts>);

impl Minutes {
    pub(super) fn count(&mut self, counts: Counts, now: Timestamp) {
        if counts.is_zero() {
            return;
        }
        let minute = minute(now);
        if !self.0.contains_key(&minute) {
            self.0.retain(|earlier, _| is_kept(*earlier, minute));
        }
        self.0.entry(minute).or_default().add(counts);
    }

    pub(super) fn view(&self, now: Timestamp) -> Vec<InboxTraffic> {
        let counts = self.0.iter().rev();
        counts.filter_map(|(minute, counts)| traffic(*minute, *counts, now)).collect()
    }
}

/// The number of a minute.
pub(super) fn minute(now: Timestamp) -> i64 {
    now.0.div_euclid(MICROSECONDS)
}

fn is_kept(minute: i64, now: i64) -> bool {
    now.saturating_sub(minute) < i64::from(KEPT_MINUTES)
}

/// The counts of a minute as they are now; `None` for a minute that is not kept, or that has not come.
pub(super) fn traffic(counted: i64, counts: Counts, now: Timestamp) -> Option<InboxTraffic> {
    let minutes_ago = u32::try_from(minute(now).saturating_sub(counted)).ok()?;
    let Counts { received, handled } = counts;
    (minutes_ago < KEPT_MINUTES).then_some(InboxTraffic { minutes_ago, received, handled })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Counts = Counts { received: 1, handled: 0 };

    fn at(minute: i64) -> Timestamp {
        Timestamp(minute * MICROSECONDS)
    }

    #[test]
    fn minutes_are_counted_apart_and_kept_for_a_day() {
        let mut minutes = Minutes::default();
        minutes.count(ONE, at(-1));
        minutes.count(ONE, Timestamp(-1));
        minutes.count(Counts { received: 0, handled: 3 }, at(0));
        minutes.count(ONE, Timestamp(MICROSECONDS - 1));
        let day = i64::from(KEPT_MINUTES);
        assert_eq!(minutes.view(at(0)), [InboxTraffic::new(0, 1, 3), InboxTraffic::new(1, 2, 0)]);
        assert_eq!(
            minutes.view(at(day - 2)),
            [InboxTraffic::new(KEPT_MINUTES - 2, 1, 3), InboxTraffic::new(KEPT_MINUTES - 1, 2, 0)]
        );
        assert_eq!(minutes.view(at(day - 1)), [InboxTraffic::new(KEPT_MINUTES - 1, 1, 3)]);
        minutes.count(ONE, at(day - 1));
        assert_eq!(minutes.0.len(), 2, "the oldest minute is forgotten");
        assert_eq!(minutes.view(at(-7)), [], "the clock was set back");
        minutes.count(Counts::default(), at(5));
        assert_eq!(minutes.0.len(), 2, "nothing was counted");
    }
}
