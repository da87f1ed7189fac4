#!/usr/bin/env bash
# Packs a binary rock of the module for each engine, for machines without Rust and without a compiler, and prints the
# oldest glibc that each runs with.
#
#   scripts/rocks.sh [FLAVOUR…]     luajit, 5.1, 5.3, 5.4; by default all of them
#
# The rocks are target/rocks/consul_ffi-VERSION.FLAVOUR-1.ARCHITECTURE.rock, with the engine in the version: other rocks
# depend on the name consul_ffi, and of LuaJIT and Lua 5.1, which have one tree, luarocks installs one instead of the
# other.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "rocks: $*" >&2
    exit 1
}

[ $# -gt 0 ] || set -- luajit 5.1 5.3 5.4
command -v luarocks >/dev/null || fail "luarocks is missing"
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
mkdir -p target/rocks
# luarocks leaves a rock in the present folder: two runs would take it from each other.
exec 9>target/rocks/lock
flock 9

# oldest_glibc FILE…: the newest version of glibc that one of them asks for.
oldest_glibc() {
    objdump -T "$@" | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -n 1
}

# packed_again ROCK TARGET: the same files with no trace of this machine: in one order, with one mode, and with the time of
# Cargo.toml, which is that of the commit where the source archive of a release is unpacked.
packed_again() {
    local folder=$PWD/target/rocks/unpacked
    rm -rf "$folder" "$folder.zip"
    unzip -q "$1" -d "$folder"
    chmod -R u=rwX,go=rX "$folder"
    find "$folder" -type f -exec touch -r Cargo.toml {} +
    (cd "$folder" && find . -type f -printf '%P\n' | LC_ALL=C sort | TZ=UTC zip -qX "$folder.zip" -@)
    mv "$folder.zip" "$2"
    rm -rf "$folder" "$1"
}

# pack FLAVOUR: builds it and packs it.
pack() {
    local flavour=$1 feature=lua${1/./} lua=$1 following build=target/rock/$1 rockspec rock glibc
    case $flavour in
        luajit) feature=luajit lua=5.1 ;;
        5.1 | 5.3 | 5.4) ;;
        *) fail "there is no $flavour: the flavours are luajit, 5.1, 5.3 and 5.4" ;;
    esac
    following=5.$((${lua#5.} + 1))
    rockspec/build.sh "$feature" "$build/consul_ffi.so"
    glibc=$(oldest_glibc "$build/consul_ffi.so" "$build/consul-guard") || fail "objdump does not show which glibc it needs"
    rockspec=target/rocks/consul_ffi-$version.$feature-1.rockspec
    sed -e "s|^version = .*|version = \"$version.$feature-1\"|" \
        -e "s|^dependencies = .*|dependencies = { \"lua >= $lua, < $following\" }|" \
        -e 's|^  type = "command",|  type = "none",|' -e '/^  build_command = /d' \
        -e "s|target/rock/|$build/|g" "rockspec/consul_ffi-$version-1.rockspec" >"$rockspec"
    # Nothing is compiled, but luarocks does not begin without the header of its Lua.
    mkdir -p "target/rocks/include/$lua"
    echo "#define LUA_VERSION_NUM ${lua/./0}" >"target/rocks/include/$lua/lua.h"
    rock=$(luarocks --lua-version="$lua" make --pack-binary-rock --deps-mode=none "$rockspec" \
        LUA_INCDIR="$PWD/target/rocks/include/$lua" | sed -n 's/^Packed: //p')
    [ -f "$rock" ] || fail "luarocks has packed nothing of $rockspec"
    packed_again "$rock" "target/rocks/$(basename "$rock")"
    rock=target/rocks/$(basename "$rock")
    echo "$rock: $(($(stat -c %s "$rock") / 1000)) kB, needs $glibc or newer"
}

for flavour; do
    pack "$flavour"
done
