//! Every recipe in one lab: three servers of Consul with TLS and ACLs, five nodes as examples/systemd has them, a gateway and a
//! Prometheus with the rules of docs/monitoring, each in a network namespace with an address of its own. The namespaces end with
//! that of this process, which must be its own already: scripts/soak.sh makes it.

use super::hosts::Unit;
use super::{PATIENCE, Place, World, units_with_servers};
use crate::support::consul;
use crate::support::pages::{blocks, read};
use crate::support::recipes::RECIPES;
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

/// Makes the hosts and their names; each has a wire to a bridge, on which this process is 10.77.0.1.
const NETWORK: &str = r#"
mount -t tmpfs tmpfs /run/netns 2>/dev/null || { mkdir -p /run/netns; mount -t tmpfs tmpfs /run/netns; }
ip link set lo up
ip link add lab type bridge
ip address add 10.77.0.1/24 dev lab
ip link set lab up
names=$(mktemp)
{ echo "127.0.0.1 localhost"
  for name in $HOSTS; do echo "${name#*=} ${name%=*}"; done
} >"$names"
for name in $HOSTS; do
    host=${name%=*}
    ip netns add "$host"
    ip link add "to-$host" type veth peer name eth0 netns "$host"
    ip link set "to-$host" master lab up
    ip -n "$host" link set lo up
    ip -n "$host" address add "${name#*=}/24" dev eth0
    ip -n "$host" link set eth0 up
done
mount --bind "$names" /etc/hosts
rm "$names"
"#;

const HOSTS: &str = "c1=10.77.0.101 c2=10.77.0.102 c3=10.77.0.103 n1=10.77.0.11 n2=10.77.0.12 n3=10.77.0.13 \
    n4=10.77.0.14 n5=10.77.0.15 n6=10.77.0.16 gateway=10.77.0.21 operator=10.77.0.22 monitor=10.77.0.31";

const PLACE: Place = Place {
    within: (IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1)), "ip netns exec $HOST"),
    nodes: &["n1", "n2", "n3", "n5", "n6"],
    token: "6f1d3a52-8c7e-4b19-9d64-2f0a7b1c3e58",
    is_lab: true,
};

const PROMETHEUS: &str = "10.77.0.31:9090";

/// The recipes during which something is broken, with the alerts that may fire meanwhile.
const OUTAGES: &[(&str, &str)] = &[
    (
        "A lost quorum of Consul",
        // The leader's session ends if it was made through a server that is lost.
        "ClusterHasNoLeader ClusterLeaderSuspended ClusterNodesOutOfTouch ConsulCallsFail ConsulWatchFails LockLost",
    ),
    ("Going back to a backup of the records", "ClusterIsGone"),
];

/// Runs every recipe, one after the other, in one world.
pub fn run() {
    let made = Command::new("bash").args(["-eu", "-c", NETWORK]).env("HOSTS", HOSTS).status();
    assert!(made.is_ok_and(|it| it.success()), "the namespaces of the hosts");
    let world = start();
    let mut fired = BTreeSet::new();
    for (name, _) in RECIPES {
        let before = expiries().into_iter().map(|(_, ends)| ends).fold(0.0, f64::max);
        world.run_recipe(name);
        world.has_refused_nothing(name);
        let count = world.acknowledged();
        let _ = writeln!(std::io::stdout(), "{name}: {count} writes, none refused");
        are_ready(&world, name);
        let allowed = OUTAGES.iter().find(|(outage, _)| outage == name).map_or("", |it| it.1);
        for alert in alerts().difference(&fired.clone()) {
            assert!(allowed.split(' ').any(|it| it == alert), "{name}: {alert} fires");
            fired.insert(alert.clone());
        }
        if *name == "Rotating the nodes' certificates and their CA" {
            are_renewed(&world, before);
        }
    }
    panels_have_answers();
}

fn start() -> World {
    let program = consul::binary("1.21").expect("it is there");
    let mut units = units_with_servers();
    let arguments = [
        "prometheus",
        "--config.file=ROOT/monitor/prometheus.yml",
        "--storage.tsdb.path=ROOT/monitor/var/lib/tsdb",
        "--web.listen-address=10.77.0.31:9090",
        "--log.level=warn",
    ];
    let command = arguments.map(str::to_owned).into();
    units.push(("monitor", "prometheus", Unit { command, notifies: false }));
    let endpoints = ["https://c1:8501", "https://c2:8501", "https://c3:8501"];
    let ports = "8501 8501 8501 8300 8300 8300 8301 8301 8301";
    let mut world = World::new(units, &program, &endpoints, ports, PLACE);
    world.rpc = "10.77.0.101:8300".to_owned();
    world.start_servers();
    world.make_token();
    world.begin();
    if is_watched() {
        world.hosts.write("monitor", "prometheus.yml", &scrapes(world.nodes));
        world.hosts.control("monitor", "start", "prometheus");
        let end = Instant::now() + PATIENCE;
        while TcpStream::connect(PROMETHEUS).is_err() {
            assert!(Instant::now() < end, "Prometheus\n{}", world.hosts.logs());
            std::thread::sleep(Duration::from_millis(100));
        }
    } else {
        consul::say_skipped("the alert rules in the lab", "there is no Prometheus");
    }
    world
}

/// Whether the machine has a Prometheus.
fn is_watched() -> bool {
    Command::new("prometheus").arg("--version").output().is_ok()
}

/// The configuration of Prometheus on the page, for these nodes.
fn scrapes(nodes: &[&str]) -> String {
    let block = blocks(&read("docs/monitoring.md")).into_iter().map(|(_, text)| text);
    let block = block.into_iter().find(|text| text.contains("scrape_configs")).expect("a block");
    let (before, rest) = block.split_once('[').expect("targets");
    let (_, after) = rest.split_once(']').expect("their end");
    let targets: Vec<String> =
        nodes.iter().map(|node| format!("\"{}:9100\"", address(node))).collect();
    let rules = format!("{}/docs/monitoring/alerts.yml", crate::support::root());
    let text = format!("{before}[{}]{after}", targets.join(", ")).replace("alerts.yml", &rules);
    format!("global: {{ scrape_interval: 5s, evaluation_interval: 5s }}\n{text}\n")
}

fn address(host: &str) -> &'static str {
    let hosts = HOSTS.split_whitespace().filter_map(|it| it.split_once('='));
    hosts.into_iter().find(|(name, _)| *name == host).expect("a host").1
}

/// Every node is ready, and one leads, as their status servers say.
fn are_ready(world: &World, recipe: &str) {
    let status = |node: &str, path| get(&format!("{}:9100", address(node)), path).0;
    for node in world.nodes {
        assert_eq!(status(node, "/ready"), 200, "{recipe}: {node}");
    }
    let leaders = world.nodes.iter().filter(|node| status(node, "/leader") == 200);
    assert_eq!(leaders.count(), 1, "{recipe}: the leader");
}

/// The alerts that have fired since the start.
fn alerts() -> BTreeSet<String> {
    let query = "max by (alertname) (max_over_time(ALERTS{alertstate=\"firing\"}[3h]))";
    let found = asked(query).into_iter();
    found.map(|(metric, _)| metric["alertname"].as_str().unwrap_or_default().to_owned()).collect()
}

/// When the certificates of the nodes end.
fn expiries() -> Vec<(String, f64)> {
    let found = asked("consul_ffi_data_plane_certificate_expiry_timestamp_seconds").into_iter();
    found
        .map(|(metric, value)| (metric["node"].as_str().unwrap_or_default().to_owned(), value))
        .collect()
}

/// Every node has a certificate that ends later, without a restart.
fn are_renewed(world: &World, before: f64) {
    let end = Instant::now() + PATIENCE;
    while is_watched() {
        let ends = expiries();
        let is_renewed = |node| ends.iter().any(|(id, ends)| id == node && *ends > before);
        if world.nodes.iter().all(is_renewed) {
            break;
        }
        assert!(Instant::now() < end, "not after {before}: {ends:?}");
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Prometheus takes the query of every panel.
fn panels_have_answers() {
    let dashboard: Value =
        serde_json::from_str(&read("docs/monitoring/dashboard.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().into_iter().flatten();
    for target in panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten()) {
        let query = target["expr"].as_str().expect("a query");
        let query = query.replace("$__rate_interval", "1m").replace("$__range", "1h");
        asked(&query.replace("$job", ".*").replace("$instance", ".*"));
    }
}

/// The series of a query with their values; none without a Prometheus.
fn asked(query: &str) -> Vec<(Value, f64)> {
    if !is_watched() {
        return Vec::new();
    }
    let query: String = query.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let (status, body) = get(PROMETHEUS, &format!("/api/v1/query?query={query}"));
    assert_eq!(status, 200, "{body}");
    let answer: Value = serde_json::from_str(&body).expect("JSON");
    let series = answer["data"]["result"].as_array().into_iter().flatten();
    let value = |it: &Value| it["value"][1].as_str().and_then(|text| text.parse().ok());
    series.filter_map(|it| Some((it["metric"].clone(), value(it)?))).collect()
}

/// The status and the body of an answer.
fn get(address: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let status = answer.split(' ').nth(1).and_then(|it| it.parse().ok()).unwrap_or_default();
    (status, answer.split_once("\r\n\r\n").map_or("", |it| it.1).to_owned())
}
