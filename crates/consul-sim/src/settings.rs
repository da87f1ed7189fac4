//! The settings of a configuration file, and their defaults.

use crate::KeyNames;
use ::http::{HeaderName, HeaderValue};
use consul_api::api::{kv, session};
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The settings of an agent and its server. Each has the default of Consul 1.21.0; source: the reference of the agent's configuration
/// in Consul's documentation.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `datacenter`: the only datacenter.
    pub datacenter: String,
    /// `advertise_addr`: the address of the agent's node, and of its server for other servers.
    pub address: IpAddr,
    /// `ports`
    pub ports: Ports,
    /// The part of the configuration that `agent/self` shows besides the usual one, by the paths in its `DebugConfig`.
    pub shown: serde_json::Map<String, serde_json::Value>,
    /// The members of it that its sockets decide.
    pub sockets: Arc<Mutex<serde_json::Map<String, serde_json::Value>>>,
    /// `telemetry`
    pub telemetry: Telemetry,
    /// `connect.ca_config.cluster_id`: the trust domain, without its suffix.
    pub cluster_id: String,
    /// `session_ttl_min`: the shortest TTL of a session.
    pub session_ttl_min: Duration,
    /// Which names of keys the server takes.
    pub key_names: KeyNames,
    /// `limits.kv_max_value_size`: the most bytes of a key's value.
    pub kv_max_value_size: usize,
    /// `limits.txn_max_req_len`: the most bytes of a transaction.
    pub txn_max_req_len: usize,
    /// `default_query_time`: how long a blocking query without `wait` waits.
    pub default_query_time: Duration,
    /// `max_query_time`: the longest wait of a blocking query.
    pub max_query_time: Duration,
    /// `check_output_max_size`: the default limit of a check's output, in bytes.
    pub check_output_max_size: i64,
    /// `enable_script_checks`: whether checks may run programs.
    pub enable_script_checks: bool,
    /// `enable_local_script_checks`: the same for checks in configuration files alone.
    pub enable_local_script_checks: bool,
    /// `http_config.response_headers`: headers of each reply.
    pub response_headers: Vec<(HeaderName, HeaderValue)>,
    /// `http_config.block_endpoints`: paths that begin with one of these are refused.
    pub block_endpoints: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            datacenter: "dc1".to_owned(),
            address: Ipv4Addr::LOCALHOST.into(),
            ports: Ports::default(),
            shown: serde_json::Map::new(),
            sockets: Arc::default(),
            telemetry: Telemetry::default(),
            cluster_id: "5ca1ab1e-0000-4000-8000-000000000001".to_owned(),
            session_ttl_min: Duration::from_secs(session::TTL_RANGE_S.0),
            key_names: KeyNames::default(),
            kv_max_value_size: kv::MAX_VALUE_BYTES,
            txn_max_req_len: kv::MAX_VALUE_BYTES,
            default_query_time: Duration::from_secs(5 * 60),
            max_query_time: Duration::from_secs(10 * 60),
            check_output_max_size: 4096,
            enable_script_checks: false,
            enable_local_script_checks: false,
            response_headers: Vec::new(),
            block_endpoints: Vec::new(),
        }
    }
}

impl Settings {
    /// Whether requests for a path are refused.
    pub(super) fn blocks(&self, path: &str) -> bool {
        self.block_endpoints.iter().any(|prefix| path.starts_with(prefix))
    }
}

/// The ports that the agent tells others. Only what speaks HTTP and DNS listens.
#[derive(Clone, Debug)]
pub struct Ports {
    /// `server`
    pub server: u16,
    /// `serf_lan`
    pub serf_lan: u16,
    /// `serf_wan`; `None`: the server is not in the pool of all datacenters.
    pub serf_wan: Option<u16>,
    /// `grpc`
    pub grpc: Option<u16>,
    /// `grpc_tls`
    pub grpc_tls: Option<u16>,
    /// `sidecar_min_port` and `sidecar_max_port`
    pub sidecars: RangeInclusive<i64>,
}

impl Default for Ports {
    fn default() -> Self {
        Self {
            server: 8300,
            serf_lan: 8301,
            serf_wan: Some(8302),
            grpc: None,
            grpc_tls: None,
            sidecars: 21000..=21255,
        }
    }
}

impl Ports {
    /// The ports of gRPC, by the names that members and services have for them.
    pub(super) fn of_grpc(&self) -> impl Iterator<Item = (&'static str, String)> {
        let all = [("grpc_port", self.grpc), ("grpc_tls_port", self.grpc_tls)];
        all.into_iter().filter_map(|(name, port)| Some((name, port?.to_string())))
    }
}

/// `telemetry`, as far as it concerns the agent's own metrics.
#[derive(Clone, Debug)]
pub struct Telemetry {
    /// `metrics_prefix`
    pub prefix: String,
    /// `disable_hostname`: whether the names of gauges leave out the machine's.
    pub without_host: bool,
    /// `prometheus_retention_time`: whether there are metrics for Prometheus.
    pub has_prometheus: bool,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self { prefix: "consul".to_owned(), without_host: false, has_prometheus: false }
    }
}

/// `domain`, `alt_domain` and `dns_config`, with Consul's defaults.
#[derive(Clone, Debug)]
pub(super) struct DnsSettings {
    /// `domain`, and `alt_domain` if there is one, as labels in lower case.
    pub domains: Vec<Vec<String>>,
    /// `node_ttl`, in seconds.
    pub node_ttl: u32,
    /// `service_ttl`, in seconds, by name or by start of a name with an asterisk behind it.
    pub service_ttl: Vec<(String, u32)>,
    /// `only_passing`: whether instances with warnings are left out.
    pub only_passing: bool,
    /// `udp_answer_limit`: the most answers over UDP to a client without EDNS.
    pub udp_answer_limit: usize,
    /// `a_record_limit`: the most addresses in an answer; 0: all.
    pub a_record_limit: usize,
    /// `enable_truncate`: whether an answer tells that it is not whole.
    pub enable_truncate: bool,
    /// `disable_compression`
    pub disable_compression: bool,
    /// `enable_additional_node_meta_txt`: whether answers have the metadata of nodes in addition.
    pub node_meta: bool,
    /// `soa`
    pub soa: Soa,
}

/// The numbers of the record of authority, in seconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Soa {
    /// `refresh`
    pub refresh: u32,
    /// `retry`
    pub retry: u32,
    /// `expire`
    pub expire: u32,
    /// `min_ttl`
    pub min_ttl: u32,
}

impl Default for DnsSettings {
    fn default() -> Self {
        Self {
            domains: vec![vec!["consul".to_owned()]],
            node_ttl: 0,
            service_ttl: Vec::new(),
            only_passing: false,
            udp_answer_limit: 3,
            a_record_limit: 0,
            enable_truncate: false,
            disable_compression: false,
            node_meta: true,
            soa: Soa { refresh: 3600, retry: 600, expire: 86400, min_ttl: 0 },
        }
    }
}
