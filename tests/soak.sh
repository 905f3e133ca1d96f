#!/usr/bin/env bash
# Runs a receiver, a worker and a fetcher under steady load with faults, optimized: tests/soak.sh MINUTES [sqlite] [postgres]
set -euo pipefail
cd "$(dirname "$0")/.."

exec cargo test --locked --release --features axum,client,postgres,sender,sqlite --test soak -- "${@:-60}"
