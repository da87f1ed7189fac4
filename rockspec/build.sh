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
cd "$(dirname "$0")/.."

# shellcheck source=rockspec/lib.sh
source rockspec/lib.sh

[ $# -eq 2 ] || fail "usage: rockspec/build.sh FEATURE|INTERPRETER FILE"
case $1 in
    luajit | lua51 | lua53 | lua54) feature=$1 ;;
    *)
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
# The dependencies are the same for all engines but for two crates, so the first build for one engine
# starts with a copy of what was built for another.
if [ ! -e "$folder/$feature" ]; then
    for other in luajit lua51 lua53 lua54; do
        [ -d "$folder/$other/$profile" ] || continue
        cp -a "$folder/$other" "$folder/$feature.$$"
        mv -T "$folder/$feature.$$" "$folder/$feature" || rm -rf "$folder/$feature.$$"
        break
    done
fi

mkdir -p "$folder"
[ -w "$folder" ] || fail "$(id -un) cannot write to $folder, which $(stat -c %U "$folder") has made: set CARGO_TARGET_DIR, or remove it"

# optimised: builds the module and the guard as they are installed, and sets `module` and `guard`.
optimised() {
    local flags small fold probe linux_x86 messages
    # Less inlining than LLVM's own, functions that are alike in the module once, and direct calls between
    # crates: see docs/architecture.md, the size of the module.
    flags=(-C "llvm-args=-inline-threshold=45 -inlinehint-threshold=45")
    # For its size; consul-sim serves with it, and has it as it is fast.
    small=(--config 'profile.release.package.hyper.opt-level="z"' --config 'profile.release.package.hyper-util.opt-level="z"')
    # Not every linker can fold functions. A folder of its own: rustc's intermediate files in it have the
    # crate's name alone, so builds of two engines at once would remove each other's.
    fold=(-C "link-arg=-Wl,--icf=all")
    probe=$(mktemp -d "$folder/probe.XXXXXX")
    if echo | "${RUSTC:-rustc}" --crate-type=cdylib --crate-name=empty "${fold[@]}" -o "$probe/empty.so" - 2>/dev/null; then
        flags+=("${fold[@]}")
    fi
    rm -rf "$probe"
    linux_x86="target.'cfg(all(target_os=\"linux\", target_arch=\"x86_64\"))'"
    messages=$(CARGO_TARGET_DIR=$folder/$feature cargo --config "$linux_x86.rustflags=['-C', 'relro-level=partial']" \
        "${without_home[@]}" "${small[@]}" rustc --release --locked --lib "$as_messages" \
        --no-default-features --features "$feature" -- "${flags[@]}")
    module=$(built libconsul_ffi.so "$messages")
    messages=$(CARGO_TARGET_DIR=$folder/guard cargo "${without_home[@]}" build --profile guard --locked --bin consul-guard \
        "$as_messages" --no-default-features --features guard)
    guard=$(built consul-guard "$messages")
}

# quick: builds them in one pass, and sets `module` and `guard`.
quick() {
    local messages
    messages=$(CARGO_TARGET_DIR=$folder/$feature cargo "${without_home[@]}" build --profile quick --locked --lib \
        --bin consul-guard "$as_messages" --no-default-features --features "$feature,guard")
    module=$(built libconsul_ffi.so "$messages")
    guard=$(built consul-guard "$messages")
}

if [ "$profile" = quick ]; then quick; else optimised; fi

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
