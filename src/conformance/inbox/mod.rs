//! What an `InboxStore` must do.

mod admin;
mod cancel;
mod expect;
mod fetches;
mod kept;
mod lease;
mod receive;
mod settle;
mod steps;
#[cfg(test)]
mod tests;

pub use self::admin::*;
pub use self::cancel::*;
pub use self::expect::*;
pub use self::fetches::*;
pub use self::kept::*;
pub use self::lease::*;
pub use self::receive::*;
pub use self::settle::*;
use super::harness::run_all;
use crate::inbox::InboxAdmin;

/// What an inbox may do differently from others; see [`inbox_all`]. So far, nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum InboxDifference {}

/// Runs every check, and panics with the names of those that failed and with what is wrong.
///
/// `other` is a second handle of the same inbox, such as another connection to the same server; when there can
/// be none, give the same one twice. `differences` are what is known of the store, and within the contract.
///
/// **The inbox must be the suite's own while it runs.** It need not be empty: rows of earlier runs do not
/// disturb the checks. But whatever they lease that is not theirs they settle as done, and what is done they
/// prune.
///
/// # Panics
///
/// When the store does not keep the contract.
pub async fn inbox_all(store: &dyn InboxAdmin, other: &dyn InboxAdmin, differences: &[InboxDifference]) {
    let _ = differences;
    let failures = failures(store, other, None).await;
    assert!(failures.is_empty(), "the store does not keep the contract of InboxStore:{failures}");
}

/// The checks that fail, of all or of those up to the last.
async fn failures(store: &dyn InboxAdmin, other: &dyn InboxAdmin, last: Option<&str>) -> String {
    let mut failures = String::new();
    run_all! { failures, last;
        inbox_an_event_is_leased_as_it_was_received(store);
        inbox_a_copy_changes_nothing(store);
        inbox_the_first_of_two_events_is_kept(store);
        inbox_a_status_that_is_not_final_replaces_nothing(store);
        inbox_a_final_status_replaces_one_that_is_not(store);
        inbox_a_replaced_event_makes_its_lease_stale(store);
        inbox_an_event_is_replaced_when_its_lease_has_ended(store);
        inbox_of_many_copies_at_once_one_is_stored(store);
        inbox_of_events_at_once_the_final_one_is_kept(store);
        inbox_a_row_is_leased_to_one(store);
        inbox_no_more_is_leased_than_asked_for(store);
        inbox_those_due_for_longest_come_first(store);
        inbox_an_attempt_is_counted_at_its_lease(store);
        inbox_a_lease_says_whether_the_one_before_it_began(store);
        inbox_the_fencing_token_grows_with_every_lease(store);
        inbox_a_lease_lasts_as_long_as_it_says(store);
        inbox_a_lease_ends(store);
        inbox_a_renewed_lease_counts_from_its_renewal(store);
        inbox_a_lease_that_ended_is_still_the_last(store);
        inbox_only_the_last_lease_writes(store);
        inbox_what_is_done_stays_done(store);
        inbox_a_retry_waits_for_its_delay(store);
        inbox_a_released_attempt_does_not_count(store);
        inbox_what_is_dead_stays_dead(store);
        inbox_an_outcome_twice_is_one(store);
        inbox_the_first_outcome_counts(store);
        inbox_an_error_may_be_any_text(store);
        inbox_outcomes_at_once_are_all_recorded(store);
        inbox_an_expected_job_is_known(store);
        inbox_an_expected_job_is_received(store);
        inbox_expecting_a_job_never_resets_it(store);
        inbox_a_job_expected_many_times_is_one(store);
        inbox_a_status_that_is_not_final_ends_no_expectation(store);
        inbox_a_job_is_overdue_after_its_deadline(store);
        inbox_a_job_is_overdue_again_after_a_while(store);
        inbox_an_overdue_job_is_returned_to_one(store);
        inbox_an_overdue_job_is_verified(store);
        inbox_a_webhook_wins_over_an_answer(store);
        inbox_a_running_row_is_verified(store);
        inbox_a_job_that_has_not_ended_is_expected_again(store);
        inbox_what_the_api_cannot_say_is_counted_apart(store);
        inbox_a_job_that_is_none_may_come_again(store);
        inbox_a_job_is_asked_for_again_after_a_while(store);
        inbox_the_last_that_asks_for_a_job_writes(store);
        inbox_a_job_says_how_late_it_is(store);
        inbox_what_was_fetched_least_comes_first(store);
        inbox_the_time_without_an_answer_is_told(store);
        inbox_asking_begins_anew_with_a_new_life(store);
        inbox_of_an_answer_and_a_webhook_at_once_one_counts(store);
        inbox_a_time_may_be_any(store);
        inbox_a_job_is_there_wherever_it_stands(store);
        inbox_a_replay_begins_anew_and_keeps_the_attempts(store);
        inbox_only_what_has_ended_is_replayed(store);
        inbox_rows_are_listed_in_order(store);
        inbox_a_row_says_how_old_it_is_and_when_it_is_due(store);
        inbox_rows_are_counted(store);
        inbox_only_what_is_done_is_pruned(store);
        inbox_retention_counts_from_when_it_was_done(store);
        inbox_ids_are_compared_exactly(store);
        inbox_types_and_statuses_may_be_any_text(store);
        inbox_a_large_body_is_kept(store);
        inbox_many_rows_are_kept_apart(store);
        inbox_a_cancelled_receipt_can_be_repeated(store);
        inbox_a_cancelled_lease_ends(store);
        inbox_a_cancelled_outcome_can_be_repeated(store);
        inbox_a_cancelled_answer_can_be_repeated(store);
        inbox_other_cancelled_calls_can_be_repeated(store);
        inbox_two_handles_are_one_store(store, other);
    }
    failures
}
