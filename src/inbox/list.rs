//! Lists of rows, a page at a time.

use super::{InboxFilter, InboxRow};

/// The place where a list goes on, and its direction. A number is a row's place in the [order of
/// arrival](InboxRow::number).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InboxCursor {
    /// From the oldest row on.
    Oldest,
    /// From the row after this number on, the oldest first.
    After(u64),
    /// From the newest row back.
    Newest,
    /// From the row before this number back, the newest first.
    Before(u64),
}

/// Some rows of a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct InboxList {
    /// The rows, in the direction of the list.
    pub rows: Vec<InboxRow>,
    /// The place where the list goes on; `None` if no row is left to look at.
    pub next: Option<InboxCursor>,
}

impl InboxCursor {
    /// Whether the list is in the order of arrival, and not in reverse.
    #[must_use]
    pub fn is_oldest_first(self) -> bool {
        matches!(self, Self::Oldest | Self::After(_))
    }

    /// The cursor that continues this list after the row with a number.
    #[must_use]
    pub fn past(self, number: u64) -> Self {
        if self.is_oldest_first() { Self::After(number) } else { Self::Before(number) }
    }
}

impl InboxList {
    /// Makes a list, for a store.
    #[must_use]
    pub fn new(rows: Vec<InboxRow>, next: Option<InboxCursor>) -> Self {
        Self { rows, next }
    }

    /// Makes a list of those among `rows` that match, up to `most`, and looks at no more than `look` of them. They begin at
    /// `from`, in its direction.
    pub(super) fn of(
        rows: impl Iterator<Item = InboxRow>,
        filter: &InboxFilter,
        from: InboxCursor,
        most: usize,
        look: usize,
    ) -> Self {
        let (mut list, mut at) = (Self::default(), from);
        for (looked, row) in rows.enumerate() {
            if looked == look || list.rows.len() == most {
                list.next = Some(at);
                break;
            }
            at = from.past(row.number);
            if filter.matches(&row) {
                list.rows.push(row);
            }
        }
        list
    }
}
