#!/usr/bin/env bash
# Builds the module for one Lua engine, and puts the guard's program beside it.
#
#   rockspec/build.sh FEATURE FILE          FEATURE is luajit, lua51 or lua54
#   rockspec/build.sh INTERPRETER FILE      for the engine that this program is; so luarocks calls it
#
# Each engine has a build folder of its own: all of them are called libconsul_ffi.so, and in one
# folder each would make cargo build the others anew. The program is the same for all.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "consul_ffi: $*" >&2
    exit 1
}

[ $# -eq 2 ] || fail "usage: rockspec/build.sh FEATURE|INTERPRETER FILE"
case $1 in
    luajit | lua51 | lua54) feature=$1 ;;
    *)
        # LuaJIT calls itself Lua 5.1, but a module built for the one breaks in the other.
        engine=$("$1" -e 'print(jit and "LuaJIT" or _VERSION)') || fail "the Lua interpreter $1 does not run"
        case $engine in
            LuaJIT) feature=luajit ;;
            "Lua 5.1") feature=lua51 ;;
            "Lua 5.4") feature=lua54 ;;
            *) fail "$engine is not supported: use LuaJIT, Lua 5.1 or Lua 5.4" ;;
        esac
        echo "consul_ffi: building for $engine ($1)"
        ;;
esac
command -v cargo >/dev/null || fail "building needs Rust's cargo, which is missing: https://rustup.rs"

# luarocks sets CC to its default; cargo would take that for a change and build ring anew.
[ "${CC:-}" != gcc ] || unset CC

folder=${CARGO_TARGET_DIR:-target}
CARGO_TARGET_DIR=$folder/$feature cargo build --release --locked --lib \
    --no-default-features --features "$feature"
CARGO_TARGET_DIR=$folder/guard cargo build --profile guard --locked --bin consul-guard \
    --no-default-features --features guard

# put FILE PLACE: whole at once, because a program that starts meanwhile may load what is there.
put() {
    install -D -m 755 "$1" "$2.$$"
    mv "$2.$$" "$2"
}
put "$folder/$feature/release/libconsul_ffi.so" "$2"
put "$folder/guard/guard/consul-guard" "$(dirname "$2")/consul-guard"
for file in "$2" "$(dirname "$2")/consul-guard"; do
    echo "$file: $(($(stat -c %s "$file") / 1000)) kB"
done
