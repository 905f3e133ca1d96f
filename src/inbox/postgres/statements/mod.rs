//! One SQL statement for each transition of a row, as `inbox/transition.rs` states them in Rust.
//!
//! A statement compares due times with the time of its start, and counts new times from the time at which it finds
//! the row: both err on the safe side.

mod admin;
mod fragments;
mod leasing;
mod pruning;
mod receiving;
pub(super) mod search;
mod settling;
pub(super) mod traffic;

pub(super) use self::leasing::Values;
use crate::postgres::TableName;

/// The channel of notifications about arrivals; the payload names the inbox and its table.
pub(super) const CHANNEL: &str = "qomplement_inbox";

/// The rows that may be leased.
pub(super) const UNFINISHED: &str = "state IN ('received', 'running')";
/// Those of them that the index by time holds, and the others, which the index by number of fetches holds.
pub(super) const NEVER_FETCHED: &str = "state IN ('received', 'running') AND fetches <= 0";
pub(super) const FETCHED: &str = "state IN ('received', 'running') AND fetches > 0";

/// The statements, with the table's name in them.
pub(super) struct Statements {
    pub(super) check: String,
    pub(super) receive_new: String,
    pub(super) receive: String,
    pub(super) count: String,
    pub(super) lease: String,
    pub(super) lease_unread: String,
    pub(super) look_at_all: String,
    pub(super) begin: String,
    pub(super) renew: String,
    pub(super) settle: String,
    pub(super) verify: String,
    pub(super) done: String,
    pub(super) retry: String,
    pub(super) dead: String,
    pub(super) rejected: String,
    pub(super) release: String,
    pub(super) pending: String,
    pub(super) not_found: String,
    pub(super) failed: String,
    pub(super) complete: String,
    pub(super) expect: String,
    pub(super) expect_counted: String,
    pub(super) overdue: String,
    pub(super) overdue_unread: String,
    pub(super) read: String,
    pub(super) read_overdue: String,
    pub(super) contains: String,
    pub(super) prune_rows: String,
    pub(super) prune_payloads: String,
    pub(super) prune_dead: String,
    pub(super) prune_traffic: String,
    pub(super) get: String,
    pub(super) listed: String,
    pub(super) job: String,
    pub(super) replay: String,
    pub(super) discard: String,
    pub(super) stats: String,
    pub(super) traffic: String,
    pub(super) dead_errors: String,
    pub(super) set_aside: String,
    pub(super) notify: String,
}

impl Statements {
    pub(super) fn new(table: &TableName) -> Self {
        Self {
            check: format!(
                "SELECT FROM {table}
                WHERE number = 0::int8 AND fence = 0::int8 AND attempts + earlier_attempts = 0::int4
                    AND job_id || state || job_type || status || traceparent || error = ''::text
                    AND body = ''::bytea
                    AND fetches + not_found = 0::int4 AND verified AND begun
                    AND due_at > now() AND received_at > now() AND ended_at > now()
                    AND next_fetch_at > now() AND unanswered_since > now() AND deadline_at > now() AND failures = '[]'::jsonb
                UNION ALL {}",
                traffic::check(table)
            ),
            receive_new: receiving::receive_new(table),
            receive: receiving::receive(table),
            count: receiving::count(table),
            lease: leasing::lease(table, Values::Returned),
            lease_unread: leasing::lease(table, Values::Left),
            look_at_all: leasing::look_at_all(table),
            begin: leasing::begin(table),
            renew: leasing::renew(table),
            settle: settling::settle(table),
            verify: settling::verify(table),
            done: settling::done(table),
            retry: settling::retry(table),
            dead: settling::dead(table),
            rejected: settling::rejected(table),
            release: settling::release(table),
            pending: settling::pending(table),
            not_found: settling::not_found(table),
            failed: settling::failed(table),
            complete: settling::complete(table),
            expect: receiving::expect(table),
            expect_counted: receiving::expect_counted(table),
            overdue: leasing::overdue(table, Values::Returned),
            overdue_unread: leasing::overdue(table, Values::Left),
            read: leasing::read(table),
            read_overdue: leasing::read_overdue(table),
            contains: format!("SELECT FROM {table} WHERE job_id = $1"),
            prune_rows: pruning::prune_rows(table),
            prune_payloads: pruning::prune_payloads(table),
            prune_dead: pruning::prune_dead(table),
            prune_traffic: traffic::prune(table),
            get: admin::get(table),
            listed: admin::listed(table),
            job: format!("SELECT job_id FROM {table} WHERE number = $1"),
            replay: admin::replay(table),
            discard: admin::discard(table),
            stats: admin::stats(table),
            traffic: traffic::traffic(table),
            dead_errors: admin::dead_errors(table),
            set_aside: leasing::set_aside(table),
            // A notification is only a hint to look into the table, so it need not be on the disk.
            notify: format!(
                "SELECT set_config('synchronous_commit', 'off', true), pg_notify('{CHANNEL}', $1)"
            ),
        }
    }
}
