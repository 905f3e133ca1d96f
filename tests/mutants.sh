#!/usr/bin/env bash
# Plants every bug that cargo-mutants knows into files and folders, nearly all in one build, and fails if the tests do not see one:
# tests/mutants.sh src/execution src/dedup/memory.rs
# tests/mutants.py does it. The bugs that change nothing are in .cargo/mutants.toml, each with its reason.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo mutants --version >/dev/null 2>&1 || cargo install --quiet --locked --debug cargo-mutants

# Without debug information, a build takes a third less.
export CARGO_PROFILE_DEV_DEBUG=0
exec nice python3 tests/mutants.py "$@"
