#!/usr/bin/env bash
# Runs programs that others have written on Consul 1.21 and on consul-sim, and compares what they report.
#
#   crates/consul-sim/tests/simulated/programs/compare.sh [PROGRAM…]
#
# A program is a file here, PROGRAM.sh, with
#
#   version     the version that is installed
#   least       the number of results that are not "fail" on Consul 1.21: with fewer the comparison says nothing
#   installed   a file of the installation
#   install FOLDER          installs it there, once; `cannot REASON` when it cannot be had
#   options     flags of scripts/with-consul.sh, if any
#   results FOLDER          prints a line for each test or observation: its name, a tab, what was seen
#
# `results` runs with a fresh Consul in CONSUL_HTTP_ADDR and CONSUL_DNS_ADDR, and with `consul` in PATH, for tests that start one.
# differences.txt has the results that may differ, with the reasons. If others differ, the program is run again, since a busy machine
# is slow: a result differs if no run on one had it as a run on the other. One in the list that is the same is an error, too.
# The last line of a program is "NAME VERSION: N same, N differ (which)". The folder in KEEP gets all results.
# Exit status: 0 when nothing else differs, 3 when some program was skipped.
set -euo pipefail
CDPATH='' cd "$(dirname "$0")/../../../../.."

# shellcheck source=scripts/lib.sh
source scripts/lib.sh
here=crates/consul-sim/tests/simulated/programs

# shellcheck source=crates/consul-sim/tests/simulated/programs/lib.sh
source "$here/lib.sh"

# What runs in a process of its own: `cannot` ends it, and a Consul ends with it.
case ${1:-} in
    installed)
        # shellcheck disable=SC1090 # one of the programs
        source "$here/$2.sh"
        # shellcheck disable=SC2154 # the program and cache_once set them
        cache_once "program-$2-$version" "$installed" install && echo "$cached"
        exit
        ;;
    results)
        # shellcheck disable=SC1090
        source "$here/$2.sh"
        results "$3"
        exit
        ;;
esac

programs=("$@")
if [ $# -eq 0 ]; then
    for program in "$here"/*.sh; do
        program=$(basename "$program" .sh)
        [[ $program == @(compare|lib) ]] || programs+=("$program")
    done
fi
real=$(scripts/consul.sh 1.21) || cannot "SKIPPED: programs of others: Consul 1.21 cannot be had"
simulated=$(realpath "${CARGO_TARGET_DIR:-target}/debug/consul-sim")
folder=$(mktemp -d "${TMPDIR:-/tmp}/consul_ffi-programs.XXXXXX")
trap 'rm -rf "$folder"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# run PROGRAM FOLDER NAME CONSUL: its results on this Consul in PROGRAM.NAME, sorted, and what it has said besides in PROGRAM.NAME.log.
run() {
    local temporary=$folder/$1.$3.tmp status=0
    rm -rf "$temporary"
    mkdir -p "$temporary/bin"
    ln -s "$4" "$temporary/bin/consul"
    # `cannot` and `exit 1` of a program say that it has no results, and the log why.
    # shellcheck disable=SC2086 # flags
    CONSUL_BIN=$4 PATH=$temporary/bin:$PATH TMPDIR=$temporary \
        scripts/with-consul.sh $options --config "$here/node.json" 1.21 "$0" results "$1" "$2" \
        >"$folder/$1.$3.out" 2>"$folder/$1.$3.log" || status=$?
    LC_ALL=C sort -u "$folder/$1.$3.out" >"$folder/$1.$3"
    cat "$folder/$1.$3" >>"$folder/$1.$3.all"
    rm -rf "$temporary"
    if [ $status -ne 0 ]; then
        tail -n 40 "$folder/$1.$3.log"
        echo "$1 ended with status $status on $3"
    fi
    return $status
}

# differing PROGRAM: the names that in no run had the same result on both.
differing() {
    awk -F '\t' '
        { names[$1] }
        FNR == NR { real[$0]; next }
        $0 in real { same[$1] }
        END { for (name in names) if (!(name in same)) print name }
    ' "$folder/$1.real.all" "$folder/$1.sim.all" | LC_ALL=C sort
}

# both PROGRAM FOLDER: runs it on both, and puts what differs into PROGRAM.differ.
both() {
    run "$1" "$2" real "$real" && run "$1" "$2" sim "$simulated" || return
    differing "$1" >"$folder/$1.differ"
}

# compare PROGRAM: its line, and what is wrong.
compare() {
    local at status=0 version least good options
    at=$("$0" installed "$1" 2>"$folder/why") || status=$?
    case $status in
        0) ;;
        3)
            echo "SKIPPED: $1: $(tail -n 1 "$folder/why")"
            return 3
            ;;
        *)
            cat "$folder/why"
            return 1
            ;;
    esac
    # shellcheck disable=SC1090
    version=$(source "$here/$1.sh" && echo "$version")
    # shellcheck disable=SC1090
    least=$(source "$here/$1.sh" && echo "$least")
    # shellcheck disable=SC1090
    options=$(source "$here/$1.sh" && echo "${options:-}")
    both "$1" "$at" || return 1
    sed -n "s/^$1: \(.*\): [^:]*$/\1/p" "$here/differences.txt" | LC_ALL=C sort >"$folder/$1.listed"
    if ! cmp -s "$folder/$1.listed" "$folder/$1.differ"; then
        echo "$1 is run again: $(LC_ALL=C comm -3 "$folder/$1.listed" "$folder/$1.differ" | tr -d '\t' | paste -sd ' ')"
        both "$1" "$at" || return 1
    fi
    LC_ALL=C comm -13 "$folder/$1.listed" "$folder/$1.differ" >"$folder/$1.wrong"
    while IFS= read -r name; do
        status=1
        for side in real sim; do
            echo "$1 differs: $name on $side:" \
                "$(awk -F '\t' -v name="$name" '$1 == name { print $2 }' "$folder/$1.$side.all" | paste -sd '|')"
        done
    done <"$folder/$1.wrong"
    while IFS= read -r name; do
        status=1
        echo "$1 is the same on both, but differences.txt has it: $name"
    done < <(LC_ALL=C comm -23 "$folder/$1.listed" "$folder/$1.differ")
    good=$(grep -cv $'\tfail$' "$folder/$1.real" || true)
    if [ "$good" -lt "$least" ]; then
        status=1
        tail -n 40 "$folder/$1.real.log"
        echo "$1: $good results on Consul 1.21 that are not \"fail\", of at least $least"
    fi
    echo "$1 $version: $(($(cut -f 1 "$folder/$1.real" | sort -u | wc -l) - $(wc -l <"$folder/$1.differ"))) same," \
        "$(wc -l <"$folder/$1.differ") differ$(paste -sd ' ' "$folder/$1.differ" | sed 's/\(..*\)/ (\1)/')"
    return $status
}

failed=0 missing=0
for program in "${programs[@]}"; do
    status=0
    compare "$program" || status=$?
    case $status in
        0) ;;
        3) missing=3 ;;
        *) failed=1 ;;
    esac
    if [ -n "${KEEP:-}" ]; then
        mkdir -p "$KEEP"
        cp "$folder/$program".* "$KEEP" 2>/dev/null || true
    fi
done
[ "$failed" -eq 0 ] || exit 1
exit "$missing"
