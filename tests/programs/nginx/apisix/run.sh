#!/usr/bin/env bash
# Runs a program of this folder in nginx, with a Consul of its own, and prints its results.
#
#   tests/programs/nginx/apisix/run.sh PROGRAM WORKERS CONFIG [LUA_PATH]
#
# PROGRAM is a Lua module of this folder. CONFIG is the configuration of APISIX as JSON, in which CONSUL stands for the
# address of Consul and FOLDER for nginx's folder. LUA_PATH comes before the checkout's own. The environment has:
#
#   CONSUL_PROGRAM   a consul-sim or a consul
#   PROGRAM          passed on
#   TOKEN            if set, Consul has ACLs that deny by default, and this management token
#   FOLDER           nginx's folder, which is kept; default: a temporary one
#
# Exit status 3, and the reason in one line, when there is no nginx.
set -euo pipefail
CDPATH='' cd "$(dirname "$0")/../../../.."

[ $# -ge 3 ] || { sed -n '2,/^set /s/^# \{0,1\}//p' "$0" >&2 && exit 2; }
program=$1 workers=$2 config=$3 more=${4:-}
nginx=$(scripts/nginx.sh)
root=$PWD
folder=${FOLDER:-$(mktemp -d "${TMPDIR:-/tmp}/consul_ffi-apisix.XXXXXX")}
mkdir -p "$folder"
# Of its own among all runs at the same time.
host=127.$((1 + ($$ >> 16))).$(($$ >> 8 & 255)).$(($$ & 255))
rm -f "$folder/results" "$folder/done" "$folder/consul.pid"
server=

# end: ends nginx and Consul, and removes the folder unless the caller has named it.
end() {
    trap '' INT TERM HUP
    [ -z "$server" ] || { kill -TERM "$server" && wait "$server"; } 2>/dev/null || true
    [ ! -e "$folder/consul.pid" ] || kill -KILL "$(cat "$folder/consul.pid")" 2>/dev/null || true
    [ -n "${FOLDER:-}" ] || rm -rf "$folder"
}
trap end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

acl=()
[ -z "${TOKEN:-}" ] || acl=("-hcl='acl { enabled = true, default_policy = \"deny\", tokens { initial_management = \"$TOKEN\", agent = \"$TOKEN\" } }'")
cat >"$folder/consul.sh" <<END
#!/bin/sh
setsid '$CONSUL_PROGRAM' agent -dev -log-level=err -client=$host -bind=$host -http-port=8500 \\
    -dns-port=-1 -grpc-port=-1 -grpc-tls-port=-1 \\
    -hcl='disable_update_check = true' ${acl[@]} </dev/null >>'$folder/consul.log' 2>&1 &
echo \$! >'$folder/consul.pid'
END
chmod +x "$folder/consul.sh"

temporary=
for kind in client_body proxy fastcgi uwsgi scgi; do
    temporary+="    ${kind}_temp_path $kind;"$'\n'
done
cat >"$folder/nginx.conf" <<END
load_module $nginx/usr/lib/nginx/modules/ndk_http_module.so;
load_module $nginx/usr/lib/nginx/modules/ngx_http_lua_module.so;
user root;
daemon off;
worker_processes $workers;
pid nginx.pid;
error_log error.log info;
env CONFIG;
env CONSUL_HOST;
env TOKEN;
env PROGRAM;
events {
    worker_connections 1024;
}
http {
    access_log off;
$temporary
    lua_socket_log_errors off;
    lua_shared_dict consul 64m;
    lua_shared_dict consul_ffi 10m;
    lua_shared_dict seen 10m;
    init_by_lua_block {
        require("resty.core")
        program = require("$program")
    }
    init_worker_by_lua_block {
        program()
    }
}
END
path="$root/tests/programs/nginx/apisix/?.lua;$root/tests/programs/nginx/apisix/stubs/?.lua;$more;"
path+="$root/lua/?.lua;$root/lua/?/init.lua;$root/resty/lua/?.lua;$nginx/usr/share/lua/5.1/?.lua"
config=${config//FOLDER/$folder}
CONFIG=${config//CONSUL/$host:8500} CONSUL_HOST=$host LD_LIBRARY_PATH=$nginx/libraries \
    LUA_PATH=$path LUA_CPATH="$root/target/lua/luajit/?.so;;" \
    "$nginx/usr/sbin/nginx" -p "$folder" -c nginx.conf </dev/null >>"$folder/output" 2>&1 &
server=$!
# The program has a limit for each of its waits, and nginx ends if it cannot start.
while [ ! -s "$folder/done" ] && kill -0 "$server" 2>/dev/null; do sleep 0.1; done
cat "$folder/results" 2>/dev/null || true
if [ "$(cat "$folder/done" 2>/dev/null)" != ok ]; then
    cat "$folder/done" "$folder/output" >&2 || true
    grep -v 'fetch nodes failed' "$folder/error.log" | tail -n 20 >&2 || true
    exit 1
fi
