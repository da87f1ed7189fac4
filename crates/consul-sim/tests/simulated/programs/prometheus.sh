#!/usr/bin/env bash
# Prometheus' discovery by Consul's catalog: the labels of instances that come, change and go, by a tag, by metadata of nodes and without
# stale reads. Debian's package has been built without it.
# shellcheck disable=SC2034,SC2154 # compare.sh reads and sets them
version=0.316.0 least=10 installed=observe

install() {
    go_source "$1" "github.com/prometheus/prometheus@v$version"
    mkdir -p "$1/source/cmd/observe"
    sed '/go:build ignore/d' "$here/prometheus.go" >"$1/source/cmd/observe/main.go"
    (cd "$1/source" && go build -mod=mod -o "$1/observe" ./cmd/observe >&2) || cannot "Prometheus' discovery does not build"
    rm -rf "$1/source"
}

# targets JOB: the labels of its targets.
targets() {
    tail -n 1 "$TMPDIR/$1" | python3 -c '
import json, sys
for source, targets in sorted(json.load(sys.stdin).items()):
    for target in sorted(targets, key=str):
        if source != "consul":
            print(*(name.replace("__meta_consul_", "") + "=" + value for name, value in sorted(target.items())), end="; ")'
}

# after WORD JOB: the targets, once they have it; with ! they do not.
after() {
    local end=$((SECONDS + patience)) not=
    [[ $1 != !* ]] || not=-v
    until targets "$2" 2>/dev/null | grep -q $not -e "${1#!}" || [ $SECONDS -ge $end ]; do sleep 0.2; done
    targets "$2"
}

results() {
    local running=() job
    put agent/service/register '{"Name": "web", "ID": "1", "Port": 81, "Address": "10.0.0.1", "Tags": ["blue", "v1"], "Meta": {"a-b": "c"},
        "TaggedAddresses": {"lan": {"Address": "10.0.0.1", "Port": 81}}}'
    for job in 'all {}' 'tagged {"Services": ["web", "db"], "ServiceTags": ["blue"]}' 'nodes {"NodeMeta": {"rack": "7"}}' \
        'strict {"Services": ["db"], "AllowStale": false}' 'filtered {"Filter": "NodeMeta.rack == 7"}'; do
        "$1/observe" "${job#* }" >"$TMPDIR/${job%% *}" &
        running+=($!)
    done
    trap 'kill '"${running[*]}" EXIT
    saw "one" "$(after 10.0.0.1 all)"
    put agent/service/register '{"Name": "web", "ID": "2", "Port": 82, "Tags": ["green"]}'
    saw "another one" "$(after service_id=2 all)"
    saw "those of a tag" "$(after service_id=1 tagged)"
    put catalog/register '{"Node": "outside", "Address": "10.0.0.9", "NodeMeta": {"rack": "7"}, "TaggedAddresses": {"wan": "1.2.3.4"},
        "Service": {"Service": "db", "Port": 5432, "Tags": ["blue"]}, "Check": {"Name": "c", "Status": "critical"}}'
    saw "an external node" "$(after service=db all)"
    saw "those of a node's metadata" "$(after service=db nodes)"
    saw "those of a filter" "$(after service=db filtered)"
    saw "of two services with a tag" "$(after service=db tagged)"
    saw "without stale reads" "$(after service=db strict)"
    put catalog/register '{"Node": "outside", "Address": "10.0.0.9", "Check": {"Name": "c", "CheckID": "c", "Status": "passing"}}'
    saw "its health" "$(after health=passing strict)"
    put agent/service/register '{"Name": "web", "ID": "2", "Port": 83, "Tags": ["blue"]}'
    saw "another port and tag" "$(after service_port=83 tagged)"
    put agent/service/deregister/1
    saw "without it" "$(after !service_id=1 tagged)"
    put catalog/deregister '{"Node": "outside"}'
    saw "without the node" "$(after !service=db all)"
}
