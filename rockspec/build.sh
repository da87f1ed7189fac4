#!/usr/bin/env bash
# Builds the module for one Lua engine, and copies the guard's program into the same folder.
#
#   rockspec/build.sh FEATURE FILE          FEATURE is luajit, lua51, lua53 or lua54
#   rockspec/build.sh INTERPRETER FILE      for the engine of this interpreter; luarocks calls this form
#
# With QUICK=1 nothing is optimised: a build that takes a minute, for demos and tests.
#
# Each engine has its own build folder: all builds are called libconsul_ffi.so, so in a shared folder
# each build would make cargo rebuild the others. The program is the same for all.
set -euo pipefail
CDPATH='' cd "$(dirname "$0")/.."

# shellcheck source=rockspec/lib.sh
source rockspec/lib.sh

[ $# -eq 2 ] || fail "usage: rockspec/build.sh FEATURE|INTERPRETER FILE"
case $1 in
    luajit | lua51 | lua53 | lua54) feature=$1 ;;
    *)
        unset "${!LUA_INIT@}" # may print, too
        # LuaJIT's _VERSION is Lua 5.1, but the two need different builds of the module.
        engine=$("$1" -e 'print(jit and "LuaJIT" or _VERSION)') || fail "the Lua interpreter $1 does not run"
        case $engine in
            LuaJIT) feature=luajit ;;
            "Lua 5.1") feature=lua51 ;;
            "Lua 5.3") feature=lua53 ;;
            "Lua 5.4") feature=lua54 ;;
            *) fail "$engine is not supported: use LuaJIT, Lua 5.1, Lua 5.3 or Lua 5.4" ;;
        esac
        echo "consul_ffi: building for $engine ($1)"
        ;;
esac
check_rust "the module"

# luarocks sets CC to its default, which cargo would treat as a change and rebuild ring.
[ "${CC:-}" != gcc ] || unset CC

folder=${CARGO_TARGET_DIR:-target}
profile=release
[ -z "${QUICK:-}" ] || profile=quick
check_places "$folder" "$(dirname "$2")"
# What is below the module is the same for all engines but for two crates, so the first build for one engine starts with
# a copy of what was built for another.
if [ ! -e "$folder/$feature" ]; then
    for other in luajit lua51 lua53 lua54; do
        [ -d "$folder/$other/$profile" ] || continue
        cp -a "$folder/$other" "$folder/$feature.$$"
        mv -T "$folder/$feature.$$" "$folder/$feature" || rm -rf "$folder/$feature.$$"
        # All modules have one name, and cargo would take that of the other engine.
        rm -f "$folder/$feature"/*/deps/libconsul_ffi.*
        break
    done
fi
# A build of the same kind adds little.
room=1500
[ ! -d "$folder/$feature/$profile" ] || room=100
check_machine "the module" "$folder" "$room"

# build FOLDER OPTION…: cargo build with these, by the lock file; prints cargo's messages. A module that does not unwind would
# end its host.
build() {
    CARGO_TARGET_DIR=$folder/$1 cargo "${without_home[@]}" \
        --config "profile.$profile.panic='unwind'" build --locked "$as_messages" --no-default-features "${@:2}"
}

if [ "$profile" = quick ]; then
    # Both in one pass.
    messages=$(build "$feature" --profile quick --package consul_ffi --package consul-guard --lib --bin consul-guard \
        --features "consul_ffi/$feature")
    guards=$messages
else
    messages=$(build "$feature" --release --package consul_ffi --lib --features "$feature")
    guards=$(build guard --profile guard --package consul-guard --bin consul-guard)
fi
module=$(built libconsul_ffi.so "$messages")
guard=$(built consul-guard "$guards")

# put FILE TARGET: copies atomically, because a starting program may load the target at any time.
put() {
    install -D -m 755 "$1" "$2.$$"
    mv "$2.$$" "$2"
}
put "$module" "$2"
put "$guard" "$(dirname "$2")/consul-guard"
for file in "$2" "$(dirname "$2")/consul-guard"; do
    echo "$file: $(($(stat -c %s "$file") / 1000)) kB"
done
