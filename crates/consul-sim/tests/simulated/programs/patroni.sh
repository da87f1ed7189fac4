#!/usr/bin/env bash
# Patroni with two PostgreSQL servers: who leads after a start, a switchover, and the death of the leader, and what it keeps in Consul.
# PostgreSQL refuses to run as root: it runs as nobody, in a namespace of users.
# shellcheck disable=SC2034,SC2154 # compare.sh reads and sets them
version=4.1.5 least=10 installed=patroni/__main__.py

install() {
    postgresql=$(programs_of_postgresql)
    [ -n "$postgresql" ] || cannot "PostgreSQL is missing (package postgresql)"
    "${nobody[@]}" true || cannot "no namespace of users can be had here"
    python_packages "$1" "patroni[consul]==$version" psycopg2-binary
}

# programs_of_postgresql: the folder with initdb and the others.
programs_of_postgresql() {
    local found=''
    for found in "$(command -v initdb || true)" /usr/lib/postgresql/*/bin/initdb; do :; done
    [ ! -x "$found" ] || dirname "$found"
}

# What runs a program as nobody.
nobody=()
[ "$(id -u)" -ne 0 ] || nobody=(unshare --user --map-user="$(id -u nobody)" --map-group="$(id -g nobody)")

# member NAME: starts it.
member() {
    local -n rest=rest_of_$1 database=database_of_$1
    cat >"$TMPDIR/$1.yml" <<END
scope: demo
name: $1
restapi: {listen: "127.0.0.1:$rest", connect_address: "127.0.0.1:$rest"}
consul: {host: "$CONSUL_HTTP_ADDR", register_service: true}
bootstrap:
  dcs: {ttl: 20, loop_wait: 1, retry_timeout: 3, maximum_lag_on_failover: 1048576}
  initdb: [{encoding: UTF8}, {auth: trust}, no-sync]
postgresql:
  listen: "127.0.0.1:$database"
  connect_address: "127.0.0.1:$database"
  data_dir: $TMPDIR/$1.data
  bin_dir: $postgresql
  pgpass: $TMPDIR/$1.pass
  authentication: {superuser: {username: postgres, password: p}, replication: {username: copies, password: p}}
  pg_hba: ["local all all trust", "host all all 127.0.0.1/32 trust", "host replication all 127.0.0.1/32 trust"]
  parameters: {unix_socket_directories: $TMPDIR, fsync: "off", max_connections: 20, shared_buffers: 16MB}
END
    "${nobody[@]}" env PYTHONPATH="$packages" setsid python3 -m patroni "$TMPDIR/$1.yml" >>"$TMPDIR/$1.log" 2>&1 &
    printf -v "process_of_$1" %s $!
}

# kill_member NAME: its Patroni and its PostgreSQL, without warning.
kill_member() {
    local -n process=process_of_$1
    kill -KILL "$process" 2>/dev/null || true
    kill -KILL "$(head -n 1 "$TMPDIR/$1.data/postmaster.pid")" 2>/dev/null || true
}

# cluster NAME: the members as this one shows them.
cluster() {
    local -n rest=rest_of_$1
    curl -sS "http://127.0.0.1:$rest/cluster" | python3 -c '
import json, sys
print(*sorted("{name} {role} {state}".format(**member) for member in json.load(sys.stdin)["members"]), sep=", ")'
}

# leader: the value of the leader's key.
leader() {
    curl -sS "http://$CONSUL_HTTP_ADDR/v1/kv/service/demo/leader?raw"
}

# registered TAG: the instances in the catalog with this tag.
registered() {
    curl -sS "http://$CONSUL_HTTP_ADDR/v1/health/service/demo?tag=$1" | python3 -c '
import json, sys
print(*sorted(entry["Service"]["ID"] + " " + ",".join(sorted(check["Status"] for check in entry["Checks"])) for entry in json.load(sys.stdin)))'
}

# patroni NAME PATH METHOD BODY: asks a member.
patroni() {
    local -n rest=rest_of_$1
    curl -sS -o /dev/null -w '%{http_code}' -X "$3" -d "$4" "http://127.0.0.1:$rest/$2"
}

results() {
    local name
    packages=$1
    postgresql=$(programs_of_postgresql)
    for name in a b; do
        printf -v "rest_of_$name" %s "$(free_port)"
        printf -v "database_of_$name" %s "$(free_port)"
    done
    trap 'kill_member a; kill_member b' EXIT
    member a
    saw "the first one leads" "$(until_prints "a leader running" cluster a)"
    saw "its key" "$(leader)"
    saw "it is registered" "$(until_prints "demo/a passing,passing" registered primary)"
    member b
    saw "the second one follows" "$(until_prints "a leader running, b replica streaming" cluster a)"
    saw "they are registered" "$(until_prints "demo/b passing,passing" registered replica)"
    saw "a switchover" "$(patroni a switchover POST '{"leader": "a", "candidate": "b"}')"
    saw "the second one leads" "$(until_prints "a replica streaming, b leader running" cluster b)"
    saw "its key then" "$(until_prints b leader)"
    saw "it is registered then" "$(until_prints "demo/b passing,passing" registered primary)"
    saw "options" "$(patroni a config PATCH '{"ttl": 25, "postgresql": {"parameters": {"work_mem": "5MB"}}}')"
    kill_member b
    saw "a failover" "$(until_prints a leader)"
    saw "after the failover" "$(until_prints "a leader running" cluster a)"
    saw "both are registered" "$(until_prints "demo/a passing,passing demo/b critical,passing" registered primary)"
    member b
    saw "the second one is back" "$(until_prints "a leader running, b replica streaming" cluster a)"
    saw "keys" "$(curl -sS "http://$CONSUL_HTTP_ADDR/v1/kv/service/demo?keys")"
    tail -n 50 "$TMPDIR"/?.log >&2
}
