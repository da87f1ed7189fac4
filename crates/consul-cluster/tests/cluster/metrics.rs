//! The numbers of nodes as Prometheus reads them, while the leader is killed.

use crate::nodes::{Process, leaders};
use crate::support::prometheus::{check_text, parse_text};
use crate::support::world::World;
use consul_cluster::Options;
use consul_process::metrics::{Format, text};
use consul_sim::Fault;
use std::collections::BTreeMap;
use std::time::Duration;

/// The samples of a text that both programs of Prometheus take.
fn samples() -> BTreeMap<String, f64> {
    let prometheus = text(Format::Prometheus);
    check_text(&prometheus);
    parse_text("prometheus", &prometheus);
    parse_text("openmetrics", &text(Format::OpenMetrics));
    let lines = prometheus.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, number) = line.rsplit_once(' ').expect("a sample");
            (name.to_owned(), number.parse().expect("a number"))
        })
        .collect()
}

fn options(id: &str) -> Options {
    Options {
        nodes_prefix: "metrics/nodes/".to_owned(),
        leader_key: "metrics/leader".to_owned(),
        shards_prefix: "metrics/shards/".to_owned(),
        config_key: "metrics/config".to_owned(),
        replicas: 3,
        ..Options::new(id, "10.0.0.1:9000")
    }
}

fn of_node(samples: &BTreeMap<String, f64>, metric: &str, node: &str, more: &str) -> Option<f64> {
    let name = format!("consul_ffi_{metric}{{cluster=\"metrics/nodes/\",node=\"{node}\"{more}}}");
    samples.get(&name).copied()
}

/// Fails if a counter of these samples has gone back, or is not there any more.
fn assert_grown(before: &BTreeMap<String, f64>, after: &BTreeMap<String, f64>) {
    let is_counter = |name: &str| {
        ["_total", "_count", "_bucket"]
            .iter()
            .any(|end| name.split('{').next().is_some_and(|name| name.ends_with(end)))
    };
    let counters: Vec<_> = before.iter().filter(|(name, _)| is_counter(name)).collect();
    assert!(counters.len() > 20, "{counters:?}");
    for (name, count) in counters {
        let now = after.get(name);
        assert!(now.is_some_and(|now| now >= count), "{name} was {count} and is {now:?}");
    }
}

#[test]
#[ignore = "computes long: make test-all"]
fn prometheus_reads_the_numbers_before_during_and_after_a_failover() {
    let world = World::new();
    let nodes: Vec<Process> = ["m1", "m2", "m3"].map(|id| world.start(options(id))).into();
    world.wait(Duration::from_secs(10));
    let before = samples();
    let leader = leaders(&nodes)[0].cluster.options().node_id.clone();
    for id in ["m1", "m2", "m3"] {
        let leads = f64::from(*id == leader);
        assert_eq!(of_node(&before, "cluster_node_state", id, ",state=\"leader\""), Some(leads));
        assert_eq!(of_node(&before, "cluster_nodes", id, ",state=\"up\""), Some(3.0));
        assert_eq!(of_node(&before, "cluster_has_leader", id, ""), Some(1.0));
        assert_eq!(of_node(&before, "cluster_in_touch", id, ""), Some(1.0));
    }
    let of_all = |role: &str| -> f64 {
        let role = format!(",role=\"{role}\"");
        ["m1", "m2", "m3"]
            .iter()
            .filter_map(|id| of_node(&before, "cluster_own_shards", id, &role))
            .sum()
    };
    assert_eq!((of_all("primary"), of_all("replica")), (1024.0, 2048.0));

    let killed = nodes.iter().find(|node| node.cluster.options().node_id == leader);
    world.kill(killed.expect("the leader"));
    world.wait(Duration::from_secs(2));
    let during = samples();
    assert_grown(&before, &during);
    assert_eq!(of_node(&during, "cluster_map_epoch", &leader, ""), None, "it has ended");

    world.wait(Duration::from_secs(60));
    let after = samples();
    assert_grown(&during, &after);
    let others: Vec<_> = ["m1", "m2", "m3"].into_iter().filter(|id| **id != leader).collect();
    let leading = others
        .iter()
        .filter_map(|id| of_node(&after, "cluster_node_state", id, ",state=\"leader\""));
    assert_eq!(leading.sum::<f64>(), 1.0);
    for id in others {
        assert_eq!(of_node(&after, "cluster_nodes", id, ",state=\"down\""), Some(1.0));
    }
    for (name, least) in [
        ("consul_ffi_cluster_elections_won_total{cluster=\"metrics/nodes/\"}", 1.0),
        ("consul_ffi_cluster_leader_changes_total{cluster=\"metrics/nodes/\"}", 2.0),
        ("consul_ffi_watch_updates_total{endpoint=\"health_service\"}", 1.0),
    ] {
        assert!(after[name] - before[name] >= least, "{name}");
    }
}

/// In two datacenters, or in two Lua states: what is wrong with one of them is shown, and nothing is added.
#[test]
fn two_nodes_of_one_name_in_a_process_hide_nothing_of_each_other() {
    let worlds = [World::new(), World::new()];
    let start = |world: &World| {
        world.start(Options {
            nodes_prefix: "namesakes/nodes/".to_owned(),
            shards_prefix: "namesakes/shards/".to_owned(),
            leader_key: "namesakes/leader".to_owned(),
            ..options("n1")
        })
    };
    let _nodes = worlds.each_ref().map(start);
    worlds.iter().for_each(|world| world.wait(Duration::from_secs(5)));
    let own = |line: &str| line.contains("cluster=\"namesakes/nodes/\"");
    let numbers = || -> Vec<(String, f64)> {
        let text = text(Format::Prometheus);
        let lines = text.lines().filter(|line| own(line)).filter_map(|it| it.rsplit_once(' '));
        let bare = |name: &str| name.replace("cluster=\"namesakes/nodes/\",node=\"n1\"", "");
        lines.map(|(name, at)| (bare(name), at.parse().expect("a number"))).collect()
    };
    let of = |name: &str| {
        let name = format!("consul_ffi_cluster_{name}");
        let found = numbers().into_iter().find(|(it, _)| *it == name);
        found.unwrap_or_else(|| panic!("{name}: {:?}", numbers())).1
    };
    let one =
        ["in_touch{}", "has_leader{}", "nodes{,state=\"up\"}", "node_state{,state=\"leader\"}"];
    assert_eq!(one.map(of), [1.0; 4]);
    assert!(of("clock_seconds{}") < 3e9, "the time of day");
    let both = [of("map_epoch{}"), of("own_shards{,role=\"primary\"}")];
    worlds[0].agent.add_fault(Fault { partition: true, ..Fault::default() });
    worlds[0].wait(Duration::from_secs(60));
    assert_eq!(one[..2].iter().map(|it| of(it)).collect::<Vec<_>>(), [0.0, 0.0]);
    assert_eq!([of("map_epoch{}"), of("own_shards{,role=\"primary\"}")], both);
}

#[test]
fn a_frozen_map_is_a_number_until_it_is_thawed() {
    let world = World::new();
    let start = |id: &str| {
        world.start(Options {
            nodes_prefix: "frozen/nodes/".to_owned(),
            shards_prefix: "frozen/shards/".to_owned(),
            ..options(id)
        })
    };
    let nodes = ["n1", "n2", "n3", "n4"].map(start);
    world.wait(Duration::from_secs(5));
    let frozen = |id: &str| {
        let name = format!("consul_ffi_cluster_frozen{{cluster=\"frozen/nodes/\",node=\"{id}\"}} ");
        let text = text(Format::Prometheus);
        text.lines().find_map(|line| line.strip_prefix(&name)).map(str::to_owned)
    };
    assert_eq!(frozen("n1").as_deref(), Some("0"));
    nodes[2..].iter().for_each(|node| world.kill(node));
    world.wait(Duration::from_secs(30));
    assert_eq!(nodes[0].cluster.snapshot().frozen, ["n3", "n4"]);
    assert_eq!(["n1", "n2"].map(frozen), [Some("1".to_owned()), Some("1".to_owned())]);
    world.run(nodes[0].cluster.thaw()).expect("an order");
    world.wait(Duration::from_secs(30));
    assert_eq!(frozen("n1").as_deref(), Some("0"));
}
