#!/usr/bin/env bash
# Plants every bug that cargo-mutants knows into one file, one at a time, and lists those that the unit tests do not see:
# tests/mutants.sh src/event/parse.rs [--test it -- answers::]
# Each costs a build of the library and its tests. What follows the file is passed to `cargo test`, in the place of `--lib`;
# the integration tests need all features. The bugs that change nothing are in .cargo/mutants.toml, each with its reason.
set -euo pipefail
cd "$(dirname "$0")/.."

file=${1:?usage: tests/mutants.sh FILE [OPTION OF CARGO TEST...]}
shift
tests=("${@:---lib}")
features=(--features conformance,sender)
case "$file ${tests[*]}" in
    *"--test "*) features=(--all-features) ;;
    *sqlite*) features=(--features conformance,sender,sqlite) ;;
    *fetch/client*) features=(--features client,conformance,sender) ;;
    *postgres*) features=(--features conformance,postgres,sender) ;;
    *redis*) features=(--features conformance,redis,sender) ;;
esac
cargo mutants --version >/dev/null 2>&1 || cargo install --quiet --locked --debug cargo-mutants

# Without debug information, a build takes a third less. The copy in which the bugs are planted has a target folder of its own.
export CARGO_PROFILE_DEV_DEBUG=0 RUST_BACKTRACE=0
exec nice cargo mutants --file "$file" --output target/mutants "${features[@]}" -- --locked "${tests[@]}"
