# shellcheck shell=bash disable=SC2154 # the page's commands, which are before these, set the nodes
# Makes what the operator has before the first recipe: the configuration of the hosts, certificates and keys.
# ENDPOINTS are those of Consul; if there are three servers of the recipes' own, PORTS are those of HTTPS, then those of
# the servers, then those of Serf. In a lab, LAB, each host has an address of its own, and the servers know the operator.

# address HOST
address() {
    if [ -n "$LAB" ]; then awk -v host="$1" '$2 == host { print $1 }' /etc/hosts; else echo 127.0.0.1; fi
}

authority() {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 \
        -subj "/CN=$1" -keyout "$1.key" -out "$1.pem" 2>/dev/null
}

node_toml() {
    # shellcheck disable=SC2153 # the caller sets it
    local endpoints=${ENDPOINTS// /\", \"} data_port=0
    [ -z "$LAB" ] || data_port=9001
    cat <<END
node_id = "$1"
node_address = "$(address "$1"):9000"
data_address = "$(address "$1"):$data_port"
endpoints = ["$endpoints"]
nodes_prefix = "tsdb/nodes/"
profile = "fast"
shards = 8
replicas = 3
replace_after_s = 5
END
    [ -z "$LAB" ] || echo "status_address = \"$(address "$1"):9100\""
    [ -z "$PORTS" ] || cat <<END
tls_ca_file = "$ROOT/$1/etc/tsdb/consul-ca.pem"
tls_cert_file = "$ROOT/$1/etc/tsdb/consul.pem"
tls_key_file = "$ROOT/$1/etc/tsdb/consul.key"
END
    cat <<END
[store]
repair_s = 2
drop_after_s = 2
END
}

server_hcl() {
    local host=$1 https=$2 server=$3 serf=$4 all=("${@:5}")
    cat <<END
node_name = "$host"
server = true
bootstrap_expect = 3
data_dir = "$ROOT/$host/var/lib/consul"
bind_addr = "$(address "$host")"
client_addr = "$(address "$host")"
ports { http = -1, https = $https, server = $server, serf_lan = $serf, serf_wan = -1, dns = -1, grpc = -1, grpc_tls = -1 }
retry_join = ["$(address c1):${all[0]}", "$(address c2):${all[1]}", "$(address c3):${all[2]}"]
performance { raft_multiplier = 1 }
disable_update_check = true
log_level = "warn"
tls {
  https {
    ca_file = "$ROOT/$host/etc/consul.d/consul-ca.pem"
    cert_file = "$ROOT/$host/etc/consul.d/consul.pem"
    key_file = "$ROOT/$host/etc/consul.d/consul.key"
    verify_incoming = true
  }
END
    [ -z "$LAB" ] || cat <<END
  internal_rpc {
    ca_file = "$ROOT/$host/etc/consul.d/consul-ca.pem"
    cert_file = "$ROOT/$host/etc/consul.d/consul.pem"
    key_file = "$ROOT/$host/etc/consul.d/consul.key"
    verify_incoming = true
    verify_outgoing = true
  }
END
    echo "}"
    [ -z "$LAB" ] || cat <<END
acl {
  enabled = true
  default_policy = "deny"
  tokens { initial_management = "$(cat operator-token)", agent = "$(cat operator-token)" }
}
END
}

mkdir -p config/all backup
authority cluster-ca
authority consul-ca
cp cluster-ca.pem consul-ca.pem config/all/
openssl rand -base64 24 >config/all/cluster-key
echo none >config/all/consul-token
for host in $nodes n4 gateway operator; do
    mkdir -p "config/$host"
    certificate cluster-ca "$host" "config/$host/node"
    certificate consul-ca "$host" "config/$host/consul"
    [ "$host" = operator ] || node_toml "$host" >"config/$host/node.toml"
done
if [ -n "$PORTS" ]; then
    read -r -a ports <<<"$PORTS"
    for number in 0 1 2; do
        host=c$((number + 1))
        mkdir -p "config/$host"
        certificate consul-ca "$host" "config/$host/consul"
        server_hcl "$host" "${ports[number]}" "${ports[number + 3]}" "${ports[number + 6]}" "${ports[@]:6}" \
            >"config/$host/consul.hcl"
        name=127.0.0.1
        [ -z "$LAB" ] || name=$host
        cat >"$ROOT/$host/environment" <<END
export CONSUL_HTTP_TOKEN=$(cat operator-token)
export CONSUL_HTTP_ADDR=https://$name:${ports[number]} CONSUL_CACERT=$ROOT/$host/etc/consul.d/consul-ca.pem
export CONSUL_CLIENT_CERT=$ROOT/$host/etc/consul.d/consul.pem CONSUL_CLIENT_KEY=$ROOT/$host/etc/consul.d/consul.key
END
        push "$host" /etc/consul.d
    done
fi
