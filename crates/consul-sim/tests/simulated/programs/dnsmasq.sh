#!/usr/bin/env bash
# dnsmasq before Consul's DNS, as most machines ask it: names over UDP and TCP, with its cache, and what it makes of no answer.
# shellcheck disable=SC2034,SC2154 # compare.sh reads and sets them
version=2.90 least=12 installed=usr/sbin/dnsmasq

install() {
    unpack_packages "$1" dnsmasq-base libnetfilter-conntrack3 libnftables1 libnfnetlink0 libmnl0 libjansson4 libxtables12 libedit2 libbsd0 \
        libnftnl11
    python_packages "$1/packages" dnspython==2.7.0
    debian_runs "$1" "$1/usr/sbin/dnsmasq" --version
}

results() {
    local port dnsmasq
    port=$(free_port)
    put agent/service/register '{"Name": "web", "ID": "1", "Port": 81, "Address": "10.0.0.1", "Tags": ["blue"], "Meta": {"a": "b"}}'
    put agent/service/register '{"Name": "web", "ID": "2", "Port": 82, "Address": "web.example", "Tags": ["green"]}'
    put catalog/register '{"Node": "six", "Address": "fd00::1", "NodeMeta": {"rfc1035-key": "v", "k": "w"},
        "Service": {"Service": "db", "Port": 5432}}'
    METHOD=POST put query '{"Name": "q", "Service": {"Service": "web", "Tags": ["blue"]}, "DNS": {"TTL": "9s"}}'
    for id in {10..60}; do
        put agent/service/register "{\"Name\": \"many\", \"ID\": \"m$id\", \"Port\": $id, \"Address\": \"10.1.0.$id\"}"
    done
    LD_LIBRARY_PATH=$(debian_libraries "$1") "$1/usr/sbin/dnsmasq" --no-daemon --no-resolv --no-hosts --conf-file=/dev/null --user=root \
        --listen-address=127.0.0.1 --bind-interfaces --port="$port" --pid-file --edns-packet-max=4096 \
        --server="/consul/${CONSUL_DNS_ADDR/:/#}" --rev-server="10.0.0.0/8,${CONSUL_DNS_ADDR/:/#}" >&2 &
    dnsmasq=$!
    trap 'kill '"$dnsmasq" EXIT
    PYTHONPATH=$1/packages python3 "$here/dnsmasq.py" "$port"
}
