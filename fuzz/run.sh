#!/usr/bin/env bash
# Fuzzes one target for some seconds: fuzz/run.sh TARGET SECONDS [MORE OPTIONS OF LIBFUZZER]
# or merges what was found into the small corpus of the tree: fuzz/run.sh TARGET --minimize
# The targets are those of fuzz/Cargo.toml. Needs cargo-fuzz and a C++ compiler; a stable compiler is enough, because no
# sanitizer is used: the library has no unsafe code. Overflow checks and debug assertions are on.
set -euo pipefail
cd "$(dirname "$0")/.."

usage="usage: fuzz/run.sh TARGET SECONDS [OPTION...] | fuzz/run.sh TARGET --minimize"
target=${1:?$usage}
time=${2:?$usage}
shift 2
cargo fuzz --version >/dev/null 2>&1 || cargo install --quiet --locked --debug cargo-fuzz

# The inputs that this machine found stay in fuzz/work, which Git ignores.
kept=fuzz/corpus/$target
work=fuzz/work/$target
mkdir -p "$work" "$kept"
dictionary=fuzz/json.dict
if [[ $target == receive ]]; then
    cat fuzz/json.dict fuzz/http.dict >fuzz/work/receive.dict
    dictionary=fuzz/work/receive.dict
fi
run=(env RUSTC_BOOTSTRAP=1 cargo fuzz run --sanitizer none "$target")

if [[ $time == --minimize ]]; then
    smallest=$(mktemp -d -p fuzz/work)
    trap 'rm -rf "$smallest"' EXIT
    # The fewest inputs that reach every edge.
    "${run[@]}" "$smallest" "$kept" "$work" -- -set_cover_merge=1 -use_counters=0 -max_len=2048
    rm -rf "$kept"
    mv "$smallest" "$kept"
    chmod 755 "$kept"
    trap - EXIT
    echo "$kept: $(find "$kept" -type f | wc -l) inputs"
    exit
fi
exec "${run[@]}" "$work" "$kept" -- -dict="$dictionary" -max_len=2048 -max_total_time="$time" -print_final_stats=1 "$@"
