#!/usr/bin/env bash
# Functions that the scripts share, those of benches included; they source this file.

# What they run speaks to this machine: a proxy of the user is for downloads, and LUA_INIT for other programs.
export no_proxy="${no_proxy:+$no_proxy,}127.0.0.1,localhost,::1"
export NO_PROXY=$no_proxy
unset "${!LUA_INIT@}"
# What they read, of cargo and of tests, has no colours and all messages. POSIX has no hyphens in names of functions.
export CARGO_TERM_COLOR=never CARGO_TERM_QUIET=false
unset CLICOLOR_FORCE FORCE_COLOR POSIXLY_CORRECT

# cannot REASON…: ends the script with the status that means "unavailable on this machine".
cannot() {
    echo "$*" >&2
    exit 3
}

# cache_once NAME FILE COMMAND: sets `cached` to the folder NAME of the cache. Unless the folder has
# FILE already, COMMAND makes its content in the folder that is its argument. Runs that start at the
# same time wait for the first one. `cannot` in COMMAND leaves the cache as it was.
cache_once() {
    local cache=${XDG_CACHE_HOME:-${HOME:-}/.cache}/consul_ffi
    cached=$cache/$1
    [ ! -e "$cached/$2" ] || return 0
    command -v flock >/dev/null || cannot "flock is missing (package util-linux)"
    { mkdir -p "$cache" && [ -w "$cache" ]; } 2>/dev/null ||
        cannot "$cache cannot be made or written to: set XDG_CACHE_HOME to a folder for what is downloaded"
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

# unpack_packages FOLDER PACKAGE…: downloads packages of this machine's Debian release, and unpacks them there.
unpack_packages() {
    local folder=$1 package
    shift
    command -v apt-get >/dev/null || cannot "$* come from Debian, and apt-get is missing"
    mkdir -p "$folder/packages"
    echo "downloading $*…" >&2
    (cd "$folder/packages" && apt-get -q -o APT::Sandbox::User=root download "$@" >&2) \
        || cannot "apt-get could not download $*"
    for package in "$folder"/packages/*.deb; do
        dpkg-deb -x "$package" "$folder"
    done
    rm -rf "$folder/packages"
}

# go_is_at_least MINOR: succeeds when `go` is 1.MINOR or newer.
go_is_at_least() {
    local version
    version=$(GOTOOLCHAIN=local go env GOVERSION 2>/dev/null) || return 1
    [[ $version =~ ^go1\.([0-9]+) ]] && [ "${BASH_REMATCH[1]}" -ge "$1" ]
}

# use_go MINOR WHAT: has `go` build WHAT, which needs Go 1.MINOR, through the module proxy; `cannot` if it is too old.
use_go() {
    local toolchain=${GOTOOLCHAIN:-}
    command -v go >/dev/null || cannot "Go (1.$1 or newer) is missing, which builds $2"
    # From 1.21 on, an older Go downloads a newer toolchain, unless GOTOOLCHAIN forbids it.
    if ! go_is_at_least "$1"; then
        go_is_at_least 21 || cannot "$(go version) is too old to build $2 (1.$1 or newer)"
        toolchain=auto
    fi
    export GOFLAGS="" GOWORK=off GOTOOLCHAIN="$toolchain"
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

# A command hangs, and is ended, if for this number of seconds it has neither printed anything nor worked. How long it takes
# in all does not count: the same work takes ten times as long on a busy machine.
idle_limit=600
# What is left of it after this number of seconds is killed.
grace=30
# How often within that time `run` looks, and in how many of these looks a command that hangs may be seen at work: what it
# has started may look every moment whether something has happened. A compiler is at work in all of them.
looks=20
looks_at_work=10

# prepare_runs: sets `folder`, a temporary folder, and two files in it: `log` has what the last `run` printed, `notes` the
# SKIPPED lines and the failed tests of all runs.
prepare_runs() {
    # A shell of macOS begins with 256, and one test has a hundred connections with both ends.
    [ "$(ulimit -Sn)" = unlimited ] || [ "$(ulimit -Sn)" -ge 1024 ] || ulimit -Sn 1024 2>/dev/null ||
        cannot "the tests need 1024 open files, and the limit here is $(ulimit -Hn): raise it (ulimit -n)"
    folder=$(mktemp -d "${TMPDIR:-/tmp}/consul_ffi-run.XXXXXX")
    log=$folder/log
    notes=$folder/skipped
    touch "$notes"
    running=
    trap 'rm -rf "$folder"' EXIT
    # rustdoc does.
    install -m 700 /dev/null "$folder/program"
    "$folder/program" 2>/dev/null ||
        cannot "the tests run programs in ${TMPDIR:-/tmp}, which is mounted with noexec: set TMPDIR to another folder"
    trap 'stop 130' INT
    trap 'stop 143' TERM HUP
}

# shellcheck disable=SC2317 # the traps call it
stop() {
    [ -z "$running" ] || kill -TERM "$running" 2>/dev/null || true
    exit "$1"
}

# threads_of ID: prints the threads of the process and of all below it and in its group: the ID, the state (R, S, D, …), and
# the time of the start, which tells it from a later one with the same ID.
threads_of() {
    # A process may end meanwhile; that does not matter. The name of a program, in parentheses, can have blanks.
    cat /proc/[0-9]*/task/[0-9]*/stat 2>/dev/null | awk -v root="$1" '
        {
            id = $1
            sub(/^.*\) /, "")
            state[id] = $1; parent[id] = $2; start[id] = $20
            if (id == root || $3 == root) found[id]
        }
        END {
            do {
                more = 0
                for (id in parent) if (!(id in found) && parent[id] in found) { found[id]; more = 1 }
            } while (more)
            for (id in found) print id, state[id], start[id]
        }'
}

# watch ID: ends the process, which `run` has started, with all below it, once it hangs: for `idle_limit` seconds it has
# printed nothing, and in at most `looks_at_work` looks one of its threads ran, waited for a processor, or for a disk. A
# compiler prints nothing for minutes but works; a test that waits for timers does not work, but ends within minutes. That
# a thread waits for a processor shows in its state alone: of a busy machine it may get next to no time.
watch() {
    local size=0 before pause seen='' threads id start
    pause=$(awk "BEGIN { print $idle_limit / $looks }")
    while sleep "$pause" && kill -0 "$1" 2>/dev/null; do
        before=$size
        size=$(stat -c %s "$log")
        threads=$(threads_of "$1")
        [ "$size" = "$before" ] || seen=
        # Whatever has cargo's lock is at work, or is ended itself.
        if grep -q ' [RD] ' <<<"$threads" || tail -n 1 "$log" | grep -q '^ *Blocking waiting for file lock'; then
            seen+=w
        else
            seen+=i
        fi
        [ ${#seen} -ge "$looks" ] || continue
        seen=${seen: -looks}
        [ "$(tr -d i <<<"$seen" | wc -m)" -le $((looks_at_work + 1)) ] || continue
        touch "$folder/hangs"
        # `timeout` passes it on to its group, and kills what is left of this after a while.
        kill -TERM "$1"
        while kill -0 "$1" 2>/dev/null; do sleep 0.1; done
        while read -r id _ start; do
            [[ "$(cat "/proc/$id/stat" 2>/dev/null)" != *" $start "* ]] || kill -KILL "$id"
        done <<<"$threads"
        return
    done
}

# run COMMAND…: runs it, shown and logged, until it ends or hangs; returns its status. In the background, so that a signal is
# handled at once; through a file, so that a process it leaves behind cannot block the run. It ends
# with this script, even if the script is killed.
run() {
    local status=0 watcher
    rm -f "$log"
    touch "$log"
    # `timeout` without a limit: it passes SIGTERM on to all processes of the command.
    setpriv --pdeathsig TERM timeout --kill-after="$grace" 0 "$@" </dev/null >"$log" 2>&1 &
    running=$!
    watch "$running" </dev/null >/dev/null 2>&1 &
    watcher=$!
    tail -n +1 -s 0.1 -f --pid="$running" "$log" &
    wait "$running" || status=$?
    running=
    wait $!
    if [ -e "$folder/hangs" ]; then
        wait "$watcher"
        rm "$folder/hangs"
        status=124
        echo "FAILED: ended, since for $idle_limit s it printed nothing and did not work: $*"
    fi
    kill "$watcher" 2>/dev/null || true
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

# enter_namespaces ARGUMENT…: runs this script again as `inside ARGUMENT…`, as root in namespaces of its own, with which all
# that it starts ends. Exit status 3, and the reason, when there are none.
enter_namespaces() {
    local own=(unshare --mount --net --pid --fork --kill-child --mount-proc)
    "${own[@]}" ip link set lo up || cannot "no namespaces can be had here"
    exec "${own[@]}" "$0" inside "$@"
}
