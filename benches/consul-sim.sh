#!/usr/bin/env bash
# Compares consul-sim with `consul agent -dev`: reads per second of one key under 64 connections, and each server's
# processor time for a read; then the start of consul-sim and its memory.
#
#   benches/consul-sim.sh [SECONDS]
#
# The reads in two forms: all processes share two processors, and the server has one of them and wrk the other, so that
# the servers' rates do not have wrk's processor time in them. Both servers have their defaults, and run at the same time;
# each is measured five times, in turns. Fails when consul-sim with a processor of its own has less than 4 times the rate or
# takes more than a quarter of the processor time for a read, starts in 20 ms or more, or has 10 MB or more. Where wrk
# shares the processors there is no bound, since its time is in the rates.
set -euo pipefail
CDPATH='' cd "$(dirname "$0")/.."

seconds=${1:-4}
rounds=5
starts=21
if ! command -v wrk >/dev/null; then
    echo "SKIPPED: consul-sim: wrk is missing (Debian package wrk)"
    exit 0
fi
sim=${SIM:-}
if [ -z "$sim" ]; then
    cargo build --quiet --release --package consul-sim --bin consul-sim
    sim=${CARGO_TARGET_DIR:-target}/release/consul-sim
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# The commands of the inner shells.
cat >"$folder/measure" <<'END'
# measure PID ADDRESS: the rate of reads, and the server's processor time for one in microseconds.
ticks() { awk '{ print $14 + $15 }' "/proc/$1/stat"; }
measure() {
    local before said
    before=$(ticks "$1")
    said=$($wrk -c64 -d"${seconds}s" "http://$2/v1/kv/bench")
    if grep -E 'Non-2xx|Socket errors' <<<"$said" >&2; then return 1; fi
    awk -v ticks="$(($(ticks "$1") - before))" -v each="$(getconf CLK_TCK)" '
        / requests in / { count = $1 }
        /Requests\/sec/ { printf "%d %.1f\n", $2, ticks * 1e6 / each / count }' <<<"$said"
}
write() {
    exec 3<>"/dev/tcp/${1%:*}/${1##*:}"
    printf 'PUT /v1/kv/bench HTTP/1.0\r\nContent-Length: 5\r\n\r\nvalue' >&3
    grep -q true <&3
    exec 3>&-
}
write "$sim_address"
write "$CONSUL_HTTP_ADDR"
for ((round = 0; round < rounds; round++)); do
    echo "sim $(measure "$sim_pid" "$sim_address")"
    echo "real $(measure "$CONSUL_PID" "$CONSUL_HTTP_ADDR")"
done
END

# both SERVERS WRK: measures both servers, each started with the command SERVERS.
# shellcheck disable=SC2016 # the inner shell expands these variables
both() {
    CONSUL_BIN=$sim $1 scripts/with-consul.sh 1.21 bash -c \
        'sim_pid=$CONSUL_PID sim_address=$CONSUL_HTTP_ADDR exec scripts/with-consul.sh 1.21 bash -eu "$0"' \
        "$folder/measure" >"$folder/figures"
}
# column SERVER FIELD: its figures in one line; median: of these.
column() { awk -v server="$1" -v field="$2" '$1 == server { print $field }' "$folder/figures" | xargs; }
median() { tr ' ' '\n' | sort -n | sed -n "$((($1 + 1) / 2))p"; }

failed=0
export seconds rounds wrk
for form in shared apart; do
    if [ "$form" = shared ]; then
        wrk='taskset -c 0,1 wrk -t2' both 'taskset -c 0,1'
        echo "reads of one key, 64 connections, servers and wrk on the same two processors, medians of $rounds runs of $seconds s:"
    else
        wrk='taskset -c 1 wrk -t1' both 'taskset -c 0'
        echo "the same with the server on one processor and wrk on the other:"
    fi
    for server in sim real; do
        name=consul-sim
        [ "$server" = sim ] || name='consul agent -dev'
        declare "rate_$server=$(column "$server" 2 | median "$rounds")" "time_$server=$(column "$server" 3 | median "$rounds")"
        rate=rate_$server time=time_$server
        echo "  $name: ${!rate} reads/s ($(column "$server" 2)), ${!time} us of processor time ($(column "$server" 3))"
    done
    least=0
    [ "$form" = shared ] || least=4
    # shellcheck disable=SC2154 # declared above
    awk -v rates="$rate_sim $rate_real" -v times="$time_sim $time_real" -v least="$least" 'BEGIN {
        split(rates, rate); split(times, time)
        by_rate = rate[1] / rate[2]; by_time = time[2] / time[1]
        printf "  times the reads %.2f, a read for one part in %.2f of the processor time%s\n",
            by_rate, by_time, least ? " (each at least " least ")" : ""
        exit by_rate < least || by_time < least
    }' || failed=1
done

for ((i = 0; i < starts; i++)); do
    begun=$EPOCHREALTIME
    exec 4< <(exec "$sim" agent -dev -http-port=0 -dns-port=-1)
    pid=$!
    read -r _ <&4
    ready=$EPOCHREALTIME
    kib=$(awk '/^VmRSS/ { print $2 }' "/proc/$pid/status")
    kill "$pid"
    exec 4<&-
    echo "$((${ready/./} - ${begun/./})) $kib"
done >"$folder/starts"
start=$(awk '{ print $1 / 1000 }' "$folder/starts" | median "$starts")
memory=$(awk '{ print $2 * 1024 / 1e6 }' "$folder/starts" | median "$starts")
echo "consul-sim, median of $starts starts:"
awk -v start="$start" -v memory="$memory" 'BEGIN {
    printf "  from the command to the line that it runs %.1f ms (less than 20)\n  memory then %.1f MB (less than 10)\n", start, memory
    exit start >= 20 || memory >= 10
}' || failed=1
exit "$failed"
