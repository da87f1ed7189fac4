#!/usr/bin/env bash
# Spring Cloud Consul: a program reads its configuration, sees it change, registers itself, and sees the instances of others. Its watch
# asks for four prefixes one after the other, each for 55 s, also for those without keys: a change is seen sooner, within 40 s here,
# only if it ends the queries before it.
# shellcheck disable=SC2034,SC2154 # compare.sh reads and sets them
version=5.0.4 least=13 installed=observe/Observe.class

install() {
    local name
    for name in javac mvn; do
        command -v "$name" >/dev/null || cannot "$name is missing"
    done
    mvn --quiet --batch-mode -f "$here/spring.xml" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$1/libraries" >&2 \
        || cannot "mvn could not install Spring Cloud Consul"
    mkdir "$1/source"
    cp "$here/spring.java" "$1/source/Observe.java"
    javac -parameters -cp "$1/libraries/*" -d "$1" "$1/source/Observe.java" >&2 || cannot "the program with Spring does not build"
}

# ask PATH: asks the program.
ask() {
    curl -sSf "http://127.0.0.1:$port/$1"
}

# registered: its own entry in the catalog, without its port.
registered() {
    curl -sS "http://$CONSUL_HTTP_ADDR/v1/health/service/app" | python3 -c '
import json, sys
for entry in json.load(sys.stdin):
    service = entry["Service"]
    print(service["ID"], service["Address"], service["Tags"], sorted(service["Meta"].items()), [
        check["Status"] for check in entry["Checks"] if check["ServiceID"]])'
}

# seconds COMMAND…: runs it, and tells in the log how long it took.
seconds() {
    local from=$EPOCHREALTIME
    "$@"
    awk -v a="$from" -v b="$EPOCHREALTIME" 'BEGIN { printf "seen after %.2f s\n", b - a }' >&2
}

results() {
    local program
    port=$(free_port)
    put kv/config/application/observed one
    java -XX:TieredStopAtLevel=1 -Xmx256m -cp "$1:$1/libraries/*" observe.Observe --spring.application.name=app --server.port="$port" \
        --server.address=127.0.0.1 --spring.config.import=consul: --spring.cloud.consul.host="${CONSUL_HTTP_ADDR%:*}" \
        --spring.cloud.consul.port="${CONSUL_HTTP_ADDR##*:}" --spring.cloud.consul.discovery.prefer-ip-address=true \
        --spring.cloud.consul.discovery.ip-address=127.0.0.1 --spring.cloud.consul.discovery.instance-id=app-1 \
        --spring.cloud.consul.discovery.tags=a,b --spring.cloud.consul.discovery.metadata.k=v \
        --spring.cloud.consul.discovery.health-check-interval=1s >&2 &
    program=$!
    trap 'kill -KILL '"$program"' 2>/dev/null || true' EXIT
    saw "a value" "$(until_prints one ask value)"
    saw "it is registered" "$(until_prints "app-1 127.0.0.1 ['a', 'b'] [('k', 'v'), ('secure', 'false')] ['passing']" registered)"
    put kv/config/application/observed two
    saw "another value" "$(seconds until_prints two ask value)"
    put kv/config/app/observed three
    saw "a value for the program" "$(seconds until_prints three ask value)"
    put kv/config/app,default/observed four
    saw "a value for the profile" "$(seconds until_prints four ask value)"
    put kv/config/app/observed five
    put kv/config/application/other six
    METHOD=DELETE put kv/config/app,default/observed
    saw "the value for the profile is deleted" "$(seconds until_prints five ask value)"
    saw "no services but two" "$(ask services)"
    put agent/service/register '{"Name": "web", "ID": "1", "Port": 81, "Address": "10.0.0.1", "Tags": ["x", "y=z"], "Meta": {"k": "v"}}'
    put agent/service/register '{"Name": "web", "ID": "2", "Port": 82, "Check": {"CheckID": "c", "TTL": "1h", "Status": "passing"}}'
    saw "services" "$(ask services)"
    saw "instances" "$(ask instances/web)"
    put agent/check/fail/c
    saw "it is critical" "$(ask instances/web)"
    saw "no instances" "$(ask instances/none)"
    saw "its health" "$(ask actuator/health)"
    kill "$program"
    saw "its end" "$(until_prints "" registered)"
}
