#!/usr/bin/env bash
# HAProxy with servers from Consul's DNS: SRV records of a service, whose instances come, go, become critical and weigh differently.
# shellcheck disable=SC2034,SC2154 # compare.sh reads and sets them
version=2.6.12 least=8 installed=usr/sbin/haproxy

install() {
    unpack_packages "$1" haproxy liblua5.3-0 libopentracing-c-wrapper0 libopentracing1
    debian_runs "$1" "$1/usr/sbin/haproxy" -v
}

# ask COMMAND: HAProxy's answer on its socket.
ask() {
    python3 -c '
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
s.sendall(sys.argv[2].encode() + b"\n")
print(b"".join(iter(lambda: s.recv(65536), b"")).decode(), end="")' "$TMPDIR/socket" "$1"
}

# servers: the addresses, ports and weights of the servers that are up.
servers() {
    ask "show servers state web" | awk 'NR > 2 && $5 != "-" && $6 == 2 { print $5 ":" $19 " " $8 }' | sort | paste -sd ' '
}

results() {
    local haproxy
    cat >"$TMPDIR/haproxy.cfg" <<END
global
    stats socket $TMPDIR/socket
defaults
    mode http
    timeout connect 1s
    timeout client 1s
    timeout server 1s
resolvers consul
    nameserver consul $CONSUL_DNS_ADDR
    accepted_payload_size 8192
    timeout resolve 200ms
    hold valid 200ms
    hold obsolete 0s
    hold nx 0s
backend web
    server-template web- 6 _web._tcp.service.consul resolvers consul init-addr none
backend tagged
    server-template tagged- 3 _web._blue.service.consul resolvers consul init-addr none resolve-prefer ipv4
END
    LD_LIBRARY_PATH=$(debian_libraries "$1") "$1/usr/sbin/haproxy" -db -f "$TMPDIR/haproxy.cfg" >&2 &
    haproxy=$!
    trap 'kill '"$haproxy" EXIT
    until [ -S "$TMPDIR/socket" ] && ask "show info" | grep -q Uptime; do sleep 0.1; done
    saw "none" "$(servers)"
    put agent/service/register '{"Name": "web", "ID": "1", "Port": 81, "Address": "10.0.0.1", "Tags": ["blue"]}'
    saw "one" "$(until_prints "10.0.0.1:81 1" servers)"
    put agent/service/register '{"Name": "web", "ID": "2", "Port": 82, "Address": "10.0.0.2", "Weights": {"Passing": 25600, "Warning": 12800},
        "Check": {"CheckID": "c", "TTL": "1h", "Status": "passing"}}'
    saw "another one" "$(until_prints "10.0.0.1:81 1 10.0.0.2:82 100" servers)"
    put agent/check/warn/c
    saw "its weight in warning" "$(until_prints "10.0.0.1:81 1 10.0.0.2:82 50" servers)"
    put agent/check/fail/c
    saw "it is critical" "$(until_prints "10.0.0.1:81 1" servers)"
    put agent/check/pass/c
    saw "it passes" "$(until_prints "10.0.0.1:81 1 10.0.0.2:82 100" servers)"
    saw "those of a tag" "$(ask "show servers state tagged" | awk 'NR > 2 && $5 != "-" { print $5 ":" $19 }')"
    put agent/service/maintenance/1?enable=true
    saw "maintenance" "$(until_prints "10.0.0.2:82 100" servers)"
    put agent/service/maintenance/1?enable=false
    put agent/service/register '{"Name": "web", "ID": "1", "Port": 83, "Address": "10.0.0.3"}'
    saw "another address" "$(until_prints "10.0.0.2:82 100 10.0.0.3:83 1" servers)"
    put catalog/register '{"Node": "outside", "Address": "10.0.0.9", "Service": {"Service": "web", "Port": 89}}'
    saw "an external node" "$(until_prints "10.0.0.2:82 100 10.0.0.3:83 1 10.0.0.9:89 1" servers)"
    put agent/service/deregister/1
    put agent/service/deregister/2
    saw "without them" "$(until_prints "10.0.0.9:89 1" servers)"
    # Consul's answers, as HAProxy counts them.
    saw "no answer was invalid" "$(ask "show resolvers consul" | awk '/^ *(invalid|too_big|truncated|other|refused):/ { print $1 $2 }')"
}
