//! Every option of a node, declared once. A node also has the options of its client.

use super::options::{OPTIONS, Setting};
use super::sources::{names_of, only_once, unknown_option};
use super::takes::Takes;
use consul_api::error::{Error, Kind};
use consul_api::value::Value;
use consul_api::value::shape::ValuePath;
use consul_cluster::Options;
use consul_cluster::data_plane::{ClusterKey, DataTls};
use consul_cluster::shard_map::MAX_SHARDS;

/// Every option of a node.
pub const CLUSTER_OPTIONS: &[Setting<Options>] = &[
    Setting::new(
        "node_id",
        Takes::Text(|options, id| options.node_id = id),
        "required",
        "The node's name in the cluster, which no other live node has.",
    ),
    Setting::new(
        "node_address",
        Takes::Address(|options, address| options.node_address = address),
        "required",
        "The address of the node's program, `host:port`, published to the other nodes. False: it has none, and they see an empty string.",
    ),
    Setting::new(
        "observer",
        Takes::Flag(|options, flag| options.observer = flag),
        "false",
        "Whether the process only routes and calls, for gateways and tools: it is not a member and has no key, check, session or shards, so it needs only read permissions in Consul. `node_id` is the name that handlers see as the caller; `node_address` is not needed, and options of members have no effect.",
    ),
    Setting::new(
        "zone",
        Takes::Text(|options, zone| options.zone = zone),
        "none",
        "The node's zone. Replicas of a shard are in different zones if there are enough zones.",
    ),
    Setting::new(
        "weight",
        Takes::Number(0.0, 1000.0, |options, weight| options.weight = weight),
        "1",
        "The node's share of the shards relative to the other nodes; 0: no shards.",
    ),
    Setting::new(
        "meta",
        Takes::TextMap(|options, meta| options.meta = meta),
        "none",
        "Application metadata published to the other nodes.",
    ),
    Setting::new(
        "profile",
        Takes::Profile(|options, profile| {
            let session_ttl = options.profile.session_ttl.max(profile.session_ttl);
            options.profile = profile;
            options.profile.session_ttl = session_ttl;
        }),
        "default",
        "How fast a crash is detected against how long a stall is tolerated: it sets check, beat, lease and lock delay (docs/coordination.md).",
    ),
    Setting::new(
        "lease_ttl",
        Takes::Seconds(|options, ttl| {
            options.profile.session_ttl = options.profile.session_ttl.max(ttl);
        }),
        "10",
        "The TTL of the leader's session in seconds, 10 or more: it ends the session if neither the node nor its agent can. It does not delay an ordinary failover.",
    ),
    Setting::new(
        "heartbeat_interval",
        Takes::Seconds(|options, interval| options.heartbeat_interval = interval),
        "5",
        "How often the node reads its own key back, in seconds; it writes only if the key differs. Liveness is reported by the node's check, more often.",
    ),
    Setting {
        mistaken: &["shard_count", "num_shards", "total_shards"],
        ..Setting::new(
            "shards",
            Takes::Count(1, MAX_SHARDS as u32, |options, count| options.shards = count as usize),
            "1024",
            "The number of shards; the same on all nodes. At least 50 replicas for each node keep the loads even.",
        )
    },
    Setting {
        aliases: &["replication_factor"],
        mistaken: &["replica_count", "num_replicas", "replication"],
        ..Setting::new(
            "replicas",
            Takes::Count(1, 16, |options, count| options.replicas = count as usize),
            "2",
            "The number of replicas of each shard, each on another node; the same on all nodes.",
        )
    },
    Setting::new(
        "hand_off",
        Takes::Flag(|options, flag| options.hand_off = flag),
        "false",
        "Whether the program copies the data of the node's new shards from their previous nodes, and reports that with `shards_ready`. Until then the new replicas are initializing and the previous nodes keep theirs.",
    ),
    Setting::new(
        "min_nodes",
        Takes::Count(1, 10_000, |options, count| options.min_nodes = count as usize),
        "1",
        "With fewer live nodes the shard map does not change.",
    ),
    Setting::new(
        "replace_after_s",
        Takes::Seconds(|options, time| options.replace_after = time),
        "300",
        "How long a node may be down before other nodes get its shards, in seconds. Requests avoid it at once.",
    ),
    Setting::new(
        "forget_after_s",
        Takes::Seconds(|options, time| options.forget_after = time),
        "3600",
        "How long a node may be down before it is removed from the members, in seconds; not less than `replace_after_s`.",
    ),
    Setting::new(
        "start_timeout_ms",
        Takes::Millis(|options, time| options.start_timeout = time),
        "10000",
        "How long `start` waits for the node to be a member and for a leader, in milliseconds.",
    ),
    Setting::new(
        "data_address",
        Takes::Text(|options, address| options.data_address = address),
        "127.0.0.1:0",
        "The address at which the node listens for requests of other nodes, `host:port`; port 0: any free port. The node's key publishes the address in use. An address that other machines can reach requires a `cluster_key` or `data_tls`. With `0.0.0.0`, all addresses of the machine, the host of `node_address` is published.",
    ),
    Setting::new(
        "cluster_key",
        Takes::Secrets(|options, secrets| {
            let mut secrets = secrets.iter();
            let first = secrets.next().map(|secret| ClusterKey::new(secret));
            options.cluster_key = first.map(|key| secrets.fold(key, |key, it| key.with(it)));
        }),
        "none",
        "The secret that signs requests and replies between nodes, 16 bytes or more; the same on all nodes. With a list of up to 8, nodes call each other if their lists have a secret in common, so that it can be rotated. Without `data_tls` requests and replies are not encrypted.",
    ),
    Setting::new(
        "data_tls",
        Takes::Paths(
            &["cert_file", "key_file", "ca_file"],
            |options, [cert_file, key_file, ca_file]| {
                options.data_tls = Some(DataTls { cert_file, key_file, ca_file });
            },
        ),
        "none",
        "PEM files for mutual TLS 1.3 between the nodes: the node's certificate followed by those that signed it, its private key (not encrypted), and the authorities. Every certificate that these authorities have signed is one of a member, whatever names are in it, so they must sign for this cluster alone. The files are read again when they change. All nodes have it, or none.",
    ),
    Setting::new(
        "encrypt_traffic",
        Takes::Flag(|options, flag| options.encrypt_traffic = flag),
        "false",
        "True: `data_tls` is required, so that a node whose files are not configured does not start.",
    ),
    Setting::new(
        "max_request_bytes",
        Takes::Count(1, 1 << 30, |options, count| options.max_request_bytes = count as usize),
        "4194304",
        "The largest request that the node sends or accepts, in bytes.",
    ),
    Setting::new(
        "max_reply_bytes",
        Takes::Count(1, 1 << 30, |options, count| options.max_reply_bytes = count as usize),
        "16777216",
        "The largest reply that the node sends or accepts, in bytes.",
    ),
    Setting::new(
        "max_in_flight",
        Takes::Count(1, 256, |options, count| options.max_in_flight = count as usize),
        "64",
        "The most calls in flight to one other node; a further one fails at once.",
    ),
    Setting::new(
        "max_waiting_requests",
        Takes::Count(1, 100_000, |options, count| options.max_waiting_requests = count as usize),
        "256",
        "The most requests of other nodes that wait for the program; further ones are refused.",
    ),
    Setting::new(
        "notify",
        Takes::Flag(|options, flag| options.notify = flag),
        "false",
        "Whether the node tells systemd that it takes part in the cluster and that the replicas of its stores are there (`Type=notify`), and with `WatchdogSec` that its program is alive: it has no handlers, or polls for their requests. Without effect outside of a unit (no `NOTIFY_SOCKET`).",
    ),
    Setting::new(
        "leader_key",
        Takes::Key(|options, key| options.leader_key = key),
        "tsdb/cluster/leader",
        "The key whose lock is the leadership. By default it is next to `nodes_prefix`, as are the next two.",
    ),
    Setting::new(
        "nodes_prefix",
        Takes::Key(|options, prefix| options.nodes_prefix = with_slash(prefix)),
        "tsdb/cluster/nodes/",
        "The prefix of the nodes' keys. The name of the nodes' service is derived from it.",
    ),
    Setting::new(
        "shards_prefix",
        Takes::Key(|options, prefix| options.shards_prefix = with_slash(prefix)),
        "tsdb/cluster/shards/",
        "The prefix of the shard map's keys.",
    ),
    Setting::new(
        "config_key",
        Takes::Key(|options, key| options.config_key = key),
        "tsdb/cluster/config",
        "The key of the configuration that must be the same on all nodes.",
    ),
];

fn with_slash(prefix: String) -> String {
    format!("{}/", prefix.trim_end_matches('/'))
}

/// Splits the given options into options of the node and options of its client.
///
/// # Errors
/// [`Kind::Config`], naming the option, what was given and what is allowed.
pub fn of_cluster(given: &[(String, Value)]) -> Result<(Options, Vec<(String, Value)>), Error> {
    let in_config = |error: Error| Error::new(Kind::Config, error.message()).not_sent();
    let mut options = Options::new("", "");
    let mut rest = Vec::new();
    let known = || [names_of(CLUSTER_OPTIONS), names_of(OPTIONS)].concat();
    for (name, value) in given.iter().filter(|(_, value)| *value != Value::Null) {
        match CLUSTER_OPTIONS.iter().find(|option| option.is_called(name)) {
            Some(option) => only_once(option, name, given)?,
            None if OPTIONS.iter().any(|option| option.is_called(name)) => {
                rest.push((name.clone(), value.clone()));
            }
            None => return Err(unknown_option(name, &known())),
        }
    }
    for option in CLUSTER_OPTIONS {
        let found = given.iter().find(|(name, v)| option.is_called(name) && *v != Value::Null);
        if let Some((name, value)) = found {
            option.takes.apply(&mut options, value, &ValuePath::top(name)).map_err(in_config)?;
        }
    }
    set_default_keys(&mut options, |name| {
        given.iter().any(|(other, value)| other == name && *value != Value::Null)
    });
    for required in ["node_id", "node_address"] {
        let is_given = given.iter().any(|(name, value)| name == required && *value != Value::Null);
        let is_needless = options.observer && required == "node_address";
        if !(is_given || is_needless) {
            let why = format!("{required} is required: a node needs a name and an address");
            return Err(Error::new(Kind::Config, why).not_sent());
        }
    }
    options.check()?;
    Ok((options, rest))
}

/// Puts the keys that are not given next to `nodes_prefix`, so that clusters with different prefixes
/// share no keys.
fn set_default_keys(options: &mut Options, is_given: impl Fn(&str) -> bool) {
    let parent = options.nodes_prefix.trim_end_matches('/').rsplit_once('/');
    let parent = parent.map_or(String::new(), |(parent, _)| format!("{parent}/"));
    for (name, key) in [
        ("leader_key", &mut options.leader_key),
        ("shards_prefix", &mut options.shards_prefix),
        ("config_key", &mut options.config_key),
    ] {
        if !is_given(name) {
            let last = key.strip_prefix("tsdb/cluster/").unwrap_or(key);
            *key = format!("{parent}{last}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn of(given: &[(&str, Value)]) -> Result<(Options, Vec<(String, Value)>), Error> {
        let named: [(&str, Value); 2] = [("node_id", "n1".into()), ("node_address", "a:1".into())];
        let given = named.iter().chain(given);
        of_cluster(
            &given.map(|(name, value)| ((*name).to_owned(), value.clone())).collect::<Vec<_>>(),
        )
    }

    #[test]
    fn options_of_older_programs_work_and_are_safe() {
        let (options, rest) = of(&[
            ("consul_url", "http://a:8500".into()),
            ("heartbeat_interval", 5.into()),
            ("lease_ttl", 30.into()),
            ("leader_key", "/cluster/leader".into()),
            ("nodes_prefix", "cluster/nodes".into()),
            ("simulate", true.into()),
        ])
        .expect("good options");
        assert_eq!(options.leader_key, "cluster/leader");
        assert_eq!(options.nodes_prefix, "cluster/nodes/");
        assert_eq!(options.profile.session_ttl, Duration::from_secs(30));
        assert_eq!(options.profile.check_ttl, Duration::from_secs(3));
        assert_eq!(
            rest.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
            ["consul_url", "simulate"]
        );
    }

    #[test]
    fn the_session_ttl_is_the_longest_one_given() {
        let ttl = |given: &[(&str, Value)]| {
            of(given).expect("good options").0.profile.session_ttl.as_secs()
        };
        assert_eq!(ttl(&[("lease_ttl", 3.into())]), 10);
        let (lease_ttl, profile) = (("lease_ttl", 30.into()), ("profile", "fast".into()));
        assert_eq!(ttl(&[lease_ttl.clone(), profile.clone()]), 30);
        assert_eq!(ttl(&[profile, lease_ttl]), 30);
    }

    /// The first of the files of TLS.
    fn files(count: usize) -> Value {
        let names = ["cert_file", "key_file", "ca_file"].into_iter().take(count);
        Value::Map(names.map(|name| (name.to_owned(), name.into())).collect())
    }

    #[test]
    fn each_option_has_an_effect() {
        let plain = format!("{:?}", of(&[]).expect("good options").0);
        for option in &CLUSTER_OPTIONS[2..] {
            let value = match option.takes {
                Takes::Text(_) | Takes::Key(_) | Takes::Address(_) => "other/key/".into(),
                Takes::Paths(names, _) => {
                    Value::Map(names.iter().map(|name| ((*name).to_owned(), "x".into())).collect())
                }
                Takes::TextMap(_) => Value::Map(vec![("rack".to_owned(), "7".into())]),
                Takes::Profile(_) => "fast".into(),
                Takes::Secrets(_) => "sixteen bytes or more".into(),
                Takes::Flag(_) => true.into(),
                // 7 is in every range and not a default.
                _ => Value::Int(7),
            };
            let mut given = vec![(option.name, value)];
            match option.name {
                "forget_after_s" => given.push(("replace_after_s", 1.into())),
                "lease_ttl" => given[0].1 = 77.into(),
                "encrypt_traffic" => given.push(("data_tls", files(3))),
                _ => {}
            }
            assert_ne!(format!("{:?}", of(&given).expect(option.name).0), plain, "{}", option.name);
        }
    }

    #[test]
    fn default_keys_are_next_to_those_of_the_nodes() {
        let keys = |given: &[(&str, Value)]| {
            let Options { leader_key, nodes_prefix, shards_prefix, config_key, .. } =
                of(given).expect("good keys").0;
            [leader_key, nodes_prefix, shards_prefix, config_key]
        };
        let default =
            ["leader", "nodes/", "shards/", "config"].map(|it| format!("tsdb/cluster/{it}"));
        assert_eq!(keys(&[]), default);
        let moved = [("nodes_prefix", "/a/b/nodes/".into()), ("leader_key", "/x/leader".into())];
        assert_eq!(keys(&moved), ["x/leader", "a/b/nodes/", "a/b/shards/", "a/b/config"]);
        assert_eq!(keys(&[("nodes_prefix", "n/".into())]), ["leader", "n/", "shards/", "config"]);
    }

    #[test]
    fn an_error_names_the_invalid_option() {
        for (name, value, why) in [
            ("node_idd", Value::Int(1), "did you mean \"node_id\"?"),
            ("endpointt", Value::Int(1), "did you mean \"endpoint\"?"),
            ("weight", Value::Float(f64::NAN), "a number from 0 to 1000"),
            ("weight", "heavy".into(), "weight must be a number from 0 to 1000"),
            ("shards", 0.into(), "an integer from 1 to 65536"),
            ("profile", "fats".into(), "did you mean \"fast\"?"),
            ("meta", 1.into(), "a table of strings by name"),
            ("forget_after_s", 1.into(), "forget_after_s is 1"),
            ("leader_key", "".into(), "leader_key"),
            (
                "cluster_key",
                "too short".into(),
                "cluster_key is too short: it must have at least 16",
            ),
            ("cluster_key", "".into(), "cluster_key is too short: it must have at least 16 bytes"),
            (
                "cluster_key",
                Value::List(vec!["sixteen bytes or more".into(), "too short".into()]),
                "cluster_key is too short",
            ),
            ("data_tls", files(2), "data_tls.ca_file must be a path, got nil"),
            ("data_tls", "cert.pem".into(), "a table of the paths cert_file, key_file and ca_file"),
            ("data_tls", Value::Map(vec![("ca".to_owned(), "x".into())]), "unknown member \"ca\""),
            ("encrypt_traffic", true.into(), "encrypt_traffic is true: data_tls is required"),
            ("cluster_key", Value::List(vec![]), "a list of at least one string"),
            ("replica_count", 2.into(), "did you mean \"replicas\"?"),
            ("url", "a".into(), "did you mean \"endpoints\"?"),
            ("cluster_key", Value::List(vec![1.into()]), "a string of printable characters"),
        ] {
            let error = of(&[(name, value)]).expect_err("a bad option");
            assert_eq!(error.kind(), Kind::Config, "{error}");
            assert!(error.message().contains(why), "{error}");
        }
        let error = of(&[("replicas", 2.into()), ("replication_factor", 3.into())]);
        assert!(error.expect_err("twice").message().contains("are the same option"));
        for address in
            ["x", "x:", ":1", "x:0", "x:65536", "your-ip:port", "http://x:1", "a b:1", "::1:1"]
        {
            let given = [("node_id", "n1".into()), ("node_address", address.into())];
            let error = of_cluster(&given.map(|(name, value)| (name.to_owned(), value)));
            let wanted = format!("node_address is {address:?}: it must be `host:port`");
            let error = error.expect_err(address);
            assert!(error.message().starts_with(&wanted), "{error}");
        }
        let error = of_cluster(&[]).expect_err("no name");
        assert!(error.message().starts_with("node_id is required"), "{error}");
    }

    #[test]
    fn a_node_has_an_address_or_expressly_none() {
        for (given, address) in [
            ("10.0.0.1:9000".into(), "10.0.0.1:9000"),
            ("[::1]:65535".into(), "[::1]:65535"),
            ("db.example:1".into(), "db.example:1"),
            (Value::Bool(false), ""),
        ] {
            let given = [("node_id", "n1".into()), ("node_address", given)];
            let options = of_cluster(&given.map(|(name, value)| (name.to_owned(), value)));
            assert_eq!(options.expect("good options").0.node_address, address);
        }
    }

    #[test]
    fn every_default_is_as_documented() {
        let options = Options::new("n", "a");
        let default = |name: &str| {
            CLUSTER_OPTIONS.iter().find(|option| option.name == name).expect("an option").default
        };
        assert_eq!(default("weight"), options.weight.to_string());
        assert_eq!(default("profile"), options.profile.name);
        assert_eq!(default("hand_off"), options.hand_off.to_string());
        for (name, time) in [
            ("lease_ttl", options.profile.session_ttl),
            ("heartbeat_interval", options.heartbeat_interval),
            ("replace_after_s", options.replace_after),
            ("forget_after_s", options.forget_after),
        ] {
            assert_eq!(default(name), time.as_secs().to_string(), "{name}");
        }
        assert_eq!(default("start_timeout_ms"), options.start_timeout.as_millis().to_string());
        for (name, count) in [
            ("shards", options.shards),
            ("replicas", options.replicas),
            ("min_nodes", options.min_nodes),
            ("max_request_bytes", options.max_request_bytes),
            ("max_reply_bytes", options.max_reply_bytes),
            ("max_in_flight", options.max_in_flight),
            ("max_waiting_requests", options.max_waiting_requests),
        ] {
            assert_eq!(default(name), count.to_string());
        }
        for (name, key) in [
            ("leader_key", options.leader_key),
            ("nodes_prefix", options.nodes_prefix),
            ("shards_prefix", options.shards_prefix),
            ("config_key", options.config_key),
            ("data_address", options.data_address),
        ] {
            assert_eq!(default(name), key);
        }
    }
}
