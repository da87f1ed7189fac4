//! The old programs: each runs by its make target on the simulated agent and on real Consuls,
//! leaves nothing, and fails if anything that it shows is wrong.

use crate::support::consul;
use crate::support::outside;
use crate::support::program::{self, errors, failed, make, text};
use crate::support::trials::Trials;
use libtest_mimic::Failed;
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

/// Code that breaks something before a program starts, and the program's message then. `client` and
/// `cluster` are the classes.
const WRONG: &[(&str, &str, &str)] = &[
    (
        "consul-simulation-demo",
        "function client.kv_get() return true, '{\"symbol\":\"MSFT\"}' end",
        "the stored symbol differs",
    ),
    (
        "consul-simulation-demo",
        "function client.kv_delete() return true, true end",
        "the key still exists",
    ),
    (
        "consul-simulation-demo",
        "function client.destroy_session() return true, true end",
        "the session still exists",
    ),
    (
        "consul-simulation-demo",
        "function cluster.get_node_count() return 0 end",
        "the node is not alone or not the leader",
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
        "function cluster.get_node_for_key(node, key) \
         local second = node:get_replica_nodes(key, 2)[2] return second.id, second end",
        ": its first replica is not its owner",
    ),
    (
        "test-consul-integration",
        "function cluster.get_replica_nodes() return { { id = 'a', address = 'a' } } end",
        " is not on two nodes",
    ),
    (
        "test-consul-cluster",
        "function cluster.is_leader_node() return true end",
        " has a wrong is_leader_node()",
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
        " differs",
    ),
    (
        "consul-production-example",
        "local replicate = cluster.replicate \
         function cluster.replicate(...) \
             local store = replicate(...) \
             local function write() \
                 return false, 'nobody answers', { kind = 'timeout', message = 'nobody answers' } \
             end \
             return { write = write, status = function(_, ...) return store:status(...) end } \
         end",
        "stored in Consul, but ",
    ),
    (
        "test-tsdb-cluster",
        "function module.ConsistentHashRing.remove_node() return true end",
        " is on a removed node",
    ),
    (
        "test-tsdb-cluster",
        "local storage = require('examples.tsdb.storage') function storage.apply() return true end",
        "points are lost or duplicate",
    ),
    (
        "test-tsdb-cluster",
        "local storage = require('examples.tsdb.storage') local scan = storage.scan \
         function storage.scan(...) \
           local page = scan(...) \
           table.remove(page) \
           return page \
         end",
        "points are lost or duplicate",
    ),
    ("debug-consul-ffi", "function client.kv_lost() end", "not called: kv_lost"),
    ("debug-consul-ffi", "function client.kv_get() return true, 'v' end", "the value differs"),
    (
        "debug-consul-ffi",
        "function client.status_peers() return false, 'm: why (from x)', { kind = 'http' } end",
        "status_peers failed",
    ),
    (
        "ha-cluster-example",
        "client:new({ simulate = true }):kv_put('tsdb/cluster/nodes/other', '{}')",
        "another cluster uses the default prefix",
    ),
    (
        "ha-cluster-example",
        "function cluster.get_node_for_key() return 'node-2', { address = '127.0.0.1:9090' } end",
        "the key is on another node",
    ),
];

pub fn trials() -> Trials {
    let mut trials = Trials::of(module_path!());
    for program in PROGRAMS {
        for lua in ["luajit", "lua5.1", "lua5.4"] {
            let name = format!("it_runs [{program} {lua} simulated]");
            trials.add(name, || it_runs(program, lua));
        }
        let name = format!("without_a_consul_a_program_fails [{program}]");
        trials.add(name, || without_a_consul_a_program_fails(program));
    }
    for version in ["1.21", "1.8"] {
        let missing = consul::is_missing(version, &format!("the programs on Consul {version}"));
        for program in PROGRAMS {
            let name = format!("a_program_succeeds_and_leaves_nothing [{program} {version}]");
            trials.add_unless(missing, name, || {
                a_program_succeeds_and_leaves_nothing(program, version)
            });
        }
    }
    let missing = consul::is_missing("1.21", "every call on Consul 1.21 with access control");
    let name = "the_tour_of_all_methods_runs_with_acls [1.21]";
    trials.add_unless(missing, name, the_tour_of_all_methods_runs_with_acls);
    for (program, wrong, said) in WRONG {
        let name = format!("a_program_fails_when_something_is_wrong [{program}: {said}]");
        trials.add(name, || a_program_fails_when_something_is_wrong(program, wrong, said));
    }
    trials
}

fn it_runs(program: &str, lua: &str) -> Result<(), Failed> {
    let output = make(program).arg(format!("LUA={lua}")).output()?;
    if output.status.success() && text(&output).ends_with("\nLeft behind: nothing\n") {
        return Ok(());
    }
    failed("it failed", &output)
}

fn a_program_succeeds_and_leaves_nothing(program: &str, version: &str) -> Result<(), Failed> {
    program::leaves_nothing(version, &format!("make --no-print-directory {program} QUICK="), "")
}

fn the_tour_of_all_methods_runs_with_acls() -> Result<(), Failed> {
    let mut command = Command::new("scripts/with-consul.sh");
    command.args([
        "--acl",
        "deny",
        "1.21",
        "make",
        "--no-print-directory",
        "debug-consul-ffi",
        "QUICK=",
    ]);
    let output =
        outside::outside_cargo(&mut command).current_dir(env!("CARGO_MANIFEST_DIR")).output()?;
    let text = text(&output);
    let calls: Vec<_> = text.lines().filter(|line| line.starts_with("  acl_token_")).collect();
    if output.status.success() && calls.len() == 8 && !calls.join("").contains("unsupported") {
        return Ok(());
    }
    failed("not all methods were called", &output)
}

/// Nothing listens on this port.
fn without_a_consul_a_program_fails(program: &str) -> Result<(), Failed> {
    let output = make(program).env("CONSUL_HTTP_ADDR", "127.0.0.1:1").output()?;
    if !output.status.success() && errors(&output).contains(" failed: ") {
        return Ok(());
    }
    failed("it did not fail with the expected message", &output)
}

fn a_program_fails_when_something_is_wrong(
    program: &str,
    wrong: &str,
    said: &str,
) -> Result<(), Failed> {
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
