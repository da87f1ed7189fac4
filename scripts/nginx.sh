#!/usr/bin/env bash
# Prints the folder that Debian's nginx with its Lua module is unpacked in; everything else goes to
# stderr. Nothing is installed: as a package the Lua module takes LuaJIT off the machine.
#
#   scripts/nginx.sh
#
# Looks in the cache (${XDG_CACHE_HOME:-$HOME/.cache}/consul_ffi); else downloads the packages of
# this machine's Debian release. In the folder:
#
#   usr/sbin/nginx                  the program
#   usr/lib/nginx/modules           ndk_http_module.so and ngx_http_lua_module.so, to be loaded
#   libraries                       for LD_LIBRARY_PATH
#   usr/share/lua/5.1/?.lua         for LUA_PATH
#
# Exit status 3, and the reason in one line, when it cannot be had.
set -euo pipefail

cannot() {
    echo "$*" >&2
    exit 3
}

cache=${XDG_CACHE_HOME:-$HOME/.cache}/consul_ffi
folder=$cache/nginx-lua

# works FOLDER: do the program and the module fit this machine and each other?
works() {
    LD_LIBRARY_PATH=$1/libraries "$1/usr/sbin/nginx" -t -q -p "$1" -c nginx.conf \
        -g "load_module usr/lib/nginx/modules/ndk_http_module.so;
            load_module usr/lib/nginx/modules/ngx_http_lua_module.so;"
}

if [ -e "$folder" ]; then
    echo "$folder"
    exit
fi

packages=(
    nginx libnginx-mod-http-ndk libnginx-mod-http-lua
    lua-resty-core lua-resty-lrucache libluajit2-5.1-2 libpcre3
)
command -v apt-get >/dev/null || cannot "nginx comes from Debian packages, and there is no apt-get"
command -v flock >/dev/null || cannot "there is no flock (package util-linux)"
mkdir -p "$cache"
exec 9>"$folder.lock"
flock 9
# Another run may have made it while this one waited.
if [ ! -e "$folder" ]; then
    new=$folder.new
    rm -rf "$new"
    mkdir -p "$new/packages" "$new/libraries"
    trap 'rm -rf "$new"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    echo "downloading ${packages[*]}…" >&2
    (cd "$new/packages" && apt-get -q -o APT::Sandbox::User=root download "${packages[@]}" >&2) \
        || cannot "apt-get could not download ${packages[*]}"
    for package in "$new"/packages/*.deb; do
        dpkg-deb -x "$package" "$new"
    done
    find "$new/usr/lib" "$new/lib" -name '*.so.*' -exec cp -P {} "$new/libraries" \; 2>/dev/null \
        || true
    rm -rf "$new/packages"
    echo 'events {} http { error_log stderr; access_log off; }' >"$new/nginx.conf"
    works "$new" >&2 || cannot "the nginx just unpacked does not run here"
    mv "$new" "$folder"
fi
echo "$folder"
