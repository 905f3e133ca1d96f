//! Lists of rows.

use tokio::time::{Instant, sleep};

use super::super::harness::{job, leases};
use super::steps::*;
use crate::event::JobId;
use crate::inbox::{InboxAdmin, InboxCursor, InboxFilter, InboxList, InboxRow, InboxState};

/// Rows are listed in the order of their arrival or in reverse, page by page, all of them or those that match a filter.
pub(super) async fn rows_are_listed_in_order(store: &dyn InboxAdmin) {
    let mut jobs = Vec::new();
    for (stage, job_type, status) in [
        (Stage::Dead, "fill_pdf", "failed"),
        (Stage::Done, "extract", "failed"),
        (Stage::Expected, "", ""),
        (Stage::Running, "summarize", "processing"),
        (Stage::Waiting, "fill_pdf", "completed"),
        (Stage::Received, "extract", "completed"),
    ] {
        let job = job();
        bring(store, &event(&job, job_type, status, ""), stage).await;
        jobs.push(job);
    }
    let first = row(store, &jobs[0]).await.number;
    let all = InboxFilter::default;
    for (filter, expected) in [
        (all(), vec![0, 1, 2, 3, 4, 5]),
        (all().state(InboxState::Expected), vec![2]),
        (all().state(InboxState::Received), vec![4, 5]),
        (all().state(InboxState::Running), vec![3]),
        (all().state(InboxState::Done), vec![1]),
        (all().state(InboxState::Dead), vec![0]),
        (all().job_type("extract"), vec![1, 5]),
        (all().job_type("summarize"), vec![3]),
        (all().job_type("Extract"), vec![]),
        (all().status("failed"), vec![0, 1]),
        (all().status("%"), vec![]),
        (all().job_type("extract").status("failed").state(InboxState::Done), vec![1]),
        (all().job_type("extract").status("failed").state(InboxState::Dead), vec![]),
    ] {
        let mut reverse = expected.clone();
        reverse.reverse();
        for (from, expected) in [(before(first), expected), (InboxCursor::Newest, reverse)] {
            for page in [1, 2, 100] {
                let rows = list(store, &filter, from, first, page).await;
                assert_eq!(
                    places(&rows, &jobs),
                    expected,
                    "the rows for {filter:?} from {from:?} on, {page} at a time"
                );
            }
        }
    }
    for from in [InboxCursor::Oldest, InboxCursor::Newest] {
        let none = store.list(&all(), from, 0).await;
        assert!(
            none.as_ref().is_ok_and(|list| list.rows.is_empty() && list.next.is_some()),
            "listing with a limit of 0: expected no rows and a place to go on, got {none:?}"
        );
    }
    let listed = list(store, &all(), before(first), first, 100).await;
    for job in &jobs {
        let listed = listed.iter().find(|row| *job == *row.job_id).cloned();
        assert_eq!(
            listed.map(timeless),
            Some(timeless(row(store, job).await)),
            "a listed row, and the same row by `get`"
        );
    }
}

/// Rows are found by the beginning of their id, by a part of their last error, and by their age.
pub(super) async fn rows_are_found_by_id_error_and_age(store: &dyn InboxAdmin) {
    let run = job().to_string();
    let id = |suffix: &str| -> JobId {
        format!("{run}{suffix}")
            .parse()
            .unwrap_or_else(|error| panic!("the suite made an invalid id: {error}"))
    };
    let jobs = [id("-a"), id("-A"), id("-a%"), id("-b"), job()];
    let errors = ["No Connection", "no connection: É", "100%", "", "no connection"];
    for (job, text) in jobs.iter().zip(errors) {
        let Some(held) = bring(store, &completed(job), Stage::Running).await else { continue };
        settle(store, &held, &error(text)).await;
    }
    let first = row(store, &jobs[0]).await.number;
    let of_run = || InboxFilter::default().job_prefix(&run);
    let any = InboxFilter::default;
    for (filter, expected) in [
        (of_run(), vec![0, 1, 2, 3]),
        (any().job_prefix(format!("{run}-a")), vec![0, 2]),
        (any().job_prefix(format!("{run}-a%")), vec![2]),
        (any().job_prefix(id("-b").to_string()), vec![3]),
        (any().job_prefix(format!("{run}-_")), vec![]),
        (any().job_prefix(&run[1..]), vec![]),
        (any().job_prefix(format!("{run} ")), vec![]),
        (any().job_prefix(""), vec![0, 1, 2, 3, 4]),
        (of_run().error("no connection"), vec![0, 1]),
        (of_run().error("CONNECTION: É"), vec![1]),
        (of_run().error("connection: é"), vec![]),
        (of_run().error("%"), vec![2]),
        (of_run().error("_"), vec![]),
        (of_run().error(""), vec![0, 1, 2, 3]),
        (any().error("no connection"), vec![0, 1, 4]),
        (of_run().error("no").state(InboxState::Dead), vec![0, 1]),
        (of_run().error("no").state(InboxState::Done), vec![]),
    ] {
        let rows = list(store, &filter, before(first), first, 2).await;
        assert_eq!(places(&rows, &jobs), expected, "the rows for {filter:?}");
        assert!(rows.iter().all(|row| filter.matches(row)), "a row for {filter:?} does not match it");
    }
    for age in leases() {
        let old = received(store).await;
        sleep(age * 2).await;
        let began = Instant::now();
        let new = received(store).await;
        let first = row(store, &old).await.number;
        let jobs = [old, new];
        let older = list(store, &any().older_than(age), before(first), first, 100).await;
        let newer = list(store, &any().newer_than(age), before(first), first, 100).await;
        if began.elapsed() < age {
            assert_eq!(places(&older, &jobs), [0], "of an old and a new row, those older than {age:?}");
            assert_eq!(places(&newer, &jobs), [1], "of an old and a new row, those newer than {age:?}");
            return;
        }
    }
}

/// A row that is there all along is listed once, whatever other rows do between two pages.
pub(super) async fn lists_repeat_and_skip_nothing_while_rows_come_and_go(store: &dyn InboxAdmin) {
    for (is_oldest_first, by_type) in [(true, true), (true, false), (false, true), (false, false)] {
        let run = job().to_string();
        let mut jobs = Vec::new();
        for place in 0..12 {
            let job = format!("{run}-{place}");
            let job = job.parse().unwrap_or_else(|error| panic!("the suite made an invalid id: {error}"));
            bring(store, &event(&job, &run, "completed", ""), Stage::Dead).await;
            jobs.push(job);
        }
        let filter = InboxFilter::default();
        let filter = if by_type { filter.job_type(&run) } else { filter.job_prefix(&run) };
        let first = row(store, &jobs[0]).await.number;
        let mut from = if is_oldest_first { before(first) } else { InboxCursor::Newest };
        // Rows that are discarded and replayed after each page: on both sides of it, and its last one.
        let (mut discarded, mut replayed) = ([3, 4, 7, 8].into_iter(), [1, 10].into_iter());
        let mut seen = Vec::new();
        loop {
            let page = page(store, &filter, from, 2).await;
            seen.extend(places(&page.rows, &jobs));
            if let Some(place) = discarded.next() {
                discard(store, &jobs[place]).await;
            }
            if let Some(place) = replayed.next() {
                replay(store, &jobs[place]).await;
            }
            store_event(store, &completed(&job())).await;
            match page.next {
                Some(InboxCursor::Before(number)) if number <= first => break,
                Some(next) => from = next,
                None => break,
            }
        }
        for place in [0, 1, 2, 5, 6, 9, 10, 11] {
            let times = seen.iter().filter(|seen| **seen == place).count();
            assert_eq!(
                times, 1,
                "the number of times that row {place} of 12 was listed, in the list {seen:?}"
            );
        }
        clear(store).await;
    }
}

/// The place just before a row.
fn before(number: u64) -> InboxCursor {
    number.checked_sub(1).map_or(InboxCursor::Oldest, InboxCursor::After)
}

/// The places of those rows that are of one of these jobs.
fn places(rows: &[InboxRow], jobs: &[JobId]) -> Vec<usize> {
    rows.iter().filter_map(|row| jobs.iter().position(|job| *job == *row.job_id)).collect()
}

/// All pages of a list, back to the row with number `first` if the newest row is the first.
async fn list(
    store: &dyn InboxAdmin,
    filter: &InboxFilter,
    mut from: InboxCursor,
    first: u64,
    most: usize,
) -> Vec<InboxRow> {
    let mut rows = Vec::new();
    loop {
        let next = page(store, filter, from, most).await;
        rows.extend(next.rows);
        from = match next.next {
            Some(InboxCursor::Before(number)) if number <= first => return rows,
            Some(next) => next,
            None => return rows,
        };
    }
}

/// One page of a list. Checks its size and order, and that the list goes on behind it.
async fn page(store: &dyn InboxAdmin, filter: &InboxFilter, from: InboxCursor, most: usize) -> InboxList {
    let list = match store.list(filter, from, most).await {
        Ok(list) => list,
        Err(error) => panic!("listing rows failed: {error:?}"),
    };
    let numbers: Vec<u64> = list.rows.iter().map(|row| row.number).collect();
    assert!(numbers.len() <= most, "a list with a limit of {most} has {} rows", numbers.len());
    let is_behind = |number: u64, from: InboxCursor| match from {
        InboxCursor::Oldest | InboxCursor::Newest => true,
        InboxCursor::After(last) => number > last,
        InboxCursor::Before(last) => number < last,
    };
    let mut at = from;
    for number in &numbers {
        assert!(is_behind(*number, at), "a list from {from:?} on has the numbers {numbers:?}");
        at = from.past(*number);
    }
    if let Some(next) = list.next {
        let is_further = match next {
            InboxCursor::After(number) | InboxCursor::Before(number) => is_behind(number, from),
            InboxCursor::Oldest | InboxCursor::Newest => false,
        };
        assert!(
            is_further && next.is_oldest_first() == from.is_oldest_first(),
            "a list from {from:?} on goes on from {next:?}"
        );
        assert!(
            numbers.last().is_none_or(|last| !is_behind(*last, next)),
            "a list from {from:?} on with the numbers {numbers:?} goes on from {next:?}"
        );
    }
    list
}
