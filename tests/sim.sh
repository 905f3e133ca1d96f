#!/usr/bin/env bash
# Runs many seeds of the simulation, optimized, on all cores: tests/sim.sh --seeds 1000000 [--from 4711]
set -euo pipefail
cd "$(dirname "$0")/.."

seeds=100000
from=0
while (($#)); do
    case "$1" in
        --seeds) seeds=$2 ;;
        --from) from=$2 ;;
        *) echo "usage: tests/sim.sh [--seeds NUMBER] [--from SEED]" >&2; exit 2 ;;
    esac
    shift 2
done
SIM_SEEDS=$seeds SIM_FROM=$from exec cargo test --locked --release --features conformance,sender --test sim -- \
    --nocapture no_seed_breaks_a_promise
