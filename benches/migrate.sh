#!/usr/bin/env bash
# Measures consul-migrate between a real etcd and a real Consul 1.21, both on this machine.
#
#   benches/migrate.sh [PROGRAM]
#
# PROGRAM is a consul-migrate of a release build (default: target/release/consul-migrate). Six writers set 50,000 keys of
# 200 bytes during a cut-over; a tail follows 50,000 more; then three rounds on a server in dev mode and three on one with its
# data on a disk, in each of which Consul takes PUTs, 32 at once, from this library and from wrk, and an empty Consul gets a
# copy of the 100,000 keys, which is verified. Prints the figures and has no bounds. Needs etcd, wrk, curl and the LuaJIT
# module (make build-luajit).
set -euo pipefail
CDPATH='' cd "$(dirname "$0")/.."

if [ "${1:-}" != --inside ]; then
    program=$(realpath "${1:-target/release/consul-migrate}")
    exec scripts/with-consul.sh 1.21 "$0" --inside "$program"
fi
program=$2
folder=$(mktemp -d)
port=$((20000 + RANDOM % 5000 * 2))
etcd=http://127.0.0.1:$port
peer=http://127.0.0.1:$((port + 1))
etcd --data-dir "$folder/etcd" --unsafe-no-fsync --listen-client-urls "$etcd" \
    --advertise-client-urls "$etcd" --listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" \
    --initial-cluster "default=$peer" >"$folder/log" 2>&1 &
trap 'jobs -p | xargs -r kill; wait; rm -rf "$folder"' EXIT
until curl -sf "$etcd/health" >/dev/null; do sleep 0.1; done
consul=http://$CONSUL_HTTP_ADDR
export ETCDCTL_ENDPOINTS=$etcd

# fill FROM TO: sets these keys of etcd to 200 bytes, in transactions of 100.
fill() {
    luajit - "$1" "$2" "$folder/bodies" "$etcd" <<'LUA'
local letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
local function base64(text)
    return (text:gsub("..?.?", function(part)
        local a, b, c = part:byte(1, 3)
        local n = a * 65536 + (b or 0) * 256 + (c or 0)
        local out = ""
        for place = 3, 0, -1 do
            local digit = math.floor(n / 64 ^ place) % 64 + 1
            out = out .. (3 - place <= #part and letters:sub(digit, digit) or "=")
        end
        return out
    end))
end
local from, to, path, etcd = tonumber(arg[1]), tonumber(arg[2]), arg[3], arg[4]
local out = assert(io.open(path, "w"))
for first = from, to - 1, 100 do
    local puts = {}
    for place = first, math.min(first + 99, to - 1) do
        local key, value = ("/app/%02d/%06d"):format(place % 50, place), ("%06d"):format(place + from) .. ("v"):rep(194)
        puts[#puts + 1] = ('{\\"requestPut\\":{\\"key\\":\\"%s\\",\\"value\\":\\"%s\\"}}'):format(base64(key), base64(value))
    end
    out:write(('%surl = "%s/v3/kv/txn"\ndata = "{\\"success\\":[%s]}"\noutput = "/dev/null"\n'):format(
        first > from and "next\n" or "", etcd, table.concat(puts, ",")))
end
out:close()
LUA
    curl -s --fail -K "$folder/bodies"
}

# puts_of_library: the PUTs of 200 bytes a second of a Lua program, 32 at once.
puts_of_library() {
    LUA_PATH="lua/?.lua;;" LUA_CPATH="target/lua/luajit/?.so;;" luajit - <<'LUA'
local consul_ffi, now = require("consul_ffi"), require("system").monotime
local client, calls = assert(consul_ffi.ConsulClient.new({})), {}
for place = 1, 20000 do
    calls[place] = { "kv_put", ("puts/%06d"):format(place), ("%06d"):format(place) .. ("v"):rep(194) }
end
local from = now()
for _, result in ipairs(select(2, assert(client:batch(calls, { concurrency = 32 })))) do
    assert(result.ok, result.message)
end
print(#calls / (now() - from))
LUA
    curl -s -X DELETE "$consul/v1/kv/puts/?recurse" >/dev/null
}

# puts_of_wrk: the PUTs of 200 bytes a second that Consul takes, 32 at once.
puts_of_wrk() {
    cat >"$folder/put.lua" <<'LUA'
local place = 0
request = function()
    place = place + 1
    return wrk.format("PUT", ("/v1/kv/puts/%06d"):format(place % 20000), nil, ("%06d"):format(place) .. ("v"):rep(194))
end
LUA
    wrk -t 1 -c 32 -d 5 -s "$folder/put.lua" "$consul" | sed -n 's/^Requests\/sec: *//p'
    curl -s -X DELETE "$consul/v1/kv/puts/?recurse" >/dev/null
}

# field NAME: a number of the report of the last run.
field() {
    sed -n -E "s/.*\"$1\":([0-9.]+).*/\1/p" "$folder/report"
}

# measured VERB…: runs the program and notes its largest memory.
measured() {
    /usr/bin/env time -f '%M' -o "$folder/memory" "$program" --report "$folder/report" "$@" >/dev/null 2>"$folder/err" \
        || { cat "$folder/err" >&2; return 1; }
}

# storm: six writers that set one of 50,000 keys after another, as fast as they can.
storm() {
    cat >"$folder/storm.lua" <<'LUA'
local keys, place = {}, 0
for line in io.lines(os.getenv("KEYS")) do
    keys[#keys + 1] = line
end
request = function()
    place = place % #keys + 1
    local body = ('{"key":"%s","value":"%s"}'):format(keys[place], ("QUJD"):rep(67))
    return wrk.format("POST", "/v3/kv/put", nil, body)
end
LUA
    grep -o 'key\\":\\"[^\]*' "$folder/bodies" | sed 's/.*"//' >"$folder/keys"
    KEYS=$folder/keys exec wrk -t 1 -c 6 -d 60 -s "$folder/storm.lua" "$etcd" >"$folder/storm"
}

fill 0 50000
measured copy
storm &
writers=$!
sleep 2
measured cutover --yes --within 60
kill -INT "$writers"
wait "$writers" || true
echo "cut-over of $(field keys) keys under $(sed -n 's/^Requests.sec: *//p' "$folder/storm") writes/s: writers" \
    "were stopped for $(field stopped_seconds) s"
measured rollback --yes
"$program" tail >/dev/null 2>&1 &
tail=$!
before=$(date +%s.%N)
fill 50000 100000
filled=$(date +%s.%N)
until curl -sf "$consul/v1/kv/app/49/099999" >/dev/null; do sleep 0.05; done
echo "$before $filled $(date +%s.%N)" | awk '{
    printf "50,000 changes in %.2f s, the tail was done %.2f s later: %.0f/s\n", $2 - $1, $3 - $2, 5e4 / ($3 - $1)
}'
kill "$tail"
wait "$tail" || true
curl -s -X DELETE "$consul/v1/kv/?recurse" >/dev/null
# rounds NAME: three rounds of PUTs, a copy and its verification, with jobs of this name.
rounds() {
    for round in 1 2 3; do
        library=$(puts_of_library) wrk=$(puts_of_wrk)
        measured --job "$1$round" copy
        copy=$(field seconds) memory=$(cat "$folder/memory")
        measured --job "$1$round" verify
        verify=$(field seconds)
        echo "$library $wrk $copy $verify $memory $(cat "$folder/memory")" | awk '{
            printf "copy %.2f s, %.0f keys/s; PUTs of the library %.0f/s, ratio %.1f; ", $3, 1e5 / $3, $1, 1e5 / $3 / $1
            printf "of wrk %.0f/s, ratio %.1f; ", $2, 1e5 / $3 / $2
            printf "verify %.2f s, %.2f of the copy; %d and %d MB\n", $4, $4 / $3, $5 / 1024, $6 / 1024
        }'
        curl -s -X DELETE "$consul/v1/kv/?recurse" >/dev/null
    done
}

echo "a server in dev mode, which writes nothing to a disk:"
rounds dev
first=$((20000 + RANDOM % 2000 * 5))
"$(scripts/consul.sh 1.21)" agent -server -bootstrap-expect=1 -bind=127.0.0.1 -data-dir="$folder/consul" -dns-port=-1 \
    -grpc-port=-1 -http-port="$first" -server-port=$((first + 1)) -serf-lan-port=$((first + 2)) \
    -serf-wan-port=$((first + 3)) >"$folder/consul.log" 2>&1 &
export CONSUL_HTTP_ADDR=127.0.0.1:$first
consul=http://$CONSUL_HTTP_ADDR
until curl -sf -X PUT "$consul/v1/kv/ready" >/dev/null; do sleep 0.1; done
curl -s -X DELETE "$consul/v1/kv/ready" >/dev/null
echo "a server with its data on a disk:"
rounds disk
