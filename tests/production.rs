//! The manager `consul_production_config` on servers that a program cannot ask for: one that shows what
//! arrives, and ones with ACLs.

#[allow(dead_code)] // what other tests need of it
#[path = "support/cluster.rs"]
mod cluster;
#[allow(dead_code)] // what other tests need of it
#[path = "support/consul.rs"]
mod consul;

use cluster::Cluster;
use consul::{RealConsul, say_skipped};
use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Reads keys that are called after what is asked for.
const READS: &str = r#"
local production = require("consul_production_config")

local function manager(options)
  local manager = production.new()
  manager.config.consul.servers = { os.getenv("ADDRESS") }
  manager.config.cluster.node_id = "reader"
  for section, values in pairs(options) do
    for name, value in pairs(values) do
      manager.config[section][name] = value
    end
  end
  manager:init()
  return manager
end

local one = manager({})
one:read_data("nothing")
for _, mode in ipairs({ "stale", "consistent", "default" }) do
  one:read_data(mode, { consistency = mode })
end
one:cleanup()

one = manager({ storage = { kv_consistency = "stale" } })
one:read_data("kv_consistency")
one:read_data("kv_consistency-default", { consistency = "default" })
one:cleanup()

one = manager({ cluster = { consistency_mode = "consistent" } })
one:read_data("consistency_mode")
one:read_data("consistency_mode-default", { consistency = "default" })
one:get_healthy_client():kv_get("client")
one:cleanup()
"#;

/// A manager with a token whose policy is in RULES, below prefixes of the documentation; fails when
/// something is refused.
const PERMITTED: &str = r#"
local admin = require("consul_ffi").new()
local name = "manager-" .. os.time() .. "-" .. os.getenv("ROUND")
assert(admin:acl_policy_create({ name = name, rules = os.getenv("RULES") }))
local _, token = assert(admin:acl_token_create({ policies = { { name = name } } }))
assert(admin:kv_put("config/cluster/min_nodes", "1"))

local manager = require("consul_production_config").new()
manager.config.consul.acl_token = token.SecretID
manager.config.cluster.node_id = name
manager.config.cluster.election_timeout = 2
manager.config.sources.kv_prefix = "config/"
manager.config.security.enable_acl = true
manager:init()
assert(manager:store_data("key", { a = 1 }))
assert(manager:read_data("key").a == 1)
local health = manager:monitor_health()
assert(health.is_healthy, table.concat(health.issues, "; "))
assert(manager:get_cluster_info().is_leader)
assert(manager.config.cluster.min_nodes == 1)
-- The key's change must be seen, too.
assert(admin:kv_put("config/cluster/min_nodes", "2"))
local limit = os.time() + 5
repeat
  manager:poll()
until manager.config.cluster.min_nodes == 2 or os.time() > limit
assert(manager.config.cluster.min_nodes == 2)
manager:cleanup()
"#;

/// A manager, configured by its environment, that looks when it is told to, by a line, and says in a line
/// how it is.
const TOLD: &str = r#"
local manager = require("consul_production_config").new()
manager.config.cluster.write_timeout = 2
manager:init()

local function look()
  local success, _, err = manager:store_data("key", 1)
  local info = manager:get_cluster_info()
  return ("%s %d %s"):format(success and "stored" or err.kind, info.node_count, info.leader_node)
end

print(look())
io.stdout:flush()
for _ in io.lines() do
  print(look())
  io.stdout:flush()
end
"#;

/// How soon after Consul's return a manager is whole again.
const BACK: Duration = Duration::from_secs(10);

fn luajit(program: &str) -> Command {
    let mut luajit = Command::new("luajit");
    luajit
        .args(["-e", program])
        .env("LUA_PATH", "./lua/?.lua;;")
        .env("LUA_CPATH", "./target/lua/luajit/?.so;;")
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    luajit
}

fn lua(program: &str, environment: &[(&str, &str)]) -> Output {
    luajit(program).envs(environment.iter().copied()).output().expect("luajit runs")
}

/// A manager in a process of its own, which is blocked until it is told to look.
struct Told {
    process: Child,
    input: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Told {
    fn new(address: &str) -> Told {
        let mut process = luajit(TOLD)
            .envs([("CONSUL_HTTP_ADDR", address), ("NODE_ID", "told")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("luajit runs");
        let lines = BufReader::new(process.stdout.take().expect("it is piped")).lines();
        let input = process.stdin.take();
        let mut told = Told { process, input, lines };
        assert_eq!(told.said(), "stored 1 told");
        told
    }

    fn said(&mut self) -> String {
        self.lines.next().expect("it has not ended").expect("text")
    }

    fn look(&mut self) -> String {
        let mut input = self.input.as_ref().expect("it is open");
        input.write_all(b"look\n").expect("it has not ended");
        self.said()
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.process.wait();
    }
}

/// What clients sent over each connection.
type Sent = Arc<Mutex<Vec<Vec<u8>>>>;

/// Passes everything on to a server; gives its own address and what it saw.
fn listening_in(server: String) -> (String, Sent) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it is bound").to_string();
    let sent = Sent::default();
    let seen = Arc::clone(&sent);
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(upstream) = TcpStream::connect(&server) else { return };
            let (Ok(from), Ok(to)) = (client.try_clone(), upstream.try_clone()) else { return };
            let number = {
                let mut seen = seen.lock().expect("no panic");
                seen.push(Vec::new());
                seen.len() - 1
            };
            let seen = Arc::clone(&seen);
            thread::spawn(move || {
                pass(from, to, |bytes| seen.lock().expect("no panic")[number].extend(bytes));
            });
            thread::spawn(move || pass(upstream, client, |_| {}));
        }
    });
    (address, sent)
}

fn pass(mut from: TcpStream, mut to: TcpStream, saw: impl Fn(&[u8])) {
    let mut buffer = [0; 8192];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        saw(&buffer[..count]);
        if to.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Write);
}

#[test]
fn the_consistency_that_is_asked_for_is_on_the_wire() {
    let consul = RealConsul::start_program(env!("CARGO_BIN_EXE_consul-sim")).expect("it runs");
    let (address, sent) = listening_in(consul.address.clone());
    let output = lua(READS, &[("ADDRESS", &address)]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let sent = sent.lock().expect("no panic");
    let lines: Vec<_> = sent
        .iter()
        .flat_map(|bytes| {
            String::from_utf8_lossy(bytes).lines().map(str::to_owned).collect::<Vec<_>>()
        })
        .filter_map(|line| {
            Some(line.strip_prefix("GET /v1/kv/")?.strip_suffix(" HTTP/1.1")?.to_owned())
        })
        .collect();
    for (key, query) in [
        ("nothing", ""),
        ("stale", "?stale"),
        ("consistent", "?consistent"),
        ("default", ""),
        ("kv_consistency", "?stale"),
        ("kv_consistency-default", ""),
        ("consistency_mode", "?consistent"),
        ("consistency_mode-default", ""),
    ] {
        let wanted = format!("stock-tsdb/{key}{query}");
        assert!(lines.contains(&wanted), "{wanted} is not among {lines:?}");
    }
    assert!(lines.contains(&"client?consistent".to_owned()), "{lines:?}");
}

/// The lines of the documentation's policy.
fn rules() -> Vec<String> {
    let page = include_str!("../docs/production.md");
    let section = page.split("\n## The least policy\n").nth(1).expect("the section");
    let block = section.split("```hcl\n").nth(1).expect("a policy").split("```").next();
    block.expect("its end").lines().map(str::to_owned).collect()
}

/// Whether a manager works with these rules; else what it says.
fn works(consul: &RealConsul, rules: &[String], round: usize) -> Result<(), String> {
    let output = lua(
        PERMITTED,
        &[
            ("CONSUL_HTTP_ADDR", &consul.address),
            ("CONSUL_HTTP_TOKEN", &consul.token),
            ("RULES", &rules.join("\n")),
            ("ROUND", &round.to_string()),
        ],
    );
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(said) }
}

#[test]
fn the_policy_of_the_documentation_is_enough_and_the_least() {
    let rules = rules();
    assert!(rules.len() >= 6, "{rules:?}");
    let simulated = RealConsul::start_program_with_acl(env!("CARGO_BIN_EXE_consul-sim"), "deny")
        .expect("it runs");
    works(&simulated, &rules, 0).expect("enough on the simulated agent");
    for left_out in 0..rules.len() {
        let mut fewer = rules.clone();
        let rule = fewer.remove(left_out);
        assert!(works(&simulated, &fewer, left_out + 1).is_err(), "{rule} is not needed");
    }
    for version in ["1.21", "1.8"] {
        match RealConsul::start_with_acl(version, "deny") {
            Ok(consul) => works(&consul, &rules, 0).expect(version),
            Err(why) => say_skipped("the least policy on a real Consul", &why),
        }
    }
}

/// Consul goes, and comes back; meanwhile the manager's program is blocked, but for what `away` does.
fn comes_back(
    consul: &mut Cluster,
    told: &mut Told,
    what: &str,
    away: impl FnOnce(&mut Cluster, &mut Told),
) {
    consul.kill(0);
    away(consul, told);
    consul.restart(0);
    consul.wait_for_leader();
    thread::sleep(BACK);
    assert_eq!(told.look(), "stored 1 told", "{what}");
}

fn lives_through_outages(version: &str) {
    let mut consul = match Cluster::start(1, version) {
        Ok(consul) => consul,
        Err(why) => return say_skipped("a manager while a real Consul is away", &why),
    };
    let mut told = Told::new(&consul.address(0));
    comes_back(&mut consul, &mut told, "restarted", |_, _| {});
    comes_back(&mut consul, &mut told, "wiped", |consul, _| consul.wipe(0));
    comes_back(&mut consul, &mut told, "away", |_, told| {
        // A short form of minutes; until then the program is told of the failure at once, by its kind.
        thread::sleep(Duration::from_secs(20));
        let begun = Instant::now();
        assert_eq!(told.look(), "connect 1 none");
        // Three pauses between attempts, of 0.35 s at most together, on a machine that is busy.
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    });
}

#[test]
fn a_manager_is_whole_again_after_outages_of_consul_1_21() {
    lives_through_outages("1.21");
}

#[test]
fn a_manager_is_whole_again_after_outages_of_consul_1_8() {
    lives_through_outages("1.8");
}
