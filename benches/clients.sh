#!/usr/bin/env bash
# Compares the speed with other clients: a raw socket, libcurl by LuaJIT's FFI, LuaSocket, the official
# Go client.
#
#   benches/clients.sh [stub|consul]
#
# Runs on a stub with prepared responses, on a Consul 1.21, or by default on both.
# benches/clients/main.rs describes the comparison. Fails when a bound does not hold. Without Go or
# Consul it skips what needs them, and prints why.
set -euo pipefail
CDPATH='' cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

targets=("$@")
[ $# -gt 0 ] || targets=(stub consul)
limit=20m # for a client that hangs
folder=${CARGO_TARGET_DIR:-target}/clients
sources=benches/clients
mkdir -p "$folder"
folder=$(realpath "$folder")

rockspec/build.sh luajit "$folder/consul_ffi.so"
flags=(-O2 -Wall -Wextra -Werror -D_GNU_SOURCE)
cc "${flags[@]}" -o "$folder/stub" "$sources/stub.c"
cc "${flags[@]}" -shared -fPIC -I/usr/include/lua5.1 -o "$folder/raw.so" "$sources/raw.c"
build_go_client "$sources/go" "$folder/go-client"
cargo bench --quiet --no-run --no-default-features --bench clients

echo
echo "$(uname -sr), $(nproc) processors, $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)"
luajit -v
size=$(stat -c %s "$folder/consul_ffi.so")
echo "consul_ffi.so: $((size / 1000)) kB"
LUA_CPATH="$folder/?.so" luajit - <<'LUA'
local ffi = require("ffi")
ffi.cdef("struct timespec { long s, ns; }; int clock_gettime(int, struct timespec *);")
local time = ffi.new("struct timespec")
local function now()
  ffi.C.clock_gettime(1, time)
  return tonumber(time.s) * 1e3 + tonumber(time.ns) / 1e6
end
local begun = now()
local consul = require("consul_ffi")
local loaded = now()
consul.new({})
print(("require takes %.1f ms, a client %.1f ms"):format(loaded - begun, now() - loaded))
LUA

status=0
for target in "${targets[@]}"; do
    run=(timeout "$limit" cargo bench --quiet --no-default-features --bench clients -- "$folder" "$target")
    case $target in
        stub) "${run[@]}" || status=1 ;;
        consul)
            if reason=$(scripts/consul.sh 1.21 2>&1 >/dev/null); then
                scripts/with-consul.sh 1.21 "${run[@]}" || status=1
            else
                echo "SKIPPED: speed on Consul 1.21: ${reason##*$'\n'}"
            fi
            ;;
        *)
            echo "usage: benches/clients.sh [stub|consul]" >&2
            exit 2
            ;;
    esac
done
exit $status
