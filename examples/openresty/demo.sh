#!/usr/bin/env bash
# Shows the gateway in a minute: consul-sim, two services with two instances each, and nginx with gateway.conf for each
# service. An instance is killed, then Consul; nginx is reloaded and started again without Consul. Prints what was served
# by which instance, and fails if a request was not answered with 200.
#
#   make demo-gateway
#
# Nothing is installed, and all that it starts ends with it. OPENRESTY is an OpenResty or nginx with the Lua module, by
# default `openresty` if that is installed, else Debian's nginx, unpacked by scripts/nginx.sh. CONSUL_SIM is a consul-sim
# that is built already. LUA_PATH and LUA_CPATH have the module.
set -euo pipefail
CDPATH='' cd "$(dirname "$0")/../.."

sim=${CONSUL_SIM:-${CARGO_TARGET_DIR:-target}/debug/consul-sim}
if ! command -v "$sim" >/dev/null; then
    echo "examples/openresty/demo.sh: $sim is missing: build consul-sim, or name one with CONSUL_SIM" >&2
    exit 1
fi
# shellcheck source=scripts/lib.sh
source scripts/lib.sh
export LUA_PATH="${LUA_PATH:-./lua/?.lua;;}" LUA_CPATH="${LUA_CPATH:-./target/lua/luajit/?.so;;}"

# How many requests a step sends to each service.
requests=200
total=0 served=0

# What nginx needs on this machine: the program, and what its configuration has in front.
nginx=${OPENRESTY:-$(command -v openresty || true)}
front='daemon off;'
[ "$(id -u)" -ne 0 ] || front+=' user root;'
libraries=${LD_LIBRARY_PATH:-}
if [ -z "$nginx" ]; then
    unpacked=$(scripts/nginx.sh)
    nginx=$unpacked/usr/sbin/nginx
    libraries=$unpacked/libraries
    LUA_PATH="$unpacked/usr/share/lua/5.1/?.lua;$LUA_PATH"
    for module in ndk_http_module ngx_http_lua_module; do
        front+=" load_module $unpacked/usr/lib/nginx/modules/$module.so;"
    done
fi
# Debian's own are in /var/lib/nginx.
paths=$(printf '%s_temp_path t; ' client_body proxy fastcgi uwsgi scgi)

folder=$(mktemp -d "${TMPDIR:-/tmp}/consul_ffi-gateway.XXXXXX")
# The processes by name, each a child of this one until it has been waited for.
declare -A pids=()

# end NAME SIGNAL: ends a process, and waits for that.
end() {
    kill -s "$2" "${pids[$1]}" 2>/dev/null || true
    wait "${pids[$1]}" 2>/dev/null || true
    unset "pids[$1]"
}

finish() {
    trap '' INT TERM HUP
    for name in "${!pids[@]}"; do end "$name" TERM; done
    rm -rf "$folder"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# failed WHY: ends the demo, with the logs.
failed() {
    echo "examples/openresty/demo.sh failed: $1" >&2
    tail -n 20 "$folder"/*.log >&2 || true
    exit 1
}

# until_it COMMAND…: waits until the command succeeds.
until_it() {
    local end=$((SECONDS + 300))
    while [ $SECONDS -lt $end ]; do
        ! "$@" || return 0
        sleep 0.1
    done
    failed "not within five minutes: $*"
}

# Ports where nobody listens.
declare -A ports=()
free_port() {
    while port=$((14000 + RANDOM % 4000)); do
        [[ " ${ports[*]} " != *" $port "* ]] || continue
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
    done
    ports[$1]=$port
}
for name in consul web-1 web-2 api-1 api-2 web api; do free_port "$name"; done

# start_nginx NAME: in the folder of that name.
start_nginx() {
    LD_LIBRARY_PATH=$libraries CONSUL_HTTP_ADDR=127.0.0.1:${ports[consul]} SERVICE=$1 \
        "$nginx" -p "$folder/$1" -c nginx.conf -e stderr -g "$front" 2>>"$folder/$1.log" &
    pids[$1]=$!
}

# An instance is one process, which answers with its name.
start_instance() {
    mkdir "$folder/$1"
    echo "master_process off; pid nginx.pid; events {} http { $paths access_log off; keepalive_requests 1000000;
        server { listen 127.0.0.1:${ports[$1]}; return 200 $1; } }" >"$folder/$1/nginx.conf"
    start_nginx "$1"
}

# shows_two SERVICE: whether its gateway has two instances.
shows_two() {
    [ "$(curl -s "127.0.0.1:${ports[$1]}/gateway/instances" | grep -c requests)" -eq 2 ]
}

# answers NAME: whether it answers to a request.
answers() {
    curl -s -o "$folder/answer" "127.0.0.1:${ports[$1]}/"
}

start_gateway() {
    mkdir -p "$folder/$1"
    cp examples/openresty/gateway.lua "$folder/$1/"
    sed -e "s/127\.0\.0\.1:8080/127.0.0.1:${ports[$1]}/" -e "s|^http {|&\n    $paths|" \
        examples/openresty/gateway.conf >"$folder/$1/nginx.conf"
    start_nginx "$1"
    until_it shows_two "$1"
}

# of SERVICE: sends requests, and prints by which instances they were answered.
of() {
    local ok
    curl -s -w ' %{http_code}\n' "127.0.0.1:${ports[$1]}/?[1-$requests]" >"$folder/answers" || true
    ok=$(grep -c ' 200$' "$folder/answers" || true)
    total=$((total + requests)) served=$((served + ok))
    printf '  %s: %s requests, %s answered with 200:%s\n' "$1" "$requests" "$ok" \
        "$(sort "$folder/answers" | uniq -c | awk '{ printf "%s %s by %s", n++ ? "," : "", $1, $2 }')"
}

# age SERVICE: prints the whole seconds since Consul confirmed the gateway's list.
age() {
    curl -si "127.0.0.1:${ports[$1]}/gateway/instances" | tr -d '\r' | sed -n 's/^[Aa]ge: //p'
}

# is_older SERVICE SECONDS: whether its list is.
is_older() {
    [ "$(age "$1")" -gt "$2" ]
}

# is_ejected: whether the gateway of web has ejected the instance that was killed; asks it once more. Each of its workers
# finds that out by itself.
is_ejected() {
    local ok
    ok=$(curl -s -o "$folder/answer" -w '%{http_code}' "127.0.0.1:${ports[web]}/")
    total=$((total + 1)) served=$((served + (ok == 200)))
    curl -s "127.0.0.1:${ports[web]}/gateway/instances" >"$folder/instances"
    grep -q "^127.0.0.1:${ports[web-1]} ejected" "$folder/instances"
}

echo "$("$nginx" -v 2>&1 | sed 's/.*: //') as a gateway to web and to api, which have two instances each"
for name in web-1 web-2 api-1 api-2; do start_instance "$name"; done
{
    echo '{"services":['
    for name in web-1 web-2 api-1 api-2; do
        [ "$name" = web-1 ] || echo ,
        printf '{"name":"%s","id":"%s","address":"127.0.0.1","port":%s}' "${name%-*}" "$name" "${ports[$name]}"
    done
    echo ']}'
} >"$folder/services.json"
"$sim" agent -dev -dns-port=-1 -http-port="${ports[consul]}" -config-file="$folder/services.json" >"$folder/consul.log" 2>&1 &
pids[consul]=$!
for name in web-1 web-2 api-1 api-2; do until_it answers "$name"; done
for name in web api; do start_gateway "$name"; done
of web
of api
echo "  more of them by the instance that answers sooner"

echo
echo "web-1 is killed (kill -9), and Consul does not know it"
end web-1 KILL
of web
until_it is_ejected
sed -e "s/^127.0.0.1:${ports[web-1]} \([a-z]*\) .*/  web-1 is \1/" -e "s/^127.0.0.1:${ports[web-2]} \([a-z]*\) .*/  web-2 is \1/" \
    "$folder/instances"
of web

echo
echo "Consul is killed (kill -9)"
end consul KILL
until_it is_older web 2
of web
of api
echo "  Consul confirmed the list of web $(age web) s ago"

echo
echo "nginx is reloaded during requests, and Consul is still away"
of web >"$folder/during" &
during=$!
kill -s HUP "${pids[web]}"
wait "$during" || failed "the requests during the reload"
cat "$folder/during"
ok=$(sed 's/.* \([0-9]*\) answered.*/\1/' "$folder/during")
total=$((total + requests)) served=$((served + ok))
of web

echo
echo "nginx is stopped and started again, and Consul is still away"
end web TERM
[ -s "$folder/web/instances.json" ] || failed "there is no dump file"
start_nginx web
until_it shows_two web
of web
sed -n 's/.*\(consul_ffi: starts with [^,]*, the oldest [0-9]* s old\).*/  \1/p' "$folder/web.log" | tail -n 1
echo "  Consul confirmed the list of web $(age web) s ago"

echo
echo "$served of $total requests were answered with 200"
[ "$served" -eq "$total" ] || failed "some were not"
finish
trap - EXIT
[ ! -e "$folder" ] || failed "something is left"
echo "Left behind: nothing"
