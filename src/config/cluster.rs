//! Every option of a cluster's node, declared once. What a node is given besides them are options of
//! its client.

use super::options::{OPTIONS, Setting, Takes};
use super::{only_once, unknown_option};
use crate::cluster::Options;
use crate::cluster::data_plane::ClusterKey;
use crate::cluster::shard_map::MOST_SHARDS;
use crate::error::{Error, Kind};
use crate::wire::shape::At;
use crate::wire::value::Value;

/// Every option of a node.
pub const CLUSTER_OPTIONS: &[Setting<Options>] = &[
    Setting::new(
        "node_id",
        Takes::Text(|options, id| options.node_id = id),
        "none; it must be said",
        "The node's name in the cluster, which no other live node has.",
    ),
    Setting::new(
        "node_address",
        Takes::Text(|options, address| options.node_address = address),
        "none; it must be said",
        "Where the other nodes find it, `host:port`.",
    ),
    Setting::new(
        "zone",
        Takes::Text(|options, zone| options.zone = zone),
        "none",
        "Replicas of a shard are in different zones as long as there are enough of them.",
    ),
    Setting::new(
        "weight",
        Takes::Number(0.0, 1000.0, |options, weight| options.weight = weight),
        "1",
        "The node's share of the shards beside the others'; 0: it gets none.",
    ),
    Setting::new(
        "meta",
        Takes::TextMap(|options, meta| options.meta = meta),
        "none",
        "What else the other nodes shall know of it.",
    ),
    Setting::new(
        "profile",
        Takes::Profile(|options, profile| {
            let session_ttl = options.profile.session_ttl.max(profile.session_ttl);
            options.profile = profile;
            options.profile.session_ttl = session_ttl;
        }),
        "default",
        "How fast a crash is noticed against how long a stall is borne: check, beat, lease and lock delay come from it (docs/coordination.md).",
    ),
    Setting::new(
        "lease_ttl",
        Takes::Seconds(|options, ttl| {
            options.profile.session_ttl = options.profile.session_ttl.max(ttl);
        }),
        "10",
        "The TTL of the leader's session in seconds, 10 or more: the backstop when neither the node nor its agent is there to end it. It delays no ordinary failover.",
    ),
    Setting::new(
        "heartbeat_interval",
        Takes::Seconds(|options, interval| options.heartbeat_interval = interval),
        "5",
        "How often the node reads its own key back, in seconds; it writes only when the key differs. That the node lives is told by its check, more often.",
    ),
    Setting::new(
        "shards",
        Takes::Count(1, MOST_SHARDS as u32, |options, count| options.shards = count as usize),
        "1024",
        "How many shards there are; the same on all nodes. At least 50 replicas of shards for each node keep the loads even.",
    ),
    Setting {
        aliases: &["replication_factor"],
        ..Setting::new(
            "replicas",
            Takes::Count(1, 16, |options, count| options.replicas = count as usize),
            "2",
            "How many nodes have each shard; the same on all nodes.",
        )
    },
    Setting::new(
        "hand_off",
        Takes::Flag(|options, flag| options.hand_off = flag),
        "false",
        "Whether the program gets the data of the node's new shards from who has them, and says so by `shards_ready`. Until then they are initializing, and who had them keeps them.",
    ),
    Setting::new(
        "min_nodes",
        Takes::Count(1, 10_000, |options, count| options.min_nodes = count as usize),
        "1",
        "With fewer live nodes the shard map stays as it is.",
    ),
    Setting::new(
        "replace_after_s",
        Takes::Seconds(|options, time| options.replace_after = time),
        "300",
        "How long a node may be away before others get its shards, in seconds. Requests avoid it at once.",
    ),
    Setting::new(
        "forget_after_s",
        Takes::Seconds(|options, time| options.forget_after = time),
        "3600",
        "How long a node may be away before it is no member any more, in seconds.",
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
        "Where the node listens for requests of the others, `host:port`, 0 for any port; its key says where that is. What other machines can reach takes a `cluster_key`. `0.0.0.0` is every address of the machine; the others then find it at the host of `node_address`.",
    ),
    Setting::new(
        "cluster_key",
        Takes::Token(|options, key| options.cluster_key = Some(ClusterKey::new(&key))),
        "none",
        "The secret that requests between nodes are signed with, 16 bytes or more; the same on all nodes. What is sent is not encrypted.",
    ),
    Setting::new(
        "max_request_bytes",
        Takes::Count(1, 1 << 30, |options, count| options.max_request_bytes = count as usize),
        "4194304",
        "The largest request that the node makes or takes, in bytes.",
    ),
    Setting::new(
        "max_reply_bytes",
        Takes::Count(1, 1 << 30, |options, count| options.max_reply_bytes = count as usize),
        "16777216",
        "The largest reply that the node gives or takes, in bytes.",
    ),
    Setting::new(
        "max_in_flight",
        Takes::Count(1, 256, |options, count| options.max_in_flight = count as usize),
        "64",
        "How many calls to one other node may be under way; a further one fails at once.",
    ),
    Setting::new(
        "max_waiting_requests",
        Takes::Count(1, 100_000, |options, count| options.max_waiting_requests = count as usize),
        "256",
        "How many requests of other nodes may wait for the program; further ones are refused.",
    ),
    Setting::new(
        "leader_key",
        Takes::Key(|options, key| options.leader_key = key),
        "tsdb/cluster/leader",
        "The key whose lock is the leadership. When it is not said it stands beside `nodes_prefix`, as do the next two.",
    ),
    Setting::new(
        "nodes_prefix",
        Takes::Key(|options, prefix| options.nodes_prefix = closed(prefix)),
        "tsdb/cluster/nodes/",
        "The prefix of the nodes' keys. The name of the nodes' service is made of it.",
    ),
    Setting::new(
        "shards_prefix",
        Takes::Key(|options, prefix| options.shards_prefix = closed(prefix)),
        "tsdb/cluster/shards/",
        "The prefix of the shard map's keys.",
    ),
    Setting::new(
        "config_key",
        Takes::Key(|options, key| options.config_key = key),
        "tsdb/cluster/config",
        "The key of what all nodes must agree on.",
    ),
];

fn closed(prefix: String) -> String {
    format!("{}/", prefix.trim_end_matches('/'))
}

/// The options of a node, and what remains for its client.
///
/// # Errors
/// [`Kind::Config`], naming the option, what was given and what is allowed.
pub fn of_cluster(given: &[(String, Value)]) -> Result<(Options, Vec<(String, Value)>), Error> {
    let in_config = |error: Error| Error::new(Kind::Config, error.message()).not_sent();
    let mut options = Options::new("", "");
    let mut rest = Vec::new();
    let known = || {
        let of_client = OPTIONS.iter().flat_map(Setting::names);
        CLUSTER_OPTIONS.iter().flat_map(Setting::names).chain(of_client)
    };
    for (name, value) in given.iter().filter(|(_, value)| *value != Value::Null) {
        match CLUSTER_OPTIONS.iter().find(|option| option.is_called(name)) {
            Some(option) => only_once(option, name, given)?,
            None if OPTIONS.iter().any(|option| option.is_called(name)) => {
                rest.push((name.clone(), value.clone()));
            }
            None => return Err(unknown_option(name, known())),
        }
    }
    for option in CLUSTER_OPTIONS {
        let said = given.iter().find(|(name, v)| option.is_called(name) && *v != Value::Null);
        if let Some((name, value)) = said {
            option.takes.apply(&mut options, value, &At::top(name)).map_err(in_config)?;
        }
    }
    stand_beside_the_nodes(&mut options, |name| {
        given.iter().any(|(said, value)| said == name && *value != Value::Null)
    });
    for (name, value) in [("node_id", &options.node_id), ("node_address", &options.node_address)] {
        if value.is_empty() {
            let why = format!("{name} is missing: a node needs a name and an address");
            return Err(Error::new(Kind::Config, why).not_sent());
        }
    }
    options.check()?;
    Ok((options, rest))
}

/// Keys that are not said stand beside those of the nodes, so that clusters that differ in these
/// share nothing.
fn stand_beside_the_nodes(options: &mut Options, is_said: impl Fn(&str) -> bool) {
    let beside = options.nodes_prefix.trim_end_matches('/').rsplit_once('/');
    let beside = beside.map_or(String::new(), |(parent, _)| format!("{parent}/"));
    for (name, key) in [
        ("leader_key", &mut options.leader_key),
        ("shards_prefix", &mut options.shards_prefix),
        ("config_key", &mut options.config_key),
    ] {
        if !is_said(name) {
            let last = key.strip_prefix("tsdb/cluster/").unwrap_or(key);
            *key = format!("{beside}{last}");
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
    fn the_old_names_start_unmodified_and_mean_what_cannot_harm() {
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
    fn a_session_lives_as_long_as_the_longest_that_was_said() {
        let ttl = |given: &[(&str, Value)]| {
            of(given).expect("good options").0.profile.session_ttl.as_secs()
        };
        assert_eq!(ttl(&[("lease_ttl", 3.into())]), 10);
        let (lease_ttl, profile) = (("lease_ttl", 30.into()), ("profile", "fast".into()));
        assert_eq!(ttl(&[lease_ttl.clone(), profile.clone()]), 30);
        assert_eq!(ttl(&[profile, lease_ttl]), 30);
    }

    #[test]
    fn each_option_has_an_effect() {
        let plain = format!("{:?}", of(&[]).expect("good options").0);
        for option in &CLUSTER_OPTIONS[2..] {
            let value = match option.takes {
                Takes::Text(_) | Takes::Key(_) => "other/key/".into(),
                Takes::TextMap(_) => Value::Map(vec![("rack".to_owned(), "7".into())]),
                Takes::Profile(_) => "fast".into(),
                Takes::Token(_) => "sixteen bytes or more".into(),
                Takes::Flag(_) => true.into(),
                // Every range has it, and no option has it by default.
                _ => Value::Int(7),
            };
            let mut given = vec![(option.name, value)];
            match option.name {
                "forget_after_s" => given.push(("replace_after_s", 1.into())),
                "lease_ttl" => given[0].1 = 77.into(),
                _ => {}
            }
            assert_ne!(format!("{:?}", of(&given).expect(option.name).0), plain, "{}", option.name);
        }
    }

    #[test]
    fn keys_that_are_not_said_stand_beside_those_of_the_nodes() {
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
    fn what_is_wrong_is_named() {
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
            ("cluster_key", "too short".into(), "cluster_key is too short: it must have 16 bytes"),
            ("cluster_key", "".into(), "cluster_key is too short: it must have 16 bytes"),
        ] {
            let error = of(&[(name, value)]).expect_err("a bad option");
            assert_eq!(error.kind(), Kind::Config, "{error}");
            assert!(error.message().contains(why), "{error}");
        }
        let error = of(&[("replicas", 2.into()), ("replication_factor", 3.into())]);
        assert!(error.expect_err("twice").message().contains("say the same thing twice"));
        let error = of_cluster(&[]).expect_err("no name");
        assert!(error.message().starts_with("node_id is missing"), "{error}");
    }

    #[test]
    fn every_default_is_what_the_reference_says() {
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
