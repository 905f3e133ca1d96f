//! The contract of an [`InboxStore`](crate::InboxStore) and an [`InboxAdmin`] as checks.

mod admin;
mod bulk;
mod cancel;
mod expect;
mod fetches;
mod kept;
mod lease;
mod listing;
mod pruning;
mod receive;
mod settle;
mod steps;
#[cfg(test)]
mod tests;
mod traceparent;
mod traffic;
mod verify;

use super::harness::{Failures, run_all};
use crate::inbox::InboxAdmin;

/// A difference between inboxes that the contract allows; see [`inbox_all`]. No difference is allowed so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum InboxDifference {}

/// Runs every check of the contract of [`InboxStore`](crate::InboxStore) and [`InboxAdmin`], also after one has failed.
///
/// `other` is a second handle of the same inbox, such as another connection to the same server; pass the same handle
/// twice if there is only one. `differences` lists the inbox's allowed differences from the full contract.
///
/// **No other process may use the inbox during the run.** The inbox need not be empty: rows of earlier runs do not
/// disturb the checks. The suite settles every other row that it leases as done, and prunes done rows and dead letters.
///
/// # Panics
///
/// Panics if a check fails. The message has a line for each failed check: its name, which states the rule, and what the
/// inbox did instead.
pub async fn inbox_all(store: &dyn InboxAdmin, other: &dyn InboxAdmin, differences: &[InboxDifference]) {
    let _ = differences;
    run(store, other, None).await.report();
}

/// Runs the checks up to the one named `last`, or all.
async fn run(store: &dyn InboxAdmin, other: &dyn InboxAdmin, last: Option<&str>) -> Failures {
    let mut failures = Failures::of("InboxStore");
    run_all! { failures, last;
        receive::an_event_is_leased_as_it_was_received(store);
        receive::a_duplicate_changes_nothing(store);
        receive::the_first_of_two_final_events_is_kept(store);
        receive::a_status_that_is_not_final_replaces_nothing(store);
        receive::a_final_status_replaces_one_that_is_not(store);
        receive::a_replaced_event_makes_its_lease_stale(store);
        receive::an_event_is_replaced_after_its_lease_ended(store);
        receive::one_of_many_duplicates_at_once_is_stored(store);
        receive::the_final_one_of_events_at_once_is_kept(store);
        lease::a_row_is_leased_to_one_caller(store);
        lease::no_more_rows_are_leased_than_the_limit(store);
        lease::rows_due_for_longest_come_first(store);
        lease::an_attempt_is_counted_at_its_lease(store);
        lease::a_lease_tells_whether_the_handler_began_before(store);
        lease::the_fencing_token_grows_with_every_lease(store);
        lease::a_lease_lasts_for_its_length(store);
        lease::a_lease_ends(store);
        lease::a_renewed_lease_counts_from_its_renewal(store);
        lease::an_expired_lease_still_writes(store);
        lease::only_the_last_lease_writes(store);
        settle::a_done_row_stays_done(store);
        settle::a_retry_waits_for_its_delay(store);
        settle::a_released_attempt_does_not_count(store);
        settle::a_dead_letter_stays_dead(store);
        settle::a_repeated_outcome_counts_once(store);
        settle::the_first_outcome_counts(store);
        settle::an_error_may_be_any_text(store);
        settle::the_last_failed_attempts_are_kept(store);
        settle::an_attempt_whose_lease_expired_has_failed(store);
        settle::failed_attempts_begin_anew_with_another_event(store);
        settle::outcomes_at_once_are_all_recorded(store);
        expect::an_expected_job_is_known(store);
        expect::the_event_of_an_expected_job_is_stored(store);
        expect::registering_a_job_again_changes_nothing(store);
        expect::registrations_at_once_make_one_row(store);
        expect::a_status_that_is_not_final_ends_no_expectation(store);
        expect::a_job_is_overdue_after_its_deadline(store);
        expect::an_overdue_job_is_leased_again_after_its_lease(store);
        expect::an_overdue_job_is_leased_to_one_caller(store);
        verify::a_fetched_result_becomes_the_event_of_an_overdue_job(store);
        verify::a_webhook_wins_over_a_later_result(store);
        verify::a_fetched_result_replaces_the_event_of_a_running_row(store);
        fetches::a_pending_job_is_expected_again(store);
        fetches::fetches_without_a_result_are_counted_apart(store);
        fetches::a_rejected_job_may_come_again(store);
        fetches::a_job_is_fetched_again_after_its_delay(store);
        fetches::only_the_last_lease_of_an_overdue_job_writes(store);
        fetches::the_time_overdue_counts_from_the_deadline(store);
        fetches::rows_fetched_least_come_first(store);
        fetches::the_time_without_an_answer_counts_from_the_first_failure(store);
        fetches::the_fetch_history_begins_anew(store);
        verify::one_of_a_result_and_a_webhook_at_once_counts(store);
        traceparent::the_traceparent_of_the_first_delivery_is_kept(store);
        traceparent::a_replaced_event_leaves_no_traceparent(store);
        traceparent::a_verified_event_keeps_the_traceparent_of_its_delivery(store);
        traceparent::a_fetched_event_of_an_expected_job_has_no_traceparent(store);
        traceparent::traceparents_at_once_are_kept_apart(store);
        kept::durations_may_have_any_length(store);
        expect::a_row_is_found_in_every_state(store);
        admin::a_replay_begins_anew_and_keeps_earlier_attempts(store);
        admin::only_rows_that_ended_are_replayed(store);
        listing::rows_are_listed_in_order(store);
        listing::rows_are_found_by_id_error_and_age(store);
        listing::lists_repeat_and_skip_nothing_while_rows_come_and_go(store);
        admin::a_row_tells_its_age_and_when_it_is_due(store);
        admin::rows_are_counted(store);
        admin::dead_letters_are_counted_by_error(store);
        traffic::stored_events_are_counted_by_minute(store);
        traffic::handled_events_are_counted_by_minute(store);
        bulk::only_dead_letters_are_discarded(store);
        bulk::a_lease_of_a_deleted_row_writes_nothing(store);
        bulk::rows_are_replayed_by_a_filter(store);
        bulk::rows_without_an_event_are_replayed_by_a_filter(store);
        bulk::dead_letters_are_discarded_by_a_filter(store);
        bulk::rows_are_changed_by_one_of_many_calls(store);
        pruning::only_done_rows_are_pruned(store);
        pruning::dead_letters_are_pruned_only_after_their_retention(store);
        pruning::retention_counts_from_completion(store);
        kept::ids_are_compared_exactly(store);
        kept::types_and_statuses_may_be_any_text(store);
        kept::a_large_body_is_kept(store);
        kept::many_rows_are_kept_apart(store);
        cancel::a_cancelled_receipt_can_be_repeated(store);
        cancel::a_cancelled_lease_ends(store);
        cancel::a_cancelled_outcome_can_be_repeated(store);
        cancel::a_cancelled_result_can_be_repeated(store);
        cancel::other_cancelled_calls_can_be_repeated(store);
        kept::two_handles_are_one_store(store, other);
    }
    failures
}
