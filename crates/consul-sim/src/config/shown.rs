//! The configuration as `agent/self` shows it, in `DebugConfig`.

use super::{Config, go};
use crate::Agent;
use crate::agent::STANDARD;
use consul_process::sync::lock;
use serde_json::{Map, Value, json};

/// Keys of the configuration, with the paths of their members in `DebugConfig`.
const SHOWN: &[(&str, &str)] = &[
    ("acl.down_policy", "ACLResolverSettings.ACLDownPolicy"),
    ("acl.enable_key_list_policy", "ACLEnableKeyListPolicy"),
    ("acl.enable_token_persistence", "ACLTokens.EnablePersistence"),
    ("acl.enable_token_replication", "ACLTokenReplication"),
    ("acl.policy_ttl", "ACLResolverSettings.ACLPolicyTTL"),
    ("acl.role_ttl", "ACLResolverSettings.ACLRoleTTL"),
    ("acl.token_ttl", "ACLResolverSettings.ACLTokenTTL"),
    ("alt_domain", "DNSAltDomain"),
    ("auto_reload_config", "AutoReloadConfig"),
    ("autopilot.cleanup_dead_servers", "AutopilotCleanupDeadServers"),
    ("autopilot.disable_upgrade_migration", "AutopilotDisableUpgradeMigration"),
    ("autopilot.last_contact_threshold", "AutopilotLastContactThreshold"),
    ("autopilot.max_trailing_logs", "AutopilotMaxTrailingLogs"),
    ("autopilot.min_quorum", "AutopilotMinQuorum"),
    ("autopilot.redundancy_zone_tag", "AutopilotRedundancyZoneTag"),
    ("autopilot.server_stabilization_time", "AutopilotServerStabilizationTime"),
    ("autopilot.upgrade_version_tag", "AutopilotUpgradeVersionTag"),
    ("bootstrap", "Bootstrap"),
    ("bootstrap_expect", "BootstrapExpect"),
    ("cache.entry_fetch_max_burst", "Cache.EntryFetchMaxBurst"),
    ("cache.entry_fetch_rate", "Cache.EntryFetchRate"),
    ("check_output_max_size", "CheckOutputMaxSize"),
    ("check_update_interval", "CheckUpdateInterval"),
    ("connect.ca_provider", "ConnectCAProvider"),
    ("data_dir", "DataDir"),
    ("default_intention_policy", "DefaultIntentionPolicy"),
    ("default_query_time", "DefaultQueryTime"),
    ("disable_anonymous_signature", "DisableAnonymousSignature"),
    ("disable_coordinates", "DisableCoordinates"),
    ("disable_host_node_id", "DisableHostNodeID"),
    ("disable_http_unprintable_char_filter", "DisableHTTPUnprintableCharFilter"),
    ("disable_keyring_file", "DisableKeyringFile"),
    ("disable_remote_exec", "DisableRemoteExec"),
    ("disable_update_check", "DisableUpdateCheck"),
    ("discard_check_output", "DiscardCheckOutput"),
    ("discovery_max_stale", "DiscoveryMaxStale"),
    ("dns_config.a_record_limit", "DNSARecordLimit"),
    ("dns_config.allow_stale", "DNSAllowStale"),
    ("dns_config.cache_max_age", "DNSCacheMaxAge"),
    ("dns_config.disable_compression", "DNSDisableCompression"),
    ("dns_config.enable_additional_node_meta_txt", "DNSNodeMetaTXT"),
    ("dns_config.enable_truncate", "DNSEnableTruncate"),
    ("dns_config.max_stale", "DNSMaxStale"),
    ("dns_config.node_ttl", "DNSNodeTTL"),
    ("dns_config.only_passing", "DNSOnlyPassing"),
    ("dns_config.recursor_strategy", "DNSRecursorStrategy"),
    ("dns_config.recursor_timeout", "DNSRecursorTimeout"),
    ("dns_config.service_ttl", "DNSServiceTTL"),
    ("dns_config.soa.expire", "DNSSOA.Expire"),
    ("dns_config.soa.min_ttl", "DNSSOA.Minttl"),
    ("dns_config.soa.refresh", "DNSSOA.Refresh"),
    ("dns_config.soa.retry", "DNSSOA.Retry"),
    ("dns_config.udp_answer_limit", "DNSUDPAnswerLimit"),
    ("dns_config.use_cache", "DNSUseCache"),
    ("enable_agent_tls_for_checks", "EnableAgentTLSForChecks"),
    ("enable_agent_tls_for_checks", "TLS.EnableAgentTLSForChecks"),
    ("enable_central_service_config", "EnableCentralServiceConfig"),
    ("enable_debug", "EnableDebug"),
    ("enable_local_script_checks", "EnableLocalScriptChecks"),
    ("enable_script_checks", "EnableRemoteScriptChecks"),
    ("enable_syslog", "Logging.EnableSyslog"),
    ("encrypt_verify_incoming", "StaticRuntimeConfig.EncryptVerifyIncoming"),
    ("encrypt_verify_outgoing", "StaticRuntimeConfig.EncryptVerifyOutgoing"),
    ("gossip_lan.gossip_interval", "GossipLANGossipInterval"),
    ("gossip_lan.gossip_nodes", "GossipLANGossipNodes"),
    ("gossip_lan.probe_interval", "GossipLANProbeInterval"),
    ("gossip_lan.probe_timeout", "GossipLANProbeTimeout"),
    ("gossip_lan.retransmit_mult", "GossipLANRetransmitMult"),
    ("gossip_lan.suspicion_mult", "GossipLANSuspicionMult"),
    ("gossip_wan.gossip_interval", "GossipWANGossipInterval"),
    ("gossip_wan.gossip_nodes", "GossipWANGossipNodes"),
    ("gossip_wan.probe_interval", "GossipWANProbeInterval"),
    ("gossip_wan.probe_timeout", "GossipWANProbeTimeout"),
    ("gossip_wan.retransmit_mult", "GossipWANRetransmitMult"),
    ("gossip_wan.suspicion_mult", "GossipWANSuspicionMult"),
    ("http_config.allow_write_http_from", "AllowWriteHTTPFrom"),
    ("http_config.block_endpoints", "HTTPBlockEndpoints"),
    ("http_config.max_header_bytes", "HTTPMaxHeaderBytes"),
    ("http_config.response_headers", "HTTPResponseHeaders"),
    ("http_config.use_cache", "HTTPUseCache"),
    ("leave_on_terminate", "LeaveOnTerm"),
    ("limits.http_max_conns_per_client", "HTTPMaxConnsPerClient"),
    ("limits.https_handshake_timeout", "HTTPSHandshakeTimeout"),
    ("limits.kv_max_value_size", "KVMaxValueSize"),
    ("limits.request_limits.read_rate", "RequestLimitsReadRate"),
    ("limits.request_limits.write_rate", "RequestLimitsWriteRate"),
    ("limits.rpc_client_timeout", "RPCClientTimeout"),
    ("limits.rpc_handshake_timeout", "RPCHandshakeTimeout"),
    ("limits.rpc_max_burst", "RPCMaxBurst"),
    ("limits.rpc_max_conns_per_client", "RPCMaxConnsPerClient"),
    ("limits.rpc_rate", "RPCRateLimit"),
    ("limits.txn_max_req_len", "TxnMaxReqLen"),
    ("log_file", "Logging.LogFilePath"),
    ("log_json", "Logging.LogJSON"),
    ("log_level", "Logging.LogLevel"),
    ("log_rotate_bytes", "Logging.LogRotateBytes"),
    ("log_rotate_duration", "Logging.LogRotateDuration"),
    ("log_rotate_max_files", "Logging.LogRotateMaxFiles"),
    ("max_query_time", "MaxQueryTime"),
    ("node_meta", "NodeMeta"),
    ("peering.enabled", "PeeringEnabled"),
    ("performance.enable_xds_load_balancing", "EnableXDSLoadBalancing"),
    ("performance.grpc_keepalive_interval", "GRPCKeepaliveInterval"),
    ("performance.grpc_keepalive_timeout", "GRPCKeepaliveTimeout"),
    ("performance.leave_drain_time", "LeaveDrainTime"),
    ("performance.rpc_hold_timeout", "RPCHoldTimeout"),
    ("pid_file", "PidFile"),
    ("ports.dns", "DNSPort"),
    ("ports.expose_max_port", "ExposeMaxPort"),
    ("ports.expose_min_port", "ExposeMinPort"),
    ("ports.http", "HTTPPort"),
    ("ports.https", "HTTPSPort"),
    ("raft_prevote_disabled", "RaftPreVoteDisabled"),
    ("raft_snapshot_interval", "RaftSnapshotInterval"),
    ("raft_snapshot_threshold", "RaftSnapshotThreshold"),
    ("raft_trailing_logs", "RaftTrailingLogs"),
    ("read_replica", "ReadReplica"),
    ("reconnect_timeout", "ReconnectTimeoutLAN"),
    ("reconnect_timeout_wan", "ReconnectTimeoutWAN"),
    ("recursors", "DNSRecursors"),
    ("rejoin_after_leave", "RejoinAfterLeave"),
    ("retry_interval", "RetryJoinIntervalLAN"),
    ("retry_interval_wan", "RetryJoinIntervalWAN"),
    ("retry_join", "RetryJoinLAN"),
    ("retry_join_wan", "RetryJoinWAN"),
    ("retry_max", "RetryJoinMaxAttemptsLAN"),
    ("retry_max_wan", "RetryJoinMaxAttemptsWAN"),
    ("rpc.enable_streaming", "RPCConfig.EnableStreaming"),
    ("segment_limit", "SegmentLimit"),
    ("segment_name_limit", "SegmentNameLimit"),
    ("serf_lan_allowed_cidrs", "SerfAllowedCIDRsLAN"),
    ("serf_wan_allowed_cidrs", "SerfAllowedCIDRsWAN"),
    ("server_name", "ServerName"),
    ("server_name", "TLS.ServerName"),
    ("server_rejoin_age_max", "ServerRejoinAgeMax"),
    ("session_ttl_min", "SessionTTLMin"),
    ("skip_leave_on_interrupt", "SkipLeaveOnInt"),
    ("syslog_facility", "Logging.SyslogFacility"),
    ("telemetry.disable_per_tenancy_usage_metrics", "Telemetry.DisablePerTenancyUsageMetrics"),
    ("telemetry.dogstatsd_addr", "Telemetry.DogstatsdAddr"),
    ("telemetry.dogstatsd_tags", "Telemetry.DogstatsdTags"),
    ("telemetry.enable_host_metrics", "Telemetry.EnableHostMetrics"),
    ("telemetry.filter_default", "Telemetry.FilterDefault"),
    ("telemetry.metrics_prefix", "Telemetry.PrometheusOpts.Name"),
    ("telemetry.prometheus_retention_time", "Telemetry.PrometheusOpts.Expiration"),
    ("telemetry.retry_failed_connection", "Telemetry.RetryFailedConfiguration"),
    ("telemetry.statsd_address", "Telemetry.StatsdAddr"),
    ("telemetry.statsite_address", "Telemetry.StatsiteAddr"),
    ("translate_wan_addrs", "TranslateWANAddrs"),
    ("ui_config.content_path", "UIConfig.ContentPath"),
    ("ui_config.dashboard_url_templates", "UIConfig.DashboardURLTemplates"),
    ("ui_config.dir", "UIConfig.Dir"),
    ("ui_config.enabled", "UIConfig.Enabled"),
    ("ui_config.metrics_provider", "UIConfig.MetricsProvider"),
    ("ui_config.metrics_provider_files", "UIConfig.MetricsProviderFiles"),
    ("ui_config.metrics_provider_options_json", "UIConfig.MetricsProviderOptionsJSON"),
    ("ui_config.metrics_proxy.base_url", "UIConfig.MetricsProxy.BaseURL"),
    ("ui_config.metrics_proxy.path_allowlist", "UIConfig.MetricsProxy.PathAllowlist"),
    ("unix_sockets.group", "UnixSocketGroup"),
    ("unix_sockets.mode", "UnixSocketMode"),
    ("unix_sockets.user", "UnixSocketUser"),
    ("use_streaming_backend", "UseStreamingBackend"),
    ("xds.update_max_per_second", "XDSUpdateRateLimit"),
];

impl Config {
    /// The shown members that the configuration sets, by their paths.
    pub(super) fn shown(&self) -> Map<String, Value> {
        let given = SHOWN.iter().filter_map(|(key, path)| {
            let value = self.get(key)?;
            let usual = path.split('.').try_fold(None, |within: Option<&Value>, name| {
                within.map_or_else(|| STANDARD.get(name), |value| value.get(name)).map(Some)
            });
            Some(((*path).to_owned(), as_go_writes_it(value, usual.flatten())))
        });
        let mut shown: Map<_, _> = given.collect();
        if self.is_dev {
            for (path, value) in
                [("EnableDebug", json!(true)), ("Logging.LogLevel", json!("DEBUG"))]
            {
                shown.entry(path).or_insert(value);
            }
        }
        let mut set = |path: &str, value: Value| shown.insert(path.to_owned(), value);
        set("DevMode", self.is_dev.into());
        if let Some(domain) = self.text("domain") {
            for path in ["DNSDomain", "TLS.Domain"] {
                set(path, format!("{}.", domain.trim_end_matches('.')).into());
            }
        }
        if self.is_on("enable_script_checks", false) {
            set("EnableLocalScriptChecks", true.into());
        }
        let mode = self.text("limits.request_limits.mode").unwrap_or_default();
        let modes = ["permissive", "enforcing"];
        if let Some(place) = modes.iter().position(|name| *name == mode) {
            set("RequestLimitsMode", (place + 1).into());
        }
        if self.get("locality").is_some() {
            let name = |key| self.text(key).unwrap_or_default();
            let place = json!({"Region": name("locality.region"), "Zone": name("locality.zone")});
            set("Locality", place);
        }
        for (port, shown) in [("grpc", "GRPC"), ("https", "HTTPS"), ("internal_rpc", "InternalRPC")]
        {
            for (key, name) in [
                ("ca_file", "CAFile"),
                ("ca_path", "CAPath"),
                ("cert_file", "CertFile"),
                ("tls_min_version", "TLSMinVersion"),
                ("verify_incoming", "VerifyIncoming"),
            ] {
                if let Some(value) = self.of_tls(port, key) {
                    set(&format!("TLS.{shown}.{name}"), value.clone());
                }
            }
        }
        for (key, shown) in [("https", "HTTPS"), ("rpc", "InternalRPC")] {
            if let Some(value) = self.get(&format!("verify_incoming_{key}")) {
                set(&format!("TLS.{shown}.VerifyIncoming"), value.clone());
            }
        }
        let filters = self.items("telemetry.prefix_filter").iter().filter_map(Value::as_str);
        let (allowed, blocked): (Vec<_>, Vec<_>) = filters.partition(|text| text.starts_with('+'));
        let names = |texts: Vec<&str>| texts.iter().map(|text| text[1..].to_owned()).collect();
        let (allowed, mut blocked): (Vec<String>, Vec<String>) = (names(allowed), names(blocked));
        blocked.push(format!("{}.rpc.server.call", self.telemetry().prefix));
        set("Telemetry.AllowedPrefixes", allowed.into());
        set("Telemetry.BlockedPrefixes", blocked.into());
        shown
    }
}

/// Shows on which sockets the agent answers by a protocol.
pub(super) fn show_sockets(agent: &Agent, protocol: &str, urls: Vec<String>) {
    let mut shown = lock(&agent.options.settings.sockets);
    let port = match urls.first() {
        None => Some(-1),
        Some(url) => url.rsplit(':').next().and_then(|port| port.parse::<i64>().ok()),
    };
    if let Some(port) = port {
        shown.insert(format!("{protocol}Port"), port.into());
    }
    shown.insert(format!("{protocol}Addrs"), urls.into());
}

/// A value with its durations as Go writes them, where the usual value is one.
fn as_go_writes_it(value: &Value, usual: Option<&Value>) -> Value {
    match value {
        Value::Object(members) => {
            let written = |(name, value): (&String, &Value)| {
                let text = value.as_str().and_then(|text| go::duration(text).ok());
                let value =
                    text.map_or_else(|| value.clone(), |it| go::signed_duration_text(it).into());
                (name.clone(), value)
            };
            members.iter().map(written).collect()
        }
        Value::String(text) => {
            let is_one = usual.and_then(Value::as_str).is_some_and(|it| go::duration(it).is_ok());
            let nanos = go::duration(text).ok().filter(|_| is_one);
            nanos.map_or_else(|| value.clone(), |it| go::signed_duration_text(it).into())
        }
        _ => value.clone(),
    }
}
