#!/usr/bin/env bash
# Functions that the scripts share, those of benches included; they source this file.

# cannot REASON…: ends the script with the status that means "unavailable on this machine".
cannot() {
    echo "$*" >&2
    exit 3
}

# cache_once NAME FILE COMMAND: sets `cached` to the folder NAME of the cache. Unless the folder has
# FILE already, COMMAND makes its content in the folder that is its argument. Runs that start at the
# same time wait for the first one. `cannot` in COMMAND leaves the cache as it was.
cache_once() {
    local cache=${XDG_CACHE_HOME:-$HOME/.cache}/consul_ffi
    cached=$cache/$1
    [ ! -e "$cached/$2" ] || return 0
    command -v flock >/dev/null || cannot "flock is missing (package util-linux)"
    mkdir -p "$cache"
    exec 9>"$cached.lock"
    flock 9
    # Another run may have made it during the wait.
    [ ! -e "$cached/$2" ] || return 0
    cache_new=$cached.new
    rm -rf "$cache_new" "$cached"
    mkdir "$cache_new"
    trap 'rm -rf "$cache_new"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    "$3" "$cache_new"
    mv "$cache_new" "$cached"
}

# build_go_client SOURCE PROGRAM: builds a program with the official Go client; without Go it prints
# why it is skipped, and PROGRAM does not exist.
build_go_client() {
    rm -f "$2"
    if ! command -v go >/dev/null; then
        echo "SKIPPED: the official Go client: Go is missing"
    elif ! (cd "$1" && GOFLAGS='' GOWORK=off go build -o "$2" .); then
        echo "SKIPPED: the official Go client: it does not build"
    fi
}

# select_steps [STEP…]: sets `steps` to these, by default to `all_steps`. With --help it prints the
# comment at the head of the script and ends the script.
select_steps() {
    local step
    if [ "${1:-}" = --help ]; then
        sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
        exit
    fi
    steps=("$@")
    [ $# -gt 0 ] || steps=("${all_steps[@]}")
    for step in "${steps[@]}"; do
        if [[ " ${all_steps[*]} " != *" $step "* ]]; then
            echo "unknown step: $step; the steps are: ${all_steps[*]}" >&2
            exit 2
        fi
    done
}

# prepare_runs LIMIT: sets `folder`, a temporary folder, and two files in it: `log` has what the last
# `run` printed, `notes` the SKIPPED lines and the failed tests of all runs. Each run may take LIMIT, such as 30m; 0 means
# no limit.
prepare_runs() {
    run_limit=$1
    folder=$(mktemp -d "${TMPDIR:-/tmp}/consul_ffi-run.XXXXXX")
    log=$folder/log
    notes=$folder/skipped
    touch "$notes"
    running=
    trap 'rm -rf "$folder"' EXIT
    trap 'stop 130' INT
    trap 'stop 143' TERM HUP
}

# shellcheck disable=SC2317 # the traps call it
stop() {
    [ -z "$running" ] || kill -TERM "$running" 2>/dev/null || true
    exit "$1"
}

# run COMMAND…: runs it, shown and logged; returns its status. In the background, so that a signal is
# handled at once; through a file, so that a process it leaves behind cannot block the run. It ends
# with this script, even if the script is killed.
run() {
    local status=0
    rm -f "$log"
    touch "$log"
    setpriv --pdeathsig TERM timeout --kill-after=30s "$run_limit" "$@" </dev/null >"$log" 2>&1 &
    running=$!
    tail -n +1 -s 0.1 -f --pid="$running" "$log" &
    wait "$running" || status=$?
    running=
    wait $!
    [ "$status" -ne 124 ] || echo "FAILED: stopped after $run_limit: $*"
    grep '^SKIPPED' "$log" >>"$notes" || true
    [ "$status" -eq 0 ] || failed_tests "$log" >>"$notes"
    return "$status"
}

# failed_tests LOG: prints the failed tests of cargo and busted, each in one line with the first three
# lines of its reason, since of a long log only the end may be kept.
failed_tests() {
    awk '
        function finish() {
            if (name != "") print "FAILED: " name (reason != "" ? ": " reason : "")
            delete failed[name]
            name = reason = ""
            lines = 0
        }
        # A run of cargo has its reasons in the first of two lists, if it comes to its end.
        /^test .* \.\.\. FAILED$/ {
            of = substr($0, 6, length($0) - 16)
            sub(/ +$/, "", of)
            failed[of] = 1
        }
        /^failures:$/ { finish(); in_list = !in_list; next }
        /^test result: / { finish(); in_list = 0; next }
        in_list && /^---- .* ----$/ {
            finish()
            name = $0
            sub(/^---- /, "", name)
            sub(/( stdout| stderr)? ----$/, "", name)
            next
        }
        # A failure of busted: its file and line, its name, then its reason.
        /^(Failure|Error) (→|->) / { finish(); name = $0; sub(/^[^ ]* [^ ]* /, "", name); next }
        /^[0-9]+ success/ { finish(); next }
        name != "" && lines < 3 && NF > 0 && !/^note: run with/ {
            reason = reason (lines++ ? " | " : "") $0
        }
        END {
            finish()
            for (name in failed) print "FAILED: " name
        }
    ' "$1"
}

# print_totals PASSED FAILED SKIPPED: prints the notes and the totals; fails when something
# failed.
print_totals() {
    cat "$notes"
    echo "$1 passed, $2 failed, $3 skipped"
    [ "$2" -eq 0 ]
}
