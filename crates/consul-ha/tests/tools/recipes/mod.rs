//! The recipes of docs/operating.md run here as the page has them, on live nodes, while a gateway writes.

mod hosts;
mod lab;

use crate::support::PATIENCE;
use crate::support::consul::{self, RealConsul};
use crate::support::recipes::{RECIPES, Recipe, Setting, compare, recipes};
use hosts::{Hosts, Unit};
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Between the outputs of two steps.
const NEXT: char = '\u{1e}';

const NODES: &[&str] = &["n1", "n2", "n3"];

const SERVERS: [&str; 3] = ["c1", "c2", "c3"];

/// The policy of the nodes, as docs/production.md explains it.
const POLICY: &str = r#"
key_prefix "tsdb/" { policy = "write" }
service "tsdb-nodes" { policy = "write" }
session_prefix "" { policy = "write" }
node_prefix "" { policy = "read" }
"#;

struct World {
    hosts: Hosts,
    environment: Vec<(String, String)>,
    preamble: String,
    recipes: Vec<Recipe>,
    /// The address of the first server for other servers.
    rpc: String,
    nodes: &'static [&'static str],
}

/// Where the hosts of a world are.
#[derive(Clone, Copy)]
struct Place {
    /// The address at which they reach this process, and the words before a program that runs on `$HOST`.
    within: (IpAddr, &'static str),
    nodes: &'static [&'static str],
    token: &'static str,
    is_lab: bool,
}

/// All hosts are this machine.
const HERE: Place = Place {
    within: (IpAddr::V4(Ipv4Addr::LOCALHOST), ""),
    nodes: NODES,
    token: "none",
    is_lab: false,
};

/// The service of a node.
fn node() -> Unit {
    Unit::of_file("examples/systemd/node.service")
}

/// The service of the gateway.
fn gateway() -> Unit {
    let program = "crates/consul-ha/tests/tools/recipes/gateway.lua";
    let command = ["luajit", program, "ROOT/gateway/etc/tsdb", "ROOT/gateway/acknowledged"];
    Unit { command: command.map(str::to_owned).into(), notifies: false }
}

fn units() -> Vec<(&'static str, &'static str, Unit)> {
    let nodes = ["n1", "n2", "n3", "n4", "n5", "n6"].map(|host| (host, "tsdb-node", node()));
    nodes.into_iter().chain([("gateway", "tsdb-gateway", gateway())]).collect()
}

/// The services on hosts with servers of Consul.
fn units_with_servers() -> Vec<(&'static str, &'static str, Unit)> {
    let server = |host| {
        let folder = format!("-config-dir=ROOT/{host}/etc/consul.d");
        let command = vec!["ROOT/bin/consul".to_owned(), "agent".to_owned(), folder];
        (host, "consul", Unit { command, notifies: false })
    };
    units().into_iter().chain(SERVERS.map(server)).collect()
}

fn programs(consul: &Path) -> [(&'static str, PathBuf); 2] {
    [("consul", consul.to_owned()), ("consul-ha", env!("CARGO_BIN_EXE_consul-ha").into())]
}

impl World {
    /// Starts three nodes and the gateway on a Consul with ACLs.
    fn on(consul: &RealConsul, program: &Path) -> World {
        let world = World::new(units(), program, &[&consul.address], "", HERE);
        world.hosts.write("operator", "operator-token", &consul.token);
        world.make_token();
        world.begin();
        world
    }

    /// Makes the token of the nodes.
    fn make_token(&self) {
        self.hosts.write("operator", "policy.hcl", POLICY);
        self.do_it(
            "consul acl policy create -name=tsdb-node -rules=@policy.hcl >policy
            consul acl token create -policy-name=tsdb-node | awk '$1 == \"SecretID:\" { print $2 }' \
                >config/all/consul-token",
        );
    }

    /// Starts three servers of Consul, to which all connections are encrypted, then nodes and gateway.
    fn on_servers(program: &Path) -> World {
        let ports: Vec<u16> = (0..9).map(|_| free_port()).collect();
        let (https, rest) = ports.split_at(3);
        let https: Vec<String> =
            https.iter().map(|port| format!("https://127.0.0.1:{port}")).collect();
        let https: Vec<&str> = https.iter().map(String::as_str).collect();
        let ports = ports.iter().map(u16::to_string).collect::<Vec<_>>().join(" ");
        let mut world = World::new(units_with_servers(), program, &https, &ports, HERE);
        world.rpc = format!("127.0.0.1:{}", rest[0]);
        world.start_servers();
        world.begin();
        world
    }

    fn start_servers(&self) {
        for server in SERVERS {
            self.hosts.control(server, "start", "consul");
        }
        self.do_it("until consul operator raft list-peers >peers 2>&1 && grep -q leader peers; do sleep 0.2; done");
    }

    /// The hosts of nodes, gateway and operator, none of them with a running program.
    fn new(
        units: Vec<(&str, &str, Unit)>,
        program: &Path,
        endpoints: &[&str],
        ports: &str,
        place: Place,
    ) -> World {
        let programs = programs(program);
        let programs = programs.each_ref().map(|(name, path)| (*name, path.as_path()));
        let hosts = Hosts::new(units, &programs, place.within);
        let (preamble, recipes) = recipes();
        let preamble = preamble.replace("10.0.0.11:8500", endpoints[0]);
        let nodes = format!("nodes=\"{}\"", place.nodes.join(" "));
        let preamble = preamble.replace("nodes=\"n1 n2 n3\"", &nodes);
        let lab = if place.is_lab { "1" } else { "" };
        let environment = [("ENDPOINTS", &*endpoints.join(" ")), ("PORTS", ports), ("LAB", lab)];
        let environment = environment.map(|(name, it)| (name.to_owned(), it.to_owned())).into();
        let world =
            World { hosts, environment, preamble, recipes, rpc: String::new(), nodes: place.nodes };
        world.hosts.write("operator", "operator-token", place.token);
        world.do_it(include_str!("setup.sh"));
        world
    }

    /// Starts three nodes, and the gateway when they have their shards.
    fn begin(&self) {
        self.do_it("push_all");
        for node in self.nodes {
            self.hosts.control(node, "start", "tsdb-node");
        }
        self.do_it("consul-ha why --wait --limit 60");
        self.hosts.control("gateway", "start", "tsdb-gateway");
        self.wait_for_writes(20);
    }

    /// Runs commands of the test as the operator, up to the first that fails.
    #[track_caller]
    fn do_it(&self, commands: &str) -> String {
        self.type_it(&format!("set -euo pipefail\n{commands}"))
    }

    /// Runs commands as in an operator's shell, which goes on after a command that fails.
    #[track_caller]
    fn type_it(&self, commands: &str) -> String {
        let script = format!("{}\n{commands}", self.preamble);
        let output = self.hosts.run(&script, &self.environment);
        let [out, err] = [&output.stdout, &output.stderr].map(|it| String::from_utf8_lossy(it));
        assert!(output.status.success(), "{commands}\n{out}\n{err}\n{}", self.hosts.logs());
        out.into_owned()
    }

    /// Runs the recipes of a setting, in the order of the list.
    fn run(&self, setting: Setting) {
        for (name, _) in RECIPES.iter().filter(|(_, of)| *of == setting) {
            self.run_recipe(name);
        }
    }

    fn run_recipe(&self, name: &str) {
        let recipe = self.recipes.iter().find(|it| it.name == name);
        let recipe = recipe.unwrap_or_else(|| panic!("the page has no recipe {name:?}"));
        self.before(name);
        self.follow(recipe);
        self.after(name);
    }

    /// Runs the commands of a recipe, and compares what they print with the page.
    fn follow(&self, recipe: &Recipe) {
        let steps = recipe.steps.iter();
        let steps: Vec<String> = steps.map(|step| self.with_addresses(&step.commands)).collect();
        let printed = self.type_it(&steps.join(&format!("\nprintf '{NEXT}'\n")));
        let printed: Vec<&str> = printed.split(NEXT).collect();
        assert_eq!(printed.len(), recipe.steps.len(), "{}", recipe.name);
        for (step, printed) in recipe.steps.iter().zip(printed) {
            if let Some(shown) = &step.prints {
                let outcome = compare(&self.of_three(shown), &self.of_three(printed));
                outcome.unwrap_or_else(|why| panic!("{}: {}\n{why}", recipe.name, step.commands));
            }
        }
    }

    /// The output for three nodes: without the lines of further ones, and each line once that is printed for each host.
    fn of_three(&self, output: &str) -> String {
        if self.nodes.len() == NODES.len() {
            return output.to_owned();
        }
        let is_of_further =
            |line: &&str| self.nodes[NODES.len()..].iter().any(|node| line.starts_with(node));
        let mut lines: Vec<&str> = output.lines().filter(|line| !is_of_further(line)).collect();
        lines.dedup();
        lines.join("\n")
    }

    fn with_addresses(&self, commands: &str) -> String {
        commands.replace("10.0.0.11:8300", &self.rpc)
    }

    /// The events before an operator needs the recipe.
    fn before(&self, recipe: &str) {
        match recipe {
            "Replacing a dead node" => {
                // The page has what is printed while another node leads.
                self.do_it("consul-ha leader | grep -qv '^n3 ' || consul-ha hand-over n2");
                self.kill_a_node();
                self.do_it("rm -r $ROOT/n3/etc/tsdb/* $ROOT/n3/var/lib/tsdb/*");
            }
            "Backup" => _ = self.do_it("cp $ROOT/gateway/acknowledged before-backup"),
            "Going back to a backup of the records" => {
                self.hosts.control("gateway", "stop", "tsdb-gateway");
                self.do_it("cp before-backup $ROOT/gateway/acknowledged");
            }
            "A lost quorum of Consul" => {
                for server in &SERVERS[1..] {
                    self.hosts.control(server, "kill", "consul");
                    self.do_it(&format!("rm -r $ROOT/{server}/var/lib/consul/*"));
                }
            }
            _ => {}
        }
    }

    /// Kills a node, which is noticed.
    fn kill_a_node(&self) {
        self.hosts.control("n3", "kill", "tsdb-node");
        self.do_it("until { consul-ha why || true; } | grep -q 'n3 .*down'; do sleep 0.2; done");
    }

    /// Requires that nothing that was acknowledged is lost, and that the gateway still writes.
    fn after(&self, recipe: &str) {
        if ["Rolling restart", "Making the replicas of a node again"].contains(&recipe) {
            self.has_refused_nothing(recipe);
        }
        if recipe == "Rotating the tokens" {
            self.kill_a_node();
            self.hosts.control("n3", "start", "tsdb-node");
            self.do_it("consul-ha why --wait --limit 60");
        }
        self.wait_for_writes(self.acknowledged() + 20);
        self.do_it(
            "cd $CHECKOUT && LUA_PATH='./?.lua;./lua/?.lua;;' LUA_CPATH='./target/lua/luajit/?.so;;' \
                luajit crates/consul-ha/tests/tools/recipes/gateway.lua $ROOT/gateway/etc/tsdb $ROOT/gateway/acknowledged check",
        );
    }

    #[track_caller]
    fn has_refused_nothing(&self, recipe: &str) {
        let log = self.hosts.path("gateway", "acknowledged");
        let log = std::fs::read_to_string(log).unwrap();
        let refused = log.lines().find(|line| line.starts_with("refused "));
        assert_eq!(refused, None, "{recipe}: a write has failed\n{}", self.hosts.logs());
    }

    /// How many writes were acknowledged.
    fn acknowledged(&self) -> usize {
        let log = self.hosts.path("gateway", "acknowledged");
        let log = std::fs::read_to_string(log).unwrap_or_default();
        log.lines().filter(|line| !line.starts_with("refused ")).count()
    }

    fn wait_for_writes(&self, count: usize) {
        let end = Instant::now() + PATIENCE;
        while self.acknowledged() < count {
            assert!(Instant::now() < end, "the gateway writes nothing\n{}", self.hosts.logs());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// The recipes of nodes in this setting, on this Consul.
pub fn of_nodes(setting: Setting, version: &str) {
    let program = consul::binary("1.21").expect("it is there");
    let consul = RealConsul::start_with_acl(version, "deny").expect("it is there");
    World::on(&consul, &program).run(setting);
}

/// The recipes for nodes and three servers of Consul.
pub fn of_servers() {
    let program = consul::binary("1.21").expect("it is there");
    World::on_servers(&program).run(Setting::Servers);
}

pub use lab::run as of_lab;

/// A port that nothing listens on, below those that the system takes for outgoing connections.
fn free_port() -> u16 {
    let mut ports = std::iter::repeat_with(|| fastrand::u16(10_000..32_000));
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    ports.find(is_free).expect("a port is free")
}
