use super::stores::bring_back;
use super::*;
use crate::leader::record::Blocked;
use crate::observe::overview::{EndpointOverview, LeaderOverview, MapOverview};
use crate::shell::shell_word;
use crate::stores::reinit::Remaking;
use crate::stores::{NumbersChanging, ShardAtRisk, StoreFault, StoreOverview};
use consul_process::os;
use std::collections::BTreeSet;
use std::sync::Arc;

fn node(id: &str) -> NodeOverview {
    NodeOverview {
        id: id.to_owned(),
        address: "a:1".to_owned(),
        data_address: "a:2".to_owned(),
        zone: String::new(),
        weight: 1.0,
        mode: Mode::Active,
        version: "1.0.0".to_owned(),
        unknown_mode: None,
        state: NodeState::Live,
        down_for_ms: None,
        map_epoch: Some(9),
        clock_ahead_ms: None,
        no_rights: None,
        unknown_token: None,
        lacking: None,
        unusable_files: None,
        is_unreached_by_leader: false,
        avoids: Vec::new(),
        faults: Vec::new(),
        cannot_lead: None,
        other_disks: Default::default(),
        unused: Default::default(),
        asked: Default::default(),
        map_lag: Some(0),
        primaries: 1,
        replicas: 1,
        moving_in: 0,
        moving_out: 0,
        store_replicas: 0,
        check_output: String::new(),
        silent: None,
        refuses_key: false,
        is_refused_by_leader: false,
        lost_consul: false,
        doubt: None,
        starts_again: false,
        is_new: false,
        ended: None,
        no_history: None,
        certificate_expires_ms: None,
        consul_expiry: None,
    }
}

fn map() -> MapOverview {
    let placement = vec![vec![Placed::Whole(0, 'a')], vec![Placed::Whole(1, 'a')]];
    let nodes = vec!["n1".to_owned(), "n2".to_owned()];
    MapOverview { epoch: 9, shards: 2, replicas: 1, nodes, placement }
}

fn well() -> Overview {
    let leader = LeaderOverview {
        node_id: "n1".to_owned(),
        address: "a:1".to_owned(),
        elected_at_ms: 1,
        session: "5".to_owned(),
        token: 17,
        lease_ms: None,
        leads: None,
    };
    let store = StoreOverview {
        name: "points".to_owned(),
        shards: 8,
        replicas: 3,
        write_quorum: 2,
        read_quorum: 2,
        map_version: 1,
        moving: Vec::new(),
        repairing: Vec::new(),
        at_risk: Vec::new(),
        vacant: 0,
        is_open: true,
        remaking: BTreeMap::new(),
        unrecovered: BTreeSet::new(),
        changing: None,
    };
    let endpoint = EndpointOverview {
        told_by: "n1".to_owned(),
        address: "http://127.0.0.1:8500".to_owned(),
        state: EndpointState::Ok,
        latency_ms: None,
    };
    Overview {
        version: 1,
        at_ms: 0,
        told_by: None,
        in_touch: true,
        age_ms: None,
        prefix: "ha/".to_owned(),
        leader: Some(leader),
        frozen: Vec::new(),
        paused: None,
        kept_modes: Default::default(),
        weights: Default::default(),
        restored: false,
        hidden: Vec::new(),
        may_hide: None,
        nodes: vec![node("n1"), node("n2")],
        map: Some(Arc::new(map())),
        stores: vec![store],
        waiting: std::collections::BTreeMap::new(),
        endpoints: vec![endpoint],
        events: Vec::new(),
        own_certificate_ms: None,
        own_consul_expiry: None,
        no_rights: None,
        has_no_raft_leader: false,
        blocked: None,
        foreign_weights: None,
        unread_stores: Vec::new(),
        other_clusters: BTreeSet::new(),
        unread_map: Vec::new(),
        is_starting: false,
        problems: Vec::new(),
    }
}

fn at_risk(shard: u32, left: usize) -> ShardAtRisk {
    let (takes_writes, takes_reads) = (left >= 2, left >= 2);
    ShardAtRisk {
        shard,
        missing: vec!["n2".to_owned()],
        left,
        needed: 2,
        takes_writes,
        takes_reads,
    }
}

#[test]
fn each_problem_is_found_alone_and_has_a_cure() {
    assert_eq!(problems(&well()), []);
    type Case = (fn(&mut Overview), &'static str, Level, &'static str);
    let cases: [Case; 63] = [
        (
            |it| (it.in_touch, it.no_rights) = (false, Some("key:read on \"a\"".to_owned())),
            "not_in_touch",
            Level::Error,
            "Consul refuses this process, whose token lacks key:read on \"a\"",
        ),
        (
            |it| (it.told_by, it.no_rights) = (None, Some("key:read on \"a\"".to_owned())),
            "hidden_by_acl",
            Level::Error,
            "ACLs may hide changes from this process: its token lacks key:read on \"a\"",
        ),
        (
            |it| {
                it.nodes.clear();
                it.stores[0].at_risk = vec![at_risk(3, 0), at_risk(4, 2)];
            },
            "no_members",
            Level::Error,
            "no node has a key in Consul: which nodes live is not known",
        ),
        (|it| it.in_touch = false, "not_in_touch", Level::Error, "no answers from Consul"),
        (
            |it| (it.in_touch, it.age_ms) = (false, Some(61_300)),
            "no_raft_leader",
            Level::Error,
            "Consul's servers have no Raft leader: what is shown is 61 s old",
        ),
        (
            |it| it.has_no_raft_leader = true,
            "no_raft_leader",
            Level::Error,
            "Consul's servers have no Raft leader: nothing can be changed",
        ),
        (
            |it| it.nodes[1].unknown_token = Some("ACL not found".to_owned()),
            "token_unknown",
            Level::Error,
            "Consul does not know the token of n2, which was deleted or has expired (ACL not found)",
        ),
        (
            |it| it.nodes[1].no_rights = Some("session:write on \"a\"".to_owned()),
            "token_lacks",
            Level::Warning,
            "the token of n2 lacks session:write on \"a\"",
        ),
        (
            |it| it.nodes[1].lacking = Some("raise `ulimit -n`".to_owned()),
            "no_descriptors",
            Level::Error,
            "n2 lives and could not accept a connection",
        ),
        (
            |it| {
                let lack = std::io::Error::from_raw_os_error(24);
                it.nodes[1].check_output = os::cure_of(&lack).expect("a cure").to_owned();
                it.nodes[1].state = NodeState::Unavailable;
                it.nodes[1].silent = Some("no answer within 500 ms".to_owned());
            },
            "no_descriptors",
            Level::Error,
            "n2 lives and could not accept a connection",
        ),
        (
            |it| it.nodes[1].is_unreached_by_leader = true,
            "node_silent",
            Level::Error,
            "the leader does not reach n2",
        ),
        (
            |it| it.stores[0].vacant = 8,
            "replicas_vacant",
            Level::Warning,
            "store points: no node is there for 8 of its replicas",
        ),
        (|it| it.leader = None, "no_leader", Level::Error, "has no leader"),
        (
            |it| it.foreign_weights = Some("ha/nodes/all/weights has another's value".to_owned()),
            "weights_unreadable",
            Level::Warning,
            "ha/nodes/all/weights has another's value; the weights of nodes known before count",
        ),
        (
            |it| {
                let ended = Some("node_id \"n3\" is taken".to_owned());
                it.nodes.push(NodeOverview { state: NodeState::Down, ended, ..node("n3") });
            },
            "node_down",
            Level::Error,
            "n3 has ended, and its process still runs: node_id \"n3\" is taken",
        ),
        (
            |it| it.nodes[0].no_history = Some("ha/shards/leaders: denied".to_owned()),
            "history_not_kept",
            Level::Warning,
            "n1 leads, and is not in the history of leaders: ha/shards/leaders: denied",
        ),
        (
            |it| it.nodes.iter_mut().for_each(|node| node.weight = 0.0),
            "few_weights",
            Level::Warning,
            "n1, n2 have weight 0: shards have fewer than 1 replicas, on 0 nodes",
        ),
        (
            |it| {
                it.leader = None;
                it.blocked = Some(Blocked { key: "ha/leader".to_owned(), session: None });
            },
            "leader_key_blocked",
            Level::Error,
            "another program has written the leader's key ha/leader",
        ),
        (
            |it| it.leader.as_mut().expect("one").leads = Some(false),
            "leader_does_not_lead",
            Level::Error,
            "n1 has the leader's key and does not lead",
        ),
        (
            |it| it.leader.as_mut().expect("one").node_id = "ghost".to_owned(),
            "leader_unknown",
            Level::Error,
            "the leader's key names ghost, which is not a node of the cluster",
        ),
        (|it| it.hidden = vec!["keys of nodes"], "hidden_by_acl", Level::Error, "keys of nodes"),
        (
            |it| it.may_hide = Some("node:read on \"\"".to_owned()),
            "hidden_by_acl",
            Level::Error,
            "ACLs may hide nodes from this process: the token lacks node:read on \"\"",
        ),
        (|it| it.frozen = vec!["n2".to_owned()], "frozen", Level::Error, "n2 vanished"),
        (|it| it.restored = true, "map_restored", Level::Warning, "put it back"),
        (|it| it.map = None, "no_map", Level::Error, "no shard map"),
        (
            |it| {
                (it.nodes[1].state, it.nodes[1].check_output) =
                    (NodeState::Unavailable, "it sleeps".to_owned());
            },
            "node_unavailable",
            Level::Error,
            "n2 lives, and its check warns: it sleeps",
        ),
        (
            |it| it.nodes[1].check_output = "Node Maintenance Mode: upgrade".to_owned(),
            "agent_check",
            Level::Warning,
            "n2 lives, and a check of its agent is critical: Node Maintenance Mode: upgrade",
        ),
        (
            |it| it.nodes[1].silent = Some("no route".to_owned()),
            "node_silent",
            Level::Error,
            "n2 is live in Consul, and does not answer at its data address: no route",
        ),
        (
            |it| {
                it.nodes[0].avoids = vec!["n2".to_owned()];
                it.nodes[1].avoids = vec!["n1".to_owned()];
            },
            "nodes_apart",
            Level::Error,
            "n1 and n2 do not reach each other: of the replicas that both have one counts as lost",
        ),
        (
            |it| it.nodes[1].avoids = vec!["n1".to_owned(), "gone".to_owned()],
            "nodes_apart",
            Level::Error,
            "n2 does not reach n1:",
        ),
        (
            |it| {
                it.nodes[0].avoids = vec!["n2".to_owned()];
                it.nodes[1].silent = Some("no route".to_owned());
            },
            "node_silent",
            Level::Error,
            "n2 is live in Consul, and does not answer at its data address: no route",
        ),
        (
            |it| {
                (it.nodes[1].silent, it.nodes[1].refuses_key) = (Some("no".to_owned()), true);
                it.nodes[1].is_refused_by_leader = true;
            },
            "key_refused",
            Level::Error,
            "n2 refuses our cluster_key, or we refuse its (no): the leader does not count on",
        ),
        (
            |it| (it.nodes[0].refuses_key, it.nodes[0].is_refused_by_leader) = (true, true),
            "key_refused",
            Level::Error,
            "n1 refuses the leader's cluster_key, or we refuse its: while it leads, the replicas of stores stay",
        ),
        (
            |it| {
                (it.nodes[1].state, it.nodes[1].lost_consul) = (NodeState::Down, true);
                it.map = Some(Arc::new(MapOverview { placement: Vec::new(), ..map() }));
            },
            "node_lost_consul",
            Level::Error,
            "n2 lives, and is down for Consul",
        ),
        (
            |it| {
                let doubt = Some("it accepts only requests signed with its key".to_owned());
                let lost_consul = true;
                let n3 = NodeOverview { lost_consul, doubt, ..node("n3") };
                it.nodes.push(NodeOverview { state: NodeState::Down, ..n3 });
            },
            "node_down",
            Level::Error,
            "n3 is down, and a process answers at its data address, which may be n3, a node of another cluster or another program: it accepts",
        ),
        (
            |it| {
                let n3 = NodeOverview { lost_consul: true, starts_again: true, ..node("n3") };
                it.nodes.push(NodeOverview { state: NodeState::Down, ..n3 });
            },
            "node_down",
            Level::Error,
            "n3 is down, and a new start of it answers at its data address",
        ),
        (
            |it| {
                (it.told_by, it.is_starting) = (Some("n1".to_owned()), true);
                (it.in_touch, it.map) = (false, None);
                it.nodes[1].state = NodeState::Down;
            },
            "starting",
            Level::Note,
            "n1 has just started",
        ),
        (
            |it| it.nodes[1].unusable_files = Some("token file: it is empty".to_owned()),
            "files_unusable",
            Level::Warning,
            "n2 cannot use files that have changed, and goes on with the last ones: token file: it is empty",
        ),
        (
            |it| it.nodes[0].cannot_lead = Some("no key:write on \"m\"".to_owned()),
            "cannot_lead",
            Level::Error,
            "n1 leads and may not do a leader's work: no key:write on \"m\"",
        ),
        (
            |it| it.nodes[1].cannot_lead = Some("no key:write on \"m\"".to_owned()),
            "cannot_lead",
            Level::Warning,
            "n2 leaves the leadership to others: no key:write on \"m\"",
        ),
        (
            |it| it.nodes[1].map_lag = Some(2),
            "map_lag",
            Level::Warning,
            "n2 still has the shard map of epoch 9, the newest one has 11",
        ),
        (
            |it| it.nodes[1].unknown_mode = Some("\"off\"".to_owned()),
            "unknown_mode",
            Level::Warning,
            "is \"off\"",
        ),
        (|it| it.nodes[1].mode = Mode::Draining, "node_draining", Level::Note, "2 shards are left"),
        (
            |it| {
                let node = &mut it.nodes[1];
                (node.mode, node.primaries, node.replicas) = (Mode::Draining, 0, 0);
                node.store_replicas = 8;
                it.stores[0].replicas = 1;
            },
            "node_draining",
            Level::Note,
            "0 shards and 8 replicas of stores are left",
        ),
        (
            |it| it.unread_stores = vec![unread(None)],
            "stores_unknown",
            Level::Error,
            "is not known: no answer",
        ),
        (
            |it| (it.map, it.unread_map) = (None, vec!["ha/shards/map: no map".to_owned()]),
            "map_unreadable",
            Level::Error,
            "cannot be read: ha/shards/map: no map",
        ),
        (
            |it| {
                it.nodes.push(node("n3"));
                it.stores[0].at_risk = vec![ShardAtRisk {
                    missing: ["n2", "n3", "n4"].map(str::to_owned).into(),
                    ..at_risk(3, 1)
                }];
            },
            "shard_at_risk",
            Level::Error,
            "too few replicas of shard 3",
        ),
        (
            |it| it.nodes[1].version = "0.9.0".to_owned(),
            "versions_differ",
            Level::Note,
            "0.9.0 (n2), 1.0.0 (n1",
        ),
        (
            |it| {
                let (by, why) = ("ada".to_owned(), "new racks".to_owned());
                it.at_ms += 180_000;
                it.paused = Some(Pause { by, since_ms: it.at_ms - 120_000, why });
            },
            "paused",
            Level::Note,
            "paused for 2 min, by ada: new racks",
        ),
        (
            |it| {
                let (by, why) = ("nobody known".to_owned(), String::new());
                it.paused = Some(Pause { by, since_ms: 0, why });
            },
            "paused",
            Level::Note,
            "paused since a time that its key does not tell, by nobody known",
        ),
        (
            |it| _ = it.kept_modes.insert("n9".to_owned(), Mode::Maintenance),
            "mode_kept",
            Level::Note,
            "n9 is stopped, and is in maintenance when it starts",
        ),
        (|it| it.nodes[1].mode = Mode::Maintenance, "node_maintenance", Level::Note, "n2 is in"),
        (
            |it| it.stores[0].at_risk = (0..9).map(|shard| at_risk(shard, 1)).collect(),
            "shard_at_risk",
            Level::Error,
            "replicas of shards 0, 1, 2, 3, 4 and 4 more are left",
        ),
        (
            |it| it.stores[0].at_risk = vec![at_risk(3, 1)],
            "shard_at_risk",
            Level::Error,
            "the loss of acknowledged writes; writes and reads are refused",
        ),
        (
            |it| {
                let remaking = Remaking {
                    order: 1,
                    left: 7,
                    waits_for: "n3 is down".to_owned(),
                    ..Remaking::default()
                };
                it.stores[0].remaking = [("n2".to_owned(), remaking)].into();
                it.stores[0].at_risk = vec![at_risk(3, 2)];
            },
            "replicas_made_again",
            Level::Note,
            "n2 makes its replicas again, one after the other, as an operator has ordered: 7 are left, and do not \
             move before; the next one waits: n3 is down",
        ),
        // Majorities of four are three.
        (
            |it| {
                it.stores[0].at_risk =
                    vec![ShardAtRisk { takes_writes: false, takes_reads: false, ..at_risk(3, 2) }];
            },
            "replicas_missing",
            Level::Error,
            "replicas of shard 3 are missing; writes and reads are refused",
        ),
        (
            |it| it.stores[0].at_risk = vec![ShardAtRisk { takes_writes: false, ..at_risk(3, 2) }],
            "replicas_missing",
            Level::Error,
            "replicas of shard 3 are missing; writes are refused",
        ),
        (
            |it| it.stores[0].at_risk = vec![ShardAtRisk { takes_reads: false, ..at_risk(3, 2) }],
            "replicas_missing",
            Level::Error,
            "replicas of shard 3 are missing; reads are refused",
        ),
        (
            |it| it.stores[0].at_risk = vec![at_risk(3, 2)],
            "replicas_missing",
            Level::Warning,
            "replicas of shard 3 are missing",
        ),
        (
            |it| it.stores[0].unrecovered = [3, 4].into(),
            "store_unrecovered",
            Level::Error,
            "has yet to ask who has 2 of its shards",
        ),
        (
            |it| {
                let waits_for = "n4 copies shard 2".to_owned();
                it.stores[0].changing = Some(NumbersChanging { shards: 5, waits_for });
            },
            "store_changing",
            Level::Note,
            "5 of its shards have not",
        ),
        (
            |it| _ = it.waiting.insert("points".to_owned(), "n4 has said nothing".to_owned()),
            "store_waits",
            Level::Warning,
            "store points has no map yet: the first one waits: n4 has said nothing",
        ),
        (
            |it| it.endpoints[0].state = EndpointState::Benched,
            "endpoint_benched",
            Level::Warning,
            "http://127.0.0.1:8500 does not answer n1",
        ),
    ];
    for (change, name, level, text) in cases {
        let mut overview = well();
        change(&mut overview);
        let found = problems(&overview);
        let [problem] = found.as_slice() else { panic!("{name}: {found:?}") };
        assert_eq!((problem.problem, problem.level), (name, level));
        assert!(problem.text.contains(text) && !problem.cure.is_empty(), "{problem:?}");
        let words = commands(&problem.cure).into_iter().flat_map(str::split_whitespace);
        let is_capital = |it: &str| it != "PUT" && it.chars().all(|c| c.is_ascii_uppercase());
        assert_eq!(words.filter(|it| is_capital(it)).collect::<Vec<_>>(), [""; 0], "{problem:?}");
    }
}

/// The alerts for problems that another number shows, too, or alone.
const ALERTS: [(&str, &str); 24] = [
    ("certificate_expires", "CertificateExpires"),
    ("clock", "ClusterClockWrong"),
    ("consul_certificate_expires", "CertificateForConsulExpires"),
    ("endpoint_benched", "ConsulEndpointAvoided"),
    ("frozen", "ClusterMapFrozen"),
    ("hidden_by_acl", "ClusterNodesHidden"),
    ("key_refused", "CallsBetweenNodesFail"),
    ("leader_key_blocked", "ClusterHasNoLeader"),
    ("map_lag", "ClusterMapsDiffer"),
    ("no_leader", "ClusterHasNoLeader"),
    ("no_raft_leader", "ClusterNodesOutOfTouch"),
    ("node_down", "ClusterNodeDown"),
    ("node_lost_consul", "ClusterNodeDown"),
    ("node_silent", "NodeAvoided"),
    ("nodes_apart", "NodeAvoided"),
    ("nodes_silent", "NodeAvoided"),
    ("not_in_touch", "ClusterNodesOutOfTouch"),
    ("own_clock", "ClusterClockWrong"),
    ("own_key_refused", "CallsBetweenNodesFail"),
    ("replicas_missing", "StoreReplicasMissing"),
    ("replicas_vacant", "StoreReplicasMissing"),
    ("shards_without_node", "ClusterNodeDown"),
    ("storage_fails", "StoreStorageFails"),
    ("store_unusable", "StoreUnusable"),
];

/// A note is as an operator wanted it, and a map that was put back needs nobody.
#[test]
fn each_problem_has_an_alert() {
    let rules = include_str!("../../../../../../docs/monitoring/alerts.yml");
    let sources =
        [include_str!("../problems.rs"), include_str!("nodes.rs"), include_str!("stores.rs")];
    let parts: Vec<&str> = sources.iter().flat_map(|it| it.split('"')).collect();
    let made = |by: &str| {
        let is_made = move |it: &&[&'static str]| it[0].trim_end().ends_with(by);
        parts.windows(2).filter(is_made).map(|it| it[1]).collect::<Vec<_>>()
    };
    let problems: BTreeSet<&str> =
        ["error(", "warning(", "level("].into_iter().flat_map(made).collect();
    assert!(problems.len() > 40, "{problems:?}");
    let selectors = rules.split("cluster_problems{problem=").skip(1);
    let selected: BTreeSet<&str> =
        selectors.filter_map(|it| it.split('"').nth(1)).flat_map(|it| it.split('|')).collect();
    let unknown: Vec<_> = selected.difference(&problems).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    for problem in problems.into_iter().filter(|it| *it != "map_restored") {
        let alert = ALERTS.iter().find(|(it, _)| *it == problem).map(|(_, alert)| alert);
        let rule = format!("- alert: {}\n", alert.unwrap_or(&"ClusterProblem"));
        let (_, rule) = rules.split_once(&rule).unwrap_or_else(|| panic!("{problem}: {rule}"));
        // Some alerts have both the number and the problem.
        let is_in_rule = rule.split("- alert: ").next().is_some_and(|it| it.contains(problem));
        let is_once = alert.is_some() != selected.contains(problem);
        assert!(is_once || is_in_rule, "{problem}: {alert:?}");
    }
}

#[test]
fn a_cure_says_what_there_is_to_start() {
    let mut overview = well();
    overview.nodes[1].state = NodeState::Down;
    let missing = ["n1", "n2", "n4"].map(str::to_owned).into();
    let shard = ShardAtRisk { missing, ..at_risk(3, 0) };
    assert_eq!(
        bring_back("points", &[&shard], &overview.nodes, false),
        "start n2; start n4 with its data again, although it is not a member any more; wait for the records of n1 or see the log there"
    );
}

/// The words after `consul-ha` that a shell makes of each command of a cure that is pasted.
fn pasted(commands: &[&str]) -> Vec<Vec<String>> {
    let mut script = "consul-ha() { printf '%s\\0' \"$@\"; printf '\\1'; }\n".to_owned();
    commands.iter().for_each(|command| script.push_str(&format!("{command}\n")));
    let output = std::process::Command::new("bash").args(["-c", &script]).output().expect("bash");
    let output = String::from_utf8(output.stdout).expect("text");
    let words = |it: &str| it.split_terminator('\0').map(str::to_owned).collect();
    output.split_terminator('\u{1}').map(words).collect()
}

/// Each command of a cure that is pasted has the name as the one word that it is, which cannot be taken for a flag.
#[test]
fn the_commands_of_cures_have_every_name_as_it_is() {
    let long = "n".repeat(200);
    let names = [
        "n1",
        "-n",
        "--off",
        "--",
        "a b",
        "it's",
        "\"q\"",
        "\\",
        "\\n",
        "$(touch f)",
        "a;b&c|d",
        "~",
        "*",
        "!!",
        "#",
        "größe-東京",
        "e\u{301}",
        "\u{1f600}",
        "{a,b}",
        "a=b",
        "-it's \u{1f600}",
        long.as_str(),
    ];
    let cases: [fn(&mut Overview, &str); 10] = [
        |it, name| {
            it.nodes.truncate(1);
            (it.nodes[0].id, it.nodes[0].weight) = (name.to_owned(), 0.0);
        },
        |it, name| _ = it.kept_modes.insert(name.to_owned(), Mode::Maintenance),
        |it, name| _ = it.kept_modes.insert(name.to_owned(), Mode::Draining),
        |it, name| (it.nodes[1].id, it.nodes[1].state) = (name.to_owned(), NodeState::Down),
        |it, name| (it.nodes[1].id, it.nodes[1].mode) = (name.to_owned(), Mode::Maintenance),
        |it, name| (it.nodes[1].id, it.nodes[1].mode) = (name.to_owned(), Mode::Draining),
        |it, name| {
            it.stores[0].name = name.to_owned();
            (it.stores[0].at_risk, it.stores[0].is_open) = (vec![at_risk(3, 0)], false);
        },
        |it, name| {
            it.stores[0].name = name.to_owned();
            it.nodes[0].lost_consul = true;
            it.nodes[0].state = NodeState::Down;
            let missing = ["n1", "n2"].map(str::to_owned).into();
            it.stores[0].at_risk = vec![ShardAtRisk { missing, ..at_risk(3, 0) }];
        },
        |it, name| (it.stores[0].name, it.stores[0].unrecovered) = (name.to_owned(), [3].into()),
        |it, name| _ = it.waiting.insert(name.to_owned(), "why".to_owned()),
    ];
    for name in names {
        let found: Vec<Problem> =
            cases.iter().flat_map(|case| after(|it| case(it, name))).collect();
        let lines: Vec<&str> = found.iter().flat_map(|it| commands(&it.cure)).collect();
        let of_name =
            ["drain", "maintenance", "forget", "set-weight", "accept-loss", "forget-store"];
        let mut seen = BTreeSet::new();
        for words in pasted(&lines) {
            let Some(verb) = of_name.iter().find(|verb| **verb == words[0]) else { continue };
            let dashes = words.iter().position(|it| it == "--").unwrap_or(words.len());
            let (flags, names) = words.split_at(dashes);
            let names = if names.is_empty() { &flags[1..] } else { &names[1..] };
            assert!(names.contains(&name.to_owned()), "{name:?}: {words:?}");
            let is_flag = |it: &&String| it.starts_with('-') && *it != name;
            assert!(dashes == words.len() || !names.iter().any(|it| is_flag(&it)), "{words:?}");
            seen.insert(verb);
        }
        assert_eq!(seen.len(), of_name.len(), "{name:?}: {lines:?}");
    }
}

#[test]
fn the_name_of_a_node_runs_no_command_of_a_cure_that_is_pasted() {
    assert_eq!(shell_word("n-1.a:b"), "n-1.a:b");
    let mut overview = well();
    overview.nodes[0].id = "x'$(touch f)".to_owned();
    overview.nodes[0].state = NodeState::Down;
    let found = problems(&overview);
    let cure = r"start it, or `consul-ha forget 'x'\''$(touch f)'`";
    assert!(found.iter().any(|it| it.cure == cure), "{found:?}");
}

#[test]
fn the_name_of_a_node_is_no_flag_of_a_cure_that_is_pasted() {
    assert_eq!(operand("n-1", "--off"), "n-1 --off");
    let found = after(|it| {
        (it.nodes[0].id, it.nodes[1].id) = ("--off".to_owned(), "-n".to_owned());
        it.nodes[0].mode = Mode::Maintenance;
        it.nodes[1].state = NodeState::Down;
        it.stores[0].name = "-s".to_owned();
        it.stores[0].at_risk = vec![at_risk(3, 1)];
    });
    let commands: Vec<&str> = found.iter().flat_map(|it| commands(&it.cure)).collect();
    for command in [
        "consul-ha forget -- -n",
        "consul-ha maintenance --off -- --off",
        "consul-ha accept-loss -- -s 3",
    ] {
        assert!(commands.contains(&command), "{commands:?}");
    }
}

/// In a frozen map a loss that was accepted has no effect, and no new replica is made.
#[test]
fn the_cure_of_a_shard_in_a_frozen_map_begins_with_its_thaw() {
    let cures = |change: fn(&mut Overview)| -> String {
        let found = after(|it| {
            it.frozen = vec!["n2".to_owned()];
            it.nodes.push(node("n3"));
            change(it);
        });
        let of_store = found.iter().find(|it| it.of == "points").expect("one");
        of_store.cure.clone()
    };
    for (change, last) in [
        ((|it| it.stores[0].at_risk = vec![at_risk(3, 1)]) as fn(&mut Overview), "accept-loss"),
        (|it| it.stores[0].unrecovered = [3, 4].into(), "accept-loss"),
        (|it| it.stores[0].at_risk = vec![at_risk(3, 2)], "others get new replicas"),
    ] {
        let cure = cures(change);
        let places = ["`consul-ha thaw`", last].map(|it| cure.find(it));
        assert!(places[0].is_some() && places[0] < places[1], "{cure}");
        assert!(!cure.contains("replace_after_s"), "{cure}");
    }
}

/// How a problem comes about, and its name.
type Loss = (fn(&mut Overview), &'static str);

/// The problems whose cures may give up n2.
const LOSSES: [Loss; 3] = [
    (|it| it.frozen = vec!["n2".to_owned()], "frozen"),
    (|it| it.stores[0].at_risk = vec![at_risk(3, 1)], "shard_at_risk"),
    (|it| it.stores[0].at_risk = vec![at_risk(3, 2)], "replicas_missing"),
];

/// It has all that it had: who gives it up loses acknowledged writes for nothing.
#[test]
fn no_cure_gives_up_a_node_that_lives_and_has_lost_consul() {
    for (change, name) in LOSSES {
        let cure = |lives: bool| {
            let found = after(|it| {
                (it.nodes[1].state, it.nodes[1].lost_consul) = (NodeState::Down, lives);
                change(it);
            });
            found.into_iter().find(|it| it.problem == name).expect("the problem").cure
        };
        let of_live = cure(true);
        assert!(of_live.starts_with("give n2 a way to Consul again"), "{name}: {of_live}");
        let gives_up = ["thaw", "accept-loss", "forget"].iter().any(|it| of_live.contains(it));
        assert!(!gives_up && !of_live.contains("start n2"), "{name}: {of_live}");
        assert!(cure(false).starts_with("start n2"), "{name}: {}", cure(false));
    }
    let both = after(|it| {
        it.nodes.push(node("n3"));
        it.nodes[1..].iter_mut().for_each(|node| node.state = NodeState::Down);
        it.nodes[1].lost_consul = true;
        it.frozen = ["n2", "n3"].map(str::to_owned).into();
        it.stores[0].at_risk = vec![ShardAtRisk { missing: it.frozen.clone(), ..at_risk(3, 1) }];
    });
    let cure = |name| &both.iter().find(|it| it.problem == name).expect("the problem").cure;
    assert!(
        cure("frozen").starts_with("give n2 a way to Consul again; start n3; if they are lost"),
        "{both:?}"
    );
    assert!(commands(cure("shard_at_risk")).contains(&"consul-ha accept-loss points 3 --node=n3"));
}

/// Nobody gives up a node which may live, and nobody waits for one whose address another one has.
#[test]
fn a_node_whose_address_another_may_have_is_given_up_when_that_is_known() {
    for (change, name) in LOSSES {
        let found = after(|it| {
            let node = &mut it.nodes[1];
            (node.state, node.lost_consul) = (NodeState::Down, true);
            node.doubt = Some("it refuses".to_owned());
            change(it);
        });
        let cure = |name| &found.iter().find(|it| it.problem == name).expect("the problem").cure;
        let of_change = cure(name);
        assert!(
            of_change.starts_with("see which process answers at the data address of n2"),
            "{name}: {of_change}"
        );
        assert!(!["thaw", "accept-loss"].iter().any(|it| of_change.contains(it)), "{of_change}");
        let [command] = commands(cure("node_down"))[..] else { panic!("{found:?}") };
        assert_eq!(command, "consul-ha forget n2 --force");
    }
}

/// Each state in which nobody takes the shards of others.
#[test]
fn shards_without_a_node_are_promised_one_only_where_it_comes() {
    type Case = (fn(&mut Overview), bool);
    let states: [Case; 10] = [
        (|_| {}, true),
        (|it| it.leader = None, false),
        (|it| it.leader.as_mut().expect("one").leads = Some(false), false),
        (|it| it.leader.as_mut().expect("one").node_id = "ghost".to_owned(), false),
        (|it| it.has_no_raft_leader = true, false),
        (
            |it| it.paused = Some(Pause { by: "ada".to_owned(), since_ms: 1, why: String::new() }),
            false,
        ),
        (|it| it.frozen = vec!["n2".to_owned()], false),
        (|it| it.nodes[0].mode = Mode::Maintenance, false),
        (|it| it.nodes[0].weight = 0.0, false),
        (|it| it.nodes[0].state = NodeState::Down, false),
    ];
    for (change, is_promised) in states {
        let found = after(|it| {
            it.nodes[1].state = NodeState::Down;
            change(it);
        });
        let problem = found.iter().find(|it| it.problem == "shards_without_node");
        let cure = &problem.expect("n2 had one").cure;
        assert_eq!(cure.contains("others get their shards"), is_promised, "{cure}");
    }
}

#[test]
fn a_node_with_another_disk_is_not_waited_for_where_nothing_comes_of_it() {
    let cure = |left, is_other: bool| {
        let found = after(|it| {
            it.stores[0].at_risk = vec![at_risk(3, left)];
            it.nodes[1].other_disks.extend(is_other.then(|| "points".to_owned()));
            it.nodes[1].other_disks.insert("others".to_owned());
        });
        found[0].cure.clone()
    };
    assert!(cure(1, true).starts_with("put back the disk of n2 that the map names"));
    assert!(cure(2, true).starts_with("wait until the new disk of n2 has the replicas"));
    let unused = after(|it| {
        it.stores[0].at_risk = vec![at_risk(3, 2)];
        it.nodes[1].unused.insert("points".to_owned());
    });
    assert!(unused[0].cure.starts_with("let the program of n2 use the store again"), "{unused:?}");
    for left in [1, 2] {
        assert!(cure(left, false).starts_with("wait for the records of n2"));
    }
}

#[test]
fn drains_without_enough_other_nodes_are_a_problem() {
    let drains = |it: &mut Overview, nodes: &[usize]| {
        (3..=5).for_each(|n| it.nodes.push(node(&format!("n{n}"))));
        for at in nodes {
            (it.nodes[*at].mode, it.nodes[*at].store_replicas) = (Mode::Draining, 8);
        }
    };
    let stuck = |found: Vec<Problem>| found.into_iter().find(|it| it.problem == "drain_stuck");
    assert_eq!(stuck(after(|it| drains(it, &[0, 1]))), None, "three others have all replicas");
    let store = stuck(after(|it| drains(it, &[0, 1, 2]))).expect("two are left");
    let text = "n1, n2, n3 cannot all drain: store points needs 3 nodes for its replicas; others that may have them: 2";
    assert_eq!((store.text.as_str(), store.level), (text, Level::Error));
    assert_eq!(commands(&store.cure), ["consul-ha drain n1 --off"]);
    let weightless = after(|it| {
        drains(it, &[0]);
        (it.nodes[1].weight, it.nodes[2].state) = (0.0, NodeState::Down);
    });
    let weightless = stuck(weightless).expect("n4 and n5 are left");
    assert!(weightless.text.starts_with("n1 cannot drain: "), "{weightless:?}");
    let map = stuck(after(|it| {
        it.nodes[0].mode = Mode::Draining;
        it.nodes[1].mode = Mode::Maintenance;
    }));
    let text = "n1 cannot drain: no live and active node is left to take shards";
    assert_eq!(map.expect("it keeps its shards").text, text);
}

#[test]
fn a_drained_node_may_not_be_stopped_while_the_stores_are_unknown() {
    let mut overview = well();
    overview.unread_stores = vec![unread(None)];
    let node = &mut overview.nodes[1];
    (node.mode, node.primaries, node.replicas) = (Mode::Draining, 0, 0);
    let found = problems(&overview);
    assert!(found[1].cure.starts_with("do not stop it"), "{found:?}");
}

#[test]
fn a_node_that_is_down_comes_with_the_shards_that_only_it_had() {
    let mut overview = well();
    overview.nodes[1].state = NodeState::Down;
    overview.nodes[1].down_for_ms = Some(42_900);
    overview.nodes[0].mode = Mode::Maintenance;
    let found = problems(&overview);
    let names: Vec<&str> = found.iter().map(|it| it.problem).collect();
    assert_eq!(names, ["node_down", "shards_without_node", "node_maintenance"]);
    assert_eq!(found[0].text, "n2 has been down for 42 s");
    assert_eq!(found[0].cure, "start it, or `consul-ha forget n2`");
    assert_eq!(found[1].text, "no live node has shard 1");
}

/// The problems of a cluster that is well but for this change.
fn after(change: impl FnOnce(&mut Overview)) -> Vec<Problem> {
    let mut overview = well();
    change(&mut overview);
    problems(&overview)
}

#[test]
fn the_cure_for_a_missing_leader_depends_on_who_may_lead() {
    let cure = |change: fn(&mut NodeOverview)| {
        let found = after(|it| {
            (it.leader, it.map) = (None, None);
            it.nodes.iter_mut().for_each(change);
        });
        let first = found.into_iter().next().expect("a problem");
        assert_eq!(first.problem, "no_leader", "and not the map, which only a leader makes");
        first.cure
    };
    assert!(cure(|_| {}).contains("wait for an election"));
    for nobody in [
        |node: &mut NodeOverview| node.state = NodeState::Down,
        |node: &mut NodeOverview| node.mode = Mode::Draining,
    ] {
        assert!(cure(nobody).contains("start a node, or make one active"));
    }
    let alone = after(|it| (it.leader, it.map) = (None, None));
    assert_eq!(alone.len(), 1, "{alone:?}");
}

#[test]
fn the_time_of_a_call_is_no_problem() {
    assert_eq!(after(|it| it.nodes[1].clock_ahead_ms = Some(-2000)), []);
    for (ahead, text) in [
        (2001, "the clock of n2 is 2.0 s ahead of this machine's"),
        (-3_600_000, "the clock of n2 is 3600.0 s behind this machine's"),
    ] {
        let found = after(|it| it.nodes[1].clock_ahead_ms = Some(ahead));
        let [clock] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!(
            (clock.problem, clock.level, clock.text.as_str()),
            ("clock", Level::Warning, text)
        );
    }
}

#[test]
fn the_cure_of_a_store_names_the_nodes_of_its_own_shards() {
    let found = after(|it| {
        let fewer = ShardAtRisk { missing: vec!["n3".to_owned()], ..at_risk(4, 2) };
        it.stores[0].at_risk = vec![at_risk(3, 1), fewer];
        it.stores[0].unrecovered = (0..6).collect();
    });
    let named: Vec<(&str, &str)> = found.iter().map(|it| (it.problem, it.cure.as_str())).collect();
    let [(lost, lose), (forgotten, ask), (fewer, wait)] = named[..] else { panic!("{named:?}") };
    assert_eq!(
        [lost, forgotten, fewer],
        ["shard_at_risk", "store_unrecovered", "replicas_missing"]
    );
    assert!(lose.contains("n2") && !lose.contains("n3"), "{named:?}");
    assert!(wait.contains("n3") && !wait.contains("n2"), "{named:?}");
    assert!(ask.contains("enough holders of each shard"), "{named:?}");
    assert!(found[1].text.contains("who has 6 of its shards"), "{found:?}");
}

/// The commands of a cure.
fn commands(cure: &str) -> Vec<&str> {
    cure.split('`').skip(1).step_by(2).collect()
}

#[test]
fn a_cure_has_the_commands_that_end_its_problem() {
    type Case = (fn(&mut Overview), &'static [&'static str]);
    let cases: [Case; 9] = [
        (|it| it.in_touch = false, &["consul operator raft list-peers"]),
        (|it| it.leader = None, &["consul-ha doctor"]),
        (|it| it.frozen = vec!["n2".to_owned()], &["consul-ha thaw"]),
        (|it| it.nodes[1].state = NodeState::Down, &["consul-ha forget n2"]),
        (|it| it.nodes[1].mode = Mode::Maintenance, &["consul-ha maintenance n2 --off"]),
        (|it| it.nodes[1].mode = Mode::Draining, &["consul-ha drain n2 --off"]),
        (|it| it.stores[0].at_risk = vec![at_risk(3, 1)], &["consul-ha accept-loss points 3"]),
        (|it| it.stores[0].unrecovered = [3, 4].into(), &["consul-ha accept-loss points 3"]),
        (|it| it.stores[0].at_risk = vec![at_risk(3, 2)], &[]),
    ];
    for (change, expected) in cases {
        let found = after(change);
        assert_eq!(commands(&found[0].cure), expected, "{found:?}");
    }
}

#[test]
fn a_shard_with_one_live_node_is_not_without_a_node() {
    let found = after(|it| {
        let placement = vec![vec![Placed::Whole(1, 'a'), Placed::Whole(0, 'a')]];
        let nodes = vec!["n1".to_owned(), "n2".to_owned()];
        it.map = Some(Arc::new(MapOverview { epoch: 9, shards: 1, replicas: 2, nodes, placement }));
        it.nodes[1].state = NodeState::Down;
    });
    let names: Vec<&str> = found.iter().map(|it| it.problem).collect();
    assert_eq!(names, ["node_down"]);
}

#[test]
fn a_process_that_is_cut_off_does_not_say_what_it_cannot_know() {
    let found = after(|it| (it.in_touch, it.leader, it.map) = (false, None, None));
    let names: Vec<&str> = found.iter().map(|it| it.problem).collect();
    assert_eq!(names, ["not_in_touch"]);
    let knows_the_leader = after(|it| (it.in_touch, it.map) = (false, None));
    assert_eq!(knows_the_leader.len(), 1, "{knows_the_leader:?}");
}

#[test]
fn what_a_node_cannot_do_for_a_store_is_told_with_its_reason() {
    let mut overview = well();
    let fault = |functions: &[&str], why: &str| StoreFault {
        store: "points".to_owned(),
        functions: functions.iter().map(|it| (*it).to_owned()).collect(),
        why: why.to_owned(),
        is_of_map: false,
    };
    overview.nodes[0].faults =
        vec![fault(&["apply", "keep"], "disk is full"), fault(&[], "other options")];
    let id = overview.nodes[0].id.clone();
    let found = problems(&overview);
    let told: Vec<_> = found.iter().map(|it| (it.problem, it.level, it.of.clone())).collect();
    let wanted = ["storage_fails", "store_unusable"].map(|it| (it, Level::Error, id.clone()));
    assert_eq!(told, wanted);
    assert!(
        found[0].text.ends_with("store points: its storage fails in apply, keep: disk is full"),
        "{}",
        found[0].text
    );
    assert!(found[1].text.ends_with("cannot use store points: other options"), "{}", found[1].text);
}

/// The problems of a cluster of five nodes with data planes, as an observer or n5 sees it.
fn of_five(told_by: Option<&str>, change: impl Fn(&str, &mut NodeOverview)) -> Vec<Problem> {
    after(|it| {
        (3..=5).for_each(|n| it.nodes.push(node(&format!("n{n}"))));
        it.told_by = told_by.map(str::to_owned);
        it.nodes.iter_mut().for_each(|node| change(&node.id.clone(), node));
    })
}

#[test]
fn a_process_that_most_nodes_turn_away_says_it_of_itself() {
    let refuses = |node: &mut NodeOverview| {
        (node.silent, node.refuses_key) = (Some("not signed".to_owned()), true);
    };
    let silent = |node: &mut NodeOverview| node.silent = Some("no route".to_owned());
    let named = |found: Vec<Problem>| -> Vec<(&str, String)> {
        found.into_iter().map(|it| (it.problem, it.of)).collect()
    };
    let own = |name, of: &str| vec![(name, of.to_owned())];
    for (told_by, of) in [(None, ""), (Some("n5"), "n5")] {
        let is_other = |id: &str| told_by != Some(id);
        let all = of_five(told_by, |id, node| {
            if is_other(id) {
                refuses(node)
            }
        });
        assert_eq!(named(all), own("own_key_refused", of));
        let most = of_five(told_by, |id, node| {
            if is_other(id) && id != "n1" {
                refuses(node)
            }
        });
        assert_eq!(named(most), own("own_key_refused", of));
        let all = of_five(told_by, |id, node| {
            if is_other(id) {
                silent(node)
            }
        });
        assert_eq!(named(all), own("nodes_silent", of));
        let one = of_five(told_by, |id, node| {
            if id == "n2" {
                refuses(node)
            }
        });
        assert!(!one[0].text.contains("the leader does not count"), "{one:?}");
        assert_eq!(named(one), own("key_refused", "n2"), "it is that node's");
        let one = of_five(told_by, |id, node| {
            if id == "n2" {
                silent(node)
            }
        });
        assert_eq!(named(one), own("node_silent", "n2"));
    }
    let with_a_real_one = of_five(None, |id, node| {
        refuses(node);
        node.is_refused_by_leader = id == "n2";
    });
    assert_eq!(
        named(with_a_real_one),
        [("own_key_refused", String::new()), ("key_refused", "n2".to_owned())],
        "what the leader has found is true whatever this process has for a key"
    );
}

/// Without answers, or with no live node, it is not known that anything is lost.
#[test]
fn nothing_is_given_up_that_is_not_known_to_be_lost() {
    let gives_up = |found: &[Problem]| {
        let text: String = found.iter().map(|it| it.cure.as_str()).collect();
        ["accept-loss", "forget n"].into_iter().filter(|it| text.contains(it)).count()
    };
    let broken = |it: &mut Overview| {
        it.nodes[1].state = NodeState::Down;
        it.stores[0].at_risk = vec![at_risk(3, 1)];
        it.stores[0].unrecovered = [3, 4].into();
    };
    assert_eq!(gives_up(&after(broken)), 2);
    for unknown in [
        |it: &mut Overview| it.in_touch = false,
        |it: &mut Overview| it.nodes.iter_mut().for_each(|node| node.state = NodeState::Down),
        |it: &mut Overview| it.nodes.clear(),
    ] {
        let found = after(|it| {
            broken(it);
            unknown(it);
        });
        assert_eq!(gives_up(&found), 0, "{found:?}");
    }
}

#[test]
fn a_process_that_has_never_known_the_nodes_says_that_the_stores_are_unknown() {
    let found = after(|it| {
        (it.in_touch, it.leader, it.map) = (false, None, None);
        it.nodes.clear();
        it.stores[0].at_risk = (0..8).map(|shard| at_risk(shard, 0)).collect();
    });
    let names: Vec<&str> = found.iter().map(|it| it.problem).collect();
    assert_eq!(names, ["not_in_touch", "stores_unknown"], "{found:?}");
}

/// A page gets the document again when it differs.
#[test]
fn times_and_reasons_are_no_change_of_a_document_and_what_begins_or_ends_is_one() {
    type Change = fn(&mut Overview);
    let begin: [Change; 5] = [
        |it| it.age_ms = Some(1),
        |it| it.leader.as_mut().expect("one").lease_ms = Some(1),
        |it| it.nodes[1].down_for_ms = Some(1),
        |it| it.nodes[1].silent = Some("no route".to_owned()),
        |it| it.problems = after(|it| it.frozen = vec!["n2".to_owned()]),
    ];
    let go_on: [Change; 7] = [
        |it| it.at_ms += 1,
        |it| it.age_ms = it.age_ms.map(|it| it + 1),
        |it| it.leader.iter_mut().for_each(|it| it.lease_ms = it.lease_ms.map(|it| it + 1)),
        |it| it.nodes[1].down_for_ms = it.nodes[1].down_for_ms.map(|it| it + 1),
        |it| it.nodes[1].silent.iter_mut().for_each(|it| it.push('.')),
        |it| it.nodes[1].clock_ahead_ms = Some(it.nodes[1].clock_ahead_ms.map_or(0, |it| it + 1)),
        |it| it.problems.iter_mut().for_each(|it| it.text.push('.')),
    ];
    let mut document = well();
    for change in begin {
        let before = document.steady();
        change(&mut document);
        assert_ne!(document.steady(), before);
        for change in go_on {
            let before = document.steady();
            change(&mut document);
            assert_eq!(document.steady(), before);
        }
    }
}

/// The agent reports its check with that right.
#[test]
fn a_death_that_consul_does_not_notice_is_told_with_the_right() {
    for right in ["key:write", "service:write", "service:read", "session:write", "node:read"] {
        let found = after(|it| it.nodes[1].no_rights = Some(format!("{right} on \"a\"")));
        let is_told = found[0].text.contains("Consul does not notice its death");
        assert_eq!(is_told, right == "service:write", "{found:?}");
    }
}

/// The problems of a cluster with one thing more that is as usual, or less.
#[test]
fn each_condition_of_a_problem_counts() {
    type Change = fn(&mut Overview);
    let names = |changes: &[Change]| -> Vec<&'static str> {
        let found = after(|it| changes.iter().for_each(|change| change(it)));
        found.into_iter().map(|it| it.problem).collect()
    };
    let ghost: Change = |it| it.leader.as_mut().expect("one").node_id = "ghost".to_owned();
    let no_rights: Change = |it| it.no_rights = Some("key:read on \"a\"".to_owned());
    let own: Change = |it| it.told_by = Some("n1".to_owned());
    let n3: Change = |it| it.nodes.push(NodeOverview { version: String::new(), ..node("n3") });
    let old: Change = |it| it.nodes[1].version = "0.9.0".to_owned();
    let down: Change = |it| {
        (it.nodes[1].state, it.map) =
            (NodeState::Down, Some(Arc::new(MapOverview { placement: Vec::new(), ..map() })));
    };
    let weightless: Change = |it| it.nodes[1].weight = 0.0;
    let silent: Change = |it| it.nodes[1].silent = Some("no".to_owned());
    let two_replicas: Change = |it| it.map = Some(Arc::new(MapOverview { replicas: 2, ..map() }));
    let drains: Change = |it| {
        (it.nodes[1].mode, it.nodes[1].primaries, it.nodes[1].replicas) = (Mode::Draining, 0, 0)
    };
    let remade: Change = |it| {
        it.stores[0].remaking =
            [("n2".to_owned(), Remaking { left: 1, ..Remaking::default() })].into();
        it.stores[0].at_risk = vec![ShardAtRisk { takes_writes: false, ..at_risk(3, 2) }];
    };
    let refuses: Change =
        |it| (it.nodes[1].silent, it.nodes[1].refuses_key) = (Some("no".to_owned()), true);
    let cases: [(&[Change], &[&str]); 14] = [
        (&[ghost, |it| it.hidden = vec!["keys of nodes"]], &["hidden_by_acl"]),
        (&[ghost, |it| it.may_hide = Some("node:read".to_owned())], &["hidden_by_acl"]),
        (&[no_rights, |it| it.hidden = vec!["keys of nodes"]], &["hidden_by_acl"]),
        (&[no_rights, own], &[]),
        (&[n3], &[]),
        (&[old, down], &["node_down"]),
        (&[two_replicas, weightless], &["few_weights"]),
        (&[two_replicas, weightless, drains], &["node_draining"]),
        (&[silent], &["node_silent"]),
        (&[silent, |it| it.nodes[0].data_address.clear()], &["node_silent"]),
        (&[silent, n3, |it| it.nodes[2].data_address.clear()], &["node_silent"]),
        (&[refuses], &["key_refused"]),
        (&[refuses, |it| it.nodes[0].data_address.clear()], &["own_key_refused"]),
        (&[remade], &["replicas_missing", "replicas_made_again"]),
    ];
    for (at, (changes, expected)) in cases.iter().enumerate() {
        assert_eq!(names(changes), *expected, "case {at}");
    }
    let empty = |told_by: Option<&str>| {
        let found = after(|it| {
            (it.leader, it.map) = (None, None);
            it.nodes.clear();
            it.stores.clear();
            it.told_by = told_by.map(str::to_owned);
        });
        found[0].cure.contains("--prefix")
    };
    assert!(empty(None) && !empty(Some("n1")), "a node knows its keys");
    let lost = |change: Change| {
        let found = after(|it| {
            it.nodes.push(node("n3"));
            it.nodes.push(node("n4"));
            it.nodes[1].state = NodeState::Down;
            it.stores[0].at_risk = vec![at_risk(3, 1), at_risk(4, 2)];
            change(it);
        });
        let cure = |name| found.iter().find(|it| it.problem == name).expect("one").cure.clone();
        (cure("shard_at_risk").contains("--force"), cure("replicas_missing").contains("others get"))
    };
    assert_eq!(lost(|_| {}), (false, true));
    assert_eq!(lost(|it| it.nodes[1].state = NodeState::Live), (true, true));
    assert_eq!(lost(|it| it.nodes[2].mode = Mode::Draining), (false, false));
    assert_eq!(lost(|it| it.nodes[2].weight = 0.0), (false, false));
}

/// Half of the others are not most of them, and the own clock is none of theirs.
#[test]
fn the_own_clock_is_wrong_only_by_the_word_of_most_others() {
    let own = |told_by: Option<&str>, skews: [Option<i64>; 4]| {
        let found = of_five(told_by, |id, node| {
            let at = ["n1", "n2", "n3", "n4"].iter().position(|it| *it == id);
            node.clock_ahead_ms = at.and_then(|at| skews[at]);
        });
        found.iter().any(|it| it.problem == "own_clock")
    };
    let (ahead, right) = (Some(60_000), Some(0));
    assert!(own(None, [ahead, ahead, ahead, right]));
    assert!(!own(None, [ahead, ahead, right, right]));
    assert!(own(Some("n1"), [right, ahead, ahead, right]), "n1 is this process");
}

#[test]
fn a_node_that_has_just_written_its_key_is_not_down_yet() {
    for is_new in [false, true] {
        let found = after(|it| {
            it.nodes.push(NodeOverview { state: NodeState::Down, is_new, ..node("n3") });
        });
        assert_eq!(found.len(), usize::from(!is_new), "{found:?}");
    }
}

#[test]
fn more_nodes_than_a_text_names_are_down_in_one_problem() {
    let said = |down: u32| -> Vec<String> {
        let found = after(|it| {
            for n in 3..3 + down {
                let state = NodeState::Down;
                it.nodes.push(NodeOverview { state, ..node(&format!("n{n}")) });
            }
            it.nodes.push(NodeOverview {
                state: NodeState::Down,
                lost_consul: true,
                ..node("n99")
            });
        });
        let said = found.iter().map(|it| it.text.clone());
        said.filter(|it| it.contains("down") && !it.contains("n99")).collect()
    };
    let with_one_that_ended = after(|it| {
        for n in 3..10 {
            let ended = (n == 9).then(|| "taken".to_owned());
            it.nodes.push(NodeOverview { state: NodeState::Down, ended, ..node(&format!("n{n}")) });
        }
    });
    assert!(with_one_that_ended.iter().any(|it| it.text.starts_with("n9 has ended")));
    assert_eq!(said(5).len(), 5);
    assert_eq!(said(6), ["n3, n4, n5, n6, n7 and 1 more are down"]);
    assert_eq!(said(15), ["n3, n4, n5, n6, n7 and 10 more are down"]);
}

#[test]
fn new_replicas_are_promised_only_where_a_node_can_have_them() {
    let cure = |nodes: u32| {
        let found = after(|it| {
            (3..=nodes).for_each(|n| it.nodes.push(node(&format!("n{n}"))));
            it.nodes[1].state = NodeState::Down;
            it.stores[0].at_risk = vec![at_risk(3, 2)];
        });
        let of_store = found.into_iter().find(|it| it.of == "points").expect("one");
        of_store.cure
    };
    assert_eq!(cure(3), "start n2; no other node can take their place: 3 are needed, 2 are there");
    assert_eq!(cure(4), "start n2; after replace_after_s others get new replicas");
}

/// The storage of a node that lives fails: nothing is lost, nobody takes its place, and where moves are paused nobody does.
#[test]
fn a_cure_promises_nothing_that_does_not_come() {
    let cure = |nodes: u32, left: usize, change: fn(&mut Overview)| {
        let found = after(|it| {
            (3..=nodes).for_each(|n| it.nodes.push(node(&format!("n{n}"))));
            it.stores[0].at_risk = vec![at_risk(3, left)];
            change(it);
        });
        let is_of_shards =
            |it: &Problem| ["shard_at_risk", "replicas_missing"].contains(&it.problem);
        found.into_iter().find(is_of_shards).expect("one").cure
    };
    let fails: fn(&mut Overview) = |it| {
        let functions = vec!["apply".to_owned()];
        it.nodes[1].faults =
            vec![StoreFault { store: "points".to_owned(), functions, ..StoreFault::default() }]
    };
    let mend = "mend the storage of n2 or make room there: nothing of it is lost";
    assert_eq!(cure(3, 1, fails), mend, "no loss is accepted");
    assert_eq!(
        cure(3, 2, fails),
        format!("{mend}; no other node can take their place: 3 are needed, 2 are there")
    );
    assert_eq!(
        cure(4, 2, fails),
        format!("{mend}; or stop it: after replace_after_s others get new replicas")
    );
    let paused = cure(4, 2, |it| {
        it.nodes[1].state = NodeState::Down;
        it.paused = Some(Pause { by: "ada".to_owned(), since_ms: 1, why: String::new() });
    });
    assert_eq!(
        paused,
        "start n2; `consul-ha resume` lets others get new replicas, if there are enough"
    );
}

#[test]
fn a_certificate_is_told_of_before_it_ends() {
    let (day, now) = (86_400_000, 1_795_339_800_000);
    let told = |left: i64| {
        let found = after(|it| {
            it.at_ms = now;
            it.nodes[1].certificate_expires_ms = now.checked_add_signed(left);
        });
        found.into_iter().map(|it| (it.problem, it.level, it.text)).collect::<Vec<_>>()
    };
    assert_eq!(told(14 * day), []);
    for (left, level, text) in [
        (14 * day - 1, Level::Warning, "the certificate of n2 expires in 13 d"),
        (day, Level::Warning, "the certificate of n2 expires in 1 d"),
        (day - 1, Level::Error, "the certificate of n2 expires in 23 h"),
        (0, Level::Error, "the certificate of n2 has expired: other nodes refuse it"),
        (-day, Level::Error, "the certificate of n2 has expired: other nodes refuse it"),
    ] {
        assert_eq!(told(left), [("certificate_expires", level, text.to_owned())]);
        let own = after(|it| {
            it.at_ms = now;
            it.own_certificate_ms = now.checked_add_signed(left);
        });
        let [own] = own.as_slice() else { panic!("{own:?}") };
        let text = text.replace("n2", "this process").replace("other nodes", "nodes");
        assert_eq!((own.level, &own.text, own.of.as_str()), (level, &text, ""));
    }
}

#[test]
fn each_file_for_consul_is_told_of_before_it_expires() {
    let (day, now) = (86_400_000, 1_795_339_800_000);
    for (option, what, then) in [
        ("tls_cert_file", "the certificate in tls_cert_file of", "Consul refuses it"),
        ("tls_ca_file", "the last authority in tls_ca_file of", "it trusts no Consul"),
        ("tls_ca_path", "the last authority in tls_ca_path of", "it trusts no Consul"),
    ] {
        for (left, expected) in [
            (14 * day, None),
            (14 * day - 1, Some((Level::Warning, "expires in 13 d".to_owned()))),
            (day - 1, Some((Level::Error, "expires in 23 h".to_owned()))),
            (0, Some((Level::Error, format!("has expired: {then}")))),
            (-day, Some((Level::Error, format!("has expired: {then}")))),
        ] {
            let at_ms = u64::saturating_add_signed(now, left);
            let end = ConsulExpiry { option: option.to_owned(), at_ms };
            for (of, whose) in [("n2", "n2"), ("", "this process")] {
                let found = after(|it| {
                    it.at_ms = now;
                    match of {
                        "" => it.own_consul_expiry = Some(end.clone()),
                        _ => it.nodes[1].consul_expiry = Some(end.clone()),
                    }
                });
                let found = found.into_iter().map(|it| (it.problem, it.level, it.of, it.text));
                let problem = expected.clone().map(|(level, when)| {
                    let text = format!("{what} {whose} {when}");
                    ("consul_certificate_expires", level, of.to_owned(), text)
                });
                assert_eq!(found.collect::<Vec<_>>(), Vec::from_iter(problem), "{option} {left}");
            }
        }
    }
}

#[test]
fn the_clock_that_is_wrong_is_the_one_that_differs_from_most() {
    let clocks = |told_by, skews: [i64; 4]| {
        let found = of_five(told_by, |id, node| {
            let at = ["n1", "n2", "n3", "n4"].iter().position(|it| *it == id);
            node.clock_ahead_ms = at.map(|at| skews[at]);
        });
        found.into_iter().map(|it| (it.problem, it.level, it.of, it.text)).collect::<Vec<_>>()
    };
    let own =
        |level, of: &str, text: &str| vec![("own_clock", level, of.to_owned(), text.to_owned())];
    assert_eq!(
        clocks(None, [3000, 3100, 3200, 2900]),
        own(Level::Note, "", "this machine's clock is 3.0 s behind those of the nodes")
    );
    let mut two =
        own(Level::Warning, "n5", "the clock of n5 is 60.0 s ahead of those of the nodes");
    let other = "the clock of n3 is 60.0 s ahead of most nodes' clocks".to_owned();
    two.push(("clock", Level::Warning, "n3".to_owned(), other));
    assert_eq!(clocks(Some("n5"), [-60_000, -60_100, 0, -60_200]), two);
    // Both an operator's clock and that of a node differ from the others.
    let of_operator = clocks(None, [3_600_000, 0, 3_600_000, 3_600_000]);
    let told = of_operator.iter().map(|it| (it.0, it.1, it.2.as_str()));
    let both = [("clock", Level::Warning, "n2"), ("own_clock", Level::Note, "")];
    assert_eq!(told.collect::<Vec<_>>(), both);
    let one = clocks(None, [0, 60_000, 0, 0]);
    assert_eq!(one.iter().map(|it| (it.0, it.2.as_str())).collect::<Vec<_>>(), [("clock", "n2")]);
    let apart = clocks(None, [60_000, -60_000, 9000, 0]);
    assert!(apart.len() == 3 && apart.iter().all(|it| it.0 == "clock"), "{apart:?}");
}

/// The time by the clock of this process is wrong, and so is not what its ages are told by.
#[test]
fn ages_are_told_by_the_time_of_the_nodes_where_the_own_clock_is_wrong() {
    let (minute, day) = (60_000, DAY_MS as i64);
    let now: u64 = 1_795_339_800_000;
    for ahead in [minute, 60 * minute, 20 * day, 366 * day].into_iter().flat_map(|it| [it, -it]) {
        for told_by in [None, Some("n1")] {
            let said = |left: i64| {
                let mut overview = well();
                overview.told_by = told_by.map(str::to_owned);
                overview.nodes.extend(["n3", "n4", "n5"].map(node));
                overview.at_ms = now.saturating_add_signed(ahead);
                let end = now.saturating_add_signed(left);
                overview.own_certificate_ms = told_by.is_none().then_some(end);
                let since_ms = now - 42 * 60_000;
                let (by, why) = ("an operator".to_owned(), String::new());
                overview.paused = Some(Pause { by, since_ms, why });
                for node in &mut overview.nodes {
                    node.certificate_expires_ms = Some(end);
                    let is_own = told_by == Some(&*node.id);
                    node.clock_ahead_ms = (!is_own).then_some(-ahead);
                }
                problems(&overview).into_iter().map(|it| it.text).collect::<Vec<_>>().join("\n")
            };
            let (long, short) = (said(15 * day), said(3 * day));
            assert!(!long.contains("certificate"), "{ahead} {told_by:?}: {long}");
            let ends = short.matches("expires in 3 d").count();
            assert_eq!(ends, if told_by.is_none() { 6 } else { 5 }, "{ahead}: {short}");
            assert!(long.contains("are paused for 42 min, by"), "{ahead}: {long}");
        }
    }
}

/// Each problem that every store of a process has, as when a node is down, its disk is full, or Consul went back.
#[test]
fn what_more_stores_have_than_a_text_names_is_said_once() {
    let remaking = || Remaking { left: 1, ..Remaking::default() };
    let fault = |store: &str| {
        let (functions, why) = (vec!["keep".to_owned()], "full".to_owned());
        StoreFault { store: store.to_owned(), functions, why, is_of_map: false }
    };
    type Case<'a> = (&'a dyn Fn(&mut Overview, &mut StoreOverview), &'static str, &'static str);
    let cases: [Case<'_>; 9] = [
        (&|_, store| store.at_risk = vec![at_risk(3, 0)], "shard_at_risk", ""),
        (&|_, store| store.at_risk = vec![at_risk(3, 2)], "replicas_missing", ""),
        (&|_, store| store.vacant = 1, "replicas_vacant", ""),
        (&|_, store| store.unrecovered = [3].into(), "store_unrecovered", ""),
        (
            &|_, store| {
                let waits_for = "a copy".to_owned();
                store.changing = Some(NumbersChanging { shards: 1, waits_for });
            },
            "store_changing",
            "",
        ),
        (
            &|_, store| _ = store.remaking.insert("n2".to_owned(), remaking()),
            "replicas_made_again",
            "n2",
        ),
        (
            &|it, store| _ = it.waiting.insert(store.name.clone(), "n2".to_owned()),
            "store_waits",
            "",
        ),
        (&|it, store| it.nodes[1].faults.push(fault(&store.name)), "storage_fails", "n2"),
        (
            &|it, _| (it.nodes[1].mode, it.nodes[1].store_replicas) = (Mode::Draining, 8),
            "drain_stuck",
            "",
        ),
    ];
    for (change, name, of_all) in cases {
        for (stores, problems) in [(1, 1), (NAMED, NAMED), (NAMED + 1, 1), (1000, 1)] {
            let found = after(|it| {
                for at in 0..stores {
                    let mut store = it.stores[0].clone();
                    store.name = format!("s{at}");
                    change(it, &mut store);
                    it.stores.push(store);
                }
                it.stores.remove(0);
            });
            let found: Vec<_> = found.iter().filter(|it| it.problem == name).collect();
            assert_eq!(found.len(), problems, "{name} of {stores}");
            let Problem { of, text, .. } = found[0];
            assert!(stores <= NAMED || of == of_all, "{name} of {stores}: {of}");
            let rest = format!(" and {} more", stores.saturating_sub(1 + NAMED));
            assert_eq!(text.ends_with(&rest), stores > 1 + NAMED, "{text}");
            assert!(text.contains("store s0") && text.len() < 400, "{text}");
        }
    }
}

/// With exactly as many nodes as a shard has replicas none is missing.
#[test]
fn nodes_of_weight_0_are_a_problem_where_the_others_are_too_few() {
    for with in 0..=3 {
        let found = after(|it| {
            it.map = Some(Arc::new(MapOverview { replicas: 2, ..map() }));
            it.nodes = ["n1", "n2", "n3", "n4"].map(node).into();
            it.nodes[with..].iter_mut().for_each(|node| node.weight = 0.0);
        });
        let is_said = found.iter().any(|it| it.problem == "few_weights");
        assert_eq!(is_said, with < 2, "{with}: {found:?}");
    }
}

/// The network between them is not what is wrong.
#[test]
fn nodes_are_not_apart_where_one_cannot_answer_anybody() {
    type Case = (fn(&mut NodeOverview), bool);
    let cases: [Case; 6] = [
        (|_| {}, true),
        (|it| it.silent = Some("no reply".to_owned()), false),
        (|it| it.is_unreached_by_leader = true, false),
        (|it| it.refuses_key = true, false),
        (|it| it.state = NodeState::Down, false),
        (|it| it.lacking = Some("no descriptors".to_owned()), false),
    ];
    for (change, is_said) in cases {
        let found = after(|it| {
            it.nodes[0].avoids = vec!["n2".to_owned()];
            change(&mut it.nodes[1]);
        });
        assert_eq!(found.iter().any(|it| it.problem == "nodes_apart"), is_said, "{found:?}");
    }
}

#[test]
fn an_endpoint_that_fails_for_all_is_said_once() {
    let found = after(|it| {
        let of = |told_by: &str| EndpointOverview {
            told_by: told_by.to_owned(),
            state: EndpointState::Benched,
            ..it.endpoints[0].clone()
        };
        it.endpoints = ["n1", "n2", "n3"].map(of).into();
    });
    let [problem] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!(problem.text, "http://127.0.0.1:8500 does not answer n1, n2, n3");
}

/// The map gives it shards as any live node.
#[test]
fn the_shards_of_a_node_with_another_key_are_told() {
    for (is_refused, primaries, is_told) in
        [(true, 0, false), (true, 3, true), (false, 3, false), (false, 0, false)]
    {
        let found = after(|it| {
            (it.nodes[1].refuses_key, it.nodes[1].primaries) = (true, primaries);
            it.nodes[1].is_refused_by_leader = is_refused;
        });
        let [problem] = &found[..] else { panic!("{found:?}") };
        let words = "calls about shards whose primary it is fail: 3";
        assert_eq!(problem.text.contains(words), is_told, "{problem:?}");
    }
}

/// A node that refuses the only other one may be wrong itself.
#[test]
fn a_member_with_one_other_does_not_blame_itself() {
    let found = after(|it| {
        it.told_by = Some("n1".to_owned());
        (it.nodes[1].silent, it.nodes[1].refuses_key) = (Some("no".to_owned()), true);
    });
    let named: Vec<_> = found.iter().map(|it| (it.problem, it.of.as_str())).collect();
    assert_eq!(named, [("key_refused", "n2")]);
}

/// Each state of a node in which its replicas are missing, with what brings them back; of several the first one.
#[test]
fn a_cure_names_what_is_wrong_with_each_node() {
    type Case = (fn(&mut NodeOverview), &'static str);
    let store = || ["points".to_owned()].into();
    let states: [Case; 9] = [
        (
            |it| (it.lost_consul, it.doubt) = (true, Some("no".to_owned())),
            "see which process answers at the data address of n1",
        ),
        (
            |it| (it.lost_consul, it.starts_again) = (true, true),
            "wait until n1 has joined again, or see its log",
        ),
        (|it| it.lost_consul = true, "give n1 a way to Consul again"),
        (|it| it.state = NodeState::Down, "start n1"),
        (|it| it.refuses_key = true, "start n1 with the cluster_key of the others"),
        (
            |it| it.other_disks = ["points".to_owned()].into(),
            "put back the disk of n1 that the map names, or a backup of it",
        ),
        (
            |it| {
                let functions = vec!["apply".to_owned()];
                let store = "points".to_owned();
                it.faults = vec![StoreFault { store, functions, ..StoreFault::default() }];
            },
            "mend the storage of n1 or make room there: nothing of it is lost",
        ),
        (
            |it| it.unused = ["points".to_owned()].into(),
            "let the program of n1 use the store again: it lives without it",
        ),
        (|_| {}, "wait for the records of n1 or see the log there"),
    ];
    let shard = ShardAtRisk { missing: vec!["n1".to_owned()], ..at_risk(3, 1) };
    let cure = |node: NodeOverview| bring_back("points", &[&shard], &[node], false);
    for (at, (change, expected)) in states.iter().enumerate() {
        let mut one = node("n1");
        change(&mut one);
        assert_eq!(cure(one.clone()), *expected);
        states[at..].iter().for_each(|(change, _)| change(&mut one));
        assert_eq!(cure(one), *expected);
    }
    let mut of_another_store = node("n1");
    of_another_store.unused = store();
    let other = bring_back("other", &[&shard], &[of_another_store], false);
    assert_eq!(other, "wait for the records of n1 or see the log there");
}

#[test]
fn a_store_whose_numbers_change_lacks_no_nodes_yet() {
    let found = after(|it| {
        let waits_for = "n4 copies shard 2".to_owned();
        it.stores[0].changing = Some(NumbersChanging { shards: 5, waits_for });
        it.stores[0].vacant = 8;
    });
    assert_eq!(found.iter().map(|it| it.problem).collect::<Vec<_>>(), ["store_changing"]);
}

#[test]
fn a_drain_to_nodes_without_weight_is_stuck() {
    let found = after(|it| {
        (it.nodes[0].mode, it.nodes[1].weight) = (Mode::Draining, 0.0);
        it.stores.clear();
    });
    let stuck = found.iter().find(|it| it.problem == "drain_stuck").expect("nobody takes shards");
    assert_eq!(stuck.text, "n1 cannot drain: no live and active node is left to take shards");
}

/// Why this process does not know the map of a store, or the maps of all.
fn unread(of: Option<&str>) -> UnreadStores {
    UnreadStores { of: of.map(str::to_owned), why: "no answer".to_owned() }
}

/// The cause is told once, where this process sees it as the nodes do; the words of each may differ.
#[test]
fn a_map_that_nobody_can_read_is_told_once() {
    let both = ["n1", "n2"];
    for (unread_of, is_of_map, functions, told) in [
        (Some(Some("points")), true, vec![], None),
        (Some(Some("other")), true, vec![], Some("store_unusable")),
        (Some(None), true, vec![], Some("store_unusable")),
        (Some(Some("points")), false, vec![], Some("store_unusable")),
        (Some(Some("points")), false, vec!["keep".to_owned()], Some("storage_fails")),
        (None, true, vec![], Some("store_unusable")),
    ] {
        let found = after(|it| {
            let (store, why) = ("points".to_owned(), "its format is 2".to_owned());
            let fault = StoreFault { store, functions: functions.clone(), why, is_of_map };
            it.nodes.iter_mut().for_each(|node| node.faults = vec![fault.clone()]);
            it.unread_stores = unread_of.map(unread).into_iter().collect();
        });
        let found: BTreeSet<_> = found.iter().map(|it| (it.problem, it.of.as_str())).collect();
        let of_nodes = told.map(|name| both.map(|id| (name, id)));
        let of_maps = unread_of.map(|_| ("stores_unknown", ""));
        let expected = of_nodes.into_iter().flatten().chain(of_maps).collect();
        assert_eq!(found, expected, "{unread_of:?} {is_of_map} {functions:?}");
    }
}

#[test]
fn a_node_that_tells_that_it_does_not_lead_is_not_the_leader() {
    for (told, leads) in [(None, true), (Some(true), true), (Some(false), false)] {
        let mut overview = well();
        let leader = overview.leader.as_mut().expect("one");
        leader.leads = told;
        assert_eq!(leader.does_not_lead(), !leads, "{told:?}");
        let is_told = problems(&overview).iter().any(|it| it.problem == "leader_does_not_lead");
        assert_eq!(is_told, !leads, "{told:?}");
        assert_eq!(overview.leading().is_some(), leads, "{told:?}");
    }
    let mut overview = well();
    overview.leader.as_mut().expect("one").node_id = "ghost".to_owned();
    assert_eq!(overview.leading(), None);
    overview.may_hide = Some("node:read on \"\"".to_owned());
    assert!(overview.leading().is_some(), "it may be hidden");
}
