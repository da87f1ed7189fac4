#!/usr/bin/env bash
# Runs a command with a fresh Consul dev server on free loopback ports.
#
#   scripts/with-consul.sh [--acl allow|deny] [--config FILE] 1.21|1.8 COMMAND [ARG…]
#
# The command gets CONSUL_HTTP_ADDR and CONSUL_DNS_ADDR (127.0.0.1:PORT), CONSUL_PID and CONSUL_VERSION (such as
# 1.21.0), and no other CONSUL_* variable of the caller. With --acl the server enforces ACLs with
# that default policy, and CONSUL_HTTP_TOKEN is its management token. With --config it also reads
# that file. The server ends with the command, with this script and with this script's parent, also
# when one of them is killed.
# Exit status: the command's; 3 when the Consul is unavailable; 1 when it does not start.
#
# shellcheck disable=SC2317 # a trap calls these functions
set -euo pipefail

ready_within=300 # seconds; an idle machine needs 1, a loaded one more
tries=10

acl=
if [ "${1:-}" = --acl ] && [[ ${2:-} == @(allow|deny) ]]; then
    acl=$2
    shift 2
fi
config=
if [ "${1:-}" = --config ] && [ -r "${2:-}" ]; then
    config=$2
    shift 2
fi
if [ $# -lt 2 ]; then
    echo "usage: scripts/with-consul.sh [--acl allow|deny] [--config FILE] 1.21|1.8 COMMAND [ARG…]" >&2
    exit 2
fi
# CI may start it without a standard input, which the command's `<&0` needs.
[ -e /dev/fd/0 ] || exec </dev/null

wanted=$1
shift
binary=$("$(dirname "$0")/consul.sh" "$wanted")
for name in "${!CONSUL_@}"; do
    unset "$name"
done
said=$("$binary" version)
[[ $said =~ ^Consul\ v([0-9.]+) ]]
full=${BASH_REMATCH[1]}

folder=$(mktemp -d "${TMPDIR:-/tmp}/with-consul.XXXXXX")
log=$folder/log
server=
command=
token=
[ -z "$acl" ] || token=$(cat /proc/sys/kernel/random/uuid)

# stop ID: ends a process, or with a minus sign a process group, within 5 s.
stop() {
    kill -TERM -- "$1" 2>/dev/null || return 0
    for _ in {1..50}; do
        kill -0 -- "$1" 2>/dev/null || return 0
        sleep 0.1
    done
    kill -KILL -- "$1" 2>/dev/null || true
}

# stop_server: a dev server has nothing to save, and only SIGKILL ends one that a test has stopped
# with SIGSTOP.
stop_server() {
    [ -n "$server" ] || return 0
    kill -KILL "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
    server=
}

end() {
    trap '' INT TERM HUP
    [ -z "$command" ] || stop "$command"
    stop_server
    rm -rf "$folder"
}
trap end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

# The watcher, in its own session, survives a SIGKILL of this script or of its process group. It ends
# the script when the script's parent is gone, and the server and the command when the script is.
# shellcheck disable=SC2016 # the watcher expands these variables
setsid bash -c '
    folder=$1 script=$2 parent=$3
    parent_is_there() {
        read -r _ _ _ now _ <"/proc/$script/stat" && [ "$now" = "$parent" ]
    }
    while [ -e "$folder" ] && kill -0 "$script" && parent_is_there; do sleep 0.2; done
    kill -TERM "$script"
    for _ in {1..70}; do
        [ -e "$folder" ] && kill -0 "$script" || break
        sleep 0.1
    done
    [ -e "$folder" ] || exit
    for name in command server; do
        [ ! -e "$folder/$name" ] || kill -KILL -- "$(cat "$folder/$name")"
    done
    rm -rf "$folder"
' watcher "$folder" $$ $PPID </dev/null >/dev/null 2>&1 &

# free_ports COUNT: prints ports that nothing listens on, below the system's range of ephemeral ports.
free_ports() {
    local found=() port
    while [ ${#found[@]} -lt "$1" ]; do
        port=$((10000 + (RANDOM * 32768 + RANDOM) % 22000))
        if [[ " ${found[*]} " != *" $port "* ]] \
            && ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            found+=("$port")
        fi
    done
    echo "${found[@]}"
}

# get PORT PATH: prints the server's reply to a GET; needs no HTTP client on the machine.
get() {
    local reply=
    {
        printf 'GET %s HTTP/1.0\r\nHost: 127.0.0.1\r\nX-Consul-Token: %s\r\n\r\n' \
            "$2" "$token" >&3
        IFS= read -r -t 10 -d '' reply <&3 || true
    } 3<>"/dev/tcp/127.0.0.1/$1" || return 1
    [[ $reply == HTTP/1.?\ 200\ * ]] && echo "$reply"
} 2>/dev/null

# is_ready PORT ID: succeeds when the server has a leader and, as a node, the server with this id, and
# not another server on the same port.
is_ready() {
    local leader nodes
    leader=$(get "$1" /v1/status/leader) && [[ $leader =~ \"[^\"]+\"$ ]] \
        && nodes=$(get "$1" /v1/catalog/nodes) && [[ $nodes == *"$2"* ]]
}

# acl_config: prints the configuration of a server with ACLs. The agent token registers the node.
acl_config() {
    local management=initial_management
    [[ $full != 1.8.* ]] || management=master
    cat <<END
acl {
    enabled = true
    default_policy = "$acl"
    tokens {
        $management = "$token"
        agent = "$token"
    }
}
END
}

# start: starts a server, sets `server`, `http` and `dns`, returns when it is ready. Fails when the server
# ends early, for instance because another program has taken one of its ports.
start() {
    local ports id more=() deadline
    read -r -a ports <<<"$(free_ports 5)"
    http=${ports[0]}
    dns=${ports[4]}
    id=$(cat /proc/sys/kernel/random/uuid)
    [[ $full == 1.8.* ]] || more+=(-grpc-tls-port=-1)
    [ -z "$acl" ] || more+=(-hcl="$(acl_config)")
    [ -z "$config" ] || more+=(-config-file="$config")
    setsid "$binary" agent -dev -log-level=err -node-id="$id" -http-port="$http" \
        -server-port="${ports[1]}" -serf-lan-port="${ports[2]}" -serf-wan-port="${ports[3]}" \
        -dns-port="${ports[4]}" -grpc-port=-1 "${more[@]}" -hcl='disable_update_check = true' \
        </dev/null >"$log" 2>&1 &
    server=$!
    echo "$server" >"$folder/server"
    deadline=$((SECONDS + ready_within))
    until is_ready "$http" "$id"; do
        if ! kill -0 "$server" 2>/dev/null; then
            wait "$server" || true
            server=
            return 1
        fi
        [ $SECONDS -lt $deadline ] || fail "was not ready within $ready_within s"
        sleep 0.1
    done
}

fail() {
    echo "Consul $full $*; the end of its log:" >&2
    tail -n 20 "$log" >&2
    exit 1
}

until start; do
    tries=$((tries - 1))
    if [ $tries -eq 0 ] || ! grep -q 'address already in use' "$log"; then
        fail "did not start"
    fi
done

export CONSUL_HTTP_ADDR=127.0.0.1:$http CONSUL_DNS_ADDR=127.0.0.1:$dns CONSUL_PID=$server CONSUL_VERSION=$full
[ -z "$token" ] || export CONSUL_HTTP_TOKEN=$token
# In the background, because bash runs a trap only when the command in the foreground has ended.
if [ -t 0 ]; then
    # It is in the terminal's process group and gets Ctrl-C; a script's background processes ignore
    # SIGINT and SIGQUIT by default.
    env --default-signal=INT,QUIT "$@" <&0 &
    command=$!
else
    # In its own process group, so that its children end with it.
    set -m
    "$@" <&0 &
    command=-$!
    set +m
fi
echo "$command" >"$folder/command"
status=0
wait "${command#-}" || status=$?
command=
exit "$status"
