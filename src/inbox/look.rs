//! Looks: the ways in which a search finds rows without passing over many others.

use super::filter::Prefix;
use super::{InboxCursor, InboxFilter, InboxState};

/// A change of rows that have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Replay,
    Discard,
}

/// The rows that a search looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// All rows, in the order of arrival.
    All,
    /// Dead rows, in the order of arrival.
    Dead,
    /// Received and running rows, by their index.
    Unfinished,
    /// Expected jobs, by their index.
    Expected,
    /// The rows of jobs with a prefix, by the index of ids.
    WithPrefix,
}

impl Look {
    /// The looks of a search, the best one first: each of them but the last is of use only if it finds few rows, which are
    /// then sorted. Empty if no row can be found.
    pub(super) fn of(filter: &InboxFilter, from: InboxCursor, change: Option<Change>) -> Vec<Self> {
        let prefix = filter.job_prefix.as_deref().map(Prefix::new);
        let is_possible = match (change, filter.state) {
            (Some(_), Some(InboxState::Expected | InboxState::Received | InboxState::Running)) => false,
            (Some(Change::Discard), Some(InboxState::Done)) => false,
            // Numbers below zero, which only another program writes, are shown as zero.
            _ => prefix != Some(None) && from != InboxCursor::Before(0),
        };
        if !is_possible {
            return Vec::new();
        }
        let by_prefix = prefix.flatten().filter(|prefix| !prefix.first.is_empty()).map(|_| Self::WithPrefix);
        let by_state = match filter.state {
            Some(InboxState::Received | InboxState::Running) => Some(Self::Unfinished),
            Some(InboxState::Expected) => Some(Self::Expected),
            Some(InboxState::Done | InboxState::Dead) | None => None,
        };
        let is_dead = filter.state == Some(InboxState::Dead) || change == Some(Change::Discard);
        let in_order = if is_dead { Self::Dead } else { Self::All };
        by_prefix.into_iter().chain(by_state).chain([in_order]).collect()
    }

    /// Whether the rows are found by an index and then sorted. Otherwise they are looked at in the order of arrival.
    pub(super) fn is_sorted(self) -> bool {
        matches!(self, Self::Unfinished | Self::Expected | Self::WithPrefix)
    }

    /// The most rows that one call looks at.
    pub(super) fn most(self) -> usize {
        match self {
            // They lie close to each other.
            Self::Unfinished | Self::Expected => 10_000,
            Self::All => 5_000,
            // Each may lie on a page of its own.
            Self::Dead | Self::WithPrefix => 3_000,
        }
    }
}

impl InboxCursor {
    /// The first number that a list from here on may have, in its direction.
    pub(super) fn bound(self) -> i64 {
        let integer = |number| i64::try_from(number).unwrap_or(i64::MAX);
        match self {
            Self::Oldest => 0,
            Self::After(number) => integer(number).saturating_add(1),
            Self::Newest => i64::MAX,
            Self::Before(number) => integer(number) - 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_search_passes_over_all_rows_if_an_index_finds_them() {
        let any = InboxFilter::default;
        let (replay, discard) = (Some(Change::Replay), Some(Change::Discard));
        for (filter, change, looks) in [
            (any(), None, &[Look::All][..]),
            (any(), replay, &[Look::All]),
            (any(), discard, &[Look::Dead]),
            (any().state(InboxState::Done), None, &[Look::All]),
            (any().state(InboxState::Done), discard, &[]),
            (any().state(InboxState::Dead), replay, &[Look::Dead]),
            (any().state(InboxState::Running), None, &[Look::Unfinished, Look::All]),
            (any().state(InboxState::Running), replay, &[]),
            (
                any().state(InboxState::Expected).job_prefix("a"),
                None,
                &[Look::WithPrefix, Look::Expected, Look::All],
            ),
            (any().job_prefix(""), None, &[Look::All]),
            (any().job_prefix("a"), discard, &[Look::WithPrefix, Look::Dead]),
            (any().job_prefix("a b"), None, &[]),
        ] {
            assert_eq!(Look::of(&filter, InboxCursor::Oldest, change), looks, "{filter:?} {change:?}");
            // All but the last one sort the few rows that they find.
            let in_order = looks.iter().filter(|look| !look.is_sorted());
            assert!(in_order.eq(looks.last()), "{looks:?}");
        }
        assert_eq!(Look::of(&any(), InboxCursor::Before(1), None), [Look::All]);
        assert_eq!(Look::of(&any(), InboxCursor::Before(0), None), []);
    }
}
