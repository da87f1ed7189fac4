#!/usr/bin/env bash
# Runs our discovery module for APISIX in an nginx with two workers (own.lua).
#
#   CONSUL_PROGRAM=… tests/programs/nginx/apisix/own.sh [PART…]
#
# CONSUL_PROGRAM is a consul-sim or a consul. The parts, by default all: follows consul_goes many large token starts weight.
set -euo pipefail
CDPATH='' cd "$(dirname "$0")/../../../.."

folder=$(mktemp -d "${TMPDIR:-/tmp}/consul_ffi-apisix-own.XXXXXX")
trap 'rm -rf "$folder"' EXIT

# part PROGRAM [OPTIONS]: runs a program of own.lua, with further options of the module as members of JSON.
part() {
    PROGRAM=$1 FOLDER=$folder/$1 tests/programs/nginx/apisix/run.sh own 2 \
        "{\"discovery\": {\"consul_ffi\": {\"servers\": [\"http://CONSUL\"]${2:-}}}}"
    sed -n 's/.*took: \([^,]*\).*/    \1/p' "$folder/$1/error.log"
}

default=', "default_service": {"host": "10.0.0.99", "port": 9999}'
dump=', "dump": {"path": "dump.json"}'
[ $# -gt 0 ] || set -- follows consul_goes many large token starts weight
for name; do
    case $name in
        follows) part follows "$default$dump"', "skip_services": ["hidden"]' ;;
        consul_goes | many | large) part "$name" "$default" ;;
        token)
            TOKEN=$(cat /proc/sys/kernel/random/uuid)
            export TOKEN
            part token ", \"token\": \"$TOKEN\""
            unset TOKEN
            ;;
        starts)
            part dumps "$dump"
            mkdir "$folder/starts"
            cp "$folder/dumps/dump.json" "$folder/starts"
            part starts "$dump"
            ;;
        weight) part weight ', "weight": 5' ;;
        *)
            echo "unknown part: $name" >&2
            exit 2
            ;;
    esac
done
