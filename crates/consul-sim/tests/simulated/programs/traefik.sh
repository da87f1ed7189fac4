#!/usr/bin/env bash
# Traefik's provider for Consul's catalog, which watches services and asks for a certificate of the mesh: the routers and servers that
# it makes of services that come, change, become critical and go. It looks again when names, tags or states change, so each mark has
# another tag.
# shellcheck disable=SC2034,SC2154 # compare.sh reads and sets them
version=3.7.13 least=8 installed=observe

install() {
    go_source "$1" "github.com/traefik/traefik/v3@v$version"
    # A module of the same repository, which has places for extensions and is not published.
    sed -i -e '/dynamic\/ext"/d' -e '/\text\.[A-Z]/d' "$1/source/pkg/config/dynamic/http_config.go"
    sed -i '/out\.\(HTTP\|Router\) = in\./d' "$1/source/pkg/config/dynamic/zz_generated.deepcopy.go"
    sed -i '/traefik\/dynamic\/ext/d' "$1/source/go.mod"
    mkdir -p "$1/source/cmd/observe"
    sed '/^.*go:build ignore$/d' "$here/traefik.go" >"$1/source/cmd/observe/main.go"
    (cd "$1/source" && go build -mod=mod -o "$1/observe" ./cmd/observe >&2) \
        || cannot "Traefik's provider does not build"
    rm -rf "$1/source"
}

# routes: of the last configuration, the rules of routers and the servers of services.
routes() {
    tail -n 1 "$TMPDIR/configurations" | python3 -c '
import json, sys
http = json.load(sys.stdin)["http"]
for kind in http.values():
    # Its port is a free one.
    kind.pop("consul", None)
for name, router in sorted(http.get("routers", {}).items()):
    print(name, router["rule"], end="; ")
for name, service in sorted(http.get("services", {}).items()):
    print(name, sorted(str(server) for server in service["loadBalancer"].get("servers", [])), end="; ")
for name, transport in sorted(http.get("serversTransports", {}).items()):
    counts = len(transport.get("certificates", [])), len(transport.get("rootCAs", []))
    print(name, *counts, transport.get("peerCertURI"), end="; ")'
}

# after WORD: the routes, once they have it.
after() {
    local end=$((SECONDS + patience))
    until routes 2>/dev/null | grep -q -e "$1" || [ $SECONDS -ge $end ]; do sleep 0.2; done
    routes
}

results() {
    local provider
    # shellcheck disable=SC2016 # Traefik's quotes
    put agent/service/register '{"Name": "web", "ID": "1", "Port": 81, "Address": "10.0.0.1",
        "Tags": ["traefik.http.routers.own.rule=Path(`/a`)"]}'
    "$1/observe" >"$TMPDIR/configurations" &
    provider=$!
    trap 'kill '"$provider" EXIT
    saw "one" "$(after '10\.0\.0\.1')"
    put agent/service/register '{"Name": "web", "ID": "2", "Port": 82, "Address": "10.0.0.2", "Check": {"CheckID": "c", "TTL": "1h",
        "Status": "passing"}}'
    saw "another one" "$(after '10\.0\.0\.2')"
    put agent/check/fail/c
    put agent/service/register '{"Name": "mark", "ID": "m1", "Port": 1, "Address": "10.0.1.1", "Tags": ["1"]}'
    saw "it is critical" "$(after '10\.0\.1\.1')"
    put agent/check/warn/c
    put agent/service/register '{"Name": "mark", "ID": "m1", "Port": 1, "Address": "10.0.1.2", "Tags": ["2"]}'
    saw "it warns" "$(after '10\.0\.1\.2')"
    put agent/service/register '{"Name": "hidden", "Port": 83, "Tags": ["hidden"]}'
    put agent/service/register '{"Name": "off", "Port": 83, "Tags": ["traefik.enable=false"]}'
    put agent/service/register '{"Name": "mark", "ID": "m1", "Port": 1, "Address": "10.0.1.3", "Tags": ["3"]}'
    saw "constraints" "$(after '10\.0\.1\.3')"
    put agent/service/register '{"Name": "mesh", "Port": 84, "Tags": ["traefik.consulcatalog.connect=true"],
        "Connect": {"SidecarService": {}}}'
    saw "a sidecar" "$(after 'mesh')"
    put agent/service/maintenance/1?enable=true
    put agent/service/register '{"Name": "mark", "ID": "m1", "Port": 1, "Address": "10.0.1.4", "Tags": ["4"]}'
    saw "maintenance" "$(after '10\.0\.1\.4')"
    put agent/service/deregister/2
    put agent/service/register '{"Name": "mark", "ID": "m1", "Port": 1, "Address": "10.0.1.5", "Tags": ["5"]}'
    saw "without it" "$(after '10\.0\.1\.5')"
}
