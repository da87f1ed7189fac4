#!/bin/sh
# A lock ends with its session, and the test does not sleep.
set -eu
folder=$(mktemp -d)
consul-sim agent -dev -http-port=0 -sim-port=0 -sim-ready-file="$folder/ready" >"$folder/log" &
sim=$!
trap 'kill "$sim"; rm -r "$folder"' EXIT
until [ -e "$folder/ready" ]; do sleep 0.02; done
agent=$(sed -E 's/.*"urls":\["([^"]*)".*/\1/' "$folder/ready")
control=$(sed -E 's/.*"control_urls":\["([^"]*)".*/\1/' "$folder/ready")

session=$(curl -sf -X PUT -d '{"TTL": "10s"}' "$agent/v1/session/create" | sed -nE 's/.*"ID": *"([^"]*)".*/\1/p')
curl -sf -X PUT -d me "$agent/v1/kv/leader?acquire=$session" | grep -q true
curl -sf -X POST -d '{"by": "20s"}' "$control/sim/advance" >"$folder/answer"
if curl -sf "$agent/v1/kv/leader" | grep -q '"Session"'; then
    echo "the lock is held" >&2
    exit 1
fi
echo "the lock is free"
