#!/usr/bin/env bash
# Installs with apt-get, by package name, the programs that are missing; says which.
#
#   scripts/install-deps.sh [test|demo|tsdb|bench]
#
# test (the default): what `make test` needs. demo: what `make demo` needs for the engine that $LUA
# names (luajit by default). tsdb: what examples/tsdb needs besides. bench: the clients that `make bench` compares with, but for Go's.
# Without apt-get it says what to install, and fails.
set -euo pipefail

purpose=${1:-test}
programs=()
packages=()
lua=${LUA:-luajit}
unset LUA_INIT # it is for the programs, not for a look at which modules there are

# Each need is PROGRAM=PACKAGE.
case $purpose in
    demo)
        engine=$(basename "$lua")
        case $engine in
            luajit | lua5.1 | lua5.4) ;;
            *)
                echo "LUA=$lua is none of luajit, lua5.1 and lua5.4" >&2
                exit 2
                ;;
        esac
        needs=("$lua=$engine" cc=build-essential)
        ;;
    test)
        needs=(
            luajit=luajit lua5.1=lua5.1 lua5.4=lua5.4
            busted=lua-busted luacheck=lua-check luarocks=luarocks shellcheck=shellcheck
            cc=build-essential ip=iproute2
        )
        # luarocks wants the headers of the Lua it installs for, and the C program of the tests too.
        [ -e /usr/include/lua5.4/lua.h ] || packages+=(liblua5.4-dev)
        [ -e /usr/include/lua5.1/lua.h ] || packages+=(liblua5.1-0-dev)
        [ -e /usr/include/luajit-2.1/lua.h ] || packages+=(libluajit-5.1-dev)
        luajit -e 'require("luasql.sqlite3")' 2>/dev/null || packages+=(lua-sql-sqlite3)
        ;;
    tsdb)
        needs=()
        "$lua" -e 'require("luasql.sqlite3")' 2>/dev/null || packages+=(lua-sql-sqlite3)
        ;;
    bench)
        needs=(luajit=luajit cc=build-essential wrk=wrk)
        [ -e /usr/include/lua5.1/lua.h ] || packages+=(liblua5.1-0-dev)
        # has MODULE: can LuaJIT load it?
        has() { luajit -e "require('$1')" 2>/dev/null; }
        has socket.http || packages+=(lua-socket)
        has cjson || packages+=(lua-cjson)
        luajit -e "require('ffi').load('libcurl.so.4')" 2>/dev/null || packages+=(libcurl4)
        ;;
    *)
        echo "usage: scripts/install-deps.sh [test|demo|tsdb|bench]" >&2
        exit 2
        ;;
esac

for need in "${needs[@]}"; do
    if ! command -v "${need%=*}" >/dev/null; then
        programs+=("${need%=*}")
        packages+=("${need#*=}")
    fi
done

if [ ${#packages[@]} -gt 0 ]; then
    if ! command -v apt-get >/dev/null; then
        echo "These programs or headers are missing: ${programs[*]}" >&2
        echo "There is no apt-get here. Debian calls their packages: ${packages[*]}" >&2
        exit 1
    fi
    sudo=()
    if [ "$(id -u)" -ne 0 ] && command -v sudo >/dev/null; then
        sudo=(sudo)
    fi
    echo "installing ${packages[*]}…"
    apt=("${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300)
    "${apt[@]}" update
    "${apt[@]}" install -y --no-install-recommends "${packages[@]}"
fi

# Debian's own Rust is too old, so this one is not installed for the user.
if ! command -v cargo >/dev/null; then
    echo "cargo is missing: install Rust (https://rustup.rs), then try again" >&2
    exit 1
fi
