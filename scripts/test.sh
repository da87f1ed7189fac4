#!/usr/bin/env bash
# Runs and counts the tests. The last line is "N passed, N failed, N skipped".
#
#   scripts/test.sh            the steps of `make test`
#   scripts/test.sh all        the same, and those that `make test-all` adds
#   scripts/test.sh added      these alone
#   scripts/test.sh STEP…      these steps
#
# Each runs to its end, also after a failure: builds first, of which two run at a time where each uses one processor
# most of the time, then seven steps at a time, since most of them mostly wait for timers and servers. The steps of
# `make test`, which download no server:
#
#   compile             the tests of the next steps, and from the same crates the module for LuaJIT
#   rust                cargo test, without Lua, but for the tests that need a real server, and for programs in processes
#   contract, coordination, migrate, tools
#                       of these, the ones that wait most of the time, beside the others
#   cluster             those of clusters, but for a few long ones
#   histories           a history of locks and clusters under faults, of each kind
#   busted-quick        the Lua specs in the folders of spec/ on LuaJIT, simulated
#   busted-files-quick  the other Lua specs
#   lint                each of the checks of `make lint`, but for those of the other engines
#
# Those that `make test-all` adds:
#
#   build-luajit        the module for LuaJIT
#   build-5.1           the module for Lua 5.1
#   build-5.3           the module for Lua 5.3, not optimised
#   build-5.4           the module for Lua 5.4
#   compile-all         the tests of the five steps below, and consul-sim
#   simulation          500 histories of each kind (SEEDS), also with a rule broken, and the model of replicated shards
#   nodes               the tests of programs in processes
#   migrations          migrations from a real etcd, and from one that refuses, stalls and forgets
#   long                the tests in Rust that are ignored otherwise, since they compute long
#   servers             the other tests in Rust on real Consuls, with other clients and on other engines
#   busted-luajit-consul-sim  the Lua specs on LuaJIT, on consul-sim
#   busted-luajit-1.21  the same on a real Consul 1.21
#   busted-luajit-1.8   the same on a real Consul 1.8
#   busted-5.1-sim      the Lua specs on Lua 5.1, simulated
#   busted-5.3-sim      the specs tagged #smoke on Lua 5.3; scripts/soak.sh runs all
#   busted-5.4-sim      all on Lua 5.4
#   busted-5.1-1.21     the specs tagged #smoke on Lua 5.1 and a real Consul 1.21
#   busted-5.4-1.21     the same on Lua 5.4
#   lint-engines        the checks of `make lint` for the other engines
#
# Missing programs are installed first (scripts/install-deps.sh). A step that needs an unavailable
# Consul is skipped and prints why. A command ends early only if it hangs: for ten minutes it prints nothing
# and does not work. Exit status: 0 when nothing failed.
set -euo pipefail
CDPATH='' cd "$(dirname "$0")/.."

# shellcheck source=scripts/lib.sh
source scripts/lib.sh

waiting=(tools contract coordination migrate)
# The longest first.
quick_steps=(compile rust lint tools contract busted-quick busted-files-quick cluster coordination migrate histories)
added_steps=(
    build-luajit compile-all build-5.1 build-5.4 build-5.3
    simulation nodes migrations long servers busted-luajit-1.21 busted-luajit-1.8 busted-luajit-consul-sim
    busted-5.1-sim busted-5.4-sim lint-engines busted-5.3-sim busted-5.1-1.21 busted-5.4-1.21
)
# shellcheck disable=SC2034 # select_steps uses it
all_steps=("${quick_steps[@]}" "${added_steps[@]}")
case ${1:-} in
    '') select_steps "${quick_steps[@]}" ;;
    all) select_steps ;;
    added) select_steps "${added_steps[@]}" ;;
    *) select_steps "$@" ;;
esac

# The tests choose their own servers and modules, and the options of the outer make are not for the inner ones.
for name in "${!CONSUL_@}" "${!LUA_@}" "${!MAKE@}" MFLAGS GNUMAKEFLAGS; do
    [ "$name" = CONSUL_BIN ] || unset "$name"
done

{ mkdir -p target && [ -w target ]; } 2>/dev/null ||
    cannot "the tests build in $PWD/target, which cannot be written to: remove it if another user has made it, or test in a copy"
prepare_runs
table=$folder/table
total_passed=0 total_failed=0 total_skipped=0

# Lua 5.3 has a smoke test alone; its optimised build would be the last one to end.
quick=()

# quick_for ENGINE: sets `quick` to what make is told in addition.
quick_for() {
    quick=()
    [ "$1" != 5.3 ] || quick=(QUICK=1)
}

# run_make TARGET…: runs make without its messages about directories.
run_make() {
    run make --no-print-directory "$@"
}

# add PASSED FAILED SKIPPED: adds to the counts of the current step.
add() {
    passed=$((passed + $1)) failed=$((failed + $2)) skipped=$((skipped + $3))
}

# add_failed NAME: counts a command that failed, with the end of what it said.
add_failed() {
    add 0 1 0
    # `run` has noted the failed tests of one that runs tests.
    failed_tests "$log" | grep -q . || echo "FAILED: $1: $(grep -v '^ *$' "$log" | tail -n 12 | paste -s -d '|')" >>"$notes"
}

# add_command COMMAND…: counts one command as one test, which is skipped if it says so.
add_command() {
    if ! "$@"; then
        add_failed "${*: -1}"
    elif grep -q '^SKIPPED' "$log"; then
        add 0 0 1
    else
        add 1 0 0
    fi
}

# add_counts STATUS PASSED FAILED SKIPPED: counts a test runner's results, and one failure for a run
# that fails without a failed test, or that runs no test.
add_counts() {
    if [ "$3" -eq 0 ]; then
        if [ "$1" -ne 0 ]; then
            echo "FAILED: $at: the tests ended with status $1" | tee -a "$notes"
            set -- "$1" "$2" 1 "$4"
        elif [ $(($2 + $4)) -eq 0 ]; then
            echo "FAILED: $at: no test ran" | tee -a "$notes"
            set -- "$1" "$2" 1 "$4"
        fi
    fi
    add "$2" "$3" "$4"
}

step_programs() {
    local purpose=test step
    for step in "${steps[@]}"; do
        [[ " ${quick_steps[*]} " == *" $step "* ]] || purpose=test-all
    done
    run scripts/install-deps.sh "$purpose" || add_failed "$at"
}

# step_build FLAVOUR
step_build() {
    quick_for "$1"
    add_command run_make "build-$1" "${quick[@]}"
}

# run_lints TARGET: TARGET prints their names.
run_lints() {
    local target targets
    targets=$(make --no-print-directory "$1") || targets=
    [ -n "$targets" ] || add_counts 2 0 0 0
    for target in $targets; do
        add_command run make --no-print-directory "$target"
    done
}

step_lint() {
    run_lints lint-quick
}

step_lint-engines() {
    run_lints lint-added
}

# What cargo builds for the tests, and the programs that they start.
rules=(--features "consul-cluster/sabotage,consul-replication/sabotage,consul_ffi/luajit")
rust_tests=(cargo test --workspace --no-default-features "${rules[@]}" --no-fail-fast)
# The user's configuration of cargo may name other folders, a target, which has a folder of its own, and panics that abort.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target} CARGO_PROFILE_DEV_PANIC=unwind
unset CARGO_BUILD_TARGET
PROGRAMS=$(realpath --canonicalize-missing "$CARGO_TARGET_DIR/debug")
export PROGRAMS
# Before commands whose tests compute for minutes: all crates are built once more, in a folder of their own, since other
# steps start the programs in the one above.
optimised=(env CARGO_PROFILE_DEV_OPT_LEVEL=2 "CARGO_TARGET_DIR=$CARGO_TARGET_DIR/optimised")
# Those of the steps, as arguments of cargo.
of_processes=(--test programs)
of_servers=(--test contract --test coordination --test host --test outage --test simulated --test tools)
of_long=(--test client --test connect --test docs)
# A test that does not list itself (crates/consul-test-support/src/trials.rs), of those with a real server.
in_connect=a_real_consul_is_spoken_to_over_mutual_tls_and_over_its_socket

# run_cargo_test COMMAND…: a cargo test, counted.
run_cargo_test() {
    local status=0 counts
    run "$@" || status=$?
    counts=$(sed -n -E 's/^test result: .* ([0-9]+) passed; ([0-9]+) failed; ([0-9]+) ignored.*/\1 \2 \3/p' \
        "$log" | awk '{ p += $1; f += $2; i += $3 } END { print p + 0, f + 0, i + 0 }')
    # shellcheck disable=SC2086 # three numbers
    add_counts "$status" $counts
}

# rust_targets: prints the arguments of cargo for the tests of the step rust.
rust_targets() {
    local main
    printf '%s\n' --lib --bins
    for main in tests/*/main.rs crates/*/tests/*/main.rs; do
        main=$(basename "$(dirname "$main")")
        case " programs simulation model cluster ${waiting[*]} " in
            *" $main "*) ;;
            *) printf '%s\n' --test "$main" ;;
        esac
    done
}

# step_waiting BINARY
step_waiting() {
    PART=quick run_cargo_test "${rust_tests[@]}" --test "$1"
}

step_rust() {
    local targets
    mapfile -t targets < <(rust_targets)
    # First, or it waits for the builds of the lints.
    run_cargo_test "${rust_tests[@]}" --doc
    PART=quick run_cargo_test "${rust_tests[@]}" "${targets[@]}" -- --skip "$in_connect"
}

step_cluster() {
    PART=quick run_cargo_test "${rust_tests[@]}" --test cluster -- --skip five_million
    # `make test-all` runs them.
    skipped=0
}

step_servers() {
    PART=added run_cargo_test "${rust_tests[@]}" "${of_servers[@]}"
    run_cargo_test "${rust_tests[@]}" --test connect -- "$in_connect"
}

step_migrations() {
    build_programs || return 0
    PART=added run_cargo_test "${rust_tests[@]}" --test migrate
}

step_long() {
    build_programs || return 0
    run_cargo_test "${optimised[@]}" "${rust_tests[@]}" --test cluster -- --ignored --skip five_million
    run_cargo_test "${rust_tests[@]}" "${of_long[@]}" -- --ignored
}

# build_programs: what the tests of other crates start is built with the tests of its own, also if their step runs alone.
build_programs() {
    run "${rust_tests[@]}" --no-run "${of_servers[@]}" --test migrate || { add_failed "$at" && return 1; }
}

step_nodes() {
    build_programs || return 0
    run_cargo_test "${rust_tests[@]}" "${of_processes[@]}"
}

step_histories() {
    SEEDS=1 NODES=10 run_cargo_test "${rust_tests[@]}" --test simulation -- \
        --skip a_rule_is_needed --skip seeds_that_found_bugs --skip the_same_seed --skip what_rules_guard_against
}

step_simulation() {
    # It computes for minutes beside tests of real servers, which have real time limits.
    run_cargo_test nice -n 10 "${optimised[@]}" "${rust_tests[@]}" --test simulation --test model
}

step_compile() {
    local targets
    mapfile -t targets < <(rust_targets)
    add_command run "${rust_tests[@]}" --no-run "${targets[@]}" "${waiting[@]/#/--test=}" --test=cluster --test=simulation
    add_command build_module
}

# build_module: puts the module for LuaJIT and its guard where `make spec QUICK=1` has them. A test is among what is built,
# so that the crates below have the features that they have in tests.
build_module() {
    local folder=target/lua-quick/luajit file
    run cargo build --workspace --no-default-features "${rules[@]}" --lib --bins --test docs || return
    mkdir -p "$folder"
    for file in libconsul_ffi.so:consul_ffi.so consul-guard:consul-guard; do
        install -m 755 "$PROGRAMS/${file%:*}" "$folder/${file#*:}.$$"
        mv "$folder/${file#*:}.$$" "$folder/${file#*:}"
    done
}

step_compile-all() {
    add_command run "${rust_tests[@]}" --no-run "${of_processes[@]}" "${of_servers[@]}" --test migrate "${of_long[@]}"
    add_command run "${optimised[@]}" "${rust_tests[@]}" --no-run --test simulation --test model --test cluster
}

# step_specs FILE…: on the module of the tests, with a fifth of the random calls.
step_specs() {
    local -x CALLS=20000
    build_module || { add_failed "$at" && return; }
    run_busted LUA=luajit QUICK=1 BUILT=1 ARGS="$*"
}

# step_busted ENGINE TARGET: TARGET is sim, consul-sim or a version of Consul.
step_busted() {
    local lua=$1 consul=$2 arguments='' status=0 reason
    [ "$lua" = luajit ] || lua=lua$lua
    quick_for "$1"
    if [ "$consul" = sim ]; then
        consul=
        [ "$1" != 5.3 ] || arguments=--tags=smoke
    elif [ "$consul" = consul-sim ]; then
        # With one of its tests: alone it would be another build.
        run "${rust_tests[@]}" --test simulated --no-run || { add_failed "$at" && return; }
        local -x CONSUL_BIN=$PROGRAMS/consul-sim
        consul=1.21
    else
        [ "$lua" = luajit ] || arguments=--tags=smoke
        run scripts/consul.sh "$consul" || status=$?
        if [ "$status" -eq 3 ]; then
            reason=$(tail -n 1 "$log")
            echo "SKIPPED: Consul $consul is unavailable: $reason" | tee -a "$notes"
            add 0 0 1
            return
        fi
    fi
    run_busted LUA="$lua" CONSUL="$consul" ARGS="$arguments" "${quick[@]}"
}

# run_busted ARGUMENT…: `make spec` with these, counted.
run_busted() {
    local status=0 counts
    run_make spec "$@" || status=$?
    counts=$(sed -n -E \
        's/^([0-9]+) success(es)? \/ ([0-9]+) failures? \/ ([0-9]+) errors? \/ ([0-9]+) pending.*/\1 \3 \4 \5/p' \
        "$log" | awk '{ p += $1; f += $2 + $3; i += $4 } END { print p + 0, f + 0, i + 0 }')
    # shellcheck disable=SC2086 # three numbers
    add_counts "$status" $counts
}

# worked: sets `worked` to the seconds of processor time of what this script has run and waited for.
worked() {
    times >"$folder/times"
    worked=$(awk -F '[ms ]+' 'NR == 2 { printf "%d", 60 * ($1 + $3) + $2 + $4 }' "$folder/times")
}

# run_step NAME COMMAND…: runs it under a heading, with the name in `at`, and adds its counts to the table and the totals.
run_step() {
    local started=$SECONDS before at=$1
    worked
    before=$worked
    echo
    echo "== $1"
    passed=0 failed=0 skipped=0
    "${@:2}"
    worked
    printf '%-24s %7d %7d %8d %8d %10d\n' \
        "$1" "$passed" "$failed" "$skipped" $((SECONDS - started)) $((worked - before)) >>"$table"
    add_to_totals "$1" "$passed" "$failed" "$skipped"
}

# add_to_totals STEP PASSED FAILED SKIPPED …
add_to_totals() {
    total_passed=$((total_passed + $2))
    total_failed=$((total_failed + $3))
    total_skipped=$((total_skipped + $4))
}

# run_one STEP: runs it in this run of the script.
run_one() {
    local rest=${1#*-}
    case $1 in
        busted-quick) run_step "$1" step_specs spec/*/ ;;
        busted-files-quick) run_step "$1" step_specs spec/*_spec.lua ;;
        build-*) run_step "$1" step_build "$rest" ;;
        busted-*) run_step "$1" step_busted "${rest%%-*}" "${rest#*-}" ;;
        contract | coordination | migrate | tools) run_step "$1" step_waiting "$1" ;;
        *) run_step "$1" "step_$1" ;;
    esac
}

# run_together LIMIT STEP…: runs steps, LIMIT at a time. Each is a run of this script, whose counts are
# printed when it has ended, and its output when all have.
run_together() {
    local limit=$1 step row
    shift
    if [ $# -lt 2 ]; then
        for step; do run_one "$step"; done
        return
    fi
    echo
    echo "== $limit at a time: $*"
    # shellcheck disable=SC2016 # the variables are the inner shell's own
    printf '%s\n' "$@" | setpriv --pdeathsig TERM xargs -P "$limit" -I STEP setpriv --pdeathsig TERM \
        sh -c 'setpriv --pdeathsig TERM scripts/test.sh "$1" >"$2/$1" 2>&1; grep -E "^$1( +[0-9]+){5}\$" "$2/$1"' \
        run STEP "$folder" &
    running=$!
    wait "$running" || true
    running=
    for step; do
        echo
        sed -n "/^== $step\$/,/^step  *passed/{/^step  *passed/!p}" "$folder/$step"
        grep -E '^(SKIPPED|FAILED)' "$folder/$step" | sort -u >>"$notes" || true
        if ! row=$(grep -E "^$step( +[0-9]+){5}\$" "$folder/$step"); then
            echo "FAILED: $step ended without its totals" | tee -a "$notes"
            row=$(printf '%-24s %7d %7d %8d %8d %10d' "$step" 0 1 0 0 0)
        fi
        echo "$row" >>"$table"
        # shellcheck disable=SC2086 # a name and five numbers
        add_to_totals $row
    done
}

exec 2>&1
run_step programs step_programs
first=() builds=() engines=() rest=()
for step in "${steps[@]}"; do
    case $step in
        compile) first+=("$step") ;;
        build-luajit | compile-all) builds+=("$step") ;;
        # They start with a copy of the dependencies of the one for LuaJIT.
        build-*) engines+=("$step") ;;
        *) rest+=("$step") ;;
    esac
done
run_together 1 "${first[@]}"
run_together 2 "${builds[@]}"
run_together 2 "${engines[@]}"
run_together 7 "${rest[@]}"

echo
printf '%-24s %7s %7s %8s %8s %10s\n' step passed failed skipped seconds processor
cat "$table"
if [ "${steps[*]}" = "${quick_steps[*]}" ]; then
    echo "make test-all also runs: the tests on real Consuls (1.21 and 1.8) and etcd, Lua 5.1, 5.3 and 5.4, the optimised module," \
        "other clients, programs in processes, 500 histories of each kind, and the model of replicated shards."
fi
print_totals "$total_passed" "$total_failed" "$total_skipped"
