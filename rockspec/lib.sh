#!/usr/bin/env bash
# Functions that the scripts in this folder share; they source this file and run in the checkout.

fail() {
    echo "consul_ffi: $*" >&2
    exit 1
}

# lowest_rust: prints the lowest Rust that builds it.
lowest_rust() {
    sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml
}

# check_rust WHAT: ends the script unless there is a Rust that is new enough to build WHAT.
check_rust() {
    local needed found
    needed=$(lowest_rust)
    command -v cargo >/dev/null ||
        fail "cargo is missing, which builds $1: install Rust $needed or newer from https://rustup.rs"
    found=$("${RUSTC:-rustc}" --version) || fail "rustc does not run: install Rust $needed or newer from https://rustup.rs"
    found=${found#rustc }
    found=${found%%[ -]*}
    [ "$(printf '%s\n' "$needed" "$found" | sort -V | head -n 1)" = "$needed" ] ||
        fail "this is Rust $found, and $1 needs $needed or newer: run \"rustup update\", or install it from https://rustup.rs"
}

# check_places FOLDER…: makes the folders, and ends the script unless it may write there.
check_places() {
    local place
    for place; do
        { mkdir -p "$place" && [ -w "$place" ]; } 2>/dev/null ||
            fail "$(id -un) cannot write to $place: remove it if another user has made it, set CARGO_TARGET_DIR, or build in a copy"
    done
}

# check_machine WHAT FOLDER MEGABYTES: ends the script before minutes of building, unless there is what compiles C and links
# WHAT, and this much room in the file system of the folder.
check_machine() {
    local compiler=${CC:-cc} free
    command -v "${compiler%% *}" >/dev/null ||
        fail "$compiler is missing, which compiles C and links $1 (Debian's package gcc, Alpine's build-base)"
    free=$(df -Pk "$2" | awk 'NR == 2 { print int($4 / 1024) }') || free=
    [ -z "$free" ] || [ "$free" -ge "$3" ] ||
        fail "$2 has $free MB of free disk space, and to build $1 takes $3 MB: make room, or set CARGO_TARGET_DIR to another folder"
}

# Arguments of cargo: published files must not show the folder of the user who built them.
# shellcheck disable=SC2034 # the scripts that source this use it
without_home=(--config "target.'cfg(unix)'.rustflags=[\"--remap-path-prefix=${CARGO_HOME:-${HOME:-}/.cargo}/registry/src=cargo\"]")

# An argument of cargo with which it says on standard output what it has built.
# shellcheck disable=SC2034 # the scripts that source this use it
as_messages=--message-format=json-render-diagnostics

# built NAME MESSAGES: prints the path of the file that cargo has built. Where it is depends on the user's configuration of
# cargo: with a target there it has a folder of its own, and a file of an earlier build can be where it would be without.
built() {
    local paths
    paths=$(grep -o "\"[^\"]*/$1\"" <<<"$2" | tr -d '"' | sort -u) || paths=
    [ -f "$paths" ] || fail "cargo has to build one $1, for one target, and has built ${paths:-none}"
    echo "$paths"
}
