#!/usr/bin/env bash
# Prints the folder with the Lua files of Apache APISIX that its discovery by Consul needs, and of the clients that the
# rockspec of that APISIX names; all other output goes to stderr. Nothing is installed.
#
#   scripts/apisix.sh
#
# Takes them from $APISIX_SOURCE, a folder that has them anywhere below it, else from the cache
# (${XDG_CACHE_HOME:-$HOME/.cache}/consul_ffi), else unpacks the rocks with luarocks. The folder has:
#
#   apisix/apisix/            APISIX
#   consul/resty/consul.lua   lua-resty-consul
#   http/resty/http.lua       APISIX's lua-resty-http
#
# Exit status 3, and the reason in one line, when they are unavailable.
set -euo pipefail

# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

# The release, and what its rockspec asks for.
rocks=("apisix 3.18.0-0" "lua-resty-consul 0.3-2" "api7-lua-resty-http 0.2.3-0")

# collect FOLDER SOURCE: copies the files from below SOURCE. Fails if one of them is not there.
collect() {
    local discovery client http
    discovery=$(find "$2/" -path '*/apisix/discovery/consul/init.lua' -print -quit)
    client=$(find "$2/" -path '*/resty/consul.lua' -print -quit)
    http=$(find "$2/" -path '*/resty/http_connect.lua' -print -quit)
    [ -n "$discovery" ] && [ -n "$client" ] && [ -n "$http" ] || return 1
    mkdir -p "$1/apisix" "$1/consul/resty" "$1/http/resty"
    cp -r "${discovery%/discovery/consul/init.lua}" "$1/apisix/apisix"
    cp "$client" "$1/consul/resty"
    cp "${http%/http_connect.lua}"/http*.lua "$1/http/resty"
}

# unpack FOLDER: unpacks the rocks and collects the files there.
unpack() {
    local rock
    command -v luarocks >/dev/null || cannot "APISIX comes from luarocks, which is missing; APISIX_SOURCE can name a folder with it"
    mkdir "$1/rocks"
    for rock in "${rocks[@]}"; do
        echo "unpacking $rock…" >&2
        # shellcheck disable=SC2086 # a name and a version
        (cd "$1/rocks" && luarocks --lua-version=5.1 unpack $rock >&2) \
            || cannot "luarocks could not unpack $rock; APISIX_SOURCE can name a folder with APISIX and its clients"
    done
    collect "$1" "$1/rocks" || cannot "the rocks of APISIX do not have the files of discovery/consul"
    rm -rf "$1/rocks"
}

if [ -n "${APISIX_SOURCE:-}" ]; then
    cached=$(mktemp -d "${TMPDIR:-/tmp}/consul_ffi-apisix-source.XXXXXX")
    collect "$cached" "$APISIX_SOURCE" || cannot "APISIX_SOURCE ($APISIX_SOURCE) lacks apisix/discovery/consul/init.lua, resty/consul.lua or resty/http_connect.lua"
else
    cache_once "apisix-3.18.0" apisix/apisix/discovery/consul/init.lua unpack
fi
echo "$cached"
