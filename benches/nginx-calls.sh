#!/usr/bin/env bash
# Compares what a call costs a worker of nginx: by lua-resty-consul, by resty.consul and by consul_ffi.openresty, with an
# object for all calls and with one for each.
#
#   benches/nginx-calls.sh [CALLS [ROUNDS]]
#
# Each round makes CALLS reads of a key with each of them, one after the other, in one worker of Debian's nginx
# (scripts/nginx.sh) with consul-sim. Prints the medians of the worker's processor time for a call, threads included, in
# microseconds, and of the ratios to lua-resty-consul within a round. Fails when resty.consul takes more than twice as
# long, or consul_ffi.openresty more than 1.5 times. Needs lua-resty-consul (scripts/lua-resty-consul.sh), lua-cjson and the
# LuaJIT module (make build-luajit). CONSUL_SIM is a consul-sim that is built already.
set -euo pipefail
CDPATH='' cd "$(dirname "$0")/.."

calls=${1:-5000}
rounds=${2:-11}
for script in nginx lua-resty-consul; do
    status=0
    printed=$("scripts/$script.sh" 2>/dev/null) || status=$?
    if [ "$status" -eq 3 ]; then
        echo "SKIPPED: calls in nginx: scripts/$script.sh cannot have what it fetches"
        exit 0
    fi
    [ "$script" = nginx ] && nginx=$printed || original=$printed
done
if [ -z "${CONSUL_SIM:-}" ]; then
    cargo build --quiet --package consul-sim --bin consul-sim
fi
sim=${CONSUL_SIM:-${CARGO_TARGET_DIR:-target}/debug/consul-sim}

folder=$(mktemp -d)
pids=()
finish() {
    [ ${#pids[@]} -eq 0 ] || kill "${pids[@]}" 2>/dev/null || true
    wait || true
    rm -rf "$folder"
}
trap finish EXIT

port=18180
"$sim" agent -dev -dns-port=-1 -http-port=$port >"$folder/log" 2>&1 &
pids+=($!)
# lua-resty-http needs this of lua-resty-string, for TLS alone.
mkdir -p "$folder/lua/resty"
echo 'return { to_hex = false }' >"$folder/lua/resty/string.lua"
cat >"$folder/nginx.conf" <<END
worker_processes 1;
pid pid;
error_log stderr error;
events {}
http {
    access_log off;
    $(printf '%s_temp_path t; ' client_body proxy fastcgi uwsgi scgi)
    init_by_lua_block {
        local function load_from(folder)
            local path = package.path
            package.path = folder .. "/?.lua;" .. path
            package.loaded["resty.consul"] = nil
            local module = require("resty.consul")
            package.path = path
            return module
        end
        local server = { host = "127.0.0.1", port = $port }
        local function reads(module, made)
            return function()
                return (made or module:new(server)):get("/kv/bench/key")
            end
        end
        local original, ours = load_from("$original/lua-resty-consul/lib"), load_from("$PWD/resty/lua")
        local client
        bench = {
            ["lua-resty-consul"] = reads(original, original:new(server)),
            ["resty.consul"] = reads(ours, ours:new(server)),
            ["lua-resty-consul, new"] = reads(original),
            ["resty.consul, new"] = reads(ours),
            ["consul_ffi.openresty"] = function()
                client = client or require("consul_ffi.openresty").new({ endpoint = "127.0.0.1:$port" })
                return client:kv_get("bench/key")
            end,
        }
    }
    server {
        listen 127.0.0.1:18181;
        location / {
            content_by_lua_block {
                local call, calls = bench[ngx.unescape_uri(ngx.var.arg_by)], tonumber(ngx.var.arg_calls)
                -- In hundredths of a second.
                local function ticks()
                    local file = io.open("/proc/self/stat")
                    local user, system = file:read("*a"):match("%) %S+" .. (" %S+"):rep(10) .. " (%d+) (%d+)")
                    file:close()
                    return user + system
                end
                local before = ticks()
                for _ = 1, calls do
                    assert(call())
                end
                ngx.say((ticks() - before) * 10000 / calls)
            }
        }
    }
}
END
LD_LIBRARY_PATH=$nginx/libraries LUA_CPATH="$PWD/target/lua/luajit/?.so;;" \
    LUA_PATH="$PWD/lua/?.lua;$original/lua-resty-http/lib/?.lua;$folder/lua/?.lua;$nginx/usr/share/lua/5.1/?.lua;;" \
    "$nginx/usr/sbin/nginx" -p "$folder" -c nginx.conf -e stderr 2>>"$folder/log" -g "daemon off; user root;
        load_module $nginx/usr/lib/nginx/modules/ndk_http_module.so;
        load_module $nginx/usr/lib/nginx/modules/ngx_http_lua_module.so;" &
pids+=($!)

ways=("lua-resty-consul" "resty.consul" "consul_ffi.openresty" "lua-resty-consul, new" "resty.consul, new")
# measure WAY CALLS: the microseconds of a call.
measure() {
    curl -fsS -G --data-urlencode "by=$1" --data-urlencode "calls=$2" http://127.0.0.1:18181/
}
for _ in $(seq 200); do
    ! curl -fs -o /dev/null -X PUT -d value "http://127.0.0.1:$port/v1/kv/bench/key" || break
    sleep 0.05
done
for _ in $(seq 200); do
    ! measure "${ways[0]}" 1 >/dev/null 2>&1 || break
    sleep 0.05
done
for way in "${ways[@]}"; do
    measure "$way" 1000 >/dev/null || { cat "$folder/log" >&2 && exit 1; }
done
for _ in $(seq "$rounds"); do
    for way in "${ways[@]}"; do measure "$way" "$calls"; done | paste -s -d ' ' >>"$folder/rounds"
done

# median FIELD [BY]: of the rounds, of a field or of its quotient by another one.
median() {
    awk -v field="$1" -v by="${2:-0}" '{ print by ? $field / $by : $field }' "$folder/rounds" |
        sort -g | sed -n "$(((rounds + 1) / 2))p"
}
failed=0
report() {
    local name=${ways[$(($1 - 1))]} ratio
    ratio=$(median "$1" "$2")
    printf '%-24s %6.1f µs  %.2f\n' "$name" "$(median "$1")" "$ratio"
    if awk "BEGIN { exit !($ratio > $3) }"; then
        echo "FAILED: $name: at most $3 times ${ways[$(($2 - 1))]}"
        failed=1
    fi
}
report 1 1 1
report 2 1 2
report 3 1 1.5
report 4 4 1
report 5 4 2
[ "$failed" -eq 0 ]
