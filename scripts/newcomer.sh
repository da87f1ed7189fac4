#!/usr/bin/env bash
# The first five minutes of a newcomer on a machine with cargo: `make demo` of README.md in a fresh clone, and its first
# program. In a mount namespace with an empty home and an empty /tmp, and without this environment; only Rust's
# folders and the caches of the scripts are there. That a rock needs no Rust is tested by tests/programs/packaging.rs.
#
#   scripts/newcomer.sh          exit status 3: a mount namespace cannot be had
#
# CARGO_TARGET_DIR has its usual meaning; without it all is built as a newcomer does.
set -euo pipefail
CDPATH='' cd "$(dirname "$0")/.."

if ! unshare --mount true 2>/dev/null; then
    echo "SKIPPED: the newcomer's five minutes: unshare cannot make a mount namespace here"
    exit 3
fi
checkout=$(mktemp -d)
trap 'rm -rf "$checkout"' EXIT
git clone -q --no-tags . "$checkout/clone"

# The shell in the namespace: its arguments are the clone, and Rust's folders.
# shellcheck disable=SC2016 # the variables are the inner shell's own
unshare --mount env -i HOME="$HOME" PATH="$PATH" LANG=C.UTF-8 \
    ${CARGO_TARGET_DIR:+CARGO_TARGET_DIR="$CARGO_TARGET_DIR"} bash -euo pipefail -c '
    kept=/mnt
    mount -t tmpfs none "$kept"
    i=0
    for folder; do
        i=$((i + 1))
        [ -d "$folder" ] || continue
        mkdir "$kept/$i"
        mount --bind "$folder" "$kept/$i"
    done
    mount -t tmpfs none "$HOME"
    mount -t tmpfs -o mode=1777 none /tmp
    i=0
    for folder; do
        i=$((i + 1))
        [ -d "$kept/$i" ] || continue
        mkdir -p "$folder"
        mount --bind "$kept/$i" "$folder"
    done
    cd "$1/clone"

    command=$(grep -m 1 "^make demo" README.md)
    echo "README.md: $command"
    $command | tee /tmp/said
    grep -q "stored greeting and read back: hello" /tmp/said

    awk "/^\`\`\`lua/ { shown = 1; next } /^\`\`\`/ && shown { exit } shown" README.md >first.lua
    awk "/^\`\`\`text/ { shown = 1; next } /^\`\`\`/ && shown { exit } shown" README.md >wanted
    export LUA_PATH="./lua/?.lua;;" LUA_CPATH="./target/lua-quick/luajit/?.so;;"
    luajit first.lua | tee said
    diff wanted said
' newcomer "$checkout" "${CARGO_HOME:-$HOME/.cargo}" "${RUSTUP_HOME:-$HOME/.rustup}" "${XDG_CACHE_HOME:-$HOME/.cache}"
echo "the newcomer's five minutes took $SECONDS s"
