#!/usr/bin/env bash
# Prints the folder with an unpacked Debian nginx and its Lua module; all other output goes to stderr.
# Nothing is installed, because installing the package of the Lua module removes LuaJIT.
#
#   scripts/nginx.sh
#
# Looks in the cache (${XDG_CACHE_HOME:-$HOME/.cache}/consul_ffi); else downloads the packages of
# this machine's Debian release. The folder has:
#
#   usr/sbin/nginx                  the program
#   usr/lib/nginx/modules           ndk_http_module.so and ngx_http_lua_module.so, for load_module
#   libraries                       for LD_LIBRARY_PATH
#   usr/share/lua/5.1/?.lua         for LUA_PATH
#
# Exit status 3, and the reason in one line, when it is unavailable.
set -euo pipefail

# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

# works FOLDER: succeeds when the program runs here and loads the modules.
works() {
    LD_LIBRARY_PATH=$1/libraries "$1/usr/sbin/nginx" -t -q -p "$1" -c nginx.conf \
        -g "load_module usr/lib/nginx/modules/ndk_http_module.so;
            load_module usr/lib/nginx/modules/ngx_http_lua_module.so;"
}

packages=(
    nginx libnginx-mod-http-ndk libnginx-mod-http-lua
    lua-resty-core lua-resty-lrucache libluajit2-5.1-2 libpcre3
)

# unpack FOLDER: downloads the packages and unpacks them there.
unpack() {
    unpack_packages "$1" "${packages[@]}"
    mkdir -p "$1/libraries"
    find "$1/usr/lib" "$1/lib" -name '*.so.*' -exec cp -P {} "$1/libraries" \; 2>/dev/null \
        || true
    echo 'events {} http { error_log stderr; access_log off; }' >"$1/nginx.conf"
    works "$1" >&2 || cannot "the unpacked nginx does not run on this machine"
}

cache_once nginx-lua usr/sbin/nginx unpack
echo "$cached"
