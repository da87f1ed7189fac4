#!/usr/bin/env bash
# Runs the tests, and counts them: the last line is "N passed, N failed, N skipped".
#
#   scripts/test.sh [STEP…]
#
# Without a STEP all of them run, each to its end whatever the others did, the Lua specs two at a
# time:
#
#   build               the module of each of the three flavours
#   lint                each of the checks of `make lint`
#   rust                cargo test, without Lua
#   simulation          500 histories of locks and clusters under faults (SEEDS), and that each rule is needed
#   busted-luajit-sim   the Lua specs on LuaJIT, simulated
#   busted-luajit-consul-sim  the same on the simulated agent behind a socket
#   busted-luajit-1.21  the same on a real Consul 1.21
#   busted-luajit-1.8   the same on a real Consul 1.8
#   busted-5.1-sim      the Lua specs on Lua 5.1, simulated
#   busted-5.4-sim      the same on Lua 5.4
#   busted-5.1-1.21     the specs tagged #smoke on Lua 5.1 and a real Consul 1.21
#   busted-5.4-1.21     the same on Lua 5.4
#
# Missing programs are installed first (scripts/install-deps.sh). A step that needs a Consul that
# cannot be had is skipped, aloud. Exit status: 0 when nothing failed.
set -euo pipefail
cd "$(dirname "$0")/.."

all_steps=(
    build lint rust simulation
    busted-luajit-sim busted-luajit-consul-sim busted-luajit-1.21 busted-luajit-1.8
    busted-5.1-sim busted-5.4-sim busted-5.1-1.21 busted-5.4-1.21
)
step_limit=30m # a command that hangs must not use up the time of a whole run

if [ "${1:-}" = --help ]; then
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
    exit
fi
steps=("$@")
[ $# -gt 0 ] || steps=("${all_steps[@]}")
for step in "${steps[@]}"; do
    if [[ " ${all_steps[*]} " != *" $step "* ]]; then
        echo "no such step: $step; the steps: ${all_steps[*]}" >&2
        exit 2
    fi
done

# The tests choose their servers themselves.
for name in "${!CONSUL_@}"; do
    [ "$name" = CONSUL_BIN ] || unset "$name"
done

folder=$(mktemp -d "${TMPDIR:-/tmp}/consul_ffi-test.XXXXXX")
running=
trap 'rm -rf "$folder"' EXIT
trap 'stop 130' INT
trap 'stop 143' TERM HUP

# shellcheck disable=SC2317 # the traps call it
stop() {
    [ -z "$running" ] || kill -TERM "$running" 2>/dev/null || true
    exit "$1"
}

log=$folder/log       # what the command that ran last printed
notes=$folder/skipped # every SKIPPED line
table=$folder/table
touch "$notes"
total_passed=0 total_failed=0 total_skipped=0

# run COMMAND…: runs it, shown and logged. In the background, so that a signal is acted on at once;
# through a file, so that a process it leaves behind cannot hold the run up. It ends with this
# script, even with a killed one.
run() {
    local status=0
    rm -f "$log"
    touch "$log"
    setpriv --pdeathsig TERM timeout --kill-after=30s "$step_limit" "$@" </dev/null >"$log" 2>&1 &
    running=$!
    tail -n +1 -s 0.1 -f --pid="$running" "$log" &
    wait "$running" || status=$?
    running=
    wait $!
    [ "$status" -ne 124 ] || echo "FAILED: ended after $step_limit: $*"
    grep '^SKIPPED' "$log" >>"$notes" || true
    return "$status"
}

# run_make TARGET…: as one of a run's parts, it says no directory.
run_make() {
    run make --no-print-directory "$@"
}

# add PASSED FAILED SKIPPED: counts for the step under way.
add() {
    passed=$((passed + $1)) failed=$((failed + $2)) skipped=$((skipped + $3))
}

# add_command COMMAND…: counts one command as one test.
add_command() {
    if "$@"; then add 1 0 0; else add 0 1 0; fi
}

# add_counts STATUS PASSED FAILED SKIPPED: counts a test runner's results, and one failure for a run
# that fails without saying what, or that tests nothing.
add_counts() {
    if [ "$3" -eq 0 ]; then
        if [ "$1" -ne 0 ]; then
            echo "FAILED: the tests ended with status $1"
            set -- "$1" "$2" 1 "$4"
        elif [ $(($2 + $4)) -eq 0 ]; then
            echo "FAILED: no test ran"
            set -- "$1" "$2" 1 "$4"
        fi
    fi
    add "$2" "$3" "$4"
}

step_programs() {
    run scripts/install-deps.sh test || add 0 1 0
}

step_build() {
    local flavour
    for flavour in luajit 5.1 5.4; do
        add_command run_make "build-$flavour"
    done
}

step_lint() {
    local target
    for target in $(make --no-print-directory lint-list); do
        add_command run_make "$target"
    done
}

# run_cargo_test ARG…: cargo test, counted.
run_cargo_test() {
    local status=0 counts
    run cargo test --no-default-features "$@" || status=$?
    counts=$(sed -n -E 's/^test result: .* ([0-9]+) passed; ([0-9]+) failed; ([0-9]+) ignored.*/\1 \2 \3/p' \
        "$log" | awk '{ p += $1; f += $2; i += $3 } END { print p + 0, f + 0, i + 0 }')
    # shellcheck disable=SC2086 # three numbers
    add_counts "$status" $counts
}

step_rust() {
    run_cargo_test --features server,guard --no-fail-fast
}

step_simulation() {
    run_cargo_test --features sabotage --profile simulation --test simulation
}

# step_busted ENGINE TARGET: TARGET is sim, consul-sim or a version of Consul.
step_busted() {
    local lua=$1 consul=$2 arguments='' status=0 reason counts
    [ "$lua" = luajit ] || lua=lua$lua
    if [ "$consul" = sim ]; then
        consul=
    elif [ "$consul" = consul-sim ]; then
        run cargo build --no-default-features --features server,guard --bin consul-sim || status=$?
        local -x CONSUL_BIN
        CONSUL_BIN=$(realpath "${CARGO_TARGET_DIR:-target}/debug/consul-sim")
        consul=1.21
    else
        [ "$lua" = luajit ] || arguments=--tags=smoke
        run scripts/consul.sh "$consul" || status=$?
        if [ "$status" -eq 3 ]; then
            reason=$(tail -n 1 "$log")
            echo "SKIPPED: Consul $consul cannot be had: $reason" | tee -a "$notes"
            add 0 0 1
            return
        fi
    fi
    status=0
    run_make spec LUA="$lua" CONSUL="$consul" ARGS="$arguments" || status=$?
    counts=$(sed -n -E \
        's/^([0-9]+) success(es)? \/ ([0-9]+) failures? \/ ([0-9]+) errors? \/ ([0-9]+) pending.*/\1 \3 \4 \5/p' \
        "$log" | awk '{ p += $1; f += $2 + $3; i += $4 } END { print p + 0, f + 0, i + 0 }')
    # shellcheck disable=SC2086 # three numbers
    add_counts "$status" $counts
}

# run_step NAME COMMAND…: under a heading, into the table and the totals.
run_step() {
    local started=$SECONDS
    echo
    echo "== $1"
    passed=0 failed=0 skipped=0
    "${@:2}"
    printf '%-24s %7d %7d %8d %8d\n' \
        "$1" "$passed" "$failed" "$skipped" $((SECONDS - started)) >>"$table"
    add_to_totals "$1" "$passed" "$failed" "$skipped"
}

# add_to_totals STEP PASSED FAILED SKIPPED …
add_to_totals() {
    total_passed=$((total_passed + $2))
    total_failed=$((total_failed + $3))
    total_skipped=$((total_skipped + $4))
}

# run_beside STEP…: two at a time, for steps that spend most of their time waiting. Each is a run of
# this script by itself, which is shown when all have ended.
run_beside() {
    local step row
    echo
    echo "== two at a time: $*"
    # shellcheck disable=SC2016 # the variables are the inner shell's own
    printf '%s\n' "$@" | setpriv --pdeathsig TERM xargs -P 2 -I STEP setpriv --pdeathsig TERM \
        sh -c 'exec scripts/test.sh "$1" >"$2/$1" 2>&1' run STEP "$folder" &
    running=$!
    wait "$running" || true
    running=
    for step; do
        echo
        sed -n "/^== $step\$/,/^step  *passed/{/^step  *passed/!p}" "$folder/$step"
        grep '^SKIPPED' "$folder/$step" | sort -u >>"$notes" || true
        if ! row=$(grep -E "^$step( +[0-9]+){4}\$" "$folder/$step"); then
            echo "FAILED: it did not come to its end"
            row=$(printf '%-24s %7d %7d %8d %8d' "$step" 0 1 0 0)
        fi
        echo "$row" >>"$table"
        # shellcheck disable=SC2086 # a name and four numbers
        add_to_totals $row
    done
}

exec 2>&1
run_step programs step_programs
specs=()
for step in "${steps[@]}"; do
    case $step in
        busted-*) specs+=("$step") ;;
        *) run_step "$step" "step_$step" ;;
    esac
done
case ${#specs[@]} in
    0) ;;
    1)
        rest=${specs[0]#busted-}
        run_step "${specs[0]}" step_busted "${rest%%-*}" "${rest#*-}"
        ;;
    *) run_beside "${specs[@]}" ;;
esac

echo
printf '%-24s %7s %7s %8s %8s\n' step passed failed skipped seconds
cat "$table"
cat "$notes"
echo "$total_passed passed, $total_failed failed, $total_skipped skipped"
[ "$total_failed" -eq 0 ]
