#!/usr/bin/env bash
# Runs every check and test of the project; `--quick` leaves out what takes long, and what needs a database.
# The last line counts what passed, what failed and what was not run; the exit status says whether anything failed.
set -uo pipefail

# A shell that starts this script in the background has Ctrl-C ignored by all that the script starts, and tests press it.
if [[ $(trap -p INT) ]]; then
    exec env --default-signal=INT,QUIT bash "$0" "$@"
fi
cd "$(dirname "$0")/.."

quick=false
case "${1:-}" in
    "") ;;
    --quick) quick=true ;;
    *) echo "usage: tests/run.sh [--quick]" >&2; exit 2 ;;
esac

scratch=$(mktemp -d)
beside=''
trap '[[ -z $beside ]] || kill -- "-$beside" 2>/dev/null; rm -rf "$scratch"' EXIT
export CARGO_TERM_COLOR=never
# Backtraces are off, so that nothing reads what would take a third of the build to write.
export CARGO_PROFILE_DEV_DEBUG=0
export RUST_BACKTRACE=0

# Runs a command, and says how long it took. It counts as one check, or as the number of tests that it reports. Tests none of
# which ran are a failure: their name has changed.
check() {
    local name=$1 began=$SECONDS output status reports ok bad impossible
    shift
    output=$(mktemp -p "$scratch")
    printf '\n== %s\n' "$name"
    "$@" 2>&1 | tee "$output"
    status=${PIPESTATUS[0]}
    printf -- '-- %s: %d s\n' "$name" $((SECONDS - began))
    read -r reports ok bad < <(
        awk '/^test result:/ { reports++; ok += $4; bad += $6 } END { print reports + 0, ok + 0, bad + 0 }' "$output"
    )
    if ((status == 0 && reports > 0 && ok == 0)); then status=1; echo "no test ran" | tee -a "$output"; fi
    if ((status != 0 && bad == 0)); then bad=1; fi
    if ((status == 0 && ok == 0)); then ok=1; fi
    result "$ok" "$bad" "$status" "$name"
    impossible=$(grep -oE '[1-9][0-9]* not run, impossible here' "$output" | head -1)
    if [[ -n $impossible ]]; then leave_out "$name: $impossible"; fi
    # Repeated at the end, where nobody has to look for it.
    if ((status != 0)); then
        { printf '\n== the end of: %s\n' "$name"; grep -vE '^test .* (ok|ignored)$' "$output" | tail -n 60; } >>"$scratch/failures"
    fi
}

result() {
    printf '%d %d %d %s\n' "$@" >>"$scratch/results"
}

# Notes a check that this machine cannot run.
leave_out() {
    printf '\n== not run: %s\n' "$1"
    printf '  %s\n' "$1" >>"$scratch/left-out"
}

# What a Debian machine with Rust on it may lack. The tests start servers of their own, on free ports, in a
# temporary folder; that the packages may start some, too, does not matter to them.
need() {
    command -v "$1" >/dev/null && return
    local sudo=()
    ((EUID == 0)) || sudo=(sudo)
    "${sudo[@]}" apt-get update -qq &&
        "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y "$2"
}
need cc build-essential
need pgrep procps
if ! $quick; then
    need redis-server redis-server
    compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || need postgres postgresql
    need pgbouncer pgbouncer
    need faketime faketime
    need promtool prometheus
    command -v chromium-browser google-chrome >/dev/null || need chromium chromium
fi
cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt
cargo clippy --version >/dev/null 2>&1 || rustup component add clippy

# The tests mostly wait, so more of them run at once than there are cores.
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-4}

# All tests but those that kill servers. One of the examples has a test; the others would only be linked once more.
tests=(--lib --bins --test it --test sim --example custom_dedup_store)

# The unit tests and two examples of the crate as it is published, which leaves most of the tests out. They stand in the
# repository's workspace, so that the dependencies are those that were built for the other tests.
package() {
    local target=${CARGO_TARGET_DIR:-$PWD/target} repository=$PWD version
    version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml)
    cargo package --locked --allow-dirty --no-verify --quiet -p qomplement-webhooks &&
        tar -xzf "$target/package/qomplement-webhooks-$version.crate" -C "$scratch" &&
        cd "$scratch/qomplement-webhooks-$version" &&
        cp -r "$repository"/cli "$repository"/Cargo.lock . &&
        printf '\n[workspace]\nmembers = ["cli"]\n' >>Cargo.toml &&
        sed -n '/^\[workspace\.lints/,/^$/p' "$repository"/Cargo.toml >>Cargo.toml &&
        CARGO_TARGET_DIR=$target cargo test --locked --workspace --all-features --lib \
            --example any_framework --example custom_dedup_store
}

# The examples that need a set of features, and the set. Those of one line are checked together.
examples() {
    awk '
        function end() { if (name) { examples[features] = examples[features] " --example " name } name = features = "" }
        /^\[/ { end(); on = $0 == "[[example]]" }
        on && /^name = / { gsub(/"/, ""); name = $3 }
        on && sub(/^required-features = /, "") { gsub(/[^a-z0-9_,-]/, ""); features = $0 }
        END { end(); for (features in examples) { print "--features=" features examples[features] } }
    ' Cargo.toml | sort
}

# Each fuzz target reads the inputs that the tree keeps for it, without a fuzzer's instrumentation.
corpora() {
    cargo build --locked --manifest-path fuzz/Cargo.toml || return
    local target
    for target in fuzz/targets/*.rs; do
        target=$(basename "$target" .rs)
        "$CARGO_TARGET_DIR/debug/$target" fuzz/corpus/"$target"/* 2>"$scratch/fuzzed" || { cat "$scratch/fuzzed"; return 1; }
    done
}

features=$(awk '/^\[/ { on = $0 == "[features]" } on && /^[a-z]/ && $1 != "default" { print $1 }' Cargo.toml)

# What mostly compiles. It runs beside the tests, which mostly wait.
compilations() {
    check "clippy, no feature" cargo clippy --locked -- -D warnings
    for feature in $features; do
        check "clippy, only $feature" cargo clippy --locked --features "$feature" -- -D warnings
    done
    while read -ra which; do
        check "examples with their features alone: ${which[*]}" cargo check --locked "${which[@]}"
    done < <(examples)
    check "unit tests without features compile" cargo check --locked --lib --tests
    RUSTDOCFLAGS="-D warnings" check "documentation, everything" cargo doc --locked --no-deps --all-features
    RUSTDOCFLAGS="-D warnings" check "documentation, no feature" cargo doc --locked --no-deps
    # Packages of their own, in the same target folder. The first starts a PostgreSQL server.
    CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target} check "examples with sqlx, diesel and sea-orm" \
        cargo test --locked --manifest-path examples/orms/Cargo.toml
    CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target} check "examples with poem, salvo and AWS Lambda" \
        cargo test --locked --manifest-path examples/frameworks/Cargo.toml
    # In few orders: a source that the races copy may have changed.
    ORDERS=50 CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target} check "races in random orders" \
        cargo test --locked --manifest-path tests/shuttle/Cargo.toml
    CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target} check "fuzz targets read their corpora" corpora
    # Compiling cargo-deny takes as long as all tests of the command line; the workflow has a job for it, with advisories.
    if cargo deny --version >/dev/null 2>&1; then
        check "dependencies" cargo deny --workspace --all-features check --allow duplicate bans licenses sources
    else
        leave_out "dependencies: cargo deny is not installed"
    fi
}

check "formatting" cargo fmt --all --check
check "formatting of the examples with other drivers" cargo fmt --manifest-path examples/orms/Cargo.toml --check
check "formatting of the comparison with peers" cargo fmt --manifest-path benches/peers/Cargo.toml --check
check "formatting of the examples with other frameworks" \
    cargo fmt --manifest-path examples/frameworks/Cargo.toml --check
check "formatting of the fuzz targets" cargo fmt --manifest-path fuzz/Cargo.toml --check
check "formatting of the races" cargo fmt --manifest-path tests/shuttle/Cargo.toml --check
check "clippy, everything" cargo clippy --locked --workspace --all-features --all-targets -- -D warnings
# The tests run the examples as programs, with all features.
check "examples, everything" cargo build --locked --workspace --all-features --examples
if $quick; then
    check "unit and integration tests, without databases and a browser" \
        cargo test --locked --workspace --all-features --no-fail-fast "${tests[@]}" -- \
        --skip databases:: --skip alerts:: --skip browser::
else
    check "tests compile" cargo test --locked --workspace --all-features "${tests[@]}" --test crash --no-run
    # In a group of processes of its own, which ends with this script.
    set -m
    compilations </dev/null >"$scratch/compilations" 2>&1 &
    beside=$!
    set +m
    check "unit and integration tests" cargo test --locked --workspace --all-features --no-fail-fast "${tests[@]}"
    # npm itself is not installed for this one test: on Debian it has some 350 packages.
    if timeout 30 npm view axe-core version >/dev/null 2>&1; then
        check "accessibility of the page" cargo test --locked --workspace --all-features --test it -- \
            --ignored page::browser::every_view_is_accessible
    else
        leave_out "accessibility of the page: npm is not installed, or reaches no registry"
    fi
    check "servers that are killed" cargo test --locked --workspace --all-features --test crash
    wait "$beside" || result 0 1 1 "the compilations beside the tests ended early"
    beside=''
    cat "$scratch/compilations"
    # Not beside the tests: it makes two of the examples anew, which they run.
    check "unit tests of the package" package
fi
check "documentation tests" cargo test --locked --workspace --all-features --doc
if ! $quick; then
    check "alert rules" promtool check rules dashboards/alerts.yml
    check "alert rules with made-up series" promtool test rules dashboards/alerts_test.yml
    check "example quickstart runs" timeout 10 "${CARGO_TARGET_DIR:-target}/debug/examples/quickstart"
    check "example any_framework runs" timeout 10 "${CARGO_TARGET_DIR:-target}/debug/examples/any_framework"
    check "example custom_dedup_store runs" timeout 10 "${CARGO_TARGET_DIR:-target}/debug/examples/custom_dedup_store"
    check "benchmarks run" cargo test --locked --workspace --all-features --bench parse
fi

cat "$scratch/failures" 2>/dev/null
left_out=0
if [[ -e $scratch/left-out ]]; then
    left_out=$(wc -l <"$scratch/left-out")
    printf '\nnot run:\n'
    cat "$scratch/left-out"
fi
awk -v left_out="$left_out" '
    { passed += $1; failed += $2 }
    $3 != 0 { sub(/^[0-9]+ [0-9]+ [0-9]+ /, ""); failures = failures "  " $0 "\n" }
    END {
        if (failures) { printf "\nfailed:\n%s", failures }
        printf "\n%d passed, %d failed%s\n", passed, failed, (left_out ? ", " left_out " not run" : "")
        exit failed > 0
    }
' "$scratch/results"
