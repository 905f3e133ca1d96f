#!/usr/bin/env bash
# Measures this crate beside its peers, and makes the tables of benches/README.md and
# docs/scaling.md and the pictures from the values.
#
#   benches/run.sh                 every part, in about an hour
#   benches/run.sh queues memory   these parts: queues, connections, sizes, finished, memory
#   benches/run.sh instructions    the instructions of a request, in eight minutes; needs valgrind
#   benches/run.sh --report        no measurement: the tables and pictures once more
#
# ROUNDS and SECONDS_EACH set the length of each measurement, FINISHED the greatest number of finished rows as a power of
# ten (7 takes an hour and 30 GB more), FINISHED_OF_OURS that of ours alone (7: half of that). The values are kept in
# benches/peers/results/, one file for a part, with the state that was measured.
set -euo pipefail
cd "$(dirname "$0")/.."

parts=(queues connections sizes finished memory)
case "${1:-}" in
    --report) parts=() ;;
    "") ;;
    *) parts=("$@") ;;
esac

declare -A rounds=([queues]=5 [connections]=3 [sizes]=3 [finished]=3 [memory]=3)
declare -A seconds=([queues]=3 [connections]=2 [sizes]=2 [finished]=2 [memory]=1)

export CARGO_TERM_COLOR=never
if [ "${1:-}" = instructions ]; then
    tables=$(mktemp)
    cargo bench --locked --all-features --bench instructions >"$tables"
    sed -i -e '/^<!-- instructions -->$/,/^<!-- end of instructions -->$/ { //!d }' \
        -e "/^<!-- instructions -->\$/r $tables" benches/README.md
    rm "$tables"
    exit
fi
cargo build --release --locked --manifest-path benches/peers/Cargo.toml
program=${CARGO_TARGET_DIR:-benches/peers/target}/release/qomplement-webhooks-peers
results=benches/peers/results
mkdir -p "$results" benches/pictures

state() {
    local changes=''
    git diff --quiet HEAD -- src integrations benches/peers/src benches/peers/Cargo.lock || changes=' with changes'
    printf '# on %s at %s%s, %s cores of %s, %s, %s\n' \
        "$(date -u '+%Y-%m-%d')" "$(git rev-parse --short=7 HEAD)" "$changes" "$(nproc)" \
        "$(awk -F': ' '/^model name/ { print $2; exit }' /proc/cpuinfo)" \
        "$(rustc --version | cut -d' ' -f1,2)" \
        "$(/usr/lib/postgresql/*/bin/postgres --version 2>/dev/null | tail -1 | sed 's/ (PostgreSQL)//; s/ (Debian.*//')"
}

for part in "${parts[@]}"; do
    began=$SECONDS
    { state && "$program" measure "$part" "--rounds=${ROUNDS:-${rounds[$part]}}" \
        "--seconds=${SECONDS_EACH:-${seconds[$part]}}" "--finished=${FINISHED:-6}" \
        "--finished-of-ours=${FINISHED_OF_OURS:-0}"; } >"$results/$part.new"
    mv "$results/$part.new" "$results/$part.tsv"
    echo "$part: $((SECONDS - began)) s" >&2
done
"$program" report "$results" benches/README.md docs/scaling.md benches/pictures
