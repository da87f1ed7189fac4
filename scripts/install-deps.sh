#!/usr/bin/env bash
# Installs missing programs with apt-get, and prints their packages. No package of the machine is removed: if one conflicts
# with what is missing, it is named, and nothing is installed.
#
#   scripts/install-deps.sh [test|test-all|demo|gateway|tsdb|page|soak|bench]
#
# test: for `make test`. test-all (the default): for `make test-all`. demo: for `make demo` with the engine in $LUA (luajit by
# default). gateway: for `make demo-gateway`. tsdb: what examples/tsdb needs in addition. page: the browser for the test of the status
# server's page, which `make test-all` skips without it. soak: promtool, which the tests use if it is there. bench: the
# clients and stores that `make bench` compares, except the Go client. Without apt-get it prints the packages and fails.
set -euo pipefail

purpose=${1:-test-all}
packages=()
lua=${LUA:-luajit}
# For the checks of modules below: LUA_INIT may print, and a module in a folder of the user's LUA_PATH is not found where the
# Makefile sets another one.
unset "${!LUA_@}"

# Debian has two LuaJITs, of which a machine can have one; nginx's Lua module needs luajit2.
luajit=luajit luajit_headers=libluajit-5.1-dev
if dpkg-query -W -f '${db:Status-Abbrev}\n' libluajit2-5.1-2 2>/dev/null | grep -q '^.i'; then
    luajit=luajit2 luajit_headers=libluajit2-5.1-dev
fi

# Each need is PROGRAM=PACKAGE.
case $purpose in
    demo)
        engine=$(basename "$lua")
        case $engine in
            luajit | lua5.1 | lua5.3 | lua5.4) ;;
            *)
                echo "LUA is $lua: it must be luajit, lua5.1, lua5.3 or lua5.4" >&2
                exit 2
                ;;
        esac
        [ "$engine" != luajit ] || engine=$luajit
        needs=("$lua=$engine" cc=build-essential)
        ;;
    test | test-all)
        needs=(
            "luajit=$luajit" busted=lua-busted luacheck=lua-check shellcheck=shellcheck luarocks=luarocks cc=build-essential
        )
        # luarocks needs the headers of the Lua that it installs for, and so does the tests' C program.
        if [ "$purpose" = test-all ]; then
            needs+=(
                lua5.1=lua5.1 lua5.3=lua5.3 lua5.4=lua5.4
                ip=iproute2 etcd=etcd-server systemd-analyze=systemd
            )
            [ -e /usr/include/lua5.4/lua.h ] || packages+=(liblua5.4-dev)
            [ -e /usr/include/lua5.1/lua.h ] || packages+=(liblua5.1-0-dev)
        fi
        [ -e /usr/include/luajit-2.1/lua.h ] || packages+=("$luajit_headers")
        luajit -e 'require("luasql.sqlite3")' 2>/dev/null || packages+=(lua-sql-sqlite3)
        luajit -e 'require("luv")' 2>/dev/null || packages+=(lua-luv)
        luajit -e 'require("cqueues")' 2>/dev/null || packages+=(lua-cqueues)
        luajit -e 'require("socket")' 2>/dev/null || packages+=(lua-socket)
        # For the specs of resty.consul.
        luajit -e 'require("cjson")' 2>/dev/null || packages+=(lua-cjson)
        command -v openssl >/dev/null || packages+=(openssl)
        # promtool is in the package prometheus, which is large and starts a server: the group soak has it.
        python3 -c 'import prometheus_client' 2>/dev/null || /usr/bin/python3 -c 'import prometheus_client' 2>/dev/null ||
            packages+=(python3-prometheus-client)
        ;;
    gateway)
        needs=(curl=curl)
        ;;
    tsdb)
        needs=()
        "$lua" -e 'require("luasql.sqlite3")' 2>/dev/null || packages+=(lua-sql-sqlite3)
        ;;
    page)
        needs=(chromium=chromium chromedriver=chromium-driver)
        ;;
    soak)
        needs=(promtool=prometheus)
        ;;
    bench)
        needs=("luajit=$luajit" cc=build-essential wrk=wrk)
        [ -e /usr/include/lua5.1/lua.h ] || packages+=(liblua5.1-0-dev)
        # has MODULE: succeeds when LuaJIT can load it.
        has() { luajit -e "require('$1')" 2>/dev/null; }
        has socket.http || packages+=(lua-socket)
        has cjson || packages+=(lua-cjson)
        has luasql.sqlite3 || packages+=(lua-sql-sqlite3)
        has redis || packages+=(lua-redis)
        # The server is in redis-tools too, under the name of a check; the package redis-server starts a service.
        command -v redis-server >/dev/null || needs+=(redis-check-rdb=redis-tools)
        luajit -e "require('ffi').load('libcurl.so.4')" 2>/dev/null || packages+=(libcurl4)
        ;;
    *)
        echo "usage: scripts/install-deps.sh [test|test-all|demo|gateway|tsdb|page|soak|bench]" >&2
        exit 2
        ;;
esac

for need in "${needs[@]}"; do
    command -v "${need%=*}" >/dev/null || packages+=("${need#*=}")
done

if [ ${#packages[@]} -gt 0 ]; then
    if ! command -v apt-get >/dev/null; then
        echo "apt-get is missing; install what these Debian packages have: ${packages[*]}" >&2
        exit 1
    fi
    sudo=()
    if [ "$(id -u)" -ne 0 ] && command -v sudo >/dev/null; then
        sudo=(sudo)
    fi
    echo "installing ${packages[*]}…"
    apt=("${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300)
    "${apt[@]}" update
    conflicting=$("${apt[@]}" --simulate --no-install-recommends install "${packages[@]}" | awk '$1 == "Remv" { printf " %s", $2 }')
    if [ -n "$conflicting" ]; then
        echo "nothing is installed, since that would remove packages of this machine:$conflicting" >&2
        exit 1
    fi
    "${apt[@]}" install -y --no-remove --no-install-recommends "${packages[@]}"
fi

# Debian's Rust is too old, so this script does not install it.
if ! command -v cargo >/dev/null; then
    echo "cargo is missing: install Rust (https://rustup.rs) and run this again" >&2
    exit 1
fi
