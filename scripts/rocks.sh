#!/usr/bin/env bash
# Packs binary rocks of the module, for machines without Rust and without a compiler, and prints the oldest glibc that each
# runs with.
#
#   scripts/rocks.sh [FLAVOUR…]     luajit, 5.1, 5.3, 5.4; by default all of them
#
# A rock is target/rocks/consul_ffi-VERSION-REVISION.PLATFORM.rock, one for each version of Lua, by which luarocks chooses:
# the revision is 51, 53 or 54. That of 5.1 has the modules for LuaJIT and for Lua 5.1, if both are packed. BUILT is a folder
# with modules for another PLATFORM that scripts/dist.sh has built. With musl the rock is consul_ffi-musl, since luarocks
# knows no C libraries.
set -euo pipefail
CDPATH='' cd "$(dirname "$0")/.."

fail() {
    echo "rocks: $*" >&2
    exit 1
}

[ $# -gt 0 ] || set -- luajit 5.1 5.3 5.4
for flavour; do
    [[ " luajit 5.1 5.3 5.4 " == *" $flavour "* ]] || fail "there is no $flavour: the flavours are luajit, 5.1, 5.3 and 5.4"
done
# Before minutes of building.
for need in luarocks=luarocks zip=zip unzip=unzip objdump=binutils; do
    command -v "${need%=*}" >/dev/null || fail "${need%=*} is missing (Debian's package ${need#*=})"
done
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
built=${BUILT:-target/rock}
platform=${PLATFORM:-linux-$(uname -m)}
package=consul_ffi
[[ $platform != *-musl ]] || package=consul_ffi-musl
mkdir -p target/rocks
# luarocks leaves a rock in the present folder: two runs would take it from each other.
exec 9>target/rocks/lock
flock 9

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

# is_for FLAVOUR LUA: whether it is for this version of Lua.
is_for() {
    [ "$1" = "$2" ] || [ "$1$2" = luajit5.1 ]
}

# pack LUA FLAVOUR…: builds them and packs their rock.
pack() {
    local lua=$1 flavour feature files=() libraries='' lua_files='' rockspec rock needed
    local revision=${lua/./}
    shift
    for flavour; do
        feature=lua${flavour/./}
        [ "$flavour" != luajit ] || feature=luajit
        [ -n "${BUILT:-}" ] || rockspec/build.sh "$feature" "$built/$flavour/consul_ffi.so"
        files+=("$built/$flavour"/consul*)
        # Lua takes what follows the hyphen for the name of the function that opens it.
        [ $# -eq 1 ] || cp "$built/$flavour/consul_ffi.so" "$built/$feature-consul_ffi.so"
        libraries+="\"$built/$feature-consul_ffi.so\", "
    done
    if [ $# -eq 1 ]; then
        libraries="\"$built/$flavour/consul_ffi.so\", "
    else
        lua_files=' consul_ffi = "rockspec/choose.lua",'
    fi
    needed=$(objdump -T "${files[@]}") || fail "objdump does not show which glibc it needs"
    needed=$(grep -o 'GLIBC_[0-9.]*' <<<"$needed" | sort -uV | tail -n 1) || needed="musl 1.2"
    rockspec=target/rocks/$package-$version-$revision.rockspec
    sed -e "s|^package = .*|package = \"$package\"|" \
        -e "s|^version = .*|version = \"$version-$revision\"|" \
        -e "s|^dependencies = .*|dependencies = { \"lua >= $lua, < 5.$((${lua#5.} + 1))\" }|" \
        -e 's|^  type = "command",|  type = "none",|' -e '/^  build_command = /d' \
        -e "s|^    lib = .*|    lib = { $libraries\"$built/$flavour/consul-guard\" },|" \
        -e "s|^    lua = {|&$lua_files|" "rockspec/consul_ffi-$version-1.rockspec" >"$rockspec"
    # Nothing is compiled, but luarocks does not begin without the header of its Lua.
    mkdir -p "target/rocks/include/$lua"
    echo "#define LUA_VERSION_NUM ${lua/./0}" >"target/rocks/include/$lua/lua.h"
    rock=$(luarocks --lua-version="$lua" make --pack-binary-rock --deps-mode=none "$rockspec" \
        LUA_INCDIR="$PWD/target/rocks/include/$lua" | sed -n 's/^Packed: //p')
    [ -f "$rock" ] || fail "luarocks has packed nothing of $rockspec"
    packed_again "$rock" "target/rocks/$package-$version-$revision.${platform%-musl}.rock"
    rock=target/rocks/$package-$version-$revision.${platform%-musl}.rock
    echo "$rock: $(($(stat -c %s "$rock") / 1000)) kB, needs $needed or newer"
}

for lua in 5.1 5.3 5.4; do
    flavours=()
    for flavour; do
        ! is_for "$flavour" "$lua" || flavours+=("$flavour")
    done
    [ ${#flavours[@]} -eq 0 ] || pack "$lua" "${flavours[@]}"
done
