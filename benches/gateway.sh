#!/usr/bin/env bash
# Compares the gateway of examples/openresty with a static upstream: requests per second and the 99th percentile.
#
#   benches/gateway.sh [SECONDS [ROUNDS]]
#
# One worker of Debian's nginx (scripts/nginx.sh) serves both, from four instances in another nginx. It has a processor of
# its own, if there are two; the instances and wrk have the other one. Each round measures both, in turns. Prints the
# medians, the medians of the ratios within a round, and the processor's time of the worker for a request. Fails when the
# gateway has less than 0.9 of the static upstream's rate, or its p99 is more than 1.3 times the other's. Needs wrk and
# the LuaJIT module (make build-luajit). CONSUL_SIM is a consul-sim that is built already.
set -euo pipefail
CDPATH='' cd "$(dirname "$0")/.."

seconds=${1:-2}
rounds=${2:-11}
if ! command -v wrk >/dev/null; then
    echo "SKIPPED: the gateway: wrk is missing (Debian package wrk)"
    exit 0
fi
status=0
nginx=$(scripts/nginx.sh) || status=$?
if [ "$status" -eq 3 ]; then
    echo "SKIPPED: the gateway: $nginx"
    exit 0
fi
if [ -z "${CONSUL_SIM:-}" ]; then
    cargo build --quiet --package consul-sim --bin consul-sim
fi
sim=${CONSUL_SIM:-${CARGO_TARGET_DIR:-target}/debug/consul-sim}
# The commands that put a process on the one processor and on the other.
first=() second=()
if command -v taskset >/dev/null && [ "$(nproc)" -ge 2 ]; then
    first=(taskset -c 0) second=(taskset -c 1)
fi

folder=$(mktemp -d)
pids=()
finish() {
    [ ${#pids[@]} -eq 0 ] || kill "${pids[@]}" 2>/dev/null || true
    wait || true
    rm -rf "$folder"
}
trap finish EXIT

# Debian's own are in /var/lib/nginx.
paths=$(printf '%s_temp_path %s; ' client_body t proxy t fastcgi t uwsgi t scgi t)

# start FOLDER [COMMAND…]: starts nginx with the configuration in the folder, by the command.
start() {
    LD_LIBRARY_PATH=$nginx/libraries LUA_PATH="$PWD/lua/?.lua;$nginx/usr/share/lua/5.1/?.lua;;" \
        LUA_CPATH="$PWD/target/lua/luajit/?.so" CONSUL_HTTP_ADDR=${consul:-} SERVICE=web \
        "${@:2}" "$nginx/usr/sbin/nginx" -p "$1" -c nginx.conf -e stderr 2>>"$folder/log" -g "daemon off; user root; load_module $nginx/usr/lib/nginx/modules/ndk_http_module.so;
            load_module $nginx/usr/lib/nginx/modules/ngx_http_lua_module.so;" &
    pids+=($!)
}

# reaches URL: waits until it answers.
reaches() {
    for _ in $(seq 200); do
        ! curl -fsS -o /dev/null "$1" 2>/dev/null || return 0
        sleep 0.05
    done
    echo "no answer from $1" >&2
    cat "$folder/log" >&2
    exit 1
}

ports=(18181 18182 18183 18184)
mkdir "$folder/instances" "$folder/gateway" "$folder/consul"
{
    echo "worker_processes 1; pid $folder/instances/pid; events {} http { $paths access_log off; keepalive_requests 1000000; server {"
    printf 'listen 127.0.0.1:%s;\n' "${ports[@]}"
    echo 'location / { return 200 "an answer"; } } }'
} >"$folder/instances/nginx.conf"
start "$folder/instances" "${second[@]}"

{
    echo '{"services":['
    for port in "${ports[@]}"; do
        [ "$port" = "${ports[0]}" ] || echo ,
        printf '{"id":"web-%s","name":"web","address":"127.0.0.1","port":%s}' "$port" "$port"
    done
    echo ']}'
} >"$folder/consul/services.json"
consul=127.0.0.1:18180
"$sim" agent -dev -dns-port=-1 -http-port=18180 -config-file="$folder/consul/services.json" >"$folder/log" 2>&1 &
pids+=($!)
reaches "http://$consul/v1/health/service/web"

# The example's own files, with another location whose upstream is static.
cp examples/openresty/gateway.lua "$folder/gateway/"
static=$(printf '        server 127.0.0.1:%s;\\n' "${ports[@]}")
sed -e 's/^worker_processes .*/worker_processes 1;/' -e "s|^pid .*|pid $folder/gateway/pid;|" \
    -e 's/listen 127.0.0.1:8080/listen 127.0.0.1:18190/' \
    -e "s|^http {|&\n    $paths|" -e "s|^    upstream service {|    upstream static {\\n$static        keepalive 256;\\n    }\\n\\n&|" \
    -e '$d' examples/openresty/gateway.conf >"$folder/gateway/nginx.conf"
cat >>"$folder/gateway/nginx.conf" <<'END'
    server {
        listen 127.0.0.1:18191;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header Host $host;
        proxy_connect_timeout 250ms;
        proxy_next_upstream error timeout http_502 http_503 http_504;
        location / {
            proxy_pass http://static;
        }
    }
}
END
start "$folder/gateway" "${first[@]}"
reaches http://127.0.0.1:18190/
reaches http://127.0.0.1:18191/

worker=$(pgrep -P "$(cat "$folder/gateway/pid")")

# ticks: the processor's time of the worker so far, in hundredths of a second.
ticks() {
    awk '{ sub(/.*\) /, ""); print $12 + $13 }' "/proc/$worker/stat"
}

# measure PORT: prints the rate, p99 in microseconds, the requests and the worker's ticks.
measure() {
    local said before
    before=$(ticks)
    said=$("${second[@]}" wrk -t1 -c64 -d"${seconds}s" --latency "http://127.0.0.1:$1/")
    ! grep -E 'Non-2xx|Socket errors' <<<"$said" >&2 || exit 1
    awk -v ticks="$(($(ticks) - before))" '
        /requests in/ { requests = $1 }
        $1 == "99%" { p99 = $2 + 0; if ($2 ~ /ms/) p99 *= 1000; else if ($2 !~ /us/) p99 *= 1000000 }
        /Requests\/sec/ { print int($2), int(p99), requests, ticks }' <<<"$said"
}

# Of each, until the traces are compiled.
for port in 18190 18191; do measure "$port" >"$folder/warm"; done
for round in $(seq "$rounds"); do
    # The order changes: what slows down the machine does not always meet the same one.
    order=(18190 18191)
    [ $((round % 2)) -eq 0 ] || order=(18191 18190)
    for port in "${order[@]}"; do measure "$port" >"$folder/last.$port"; done
    paste -d ' ' "$folder/last.18190" "$folder/last.18191" >>"$folder/rounds"
done
# median FIELD [BY]: of the rounds, of a field or of its quotient by another one; fields 1 to 4 are the gateway's rate,
# p99, requests and ticks, 5 to 8 the other's.
median() {
    awk -v field="$1" -v by="${2:-0}" '{ print by ? $field / $by : $field }' "$folder/rounds" |
        sort -g | sed -n "$(((rounds + 1) / 2))p"
}
# time_of REQUESTS TICKS: the processor's time for a request in microseconds, of all rounds, by the fields' numbers.
time_of() {
    awk -v requests="$1" -v ticks="$2" '{ r += $requests; t += $ticks } END { printf "%.1f", 10000 * t / r }' "$folder/rounds"
}
echo "a gateway with one worker, 64 connections, medians of $rounds rounds of $seconds s:"
echo "  the gateway        $(median 1) requests/s, p99 $(median 2) us, $(time_of 3 4) us of a processor for a request"
echo "  a static upstream  $(median 5) requests/s, p99 $(median 6) us, $(time_of 7 8) us of a processor for a request"
awk -v rate="$(median 1 5)" -v p99="$(median 2 6)" 'BEGIN {
    printf "  ratio              %.2f (at least 0.9), p99 %.2f (at most 1.3)\n", rate, p99
    exit rate < 0.9 || p99 > 1.3
}'
