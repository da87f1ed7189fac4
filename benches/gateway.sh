#!/usr/bin/env bash
# Compares the gateway of examples/openresty with a static upstream: requests per second and the 99th percentile.
#
#   benches/gateway.sh [SECONDS]
#
# One worker of Debian's nginx (scripts/nginx.sh) serves both, from four instances in another nginx. Measures each five
# times, alternately, and prints the medians and their ratios. Fails when the gateway has less than 0.9 of the static
# upstream's rate, or its p99 is more than 1.3 times the other's. Needs wrk and the LuaJIT module (make build-luajit).
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-4}
rounds=5
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
cargo build --quiet --no-default-features --features server --bin consul-sim
sim=${CARGO_TARGET_DIR:-target}/debug/consul-sim

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

# start FOLDER: starts nginx with the configuration in it.
start() {
    LD_LIBRARY_PATH=$nginx/libraries LUA_PATH="$PWD/lua/?.lua;$nginx/usr/share/lua/5.1/?.lua;;" \
        LUA_CPATH="$PWD/target/lua/luajit/?.so" CONSUL_HTTP_ADDR=${consul:-} SERVICE=web \
        "$nginx/usr/sbin/nginx" -p "$1" -c nginx.conf -e stderr 2>>"$folder/log" -g "daemon off; load_module $nginx/usr/lib/nginx/modules/ndk_http_module.so;
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
start "$folder/instances"

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
    -e "s|^http {|&\n    $paths|" -e "s|^    upstream service {|    upstream static {\\n$static        keepalive 64;\\n    }\\n\\n&|" \
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
start "$folder/gateway"
reaches http://127.0.0.1:18190/
reaches http://127.0.0.1:18191/

# measure PORT: sets `rate` and `p99` in microseconds.
measure() {
    local said
    said=$(wrk -t1 -c64 -d"${seconds}s" --latency "http://127.0.0.1:$1/")
    ! grep -E 'Non-2xx|Socket errors' <<<"$said" || exit 1
    rate=$(awk '/Requests\/sec/ { print int($2) }' <<<"$said")
    p99=$(awk '$1 == "99%" { n = $2 + 0; if ($2 ~ /ms/) n *= 1000; else if ($2 !~ /us/) n *= 1000000; print int(n) }' <<<"$said")
}

gateway_rates=() static_rates=() gateway_p99=() static_p99=()
for _ in $(seq "$rounds"); do
    measure 18190
    gateway_rates+=("$rate") gateway_p99+=("$p99")
    measure 18191
    static_rates+=("$rate") static_p99+=("$p99")
done
median() { printf '%s\n' "$@" | sort -n | sed -n "$(((rounds + 1) / 2))p"; }
echo "a gateway with one worker, 64 connections, median of $rounds runs of $seconds s:"
echo "  the gateway        $(median "${gateway_rates[@]}") requests/s (${gateway_rates[*]}), p99 $(median "${gateway_p99[@]}") us"
echo "  a static upstream  $(median "${static_rates[@]}") requests/s (${static_rates[*]}), p99 $(median "${static_p99[@]}") us"
awk -v a="$(median "${gateway_rates[@]}")" -v b="$(median "${static_rates[@]}")" \
    -v c="$(median "${gateway_p99[@]}")" -v d="$(median "${static_p99[@]}")" 'BEGIN {
        printf "  ratio              %.2f (at least 0.9), p99 %.2f (at most 1.3)\n", a / b, c / d
        exit a < 0.9 * b || c > 1.3 * d
    }'
