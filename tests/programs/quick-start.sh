#!/usr/bin/env bash
# Runs a page of docs/ as it stands there, and prints what its commands print: a block that begins with a comment that is a
# file's name is written to that file, and all blocks of commands run in one shell, in the folder of these files.
#
#   tests/programs/quick-start.sh PAGE
#
# In namespaces of its own, as root, with the page's ports; all that it starts ends with it. Only the programs are others
# that the reader has installed before: PROGRAMS is a folder with consul-sim and consul-ha, NGINX_FOLDER what scripts/nginx.sh
# prints, LUA_PATH and LUA_CPATH have the module. Exit status 3, and the reason, when there are no namespaces.
set -euo pipefail
CDPATH='' cd "$(dirname "$0")/../.."

# shellcheck source=scripts/lib.sh
source scripts/lib.sh
[ "${1:-}" = inside ] || enter_namespaces "$@"

page=$2
ip link set lo up
# A folder of every system, in which nobody else sees this.
scratch=/mnt
mount -t tmpfs none "$scratch"
mkdir -p "$scratch"/{bin,page,upper,work}
# program NAME TEXT: in the place of one that the reader has.
program() {
    printf '#!/bin/sh\n%s\n' "$2" >"$scratch/bin/$1"
    chmod 755 "$scratch/bin/$1"
}
tools=$(realpath "${PROGRAMS:?}")
program consul "exec $tools/consul-sim \"\$@\" -dns-port=-1"
program consul-sim "exec $tools/consul-sim \"\$@\""
program consul-ha "exec $tools/consul-ha \"\$@\""
if [ -n "${NGINX_FOLDER:-}" ]; then
    nginx=$(realpath "$NGINX_FOLDER")
    mount -t overlay overlay -o "lowerdir=/var,upperdir=$scratch/upper,workdir=$scratch/work" /var
    mkdir -p /var/lib/nginx /var/log/nginx
    program openresty "LD_LIBRARY_PATH=$nginx/libraries exec $nginx/usr/sbin/nginx \"\$@\" -g 'user root; load_module \
$nginx/usr/lib/nginx/modules/ndk_http_module.so; load_module $nginx/usr/lib/nginx/modules/ngx_http_lua_module.so;'"
    LUA_PATH="$nginx/usr/share/lua/5.1/?.lua;$LUA_PATH"
fi
root=$(pwd)
LUA_PATH=${LUA_PATH//.\//$root/} LUA_CPATH=${LUA_CPATH//.\//$root/}
export LUA_PATH LUA_CPATH
PATH=$scratch/bin:$PATH
unset CONSUL_HTTP_ADDR CONSUL_HTTP_TOKEN

awk -v folder="$scratch/page/" '
    /^```/ { file = /^```sh/ ? "../commands" : ""; is_first = !is_open && !file; is_open = !is_open; next }
    is_first && /^(#|--) [a-z_]+\.(lua|conf)$/ { file = $2 }
    { is_first = 0 }
    file { print >(folder file) }
' "$page"
cd "$scratch/page"
bash -e ../commands 2>../errors || {
    echo "the commands end with status $?" >&2
    cat ../errors >&2
    exit 1
}
