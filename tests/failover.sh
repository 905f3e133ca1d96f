#!/usr/bin/env bash
# Kills a PostgreSQL primary under load and promotes its synchronous replica, again and again: tests/failover.sh [ROUNDS]
# With ASYNCHRONOUS=1 the replica is an asynchronous one: then the check must find lost events, and this script fails.
set -euo pipefail
cd "$(dirname "$0")/.."

rounds=${1:-100}
cargo build --locked --all-features --workspace --examples
exec cargo test --locked --workspace --all-features --test crash -- --only failover-postgres --kills $((rounds * 20))
