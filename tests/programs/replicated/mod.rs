//! Replicated shards in processes: nodes stop, die, stall, are cut off, lose their disks, join and leave under load, and
//! every acknowledged record is there, through each node and on the disks.
//!
//! `LONG=1` repeats each scenario, with more nodes, on both Consuls.

use crate::support::consul::{self, RealConsul};
use crate::support::islands;
use crate::support::pages::{blocks, read};
use crate::support::program;
use crate::support::trials::Trials;
use libtest_mimic::Failed;
use std::process::{Command, Output};

/// The scenarios of `scenarios.lua`, and what each shows.
const SCENARIOS: &[(&str, &str)] = &[
    ("churn", "nodes_stop_and_die_at_random_and_nothing_is_lost"),
    ("lost_disk", "a_node_comes_back_without_its_disk_and_nothing_is_lost"),
    ("leaves", "a_node_leaves_and_another_joins_and_no_write_fails"),
    ("stops", "half_of_the_nodes_stop_at_once_and_nothing_is_lost"),
    ("rolling", "a_rolling_restart_fails_no_write"),
    ("returns", "killed_nodes_come_back_and_nothing_is_lost"),
    ("stalls", "a_node_that_stalls_stops_no_writes"),
    ("cuts_from_peers", "a_node_that_is_cut_off_from_its_peers_stops_no_writes"),
    ("cuts_from_consul", "a_node_that_is_cut_off_from_consul_stops_no_writes"),
    ("kills_in_moves", "a_node_that_dies_in_any_step_of_a_move_loses_nothing"),
    ("numbers", "nodes_die_while_an_operator_changes_n_and_w_and_nothing_is_lost"),
];

/// Those in a network namespace, whose nodes have one each.
const ON_ISLANDS: &[&str] = &["cuts_from_peers", "cuts_from_consul"];

/// Those that run on a real Consul also in short runs.
const ON_REAL: &[&str] = &["lost_disk", "stops"];

/// How often long runs repeat what short ones do once.
const LONG_FACTOR: &str = "8";

pub fn trials() -> Trials {
    let mut trials = Trials::of(module_path!());
    let no_islands = islands::are_missing();
    let has_no_islands = no_islands.inspect(|why| consul::say_skipped("cuts", why)).is_some();
    let is_long = std::env::var_os("LONG").is_some();
    for target in [consul::SIM, "1.21"] {
        let missing = consul::is_missing(target, &format!("replicated shards on Consul {target}"));
        for (scenario, name) in SCENARIOS {
            let missing = missing || ON_ISLANDS.contains(scenario) && has_no_islands;
            if is_long || target == consul::SIM || ON_REAL.contains(scenario) {
                let factor = if is_long { LONG_FACTOR } else { "1" };
                trials.add_unless(missing, format!("{name} [{target}]"), move || {
                    nothing_is_lost(target, scenario, factor)
                });
            }
        }
    }
    let missing = consul::is_missing(consul::SIM, "the checks of replicated shards");
    let name = "writes_that_a_storage_forgets_are_noticed";
    trials.add_unless(missing, name, writes_that_a_storage_forgets_are_noticed);
    let name = "the_storage_of_the_page_survives_kills_on_three_processes";
    trials.add_unless(missing, name, the_storage_of_the_page_survives_kills_on_three_processes);
    trials
}

/// Runs a Lua program with a fresh Consul on loopback; the code `at_start` runs first, in each of its processes.
fn run(target: &str, arguments: &[&str], at_start: &str) -> Result<Output, Failed> {
    let consul = RealConsul::start(target)?;
    let mut command = Command::new("luajit");
    command.args(arguments).env("LUA_INIT", at_start).env("CONSUL_HTTP_ADDR", &consul.address);
    command.env("OPERATOR", program::built("consul-ha"));
    Ok(in_checkout(&mut command).output()?)
}

/// The same in a network namespace, with a Consul on all of its addresses.
fn run_on_islands(target: &str, arguments: &[&str]) -> Result<Output, Failed> {
    let script =
        consul::script(target, &["--config", "tests/programs/replicated/all_addresses.hcl"])?;
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", "ip link set lo up && exec \"$@\"", "sh"]);
    command.arg(script.get_program()).args(script.get_args()).arg("luajit").args(arguments);
    command.env("CLUSTER_KEY", "the secret of the nodes");
    for (name, value) in script.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    Ok(in_checkout(&mut command).output()?)
}

fn in_checkout(command: &mut Command) -> &mut Command {
    let command = command.env("LUA_PATH", "./lua/?.lua;;");
    let command = command.env("LUA_CPATH", "./target/lua/luajit/?.so;;");
    command.current_dir(env!("CARGO_MANIFEST_DIR"))
}

fn nothing_is_lost(target: &str, scenario: &str, factor: &str) -> Result<(), Failed> {
    let arguments = ["tests/programs/replicated/scenarios.lua", scenario, factor];
    let output = match scenario {
        _ if ON_ISLANDS.contains(&scenario) => run_on_islands(target, &arguments)?,
        "kills_in_moves" => run(target, &arguments, "@tests/programs/replicated/mortal.lua")?,
        _ => run(target, &arguments, "")?,
    };
    if output.status.success() { Ok(()) } else { program::failed(scenario, &output) }
}

fn writes_that_a_storage_forgets_are_noticed() -> Result<(), Failed> {
    let forgetful = "local storage = require('examples.tsdb.storage') local apply = storage.apply \
        function storage.apply(...) return math.random() < 0.3 or apply(...) end";
    let output =
        run(consul::SIM, &["tests/programs/replicated/scenarios.lua", "returns", "1"], forgetful)?;
    if !output.status.success() && program::errors(&output).contains("acknowledged points are lost")
    {
        return Ok(());
    }
    program::failed("nothing was noticed", &output)
}

/// The two programs of the page, a storage and a node that uses it.
fn the_storage_of_the_page_survives_kills_on_three_processes() -> Result<(), Failed> {
    let page = read("docs/data.md");
    let programs = blocks(&page).into_iter().filter(|(language, _)| language == "lua");
    let programs: Vec<String> = programs.map(|(_, program)| program).collect();
    let find = |part: &str| {
        let found = programs.iter().find(|program| program.contains(part));
        found.ok_or_else(|| Failed::from(format!("no program of the page has {part:?}")))
    };
    let storage = find("function change.apply")?;
    let node = find("require(\"storage\")")?;
    let output =
        run(consul::SIM, &["tests/programs/replicated/page_storage.lua", storage, node], "")?;
    if output.status.success() { Ok(()) } else { program::failed("the page's programs", &output) }
}
