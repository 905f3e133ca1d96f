//! Changes of the rows that a filter selects: at once, or exactly those that a question showed.

use std::sync::Arc;

use qomplement_webhooks::inbox::{Bulk, InboxAdmin, InboxCursor, InboxFilter, InboxRow, InboxState};
use qomplement_webhooks::store::StoreError;
use tokio::task::JoinSet;

use super::{Action, Report, Selection};
use crate::confirm::confirm;
use crate::database::store_failure;
use crate::failure::Failure;
use crate::inbox::midway;
use crate::inbox::rows::Pages;
use crate::output::{self, Format};

/// The changes at once: a store commits them together.
const AT_ONCE: usize = 64;
/// The rows shown before the change.
const SHOWN: usize = 20;

impl Selection {
    /// Changes the rows that match the filter; `None` if the answer to the question was no.
    pub(super) async fn by_filter(
        &self,
        action: Action,
        inbox: &Arc<dyn InboxAdmin>,
    ) -> Result<Option<Report>, Failure> {
        let mut filter = self.filter.filter();
        filter.state.get_or_insert(InboxState::Dead);
        let most = self.limit.unwrap_or(u64::MAX);
        if !self.dry_run && !self.yes {
            return self.after_a_question(action, inbox, filter, most).await;
        }
        let first = self.first(inbox, &filter, most).await?;
        self.show(&first);
        let bulk = if self.dry_run { Bulk::DryRun } else { Bulk::Apply };
        let changed = action.change_all(&**inbox, &filter, most, bulk).await.map_err(|error| match bulk {
            Bulk::DryRun => store_failure(error),
            Bulk::Apply => midway(
                store_failure(error),
                format_args!("Some events may have been {} before the error", action.done()),
            ),
        })?;
        self.show_hidden(&first, changed.rows);
        Ok(Some(Report { changed: changed.rows, more: changed.more, ..Report::default() }))
    }

    /// The first rows that match, to be shown.
    async fn first(
        &self,
        inbox: &Arc<dyn InboxAdmin>,
        filter: &InboxFilter,
        most: u64,
    ) -> Result<Vec<InboxRow>, Failure> {
        if self.format == Format::Json {
            return Ok(Vec::new());
        }
        let most = usize::try_from(most).unwrap_or(SHOWN).min(SHOWN);
        if self.dry_run {
            // One list, since a dry run looks at a bounded number of rows.
            let list = inbox.list(filter, InboxCursor::Oldest, most).await.map_err(store_failure)?;
            return Ok(list.rows);
        }
        let mut pages = Pages::new(inbox, filter.clone(), InboxCursor::Oldest, most as u64);
        let mut rows = Vec::new();
        loop {
            let page = pages.next().await?;
            if page.is_empty() {
                return Ok(rows);
            }
            rows.extend(page);
        }
    }

    /// Says how many rows there are beside the first ones.
    fn show_hidden(&self, first: &[InboxRow], all: u64) {
        let hidden = all.saturating_sub(first.len() as u64);
        if self.format == Format::Text && hidden > 0 {
            output::line(format_args!("… and {hidden} more"));
        }
    }

    /// Shows the rows that match, asks, and changes exactly these.
    async fn after_a_question(
        &self,
        action: Action,
        inbox: &Arc<dyn InboxAdmin>,
        filter: InboxFilter,
        most: u64,
    ) -> Result<Option<Report>, Failure> {
        let (mut numbers, mut first, mut without_id) = (Vec::new(), Vec::new(), 0);
        let mut pages = Pages::new(inbox, filter.clone(), InboxCursor::Oldest, most);
        loop {
            let page = pages.next().await?;
            if page.is_empty() {
                break;
            }
            numbers.extend(page.iter().map(|row| row.number));
            without_id += page.iter().filter(|row| row.job().is_none()).count() as u64;
            first.extend(page.into_iter().take(SHOWN - first.len()));
        }
        let matched = numbers.len() as u64;
        self.show(&first);
        self.show_hidden(&first, matched);
        let report = Report { matched: Some(matched), without_id, ..Report::default() };
        if matched == 0 {
            return Ok(Some(report));
        }
        if !confirm(&action.question(matched, &self.inbox)).await? {
            return Ok(None);
        }
        let changed = change_numbered(action, inbox, filter, &numbers).await?;
        Ok(Some(Report { changed, more: pages.rest().is_some(), ..report }))
    }
}

/// Changes the rows with these numbers that still match the filter, and none that matched only after the question.
/// `numbers` is sorted.
async fn change_numbered(
    action: Action,
    inbox: &Arc<dyn InboxAdmin>,
    mut filter: InboxFilter,
    numbers: &[u64],
) -> Result<u64, Failure> {
    let (Some(first), Some(last)) = (numbers.first(), numbers.last()) else { return Ok(0) };
    // The numbers select the rows, which have aged while the question waited.
    (filter.older_than, filter.newer_than) = (None, None);
    let from = first.checked_sub(1).map_or(InboxCursor::Oldest, InboxCursor::After);
    let mut count = 0;
    let at_least = |failure, count| {
        midway(failure, format_args!("At least {count} were {} before the error", action.done()))
    };
    let mut under_way = JoinSet::new();
    let mut pages = Pages::new(inbox, filter, from, u64::MAX);
    loop {
        let page = pages.next().await.map_err(|failure| at_least(failure, count))?;
        if page.first().is_none_or(|row| row.number > *last) {
            break;
        }
        for row in page.into_iter().filter(|row| numbers.binary_search(&row.number).is_ok()) {
            if under_way.len() >= AT_ONCE {
                let joined = joined_count(under_way.join_next().await);
                count += joined.map_err(|failure| at_least(failure, count))?;
            }
            // A row with an invalid id cannot be named.
            let Some(job) = row.job() else { continue };
            let inbox = inbox.clone();
            under_way.spawn(async move { action.change(&*inbox, &job).await });
        }
    }
    while !under_way.is_empty() {
        let joined = joined_count(under_way.join_next().await);
        count += joined.map_err(|failure| at_least(failure, count))?;
    }
    Ok(count)
}

type Joined = Option<Result<Result<bool, StoreError>, tokio::task::JoinError>>;

/// The number of rows that a task changed, 0 or 1.
fn joined_count(joined: Joined) -> Result<u64, Failure> {
    match joined {
        Some(Ok(changed)) => changed.map(u64::from).map_err(store_failure),
        Some(Err(died)) => Err(Failure::failed(format!("a task panicked, which is a bug: {died}"))),
        None => Ok(0),
    }
}
