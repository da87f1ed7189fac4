#!/usr/bin/env bash
# Runs what scripts/dist.sh has made, each file where its users run it.
#
#   scripts/dist-try.sh
#
# An archive has the sum beside it. Each module runs the demo, and gets a key, a lock and a key over TLS from consul-sim: on this machine and in a Debian 11 by
# debootstrap, for aarch64 by qemu-user; that for LuaJIT also without memory at each 37th point (REFUSE_STRIDE). consul-sim
# keeps a key there. A line that begins with SKIPPED says what was not run. CONSUL_SIM is another consul-sim than the one
# that was made.
set -euo pipefail
CDPATH='' cd "$(dirname "$0")/.."

# shellcheck source=scripts/lib.sh
source scripts/lib.sh

folder=$(mktemp -d)
servers=()
trap 'kill "${servers[@]}" 2>/dev/null; rm -rf "$folder"' EXIT
machine=$(uname -m)

fail() {
    echo "dist-try: $*" >&2
    exit 1
}

skipped() {
    echo "SKIPPED: $*"
}

# shellcheck disable=SC2317 # cache_once calls it
make_debian() {
    debootstrap --foreign --variant=minbase --arch="$debian" --include=luajit,lua5.1,lua5.3,lua5.4,libgcc-s1 bullseye "$1" >&2 ||
        cannot "debootstrap has no Debian 11 for $debian"
    local package
    for package in "$1"/var/cache/apt/archives/*.deb; do
        dpkg-deb --fsys-tarfile "$package" | tar -C "$1" --keep-directory-symlink -xf -
    done
    rm -rf "$1/var/cache/apt/archives"
}

# use_debian ARCHITECTURE: sets `root` to the folder of a Debian 11.
use_debian() {
    case $1 in x86_64) debian=amd64 ;; aarch64) debian=arm64 ;; esac
    if ! command -v debootstrap >/dev/null || ! (cache_once "debian-11-$debian" usr/bin/luajit make_debian); then
        return 1
    fi
    # shellcheck disable=SC2154 # cache_once sets it
    cache_once "debian-11-$debian" usr/bin/luajit make_debian && root=$cached
}

# start_server: a consul-sim with HTTP and HTTPS, in `address` and `tls_address`; `tls_ca` is its authority.
start_server() {
    local program=${CONSUL_SIM:-} ports
    if [ -z "$program" ]; then
        program=$(echo target/dist/consul-sim-*-linux-"$machine"{,-musl}.tar.gz)
        program=${program%% *}
        tar -xzf "$program" -C "$folder" || fail "there is no consul-sim for $machine: set CONSUL_SIM"
        program=$folder/$(basename "$program" .tar.gz)/consul-sim
    fi
    openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1 \
        -keyout "$folder/key.pem" -out "$folder/ca.pem" 2>/dev/null
    ports=$(python3 -c 'import socket
ports = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
print(*[port.getsockname()[1] for port in ports])')
    read -r http https dns <<<"$ports"
    cat >"$folder/agent.json" <<JSON
{ "ports": { "http": $http, "https": $https, "dns": $dns }, "tls": { "defaults": { "cert_file": "$folder/ca.pem", "key_file": "$folder/key.pem" } } }
JSON
    "$program" agent -dev -config-file "$folder/agent.json" >"$folder/agent.log" 2>&1 &
    servers+=($!)
    until curl -sf "127.0.0.1:$http/v1/status/leader" >/dev/null; do
        kill -0 "${servers[0]}" 2>/dev/null || fail "consul-sim: $(cat "$folder/agent.log")"
        sleep 0.1
    done
}

cat >"$folder/try.lua" <<'LUA'
local consul_ffi = require("consul_ffi")
local client = consul_ffi.new({ endpoint = os.getenv("PLAIN") })
assert(client:kv_put("dist", "plain"))
local lock = client:lock("dist-lock")
local held, token = lock:acquire()
assert(held and token, token)
assert(lock:release())
lock:close()
local secure = consul_ffi.new({ endpoint = os.getenv("SECURE"), tls_ca_file = os.getenv("CA") })
assert(select(2, assert(secure:kv_get("dist"))) == "plain")
assert(consul_ffi.new({ endpoint = os.getenv("PLAIN"), guard = true }))
print("tried " .. consul_ffi._VERSION)
LUA

# use_userland USERLAND: sets `run` to what runs a program there, `at` to the folder of the files, which are those of
# `folder/it`, and `programs` to that of the userland's own. It is `here` or the folder of a Debian.
use_userland() {
    run=() at=$folder/it programs=
    [ "$architecture" = "$machine" ] || run=("qemu-$architecture-static")
    [ "$1" != here ] || return 0
    if [ "$architecture" = "$machine" ]; then
        rm -rf "$1/it"
        cp -r "$folder/it" "$1/it"
        run=(chroot "$1") at=/it
    else
        run+=(-L "$1") programs=$1/usr/bin/
    fi
}

# in_a USERLAND PROGRAM FILE: runs a Lua file with the module.
in_a() {
    use_userland "$1"
    env -i PATH="$PATH" LUA_PATH="$at/lua/?.lua;;" LUA_CPATH="$at/?.so;;" PLAIN="http://127.0.0.1:$http" \
        SECURE="https://127.0.0.1:$https" CA="$at/ca.pem" "${run[@]}" "$programs$2" "$at/$3"
}

# try_program PROGRAM USERLAND NAME: consul-sim keeps a key, the others print their version and their help.
try_program() {
    local said server port value
    use_userland "$2"
    value=--version
    [ "$1" != consul-sim ] || value=version
    said=$("${run[@]}" "$at/$1" "$value" 2>&1) || fail "$3: $said"
    said=${said%%$'\n'*}
    case $1 in
        consul-sim)
            port=$(python3 -c 'import socket; print(socket.create_server(("127.0.0.1", 0)).getsockname()[1])')
            "${run[@]}" "$at/$1" agent -dev -http-port "$port" -dns-port -1 >"$folder/said" 2>&1 &
            server=$!
            servers+=("$server")
            until curl -sf "127.0.0.1:$port/v1/status/leader" >/dev/null; do
                kill -0 "$server" 2>/dev/null || fail "$3: $(cat "$folder/said")"
                sleep 0.1
            done
            curl -sf -X PUT -d kept "127.0.0.1:$port/v1/kv/dist" >/dev/null || fail "$3: a key is not written"
            value=$(curl -sf "127.0.0.1:$port/v1/kv/dist?raw")
            kill "$server"
            wait "$server" || true
            [ "$value" = kept ] || fail "$3: the key is '$value'"
            echo "$3: $said keeps a key"
            ;;
        *)
            "${run[@]}" "$at/$1" --help >"$folder/said" 2>&1 || fail "$3: $(cat "$folder/said")"
            echo "$3: $said, $(wc -l <"$folder/said") lines of help"
            ;;
    esac
}

# try_module ENGINE USERLAND NAME: the demo, a lock, TLS.
try_module() {
    in_a "$2" "$1" demo.lua >"$folder/said" 2>&1 || fail "$3: the demo: $(tail -n 5 "$folder/said")"
    grep -q 'stored greeting and read back: hello' "$folder/said" || fail "$3: $(cat "$folder/said")"
    in_a "$2" "$1" try.lua >"$folder/said" 2>&1 || fail "$3: $(tail -n 5 "$folder/said")"
    echo "$3: the demo, a lock, TLS and the guard: $(cat "$folder/said")"
}

# without_memory NAME: the test `refuse` of tests/host, for LuaJIT of this machine.
without_memory() {
    cc -O1 -o "$folder/host" tests/host/host.c -I/usr/include/luajit-2.1 -lluajit-5.1 -lm -ldl -lpthread ||
        fail "tests/host/host.c does not compile"
    (cd tests/host && LUA_PATH='./?.lua' LUA_CPATH="$folder/it/?.so" "$folder/host" refuse refuse.lua "${REFUSE_STRIDE:-37}") \
        >"$folder/said" 2>&1 || fail "$1: an engine without memory: $(tail -n 5 "$folder/said")"
    echo "$1: an engine without memory: $(tail -n 1 "$folder/said")"
}

start_server
for archive in target/dist/*.tar.gz; do
    name=$(basename "$archive" .tar.gz)
    (cd target/dist && sha256sum --quiet -c "$name.tar.gz.sha256") || fail "$name: the sum is wrong"
    rm -rf "$folder/it"
    mkdir "$folder/it"
    tar -xzf "$archive" -C "$folder/it" --strip-components=1
    cp "$folder"/{try.lua,ca.pem} examples/demo.lua "$folder/it"
    for file in LICENSE-APACHE LICENSE-MIT THIRD-PARTY-LICENSES.txt sbom.spdx.json; do
        [ -s "$folder/it/$file" ] || fail "$name has no $file"
    done
    architecture=${name##*-linux-}
    architecture=${architecture%-musl}
    case $name in
        consul_ffi-*)
            engine=${name#consul_ffi-*-}
            engine=${engine%-linux-*}
            [ "$engine" = luajit ] || engine=lua$engine
            if [[ $name == *-musl ]]; then
                skipped "$name: there is no $engine for musl here"
                continue
            fi
            if [ "$architecture" = "$machine" ]; then
                try_module "$engine" here "$name"
                [ "$engine" != luajit ] || without_memory "$name"
            fi
            try=(try_module "$engine")
            ;;
        *)
            program=${name%%-[0-9]*}
            try=(try_program "$program")
            [ "$architecture" != "$machine" ] || try_program "$program" here "$name"
            ;;
    esac
    if [ "$architecture" != "$machine" ] && ! command -v "qemu-$architecture-static" >/dev/null; then
        skipped "$name: qemu-$architecture-static is missing (package qemu-user-static)"
    elif use_debian "$architecture"; then
        "${try[@]}" "$root" "$name, in Debian 11"
    else
        skipped "$name in Debian 11: debootstrap does not make it here"
    fi
done
