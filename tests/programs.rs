//! The old programs: each runs by its make target on the simulated agent and on real Consuls, leaves
//! nothing, and fails when something that it shows is wrong.

#[allow(dead_code)]
#[path = "support/consul.rs"]
mod consul;
#[path = "support/outside.rs"]
mod outside;
#[allow(dead_code)]
#[path = "support/program.rs"]
mod program;

use libtest_mimic::{Arguments, Failed, Trial};
use program::{errors, failed, make, text};
use std::process::Command;

const PROGRAMS: &[&str] = &[
    "consul-simulation-demo",
    "test-consul-integration",
    "test-consul-cluster",
    "consul-production-example",
    "test-tsdb-cluster",
    "debug-consul-ffi",
    "ha-cluster-example",
];

/// What makes a program's world wrong, before it begins, and what the program then says. `client` and
/// `cluster` are the classes.
const WRONG: &[(&str, &str, &str)] = &[
    (
        "consul-simulation-demo",
        "function client.kv_get() return true, '{\"symbol\":\"MSFT\"}' end",
        "another symbol was stored",
    ),
    (
        "consul-simulation-demo",
        "function client.kv_delete() return true, true end",
        "the key is still there",
    ),
    (
        "consul-simulation-demo",
        "function client.destroy_session() return true, true end",
        "the session is still there",
    ),
    (
        "consul-simulation-demo",
        "function cluster.get_node_count() return 0 end",
        "the node is not alone, or does not lead",
    ),
    (
        "consul-simulation-demo",
        "function client.kv_delete_tree() return true, true end",
        "left behind: consul_ffi-demo-",
    ),
    (
        "test-consul-integration",
        "function cluster.is_leader_node() return true end",
        "3 nodes lead",
    ),
    (
        "test-consul-integration",
        "function cluster.get_node_for_key(node) return node.node_id, node.cluster_nodes[node.node_id] end",
        " has another first node",
    ),
    (
        "test-consul-integration",
        "function cluster.get_replica_nodes() return { { id = 'a', address = 'a' } } end",
        " is not on two nodes",
    ),
    (
        "test-consul-cluster",
        "function cluster.is_leader_node() return true end",
        " is wrong about its leadership",
    ),
    ("test-consul-cluster", "function cluster.token() return 7 end", "the token has not grown"),
    (
        "test-consul-cluster",
        "function cluster.get_node_for_key(node) return node.node_id end",
        "cluster:get_node_for_key(",
    ),
    (
        "consul-production-example",
        "local put = client.kv_put \
         function client.kv_put(c, key, value, o) return put(c, key, { symbol = 'X' }, o) end",
        " is another one",
    ),
    (
        "consul-production-example",
        "function cluster.broadcast() return false, 'nobody answers' end",
        "stored in Consul, but ",
    ),
    (
        "test-tsdb-cluster",
        "function module.ConsistentHashRing.remove_node() return true end",
        " is on a node that was removed",
    ),
    (
        "test-tsdb-cluster",
        "local store = require('examples.tsdb.store') function store.write() return true end",
        "points are lost or doubled",
    ),
    (
        "test-tsdb-cluster",
        "local call = cluster.call function cluster.call(...) \
           local success, rows = call(...) \
           if type(rows) == 'table' then table.remove(rows) end \
           return success, rows \
         end",
        "points are lost or doubled",
    ),
    ("debug-consul-ffi", "function client.kv_lost() end", "not called: kv_lost"),
    (
        "debug-consul-ffi",
        "function client.kv_get() return true, 'v' end",
        "another value came back",
    ),
    (
        "debug-consul-ffi",
        "function client.status_peers() return false, 'm: why (from x)', { kind = 'http' } end",
        "status_peers failed",
    ),
    (
        "ha-cluster-example",
        "client:new({ simulate = true }):kv_put('tsdb/cluster/nodes/other', '{}')",
        "a cluster is there already",
    ),
    (
        "ha-cluster-example",
        "function cluster.get_node_for_key() return 'node-2', { address = '127.0.0.1:9090' } end",
        "the key is on another node",
    ),
];

fn main() {
    let mut trials = Vec::new();
    for program in PROGRAMS {
        for lua in ["luajit", "lua5.1", "lua5.4"] {
            let name = format!("it_runs [{program} {lua} simulated]");
            trials.push(Trial::test(name, move || it_runs(program, lua)));
        }
        let name = format!("without_a_consul_it_fails [{program}]");
        trials.push(Trial::test(name, move || without_a_consul_it_fails(program)));
    }
    for version in ["1.21", "1.8"] {
        let missing = consul::is_missing(version, &format!("the programs on Consul {version}"));
        for program in PROGRAMS {
            let name = format!("it_runs_and_leaves_nothing [{program} {version}]");
            let trial = Trial::test(name, move || it_runs_and_leaves_nothing(program, version));
            trials.push(trial.with_ignored_flag(missing));
        }
    }
    let missing = consul::is_missing("1.21", "every call on Consul 1.21 with access control");
    let trial = Trial::test("access_control_is_called_too [1.21]", access_control_is_called_too);
    trials.push(trial.with_ignored_flag(missing));
    for (program, wrong, said) in WRONG {
        let name = format!("it_fails_when_something_is_wrong [{program}: {said}]");
        trials.push(Trial::test(name, move || {
            it_fails_when_something_is_wrong(program, wrong, said)
        }));
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

fn it_runs(program: &str, lua: &str) -> Result<(), Failed> {
    let output = make(program).arg(format!("LUA={lua}")).output()?;
    if output.status.success() && text(&output).ends_with("\nLeft behind: nothing\n") {
        return Ok(());
    }
    failed("it failed", &output)
}

fn it_runs_and_leaves_nothing(program: &str, version: &str) -> Result<(), Failed> {
    program::leaves_nothing(version, &format!("make --no-print-directory {program}"), "")
}

fn access_control_is_called_too() -> Result<(), Failed> {
    let mut command = Command::new("scripts/with-consul.sh");
    command.args(["--acl", "deny", "1.21", "make", "--no-print-directory", "debug-consul-ffi"]);
    let output =
        outside::outside_cargo(&mut command).current_dir(env!("CARGO_MANIFEST_DIR")).output()?;
    let text = text(&output);
    let calls: Vec<_> = text.lines().filter(|line| line.starts_with("  acl_token_")).collect();
    if output.status.success() && calls.len() == 8 && !calls.join("").contains("unsupported") {
        return Ok(());
    }
    failed("not all was called", &output)
}

/// Nothing listens on this port.
fn without_a_consul_it_fails(program: &str) -> Result<(), Failed> {
    let output = make(program).env("CONSUL_HTTP_ADDR", "127.0.0.1:1").output()?;
    if !output.status.success() && errors(&output).contains(" failed: ") {
        return Ok(());
    }
    failed("it did not fail as such", &output)
}

fn it_fails_when_something_is_wrong(program: &str, wrong: &str, said: &str) -> Result<(), Failed> {
    let first = format!(
        "local module = require('consul_ffi') \
         local client, cluster = module.ConsulClient, module.ConsulHACluster {wrong}"
    );
    let output = make(program).env("LUA_INIT", first).output()?;
    if !output.status.success() && errors(&output).contains(said) {
        return Ok(());
    }
    failed("it did not notice", &output)
}
